"""Samples with NumPy's manner: integers, slices, arrays and masks in brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeVar, overload

import numpy as np

from arraystore.batch import Batch, Images, Sample
from arraystore.errors import FormatError
from arraystore.positions import compact, rows, take
from arraystore.read_ahead import ahead
from arraystore.selection import as_position, as_positions, is_one
from arraystore.stored import SAMPLE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore.labels import Vocabulary
    from arraystore.selection import Selection
    from arraystore.stored import Size, StoredSplit

    Ints = NDArray[np.int64]
    Pixels = NDArray[np.uint8]

T = TypeVar("T")

_READ_AHEAD: Final = 64
"""Samples read at a time when a split is iterated."""


class Part(NamedTuple):
    """Some samples of one stored split.

    Attributes
    ----------
    stored : StoredSplit
    positions : range or ndarray of int64
        Positions in it; a range (of step 1) where they are consecutive, so that it stays
        small.
    """

    stored: StoredSplit
    positions: range | Ints


class ReadPlan(NamedTuple):
    """What reading encoded images takes.

    Attributes
    ----------
    objects : int
        Stored objects that are read from.
    requests : int
        Byte ranges that are asked for.
    nbytes : int
        Bytes in those ranges.
    nbytes_wanted : int
        Bytes of the images; more than `nbytes` where an image is wanted twice.
    """

    objects: int
    requests: int
    nbytes: int
    nbytes_wanted: int


class _Owner(Protocol):
    """What a split needs of the store that it is of."""

    @property
    def address(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def selections(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...
    @property
    def label_words(self) -> tuple[str, ...]: ...
    def int2str(self, label: int) -> str: ...
    def str2int(self, name: str) -> int: ...
    def stored(self, name: str) -> StoredSplit: ...


class Samples:
    """Samples of one or more stored splits, read on demand: what a `Split` is made of.

    Parameters
    ----------
    store : Store
        What the samples are of.
    name : str
        What they are called.
    parts : sequence of Part
        One or more, end to end.
    order : ndarray of int64, shape (n,), optional
        The samples as places in the parts end to end, if they are not all of them in turn.
    """

    # NumPy would otherwise try to turn a split into an array in expressions.
    __array_ufunc__ = None

    def __init__(
        self, store: _Owner, name: str, parts: Sequence[Part], order: Ints | None = None
    ) -> None:
        self.name = name
        self._store = store
        self._parts = tuple(parts)
        self._order = order
        self._columns: dict[str, NDArray[Any]] = {}
        self._stops = np.cumsum([len(part.positions) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._stops[-1]) if self._order is None else len(self._order)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> Sample: ...
    @overload
    def __getitem__(self, selection: Selection) -> Batch[list[Pixels]]: ...
    def __getitem__(
        self, selection: int | np.integer[Any] | Selection
    ) -> Sample | Batch[list[Pixels]]:
        if is_one(selection):
            position = as_position(selection, len(self))
            (sample,) = self.__getitems__([position])
            return sample
        positions = as_positions(selection, len(self))
        for stored, _ in self._parts:
            stored.load(SAMPLE_COLUMNS)
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
        for samples in ahead(groups, self.__getitems__):
            yield from samples

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

    def read_plan(self, selection: Selection | None = None) -> ReadPlan:
        """Tell what reading encoded images will take, and read none of them.

        Parameters
        ----------
        selection : slice, sequence of int or ndarray, optional
            Of which samples; of all by default.

        Returns
        -------
        ReadPlan

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.read_plan(slice(0, 10)).requests      # neighbours are read together
        1
        """
        positions = as_positions(... if selection is None else selection, len(self))
        wanted = int(self.image_nbytes[positions].sum())
        plans = [stored.plan(where) for stored, where, _ in self.locate(positions)]
        objects, requests, nbytes = np.sum(plans, axis=0).tolist()
        return ReadPlan(objects, requests, nbytes, wanted)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Ids of the classes; label k is element k."""
        return self._of_classes("label_name", self._store.label_names)

    @property
    def label_words(self) -> tuple[str, ...]:
        """Human-readable names of the classes; those of label k are element k."""
        return self._of_classes("label_words", self._store.label_words)

    def int2str(self, label: int) -> str:
        """Return the id of a class, see `Store.int2str`."""
        return self._store.int2str(label)

    def str2int(self, name: str) -> int:
        """Return the label of a class, see `Store.str2int`."""
        return self._store.str2int(name)

    def __repr__(self) -> str:
        return f"<Split {self.name!r} of {self._store.address}: {len(self):,} samples>"

    def __reduce__(self) -> tuple[Callable[..., Samples], tuple[Any, ...]]:
        parts = [(part.stored.name, part.positions) for part in self._parts]
        return _unpickled, (type(self), self._store, self.name, parts, self._order)

    def _of_classes(self, name: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return texts, after a look whether there is one for each class of the labels."""
        for stored, _ in self._parts:
            n_classes = len(stored.column("label_indptr")) - 1
            if len(texts) != n_classes:
                raise FormatError(
                    f"{self._store.address}/{name}: must have {n_classes} values, one a class of "
                    f"{stored.name}, got {len(texts)}"
                )
        return texts

    @property
    def _term(self) -> str:
        """The name, in parentheses where more is to follow that is not meant of its end alone."""
        return f"({self.name})" if "+" in self.name and "(" not in self.name else self.name

    def _derived(self, selection: range | Ints, name: str) -> Self:
        """Return some of the samples, in the order of `selection`, which are positions here."""
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            taken = take(own, selection)
            part = Part(stored, taken if isinstance(taken, range) else compact(taken))
            return type(self)(self._store, name, [part])
        order = np.asarray(selection, dtype=np.int64)
        if self._order is not None:
            order = self._order[order]
        return type(self)(self._store, name, self._parts, order)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            parts = [rows(part.stored.column(name), part.positions) for part in self._parts]
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
            self._columns[name] = _read_only(joined if self._order is None else joined[self._order])
        return self._columns[name]

    def _images(self, positions: Ints, size: Size | None = None) -> list[Pixels]:
        return self._each(positions, lambda stored, where, _: stored.decode(where, size))

    def _encoded(self, positions: Ints) -> list[bytes]:
        return list(map(bytes, self._views(positions)))

    def _views(self, positions: Ints) -> list[memoryview]:
        """Read encoded images; views of images that lie close together share memory."""
        return self._each(positions, lambda stored, where, _: stored.read(where))

    def _decoded(
        self, positions: Ints, views: Sequence[memoryview], size: Size | None
    ) -> list[Pixels]:
        """Decode what `_views` read."""
        return self._each(
            positions,
            lambda stored, where, which: stored.pixels([views[i] for i in which], where, size),
        )

    def _each(
        self, positions: Ints, read: Callable[[StoredSplit, Ints, Sequence[int]], list[T]]
    ) -> list[T]:
        """Read from each stored split what is wanted of it; return all in the order asked.

        `read` is given the stored split, positions in it, and which of `positions` those are.
        """
        found = list(self.locate(positions))
        if len(found) == 1:
            return read(*found[0])
        values: dict[int, T] = {}
        for stored, where, which in found:
            values |= zip(which, read(stored, where, which), strict=True)
        return [values[i] for i in range(len(positions))]

    def locate(self, positions: Ints) -> Iterator[tuple[StoredSplit, Ints, Sequence[int]]]:
        """Yield each stored split, positions in it, and which of `positions` those are.

        Made for the rooms above this one.
        """
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            yield stored, np.asarray(take(own, positions)), range(len(positions))
            return
        places = positions if self._order is None else self._order[positions]
        part_of = np.searchsorted(self._stops, places, side="right")
        for number, (stored, own) in enumerate(self._parts):
            mine = np.flatnonzero(part_of == number)
            within = places[mine] - (self._stops[number] - len(own))
            yield stored, np.asarray(take(own, within)), mine.tolist()


def _read_only(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column


def _unpickled(
    kind: type[Samples],
    store: _Owner,
    name: str,
    parts: Sequence[tuple[str, range | Ints]],
    order: Ints | None,
) -> Samples:
    return kind(store, name, [Part(store.stored(split), own) for split, own in parts], order)
