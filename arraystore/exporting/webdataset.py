"""WebDataset: tar archives whose members of one sample share the part of the name before the dot.

::

    n01440764_10026.jpg     the image as stored
    n01440764_10026.cls     the label as text, -1 if it has none
    n01440764_10026.json    file name, label, id of the class, further columns
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.exporting.contents import plain
from arraystore.exporting.shard_format import ShardFormat, Written
from arraystore.sources.image_suffix import N_BYTES, suffix_of
from arraystore.sources.junk import is_junk
from arraystore.sources.webdataset import CLS, JSON

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from arraystore.exporting.contents import Contents, Group, Shard

CLASSES: Final = "classes.txt"
"""File with the ids of the classes, one a line in the order of the labels."""

SUFFIX: Final = ".tar"

_ODD: Final = re.compile(r"[^\w@+=()-]")
_MAX_KEY_NBYTES: Final = 200


def key_of(name: str) -> str:
    r"""Return the key for a file name: its path without the suffix, in harmless characters.

    Letters, digits and ``_-@+=()`` stay; every other character becomes ``_``, because WebDataset
    takes everything behind the first dot for the extension.

    Examples
    --------
    >>> key_of("n01440764/n01440764_10026.JPEG"), key_of("a.b.jpg"), key_of("../x\x1b.png")
    ('n01440764/n01440764_10026', 'a_b', 'x_')
    >>> key_of("__meta__/1.jpg"), key_of("...")
    ('meta__/1', '')
    """
    folder, _, base = name.rpartition("/")
    stem = base.rpartition(".")[0] or base
    parts = [part for part in (*folder.split("/"), stem) if part.strip(".")]
    key = "/".join(_ODD.sub("_", part) for part in parts).lstrip("_/")
    return "" if len(key.encode()) > _MAX_KEY_NBYTES or is_junk(key) else key


class WebDataset(ShardFormat):
    """Shards are ``SPLIT-00000-of-0000N.tar``, and the classes `CLASSES`.

    A key is made from the file name by `key_of`; where it is empty or taken, the index of the
    sample in its split is appended. The name itself is in the JSON document, with the values of
    further columns; one that is named ``label_name`` takes the place of the id of the class.
    """

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self._keys = {split.name: _keys_of(split.names.tolist()) for split in contents.splits}

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        name = shard.file_name(SUFFIX)
        with tarfile.open(target / name, "w", format=tarfile.PAX_FORMAT) as archive:
            for group in groups:
                documents = self._documents(group)
                keys = [self._keys[shard.split][i] for i in group.indices.tolist()]
                for key, image, label, document in zip(
                    keys, group.images, group.labels.tolist(), documents, strict=True
                ):
                    _add(archive, key + suffix_of(bytes(image[:N_BYTES])), image)
                    _add(archive, f"{key}.{CLS}", str(label).encode())
                    _add(archive, f"{key}.{JSON}", document)
        return Written((name,))

    def _documents(self, group: Group) -> Iterator[bytes]:
        values = {name: plain(found) for name, found in group.values.items()}
        for i, (name, label) in enumerate(zip(group.names, group.labels.tolist(), strict=True)):
            document = {
                "file_name": name,
                "label": label,
                "label_name": self.contents.label_names[label] if label >= 0 else None,
            }
            document |= {column: found[i] for column, found in values.items()}
            yield json.dumps(document, ensure_ascii=False).encode()

    @override
    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        text = "".join(f"{name}\n" for name in self.contents.label_names)
        (target / CLASSES).write_text(text, encoding="utf-8")


def _keys_of(names: Sequence[str]) -> list[str]:
    """Return a key for each name; keys differ."""
    taken: set[str] = set()
    keys = []
    for i, name in enumerate(names):
        key = key_of(name)
        while not key or key in taken:
            key = f"{key}_{i:09d}" if key else f"{i:09d}"
        taken.add(key)
        keys.append(key)
    return keys


def _add(archive: tarfile.TarFile, name: str, data: bytes | memoryview) -> None:
    member = tarfile.TarInfo(name)
    member.size = memoryview(data).nbytes
    archive.addfile(member, io.BytesIO(data))
