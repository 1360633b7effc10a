"""The fingerprint of a conversion: all that the bytes of a store depend on, as text.

A resumed conversion compares it with the one in the journal, to report what has changed.
"""

from __future__ import annotations

import hashlib
from array import array
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.schema import FORMAT_VERSION, __version__
from arraystore.storage.file_states import common_folder
from arraystore.writing.journal import IDENTITY, IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore.sources.sample_table import Source
    from arraystore.storage.file_states import FileStates
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.plan import SplitPlan

_MAX_FILES: Final = 1000
"""Above this many source files, the fingerprint has one entry per folder."""


def of_options(options: Mapping[str, object]) -> Fingerprint:
    """Return the parts that are known before the source is read: options and versions.

    Parameters
    ----------
    options : mapping of str to object
        Options of the conversion.
    """
    return {
        "option": {name: str(value) for name, value in options.items()},
        "version": {
            "arraystore": __version__,
            "format": ".".join(map(str, FORMAT_VERSION)),
        },
    }


def of_source(source: Source) -> Fingerprint:
    """Return the parts that are known before images are probed: sizes, times, inodes of files."""
    totals = {f"{name} (total)": f"{nbytes:,} bytes" for name, nbytes in source.origins}
    named = {"name": source.name, "config": source.config, "version": source.version}
    files = source.states.first(len(source.files))
    content = {"of images from Python": source.content} if source.content else {}
    return {
        "data set": named,
        "source": _files(files) | totals | content,
        IDENTITY: {"source files": _digest([files.values[:, 3:].tobytes()])},
    }


def of_images(
    source: Source, plans: Mapping[str, SplitPlan], spool: Path, *, start: int = 0
) -> Fingerprint:
    """Return the part that is known when all images are probed: digests of samples and classes.

    Parameters
    ----------
    source : Source
    plans : mapping of str to SplitPlan
        The plan of each split.
    spool : Path
        File of the re-encoded images.
    start : int, default 0
        Offset of the first of them. Images before it are known by their origin.
    """
    return {
        IMAGES: {name: _plan_digest(plan) for name, plan in plans.items()}
        | {
            "classes": _digest([source.label_name, source.label_words]),
            "re-encoded images": _file_digest(spool, start),
        },
    }


def _files(states: FileStates) -> dict[str, str]:
    """Describe size and time of each file, or of all files in each folder if they are many."""
    if not states:
        return {}
    root = f"{common_folder(states.paths)}/"
    names = (name.removeprefix(root) for name in states.paths)
    if len(states) <= _MAX_FILES:
        return {
            name: f"{state.nbytes:,} bytes of {state.date}"
            for name, state in zip(names, states, strict=True)
        }
    folders: dict[str, array[int]] = {}
    for i, name in enumerate(names):
        folders.setdefault(name.rpartition("/")[0] or ".", array("q")).append(i)
    return {
        folder: f"{len(rows):,} files, " + _files_digest(states, root, np.array(rows))
        for folder, rows in folders.items()
    }


def _files_digest(states: FileStates, root: str, rows: NDArray[np.int64]) -> str:
    names = (name.removeprefix(root) for name in states.paths.take(rows))
    return _digest(chain(names, [states.values[rows, :3].tobytes()]))


def _plan_digest(plan: SplitPlan) -> str:
    table = plan.table
    columns: list[NDArray[Any]] = [table.label, table.file, table.offset, table.nbytes]
    columns += [plan.height, plan.width, *plan.selections.values()]
    digests = (hashlib.sha256(column).hexdigest() for column in columns)
    rest = [plan.skipped, plan.reencoded, *plan.selections]
    names = hashlib.sha256(table.file_name.repacked().data).hexdigest()
    return _digest(chain([names], rest, digests))


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode() + b"\n")
    return f"sha256 {digest.hexdigest()}"


def _file_digest(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
