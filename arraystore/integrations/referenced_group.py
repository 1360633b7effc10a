"""A Zarr group of samples whose images are ranges of other files: what all references have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arraystore.containers.zarr.references import payload_document, zarr_objects
from arraystore.errors import escaped
from arraystore.indexing.byte_range import ZEROS
from arraystore.indexing.layout import image_starts
from arraystore.schema import COLUMNS, PAYLOAD, ROOT_COLUMNS, USER_COLUMNS
from arraystore.writing.new_column import as_new_column
from arraystore.writing.plan_selection import check_splits, read_samples
from arraystore.writing.references import paths_of_objects
from arraystore.writing.selected_columns import user_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.dataset.split import Split
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.writing.plan_selection import SelectedSplit


class Files(NamedTuple):
    """Files that hold images of a store: its own objects, or those that it refers to.

    Attributes
    ----------
    handle : StoreHandle
    keys : list of str
        As `StoreHandle` has them.
    paths : list of str
        Absolute paths or addresses.
    """

    handle: StoreHandle
    keys: list[str]
    paths: list[str]


@dataclass(frozen=True)
class Chunks:
    """Where the chunks of a payload are: one for each image, two if it lies in two shards.

    Attributes
    ----------
    files : list of Files
        Those of each stored split.
    file : ndarray of int64, shape (n,)
        Number of the file of each chunk, an index into `paths`.
    start, nbytes : ndarray of int64, shape (n,)
        Byte range in the file; `start` is `ZEROS` if the chunk is not stored, and all zeros.
    """

    files: list[Files]
    file: Ints
    start: Ints
    nbytes: Ints

    def __len__(self) -> int:
        return len(self.file)

    @cached_property
    def paths(self) -> list[str]:
        """Absolute paths or addresses of all files."""
        return [path for some in self.files for path in some.paths]

    @property
    def is_stored(self) -> NDArray[np.bool_]:
        """Which chunks are ranges of files."""
        return np.not_equal(self.start, ZEROS)


@dataclass(frozen=True)
class ReferencedGroup:
    """A Zarr group whose payloads are references.

    Attributes
    ----------
    objects : dict of str to bytes
        All documents, and the chunks of all columns, by key.
    payloads : dict of str to Chunks
        By the path of the payload.
    n_images : int
    """

    objects: dict[str, bytes]
    payloads: dict[str, Chunks]
    n_images: int


def referenced_group(splits: Mapping[str, Split]) -> ReferencedGroup:
    """Return references to the images of splits, in their order, and all columns.

    Parameters
    ----------
    splits : mapping of str to Split
        By the name of the group. Their samples are of stores with the same classes.

    Raises
    ------
    ValueError
        If a sample occurs twice in a split, the classes differ, or a store has no address.
    """
    check_splits(splits)
    selected = {name: read_samples(name, split) for name, split in splits.items()}
    first = next(iter(splits.values()))

    def write(writer: ContainerWriter) -> None:
        classes = {"label_name": first.label_names, "label_words": first.label_words}
        for name, texts in classes.items():
            writer.write_column(name, texts, ROOT_COLUMNS[name])
        for name, some in selected.items():
            _write_columns(writer, name, some)
        writer.set_attributes("", {"splits": [*splits]})

    objects = zarr_objects(write)
    payloads = {f"{name}/{PAYLOAD}": _chunks(some) for name, some in selected.items()}
    objects |= (payload_document(path, chunks.nbytes) for path, chunks in payloads.items())
    return ReferencedGroup(objects, payloads, sum(map(len, selected.values())))


def _write_columns(writer: ContainerWriter, split: str, some: SelectedSplit) -> None:
    """Write the columns of samples; checksums only if they are known."""
    columns: dict[str, Any] = {
        "image_start": image_starts(some.rows.nbytes),
        "image_nbytes": some.rows.nbytes,
        "image_height": some.height,
        "image_width": some.width,
        "label": some.label,
        "file_name": some.file_name,
    }
    if all(stored.has_checksums for stored in some.stored):
        columns["image_crc32c"] = some.rows.crc32c
    writer.create_group(split)
    for name, values in columns.items():
        writer.write_column(f"{split}/{name}", values, COLUMNS[name])
    further = user_columns(some.stored, some.number, some.rows.positions)
    if further:
        writer.create_group(f"{split}/{USER_COLUMNS}")
    for name, extra in further.items():
        column = as_new_column(extra, name, len(some), ragged=isinstance(extra, list))
        column.write(writer, f"{split}/{USER_COLUMNS}/{name}")
    sizes = {"num_samples": len(some), "num_bytes": int(some.rows.nbytes.sum())}
    writer.set_attributes(split, sizes)


def _chunks(some: SelectedSplit) -> Chunks:
    """Return where the pieces of the images are, in the order of the images."""
    files: list[Files] = []
    parts, n_files = [], 0
    for stored, mine, pieces, keys in some.images.places():
        handle = stored.handle
        if handle.location.kind in ("obstore", "memory"):
            raise ValueError(
                escaped(
                    f"{handle.address}: other programs cannot refer to this store; open it "
                    "by a path or an address such as s3://…"
                )
            )
        objects, number = np.unique(pieces.object, return_inverse=True)
        used = [keys[i] for i in objects.tolist()]
        files.append(Files(handle, used, paths_of_objects(handle, used)))
        parts.append((mine[pieces.wanted], number + n_files, pieces.start, pieces.nbytes))
        n_files += len(objects)
    if not parts:
        none = np.zeros(0, np.int64)
        return Chunks(files, none, none, none)
    image, file, start, nbytes = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(image, kind="stable")
    return Chunks(files, file[order], start[order], nbytes[order])
