"""Opening a store: addresses to splits, and what the store says of its data set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from arraystore._arguments import as_integer
from arraystore.dataset.class_names import Vocabulary
from arraystore.dataset.kinds import Kinds
from arraystore.dataset.sample_set import Part, Parts
from arraystore.dataset.split import Split
from arraystore.errors import FormatError, StoreChangedError, VersionError, brief, escaped
from arraystore.indexing.hierarchy import Hierarchy
from arraystore.indexing.selection import parse_split_string
from arraystore.reading.store_handle import OpenOptions, open_place
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import (
    FORMAT_VERSION,
    HIERARCHY,
    HIERARCHY_COLUMNS,
    HIERARCHY_VERSION,
    ROOT_COLUMNS,
    DatasetInfo,
    SplitInfo,
    check_version,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from zarr import Group

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerReader
    from arraystore.reading.store_handle import ObjectStore, Opening
    from arraystore.storage.range_reader import RangeReader


_TRIES: Final = 5
"""How often a store is opened that is replaced while it is opened."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """All that a store says of itself, but for the samples.

    Attributes
    ----------
    name, config, version : str
        Of the data set, as in ``imagenet2012_subset/1pct:5.0.0``.
    full_name : str
        The three in one.
    description, homepage, citation : str
        For people; `citation` is BibTeX.
    splits : dict of str to SplitInfo
        Number of samples and bytes, order, seed and digest of each split.
    label_names, label_words : tuple of str
        Ids of the classes, and their human-readable names.
    sources : tuple of (str, int)
        Name and size in bytes of what was converted.
    partial : bool
        Whether samples that belong to the data set were missing there.
    skipped : tuple of dict
        Images left out: split, file name, reason.
    reencoded : tuple of str
        Images whose bytes are not those of the source.
    selections : dict of str to tuple of str
        Named selections that the store keeps, and the splits each is of.
    label_hierarchy : str
        Version of the stored hierarchy of the classes, see `Store.is_a`; empty if there is none.
    writer, format_version : str
        What wrote the store, and the format it follows.
    """

    name: str
    config: str
    version: str
    full_name: str
    description: str
    homepage: str
    citation: str
    splits: dict[str, SplitInfo]
    label_names: tuple[str, ...]
    label_words: tuple[str, ...]
    sources: tuple[tuple[str, int], ...]
    partial: bool
    skipped: tuple[dict[str, str], ...]
    reencoded: tuple[str, ...]
    selections: dict[str, tuple[str, ...]]
    label_hierarchy: str
    writer: str
    format_version: str

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {info.num_samples:,}" for name, info in self.splits.items())
        return escaped(f"<StoreInfo {self.full_name}: {len(self.label_names):,} classes; {splits}>")


class Store(Mapping[str, Split]):
    """A store that is open for reading: a mapping from names to splits.

    Nothing except the metadata of the root is read until it is needed. A store can be
    used from many threads, and after a fork. It pickles as its address and options: an
    unpickled store opens what is at the address then, where an unpickled `Split` refuses
    a store that was replaced. Get one from `arraystore.open`.

    Parameters
    ----------
    opening : Opening
        Its place and options; nothing is opened yet.

    Attributes
    ----------
    address : str
        Where the store is, without a password.
    """

    def __init__(self, opening: Opening) -> None:
        self.address = opening.address
        self._opening = opening
        self._root: tuple[tuple[int, int], DatasetInfo] | None = None
        self._stored: dict[str, StoredSplit] = {}

    def read_root(self) -> tuple[tuple[int, int], DatasetInfo]:
        """Return the version of the format and what is said of the data set; read once."""
        if self._root is None:
            attributes = self._opening.container.attributes()
            version = check_version(attributes, location=self.address)
            if version > FORMAT_VERSION:
                newer, known = (".".join(map(str, v)) for v in (version, FORMAT_VERSION))
                warnings.warn(
                    escaped(
                        f"{self.address}: has format version {newer}, this release knows {known}; "
                        "what is new in it is ignored"
                    ),
                    stacklevel=3,
                )
            self._root = version, DatasetInfo.from_attributes(attributes, location=self.address)
        return self._root

    @property
    def _dataset(self) -> DatasetInfo:
        return self.read_root()[1]

    def __getitem__(self, name: str) -> Split:
        """Return a split, or a part of one, as TFDS writes them.

        Parameters
        ----------
        name : str
            ``train``, ``train[:10%]``, ``train[100:200]``, ``train+validation``; ``all``
            joins all splits.

        Returns
        -------
        Split

        Raises
        ------
        KeyError
            If there is no split of that name; the message has those there are.
        ValueError
            If the string is malformed, or a bound is outside the split.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"a store has splits, got {brief(name)}; store['train'][…] selects samples"
            )
        terms = parse_split_string(name, _Lengths(self))
        parts = [Part(self.stored(term.name), range(term.start, term.stop)) for term in terms]
        return Split(self, name, Parts.joined(parts))

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.splits)

    def __len__(self) -> int:
        return len(self._dataset.splits)

    def __contains__(self, name: object) -> bool:
        return name in self._dataset.splits

    @property
    def opened(self) -> tuple[RangeReader, ContainerReader]:
        """What reads the store's bytes, and its container; made for the rooms above this one."""
        return self._opening.reader, self._opening.container

    def stored(self, name: str) -> StoredSplit:
        """Return one split as it is stored; made for the rooms above this one."""
        if name not in self._stored:
            self._stored[name] = StoredSplit(self._opening, name)
        return self._stored[name]

    def zarr(self) -> Group:
        """Return the store as a group of zarr-python, for all that is not offered here.

        What is read through it is read by zarr-python: without checksums of images, without the
        limits of docs/format.md, and with that library's errors.

        Returns
        -------
        zarr.Group
            Read-only. In a bucket it makes its requests with the store's own connection.

        Raises
        ------
        TypeError
            If the store is an HDF5 file; use `h5py`.
        StorageError
            In a child process that was forked after its parent had read from a bucket.

        Examples
        --------
        >>> import arraystore
        >>> arraystore.open("1pct.zarr").zarr()["train/label"].shape
        (160,)
        """
        return self._opening.container.as_zarr()

    def h5py(self) -> Any:
        """Return the store as a file of h5py, for all that is not offered here.

        What is read through it is read by h5py: without checksums of images, without the limits of
        docs/format.md, and with that library's errors. It follows links to other files.

        Returns
        -------
        h5py.File
            Open for reading; it is to be closed. In a bucket it reads blocks of 4 MiB.

        Raises
        ------
        TypeError
            If the store is a Zarr store; use `zarr`.
        StorageError
            In a child process that was forked after its parent had read from a bucket.

        Examples
        --------
        >>> import arraystore
        >>> with arraystore.open("1pct.h5").h5py() as file:
        ...     file["train/label"].shape
        (160,)
        """
        return self._opening.container.as_h5py()

    @cached_property
    def info(self) -> StoreInfo:
        """What the store says of its data set, its splits and classes."""
        dataset = self._dataset
        said = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
        return StoreInfo(
            **said
            | {
                "full_name": dataset.full_name,
                "splits": {name: self.stored(name).info for name in self},
                "label_names": self.label_names,
                "label_words": self.label_words,
                "format_version": ".".join(map(str, self.read_root()[0])),
            }
        )

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Ids of the classes; label k is element k."""
        return self._texts("label_name")

    @cached_property
    def label_words(self) -> tuple[str, ...]:
        """Human-readable names of the classes; those of label k are element k."""
        return self._texts("label_words")

    def int2str(self, label: int) -> str:
        """Return the id of a class.

        Parameters
        ----------
        label : int
            In ``range(n_classes)``.

        Raises
        ------
        ValueError
            If there is no such class.
        TypeError
            If `label` is no integer.
        """
        number = as_integer(label, "label")
        if not 0 <= number < len(self.label_names):
            raise ValueError(f"label {brief(number)} is not in range({len(self.label_names)})")
        return self.label_names[number]

    def str2int(self, name: str) -> int:
        """Return the label of a class.

        Parameters
        ----------
        name : str
            Its id, such as ``n01440764``, or words for it, such as ``tench``.

        Raises
        ------
        KeyError
            If there is no such class; the message has the nearest there are. If words
            mean several, it has those.
        """
        return self.vocabulary.label(name)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the classes are called, as their labels."""
        return Vocabulary(self.label_names, self.label_words)

    def is_a(self, key: str) -> Ints:
        """Return the labels of the classes that are a kind of something.

        Parameters
        ----------
        key : str
            A concept of the hierarchy of the classes: its id, such as ``n02084071``, or words
            for it, such as ``dog``, in any case of letters. A class is one, too.

        Returns
        -------
        ndarray of int64
            Ascending labels.

        Raises
        ------
        KeyError
            If nothing is called that; the message has the nearest words. If words have several
            senses, it has those.
        ValueError
            If the store has no hierarchy.

        Examples
        --------
        >>> import arraystore
        >>> store = arraystore.open("1pct.zarr")
        >>> len(store.is_a("dog")), store.label_words[store.is_a("bird")[0]]
        (118, 'cock')
        """
        return self._kinds.labels(key)

    @cached_property
    def _kinds(self) -> Kinds:
        hierarchy = self.hierarchy
        if hierarchy is None:
            raise ValueError(
                escaped(
                    f"{self.address}: the store has no hierarchy of its classes, which is_a needs; "
                    "if they are those of ImageNet, convert it again"
                )
            )
        return Kinds(self.label_names, self.label_words, hierarchy)

    @cached_property
    def hierarchy(self) -> Hierarchy | None:
        """What the classes are kinds of; None if the store does not say."""
        version = self._dataset.label_hierarchy
        if not version:
            return None
        where = f"{self.address}/{HIERARCHY}"
        if version.partition(".")[0] != HIERARCHY_VERSION.partition(".")[0]:
            raise VersionError(
                f"{where}: version {brief(version)} cannot be read, this release reads "
                f"{HIERARCHY_VERSION.partition('.')[0]}.x; upgrade arraystore"
            )
        container = self._opening.container
        columns = {
            f"{HIERARCHY}/{name}": column.data_type for name, column in HIERARCHY_COLUMNS.items()
        }
        names, words, parent, indptr = container.read_columns(columns)
        hierarchy = Hierarchy(
            tuple(np.asarray(names).tolist()),
            tuple(np.asarray(words).tolist()),
            np.asarray(parent),
            np.asarray(indptr),
            str(container.attributes(HIERARCHY).get("notice", "")),
        )
        for fault in hierarchy.faults(len(self.label_names)):
            raise FormatError(f"{where}: {fault}")
        return hierarchy

    @property
    def selections(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the selections that the store keeps, and the splits each is of."""
        return self._dataset.selections

    @property
    def dataset(self) -> str:
        """Name, config and version of the data set."""
        return self._dataset.full_name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held open that would have to be closed."""

    # A mapping would compare its splits, of which each look gives a new one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} ({len(self.stored(name)):,} samples)" for name in self)
        return escaped(f"<Store {self.address}: {self._dataset.full_name}; {splits}>")

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        return Store, (self._opening,)

    def _texts(self, name: str) -> tuple[str, ...]:
        values = self._opening.container.read_column(name, ROOT_COLUMNS[name].data_type)
        return tuple(np.asarray(values).tolist())


class _Lengths(Mapping[str, int]):
    """Number of samples of each split, read only of those that are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> int:
        if name not in self._store:
            raise KeyError(name)
        return len(self._store.stored(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._store)

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, name: object) -> bool:
        return name in self._store


def open_store(
    address: str | os.PathLike[str] | ObjectStore | tuple[ObjectStore, str],
    *,
    checksum: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
    max_gap: int | None = None,
    max_in_flight: int = 64,
    mmap: bool = True,
) -> Store:
    """Open a store for reading, wherever it lies.

    Parameters
    ----------
    address : path-like, str, obstore store, or pair of an obstore store and a key
        A Zarr group or an HDF5 file: a path, or an address that begins with ``file://``,
        ``s3://``, ``gs://``, ``az://`` (``abfs://``), ``https://`` or ``http://``. Of an
        obstore store the root is taken, or the key in it that stands beside it.
        ``memory://`` addresses last as long as the process.
    checksum : {"auto", "always"}
        When encoded images are compared with their CRC-32C: whenever they are decoded and
        whenever they came over a network, or also when they were read from a local disk.
        ``always`` also compares labels and names with the content digest, and the index
        of the labels with the labels, when they are first used.
    storage_options : mapping, optional
        How to reach a bucket or a web server, in the names of fsspec (``anon``, ``key``,
        ``secret``, ``token``, ``endpoint_url``, ``region``, ``profile``, ``account_name``,
        ``account_key``, ``headers``, …) or of obstore. What is not given is taken from the
        environment and the files that the vendor's own tools read. Requests are anonymous
        only if ``anon`` says so. ``timeout``, ``read_timeout``, ``connect_timeout`` and
        ``retry_timeout`` are in seconds; with ``max_retries`` they bound how long a request
        that fails is repeated. Values given here are pickled with the store.
    max_gap : int, optional
        Two wanted ranges become one request if no more than so many unwanted bytes lie
        between them. By default 0 on a local disk, so that no byte is read in vain, and
        32 KiB elsewhere, which arrive sooner than the answer to another request.
    max_in_flight : int, default 64
        Most requests that wait for an answer at one time; of no effect on a local disk.
        Fewer spare a small server, more may help where an answer takes long.
    mmap : bool, default True
        Whether encoded images (``image_bytes``, ``image_views``, ``image_arena``) are taken
        from memory maps of local files. If somebody cuts a file short in the moment of a
        copy, or while a view is in use, or if the disk cannot read it, the process ends with
        SIGBUS. False is for file systems and neighbours with whom that happens. Images that
        are decoded are always read.

    Returns
    -------
    Store

    Raises
    ------
    FileNotFoundError
        If there is nothing at `address`.
    FormatError
        If what is there is not a store.
    VersionError
        If its format is of another major version.
    StorageError
        If a server cannot be reached, denies access, or does not support byte ranges.
    ValueError
        If an address or an option cannot be.
    TypeError
        If `mmap` is neither True nor False.

    Examples
    --------
    >>> import arraystore
    >>> arraystore.open("1pct.h5")["train"][5].image.shape
    (333, 500, 3)
    """
    options = OpenOptions(checksum, storage_options, max_gap, max_in_flight, mmap)
    store = Store(open_place(address, options))
    for _ in range(_TRIES - 1):
        with suppress(StoreChangedError):  # replaced between two reads: take the new one
            store.read_root()
            return store
        store = Store(open_place(address, options))
    store.read_root()
    return store
