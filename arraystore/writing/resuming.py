"""Whether an unfinished store may be gone on with: of the same plan, and still there."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import FormatError, SourceChangedError, StorageError, escaped
from arraystore.writing.journal import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from arraystore._typing import Checksums
    from arraystore.indexing.layout import Block
    from arraystore.writing.fill import FilePlaces
    from arraystore.writing.journal import Plan

SOURCE: Final = "source"
"""The part of a plan that describes files; a change in it is a `SourceChangedError`."""

IMAGES: Final = "plan"
"""The part of a plan that describes images; a change in it is a `SourceChangedError`, too."""

_SAMPLE: Final = 4
"""Blocks that are compared with a source of which nothing seems to have changed."""

_ANEW: Final = "give overwrite=True (--overwrite) without resume to start again"
_ABSENT: Final = "nothing"
_FEW: Final = 3


def check_plan(where: Path | str, then: Plan, now: Plan) -> None:
    """Refuse a plan that is not the one that an unfinished store was made after.

    Parameters
    ----------
    where : Path or str
        The work folder, or the claim in a bucket, for the message.
    then, now : mapping of str to mapping of str to str
        What the bytes of the store depend on, by part and name.

    Raises
    ------
    SourceChangedError
        If files of the source have changed, or images in them.
    ValueError
        If something else has; the message names all of it.

    Examples
    --------
    >>> then, now = ({"option": {"seed": seed, "order": "shuffled"}} for seed in "01")
    >>> check_plan(Path(".a.h5.partial"), then, now)
    Traceback (most recent call last):
    ...
    ValueError: .a.h5.partial: cannot be resumed, because option seed was 0 and is 1 now; go back
    to what it was, or give overwrite=True (--overwrite) without resume to start again
    """
    for part in {**then, **now}:
        if part == IDENTITY:
            continue
        was, is_now = then.get(part, {}), now.get(part, {})
        changed = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name)]
        if not changed:
            continue
        told = "; ".join(
            f"{part} {name} was {was.get(name, _ABSENT)} and is {is_now.get(name, _ABSENT)} now"
            for name in changed[:_FEW]
        )
        if part == IMAGES:
            told = f"sizes, places or headers of images have changed ({', '.join(changed)})"
        more = f"; {len(changed) - _FEW} more" if len(changed) > _FEW else ""
        raise (SourceChangedError if part in (SOURCE, IMAGES) else ValueError)(
            escaped(
                f"{where}: cannot be resumed, because {told}{more}; go back to what it was, or "
                f"{_ANEW}"
            )
        )


def check_known(where: Path | str, then: Plan, known: Plan) -> None:
    """Do as `check_plan` with the parts of a plan that are known as yet."""
    check_plan(where, {part: then.get(part, {}) for part in known}, known)


def doubted(
    recorded: Mapping[Block, Checksums], *, is_touched: bool
) -> tuple[dict[Block, Checksums], list[Block]]:
    """Decide which recorded blocks count, and which of them are compared with the source.

    Parameters
    ----------
    recorded : mapping of Block to ndarray of uint32
        The blocks of one split, in order, and the checksums of the images that begin in each.
    is_touched : bool
        Whether status change times or inodes of the source have changed. Then all blocks are
        compared, else a few. An image that begins in a block that is not recorded has no
        checksum; then a block that holds the rest of it does not count.

    Returns
    -------
    dict of Block to ndarray of uint32
        The blocks that need not be filled again.
    list of Block
        Those of them to compare.

    Examples
    --------
    >>> from arraystore.indexing.layout import Block
    >>> first, second = Block(0, 10, 0, 2, 0), Block(10, 20, 1, 3, 5)
    >>> sums = np.zeros(1, np.uint32)
    >>> doubted({second: sums}, is_touched=True)
    ({}, [])
    >>> doubted({first: sums, second: sums}, is_touched=True)[1] == [first, second]
    True
    """
    if not is_touched:
        every = max(1, -(-len(recorded) // _SAMPLE))
        return dict(recorded), list(recorded)[::every]
    kept: dict[Block, Checksums] = {}
    stop = 0
    for block, checksums in recorded.items():
        if not block.skip or block.start == stop:
            kept[block] = checksums
            stop = block.stop
    return kept, list(kept)


def check_recorded(where: str, found: Checksums, recorded: Checksums) -> None:
    """Refuse a block whose images are no longer those of the source.

    Parameters
    ----------
    where : str
        Where the first image of the block comes from, for the message.
    found, recorded : ndarray of uint32
        Checksums of the same images, of the source as it is, and as it was.

    Raises
    ------
    SourceChangedError
        If they differ.
    """
    if n := int(np.count_nonzero(found != recorded)):
        raise SourceChangedError(
            f"{where}: {n:,} of the {len(found):,} images from here on have other bytes than when "
            f"they were copied; cannot be resumed; {_ANEW}"
        )


def how_to_go_on(kept: str, error: BaseException) -> str:
    """Say what can be done with an unfinished store, after the error that stopped it.

    Examples
    --------
    >>> how_to_go_on("what was sent is kept", ValueError())
    'what was sent is kept; resume=True (--resume) goes on from there'
    """
    condition = ", if it still matches the source" if isinstance(error, SourceChangedError) else ""
    return f"{kept}; resume=True (--resume) goes on from there{condition}"


@contextmanager
def relying_on_a_store() -> Iterator[None]:
    """Tell what is wrong with an unfinished store as a `StorageError` with the way out."""
    try:
        yield
    except (FormatError, FileNotFoundError) as error:
        raise StorageError(
            f"{error}; it was changed since the conversion was stopped; {_ANEW}"
        ) from error


def check_places(places: FilePlaces) -> None:
    """Refuse to rely on a block whose files have become shorter, with a `FormatError`."""
    for name, start, nbytes in places.places:
        found = Path(name).stat().st_size
        if found < start + nbytes:
            raise FormatError(f"{name}: must have {start + nbytes:,} bytes or more, got {found:,}")
