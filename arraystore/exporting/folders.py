"""Folders of classes, with a file for each image, as ``ImageFolder`` of torchvision reads them."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from arraystore.errors import FormatError, brief
from arraystore.exporting.contents import Contents, ExportedSplit, bounds_by_nbytes, plain
from arraystore.exporting.shard_format import ShardFormat, Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from arraystore.exporting.contents import Group, Shard

UNLABELLED_FOLDER: Final = "unlabelled"
"""Folder of the images without a label."""

METADATA: Final = "metadata.jsonl"
"""File of the values of columns beside the folders of classes, a JSON object a line."""

_ROWS: Final = 512
_MAX_SHARD_SAMPLES: Final = 2**14
_MAX_PART_NBYTES: Final = 255
_MAX_PATH_NBYTES: Final = 3000
"""Limits for a part of a path, and for a path below the folder, that all file systems allow."""


class Folders(ShardFormat):
    """Paths are ``class/name``, or ``split/class/name`` if samples of several splits are joined.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    FormatError
        If a name leads out of the folder or is too long, or if two images have the same path, or
        one has the path of a folder of another.
    """

    takes_repeats: ClassVar[bool] = False

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        several = len(contents.splits) > 1
        self._prefix = {split.name: f"{split.name}/" * several for split in contents.splits}
        self._paths = {split.name: self._paths_of(split) for split in contents.splits}
        self._check([path for paths in self._paths.values() for path in paths])

    def _paths_of(self, split: ExportedSplit) -> list[str]:
        names, ids = split.names.tolist(), self.contents.label_names
        prefix, paths = self._prefix[split.name], []
        for name, label in zip(names, split.samples.label.tolist(), strict=True):
            folder = ids[label] if label >= 0 else UNLABELLED_FOLDER
            path = prefix + (name if name.startswith(f"{folder}/") else f"{folder}/{name}")
            if not _is_below(path):
                problem = "is not a valid path of a file below a folder"
                raise FormatError(f"{self.contents.title}: {brief(path)} {problem}")
            paths.append(path)
        return paths

    def _check(self, paths: Sequence[str]) -> None:
        seen: set[str] = set()
        if self.contents.columns:
            seen |= {f"{prefix}{METADATA}" for prefix in self._prefix.values()}
        for path in paths:
            if path in seen:
                raise FormatError(f"{self.contents.title}: two images have the path {brief(path)}")
            seen.add(path)
        folders = {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
        for path in sorted(folders & seen):
            raise FormatError(
                f"{self.contents.title}: {brief(path)} is the path of both a file and a folder"
            )

    @override
    def bounds(self, split: ExportedSplit, shard_nbytes: int) -> list[int]:
        bounds = bounds_by_nbytes(split.nbytes, shard_nbytes, most_samples=_MAX_SHARD_SAMPLES)
        return bounds if len(bounds) > 1 else [0, 0]

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        paths, written = self._paths[shard.split], []
        for group in groups:
            written += group.indices.tolist()
            for i, image in zip(group.indices.tolist(), group.images, strict=True):
                file = target / paths[i]
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as writer:
                    writer.write(image)
        absent = sorted({*range(shard.start, shard.stop)}.difference(written))
        return Written(tuple(paths[i] for i in written), json.dumps(absent))

    @override
    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        if not self.contents.columns:
            return
        for split in self.contents.splits:
            prefix, paths = self._prefix[split.name], self._paths[split.name]
            states = (json.loads(state) for shard, state in shards if shard.split == split.name)
            absent = set(itertools.chain.from_iterable(states))
            with (target / prefix / METADATA).open("w", encoding="utf-8") as lines:
                for start in range(0, len(paths), _ROWS):
                    rows = np.arange(start, min(start + _ROWS, len(paths)))
                    found = {n: plain(column.take(rows)) for n, column in split.columns.items()}
                    for i, path in enumerate(paths[start : start + _ROWS]):
                        if start + i in absent:
                            continue
                        row: dict[str, Any] = {"file_name": path.removeprefix(prefix)}
                        row |= {name: found[name][i] for name in found}
                        lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _is_below(path: str) -> bool:
    """Whether a path stays below its folder and is short enough for file systems."""
    parts = path.split("/")
    return len(path.encode()) <= _MAX_PATH_NBYTES and not any(
        part in {"", ".", ".."} or "\0" in part or len(part.encode()) > _MAX_PART_NBYTES
        for part in parts
    )
