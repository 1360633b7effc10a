"""Samples with NumPy's manner: integers, slices, arrays and masks in brackets."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    TypeVar,
    overload,
)

import numpy as np

from arraystore.selection import as_position, as_positions, is_one
from arraystore.stored import SAMPLE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    from numpy.typing import NDArray

    from arraystore.selection import Selection
    from arraystore.stored import Size, StoredSplit

    Ints = NDArray[np.int64]
    Pixels = NDArray[np.uint8]

T = TypeVar("T")
One = TypeVar("One")
Many = TypeVar("Many")

_READ_AHEAD: Final = 64
"""Samples read at a time when a split is iterated; one such group is read ahead."""


class Sample(NamedTuple):
    """One labelled image.

    Attributes
    ----------
    image : ndarray of uint8, shape (height, width, 3)
        Pixels: red, green, blue.
    label : int
        Index of the class, -1 if there is none.
    file_name : str
        Name of the image in the source.
    """

    image: Pixels
    label: int
    file_name: str


class Batch(NamedTuple):
    """Several samples, column by column.

    Attributes
    ----------
    image : list of ndarray of uint8, each of shape (height, width, 3)
        Pixels of each image; sizes differ.
    label : ndarray of int64, shape (n,)
    file_name : ndarray of str, shape (n,)
    """

    image: list[Pixels]
    label: Ints
    file_name: NDArray[Any]


class Part(NamedTuple):
    """Some samples of one stored split.

    Attributes
    ----------
    stored : StoredSplit
    positions : range or ndarray of int64
        Positions in it; a range where they are consecutive, so that it stays small.
    """

    stored: StoredSplit
    positions: range | Ints


class Images(Generic[One, Many]):
    """The images of a split in one form: an integer in brackets gives one, all else many."""

    __array_ufunc__ = None

    def __init__(
        self,
        form: str,
        split: Sized,
        read: Callable[[Ints], list[One]],
        gather: Callable[[list[One]], Many],
    ) -> None:
        self._form = form
        self._split = split
        self._read = read
        self._gather = gather

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> One: ...
    @overload
    def __getitem__(self, selection: Selection) -> Many: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> One | Many:
        if is_one(selection):
            position = as_position(selection, len(self))
            (one,) = self._read(np.array([position], dtype=np.int64))
            return one
        positions = as_positions(selection, len(self))
        return self._gather(self._read(positions))

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError("images are not turned into an array as a whole; select some: images[:10]")

    def __repr__(self) -> str:
        return f"<{self._form} of {self._split!r}>"


class _Owner(Protocol):
    """What a split needs of the store that it is of."""

    @property
    def address(self) -> str: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...
    @property
    def label_words(self) -> tuple[str, ...]: ...
    def int2str(self, label: int) -> str: ...
    def str2int(self, name: str) -> int: ...
    def stored(self, name: str) -> StoredSplit: ...


class Split:
    """Samples of a store, read on demand.

    Indexing follows NumPy along one axis: an integer gives a `Sample`, a slice, a
    list, an array of integers or a mask a `Batch`. The columns are whole arrays in
    memory, loaded when they are first used; of the images only the bytes of those
    selected are read. Get one from a `Store`; ``store["train+validation"]`` joins two.

    Attributes
    ----------
    name : str
        As it was asked for, such as ``train[:10%]``.
    """

    # NumPy would otherwise try to turn a split into an array in expressions.
    __array_ufunc__ = None

    def __init__(self, store: _Owner, name: str, parts: Sequence[Part]) -> None:
        self.name = name
        self._store = store
        self._parts = tuple(parts)
        self._columns: dict[str, NDArray[Any]] = {}
        self._stops = np.cumsum([len(part.positions) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._stops[-1])

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> Sample: ...
    @overload
    def __getitem__(self, selection: Selection) -> Batch: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> Sample | Batch:
        if is_one(selection):
            position = as_position(selection, len(self))
            (sample,) = self.__getitems__([position])
            return sample
        positions = as_positions(selection, len(self))
        for part in self._parts:
            part.stored.load(SAMPLE_COLUMNS)
        return Batch(self._images(positions), self.label[positions], self.file_name[positions])

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at some positions: what torch's DataLoader calls for a batch."""
        batch = self[list(indices)]
        return list(map(Sample, batch.image, batch.label.tolist(), batch.file_name.tolist()))

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in order; the next ones are read meanwhile."""
        groups = (
            range(i, min(i + _READ_AHEAD, len(self))) for i in range(0, len(self), _READ_AHEAD)
        )
        process = os.getpid()
        with ThreadPoolExecutor(1, thread_name_prefix="arraystore-read-ahead") as pool:
            ahead = deque((g, pool.submit(self.__getitems__, g)) for g in _first(groups, 2))
            try:
                while ahead:
                    if os.getpid() != process:  # forked meanwhile: the thread is not here
                        for group in (*(g for g, _ in ahead), *groups):
                            yield from self.__getitems__(group)
                        return
                    _, future = ahead.popleft()
                    samples = future.result()
                    ahead.extend((g, pool.submit(self.__getitems__, g)) for g in _first(groups, 1))
                    yield from samples
            finally:
                for _, future in ahead:
                    future.cancel()

    def __contains__(self, file_name: object) -> bool:
        """Whether there is a sample of that file name."""
        if not isinstance(file_name, str):
            raise TypeError(f"a split contains file names, got {type(file_name).__name__}")
        return file_name in self.file_name.tolist()

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError(
            "a split is not turned into an array, because that would read every image; "
            "split[:] loads them, split.label and split.file_name are arrays"
        )

    @property
    def label(self) -> Ints:
        """Index of the class of each sample, -1 if it has none: ndarray of int64, shape (n,)."""
        return self._column("label")

    @property
    def file_name(self) -> NDArray[Any]:
        """Name of each image in the source: ndarray of str, shape (n,).

        Of NumPy's `StringDType`: ``.tolist()`` gives Python strings, ``.astype(object)``
        an array that older libraries understand.
        """
        return self._column("file_name")

    @property
    def image_nbytes(self) -> Ints:
        """Size of each encoded image in bytes: ndarray of int64, shape (n,)."""
        return self._column("image_nbytes")

    @property
    def image_height(self) -> NDArray[np.int32]:
        """Height of each image in pixels: ndarray of int32, shape (n,)."""
        return self._column("image_height")

    @property
    def image_width(self) -> NDArray[np.int32]:
        """Width of each image in pixels: ndarray of int32, shape (n,)."""
        return self._column("image_width")

    @property
    def image_crc32c(self) -> NDArray[np.uint32]:
        """CRC-32C of each encoded image: ndarray of uint32, shape (n,)."""
        return self._column("image_crc32c")

    @property
    def image(self) -> Images[Pixels, list[Pixels]]:
        """Pixels: ``split.image[5]`` is uint8 (height, width, 3), a slice gives a list of them."""
        return Images("image", self, self._images, list)

    @property
    def image_bytes(self) -> Images[bytes, list[bytes]]:
        """Encoded images, byte for byte as stored: ``split.image_bytes[5]`` is bytes."""
        return Images("image_bytes", self, self._encoded, list)

    def resized(self, size: int | tuple[int, int]) -> Images[Pixels, Pixels]:
        """Pixels of one size, so that many make one array.

        Parameters
        ----------
        size : int or (int, int)
            Height and width; an integer means both. From each image the largest
            centred region of that shape is scaled, bilinear with antialiasing.

        Returns
        -------
        Images
            ``split.resized(224)[:64]`` is uint8 (64, 224, 224, 3).

        Raises
        ------
        ValueError
            If the size is not 1 or more.
        """
        height, width = size if isinstance(size, tuple) else (int(size), int(size))
        if height < 1 or width < 1:
            raise ValueError(f"size must be 1 or more in each direction, got {size}")

        def stack(images: list[Pixels]) -> Pixels:
            return np.stack(images) if images else np.empty((0, height, width, 3), np.uint8)

        return Images(
            f"resized(({height}, {width}))",
            self,
            lambda positions: self._images(positions, (height, width)),
            stack,
        )

    @property
    def positions(self) -> Ints:
        """Ndarray of int64, shape (n,): position of each sample in the stored split.

        Raises
        ------
        ValueError
            If samples of several stored splits are joined.
        """
        if len(self._parts) > 1:
            raise ValueError(f"{self.name!r} joins several stored splits; positions are per split")
        return np.asarray(self._parts[0].positions, dtype=np.int64)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Ids of the classes; label k is element k."""
        return self._store.label_names

    @property
    def label_words(self) -> tuple[str, ...]:
        """Human-readable names of the classes; those of label k are element k."""
        return self._store.label_words

    def int2str(self, label: int) -> str:
        """Return the id of a class, see `Store.int2str`."""
        return self._store.int2str(label)

    def str2int(self, name: str) -> int:
        """Return the label of a class, see `Store.str2int`."""
        return self._store.str2int(name)

    def __repr__(self) -> str:
        return f"<Split {self.name!r} of {self._store.address}: {len(self):,} samples>"

    def __reduce__(self) -> tuple[Callable[..., Split], tuple[Any, ...]]:
        parts = [(part.stored.name, part.positions) for part in self._parts]
        return _unpickled, (self._store, self.name, parts)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            parts = [_rows(part.stored.column(name), part.positions) for part in self._parts]
            self._columns[name] = parts[0] if len(parts) == 1 else _read_only(np.concatenate(parts))
        return self._columns[name]

    def _images(self, positions: Ints, size: Size | None = None) -> list[Pixels]:
        return self._each(positions, lambda stored, where: stored.decode(where, size))

    def _encoded(self, positions: Ints) -> list[bytes]:
        return self._each(positions, lambda stored, where: list(map(bytes, stored.read(where))))

    def _each(self, positions: Ints, read: Callable[[StoredSplit, Ints], list[T]]) -> list[T]:
        """Read from each stored split what is wanted of it; return all in the order asked."""
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            return read(stored, np.asarray(_take(own, positions)))
        values: dict[int, T] = {}
        which = np.searchsorted(self._stops, positions, side="right")
        for number, (stored, own) in enumerate(self._parts):
            mine = np.flatnonzero(which == number)
            within = positions[mine] - (self._stops[number] - len(own))
            values |= zip(mine.tolist(), read(stored, _take(own, within)), strict=True)
        return [values[i] for i in range(len(positions))]


def _take(own: range | Ints, positions: Ints) -> Ints:
    """Return ``own[positions]``, as positions in the stored split."""
    if isinstance(own, range):
        return positions * own.step + own.start
    taken: Ints = own[positions]
    return taken


def _rows(column: NDArray[Any], own: range | Ints) -> NDArray[Any]:
    """Return ``column[own]``: a view where the positions are consecutive, read-only always."""
    rows = column[own.start : own.stop] if isinstance(own, range) else column[own]
    return _read_only(rows)


def _read_only(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column


def _first(groups: Iterator[T], n: int) -> Iterator[T]:
    """Yield the first `n` there still are."""
    return (group for _, group in zip(range(n), groups, strict=False))


def _unpickled(store: _Owner, name: str, parts: Sequence[tuple[str, range | Ints]]) -> Split:
    return Split(store, name, [Part(store.stored(split), own) for split, own in parts])
