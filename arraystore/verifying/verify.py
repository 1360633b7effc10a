"""Comparison of a store with the specification, with its own checksums, and with its source.

Every problem is reported with its place, and one does not hide the others. The other modules of
this folder check one part each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_path, check_bools
from arraystore._threads import n_cpus
from arraystore.errors import FormatError, ShortReadError, SourceError, escaped
from arraystore.reader import open_store
from arraystore.schema import (
    COLUMNS,
    HIERARCHY,
    HIERARCHY_COLUMNS,
    PAYLOAD,
    ROOT_COLUMNS,
    SELECTIONS,
    DatasetInfo,
    SplitInfo,
)
from arraystore.sources import records
from arraystore.sources.imagenet2012_tables import wnids
from arraystore.sources.label_space import AUTO, IMAGENET, OWN, in_label_space, labels_among
from arraystore.sources.published import published_counts
from arraystore.sources.registry import (
    VERSIONS,
    check_source_options,
    folder_of,
    load_source,
    pattern_of,
)
from arraystore.sources.source_options import SourceOptions
from arraystore.storage.buckets import Buckets
from arraystore.storage.location import Location
from arraystore.storage.open_files import close_idle_files
from arraystore.verifying.columns import Columns, ColumnsCheck
from arraystore.verifying.images import ImagesCheck
from arraystore.verifying.parts import part_faults
from arraystore.verifying.problems import MAX_KEPT, Findings, Problem, ProblemGroup
from arraystore.verifying.read_errors import READ_ERRORS, is_access_error, record_errors
from arraystore.verifying.root import attribute_faults, class_faults
from arraystore.verifying.source import SourceCheck
from arraystore.verifying.user_columns import user_column_faults
from arraystore.writing.progress import Meter, meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager
    from pathlib import Path

    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.reader import Store
    from arraystore.schema import SplitParts
    from arraystore.sources.sample_table import Source
    from arraystore.storage.buckets import SourcePath
    from arraystore.storage.range_reader import RangeReader

_REMOTE_THREADS: Final = 8
"""Windows of a remote store that are read in parallel, because most of the time is latency."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of verifying a store.

    Attributes
    ----------
    store : str
        Address of the store.
    dataset : str
        Name, config and version of the data set; empty if the store cannot be opened.
    splits : dict of str to SplitInfo
        Attributes of the splits that could be read.
    decoded : bool
        Whether every image was decoded.
    source : str
        The source that the store was compared with; empty without.
    problems : tuple of Problem
        The first 1,000 problems, at most 500 of one stored object or array.
    num_problems : int
        Number of all problems.
    groups : tuple of ProblemGroup
        The problems, where problems of images of one stored object that differ only in numbers
        form one group; the first 1,000 groups, at most 500 of one stored object or array.
    seconds : float
        Wall time.
    source_damage : tuple of str
        All parts of the source's archives that cannot be read.
    not_in_source : dict of str to int
        Samples that the source does not have, by split. Only of a store that samples were appended
        to, and so is of several sources.
    """

    store: str
    dataset: str
    splits: dict[str, SplitInfo]
    decoded: bool
    source: str
    problems: tuple[Problem, ...]
    num_problems: int
    groups: tuple[ProblemGroup, ...]
    seconds: float
    source_damage: tuple[str, ...] = ()
    not_in_source: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return self.num_problems == 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    address: str | os.PathLike[str],
    *,
    decode: bool = False,
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    split: str | None = None,
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None,
    fields: Mapping[str, str] | None = None,
    layout: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    allow_references: bool | str | os.PathLike[str] | Sequence[str] = False,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> VerifyReport:
    """Read a whole store and report every problem.

    The structure is compared with ``docs/format.md``; the columns with each other; the label index
    and the content digest with labels, names, sizes and checksums; each image with its checksum;
    and its header with the stored height and width. In Zarr, the length and index of every shard
    and the consolidated metadata are compared as well.

    Parameters
    ----------
    address : path-like
        Path or address of the store; see `arraystore.open`.
    decode : bool, default False
        Also decode every image.
    source : path-like, or mapping of str to iterable, optional
        The source of the store: the folder of the ImageNet archives; the folder of the images
        with or without the prefix ``folder:``; a pattern of files such as ``wds:PATTERN``; or
        the samples that were passed to `arraystore.write`, with arrays and pictures as PNG.
        Samples, labels and the bytes of every image are compared with it (of re-encoded images:
        format and size), and the number of samples of each class with the published one. If
        samples were appended to the store, this is one of its sources: all samples of it are
        compared by file name, with labels by the names of the classes.
    subset_list : path-like, optional
        Training images of the subset; see `arraystore.convert`.
    split, classes, fields, layout : optional
        Those that the store was converted with; see `arraystore.convert`.
    storage_options : mapping, optional
        See `arraystore.open`.
    source_options : mapping, optional
        Options of the buckets of `source`; see `arraystore.convert`.
    allow_references : bool, path-like, or sequence of str
        See `arraystore.open`. Images in other files are read like those in the store.
    executor : concurrent.futures.Executor, optional
        Reads and compares the images; threads by default. See `arraystore.convert`.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    VerifyReport
        A damaged store raises no error: `VerifyReport.problems` lists the damage.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `address`, or the folder `source` does not exist.
    SourceError
        If the source is missing, incomplete or damaged.
    SourceChangedError
        If the source changes while it is compared.
    StorageError
        If a server cannot be reached, or refuses the request; `StoreChangedError` if the store is
        replaced while it is read.

    Examples
    --------
    >>> import arraystore
    >>> report = arraystore.verify("1pct.zarr", decode=True, source="imagenet")
    >>> report.ok, report.problems
    (True, ())
    """
    check_bools(decode=decode, progress=False if progress is None else progress)
    began = time.perf_counter()
    location = Location.parse(address, storage_options)
    findings, splits, name = Findings(), {}, ""
    damage: tuple[str, ...] = ()
    not_in_source: dict[str, int] = {}
    try:
        store = open_store(location, allow_references=allow_references)
    except (FormatError, ShortReadError) as error:
        findings.add(Problem(str(error)))
    else:
        name = store.dataset
        origin = source if source is None or isinstance(source, Mapping) else os.fspath(source)
        buckets = Buckets(source_options)
        stated = "records" if isinstance(origin, Mapping) else origin or ""
        check_source_options(buckets, stated, subset_list)
        names = None if subset_list is None else buckets.path(subset_list)
        options = SourceOptions(
            split,
            classes,
            dict(fields or {}),
            layout=layout,
            skips_unreadable=True,
            buckets=buckets,
            executor=executor,
        )
        options.check()
        with meter(progress) as shown, _temporary_spool(origin) as spool:
            verification = _Verification(store, findings, shown, origin, names, options, spool)
            with verification.source_unchanged():
                splits = verification.run(decode=decode)
            damage, not_in_source = verification.source_damage, verification.not_in_source
    return VerifyReport(
        store=str(location),
        dataset=name,
        splits=splits,
        decoded=decode,
        source="" if source is None else "records" if isinstance(source, Mapping) else str(source),
        problems=tuple(findings.kept),
        num_problems=findings.count,
        groups=tuple(findings.groups),
        seconds=time.perf_counter() - began,
        source_damage=damage,
        not_in_source=not_in_source,
    )


@contextmanager
def _temporary_spool(source: str | Mapping[str, Any] | None) -> Iterator[Path | None]:
    """Give a place for images that are not byte ranges of files, if a source may have some."""
    if source is None:
        yield None
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="arraystore-") as folder:
        try:
            yield as_path(folder) / "spool"
        finally:
            close_idle_files()  # otherwise the space of the spool would be kept


class _Verification:
    """Checks an open store, part by part."""

    def __init__(
        self,
        store: Store,
        findings: Findings,
        shown: Meter,
        source: str | Mapping[str, Any] | None,
        subset_list: SourcePath | None,
        options: SourceOptions | None = None,
        spool: Path | None = None,
    ) -> None:
        self._store = store
        self._reader, self._container = store.opened
        self._info = DatasetInfo.from_attributes(
            self._container.attributes(), location=store.address
        )
        self._findings = findings
        self._shown = shown
        self._is_from_archives = self._info.version in VERSIONS.get(self._info.name, ())
        self._subset_list = subset_list
        self._spool = spool
        self._options = replace(options or SourceOptions(), partial=self._info.partial)
        self._folder = None
        self._source = None
        self._checks: dict[str, SourceCheck] = {}
        self.not_in_source: dict[str, int] = {}
        if self._info.parts and isinstance(source, str):
            self._is_from_archives &= folder_of(source, self._options.buckets) is None
        if isinstance(source, Mapping):
            assert spool is not None  # `_temporary_spool` gives one
            self._source = records.load(
                self._info.name, source, self._options, spool, status=shown.status
            )
        elif source is not None and pattern_of(source)[0]:
            self._source = load_source(
                source, spool=spool, options=self._options, status=shown.status
            )
        elif source is not None:
            self._folder = self._folder_of(source)
            self._source = self._load_source(self._folder)
        if self._source is not None:
            self._source = in_label_space(self._source, self._label_space())
            if self._info.parts:
                self._source = self._one_of_several(self._source)

    def source_unchanged(self) -> AbstractContextManager[None]:
        """Raise `SourceChangedError` if the source changes in this context."""
        return nullcontext() if self._source is None else self._source.states.unchanged()

    @property
    def source_damage(self) -> tuple[str, ...]:
        """Parts of the source that cannot be read."""
        return () if self._source is None else self._source.damage

    def run(self, *, decode: bool) -> dict[str, SplitInfo]:
        """Check everything; return the attributes of the splits."""
        self._shown.status("comparing metadata")
        n_classes = self._check_root()
        if self._source is not None:
            self._check_splits(self._source)
        splits = {}
        for name in dict.fromkeys(self._store):
            with self._recording(name):
                splits[name] = self._store.stored(name).stated
                if name in self._info.parts:
                    splits[name] = self._store.split_info(name)
        for name, info in splits.items():
            parts = self._info.parts.get(name)
            if parts is None:
                self._check_split(name, info, n_classes, decode=decode)
            else:
                self._check_parts(name, parts, n_classes, decode=decode)
        self._reader.check_unchanged()  # otherwise the problems may belong to two stores
        return splits

    def _recording(self, split: str = "") -> AbstractContextManager[None]:
        return record_errors(self._findings, split, is_remote=self._reader.is_remote)

    def _add(self, message: str, split: str = "", key: str = "") -> None:
        self._findings.add(Problem(message, split, key=key))

    def _check_root(self) -> int | None:
        """Check everything outside of splits; return the number of classes, if it is known."""
        where = self._store.address
        for fault in islice(attribute_faults(self._container.attributes(), where=where), MAX_KEPT):
            self._add(fault)
        lengths = []
        for name, column in ROOT_COLUMNS.items():
            with self._recording():
                found = self._container.describe_array(name)
                if found[:2] != column[:2]:
                    self._add(f"must be {column[:2]}, got {found[:2]}", key=name)
                self._add_faults(name, "")
                values = self._container.read_column(name, column.data_type).tolist()
                lengths.append(len(values))
                for fault in class_faults(values) if name == "label_name" else ():
                    self._add(fault, key=name)
        if len(set(lengths)) > 1:
            self._add(f"label_name and label_words must have the same length, got {lengths}")
        with self._recording():
            self._add_faults("", "")
        for name, splits in self._store.selections.items():
            for split in splits:
                self._check_selection(name, split)
        if self._info.label_hierarchy:
            self._check_hierarchy()
        return lengths[0] if lengths else None

    def _check_selection(self, name: str, split: str) -> None:
        if split not in self._store:
            self._add(f"the selection {name!r} names the split {split!r}, which does not exist")
            return
        path, dimension = f"{SELECTIONS}/{name}/{split}", f"selected_{split}"
        with self._recording(split):
            found = self._container.describe_array(path).dimension
            if found != dimension:
                self._add(f"its dimension must be {dimension!r}, got {found!r}", split, path)
            self._add_faults(path, split)
            self._store.stored(split).selection(name)

    def _check_hierarchy(self) -> None:
        """Check the structure of what the classes are kinds of."""
        for name, column in HIERARCHY_COLUMNS.items():
            path = f"{HIERARCHY}/{name}"
            with self._recording():
                found = self._container.describe_array(path)
                if found[:2] != column[:2]:
                    self._add(f"must be {column[:2]}, got {found[:2]}", key=path)
                self._add_faults(path, "")
        with self._recording():
            _ = self._store.hierarchy

    def _check_splits(self, source: Source) -> None:
        """Compare the names of splits and classes with those of the source."""
        for damage in source.damage:
            self._add(f"the source is damaged: {damage}")
        if self._info.parts:  # other sources may have others
            return
        if set(self._store) != set(source.splits):
            expected, found = (", ".join(some) or "none" for some in (source.splits, self._store))
            self._add(f"the source has the splits {expected}, the store has {found}")
        with self._recording():
            if self._store.label_names != source.label_name:
                self._add("must be the classes of the source", key="label_name")
            if self._store.label_words != source.label_words:
                self._add("must be the words for the classes of the source", key="label_words")
        with suppress(*READ_ERRORS):  # _check_hierarchy reports them
            stored = self._store.hierarchy
            # Stores of ImageNet's classes have no hierarchy if they are older than version 1.1.
            is_older = stored is None and source.label_name == wnids()
            if stored != source.hierarchy and not is_older:
                self._add("must be the hierarchy of the source's classes", key=HIERARCHY)

    def _check_parts(
        self, name: str, parts: SplitParts, n_classes: int | None, *, decode: bool
    ) -> None:
        """Check each part of a split, and what the root states of all."""
        if self._source is not None and name in self._source.splits:
            with self._recording(name):
                found = [self._store.stored(group).columns["file_name"] for group in parts.groups]
                self._checks[name] = SourceCheck(
                    self._source, name, self._info.reencoded, [names.tolist() for names in found]
                )
        for group in parts.groups:
            with self._recording(group):
                stated = self._store.stored(group).stated
                self._check_split(group, stated, n_classes, decode=decode)
        with self._recording(name):
            for fault in part_faults(self._store[name], parts):
                self._add(fault, name)
            if name in self._checks:
                names = self._store[name].file_name.tolist()
                n = self._checks[name].check_parts(names, self._skipped(name), self._findings)
                self.not_in_source[name] = n

    def _check_split(
        self, name: str, info: SplitInfo, n_classes: int | None, *, decode: bool
    ) -> None:
        findings, is_remote = self._findings, self._reader.is_remote
        self._shown.status(f"{name}: comparing columns")
        columns = ColumnsCheck(
            self._container, name, info, n_classes, findings, is_remote=is_remote
        ).run()
        for column in COLUMNS:
            with self._recording(name):
                self._add_faults(f"{name}/{column}", name)
        with self._recording(name):
            for user_column in self._store.stored(name).user_columns.values():
                self._shown.status(f"{name}: reading the column {user_column.name}")
                with self._recording(name):
                    for fault in user_column_faults(user_column):
                        self._add(fault, name, user_column.path)
        source = None if self._source is None else self._check_samples(name, columns)
        n_before = findings.count
        missing: frozenset[str] = frozenset()
        with self._recording(name):
            missing = self._add_faults(f"{name}/{PAYLOAD}", name)
        reader, manifest = (
            self._reader,
            self._manifest(name, info, is_reported=findings.count > n_before),
        )
        if manifest is None:
            return
        if info.is_referenced:
            references = self._references(name, columns)
            if references is None:
                return
            columns, reader, manifest = references
            is_remote = reader.is_remote
        size = columns.nbytes
        self._shown.start(f"{name}: reading images", len(size), int(size.sum()))
        check = ImagesCheck(reader, manifest, columns, name, missing, decode, source)
        executor = self._options.executor
        # Workers read places that are known to be complete, and sources that are not in a spool.
        if (
            executor is not None
            and findings.count == n_before
            and (source is None or source.can_be_divided)
        ):
            check.run_in(executor, self._store._handle, findings, self._shown)
            return
        check.run(findings, self._shown, max(n_cpus(), _REMOTE_THREADS if is_remote else 1))

    def _references(
        self, name: str, columns: Columns
    ) -> tuple[Columns, RangeReader, ChunkManifest] | None:
        """Return the places of images in other files, and who reads them.

        Raises
        ------
        ReferencedFileError
            If a file may not be followed.
        """
        found = None
        with self._recording(name):
            references = self._store.stored(name).references
            assert references is not None  # the caller looked at its attribute
            start, nbytes, file = columns.start, columns.nbytes, columns.values["image_file"]
            places = references.start_of(file, start, nbytes, np.arange(len(start)))
            for i in range(len(references.files)):
                _ = references.files[i]
            found = replace(columns, start=places), references.reader, references.payload
        return found  # noqa: RET504 - errors are recorded

    def _add_faults(self, path: str, split: str) -> frozenset[str]:
        """Record the faults of stored objects; return the keys of those that are missing."""
        missing = set()
        # A damaged length may promise more objects than can be asked for.
        for fault in islice(self._container.faults(path), MAX_KEPT):
            self._add(fault.text, split, fault.key)
            if fault.kind == "missing":
                missing.add(fault.key)
        return frozenset(missing)

    def _manifest(self, name: str, info: SplitInfo, *, is_reported: bool) -> ChunkManifest | None:
        """Return the places of the payload's chunks, also if some are missing."""
        path, found = f"{name}/{PAYLOAD}", None
        try:
            found = self._container.manifest(path)
            found.locate(np.zeros(1, np.int64), np.array([found.nbytes]))  # reads every index
        except READ_ERRORS as error:
            if is_access_error(error, is_remote=self._reader.is_remote):
                raise
            if not is_reported:
                self._add(str(error), name)
            with self._recording(name):
                found = self._container.manifest_from_metadata(path) if is_reported else None
        if found is not None and found.nbytes != info.num_bytes and not info.is_referenced:
            self._add(f"must have {info.num_bytes} bytes, got {found.nbytes}", name, path)
            return None
        return found

    def _folder_of(self, source: str) -> SourcePath:
        """Return the folder of the archives or images."""
        buckets = self._options.buckets
        folder = folder_of(source, buckets)
        if self._is_from_archives and folder is not None:
            raise SourceError(
                f"{source}: {self._info.full_name} was made from archives; give source (--source) "
                "their folder, without the prefix folder:"
            )
        folder = folder or buckets.path(source)
        if not folder.is_dir():
            kind = NotADirectoryError if folder.exists() else FileNotFoundError
            content = "archives" if self._is_from_archives else "images"
            raise kind(
                escaped(f"{folder}: is not a folder; give source (--source) that of the {content}")
            )
        return folder

    def _load_source(self, folder: SourcePath) -> Source:
        """List the samples that the store was made from."""
        info, status = self._info, self._shown.status
        if self._is_from_archives:
            return load_source(
                info.full_name,
                manual_dir=str(folder),
                subset_list=None if self._subset_list is None else str(self._subset_list),
                partial=info.partial,
                spool=self._spool,
                options=self._options,
                status=status,
            )
        options = replace(self._options, partial=False)
        return load_source(f"folder:{folder}", options=options, status=status)

    def _label_space(self) -> str:
        """Return the classes that the source was converted with, which the store shows."""
        with suppress(*READ_ERRORS):
            return IMAGENET if self._store.label_names == wnids() else OWN
        return AUTO

    def _one_of_several(self, source: Source) -> Source:
        """Return a source of a store that has several, with the splits and labels of the store."""
        names, parts = list(source.splits), list(self._info.parts)
        if len(names) == len(parts) == 1 and names[0] not in self._store:  # as it was appended
            splits = {parts[0]: source.splits[names[0]]}
            source = replace(
                source, splits=splits, faults={parts[0]: source.faults.get(names[0], {})}
            )
        classes = source.label_name
        with suppress(*READ_ERRORS):  # _check_root reports them
            classes = self._store.label_names
        splits = {
            name: replace(
                table, label=labels_among(table.label, source.label_name, classes, source.name)
            )
            for name, table in source.splits.items()
            if name in self._store
        }
        return replace(source, splits=splits)

    def _skipped(self, split: str) -> list[str]:
        """Return the file names that the store records as left out of a split."""
        rows = (row for row in self._info.skipped if row.get("split") == split)
        return [row.get("file_name", "") for row in rows]

    def _check_samples(self, name: str, columns: Columns) -> SourceCheck | None:
        """Compare the samples of a split, or of a part of one, with those of the source."""
        source, info = self._source, self._info
        split = info.split_of(name)
        if split in info.parts:
            part_check = self._checks.get(split)
            if part_check is not None:
                part_check.check_labels(name, columns, self._findings)
            return part_check
        if source is None or name not in source.splits:
            if source is not None and info.parts:
                self.not_in_source[name] = len(columns.nbytes)
            return None
        skipped = self._skipped(name)
        check = SourceCheck(source, name, info.reencoded)
        published = None
        if info.name in ("imagenet2012", "imagenet2012_subset") and not info.partial:
            published = published_counts(
                info.config, name, manual_dir=self._folder, subset_list=self._subset_list
            )
        check.check_samples(columns, skipped, published, self._findings)
        return check
