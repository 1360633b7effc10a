"""Whether an unfinished store may be gone on with: of the same plan, and still there."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.errors import FormatError, SourceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.fill import FilePlaces
    from arraystore.journal import Plan

SOURCE: Final = "source"
"""The part of a plan that tells of files; a change in it is a `SourceError`."""

_ANEW: Final = "give overwrite=True (--overwrite) without resume to start anew"
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
    SourceError
        If files of the source have changed.
    ValueError
        If something else has; the message names all of it.

    Examples
    --------
    >>> then, now = ({"option": {"seed": seed, "order": "shuffled"}} for seed in "01")
    >>> check_plan(Path(".a.h5.partial"), then, now)
    Traceback (most recent call last):
    ...
    ValueError: .a.h5.partial: cannot be resumed, because option seed was 0 and is 1 now; go back
    to what it was, or give overwrite=True (--overwrite) without resume to start anew
    """
    for part in {**then, **now}:
        was, is_now = then.get(part, {}), now.get(part, {})
        changed = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name)]
        if not changed:
            continue
        told = "; ".join(
            f"{part} {name} was {was.get(name, _ABSENT)} and is {is_now.get(name, _ABSENT)} now"
            for name in changed[:_FEW]
        )
        more = f"; {len(changed) - _FEW} more" if len(changed) > _FEW else ""
        raise (SourceError if part == SOURCE else ValueError)(
            f"{where}: cannot be resumed, because {told}{more}; go back to what it was, or {_ANEW}"
        )


def check_known(where: Path | str, then: Plan, known: Plan) -> None:
    """Do as `check_plan` with the parts of a plan that are known as yet."""
    check_plan(where, {part: then.get(part, {}) for part in known}, known)


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
