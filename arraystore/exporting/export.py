"""Export samples to the formats of other programs, shard by shard, so that it can be resumed."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_count, as_path, check_bools, check_choice
from arraystore._checksum import crc32c
from arraystore.dataset.split import Split
from arraystore.errors import brief, escaped
from arraystore.exporting.contents import Contents, Group, Shard, group_bounds
from arraystore.exporting.formats import FORMATS, check_target, format_class
from arraystore.exporting.journal import ExportJournal, FinishedShard, remove_others
from arraystore.indexing.layout import content_digest
from arraystore.reading.read_ahead import ahead
from arraystore.schema import __version__
from arraystore.storage.folder_trees import remove_tree
from arraystore.storage.fsync import sync_path, sync_tree
from arraystore.storage.workspace_folder import work_folder
from arraystore.writing.progress import meter
from arraystore.writing.workspace import locked_folder, unlock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from arraystore._typing import Checksums
    from arraystore.exporting.contents import ExportedSplit
    from arraystore.exporting.shard_format import ShardFormat, Written
    from arraystore.writing.progress import Meter

SHARD_NBYTES: Final = 2**28
"""Bytes of images in a shard, by default."""

_JOURNAL: Final = "journal"
_CONTENT: Final = "content"
_OWN: Final = frozenset({"lock", _JOURNAL, _CONTENT})
_SYNCERS: Final = 8


@dataclass(frozen=True, slots=True)
class ExportedSplitReport:
    """Report of one exported split.

    Attributes
    ----------
    num_samples, num_bytes : int
        Number of exported images, and their total size in bytes.
    content_digest : str
        Identifies names, labels and image bytes in any order; computed from the bytes that were
        read for the export. Of a whole split it is the digest in `Store.info`.
    """

    num_samples: int
    num_bytes: int
    content_digest: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Report of an export.

    Attributes
    ----------
    path : str
    format : str
    splits : dict of str to ExportedSplitReport
    has_checksums : bool
        Whether all images were compared with stored checksums. A store whose images stay in other
        files may have none.
    left_out : tuple of str
        Further columns of the store that are not in the export.
    num_resumed : int
        Shards that an interrupted export had finished.
    seconds : float
        Wall time.
    """

    path: str
    format: str
    splits: dict[str, ExportedSplitReport]
    has_checksums: bool
    left_out: tuple[str, ...]
    num_resumed: int
    seconds: float

    @property
    def num_samples(self) -> int:
        """Number of exported images."""
        return sum(split.num_samples for split in self.splits.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def export(
    samples: Split,
    target: str | os.PathLike[str],
    format: str = FORMATS[0],  # noqa: A002 - the word that users look for
    *,
    columns: Sequence[str] | None = None,
    shard_nbytes: int = SHARD_NBYTES,
    resume: bool = False,
    sync: bool = True,
    progress: bool | None = None,
) -> ExportReport:
    """Export samples to a format of other programs, each image byte for byte as stored.

    Every image is compared with its checksum. The export appears at `target` when it is complete.

    Parameters
    ----------
    samples : Split
        Any selection. If it joins several splits, each gets its own shards.
    target : path
        A new name, or an empty folder, on a disk.
    format : {"folders", "webdataset", "tfrecord", "parquet", "array-record", "lance", "arrays"}
        Folders of classes; shards with the fields that WebDataset, TensorFlow Datasets or Hugging
        Face expect; a Lance table a split; or arrays of variable length in a target that ends in
        ``.h5``, ``.hdf5`` or ``.zarr``. See ``docs/exporting.md``.
    columns : sequence of str, optional
        Further columns to export; all by default.
    shard_nbytes : int, default 268435456
        Most bytes of images in a shard; a larger image is a shard of its own.
    resume : bool, default False
        Whether to continue an export that was interrupted, or to begin one.
    sync : bool, default True
        Whether to wait until all data is on the disk. Without it an export that a power failure
        interrupted should not be resumed.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    ExportReport

    Raises
    ------
    ChecksumError
        If an image is damaged. It is not written; images before it can be kept by `resume`.
    FileExistsError
        If the target exists and is not an empty folder, or an unfinished export exists and
        `resume` is false.
    FormatError
        If the names of images have no place in the format. Nothing is written in that case.
    KeyError
        If there is no such column.
    SourceError
        If the format needs a library that is not installed; the message names the extra.
    StorageError
        If another process exports to the same target.
    ValueError
        If an argument is wrong, or an interrupted export is of other samples, columns or options.

    Examples
    --------
    >>> import arraystore
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> report = arraystore.export(train.per_label(2), "few", "webdataset")
    >>> report.num_samples, sorted(path.name for path in Path("few").iterdir())
    (40, ['classes.txt', 'train-00000-of-00001.tar'])
    """
    began = time.monotonic()
    if not isinstance(samples, Split):
        raise TypeError(f"samples must be a Split, such as store['train'], got {brief(samples)}")
    check_choice(format, "format", FORMATS)
    check_bools(resume=resume, sync=sync, progress=False if progress is None else progress)
    shard_nbytes = as_count(shard_nbytes, "shard_nbytes", least=1)
    place = Path(os.path.realpath(as_path(target)))
    form_class = format_class(format, place)
    check_target(place, form_class)
    contents = Contents.of(samples, columns, once=not form_class.takes_repeats)
    form = form_class(contents)
    fingerprint = _fingerprint(contents, format, shard_nbytes)
    with meter(progress) as shown:
        shards, n_resumed = _Export(form, place, shard_nbytes, shown, sync).run(fingerprint, resume)
    kept = {*contents.columns} - {*form.left_out}
    return ExportReport(
        path=str(place),
        format=format,
        splits={split.name: _report(split, shards) for split in contents.splits},
        has_checksums=samples.has_checksums,
        left_out=tuple(name for name in samples.columns if name not in kept),
        num_resumed=n_resumed,
        seconds=time.monotonic() - began,
    )


def _fingerprint(contents: Contents, form: str, shard_nbytes: int) -> dict[str, str]:
    """Return all that an export depends on, as text."""
    found = {
        "format": form,
        "columns": ", ".join(contents.columns),
        "shard_nbytes": str(shard_nbytes),
        "version of arraystore": __version__,
        "digest of the classes": _digest(contents.label_names, contents.label_words),
    }
    for split in contents.splits:
        samples, digests = split.samples, []
        for column in split.columns.values():
            digests += [str(one.user_columns[column.name].digest) for one, _ in samples._sample_set]
        found[f"digest of the samples of {split.name}"] = _digest(
            split.names.tolist(),
            hashlib.sha256(samples.label).hexdigest(),
            hashlib.sha256(samples.image_nbytes).hexdigest(),
            hashlib.sha256(samples._stored_checksums()).hexdigest(),
            digests,
        )
    return found


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def _report(split: ExportedSplit, shards: Mapping[Shard, FinishedShard]) -> ExportedSplitReport:
    mine = [finished for shard, finished in shards.items() if shard.split == split.name]
    checksums = np.concatenate([finished.checksums for finished in mine])
    digest = content_digest(split.names.tolist(), split.samples.label, split.nbytes, checksums)
    return ExportedSplitReport(len(split), int(split.nbytes.sum()), digest)


class _Export:
    """One run: the shards that are missing are written, then all are published together."""

    def __init__(
        self, form: ShardFormat, target: Path, shard_nbytes: int, shown: Meter, sync: bool
    ) -> None:
        self._form, self._target, self._shown, self._sync = form, target, shown, sync
        self._folder = work_folder(target)
        self._content = self._folder / _CONTENT
        self._splits = {split.name: split for split in form.contents.splits}
        self._shards = [
            shard
            for split in form.contents.splits
            for shard in _shards_of(form, split, shard_nbytes)
        ]

    def run(
        self, fingerprint: Mapping[str, str], resume: bool
    ) -> tuple[dict[Shard, FinishedShard], int]:
        """Return all shards in their order, and how many an earlier process had finished."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        lock = locked_folder(self._folder, _OWN.__contains__, "exporting to the same target")
        try:
            journal = self._journal(fingerprint, resume)
            n_resumed = len(journal.shards)
            try:
                self._write(journal)
            except BaseException as error:
                if self._form.is_one_file or not journal.shards:
                    remove_tree(self._folder)
                    raise
                done = sum(len(one.checksums) for one in journal.shards.values())
                error.add_note(
                    escaped(
                        f"{self._folder} contains {done:,} of {self._form.contents.num_samples:,} "
                        "images in finished shards; export again with resume=True (--resume) to "
                        "keep them, or delete that folder"
                    )
                )
                raise
            self._publish()
            remove_tree(self._folder)
        finally:
            unlock(lock)
        return {
            shard: journal.shards[shard.split, shard.number] for shard in self._shards
        }, n_resumed

    def _journal(self, fingerprint: Mapping[str, str], resume: bool) -> ExportJournal:
        """Return the journal of an interrupted export, or a new one."""
        journal = ExportJournal(self._folder / _JOURNAL)
        if journal.shards and not resume:
            raise FileExistsError(
                escaped(
                    f"{self._folder}: holds an unfinished export to {self._target.name}; pass "
                    "resume=True (--resume) to finish it, or delete that folder to begin again"
                )
            )
        if journal.shards:
            journal.check(fingerprint)
            present = {
                key: shard
                for key, shard in journal.shards.items()
                if not self._form.is_one_file and shard.is_in(self._content)
            }
            journal.shards = present
        if journal.shards:
            remove_others(self._content, journal.files)
        else:
            if self._content.is_dir():
                remove_tree(self._content)
            self._content.unlink(missing_ok=True)
            journal.begin(fingerprint)
        return journal

    def _write(self, journal: ExportJournal) -> None:
        """Write the shards that are not recorded, and record them."""
        form, contents = self._form, self._form.contents
        missing = [s for s in self._shards if (s.split, s.number) not in journal.shards]
        finished = [s for s in self._shards if (s.split, s.number) in journal.shards]
        n_done = sum(s.stop - s.start for s in finished)
        nbytes_done = sum(
            int(self._splits[s.split].nbytes[s.start : s.stop].sum()) for s in finished
        )
        self._shown.start(
            "exporting images", contents.num_samples, contents.num_bytes, done=(n_done, nbytes_done)
        )
        form.begin(self._content)
        stream = self._groups(missing)
        try:
            for shard in missing:
                checksums = np.empty(shard.stop - shard.start, np.uint32)
                written = form.write(self._content, shard, self._taken(stream, checksums))
                if self._sync:
                    self._sync_files(written)
                key = shard.split, shard.number
                journal.add(key, FinishedShard.of(checksums, written, self._content))
        finally:
            stream.close()
        states = [(s, journal.shards[s.split, s.number].state) for s in self._shards]
        form.finish(self._content, states)

    def _groups(self, shards: Sequence[Shard]) -> Generator[Group]:
        """Yield the samples of some shards; images are read ahead in another thread."""
        wanted = (
            (self._splits[shard.split], start, stop)
            for shard in shards
            for start, stop in group_bounds(self._splits[shard.split], shard)
        )

        def read(item: tuple[ExportedSplit, int, int]) -> Any:
            split, start, stop = item
            return item, split.samples._reader.checked(np.arange(start, stop))

        def prepare() -> None:
            for split in self._splits.values():
                for stored, _ in split.samples._sample_set:
                    stored.import_libraries()

        values = {
            (split.name, name): column.loaded_if_small()
            for split in self._splits.values()
            for name, column in split.columns.items()
        }
        for (split, start, stop), images in ahead(wanted, read, prepare=prepare):
            indices = np.arange(start, stop)
            yield Group(
                start,
                split.names[start:stop].tolist(),
                split.samples.label[start:stop],
                images,
                {name: values[split.name, name](indices) for name in split.columns},
            )

    def _taken(self, stream: Iterator[Group], checksums: Checksums) -> Iterator[Group]:
        """Yield the next groups of a shard, and note the checksums of their images."""
        done = 0
        while done < len(checksums):
            group = next(stream)
            checksums[done : done + len(group)] = [crc32c(image) for image in group.images]
            done += len(group)
            yield group
            self._shown.advance(len(group), sum(map(len, group.images)))

    def _sync_files(self, written: Written) -> None:
        paths = [self._content / name for name in written.files]
        with ThreadPoolExecutor(min(_SYNCERS, max(1, len(paths)))) as pool:
            list(pool.map(sync_path, [*paths, *{path.parent for path in paths}]))

    def _publish(self) -> None:
        """Give the complete export its name; an empty folder of that name is replaced."""
        if self._sync:
            self._shown.status("waiting for the disk")
            sync_tree(self._content)
        check_target(self._target, type(self._form))
        self._content.rename(self._target)
        sync_path(self._target.parent)


def _shards_of(form: ShardFormat, split: ExportedSplit, shard_nbytes: int) -> list[Shard]:
    bounds = form.bounds(split, shard_nbytes)
    return [
        Shard(split.name, number, len(bounds) - 1, start, stop)
        for number, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]
