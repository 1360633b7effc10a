"""Lance tables that refer to the images where they are: in a store, or in the files it refers to.

The column of images is one of Lance's blobs. A value is the address of a file, an offset and a
size. An image that lies in two shards of a Zarr store is in the table itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from arraystore._arguments import need
from arraystore.errors import SourceError, brief, escaped
from arraystore.exporting.lance_table import LanceTable
from arraystore.indexing.byte_range import ZEROS
from arraystore.writing.references import paths_of_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore._typing import Ints
    from arraystore.exporting.contents import Contents, ExportedSplit, Group
    from arraystore.reading.stored_split import StoredSplit

_ROWS: Final = 2**20
"""Samples in a fragment."""

_SCHEMES: Final = ("s3", "gs", "az")
"""Schemes of addresses that Lance reads as arraystore does."""


class LanceReferences(LanceTable):
    """A table is the folder ``SPLIT.lance``; images are not copied, and not read.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    SourceError
        If pylance is not installed, or a version without such blobs.
    ValueError
        If images are where Lance cannot read them, such as on a web server.
    """

    reads_images: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Any]] = {
        "data_storage_version": "2.2",
        "allow_external_blob_outside_bases": True,
    }

    def __init__(self, contents: Contents) -> None:
        lance = need("lance", "lance", "an export to lance-references")
        if not hasattr(lance, "blob_field") or not hasattr(lance.Blob, "position"):
            raise SourceError(
                "an export to lance-references needs a newer pylance, got "
                f"{brief(lance.__version__)}; install pylance>=14"
            )
        self._image = lance.blob_field("image")
        super().__init__(contents)
        for split in contents.splits:
            for stored, _ in split.samples._sample_set:
                _check_place(stored)

    @override
    def bounds(self, split: ExportedSplit, shard_nbytes: int) -> list[int]:
        return [*range(0, len(split), _ROWS), len(split)] if len(split) else [0, 0]

    @override
    def image_field(self) -> Any:
        return self._image

    @override
    def image_values(self, group: Group, split: ExportedSplit) -> Any:
        pa, n = self.pa, len(group)
        uris: list[str | None] = [None] * n
        starts = np.zeros(n, np.uint64)
        for stored, positions, which in split.samples._sample_set.locate(group.indices):
            mine = np.asarray(which)
            for uri, some, start in _places(stored, positions):
                starts[mine[some]] = start
                for i in mine[some].tolist():
                    uris[i] = uri
        is_inline = np.array([uri is None for uri in uris], np.bool_)
        inline = np.flatnonzero(is_inline)
        data: list[bytes | None] = [None] * n
        images = split.samples._reader.checked(group.indices[inline])
        for i, image in zip(inline.tolist(), images, strict=True):
            data[i] = bytes(image)
        nbytes = split.nbytes[group.indices].astype(np.uint64)
        columns = [
            pa.array(data, pa.large_binary()),
            pa.array(uris, pa.utf8()),
            pa.array(starts, mask=is_inline),
            pa.array(nbytes, mask=is_inline),
        ]
        kind = self._image.type
        values = pa.StructArray.from_arrays(columns, fields=list(kind.storage_type))
        return pa.ExtensionArray.from_storage(kind, values)


def _places(stored: StoredSplit, positions: Ints) -> list[tuple[str, Ints, Ints]]:
    """Return the images that are one range of a file: its URI, which they are, and offsets."""
    rows, _ = stored.rows(positions)
    pieces, keys = stored.places(rows)
    is_whole = np.bincount(pieces.wanted, minlength=len(positions))[pieces.wanted] == 1
    is_whole &= pieces.start != ZEROS
    objects, number = np.unique(pieces.object[is_whole], return_inverse=True)
    paths = paths_of_objects(stored.handle, [keys[i] for i in objects.tolist()])
    wanted, start = pieces.wanted[is_whole], pieces.start[is_whole]
    return [(_uri(path), wanted[number == k], start[number == k]) for k, path in enumerate(paths)]


def _uri(path: str) -> str:
    scheme, is_address, _ = path.partition("://")
    if not is_address:
        return Path(path).as_uri()
    if scheme not in _SCHEMES:
        raise _unreadable(path)
    return path


def _check_place(stored: StoredSplit) -> None:
    location = stored.handle.location
    if location.kind in ("obstore", "memory") or str(location).startswith("http"):
        raise _unreadable(stored.handle.address)


def _unreadable(place: str) -> ValueError:
    return ValueError(
        escaped(
            f"{place}: Lance reads blobs from disks and from {', '.join(_SCHEMES)}; export to "
            "lance, which copies the images"
        )
    )
