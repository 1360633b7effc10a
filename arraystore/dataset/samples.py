"""Samples with NumPy's manner: integers, slices, arrays and masks in brackets."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, overload

import numpy as np

from arraystore.dataset.batch import Arena, Batch, Encoded, Images, Sample
from arraystore.errors import FormatError, escaped
from arraystore.indexing.selection import as_position, as_positions, as_size, is_one
from arraystore.reading.read_ahead import ahead
from arraystore.reading.stored_split import StoredSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints, Pixels
    from arraystore.dataset.class_names import Vocabulary
    from arraystore.dataset.sample_set import Parts
    from arraystore.indexing.selection import Selection
    from arraystore.reading.image_reader import ReadPlan
    from arraystore.reading.stored_split import Size

T = TypeVar("T")

_LONGEST_NAME: Final = 200
"""Characters: the name of a split that others were combined into would grow without end."""

_READ_AHEAD: Final = 64
"""Samples read at a time when a split is iterated."""


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
    def is_a(self, key: str) -> Ints: ...


class Samples:
    """Samples of one or more stored splits, read on demand: what a `Split` is made of.

    Parameters
    ----------
    store : Store
        What the samples are of.
    name : str
        What they are called; it is escaped, and cut off if it is long.
    parts : Parts
        Which samples they are.
    """

    # NumPy would otherwise try to turn a split into an array in expressions.
    __array_ufunc__ = None

    def __init__(self, store: _Owner, name: str, parts: Parts) -> None:
        name = escaped(name)
        self.name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        self._store = store
        self._parts = parts
        self._columns: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self._parts)

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
        return self.batch(as_positions(selection, len(self)))

    def batch(
        self, positions: Ints, size: Size | None = None, encoded: Encoded | None = None
    ) -> Batch[Any]:
        """Read and decode samples; made for the rooms above this one.

        Parameters
        ----------
        positions : ndarray of int64, shape (n,)
        size : int or (int, int), optional
            What to resize images to; they are one array then.
        encoded : Encoded, optional
            The samples, if they are read already.
        """
        if encoded is None:
            self._parts.fetch(positions)
            images = self._images(positions, size)
            return Batch(images, *self._parts.values(("label", "file_name"), positions))
        images = self._images(positions, size, encoded.views)
        return Batch(images, encoded.label, encoded.file_name)

    def import_libraries(self) -> None:
        """Import what reading and decoding would import, before threads do either."""
        for stored, _ in self._parts:
            stored.import_libraries()

    def encoded(self, positions: Ints) -> Encoded:
        """Read samples; made for the rooms above this one."""
        self._parts.fetch(positions)
        views = self.views(positions)
        return Encoded(positions, views, *self._parts.values(("label", "file_name"), positions))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at some positions: what torch's DataLoader calls for a batch."""
        batch = self[list(indices)]
        return list(map(Sample, batch.image, batch.label.tolist(), batch.file_name.tolist()))

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in order; the next ones are read meanwhile."""
        groups = (
            range(i, min(i + _READ_AHEAD, len(self))) for i in range(0, len(self), _READ_AHEAD)
        )
        for samples in ahead(groups, self.__getitems__, prepare=self.import_libraries):
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
        return Images("image", self, self._images)

    @cached_property
    def image_bytes(self) -> Images[bytes, list[bytes]]:
        """Encoded images, byte for byte as stored: ``split.image_bytes[5]`` is bytes."""
        whole = self._parts.whole  # of which the positions are these
        return Images("image_bytes", self, self._copies, whole.copy if whole else self._copy)

    @property
    def image_views(self) -> Images[memoryview, list[memoryview]]:
        """Encoded images as read-only memoryviews of a memory map: nothing is copied.

        Good for ``np.frombuffer``, decoders and sockets. Where there is no map (of a bucket, with
        ``mmap=False`` or ``checksum="always"``) they are views of what was read. A view keeps
        what it shows: the map of a file, or all that was read together with it.
        """
        return Images("image_views", self, self._views)

    def image_arena(self, selection: Selection) -> Arena:
        """Read encoded images into one piece of memory, with no object an image.

        Parameters
        ----------
        selection : slice, sequence of int or ndarray

        Returns
        -------
        Arena
            The bytes, uint8 of shape (n_bytes,), and where in them each image is.

        Examples
        --------
        >>> import arraystore
        >>> data, offsets = arraystore.open("1pct.zarr")["train"].image_arena(slice(0, 3))
        >>> len(offsets), offsets[-1] == len(data)
        (4, np.True_)
        """
        return Arena.of(self._views(as_positions(selection, len(self))))

    def resized(self, size: int | tuple[int, int]) -> Images[Pixels, Pixels]:
        """Pixels of one size, so that many make one array.

        Parameters
        ----------
        size : int or (int, int)
            Height and width; an integer means both. From each image the largest
            centred region of that shape is scaled, bilinear with antialiasing. A JPEG
            with 3 or more pixels for one in each direction is decoded at a fraction of
            its size: 2 of 255 away in the mean, or less, and 20 in the worst.

        Returns
        -------
        Images
            ``split.resized(224)[:64]`` is uint8 (64, 224, 224, 3).

        Raises
        ------
        ValueError
            If the size is not 1 or more.
        """
        height, width = as_size(size)

        return Images(
            f"resized(({height}, {width}))",
            self,
            lambda positions: self._images(positions, (height, width)),
        )

    @property
    def parts(self) -> Parts:
        """Which samples these are; made for the rooms above this one."""
        return self._parts

    @property
    def positions(self) -> Ints:
        """Ndarray of int64, shape (n,): position of each sample in the stored split.

        Raises
        ------
        ValueError
            If samples of several stored splits are joined.
        """
        only = self._parts.only
        if only is None:
            raise ValueError(f"{self.name!r} joins several stored splits; positions are per split")
        return read_only(np.asarray(only.positions, dtype=np.int64).view())

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
        return self._parts.plan(as_positions(... if selection is None else selection, len(self)))

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
        return escaped(f"<Split {self.name!r} of {self._store.address}: {len(self):,} samples>")

    def __reduce__(self) -> tuple[Callable[..., Samples], tuple[Any, ...]]:
        return type(self), (self._store, self.name, self._parts)

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
        return type(self)(self._store, name, self._parts.take(selection))

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = read_only(self._parts.column(name))
        return self._columns[name]

    def _copy(self, position: int) -> bytes:
        stored, own = self._parts.place(position)
        return stored.copy(own)

    def _copies(self, positions: Ints) -> list[bytes]:
        return self._each(positions, lambda stored, where, _: stored.copies(where))

    def _views(self, positions: Ints) -> list[memoryview]:
        return self._each(positions, lambda stored, where, _: stored.views(where))

    def views(self, positions: Ints, *, check: bool = False) -> list[memoryview]:
        """Read encoded images, neighbours into one memory; made for the rooms above this one."""
        read = StoredSplit.checked if check else StoredSplit.read
        return self._each(positions, lambda stored, where, _: read(stored, where))

    def _images(
        self, positions: Ints, size: Size | None = None, views: Sequence[memoryview] | None = None
    ) -> Any:
        """Decode images, read already or not: a list of arrays, or one where they are resized."""
        images = None if size is None else np.empty((len(positions), *as_size(size), 3), np.uint8)

        def decode(stored: StoredSplit, at: Ints, which: Sequence[int]) -> list[Pixels]:
            into = None if images is None else [images[i] for i in which]
            if views is None:
                return stored.images(at, into)
            return stored.decode([views[i] for i in which], at, into)

        decoded = self._each(positions, decode)
        return decoded if images is None else images

    def _each(
        self, positions: Ints, read: Callable[[StoredSplit, Ints, Sequence[int]], list[T]]
    ) -> list[T]:
        """Read from each stored split what is wanted of it; return all in the order asked.

        `read` is given the stored split, positions in it, and which of `positions` those are.
        """
        found = list(self._parts.locate(positions))
        if len(found) == 1:
            return read(*found[0])
        values: dict[int, T] = {}
        for stored, where, which in found:
            values |= zip(which, read(stored, where, which), strict=True)
        return [values[i] for i in range(len(positions))]


def read_only(column: NDArray[Any]) -> NDArray[Any]:
    """Return an array that can no longer be written to."""
    column.flags.writeable = False
    return column
