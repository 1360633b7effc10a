"""What a container can do; `zarr` and `hdf5` beside this file are its two sisters.

A container holds groups with attributes, columns (small, compressed arrays) and
payloads (one-dimensional uint8 arrays, uncompressed). Paths are like
``train/label``; the root is the empty path.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

import numpy as np

from arraystore.errors import FormatError, brief
from arraystore.schema import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from zarr import Group

    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.schema import Column

    Rows = tuple[str, str, tuple[int, int]]

MAX_NODES: Final = 100_000
"""Most groups and arrays of a store that are listed."""

_MAX_PATH_NBYTES: Final = 2048
_MAX_PART_NBYTES: Final = 255
"""Longest path of a group or array, and longest name: what file systems have room for."""


class Tree(NamedTuple):
    """What a container holds.

    Attributes
    ----------
    groups : tuple of str
        Their paths without the root's, parents first.
    columns : dict of str to Column
        What can be read with `ContainerReader.read_column`, by path.
    others : tuple of str
        Everything else: payloads, arrays of other kinds, and links of HDF5.
    """

    groups: tuple[str, ...]
    columns: dict[str, Column]
    others: tuple[str, ...]


def check_nodes(paths: Collection[str], where: str) -> None:
    """Refuse groups and arrays that are nested too deeply, or too many, or have too long names.

    Parameters
    ----------
    paths : collection of str
        Of groups and arrays.
    where : str
        Address of the store, for messages.

    Raises
    ------
    FormatError
        If there are more than `MAX_NODES`, or one is more than `MAX_DEPTH` levels deep, or
        its path or a part of it is longer than a file system takes.
    """
    if len(paths) > MAX_NODES:
        raise FormatError(
            f"{where}: has more than {MAX_NODES:,} groups and arrays; no more are copied"
        )
    for path in paths:
        if path.count("/") >= MAX_DEPTH:
            raise FormatError(
                f"{where}: {brief(path)} is nested {path.count('/') + 1} levels deep, at most "
                f"{MAX_DEPTH} are copied; move it up or delete it"
            )
        if len(path.encode(errors="replace")) > _MAX_PATH_NBYTES or any(
            len(part.encode(errors="replace")) > _MAX_PART_NBYTES for part in path.split("/")
        ):
            raise FormatError(
                f"{where}: {brief(path)} has {len(path)} characters; a path may have "
                f"{_MAX_PATH_NBYTES} bytes, a name in it {_MAX_PART_NBYTES}"
            )


class ContainerReader(Protocol):
    """Read a container through a `arraystore.storage.range_reader.RangeReader`.

    Whatever is not as ``docs/format.md`` says is a `FormatError` that names the
    place, what was expected and what was found.
    """

    def held(self) -> AbstractContextManager[None]:
        """Whatever this thread asks meanwhile is asked of one open file, where there is one."""
        return nullcontext()

    def import_libraries(self) -> None:
        """Import what reading columns would import, before threads read them."""

    def attributes(self, path: str = "") -> dict[str, Any]:
        """Return the attributes of a group, or of an array, as plain Python values."""
        ...

    def read_column(
        self, path: str, data_type: str, rows: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        """Return a column, or some consecutive rows of it.

        Parameters
        ----------
        path : str
            Such as ``train/label``.
        data_type : str
            What the column must hold: a NumPy name, or ``"string"``, which
            comes back as `numpy.dtypes.StringDType`.
        rows : (int, int), optional
            The rows ``[start, stop)``, cut off where the column ends. Only the
            chunks that hold them are read; without `rows`, all.

        Raises
        ------
        FormatError
            If the column or a chunk of it is missing, damaged or of another type.
        """
        ...

    def read_columns(self, columns: Mapping[str, str]) -> list[NDArray[Any]]:
        """Return whole columns, read together in as few round trips as can be.

        Parameters
        ----------
        columns : mapping of str to str
            Data type of each column, by its path.

        Raises
        ------
        FormatError
            See `read_column`.
        """
        ...

    def read_rows(self, wanted: Sequence[Rows]) -> Iterator[NDArray[Any]]:
        """Yield rows of columns, asked for together from afar, one after another from a disk.

        Parameters
        ----------
        wanted : sequence of (str, str, (int, int))
            Path, data type and rows of each, see `read_column`.

        Raises
        ------
        FormatError
            See `read_column`.
        """
        ...

    def check_column(self, path: str, data_type: str, length: int) -> None:
        """Compare what a column states with what is stored of it, and read no values.

        Raises
        ------
        FormatError
            If the column does not state `length` values, or much less is stored.
        """
        ...

    def manifest(self, path: str, doubted: Collection[str] = ()) -> ChunkManifest:
        """Return where the chunks of a payload are stored.

        Parameters
        ----------
        path : str
            Such as ``train/image_payload``.
        doubted : collection of str
            Keys of objects of which it is looked up, though the store promises it.
        """
        ...

    def tree(self) -> Tree:
        """Return what there is.

        Raises
        ------
        FormatError
            If there is more than `check_nodes` allows.
        StorageError
            If the store cannot be listed, and its metadata does not list what it holds.
        """
        ...

    def described(self, path: str) -> Column:
        """Return the data type, dimension and fill value that an array has.

        Raises
        ------
        FormatError
            If there is none, or one of more than one dimension.
        """
        ...

    def promised(self, path: str) -> ChunkManifest | None:
        """Return where a payload's chunks must be, if its metadata alone promises that."""
        del path
        return None

    def as_zarr(self) -> Group:
        """Return the store as `arraystore.reader.Store.zarr` does."""
        ...

    def as_h5py(self) -> Any:
        """Return the store as `arraystore.reader.Store.h5py` does."""
        ...

    def faults(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with how something is stored, and reading may pass over.

        Parameters
        ----------
        path : str
            A payload or a column; or empty, for what is not of one array.

        Yields
        ------
        str, str
            The stored object, and what is wrong with it.
        """
        del path
        yield from ()


class ContainerWriter(Protocol):
    """Write a container on the local disk, to be closed and opened again in between.

    A payload's place is made by `create_payload`; its bytes are then written to
    the places that a reader's `ContainerReader.manifest` tells, while no writer
    is open.

    Parameters
    ----------
    path : Path
        File or folder of the root, created if it is not there.
    is_skeleton : bool, default False
        Whether the payloads are going to be somewhere else, so that they take no
        space here: they are holes in a file, or missing files.

    Attributes
    ----------
    root_key : str
        The object below the store that makes one of it; empty if it is all in one.
    root_nbytes : int
        How much of that object's beginning `is_root` needs.
    """

    root_key: ClassVar[str]
    root_nbytes: ClassVar[int]

    def __init__(self, path: Path, *, is_skeleton: bool = False) -> None: ...

    @staticmethod
    def is_root(data: bytes) -> bool:
        """Whether the beginning of the object at `root_key` is that of this container."""
        ...

    @staticmethod
    def import_libraries() -> None:
        """Import all that writing needs, which takes up to a second the first time."""
        ...

    @staticmethod
    def libraries() -> dict[str, str]:
        """Return the versions of the libraries that the bytes written depend on."""
        ...

    @staticmethod
    def payload_object(path: str, start: int, stop: int) -> tuple[str, bytes]:
        """Return the key of the object with the payload's bytes ``[start, stop)``, and its end.

        They are a block: a shard's, or what there is of the last. The end is what
        comes after them in the object. Not for a container that is all in one.
        """
        ...

    def create_group(self, path: str) -> None:
        """Create a group; the root is there from the start."""
        ...

    def create_payload(self, path: str, nbytes: int) -> None:
        """Create a payload and reserve the disk space of all its chunks.

        Raises
        ------
        StorageError
            If the disk has not that much room. A container may notice only
            when it is closed.
        """
        ...

    def write_column(self, path: str, values: NDArray[Any] | Sequence[str], column: Column) -> None:
        """Write a whole column."""
        ...

    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a group or an array: str, int, float, bool, list of str or numbers."""
        ...

    def close(self) -> None:
        """Finish what was written since the writer was opened, and hold nothing open after."""
        ...


def as_string_array(values: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    """Return text as a NumPy array of variable-width strings."""
    return np.array(list(values), dtype=np.dtypes.StringDType())
