"""Decide whether an unfinished store can be resumed: same fingerprint, files still there."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import FormatError, SourceChangedError, StorageError, escaped
from arraystore.writing.journal import IDENTITY, IMAGES, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from arraystore._typing import Checksums
    from arraystore.indexing.layout import Block
    from arraystore.writing.fill import FilePlace
    from arraystore.writing.journal import Fingerprint

_SAMPLE: Final = 4
"""Blocks of a split that are compared with a source that seems unchanged."""

_START_AGAIN: Final = "pass overwrite=True (--overwrite) without resume to start again"
_ABSENT: Final = "absent"
_FEW: Final = 3


def check_fingerprint(location: Path | str, then: Fingerprint, now: Fingerprint) -> bool:
    """Compare the fingerprint of an existing store with that of this conversion.

    Parameters
    ----------
    location : Path or str
        The store, its workspace or its lock object, for the message.
    then, now : mapping of str to mapping of str to str
        What the bytes of the store depend on, by part and name.

    Returns
    -------
    bool
        Whether status change times or inodes of the source differ.

    Raises
    ------
    SourceChangedError
        If files of the source have changed, or images in them.
    ValueError
        If another part differs; the message names the first few differences.

    Examples
    --------
    >>> then, now = ({"option": {"seed": seed, "order": "shuffled"}} for seed in "01")
    >>> check_fingerprint(Path(".a.h5.partial"), then, now)
    Traceback (most recent call last):
    ...
    ValueError: .a.h5.partial: cannot resume: option seed is 1, but was 0; use the same option, or
    pass overwrite=True (--overwrite) without resume to start again
    """
    for part in {**then, **now}:
        if part == IDENTITY:
            continue
        was, is_now = then.get(part, {}), now.get(part, {})
        changed = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name)]
        if not changed:
            continue
        differences = "; ".join(
            f"{part} {name} is {is_now.get(name, _ABSENT)}, but was {was.get(name, _ABSENT)}"
            for name in changed[:_FEW]
        )
        if len(changed) > _FEW:
            differences += f"; {len(changed) - _FEW} more"
        if part == IMAGES:
            differences = f"sizes, places or headers of images have changed ({', '.join(changed)})"
        kind = SourceChangedError if part in (SOURCE, IMAGES) else ValueError
        same = SOURCE if part == IMAGES else part
        raise kind(
            escaped(
                f"{location}: cannot resume: {differences}; use the same {same}, or {_START_AGAIN}"
            )
        )
    return then.get(IDENTITY, {}) != now.get(IDENTITY, {})


def check_known(location: Path | str, then: Fingerprint, known: Fingerprint) -> None:
    """Compare as `check_fingerprint` does, but only the parts in `known`."""
    check_fingerprint(location, {part: then.get(part, {}) for part in known}, known)


def blocks_to_compare(
    recorded: Mapping[Block, Checksums], *, is_touched: bool
) -> tuple[dict[Block, Checksums], list[Block]]:
    """Choose the recorded blocks that need not be filled again, and those to compare.

    Parameters
    ----------
    recorded : mapping of Block to ndarray of uint32
        The blocks of one split, in order, and the checksums of the images that begin in each.
    is_touched : bool
        Whether status change times or inodes of the source have changed. If so, all blocks are
        compared, else a few. If a block continues an image that begins in a block without a
        record, that image has no checksum to compare; the block must be filled again.

    Returns
    -------
    dict of Block to ndarray of uint32
        The blocks that need not be filled again.
    list of Block
        The blocks of these to compare with the source.

    Examples
    --------
    >>> from arraystore.indexing.layout import Block
    >>> first, second = Block(0, 10, 0, 2, 0), Block(10, 20, 1, 3, 5)
    >>> sums = np.zeros(1, np.uint32)
    >>> blocks_to_compare({second: sums}, is_touched=True)
    ({}, [])
    >>> blocks_to_compare({first: sums, second: sums}, is_touched=True)[1] == [first, second]
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


def check_recorded(location: str, found: Checksums, recorded: Checksums) -> None:
    """Compare the images of a recorded block with those of the source.

    Parameters
    ----------
    location : str
        Where the first image of the block comes from, for the message.
    found, recorded : ndarray of uint32
        Checksums of the same images, from the source now and from the record.

    Raises
    ------
    SourceChangedError
        If they differ.
    """
    if n := int(np.count_nonzero(found != recorded)):
        raise SourceChangedError(
            f"{location}: cannot resume: {n:,} of the {len(found):,} images from here on have "
            f"other bytes than when they were copied; {_START_AGAIN}"
        )


def how_to_resume(kept: str, error: BaseException) -> str:
    """Return a note on an unfinished store, for the error that stopped its conversion.

    Examples
    --------
    >>> how_to_resume("the shards sent so far are kept", ValueError())
    'the shards sent so far are kept; pass resume=True (--resume) to continue'
    """
    condition = ", if it still matches the source" if isinstance(error, SourceChangedError) else ""
    return f"{kept}; pass resume=True (--resume) to continue{condition}"


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """Report damage to an unfinished store as a `StorageError` that names the remedy."""
    try:
        yield
    except (FormatError, FileNotFoundError) as error:
        raise StorageError(
            f"{error}; it was changed since the conversion was stopped; {_START_AGAIN}"
        ) from error


def check_files(place: FilePlace) -> None:
    """Raise `FormatError` if a file is too short for the parts of a block."""
    for name, offset, nbytes in place.parts:
        found = Path(name).stat().st_size
        if found < offset + nbytes:
            raise FormatError(f"{name}: must have {offset + nbytes:,} bytes or more, got {found:,}")
