"""Back to how a store was laid out, whatever was written to it since, but for its payloads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.containers import open_local
from arraystore.errors import FormatError
from arraystore.storage.folder_trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_PIECE_NBYTES: Final = 2**20


def lay_out_again(store: Path, skeleton: Path, payloads: Collection[str]) -> None:
    """Give a store all the bytes of a skeleton that was laid out alike, and keep its payloads.

    A process may be killed here, and another begin anew.

    Parameters
    ----------
    store : Path
        What was laid out once, and perhaps sealed in part.
    skeleton : Path
        Laid out anew, without space for payloads. It is used up.
    payloads : collection of str
        Paths of the payloads.

    Raises
    ------
    FormatError
        If the store is shorter than it was when it was laid out.
    """
    if skeleton.is_dir():
        _replace_files(store, skeleton, [store / path / "c" for path in payloads])
    else:
        _replace_gaps(store, skeleton, payloads)


def _replace_files(store: Path, skeleton: Path, kept: list[Path]) -> None:
    for path in sorted(store.rglob("*"), reverse=True):
        if any(path == one or one in path.parents for one in kept):
            continue
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif not any(path in one.parents for one in kept):
            path.rmdir()
    for path in sorted(skeleton.rglob("*")):
        place = store / path.relative_to(skeleton)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)
    remove_tree(skeleton)


def _replace_gaps(store: Path, skeleton: Path, payloads: Collection[str]) -> None:
    nbytes, found = skeleton.stat().st_size, store.stat().st_size
    if found < nbytes:
        raise FormatError(f"{store}: must have {nbytes:,} bytes or more, got {found:,}")
    with skeleton.open("rb") as source, store.open("r+b") as target:
        for start, stop in _gaps(skeleton, payloads):
            source.seek(start)
            target.seek(start)
            for at in range(start, stop, _PIECE_NBYTES):
                target.write(source.read(min(_PIECE_NBYTES, stop - at)))
    os.truncate(store, nbytes)
    skeleton.unlink()


def _gaps(skeleton: Path, payloads: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the bytes ``[start, stop)`` that lie between payloads."""
    _, container = open_local(skeleton)
    held = []
    for path in payloads:
        manifest = container.manifest(path)
        pieces = manifest.locate(np.array([0]), np.array([manifest.nbytes]))
        held += list(zip(pieces.start.tolist(), pieces.nbytes.tolist(), strict=True))
    at = 0
    for start, nbytes in sorted(held):
        yield at, start
        at = start + nbytes
    yield at, skeleton.stat().st_size
