"""Files of finished blocks beside a store, from which `map_blocks` makes a column.

::

    data/1pct.zarr
    data/.1pct.zarr.map-train.features/    exists until the column is added
        ├── lock            held by the process that called `map_blocks`
        ├── plan            what the values depend on
        └── block-5f0c-12   values of block 12

In a bucket these are objects, without a lock. The names of blocks contain a number that is drawn
for each plan: a worker that still works for an earlier plan cannot replace a block.
"""

from __future__ import annotations

import math
import os
import re
import secrets
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import numpy as np
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore.errors import FormatError, StorageError, escaped
from arraystore.schema import STRING
from arraystore.storage.folder_trees import remove_tree
from arraystore.storage.fsync import sync_path
from arraystore.storage.open_files import translate_full_disk
from arraystore.writing.journal import as_line, fingerprint_of, whole_lines
from arraystore.writing.workspace import locked_folder, unlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from arraystore.storage.location import Location
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.journal import Fingerprint

_PLAN: Final = "plan"
_NAMES: Final = re.compile(r"lock|(plan|block-\w+-\d+)(\.\w+)?")
"""Of files in the folder, also of those that a killed process was writing."""


class Kind(NamedTuple):
    """Data type of values, and the shape of one of them."""

    data_type: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        """The data type as NumPy's."""
        return np.dtypes.StringDType() if self.data_type == STRING else np.dtype(self.data_type)

    def __str__(self) -> str:
        return escaped(f"{self.data_type} {self.shape}")


class Plan(NamedTuple):
    """What the values of blocks depend on, and the number in the names of the blocks."""

    fingerprint: Fingerprint
    run: str

    @classmethod
    def new(cls, fingerprint: Fingerprint) -> Plan:
        """Return a plan with a number of its own."""
        return cls(fingerprint, secrets.token_hex(8))

    def key(self, number: int) -> str:
        """Return the name of a block."""
        return f"block-{self.run}-{number}"


class BlockFiles(ABC):
    """Finished blocks of one column, in a folder or a bucket; it can be sent to other processes.

    Attributes
    ----------
    is_exclusive : bool
        Whether `locked` keeps other callers away.
    """

    is_exclusive: ClassVar[bool]

    @property
    @abstractmethod
    def location(self) -> str:
        """Path or address, for messages."""

    @abstractmethod
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the files, where that is possible."""
        yield

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of all files."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, as a whole or not at all."""

    @abstractmethod
    def begin(self, data: bytes) -> None:
        """Write the plan; raise `FileExistsError` if another process has begun meanwhile."""

    @abstractmethod
    def remove(self) -> None:
        """Delete all files, the plan last."""

    def plan(self) -> Plan | None:
        """Return the plan, or None if nothing was begun.

        Raises
        ------
        FormatError
            If it is damaged.
        """
        data = self.read(_PLAN)
        if data is None:
            return None
        where = f"{self.location}/{_PLAN}"
        for value, _ in whole_lines(BytesIO(data), where):
            if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
                return Plan(fingerprint_of(value[0], where), value[1])
        raise FormatError(f"{where}: is damaged; pass overwrite=True (--overwrite) to start again")

    def start(self, plan: Plan) -> None:
        """Delete all blocks of earlier plans, and record a plan."""
        self.remove()
        self.begin(as_line(list(plan)))

    def finished(self, plan: Plan, n: int) -> set[int]:
        """Return the numbers of the finished ones of `n` blocks."""
        names = self.names()
        return {number for number in range(n) if plan.key(number) in names}

    def block(self, name: str) -> NDArray[Any]:
        """Return the values of a finished block.

        Raises
        ------
        StorageError
            If it is missing or damaged.
        """
        data = self.read(name)
        values = None if data is None else decoded(data, f"{self.location}/{name}")
        if values is None:
            state = "does not exist" if data is None else "is damaged"
            raise StorageError(
                f"{self.location}/{name}: {state}; delete it if it exists, and pass resume=True "
                "(--resume) to compute it again"
            )
        return values


@dataclass(frozen=True, slots=True)
class BlockFolder(BlockFiles):
    """Finished blocks in a folder that all workers reach.

    Attributes
    ----------
    folder : Path
    sync : bool
        Whether to wait until each block is on the disk.
    """

    is_exclusive: ClassVar[bool] = True
    folder: Path
    sync: bool

    @property
    @override
    def location(self) -> str:
        return str(self.folder)

    @override
    @contextmanager
    def locked(self) -> Iterator[None]:
        lock = locked_folder(self.folder, _NAMES.fullmatch, "computing the same column")
        try:
            yield
        finally:
            if self.names() == {"lock"}:
                (self.folder / "lock").unlink()
                self.folder.rmdir()
            unlock(lock)

    @override
    def names(self) -> set[str]:
        return set(os.listdir(self.folder))  # noqa: PTH208 - 100,000 names

    @override
    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    @override
    def write(self, name: str, data: bytes) -> None:
        temporary = self.folder / f"{name}.{secrets.token_hex(8)}"
        try:
            with translate_full_disk(self.folder, len(data)):
                temporary.write_bytes(data)
                if self.sync:
                    sync_path(temporary)
            temporary.replace(self.folder / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    @override
    def begin(self, data: bytes) -> None:
        self.write(_PLAN, data)
        if self.sync:
            sync_path(self.folder)

    @override
    def remove(self) -> None:
        for name in sorted(self.names() - {"lock"}):  # blocks come before the plan
            path = self.folder / name
            remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class BlockObjects(BlockFiles):
    """Finished blocks as objects of a bucket.

    Attributes
    ----------
    objects : ObjectWriter
    prefix : str
        Key in front of their names.
    """

    is_exclusive: ClassVar[bool] = False
    objects: ObjectWriter
    prefix: str

    @property
    @override
    def location(self) -> str:
        return self.objects.at(self.prefix)

    @override
    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    @override
    def names(self) -> set[str]:
        return {PurePosixPath(key).name for key in self.objects.tags(self.prefix)}

    @override
    def read(self, name: str) -> bytes | None:
        found = self.objects.read(f"{self.prefix}/{name}")
        return None if found is None else found.data

    @override
    def write(self, name: str, data: bytes) -> None:
        self.objects.put(f"{self.prefix}/{name}", data)

    @override
    def begin(self, data: bytes) -> None:
        self.objects.create(f"{self.prefix}/{_PLAN}", data)

    @override
    def remove(self) -> None:
        keys = sorted(self.objects.tags(self.prefix))
        self.objects.delete([key for key in keys if not key.endswith(f"/{_PLAN}")])
        self.objects.delete([f"{self.prefix}/{_PLAN}"])


def block_files(location: Location, column: str, *, sync: bool) -> BlockFiles:
    """Return where the finished blocks of a column are.

    Parameters
    ----------
    location : Location
        The store.
    column : str
        Name of the split and of the column, with a dot between them.
    sync : bool
        See `BlockFolder`.
    """
    if location.is_local:
        store = Path(os.path.realpath(location.path))
        return BlockFolder(store.with_name(f".{store.name}.map-{column}"), sync)
    from arraystore.storage.objects.writer import ObjectWriter

    objects = ObjectWriter(location)
    key = PurePosixPath(objects.key)
    return BlockObjects(objects, str(key.with_name(f".{key.name}.map-{column}")))


def encoded(values: NDArray[Any]) -> bytes:
    """Return values as a line with their kind, number and checksum, and their bytes.

    Examples
    --------
    >>> decoded(encoded(np.array([[1, 2]], np.int8)), "")
    array([[1, 2]], dtype=int8)
    """
    kind = kind_of(values)
    if kind.data_type == STRING:  # no text has a NUL
        data = "\0".join(values.ravel().tolist()).encode()
    else:
        data = np.ascontiguousarray(values, kind.dtype.newbyteorder("<")).tobytes()
    return as_line([*kind, len(values), crc32c(data)]) + data


def decoded(data: bytes, location: str) -> NDArray[Any] | None:
    """Return the values of `encoded`, or None if they are damaged.

    Raises
    ------
    FormatError
        If they were not written by arraystore.
    """
    for (data_type, row_shape, n, expected), start in whole_lines(BytesIO(data), location):
        content, shape = memoryview(data)[start:], (n, *row_shape)
        if crc32c(content) != expected:
            return None
        kind = Kind(data_type, tuple(row_shape))
        if data_type == STRING:
            texts = bytes(content).decode().split("\0")
            if len(texts) != math.prod(shape):
                return None
            return np.array(texts, dtype=kind.dtype).reshape(shape)
        found = np.frombuffer(content, kind.dtype.newbyteorder("<"))
        return found.reshape(shape).astype(kind.dtype, copy=False)
    return None


def kind_of(values: NDArray[Any]) -> Kind:
    """Return the kind of values as `decoded` returns them."""
    is_text = isinstance(values.dtype, np.dtypes.StringDType)
    return Kind(STRING if is_text else values.dtype.name, values.shape[1:])
