"""What a container can do: the protocol that `zarr` and `hdf5` implement.

A container holds groups with attributes, columns (small, compressed arrays) and payloads
(one-dimensional uint8 arrays, uncompressed). A path is like ``train/label``; the root is the empty
path.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, Protocol, Self

import numpy as np

from arraystore.errors import FormatError, brief, escaped
from arraystore.schema import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from zarr import Group

    from arraystore._typing import Ints
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.schema import ArraySpec, Column

    ColumnRows = tuple[str, str, tuple[int, int] | None]
    """Path and data type of a column, and the rows ``[start, stop)`` of it; None means all."""

    WriteArray = Callable[["ContainerWriter", str], None]
    """Writes an array, or a group of arrays, at a path."""

MAX_NODES: Final = 100_000
"""Most groups and arrays of a store that are listed."""

_RESERVED_PARTS: Final = frozenset({"", ".", "..", "zarr.json"})
_MAX_PATH_NBYTES: Final = 2048
_MAX_NAME_NBYTES: Final = 255
"""Longest path of a group or array, and longest name in it, that file systems can hold."""


class Tree(NamedTuple):
    """The groups and arrays of a container.

    Attributes
    ----------
    groups : tuple of str
        Paths of all groups except the root, parents first.
    columns : dict of str to Column
        Arrays that `ContainerReader.read_column` can read, by path.
    others : tuple of str
        Everything else: payloads, arrays of other kinds, and links of HDF5.
    """

    groups: tuple[str, ...]
    columns: dict[str, Column]
    others: tuple[str, ...]


class Fault(NamedTuple):
    """A deviation from ``docs/format.md`` that reading does not notice.

    Attributes
    ----------
    key : str
        The stored object, or the path of the array.
    kind : str
        ``"missing"``: the object does not exist. ``"size"``: it has another length.
        ``"content"``: its bytes differ from what they must be. ``"layout"``: the array is stored
        in another way than specified.
    text : str
        What is wrong, expected and found, for people.
    """

    key: str
    kind: Literal["missing", "size", "content", "layout"]
    text: str


def check_nodes(paths: Collection[str], location: str) -> None:
    """Refuse groups and arrays that are nested too deeply, or too many, or have too long names.

    Parameters
    ----------
    paths : collection of str
        Paths of groups and arrays.
    location : str
        Address of the store, for messages.

    Raises
    ------
    FormatError
        If there are more than `MAX_NODES`, or one is more than `MAX_DEPTH` levels deep, or
        its path or a name in it is longer than file systems allow.
    """
    if len(paths) > MAX_NODES:
        raise FormatError(
            f"{location}: has more than {MAX_NODES:,} groups and arrays; no more are copied"
        )
    for path in paths:
        if path.count("/") >= MAX_DEPTH:
            raise FormatError(
                f"{location}: {brief(path)} is nested {path.count('/') + 1} levels deep, at most "
                f"{MAX_DEPTH} are copied; move it up or delete it"
            )
        if len(path.encode(errors="replace")) > _MAX_PATH_NBYTES or any(
            len(part.encode(errors="replace")) > _MAX_NAME_NBYTES for part in path.split("/")
        ):
            raise FormatError(
                f"{location}: {brief(path)} has {len(path)} characters; a path may have "
                f"{_MAX_PATH_NBYTES} bytes, a name in it {_MAX_NAME_NBYTES}"
            )


def check_path(path: str) -> None:
    """Refuse a path of a group or column that one of the containers cannot hold.

    Raises
    ------
    FormatError
        If a part of it is empty, has a meaning in file systems, or is a file of Zarr.
    """
    if _RESERVED_PARTS & {*path.split("/")} or "\0" in path:
        raise FormatError(f"{path[:80]!r} is not a path of a group or column that can be copied")


class ArrayReader(Protocol):
    """Read an array of any number of dimensions, along the first.

    Attributes
    ----------
    data_type : str
        NumPy name of the values, or ``"string"``.
    dtype : numpy.dtype
        Of the values; text is `numpy.dtypes.StringDType`.
    shape : tuple of int
    chunk_rows : int
        Rows that `chunks` returns together.
    """

    data_type: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int

    def chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield chunks: chunk k has the rows from ``k * chunk_rows`` on.

        A remote store receives all requests at once.

        Raises
        ------
        FormatError
            If a chunk is missing or damaged.
        """
        ...

    def rows(self, positions: Ints) -> NDArray[Any] | None:
        """Return rows read without the rest of their chunks; None if that is not possible.

        Parameters
        ----------
        positions : ndarray of int64, shape (n,)
            Ascending.
        """
        del positions
        return None


class ContainerReader(Protocol):
    """Read a container through an `arraystore.storage.range_reader.RangeReader`.

    Anything that does not follow ``docs/format.md`` raises a `FormatError` that names the place,
    what was expected and what was found.
    """

    def keep_open(self) -> AbstractContextManager[None]:
        """Keep the file open for this thread's calls, if the container is one file."""
        return nullcontext()

    def import_libraries(self) -> None:
        """Import what reading columns would import, before threads read them."""

    def attributes(self, path: str = "") -> dict[str, Any]:
        """Return the attributes of a group or array as plain Python values."""
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
            Type that the column must have: a NumPy name, or ``"string"``, which is returned as
            `numpy.dtypes.StringDType`.
        rows : (int, int), optional
            The rows ``[start, stop)``, clipped to the length of the column. Only the chunks that
            contain them are read; without `rows`, all.

        Raises
        ------
        FormatError
            If the column or a chunk of it is missing, damaged or of another type.
        """
        (values,) = self.read_rows([(path, data_type, rows)])
        return values

    def read_columns(self, columns: Mapping[str, str]) -> list[NDArray[Any]]:
        """Return whole columns, read in as few round trips as possible.

        Parameters
        ----------
        columns : mapping of str to str
            Data type of each column, by its path.

        Raises
        ------
        FormatError
            See `read_column`.
        """
        return list(self.read_rows([(*column, None) for column in columns.items()]))

    def read_rows(self, columns: Sequence[ColumnRows]) -> Iterator[NDArray[Any]]:
        """Yield rows of columns.

        A remote store receives all requests at once. On a local disk, one column is read after
        another.

        Parameters
        ----------
        columns : sequence of (str, str, (int, int) or None)
            Path, data type and rows of each, see `read_column`.

        Raises
        ------
        FormatError
            See `read_column`.
        """
        ...

    def check_column(self, path: str, data_type: str, length: int) -> None:
        """Compare the length that a column states with what is stored, without reading values.

        Raises
        ------
        FormatError
            If the column does not state `length` values, or much less is stored.
        """
        ...

    def manifest(self, path: str, recheck: Collection[str] = ()) -> ChunkManifest:
        """Return where the chunks of a payload are stored.

        Parameters
        ----------
        path : str
            Such as ``train/image_payload``.
        recheck : collection of str
            Keys of objects to look into, although the store's metadata states their content.
        """
        ...

    def manifest_from_metadata(self, path: str) -> ChunkManifest | None:
        """Return where the metadata alone puts the chunks of a payload; None if it does not."""
        del path
        return None

    def has_same_samples(self, later: Self) -> bool:
        """Whether all that was read holds: only columns of users, or new samples, were added.

        Parameters
        ----------
        later : ContainerReader
            Of the same container, opened after it was changed.
        """
        del later
        return False

    def tree(self) -> Tree:
        """Return the groups and arrays of the container.

        Raises
        ------
        FormatError
            If there is more than `check_nodes` allows.
        StorageError
            If the store cannot be listed, and its metadata does not list its groups and arrays.
        """
        ...

    def members(self, path: str) -> dict[str, bool]:
        """Return the groups and arrays directly in a group; none if the group does not exist.

        Returns
        -------
        dict of str to bool
            Whether each is a group, sorted by name. Links of HDF5 and dimensions are left out.

        Raises
        ------
        StorageError
            If the store cannot be listed, and its metadata does not list its groups and arrays.
        """
        ...

    def open_array(self, path: str) -> ArrayReader:
        """Return a reader of an array of any number of dimensions; no value is read yet.

        Raises
        ------
        FormatError
            If the array does not exist, has no dimension, or holds other values than numbers,
            bools and text.
        """
        ...

    def describe_array(self, path: str) -> Column:
        """Return the data type, dimension and fill value of an array.

        Raises
        ------
        FormatError
            If the array does not exist, or has more than one dimension.
        """
        ...

    def as_zarr(self) -> Group:
        """Return the store as `arraystore.reader.Store.zarr` does."""
        ...

    def as_h5py(self) -> Any:
        """Return the store as `arraystore.reader.Store.h5py` does."""
        ...

    def faults(self, path: str) -> Iterator[Fault]:
        """Yield deviations from the specification that reading does not notice.

        Parameters
        ----------
        path : str
            A payload or a column; or empty, for what does not belong to one array.
        """
        del path
        yield from ()


class ContainerWriter(Protocol):
    """Write a container on the local disk.

    First `create_group` and `create_payload` reserve the places of the payloads. After `release`
    the caller fills these places, which the returned manifests give. Columns and attributes come
    next, and `close` completes the container. As a context a writer releases itself at the end.

    Parameters
    ----------
    path : Path
        File or folder of the root; created if it does not exist.
    is_skeleton : bool, default False
        Whether the payloads are stored elsewhere and take no space here: they are holes in a
        file, or missing files.

    Attributes
    ----------
    root_key : str
        Key, below the store, of the object that identifies the container; empty if the store is
        one object.
    root_nbytes : int
        Number of bytes of that object's beginning that `is_root` needs.
    """

    root_key: ClassVar[str]
    root_nbytes: ClassVar[int]

    def __init__(self, path: Path, *, is_skeleton: bool = False) -> None: ...

    @staticmethod
    def is_root(data: bytes) -> bool:
        """Return whether the object at `root_key`, by its beginning, is of this container."""
        ...

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a file or folder on the local disk looks like this container, even if damaged."""
        ...

    @staticmethod
    def import_libraries() -> None:
        """Import the libraries that writing needs, which takes up to a second the first time."""
        ...

    @staticmethod
    def libraries() -> dict[str, str]:
        """Return the versions of the libraries that the bytes written depend on."""
        ...

    @staticmethod
    def payload_object(path: str, start: int, stop: int) -> tuple[str, bytes]:
        """Return the key of the object for a fill block of a payload, and the object's last bytes.

        Only for containers that store payloads as objects of their own.

        Parameters
        ----------
        path : str
            The payload.
        start, stop : int
            The fill block: the bytes ``[start, stop)`` of the payload.

        Returns
        -------
        str, bytes
            The key, and the bytes that follow the fill block in the object.
        """
        ...

    @staticmethod
    def root_with_part(
        root: bytes, other: bytes, group: str, attributes: Mapping[str, Any]
    ) -> bytes:
        """Return the object at `root_key` as it is when a group of another container was added.

        Only for containers that store payloads as objects of their own.

        Parameters
        ----------
        root, other : bytes
            The object of this container, and that of the other one.
        group : str
            Name of the group in both.
        attributes : mapping of str to any
            Attributes of the root that change.
        """
        ...

    def create_group(self, path: str) -> None:
        """Create a group; the root exists from the start."""
        ...

    def create_payload(self, path: str, nbytes: int) -> ChunkManifest:
        """Create a payload and reserve the disk space of all its chunks.

        Returns
        -------
        ChunkManifest
            Where its bytes belong; the keys are paths of files.

        Raises
        ------
        StorageError
            If the disk has too little free space. A container may notice this only in `release`
            or `close`.
        """
        ...

    def create_payloads(self, payloads: Mapping[str, int]) -> list[ChunkManifest]:
        """Create payloads, each in a new group, and release the writer.

        Parameters
        ----------
        payloads : mapping of str to int
            Path and length of each.

        Returns
        -------
        list of ChunkManifest
            See `create_payload`.
        """
        manifests = []
        for path, nbytes in payloads.items():
            self.create_group(path.rpartition("/")[0])
            manifests.append(self.create_payload(path, nbytes))
        self.release()
        return manifests

    def reset_layout(self, payloads: Mapping[str, int], scratch: Path) -> list[ChunkManifest]:
        """Return a container to the state after `create_payloads`, and keep the payloads' bytes.

        For a container that an earlier process began. This process may be killed meanwhile; then
        the next one calls this again.

        Parameters
        ----------
        payloads : mapping of str to int
            What `create_payloads` was called with.
        scratch : Path
            A path on the same file system, where nothing exists.

        Returns
        -------
        list of ChunkManifest
            See `create_payload`.

        Raises
        ------
        FormatError
            If the container is shorter than it was when the payloads were created.
        """
        ...

    def write_column(self, path: str, values: NDArray[Any] | Sequence[str], column: Column) -> None:
        """Write a whole column."""
        ...

    def write_array(self, path: str, spec: ArraySpec, blocks: Iterable[NDArray[Any]]) -> None:
        """Write an array of any number of dimensions.

        Parameters
        ----------
        path : str
        spec : ArraySpec
        blocks : iterable of ndarray
            The array in runs of `ArraySpec.chunk_rows` rows, or a multiple of it; the last may be
            shorter.
        """
        ...

    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a group or an array: str, int, float, bool, list of str or numbers."""
        ...

    def release(self) -> None:
        """Hold nothing open, so that payloads can be filled; the writer can be used afterwards."""
        ...

    def close(self) -> None:
        """Complete the container and hold nothing open."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the writer.

        A library that keeps unwritten data would write it later, when another process may have
        resumed the store.
        """
        try:
            self.release()
        except (OSError, RuntimeError, ValueError) as another:
            if error is None:
                raise
            error.add_note(escaped(f"in addition, unwritten data was lost: {another}"))


class ColumnEditor(Protocol):
    """Change the columns of a finished container on the local disk, or add a part to it.

    A process that is killed leaves the container as before or as after the change, once `recover`
    was called.

    Parameters
    ----------
    path : Path
        The file or folder, without symbolic links.
    scratch : Path
        The workspace of the container, which is locked and empty.
    sync : bool, default True
        Whether to wait until everything is on the disk.
    """

    def __init__(self, path: Path, scratch: Path, *, sync: bool = True) -> None: ...

    @staticmethod
    def recover(path: Path, scratch: Path) -> None:
        """Complete a change that a killed process began, or undo it.

        Raises
        ------
        StorageError, FormatError
            If that is not possible.
        """
        del path, scratch

    def add(self, name: str, writes: Mapping[str, WriteArray], version: str | None) -> None:
        """Add an array, or a group of arrays, to each of some groups, all in one step.

        Parameters
        ----------
        name : str
            A name that is free in the groups.
        writes : mapping of str to callable
            By the path of a group, which is created if it does not exist: writes what it gets,
            given a writer and the path in that.
        version : str or None
            New version of the format, if it changes.
        """
        ...

    def remove(self, name: str, groups: Collection[str]) -> None:
        """Remove an array, or a group of arrays, from each of some groups, all in one step.

        A group is removed as well if nothing else is in it.
        """
        ...

    def add_part(self, part: Path, group: str, attributes: Mapping[str, Any]) -> None:
        """Add a group of another container; a change that was begun and not completed is repeated.

        Parameters
        ----------
        part : Path
            The other container, of the same kind; it may lose the group.
        group : str
            Name of the group in both.
        attributes : mapping of str to any
            Attributes of the root that change.

        Raises
        ------
        TypeError
            If the store is in a bucket.
        """
        del part, group, attributes
        raise TypeError("groups are added to stores on a disk only")


def as_string_array(values: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    """Return text as a NumPy array of variable-width strings."""
    return np.array(list(values), dtype=np.dtypes.StringDType())
