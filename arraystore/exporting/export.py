"""Export samples to the formats of other programs, shard by shard, so that it can be resumed."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from arraystore._arguments import ON_ERROR, as_count, as_path, check_bools, check_choice
from arraystore._checksum import crc32c
from arraystore.dataset.split import Split
from arraystore.errors import brief, escaped
from arraystore.exporting.contents import Contents, Group, Shard, group_bounds
from arraystore.exporting.formats import FORMATS, check_target, format_class
from arraystore.exporting.journal import ExportJournal, FinishedShard, remove_others
from arraystore.exporting.sound_images import read_images
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

    from arraystore._typing import Checksums, Ints
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
        read for the export, or stored checksums if none were. Of a whole split it is the digest in
        `Store.info`.
    skipped : tuple of (str, str)
        File name of each image left out, and the reason.
    """

    num_samples: int
    num_bytes: int
    content_digest: str
    skipped: tuple[tuple[str, str], ...]


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
        files may have none, and an export of references reads no images.
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
    on_error: str = ON_ERROR[0],
    resume: bool = False,
    sync: bool = True,
    progress: bool | None = None,
) -> ExportReport:
    """Export samples to a format of other programs, each image byte for byte as stored.

    Every image is compared with its checksum, except for references. The export appears at
    `target` when it is complete.

    Parameters
    ----------
    samples : Split
        Any selection. If it joins several splits, each gets its own shards.
    target : path
        A new name, or an empty folder, on a disk.
    format : str, default "folders"
        ``"folders"`` of classes; shards with the fields that ``"webdataset"``, TensorFlow Datasets
        (``"tfrecord"``, ``"array-record"``) or Hugging Face (``"parquet"``) expect; a table a split
        (``"lance"``, or ``"lance-references"``, which refers to the images where they are); or
        ``"arrays"`` of variable length in a target that ends in ``.h5``, ``.hdf5`` or ``.zarr``.
        See ``docs/exporting.md``.
    columns : sequence of str, optional
        Further columns to export; all by default.
    shard_nbytes : int, default 268435456
        Most bytes of images in a shard; a larger image is a shard of its own.
    on_error : {"raise", "skip"}
        Raise an error for an image whose stored bytes are wrong or missing, or leave its sample out
        and record it in the report. A server that does not respond is an error in any case.
        Arrays are written after all images were read once to find the damaged ones.
    resume : bool, default False
        Whether to continue an export that was interrupted, or to begin one. It may have had another
        `on_error`.
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
        If an image is damaged, unless ``on_error="skip"``. It is not written; images before it can
        be kept by `resume`.
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
    check_choice(on_error, "on_error", ON_ERROR)
    check_bools(resume=resume, sync=sync, progress=False if progress is None else progress)
    shard_nbytes = as_count(shard_nbytes, "shard_nbytes", least=1)
    place = Path(os.path.realpath(as_path(target)))
    form_class = format_class(format, place)
    check_target(place, form_class)
    contents = Contents.of(samples, columns, once=not form_class.takes_repeats)
    skips, skipped = on_error != ON_ERROR[0], dict[str, list[tuple[str, str]]]()
    with meter(progress) as shown:
        if skips and form_class.is_gapless:
            contents, skipped = _without_damaged(contents, shown)
            skips = False
        form = form_class(contents)
        fingerprint = _fingerprint(form, format, shard_nbytes)
        run = _Export(form, place, shard_nbytes, shown, skips=skips, sync=sync)
        shards, n_resumed = run.run(fingerprint, resume)
    kept = {*contents.columns} - {*form.left_out}
    return ExportReport(
        path=str(place),
        format=format,
        splits={
            split.name: _report(split, shards, skipped.get(split.name, ()))
            for split in contents.splits
        },
        has_checksums=samples.has_checksums and form.reads_images,
        left_out=tuple(name for name in samples.columns if name not in kept),
        num_resumed=n_resumed,
        seconds=time.monotonic() - began,
    )


def _fingerprint(form: ShardFormat, name: str, shard_nbytes: int) -> dict[str, str]:
    """Return all that an export in a format of that name depends on, as text."""
    contents = form.contents
    found = {
        "format": name,
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
    if not form.reads_images:
        stored = (one for split in contents.splits for one, _ in split.samples._sample_set)
        found["place of the images"] = ", ".join(sorted({one.handle.address for one in stored}))
    return found


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def _without_damaged(
    contents: Contents, shown: Meter
) -> tuple[Contents, dict[str, list[tuple[str, str]]]]:
    """Read all images; return the contents without those that are damaged, and these."""
    shown.start("reading images", contents.num_samples, contents.num_bytes)
    faults: dict[str, dict[int, str]] = {split.name: {} for split in contents.splits}
    whole = [Shard(split.name, 0, 1, 0, len(split)) for split in contents.splits]
    with closing(_read_ahead(contents, whole, reads=True, skips=True)) as stream:
        for split, indices, images, found in stream:
            faults[split.name] |= found
            shown.advance(len(indices), sum(map(len, images)))
    skipped = {split.name: _named(split, faults[split.name]) for split in contents.splits}
    return contents.without(faults), skipped


def _named(split: ExportedSplit, faults: Mapping[int, str]) -> list[tuple[str, str]]:
    return [(str(split.names[i]), reason) for i, reason in faults.items()]


def _read_ahead(
    contents: Contents, shards: Sequence[Shard], *, reads: bool, skips: bool
) -> Generator[_Read]:
    """Yield the images of some shards, read ahead in another thread, or samples without them."""
    splits = {split.name: split for split in contents.splits}
    wanted = (
        (splits[shard.split], np.arange(start, stop))
        for shard in shards
        for start, stop in group_bounds(splits[shard.split], shard)
    )

    def read(item: tuple[ExportedSplit, Ints]) -> _Read:
        split, indices = item
        faults: dict[int, str] = {}
        images = read_images(split.samples, indices, faults if skips else None) if reads else []
        return _Read(split, indices, images, faults)

    def prepare() -> None:
        for split in contents.splits:
            for stored, _ in split.samples._sample_set:
                stored.import_libraries()
                if skips:
                    stored.check_ranges()

    return ahead(wanted, read, prepare=prepare)


class _Read(NamedTuple):
    """Samples that are read together, and those of them that are damaged, by index."""

    split: ExportedSplit
    indices: Ints
    images: list[memoryview]
    faults: dict[int, str]


def _report(
    split: ExportedSplit,
    shards: Mapping[Shard, FinishedShard],
    skipped: Sequence[tuple[str, str]],
) -> ExportedSplitReport:
    mine = [finished for shard, finished in shards.items() if shard.split == split.name]
    checksums = np.concatenate([finished.checksums for finished in mine])
    faults = {i: reason for finished in mine for i, reason in finished.skipped.items()}
    kept = np.delete(np.arange(len(split)), [*faults])
    names, labels, nbytes = split.names[kept], split.samples.label[kept], split.nbytes[kept]
    return ExportedSplitReport(
        num_samples=len(kept),
        num_bytes=int(nbytes.sum()),
        content_digest=content_digest(names.tolist(), labels, nbytes, checksums),
        skipped=(*skipped, *_named(split, faults)),
    )


class _Export:
    """One run: the shards that are missing are written, then all are published together."""

    def __init__(
        self,
        form: ShardFormat,
        target: Path,
        shard_nbytes: int,
        shown: Meter,
        *,
        skips: bool,
        sync: bool,
    ) -> None:
        self._form, self._target, self._shown = form, target, shown
        self._skips, self._sync = skips, sync
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
                if not self._form.is_one_file
                and shard.is_in(self._content)
                and (self._skips or not shard.skipped)
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
        before = [s for s in self._shards if (s.split, s.number) in journal.shards]
        n_done = sum(s.stop - s.start for s in before)
        nbytes_done = sum(self._splits[s.split].nbytes_of(s) for s in before)
        self._shown.start(
            "exporting images", contents.num_samples, contents.num_bytes, done=(n_done, nbytes_done)
        )
        form.begin(self._content)
        stream = self._groups(missing)
        try:
            for shard in missing:
                checksums = np.empty(shard.stop - shard.start, np.uint32)
                skipped: dict[int, str] = {}
                groups = self._taken(stream, shard, checksums, skipped)
                written = form.write(self._content, shard, groups)
                if self._sync:
                    self._sync_files(written)
                sound = np.delete(checksums, [i - shard.start for i in skipped])
                finished = FinishedShard.of(sound, skipped, written, self._content)
                journal.add((shard.split, shard.number), finished)
        finally:
            stream.close()
        states = [(s, journal.shards[s.split, s.number].state) for s in self._shards]
        form.finish(self._content, states)

    def _groups(
        self, shards: Sequence[Shard]
    ) -> Generator[tuple[Group, Checksums, dict[int, str]]]:
        """Yield the samples of some shards, their checksums, and those that are left out."""
        reads = self._form.reads_images
        values = {
            (split.name, name): column.loaded_if_small()
            for split in self._splits.values()
            for name, column in split.columns.items()
        }
        with closing(
            _read_ahead(self._form.contents, shards, reads=reads, skips=self._skips)
        ) as stream:
            for split, indices, images, faults in stream:
                sound = indices[~np.isin(indices, [*faults])] if faults else indices
                group = Group(
                    sound,
                    split.names[sound].tolist(),
                    split.samples.label[sound],
                    images,
                    {name: values[split.name, name](sound) for name in split.columns},
                )
                if reads:
                    crc = np.fromiter(map(crc32c, images), np.uint32, len(images))
                else:
                    crc = split.samples._stored_checksums()[sound]
                yield group, crc, faults

    def _taken(
        self,
        stream: Iterator[tuple[Group, Checksums, dict[int, str]]],
        shard: Shard,
        checksums: Checksums,
        skipped: dict[int, str],
    ) -> Iterator[Group]:
        """Yield the next groups of a shard; note the checksums, and the images left out."""
        done = 0
        while done < len(checksums):
            group, crc, faults = next(stream)
            checksums[group.indices - shard.start] = crc
            skipped |= faults
            n = len(group) + len(faults)
            if len(group):
                yield group
            done += n
            nbytes = self._splits[shard.split].nbytes[group.indices]
            self._shown.advance(n, int(nbytes.sum()))

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
