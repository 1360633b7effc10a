"""Splits: samples of a store, to index, query, draw from and loop over."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, overload

import numpy as np

from arraystore._arguments import (
    ON_ERROR,
    as_count,
    as_fraction,
    as_integer,
    as_seed,
    check_bools,
    check_choice,
)
from arraystore.dataset.arrow_table import arrow_table
from arraystore.dataset.batch import Arena
from arraystore.dataset.batch_buffers import as_outs
from arraystore.dataset.batches import SHUFFLES, Batches, Epoch
from arraystore.dataset.columns import Columns
from arraystore.dataset.episodes import Episodes
from arraystore.dataset.lazy_images import LazyImages
from arraystore.dataset.mapped import Mapped, image_and_label
from arraystore.dataset.sample_reader import SampleReader
from arraystore.dataset.sample_set import SampleSet, StoredPositions
from arraystore.dataset.saved_selection import SavedSelection, SelectedRanks
from arraystore.dataset.store_root import StoreRoot
from arraystore.errors import FormatError, OtherSelectionError, brief, escaped
from arraystore.images.crops import CROPS, LAYOUTS, RATIO, RESIZES, SCALE, Framing
from arraystore.images.resize import import_resizer
from arraystore.indexing.layout import hash_numbers, label_index
from arraystore.indexing.packed_names import is_pattern
from arraystore.indexing.positions import as_mask, compact, distinct, is_ascending, union
from arraystore.indexing.sampling import (
    Groups,
    class_balanced_counts,
    draw_from_groups,
    permutation,
    ranked,
    stratified_bounds,
    with_repeats,
)
from arraystore.indexing.selection import as_position, as_positions, as_size, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import SupportsIndex

    from numpy.typing import NDArray

    from arraystore._typing import Ints, Mask, Pixels
    from arraystore.dataset.batch import Batch, Sample
    from arraystore.indexing.selection import Selection
    from arraystore.reading.image_reader import ReadPlan
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.schema import SplitInfo

    Label = SupportsIndex | str

T = TypeVar("T")

_LONGEST_NAME: Final = 200
"""Characters: the name of a split that others were combined into would grow without limit."""

_LONGEST_CONDITION: Final = 60
"""Characters of a condition that are shown in the name of a split."""

_DIGEST_DIGITS: Final = 12
"""Digits of a content digest that are shown."""

_MOST_EMPTY_PARTS: Final = 2**16
"""Parts that `even_splits` makes of fewer samples: more than there are processes anywhere."""

_MOST_DRAWN: Final = 2**30
"""Most samples that one draw returns: their positions alone take 8 GiB."""


class Split:
    """Samples of a store, read on demand.

    Indexing follows NumPy along one axis: an integer gives a `Sample`; a slice, list, array of
    integers or mask gives a `Batch`. Columns are whole arrays in memory, loaded when they are first
    used; of the images only the bytes of those selected are read. Get a split from a `Store`;
    ``store["train+validation"]`` joins two.

    `where`, `select` and `sample` return a new split, and no image is read until you use it.
    A split pickles as the address of its store, positions, and the content digest and order
    that they belong to; if the store was replaced by another, every use of the unpickled
    split raises `StoreChangedError`. All randomness follows from `seed` and the other arguments:
    the same call gives the same samples, here and elsewhere.

    Parameters
    ----------
    root : StoreRoot
        The root of the store.
    name : str
        Name of the split; it is escaped, and shortened if it is long.
    samples : SampleSet
        The samples.

    Attributes
    ----------
    name : str
        How the split was made, such as ``train[:10%]`` or ``train.where(label='goldfish')``.
    """

    # Without this, NumPy would try to convert a split to an array in expressions.
    __array_ufunc__ = None

    # Functions of higher layers, which the top package sets.
    map_blocks: ClassVar[Callable[..., Any]]
    to_dask: ClassVar[Callable[..., Any]]
    to_xarray: ClassVar[Callable[..., Any]]
    torch: ClassVar[Callable[..., Any]]
    torch_batches: ClassVar[Callable[..., Any]]

    def __init__(self, root: StoreRoot, name: str, samples: SampleSet) -> None:
        name = escaped(name)
        self.name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        self._root = root
        self._samples = samples
        self._columns: dict[str, NDArray[Any]] = {}

    def __setattr__(self, name: str, value: object) -> None:
        if name != "name" and not name.startswith("_"):
            raise AttributeError(
                escaped(
                    f"a split does not keep the attribute {brief(name)}, which splits made from it "
                    "would lack; arraystore.add_column adds one value per sample to the store"
                )
            )
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> Sample: ...
    @overload
    def __getitem__(self, selection: Selection) -> Batch[list[Pixels]]: ...
    def __getitem__(
        self, selection: int | np.integer[Any] | Selection
    ) -> Sample | Batch[list[Pixels]]:
        if is_one(selection):
            (sample,) = self._reader.samples([as_position(selection, len(self))])
            return sample
        return self._reader.batch(as_positions(selection, len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at some positions; the DataLoader of torch calls this for a batch."""
        return self._reader.samples(indices)

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in order, and read the next ones meanwhile."""
        return iter(self._reader)

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError(
            "a split is not converted to an array, because that would read every image; "
            "split[:] loads them, split.label and split.file_name are arrays"
        )

    def __repr__(self) -> str:
        others = len(self._roots) - 1
        more = f" and {others} more store{'s' if others > 1 else ''}" if others else ""
        return escaped(
            f"<Split {self.name!r} of {self._root.address}{more}: {len(self):,} samples>"
        )

    def __reduce__(self) -> tuple[Callable[..., Split], tuple[Any, ...]]:
        members = [tuple(member) for member in self._samples]
        return _unpickled, (type(self), self._root.handle, self.name, members, self._samples.order)

    @cached_property
    def _reader(self) -> SampleReader:
        """Reader of the samples. Internal."""
        return SampleReader(self._samples, repr(self))

    @property
    def _sample_set(self) -> SampleSet:
        """The samples of the split. Internal."""
        return self._samples

    @property
    def _roots(self) -> dict[str, StoreRoot]:
        """The roots of all stores that samples are from, by address. Internal."""
        roots = {self._root.address: self._root}
        for stored, _ in self._samples:
            if stored.handle.address not in roots:
                roots[stored.handle.address] = StoreRoot(stored.handle)
        return roots

    @property
    def positions(self) -> Ints:
        """Ndarray of int64, shape (n,): position of each sample in the stored split.

        Raises
        ------
        ValueError
            If samples of several stored splits are joined.
        """
        only = self._samples.only
        if only is None:
            raise ValueError(
                f"{self.name!r} joins several stored splits or parts, and positions are those of "
                "one; select from one split, or copy the store, which joins parts"
            )
        return _read_only(np.asarray(only.positions, dtype=np.int64).view())

    # Columns

    @property
    def label(self) -> Ints:
        """Index of the class of each sample, -1 if it has none: ndarray of int64, shape (n,)."""
        return self._column("label")

    @property
    def file_name(self) -> NDArray[Any]:
        """Name of each image in the source: ndarray of str, shape (n,).

        The dtype is NumPy's `StringDType`: ``.tolist()`` gives Python strings, ``.astype(object)``
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
        """CRC-32C of each encoded image: ndarray of uint32, shape (n,).

        `ValueError` if they are not known, because images stay in other files.
        """
        if not self.has_checksums:
            raise ValueError(
                escaped(
                    f"{self.name}: the checksums of its images are not known; convert with "
                    "checksums=True (--checksums), or copy the store"
                )
            )
        return self._stored_checksums()

    def _stored_checksums(self) -> NDArray[np.uint32]:
        """Return the checksums as stored: zeros where they are not known. Internal."""
        return self._column("image_crc32c")

    @property
    def has_checksums(self) -> bool:
        """Whether the checksums of all images are known; see `SplitInfo.has_checksums`."""
        return all(stored.has_checksums for stored, _ in self._samples)

    @cached_property
    def columns(self) -> Columns:
        """Further columns, read on demand: ``split.columns["features"][:64]``.

        A mapping from names to `Column`. `arraystore.add_column` adds one to a store.
        """
        return Columns(self._samples, self.name)

    # Images

    @property
    def image(self) -> LazyImages[Pixels, list[Pixels]]:
        """Pixels: ``split.image[5]`` is uint8 (height, width, 3), a slice gives a list of them."""
        return LazyImages("image", self, self._reader.images)

    @cached_property
    def image_bytes(self) -> LazyImages[bytes, list[bytes]]:
        """Encoded images, byte for byte as stored: ``split.image_bytes[5]`` is bytes."""
        whole = self._samples.whole
        copy = whole.copy if whole else self._reader.copy
        return LazyImages("image_bytes", self, self._reader.copies, copy)

    @property
    def image_views(self) -> LazyImages[memoryview, list[memoryview]]:
        """Encoded images as read-only memoryviews of a memory map: nothing is copied.

        Good for ``np.frombuffer``, decoders and sockets. Without a map (in a bucket, with
        ``mmap=False`` or ``checksum="always"``) they are views of memory that was read into. A view
        keeps its memory alive: the map of a file, or everything that was read together with it.
        """
        return LazyImages("image_views", self, self._reader.views)

    def image_arena(self, selection: Selection) -> Arena:
        """Read encoded images into one array, without a Python object per image.

        Parameters
        ----------
        selection : slice, sequence of int or ndarray

        Returns
        -------
        Arena
            The bytes, uint8 of shape (n_bytes,), and the offsets of the images in them.

        Examples
        --------
        >>> import arraystore
        >>> data, offsets = arraystore.open("1pct.zarr")["train"].image_arena(slice(0, 3))
        >>> len(offsets), offsets[-1] == len(data)
        (4, np.True_)
        """
        return Arena.of(self._reader.views(as_positions(selection, len(self))))

    def resized(self, size: int | tuple[int, int]) -> LazyImages[Pixels, Pixels]:
        """Pixels of images resized to one size, so that several make one array.

        Parameters
        ----------
        size : int or (int, int)
            Height and width; an integer means both. From each image the largest
            centred region of that shape is scaled, bilinear with antialiasing. A JPEG that is three
            or more times as large in both directions is decoded at a fraction of its size; the
            error is at most 2/255 on average, and 20/255 at worst.

        Returns
        -------
        LazyImages
            ``split.resized(224)[:64]`` is uint8 (64, 224, 224, 3).

        Raises
        ------
        ValueError
            If the size is not 1 or more.
        """
        height, width = as_size(size)
        return LazyImages(
            f"resized(({height}, {width}))",
            self,
            lambda positions: self._reader.images(positions, Framing((height, width))),
        )

    def read_plan(self, selection: Selection | None = None) -> ReadPlan:
        """Return the cost of reading encoded images, without reading them.

        Parameters
        ----------
        selection : slice, sequence of int or ndarray, optional
            The samples; all by default.

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
        return self._reader.plan(as_positions(... if selection is None else selection, len(self)))

    # Classes

    @property
    def label_names(self) -> tuple[str, ...]:
        """Ids of the classes; label k is element k."""
        return self._per_class("label_name", self._root.class_names.ids)

    @property
    def label_words(self) -> tuple[str, ...]:
        """Human-readable names of the classes; those of label k are element k."""
        return self._per_class("label_words", self._root.class_names.words)

    def int2str(self, label: int) -> str:
        """Return the id of a class, see `Store.int2str`."""
        return self._root.class_names.id_of(label)

    def str2int(self, name: str) -> int:
        """Return the label of a class, see `Store.str2int`."""
        return self._root.class_names.label(name)

    @property
    def classes(self) -> list[str]:
        """Ids of the classes, as in torchvision's ``ImageFolder``."""
        return list(self.label_names)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Label of each id, as in torchvision's ``ImageFolder``."""
        return dict(self._root.class_names.label_of_id)

    @property
    def targets(self) -> list[int]:
        """Label of each sample, as in torchvision's ``ImageFolder``."""
        return list(map(int, self.label))

    def label_counts(self) -> Ints:
        """Return the number of samples of each label: ndarray of int64, shape (n_classes,).

        For a whole split it is read from the index of labels, otherwise from the column of labels.
        """
        if self._samples.whole is not None:
            return self._samples.whole.labels.counts()
        label = self.label[self.label >= 0]
        return np.bincount(label, minlength=self._n_classes).astype(np.int64)

    # Tables

    def to_arrow(self, *, images: bool = False) -> Any:
        """Return the columns as a `pyarrow.Table`; needs ``arraystore[parquet]``.

        pyarrow, Polars, DuckDB and others take a split as it is, without this call:
        ``pyarrow.table(train)``, ``polars.DataFrame(train)``, ``duckdb.sql("from train")``.

        Parameters
        ----------
        images : bool, default False
            Add the encoded images as the column ``image_bytes``; they are read once, and not
            copied again.

        Returns
        -------
        pyarrow.Table
            ``file_name``, ``label`` (null if there is none), ``label_name``, height, width and size
            of the images, and the further columns: lists where samples have several values.

        Raises
        ------
        SourceError
            If pyarrow is not installed.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.to_arrow().slice(5, 1).to_pylist()[0]["label_name"]
        'n04200800'
        """
        check_bools(images=images)
        columns: dict[str, Any] = {
            "file_name": self.file_name,
            "image_height": self.image_height,
            "image_width": self.image_width,
            "image_nbytes": self.image_nbytes,
        }
        columns |= {name: column.to_arrow() for name, column in self.columns.items()}
        encoded = self.image_arena(slice(None)) if images else None
        return arrow_table(columns, self.label, self.label_names, encoded)

    def to_pandas(self, *, images: bool = False) -> Any:
        """Return the columns as a `pandas.DataFrame`; see `to_arrow`."""
        return self.to_arrow(images=images).to_pandas()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the columns as a stream of Arrow's C interface, for other libraries."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    # Queries

    def where(
        self,
        *,
        label: Label | Iterable[Label] | None = None,
        file_name: str | Iterable[str] | None = None,
        is_a: str | Iterable[str] | None = None,
        **columns: Any,
    ) -> Self:
        """Return the samples that meet all conditions given, in the order of this split.

        A query by label reads two numbers and one group of the index of labels, never the
        column of labels; a query by name reads the names.

        Parameters
        ----------
        label : int, str, or iterable of them, optional
            Class by its number, its id (``"n01443537"``) or words for it
            (``"goldfish"``, in any case); several mean any of them.
        file_name : str or iterable of str, optional
            A name, or a pattern with ``*``, ``?`` and ``[abc]``; several mean any of them. If
            no sample has a name without ``/``, all whose names end in it after a ``/``.
        is_a : str or iterable of str, optional
            A wider concept, such as ``"dog"`` or ``"n02084071"``: samples of all classes that
            are a kind of it; several mean any of them. See `Store.is_a`.
        **columns : number, bool or str, or iterable of them
            Values of further columns, such as ``score=1.0``; several mean any of them. Of a
            column with several values per sample, any of these. The columns are read whole.

        Returns
        -------
        Split
            Empty if a pattern or value matches nothing.

        Raises
        ------
        KeyError
            If no class or file has such a name, with the closest matches; or if several classes
            have it, with all of them. If there is no such column.
        TypeError
            If no condition is given, or one compares text with a number.
        ValueError
            If `is_a` is given, and the store has no hierarchy of its classes.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.where(label="tench", file_name="*_[12].JPEG").file_name.tolist()
        ['n01440764_1.JPEG', 'n01440764_2.JPEG']
        >>> train.where(is_a="reptile").label_counts().nonzero()[0]
        array([52])
        """
        if label is None and file_name is None and is_a is None and not columns:
            raise TypeError("where() needs a condition: label=…, file_name=…, is_a=… or COLUMN=…")
        found = self
        if label is not None:
            indices = self._indices_of_labels(_listed(label))
            found = self._derived(indices, f"{self._term}.where(label={_short(label)})")
        if is_a is not None:
            kinds = union([self._root.kinds.labels(key) for key in _listed(is_a)]).tolist()
            indices = found._samples.among(lambda stored: stored.labels.positions(kinds))
            found = found._derived(indices, f"{found._term}.where(is_a={_short(is_a)})")
        if file_name is not None:
            positions = self._positions_by_name(_listed(file_name))
            indices = found._samples.among(lambda stored: positions[stored.location])
            name = f"{found._term}.where(file_name={_short(file_name)})"
            found = found._derived(indices, name)
        for column, value in columns.items():
            indices = np.flatnonzero(found.columns[column].is_any_of(_listed(value)))
            found = found._derived(indices, f"{found._term}.where({column}={_short(value)})")
        return found

    def select(self, selection: Selection | SavedSelection | str | os.PathLike[str]) -> Self:
        """Return selected samples as a split, without reading images.

        Parameters
        ----------
        selection : slice, sequence of int, ndarray, SavedSelection, str or path-like
            Anything that NumPy takes in brackets: positions, or a mask such as
            ``split.image_height >= 256``. A saved selection, or its file. The name of a selection
            that the store contains, such as ``"1pct"``. Of a saved or named selection, the samples
            that this split has are returned, in the order of the selection.

        Returns
        -------
        Split

        Raises
        ------
        IndexError
            If a position is out of bounds, a mask is not as long as the split, or the
            selection has neither integers nor booleans.
        KeyError
            If the store has no selection of that name.
        FormatError
            If a file is not a saved selection, or is damaged.
        ValueError
            If a saved or named selection is of other splits than these.
        """
        named = {name: None for root in self._roots.values() for name in root.dataset.selections}
        if isinstance(selection, str) and selection in named:
            indices = self._samples.indices_of(self._named_selection(selection))
            return self._derived(indices, f"{self._term}.select({selection!r})")
        if isinstance(selection, str) and not (os.sep in selection or selection.endswith(".json")):
            names = ", ".join(named) or "none"
            raise KeyError(
                escaped(
                    f"the store has no selection {brief(selection)}, it has {names}; the name of "
                    "a file with a saved selection must end in .json"
                )
            )
        if isinstance(selection, str | os.PathLike):
            path = os.fspath(selection)
            return self._select_saved(SavedSelection.load(path), path)
        if isinstance(selection, SavedSelection):
            return self._select_saved(selection, selection.made)
        if isinstance(selection, slice) and selection.step in (None, 1):
            start, stop, _ = selection.indices(len(self))
            name = f"{self._term}.select({start}:{stop})"
            return self._derived(range(start, max(start, stop)), name)
        if is_one(selection):
            one = brief(selection)
            raise IndexError(
                escaped(f"select() takes several positions, got {one}; use split[{one}]")
            )
        positions = as_positions(selection, len(self))
        return self._derived(positions, f"{self._term}.select({len(positions):,} positions)")

    def find(self, file_name: str) -> int:
        """Return the position in this split of the sample with a file name.

        The names are sorted when this is first used.

        Raises
        ------
        KeyError
            If no sample has that name, with the closest matches.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.find("n04200800_7.JPEG")
        5
        """
        position = self._position_of(file_name)
        if position is None:
            raise self._no_such_name(file_name)
        return position

    def __contains__(self, file_name: object) -> bool:
        """Whether a sample has that file name."""
        if not isinstance(file_name, str):
            raise TypeError(f"a split contains file names, got {type(file_name).__name__}")
        return self._position_of(file_name) is not None

    def selection(self) -> SavedSelection:
        """Return the identity of these samples, as a value that can be saved.

        It fits every store of the same content, in any order and container. For samples of several
        stored splits, it keeps the order within each.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.per_label(1).selection().save("fewshot.json")
        >>> arraystore.open("1pct.h5")["train"].select("fewshot.json")
        <Split 'train.select(fewshot.json)' of ...1pct.h5: 20 samples>
        """
        splits: dict[str, SelectedRanks] = {}
        for stored, positions in self._samples.by_stored().values():
            name = stored.name  # of several stores; the digest identifies the split
            while name in splits:
                name += "+"
            splits[name] = SelectedRanks(
                stored.info.content_digest, len(stored), stored.names.ranks(positions)
            )
        datasets = dict.fromkeys(root.dataset.full_name for root in self._roots.values())
        return SavedSelection(" + ".join(datasets), self.name, splits)

    def even_splits(self, n: int, *, drop_remainder: bool = False) -> list[Self]:
        """Cut into parts of equal length, as ``tfds.even_splits`` does.

        Parameters
        ----------
        n : int
            Number of parts, 1 or more. At most the number of samples, or 65,536 if that
            is more.
        drop_remainder : bool, default False
            Leave out the last samples if they are fewer than the parts. Otherwise the first
            parts have one more.

        Raises
        ------
        ValueError
            If `n` is out of range.
        TypeError
            If it is not an integer.

        Examples
        --------
        >>> import arraystore
        >>> validation = arraystore.open("1pct.zarr")["validation[:11]"]
        >>> [len(part) for part in validation.even_splits(3)]
        [4, 4, 3]
        """
        check_bools(drop_remainder=drop_remainder)
        n = as_count(n, "n", least=1, most=max(len(self), _MOST_EMPTY_PARTS))
        length, rest = divmod(len(self), n)
        lengths = np.full(n, length)
        if not drop_remainder:
            lengths[:rest] += 1
        stops = np.cumsum(lengths).tolist()
        starts = (stops - lengths).tolist()
        name = f"{self._term}.even_splits({n})"
        return [
            self._derived(range(a, b), f"{name}[{i}]")
            for i, (a, b) in enumerate(zip(starts, stops, strict=True))
        ]

    # Sets

    def __and__(self, other: object) -> Self:
        """Return the samples in both splits, once each, in their stored order."""
        return self._combined(other, "&", np.logical_and)

    def __or__(self, other: object) -> Self:
        """Return the samples in either split, once each, in their stored order."""
        return self._combined(other, "|", np.logical_or)

    def __sub__(self, other: object) -> Self:
        """Return the samples not in the other split, once each, in their stored order."""
        return self._combined(other, "-", np.greater)

    def __invert__(self) -> Self:
        """Return all other samples of the stored splits, in their stored order."""
        rest = [
            StoredPositions(stored, compact(_others(stored, positions)))
            for stored, positions in self._samples.by_stored().values()
        ]
        return type(self)(self._root, f"(~{self._term})", SampleSet(rest))

    # Draws

    def sample(self, n: int, *, seed: int = 0, replace: bool = False) -> Self:
        """Return samples drawn at random, in random order.

        Parameters
        ----------
        n : int
            Number of samples.
        seed : int, default 0
            In ``range(2**63)``. A smaller draw is the beginning of a larger one.
        replace : bool, default False
            Whether a sample may be drawn more than once.

        Raises
        ------
        ValueError
            If the split has fewer samples, or a number is negative.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.sample(3, seed=1).positions
        array([90, 78,  3])
        """
        check_bools(replace=replace)
        n = as_count(n, "n", most=_MOST_DRAWN if replace else max(len(self), _MOST_DRAWN))
        seed = as_seed(seed)
        if n > len(self) and not (replace and len(self)):
            remedy = " or pass replace=True" if len(self) else ""
            raise ValueError(
                escaped(f"{self.name}: has {len(self)} samples, not {n}; draw fewer{remedy}")
            )
        chosen = with_repeats(len(self), n, seed) if replace else permutation(len(self), seed)[:n]
        repeats = ", replace=True" if replace else ""
        return self._derived(chosen, f"{self._term}.sample({n}, seed={seed}{repeats})")

    def per_label(
        self,
        k: int | None = None,
        *,
        fraction: float | None = None,
        balanced: bool = True,
        seed: int = 0,
        replace: bool = False,
    ) -> Self:
        """Return the same number of samples of each label that occurs, drawn at random.

        The samples drawn of a label are those whose file names have the smallest keyed hashes, the
        hashes that also order a shuffled store. So the draw is the same in every order and
        container, and a draw of 1 is part of a draw of 5.

        Parameters
        ----------
        k : int
            Samples of each label.
        fraction : float
            Instead of `k`: this part of all labelled samples, rounded down, as equally
            as possible from all labels. If it cannot be divided equally, some labels give one more.
            SimCLR's lists of 1 % and 10 % of ImageNet are made like that.
        balanced : bool, default True
            If false, `fraction` of the samples of each label, as in `stratified_splits`: labels
            that have more samples give more.
        seed : int, default 0
            In ``range(2**63)``.
        replace : bool, default False
            Draw each from all samples of its label, so that it may occur more than once.

        Returns
        -------
        Split
            Grouped by label.

        Raises
        ------
        ValueError
            If a label has too few samples and `replace` is false, or a number is out of range.
        TypeError
            If not exactly one of `k` and `fraction` is given, or `balanced` is false with `k` or
            `replace`.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> few = train.where(label=["tench", "n01728572"]).per_label(2)
        >>> few.label
        array([ 0,  0, 52, 52])
        """
        if (k is None) == (fraction is None):
            raise TypeError("per_label() needs either k or fraction")
        check_bools(replace=replace, balanced=balanced)
        if not balanced:
            if fraction is None or replace:
                raise TypeError("per_label(balanced=False) needs fraction, and no replace")
            (part,) = self.stratified_splits([fraction], seed=seed)
            return part
        seed = as_seed(seed)
        sizes = np.diff(self._groups.indptr)
        labels = np.flatnonzero(sizes)
        if fraction is None:
            count = as_count(0 if k is None else k, "k", most=_MOST_DRAWN)
            amount = str(count)
            counts = np.full(len(labels), count, dtype=np.int64)
            if replace:
                as_count(count * len(labels), "k of all labels", most=_MOST_DRAWN)
        else:
            fraction = as_fraction(fraction, "fraction")
            amount = f"fraction={fraction}"
            ids = [self.label_names[label] for label in labels.tolist()]
            counts = class_balanced_counts(int(sizes.sum()), fraction, hash_numbers(ids, seed))
        if not replace:
            self._check_enough(labels, sizes[labels], counts)
        groups = self._ranked(seed)
        chosen = draw_from_groups(groups, labels, counts, replace=replace, seed=seed)
        repeats = ", replace=True" if replace else ""
        return self._derived(chosen, f"{self._term}.per_label({amount}, seed={seed}{repeats})")

    def stratified_splits(self, fractions: Sequence[float], *, seed: int = 0) -> list[Self]:
        """Divide the labelled samples at random, the samples of each label by the same fractions.

        No sample is in two parts. What cannot be divided is rounded up for some labels and down for
        others, so that the parts have their fractions of all samples as well. As in `per_label`,
        the samples of a part do not depend on the order or the container.

        Parameters
        ----------
        fractions : sequence of float
            In all at most 1, such as ``[0.8, 0.1, 0.1]``. If they add up to less, the rest of the
            samples is in no part.
        seed : int, default 0
            In ``range(2**63)``.

        Returns
        -------
        list of Split
            One for each fraction, grouped by label. Samples without a label are in none.

        Raises
        ------
        ValueError
            If a fraction is not in [0, 1], or they add up to more than 1.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> [len(part) for part in train.stratified_splits([0.75, 0.25])]
        [120, 40]
        """
        seed = as_seed(seed)
        parts = [as_fraction(fraction, "fraction") for fraction in fractions]
        sizes = np.diff(self._groups.indptr)
        labels = np.flatnonzero(sizes)
        ids = [self.label_names[label] for label in labels.tolist()]
        bounds = stratified_bounds(sizes[labels], parts, hash_numbers(ids, seed))
        groups = self._ranked(seed)
        name = f"{self._term}.stratified_splits({parts}, seed={seed})"
        return [
            self._derived(
                draw_from_groups(groups, labels, bounds[:, i + 1] - first, first=first),
                f"{name}[{i}]",
            )
            for i, first in enumerate(bounds.T[:-1])
        ]

    # Loops

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: str | bool = "full",
        balanced: bool = False,
        drop_last: bool = False,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        buffer_size: int = 1024,
        size: int | tuple[int, int] | None = None,
        crop: str = CROPS[0],
        flip: bool = False,
        scale: tuple[float, float] = SCALE,
        ratio: tuple[float, float] = RATIO,
        views: int = 1,
        layout: str = LAYOUTS[0],
        resize: str = RESIZES[0],
        out: Pixels | Sequence[Pixels] | None = None,
        on_error: str = "raise",
        columns: Sequence[str] = (),
    ) -> Batches:
        """Return the batches of one epoch; a loop over them reads and decodes ahead.

        The order follows from the arguments alone. With one process every sample occurs
        once; several processes get disjoint parts of the order, of equal length, and the
        last ``len(split) % world_size`` samples of the order are left out. (With `balanced`, the
        order itself has samples more than once.)

        Parameters
        ----------
        batch_size : int
            Samples in a batch; the last one may be shorter.
        seed, epoch : int, default 0
            Together determine the order; in ``range(2**63)``.
        shuffle : {"full", "block", False}, default "full"
            ``"full"`` is a permutation: one read for nearly every sample. ``"block"`` reads
            16 blocks of consecutive samples at a time, chosen at random,
            and shuffles those: few large reads, but neighbours stay close, and a
            buffer of encoded images is held twice. False keeps the order.
        balanced : bool, default False
            Every label as often as every other, in every batch: samples of labels with few are
            repeated, of labels with many some are left out, others in another epoch.
            Samples without a label are never included.
        drop_last : bool, default False
            Leave out a last batch that is shorter.
        start_batch : int, default 0
            Leave out the first batches, to resume an epoch.
        rank, world_size : int
            Number of this process, and of processes.
        buffer_size : int, default 1024
            Samples in a buffer of ``"block"``.
        size : int or (int, int), optional
            Height and width to resize to, see `resized`; ``Batch.image`` is one array then.
        crop : {"center", "random"}, default "center"
            The largest centred part with the aspect ratio of `size`; or a part of random area,
            shape and place, as torchvision's ``RandomResizedCrop`` draws it.
        flip : bool, default False
            Mirror half of the images, at random.
        scale, ratio : (float, float)
            Bounds of the area of a random crop, as a fraction of the image, and of its width
            divided by its height.
        views : int, default 1
            Parts of each image. With 2 or more, ``Batch.image`` has the shape (views, n, …), so
            that ``first, second = batch.image`` are the two views of contrastive learning.
        layout : {"NHWC", "NCHW"}, default "NHWC"
            Order of the dimensions: height, width and channel, or channel, height and width.
        resize : {"pillow", "opencv"}, default "pillow"
            What scales the parts. Pillow's pixels are those of torchvision. OpenCV is faster and
            needs ``arraystore[opencv]``; its pixels are less smooth where it reduces.
        out : ndarray of uint8, or sequence of several, optional
            Arrays that receive the images of the batches in turn, each of the shape of a whole
            batch; ``Batch.image`` is the array, or its beginning if the batch is shorter. They are
            written to when the loop requests a batch, and at no other time: a batch is valid until
            its array's next turn.
        on_error : {"raise", "skip"}
            Raise an error for an image that cannot be decoded, or leave its sample out of the batch
            and record it in ``Batches.skipped``. A batch keeps its place and becomes shorter,
            perhaps empty. Images with a wrong checksum are an error in any case.
        columns : sequence of str, optional
            Further columns; ``Batch.columns`` has their values by name. Columns of at most 64 MiB
            are loaded when the loop begins.

        Returns
        -------
        Batches
            It has a length, and a loop over it yields a `Batch` at a time. A damaged image ends
            the loop with an error that names it, an object that cannot be read with an error that
            names the object.

        Raises
        ------
        ValueError
            If an argument is out of range, `crop`, `flip`, `views`, `layout`, `resize` or `out` is
            given without `size`, or an array of `out` has another shape or dtype.
        SourceError
            If `resize` needs a library that is not installed.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> for batch in train.batches(64, seed=0, epoch=3, size=32):
        ...     print(batch.image.shape, batch.label[:3])
        (64, 32, 32, 3) [525 105 736]
        (64, 32, 32, 3) [368 841 315]
        (32, 32, 32, 3) [683 210   0]

        Crops and flips follow from seed, epoch and the position of the sample in the split alone,
        whatever the number of processes, and also if an epoch is resumed:

        >>> batches = train.batches(64, size=32, crop="random", flip=True, views=2, layout="NCHW")
        >>> next(iter(batches)).image.shape
        (2, 64, 3, 32, 32)
        """
        check_bools(balanced=balanced, drop_last=drop_last)
        check_choice(on_error, "on_error", ON_ERROR)
        if isinstance(columns, str):
            raise TypeError(escaped(f"columns must be a list of names, got {brief(columns)}"))
        order = Epoch(
            shuffle=SHUFFLES[0] if shuffle is True else shuffle or None,
            seed=as_seed(seed),
            epoch=as_seed(epoch, "epoch"),
            groups=self._groups if balanced else None,
            rank=as_count(rank, "rank"),
            world_size=as_count(world_size, "world_size"),
            buffer_size=as_count(buffer_size, "buffer_size", least=1),
        )
        framing = _framing(size, crop, flip, scale, ratio, views, layout, resize, order)
        n = as_count(batch_size, "batch_size", least=1)
        return Batches(
            self._reader,
            n,
            order,
            first=as_count(start_batch, "start_batch"),
            drop_last=drop_last,
            framing=framing,
            skips=on_error != ON_ERROR[0],
            columns=[self.columns[name] for name in columns],
            outs=() if out is None else as_outs(out, framing, n),
        )

    def episodes(
        self,
        n_way: int,
        k_shot: int,
        n_query: int,
        *,
        seed: int = 0,
        n_episodes: int | None = None,
        start: int = 0,
        size: int | tuple[int, int] | None = None,
    ) -> Episodes:
        """Return episodes of few-shot learning (Vinyals et al., 2016, arXiv:1606.04080).

        Episode i follows from `seed` and i alone. Labels with fewer than ``k_shot +
        n_query`` samples are never drawn.

        Parameters
        ----------
        n_way : int
            Labels in an episode.
        k_shot, n_query : int
            Samples of each label to learn from, and to test on; no sample is both.
        seed : int, default 0
            In ``range(2**63)``.
        n_episodes : int, optional
            Number of episodes; endless by default.
        start : int, default 0
            Number of the first.
        size : int or (int, int), optional
            Height and width to resize to, see `resized`.

        Returns
        -------
        Episodes
            A loop over it yields an `Episode` at a time, and reads and decodes ahead.

        Raises
        ------
        ValueError
            If too few labels have enough samples, or a number is negative.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> for task in train.episodes(n_way=5, k_shot=1, n_query=3, n_episodes=2, size=32):
        ...     print(task.labels, task.support.image.shape, task.query.image.shape)
        [  0 105 578 893 473] (5, 32, 32, 3) (15, 32, 32, 3)
        [893 841 736 788 262] (5, 32, 32, 3) (15, 32, 32, 3)
        """
        shape = (
            as_count(n_way, "n_way", least=1),
            as_count(k_shot, "k_shot", least=1),
            as_count(n_query, "n_query"),
        )
        return Episodes(
            self._reader,
            self.name,
            self._groups,
            shape,
            seed=as_seed(seed),
            numbers=(
                as_seed(start, "start"),
                None if n_episodes is None else as_count(n_episodes, "n_episodes"),
            ),
            framing=None if size is None else Framing(as_size(size)),
        )

    def map(self, transform: Callable[[Sample], T]) -> Mapped[T]:
        """Return ``transform(sample)`` of each sample, as a sequence for training loops.

        Parameters
        ----------
        transform : callable
            Given a `Sample`. It must pickle if worker processes are to call it.

        Returns
        -------
        Mapped
            If `transform` raises `StopIteration`, a `RuntimeError` is raised instead.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> heights = train.map(lambda sample: sample.image.shape[0])
        >>> heights[5], heights[:3]
        (333, [500, 240, 333])
        """
        return Mapped(self._reader, transform)

    def as_supervised(self) -> Mapped[tuple[Pixels, int]]:
        """Return ``(image, label)`` of each sample, as TFDS does with ``as_supervised=True``."""
        return self.map(image_and_label)

    # Internal

    @property
    def _term(self) -> str:
        """The name, in parentheses where an appended call would bind to its last term alone."""
        return f"({self.name})" if "+" in self.name and "(" not in self.name else self.name

    def _derived(self, indices: range | Ints, name: str) -> Self:
        """Return some of the samples, in the order of `indices`, under a new name."""
        return type(self)(self._root, name, self._samples.take(indices))

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            values = self._samples.values(lambda stored: stored.columns[name])
            self._columns[name] = _read_only(values)
        return self._columns[name]

    @property
    def _n_classes(self) -> int:
        return next(iter(self._samples)).stored.labels.n_classes

    def _per_class(self, column: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return a column of the root, after comparing its length with the labels."""
        for stored, _ in self._samples:
            if len(texts) != stored.labels.n_classes:
                raise FormatError(
                    f"{self._root.address}/{column}: must have {stored.labels.n_classes} values, "
                    f"one a class of {stored.name}, got {len(texts)}"
                )
        return texts

    def _indices_of_labels(self, keys: list[Label]) -> Ints:
        """Return the ascending positions in this split of the samples of some classes.

        The names of classes are read only if a key is text.
        """
        labels = sorted(
            {
                self._root.class_names.label(key)
                if isinstance(key, str)
                else as_integer(key, "a label that is not text")
                for key in keys
            }
        )
        try:
            return self._samples.among(lambda stored: stored.labels.positions(labels))
        except KeyError:
            _ = self.label_names  # raises a better error if the store names more classes
            raise

    def _position_of(self, file_name: str) -> int | None:
        def positions(stored: StoredSplit) -> Ints:
            position = stored.names.find(file_name)
            return np.array([] if position is None else [position], dtype=np.int64)

        indices = self._samples.indices_of(positions)
        return int(indices[0]) if len(indices) else None

    def _no_such_name(self, file_name: str) -> KeyError:
        """Return the error for a file name: the split that has it instead, or close matches."""
        others = [s.name for s, _ in self._samples if s.names.find(file_name) is not None]
        if others:
            return KeyError(
                escaped(f"{brief(file_name)} is in {others[0]}, but not in {self.name}")
            )
        near = [name for stored, _ in self._samples for name in stored.names.near(file_name)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return KeyError(escaped(f"there is no file name {brief(file_name)}{hint}"))

    def _positions_by_name(self, patterns: list[Any]) -> dict[str, Ints]:
        """Return ascending positions of names and patterns, by location of the stored split."""
        wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
        if wrong:
            raise TypeError(f"a file name is text, got {brief(wrong[0])}")
        exact = [pattern for pattern in patterns if not is_pattern(pattern)]
        positions = {}
        missing = set(exact)
        for stored, _ in self._samples:
            found = stored.names.find_all(exact)
            missing -= {name for name, i in zip(exact, found.tolist(), strict=True) if i >= 0}
            matching = [stored.names.matching(p) for p in patterns if is_pattern(p)]
            positions[stored.location] = union([distinct(found[found >= 0]), *matching])
        based = [name for name in exact if name in missing and "/" not in name]
        for stored, _ in self._samples:
            of_bases = [stored.names.with_base(name) for name in based]
            missing -= {name for name, some in zip(based, of_bases, strict=True) if len(some)}
            positions[stored.location] = union([positions[stored.location], *of_bases])
        for name in exact:
            if name in missing:
                raise self._no_such_name(name)
        return positions

    def _named_selection(self, name: str) -> Callable[[StoredSplit], Ints]:
        """Return a function from a stored split to the positions of a named selection."""
        splits_of = {
            address: root.dataset.selections.get(name, ()) for address, root in self._roots.items()
        }
        if not any(stored.name in splits_of[stored.handle.address] for stored, _ in self._samples):
            splits = dict.fromkeys(split for some in splits_of.values() for split in some)
            mine = [stored.name for stored, _ in self._samples]
            raise OtherSelectionError(
                f"the selection {name!r} is of {', '.join(splits)}, this split is of "
                f"{', '.join(mine)}"
            )
        none = np.empty(0, dtype=np.int64)
        return lambda stored: (
            stored.selection(name) if stored.name in splits_of[stored.handle.address] else none
        )

    def _select_saved(self, selection: SavedSelection, path: str) -> Self:
        """Return the samples of a saved selection that are in this split."""
        chosen = {stored.location: _ranks_of(stored, selection) for stored, _ in self._samples}
        if not any(chosen.values()):
            mine = ", ".join(
                _digest_of(stored.location, stored.info) for stored, _ in self._samples
            )
            saved = ", ".join(_digest_of(*entry) for entry in selection.splits.items())
            raise OtherSelectionError(
                f"{path}: was saved from different data, {selection.dataset} ({saved}); "
                f"this split is of {mine}"
            )

        def positions(stored: StoredSplit) -> Ints:
            selected = chosen[stored.location]
            if selected is None:
                return np.empty(0, dtype=np.int64)
            if selected.num_samples != len(stored):
                raise FormatError(
                    f"{path}: states {selected.num_samples} samples for the split, "
                    f"{stored.location} of the same digest has {len(stored)}"
                )
            return stored.names.order[selected.ranks]

        return self._derived(self._samples.indices_of(positions), f"{self._term}.select({path})")

    def _combined(self, other: object, sign: str, combine: Callable[[Mask, Mask], Mask]) -> Self:
        """Combine the positions of both in each stored split."""
        if not isinstance(other, Split):
            return NotImplemented  # type: ignore[no-any-return] # operators return it in Python
        if not self._roots.keys() & other._roots.keys():
            raise ValueError(
                escaped(
                    f"{sign} needs samples of one store, got {self._root.address} and "
                    f"{other._root.address}; concat() joins splits of several stores"
                )
            )
        mine, theirs = self._samples.by_stored(), other._samples.by_stored()
        for location in mine.keys() & theirs.keys():
            one, another = mine[location][0], theirs[location][0]
            if one is not another and one.identity != another.identity:
                raise ValueError(
                    escaped(
                        f"{sign} needs samples of one store, but {location} has other samples or "
                        "another order in one of the two: the store was replaced between them; "
                        "open it once and make both again"
                    )
                )
        none = np.empty(0, dtype=np.int64)
        members = []
        for location, (stored, _) in (mine | theirs if sign == "|" else mine).items():
            a, b = (
                as_mask(len(stored), side.get(location, (stored, none))[1])
                for side in (mine, theirs)
            )
            members.append(StoredPositions(stored, compact(np.flatnonzero(combine(a, b)))))
        return type(self)(self._root, f"({self.name} {sign} {other.name})", SampleSet(members))

    @cached_property
    def _groups(self) -> Groups:
        """Positions in this split of the labelled samples, once each, by label."""
        whole = self._samples.whole
        if whole is not None:
            return whole.labels.groups
        first = self._samples.distinct()
        label = self.label if first is None else self.label[first]
        order, indptr = label_index(label, self._n_classes)
        return Groups(order if first is None else first[order], indptr)

    def _ranked(self, seed: int) -> Groups:
        """Return the groups, each in the order of the keyed hashes of the file names."""
        whole, only = self._samples.whole, self._samples.only
        if whole is not None:
            return whole.ranked(seed)
        if only is not None and only.stored.is_hashed(seed) and is_ascending(only.positions):
            return self._groups
        (keys,) = self._samples.gather(
            np.arange(len(self), dtype=np.int64),
            lambda stored, positions, _: (stored.name_keys(seed, positions),),
        )
        return ranked(self._groups, keys)

    def _check_enough(self, labels: Ints, sizes: Ints, counts: Ints) -> None:
        short = np.flatnonzero(sizes < counts)
        if len(short):
            label, size, count = (int(values[short[0]]) for values in (labels, sizes, counts))
            more = f" (and {len(short) - 1} more labels have too few)" if len(short) > 1 else ""
            raise ValueError(
                escaped(
                    f"{self.name}: label {label} ({self.label_names[label]}, "
                    f"{self.label_words[label]}) has {size} samples, not {count}{more}; "
                    "draw fewer, or pass replace=True, or a fraction with balanced=False"
                )
            )


def _unpickled(
    cls: type[Split],
    handle: StoreHandle,
    name: str,
    members: list[tuple[StoredSplit, range | Ints]],
    order: Ints | None,
) -> Split:
    """Return a split from the few values that its pickle has, so that it is small."""
    samples = SampleSet([StoredPositions(*member) for member in members], order)
    return cls(StoreRoot(handle), name, samples)


def _framing(
    size: int | tuple[int, int] | None,
    crop: str,
    flip: bool,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    views: int,
    layout: str,
    resize: str,
    order: Epoch,
) -> Framing | None:
    """Return how images become arrays, from the arguments of `Split.batches`."""
    check_choice(resize, "resize", RESIZES)
    check_choice(crop, "crop", CROPS)
    check_choice(layout, "layout", LAYOUTS)
    check_bools(flip=flip)
    views = as_count(views, "views", least=1)
    if size is None:
        if (crop, flip, views, layout, resize) != (CROPS[0], False, 1, LAYOUTS[0], RESIZES[0]):
            raise ValueError("crop, flip, views, layout and resize need a size")
        return None
    import_resizer(resize)
    return Framing(
        as_size(size),
        crop,
        flip,
        _bounds("scale", scale, 1.0),
        _bounds("ratio", ratio, math.inf),
        views,
        layout,
        order.seed,
        order.epoch,
        resize,
    )


def _bounds(name: str, pair: tuple[float, float], most: float) -> tuple[float, float]:
    low, high = map(float, pair)
    if not 0 < low <= high <= most:
        raise ValueError(f"{name} must be two ascending numbers over 0, got {brief(pair)}")
    return low, high


def _others(stored: StoredSplit, positions: Ints) -> Ints:
    """Return the ascending positions of all other samples that no later part replaces."""
    is_other = ~as_mask(len(stored), positions)
    is_other[stored.replaced] = False
    return np.flatnonzero(is_other)


def _read_only(column: NDArray[Any]) -> NDArray[Any]:
    """Return an array that can no longer be written to."""
    column.flags.writeable = False
    return column


def _ranks_of(stored: StoredSplit, selection: SavedSelection) -> SelectedRanks | None:
    """Return the entry of a selection with a split's content, preferably that of its name."""
    digest = stored.info.content_digest
    same = {n: entry for n, entry in selection.splits.items() if entry.content_digest == digest}
    return same.get(stored.name) or next(iter(same.values()), None)


def _digest_of(name: str, split: SplitInfo | SelectedRanks) -> str:
    return f"{name} {split.content_digest[:_DIGEST_DIGITS]}"


def _listed(condition: object) -> list[Any]:
    """Return the values of a condition: a single one, or each of several."""
    if isinstance(condition, str | bytes) or not isinstance(condition, Iterable):
        return [condition]
    return np.atleast_1d(condition).tolist() if isinstance(condition, np.ndarray) else [*condition]


def _short(condition: object) -> str:
    """Write a condition as it was given, cut off if it is long."""
    text = repr(condition if isinstance(condition, str) else _plain(condition))
    return text if len(text) <= _LONGEST_CONDITION else f"{text[: _LONGEST_CONDITION - 1]}…"


def _plain(condition: object) -> object:
    """Return NumPy's numbers and arrays as Python's."""
    if isinstance(condition, np.ndarray | np.generic):
        return condition.tolist()
    return condition
