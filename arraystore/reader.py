"""Opening a store: from an address to splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from arraystore.dataset.parts import samples_of_parts
from arraystore.dataset.sample_set import SampleSet, StoredPositions
from arraystore.dataset.split import Split
from arraystore.dataset.store_root import StoreRoot
from arraystore.errors import FormatError, StorageError, StoreChangedError, brief, escaped
from arraystore.indexing.selection import parse_split_string
from arraystore.reading.store_handle import OpenOptions, StoreHandle
from arraystore.reading.stored_split import StoredSplit
from arraystore.storage.location import Location
from arraystore.storage.referenced_files import as_allowed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from zarr import Group

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerReader
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.schema import SplitInfo
    from arraystore.storage.location import ObjectStore
    from arraystore.storage.range_reader import RangeReader


_TRIES: Final = 5
"""Attempts to open a store that is replaced while it is being opened."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Metadata of a store: its data set, its classes and its splits.

    Attributes
    ----------
    name, config, version : str
        Name of the data set, as in ``imagenet2012_subset/1pct:5.0.0``.
    full_name : str
        The three joined.
    description, homepage, citation : str
        For people; `citation` is BibTeX.
    splits : dict of str to SplitInfo
        Number of samples and bytes, order, seed and digest of each split.
    label_names, label_words : tuple of str
        Ids of the classes, and their human-readable names.
    sources : tuple of (str, int)
        Name and size in bytes of each file that was converted.
    partial : bool
        Whether samples of the data set were missing in the source.
    skipped : tuple of dict
        Images left out: split, file name, reason.
    reencoded : tuple of str
        Images whose bytes differ from those of the source.
    selections : dict of str to tuple of str
        Named selections of the store, and the splits of each.
    label_hierarchy : str
        Version of the stored hierarchy of the classes, see `Store.is_a`; empty if there is none.
    writer, format_version : str
        Program that wrote the store, and version of the format.
    columns : dict of str to dict of str to str
        Of each split that has further columns: their names, with data type and shape.
    references : tuple of str
        Splits with images that are in other files.
    parts : dict of str to tuple of str
        The groups of each split that samples were appended to, see `arraystore.append`.
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
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {info.num_samples:,}" for name, info in self.splits.items())
        return escaped(f"<StoreInfo {self.full_name}: {len(self.label_names):,} classes; {splits}>")


class Store(Mapping[str, Split]):
    """A store that is open for reading: a mapping from names to splits.

    Only the metadata of the root is read until more is needed. A store can be used from many
    threads, and after a fork. It pickles as its address and options: an unpickled store opens
    the current content of its address, while an unpickled `Split` refuses a store that was
    replaced. Get one from `arraystore.open`.

    Parameters
    ----------
    handle : StoreHandle
        The store, which is not opened yet.

    Attributes
    ----------
    address : str
        Location of the store, without a password.
    """

    def __init__(self, handle: StoreHandle) -> None:
        self.address = handle.address
        self._handle = handle
        self._root = StoreRoot(handle)
        self._stored: dict[str, StoredSplit] = {}
        self._of_parts: dict[str, list[StoredPositions]] = {}

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
            If the store has no split of that name; the message lists the splits.
        ValueError
            If the string is malformed, or a bound is outside the split.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"a store has splits, got {brief(name)}; store['train'][…] selects samples"
            )
        terms = parse_split_string(name, _Lengths(self))
        positions = [
            some for term in terms for some in self._members(term.name, term.start, term.stop)
        ]
        return Split(self._root, name, SampleSet.joined(positions))

    def _members(self, name: str, start: int, stop: int) -> list[StoredPositions]:
        """Return the samples ``[start, stop)`` of a split, part after part."""
        parts = self._root.dataset.parts.get(name)
        if parts is None:
            return [StoredPositions(self.stored(name), range(start, stop))]
        if name not in self._of_parts:
            self._of_parts[name] = samples_of_parts(parts, self._handle)
        found, first = [], 0
        for stored, positions in self._of_parts[name]:
            rows = slice(max(0, start - first), max(0, stop - first))
            found.append(StoredPositions(stored, positions[rows]))
            first += len(positions)
        return [some for some in found if len(some.positions)] or found[:1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._root.dataset.splits)

    def __len__(self) -> int:
        return len(self._root.dataset.splits)

    def __contains__(self, name: object) -> bool:
        return name in self._root.dataset.splits

    @property
    def opened(self) -> tuple[RangeReader, ContainerReader]:
        """Reader of the bytes of the store, and its container. Internal."""
        return self._handle.reader, self._handle.container

    def stored(self, name: str) -> StoredSplit:
        """Return one split as it is stored; of a split with parts, one of them. Internal."""
        if name not in self._stored:
            self._stored[name] = StoredSplit(self._handle, name)
        return self._stored[name]

    def zarr(self) -> Group:
        """Return the store as a group of zarr-python, for all that arraystore does not offer.

        zarr-python then reads the data: without checksums of images, without the limits of
        docs/format.md, and with that library's errors.

        Returns
        -------
        zarr.Group
            Read-only. In a bucket it uses the store's own connection.

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
        return self._handle.container.as_zarr()

    def h5py(self) -> Any:
        """Return the store as a file of h5py, for all that arraystore does not offer.

        h5py then reads the data: without checksums of images, without the limits of
        docs/format.md, and with that library's errors. It follows links to other files.

        Returns
        -------
        h5py.File
            Open for reading; close it after use. In a bucket it reads blocks of 4 MiB.

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
        return self._handle.container.as_h5py()

    def split_info(self, name: str) -> SplitInfo:
        """Return the attributes of one split, with all of its parts. Internal."""
        parts = self._root.dataset.parts.get(name)
        if parts is None:
            return self.stored(name).info
        is_referenced = not set(parts.groups).isdisjoint(self._root.dataset.references)
        return replace(parts.info, is_referenced=is_referenced)

    @cached_property
    def info(self) -> StoreInfo:
        """Metadata of the store."""
        version, dataset = self._root.read()
        attributes = {some.name: getattr(dataset, some.name) for some in fields(dataset)}
        return StoreInfo(
            **attributes
            | {
                "full_name": dataset.full_name,
                "splits": {name: self.split_info(name) for name in self},
                "parts": {name: parts.groups for name, parts in dataset.parts.items()},
                "label_names": self.label_names,
                "label_words": self.label_words,
                "format_version": ".".join(map(str, version)),
                "columns": {name: found for name in self if (found := self._columns(name))},
            }
        )

    def _columns(self, name: str) -> dict[str, str]:
        """Return type and shape of each further column of a split."""
        try:
            return {name: column.summary for name, column in self[name].columns.items()}
        except StoreChangedError:
            raise
        except (FormatError, StorageError):  # reported when a column is used, and by `verify`
            return {}

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Ids of the classes; label k is element k."""
        return self._root.class_names.ids

    @cached_property
    def label_words(self) -> tuple[str, ...]:
        """Human-readable names of the classes; those of label k are element k."""
        return self._root.class_names.words

    def int2str(self, label: int) -> str:
        """Return the id of a class.

        Parameters
        ----------
        label : int
            In ``range(n_classes)``.

        Raises
        ------
        ValueError
            If the label is out of range.
        TypeError
            If it is not an integer.
        """
        return self._root.class_names.id_of(label)

    def str2int(self, name: str) -> int:
        """Return the label of a class.

        Parameters
        ----------
        name : str
            Its id, such as ``n01440764``, or words for it, such as ``tench``.

        Raises
        ------
        KeyError
            If no class has that name, with the closest matches; or if several classes have it,
            with all of them.
        """
        return self._root.class_names.label(name)

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
            If no class or ancestor has that name, with the closest matches; or if the words have
            several senses, with all of them.
        ValueError
            If the store has no hierarchy.

        Examples
        --------
        >>> import arraystore
        >>> store = arraystore.open("1pct.zarr")
        >>> len(store.is_a("dog")), store.label_words[store.is_a("bird")[0]]
        (118, 'cock')
        """
        return self._root.kinds.labels(key)

    @property
    def hierarchy(self) -> Hierarchy | None:
        """Ancestors of the classes; None if the store has none. Internal."""
        return self._root.hierarchy

    @property
    def selections(self) -> Mapping[str, tuple[str, ...]]:
        """Named selections of the store, and the splits of each."""
        return self._root.dataset.selections

    @property
    def dataset(self) -> str:
        """Name, config and version of the data set."""
        return self._root.dataset.full_name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: a store holds nothing open."""

    # A mapping would compare its splits, and each lookup returns a new one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        sizes = {name: self.split_info(name).num_samples for name in self}
        splits = ", ".join(f"{name} ({n:,} samples)" for name, n in sizes.items())
        return escaped(f"<Store {self.address}: {self._root.dataset.full_name}; {splits}>")

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        return Store, (self._handle,)


class _Lengths(Mapping[str, int]):
    """Number of samples of each split, read when it is looked up."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> int:
        if name not in self._store:
            raise KeyError(name)
        return self._store.split_info(name).num_samples

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
    max_in_flight: int = 256,
    mmap: bool = True,
    allow_references: bool | str | os.PathLike[str] | Sequence[str] = False,
) -> Store:
    """Open a store for reading, on a disk, in a bucket or behind a web server.

    Parameters
    ----------
    address : path-like, str, obstore store, or pair of an obstore store and a key
        A Zarr group or an HDF5 file: a path, or an address that begins with ``file://``,
        ``s3://``, ``gs://``, ``az://`` (``abfs://``), ``https://`` or ``http://``. An obstore store
        alone stands for its root. ``memory://`` addresses last as long as the process.
    checksum : {"auto", "always"}
        When encoded images are compared with their CRC-32C: ``"auto"`` when they are decoded or
        come over a network, ``"always"`` also when they are read from a local disk.
        ``"always"`` also compares labels and names with the content digest, and the index
        of labels with the labels, when they are first used.
    storage_options : mapping, optional
        Options of a bucket or a web server, named as in fsspec (``anon``, ``key``,
        ``secret``, ``token``, ``endpoint_url``, ``region``, ``profile``, ``account_name``,
        ``account_key``, ``headers``, …) or in obstore. Options that are not given come from the
        environment and the files that the vendor's own tools read. Requests are anonymous
        only with ``anon``. ``timeout``, ``read_timeout``, ``connect_timeout`` and
        ``retry_timeout`` are in seconds; with ``max_retries`` they limit how long a failing
        request is retried. Values given here are pickled with the store.
    max_gap : int, optional
        Two byte ranges become one request if at most this many other bytes lie between them.
        By default 0 on a local disk, so that no other byte is read, and
        32 KiB elsewhere, which arrive sooner than the response to another request.
    max_in_flight : int, default 256
        Most requests in flight at one time, 64 of more than 1 MiB among them, and at most a quarter
        of the files that the process may open; no effect on a local disk. A small value protects
        a small server.
    mmap : bool, default True
        Whether encoded images (``image_bytes``, ``image_views``, ``image_arena``) are taken
        from memory maps of local files. If a file is truncated during a copy or while a view is
        in use, or if the disk cannot read it, the process ends with SIGBUS. Pass False where
        that may happen. Images that are decoded are never taken from a map.
    allow_references : bool, path-like, or sequence of str
        Whether images may be read from files outside of the folder that contains the store, if
        the store refers to such files: all of them, or those in a folder or below an address, or
        in several. Those in its folder always may. The environment variable
        ``ARRAYSTORE_ALLOW_REFERENCES`` allows more; see docs/references.md. Options of
        `storage_options` are also used for the addresses that a store names.

    Returns
    -------
    Store

    Raises
    ------
    FileNotFoundError
        If nothing exists at `address`.
    FormatError
        If it is not a store.
    VersionError
        If its format has another major version.
    StorageError
        If a server cannot be reached, denies access, or does not support byte ranges.
    ValueError
        If an address or an option is malformed or out of range.
    TypeError
        If `mmap` is neither True nor False.

    Examples
    --------
    >>> import arraystore
    >>> arraystore.open("1pct.h5")["train"][5].image.shape
    (333, 500, 3)
    """
    location = Location.parse(address, storage_options)
    options = OpenOptions(checksum, max_gap, max_in_flight, mmap, as_allowed(allow_references))
    store = Store(StoreHandle(location, options))
    for _ in range(_TRIES - 1):
        with suppress(StoreChangedError):  # replaced between two reads: open the new one
            store._root.read()
            return store
        store = Store(StoreHandle(location, options))
    store._root.read()
    return store
