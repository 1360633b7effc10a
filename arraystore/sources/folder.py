"""Read image files in folders: split/class/file, or class/file as one train split."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError, escaped
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.schema import check_split_name
from arraystore.sources.sample_table import SampleTable, Source, check_names, first_few
from arraystore.storage.file_states import FileState, FileStates, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIXES: Final = tuple(IMAGE_SUFFIXES)
_CLASS_DEPTH: Final = 2
_SPLIT_DEPTH: Final = 3
_SHAPES: Final = "split/class/file, or class/file as one train split"


def load(root: Path) -> Source:
    """List the images below a folder.

    Parameters
    ----------
    root : Path
        Holds split/class/file, or class/file, which becomes one train split. Any
        file with a suffix in `arraystore.images.decode.IMAGE_SUFFIXES` is an image. Hidden
        files are ignored; other files are left out and counted in the notes.

    Returns
    -------
    Source
        Files sorted by path; the classes of all splits in one list sorted by name, like those of
        torchvision's ``ImageFolder``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If `root` is not a folder.
    SourceError
        If images lie at other depths or at both, or if there are none.
    SourceChangedError
        If a folder changed while it was listed.
    """
    if not root.is_dir():
        kind = NotADirectoryError if root.exists() else FileNotFoundError
        raise kind(escaped(f"{root}: is not a folder; folder:PATH needs {_SHAPES}"))
    listed: list[tuple[str, FileState]] = []
    paths = sorted(_files(str(root), "", listed), key=lambda path: path.split("/"))
    found = [tuple(path.split("/")) for path in paths if _is_image(path)]
    others = [path for path in paths if not _is_image(path)]
    depths = {len(parts): "/".join(parts) for parts in reversed(found)}
    if not found:
        raise SourceError(f"{root}: contains no images; expected {_SHAPES}")
    if not depths.keys() <= {_CLASS_DEPTH, _SPLIT_DEPTH} or len(depths) > 1:
        counts = Counter(map(len, found))
        examples = " and ".join(
            f"{counts[depth]:,} as {example}" for depth, example in sorted(depths.items())
        )
        raise SourceError(f"{root}: expected {_SHAPES}, got {examples}")
    if _CLASS_DEPTH in depths:
        found = [("train", *parts) for parts in found]
        folders = {"train": root}
    else:
        folders = {name: root / name for name in sorted(_folders(root))}
    for name in folders:
        try:
            check_split_name(name)
        except ValueError as error:
            raise SourceError(f"{root}: {error}") from None
    classes = sorted({below for folder in folders.values() for below in _folders(folder)})
    # A file moved between two folders meanwhile would be missing, or listed twice.
    FileStates.known(listed).check()
    return _source(root, folders, classes, found, others)


def name_of(root: Path) -> str:
    """Return the name of the data set of a folder."""
    return root.resolve().name or "folder"


def _source(
    root: Path,
    splits: dict[str, Path],
    classes: list[str],
    found: list[tuple[str, ...]],
    others: list[str],
) -> Source:
    label = {name: k for k, name in enumerate(classes)}
    files: list[Path] = []
    states: list[FileStates] = []
    tables = {}
    for split, folder in splits.items():
        rows = [parts[1:] for parts in found if parts[0] == split]
        first = len(files)
        names = ["/".join(parts) for parts in rows]
        check_names(str(folder), names)
        files += [Path(f"{folder}/{name}") for name in names]
        states.append(FileStates.of([str(path) for path in files[first:]]))
        tables[split] = SampleTable(
            file_name=PackedNames(packed(names)),
            label=np.array([label[parts[0]] for parts in rows], dtype=np.int64),
            file=np.arange(first, len(files), dtype=np.int32),
            offset=np.zeros(len(rows), dtype=np.int64),
            nbytes=states[-1].values[:, 0].copy(),
        )
    all_states = FileStates(
        tuple(path for some in states for path in some.paths),
        np.concatenate([some.values for some in states]),
    )
    notes = (f"{first_few(others)} without the suffix of an image left out",) if others else ()
    return Source(
        name=name_of(root),
        config="",
        version="",
        description=f"Images of the folder {root.resolve().name}",
        homepage="",
        citation="",
        label_name=tuple(classes),
        label_words=tuple(classes),
        files=tuple(files),
        splits=tables,
        origins=((root.resolve().name, int(all_states.values[:, 0].sum())),),
        notes=notes,
        states=all_states,
    )


def _files(root: str, below: str, listed: list[tuple[str, FileState]]) -> Iterator[str]:
    """Yield the path below `root` of each file that is not hidden.

    The state of each folder before it is listed is added to `listed`.
    """
    depth = below.count("/")
    folder = f"{root}/{below}"
    listed.append((folder, state_of(folder)))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            _check_encodable(entry.path)
            # Links are not followed below class folders, so a cycle of links ends.
            if entry.is_dir(follow_symlinks=depth < _SPLIT_DEPTH):
                yield from _files(root, f"{below}{entry.name}/", listed)
            elif entry.is_file():
                yield f"{below}{entry.name}"
            elif _is_image(entry.name):
                raise SourceError(
                    f"{entry.path}: must be a file, but is a pipe, device or broken link"
                )


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."]


def _is_image(path: str) -> bool:
    return path.lower().endswith(_SUFFIXES)


def _check_encodable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{os.fsencode(path)!r}: file names must be UTF-8; rename it") from None
