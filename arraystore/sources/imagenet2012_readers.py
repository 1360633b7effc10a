"""The images of one split of ILSVRC 2012 in each of its forms, with their official names.

The official archives are read by `imagenet2012`; the other forms here. Names are those of the
archives, labels belong to names, and every label that a form states is compared with them.
"""

from __future__ import annotations

import csv
import json
import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import need
from arraystore.errors import SourceError, StorageError, brief
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.reading.read_ahead import ahead
from arraystore.sources.compressed import decompressed
from arraystore.sources.imagenet2012_forms import (
    CLASS_ARCHIVES,
    CLASS_FOLDERS,
    FLAT_FOLDER,
    PARQUET,
    SPLITS,
    TAR_GZ,
    TFRECORD,
    WEBDATASET,
)
from arraystore.sources.imagenet2012_names import (
    NOT_STATED,
    check_labels,
    is_name,
    label_of_wnid,
    resolve_names,
)
from arraystore.sources.junk import is_junk, junk_note, others_note
from arraystore.sources.parquet import opened
from arraystore.sources.sample_table import SampleTable, first_few
from arraystore.sources.spool import SPOOL
from arraystore.sources.tar import TarStream, open_archive, walk
from arraystore.sources.tfrecord import open_records
from arraystore.sources.train_example import Feature, parse_example
from arraystore.sources.walks import Walk, walk_all
from arraystore.sources.webdataset import REMOTE_WALKERS, samples_of, walked
from arraystore.storage.buckets import ObjectPath, open_text, paths_of, states_of
from arraystore.storage.file_states import FileState, FileStates, state_of
from arraystore.storage.packed_paths import PackedPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.sources.imagenet2012_forms import Form
    from arraystore.sources.sample_table import Status
    from arraystore.sources.spool import Spool
    from arraystore.sources.tar import TarMembers
    from arraystore.sources.webdataset import KeyedSample, OpenShard
    from arraystore.storage.buckets import SourcePath

_WALKERS: Final = 8
_BATCH: Final = 4096
_EXTENSIONS: Final = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_KAGGLE_COLUMNS: Final = ["ImageId", "PredictionString"]


@dataclass(frozen=True, slots=True)
class SplitImages:
    """The images of a split that were found.

    Attributes
    ----------
    files : sequence of Path or ObjectPath
        Files that hold images.
    states : FileStates
        Of `files`, before they were read.
    file_name : PackedNames, length n
        Official names.
    label : ndarray of int64, shape (n,)
    file : ndarray of int32, shape (n,)
        Which of `files`, or `SPOOL`.
    offset, nbytes : ndarray of int64, shape (n,)
    origin : (str, int)
        What was converted, and its size in bytes.
    notes, damage : tuple of str
        See `Source`.
    frames : ndarray of int32, shape (n, 2), optional
        See `SampleTable`.
    """

    files: Sequence[SourcePath]
    states: FileStates
    file_name: PackedNames
    label: Ints
    file: Ints
    offset: Ints
    nbytes: Ints
    origin: tuple[str, int]
    notes: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    frames: NDArray[np.int32] | None = None

    def table(self, first: int, n_files: int) -> SampleTable:
        """Return the samples, in a source where `files` begin at `first` of `n_files`."""
        file = np.where(self.file == SPOOL, n_files, self.file + first).astype(np.int32)
        columns = self.file_name, self.label, file, self.offset, self.nbytes
        return SampleTable(*columns, frames=self.frames)


@dataclass
class _Reading:
    """The images of a form that were found until now, packed."""

    form: Form
    wanted: Collection[str] | None
    spool: Spool | None
    status: Status
    partial: bool
    executor: Executor | None
    damage: list[str] = field(default_factory=list)
    names: bytearray = field(default_factory=bytearray)
    label: array[int] = field(default_factory=lambda: array("q"))
    file: array[int] = field(default_factory=lambda: array("i"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    nbytes: array[int] = field(default_factory=lambda: array("q"))

    def resolve(
        self,
        location: str,
        names: Sequence[str],
        stated: Ints | None = None,
        *,
        stated_by: str = "label",
        remedy: str = "",
    ) -> tuple[Ints, list[str], Ints]:
        """Return which images are wanted, and the official names and labels of these."""
        official, label = resolve_names(
            self.form.split, location, names, stated, stated_by=stated_by, remedy=remedy
        )
        if self.wanted is None:
            return np.arange(len(names)), official, label
        keep = [i for i, name in enumerate(official) if name in self.wanted]
        rows = np.array(keep, dtype=np.int64)
        return rows, [official[i] for i in keep], label[rows]

    def add(self, names: Sequence[str], label: Ints, file: int, offset: Ints, nbytes: Ints) -> None:
        """Add images of one file, or of the spool."""
        self.names += packed(names)
        self.label.frombytes(np.ascontiguousarray(label, np.int64).tobytes())
        self.file.frombytes(np.full(len(names), file, np.int32).tobytes())
        self.offset.frombytes(np.ascontiguousarray(offset, np.int64).tobytes())
        self.nbytes.frombytes(np.ascontiguousarray(nbytes, np.int64).tobytes())

    def add_spooled(self, name: str, label: int, data: bytes) -> None:
        """Append an image to the spool, and add it."""
        if self.spool is None:
            raise SourceError(f"{self.form.path}: needs space for images of compressed files")
        offset = self.spool.append(data)
        self.add([name], np.array([label]), SPOOL, np.array([offset]), np.array([len(data)]))

    def images(
        self, files: Sequence[SourcePath], states: FileStates, notes: Sequence[str] = ()
    ) -> SplitImages:
        """Return what was added."""
        total = int(states.values[:, 0].sum())
        return SplitImages(
            files=files,
            states=states,
            file_name=PackedNames(self.names),
            label=np.frombuffer(self.label, np.int64),
            file=np.frombuffer(self.file, np.int32),
            offset=np.frombuffer(self.offset, np.int64),
            nbytes=np.frombuffer(self.nbytes, np.int64),
            origin=(_origin_name(self.form), total),
            notes=tuple(notes),
            damage=tuple(self.damage),
        )


def read_form(
    form: Form,
    wanted: Collection[str] | None,
    spool: Spool | None,
    *,
    partial: bool = False,
    executor: Executor | None = None,
    status: Status,
) -> SplitImages:
    """Find the images of a split in one of its forms.

    Parameters
    ----------
    form : Form
        Of any kind except an official archive.
    wanted : collection of str, optional
        Official names of the images to keep, instead of all.
    spool : Spool, optional
        Takes images that are not byte ranges of files.
    partial : bool, default False
        Accept other bytes than zeros behind the end of archives.
    executor : concurrent.futures.Executor, optional
        Walks archives; threads by default.
    status : callable
        Shows which file is being read.

    Raises
    ------
    SourceError
        If a file is damaged, or holds other images; if a label that the form states is not the
        one that belongs to the name.
    """
    reading = _Reading(form, wanted, spool, status, partial, executor)
    if form.kind in _FOLDER_READERS:
        reading.status(f"listing files of {form.path}")
        found = _read_folders(reading, _FOLDER_READERS[form.kind])
    else:
        states = states_of(form.files)
        with states.unchanged():
            notes = _FILE_READERS[form.kind](reading)
        found = reading.images(form.files, states, notes)
    if form.labels is not None:
        _check_kaggle_labels(form.labels, found)
    return found


def _origin_name(form: Form) -> str:
    """Return the last two parts of a path, so that ``val`` and ``data`` say more."""
    path = form.path.absolute()
    files = f" ({len(form.files):,} files)" if form.files else ""
    return "/".join(path.parts[-2:]).lstrip("/") + files


# Folders


def _read_folders(
    reading: _Reading, listing: Callable[[_Listing], Iterator[_Folder]]
) -> SplitImages:
    """List images that are files of their own."""
    root, split = reading.form.path, reading.form.split
    listed = _Listing(root, split)
    paths = bytearray()
    for folder in listing(listed):
        stated = None
        if folder.label != NOT_STATED:
            stated = np.full(len(folder.names), folder.label, dtype=np.int64)
        rows, names, label = reading.resolve(
            str(folder.path), folder.names, stated, stated_by="class folder"
        )
        for number, (i, name, k) in enumerate(
            zip(rows.tolist(), names, label.tolist(), strict=True), len(reading.label)
        ):
            reading.names += name.encode() + b"\0"
            reading.label.append(k)
            reading.file.append(number)
            reading.offset.append(0)
            path = f"{str(folder.path).rstrip('/')}/{folder.names[i]}\0"
            paths += path.encode(errors=PackedPaths.errors)
    FileStates.known(listed.states).check()
    states = listed.states_of(PackedPaths(paths))
    reading.nbytes.frombytes(states.values[:, 0].tobytes())
    return reading.images(paths_of(states), states, listed.notes())


@dataclass(frozen=True, slots=True)
class _Folder:
    """The images of one folder; their label if the folder states it."""

    path: SourcePath
    names: list[str]
    label: int


@dataclass
class _Listing:
    """Lists folders, and keeps what they were and what was left out."""

    root: SourcePath
    split: str
    states: list[tuple[str, FileState]] = field(default_factory=list)
    objects: list[FileStates] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def of(self, path: SourcePath) -> tuple[list[str], list[str]]:
        """Return the sorted names of the folders and of the image files in a folder."""
        if isinstance(path, ObjectPath):
            return self._of_bucket(path)
        self.states.append((str(path), state_of(str(path))))
        folders, images = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if not self._accepts(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif not self._is_image(entry.name):
                    continue
                elif entry.is_file():
                    images.append(entry.name)
                else:
                    raise SourceError(
                        f"{entry.path}: must be a file, but is a broken link, pipe or device; "
                        "restore or remove it"
                    )
        return sorted(folders), sorted(images)

    def _of_bucket(self, path: ObjectPath) -> tuple[list[str], list[str]]:
        folders, found = path.entries()
        self.objects.append(found)
        names = [address.rpartition("/")[2] for address in found.paths]
        images = [name for name in names if self._accepts(name) and self._is_image(name)]
        return [name for name in folders if self._accepts(name)], images

    def _accepts(self, name: str) -> bool:
        """Whether a name is neither hidden nor of the system."""
        if is_junk(name):
            self.hidden.append(name)
            return False
        return True

    def _is_image(self, name: str) -> bool:
        if not name.lower().endswith(tuple(IMAGE_SUFFIXES)):
            self.others.append(name)
            return False
        return True

    def states_of(self, paths: PackedPaths) -> FileStates:
        """Return the states of images that were listed; those of objects are known from that."""
        if not self.objects:
            return FileStates.of(paths)
        known = FileStates(
            PackedPaths.of(address for some in self.objects for address in some.paths),
            np.concatenate([some.values for some in self.objects]),
            self.objects[0].buckets,
        )
        return known.find(paths)

    def of_split(self, names: Sequence[str]) -> list[str]:
        """Return names without those of the other splits, extracted into the same folder."""
        others = [split for split in SPLITS if split != self.split]
        return [name for name in names if not any(is_name(split, name) for split in others)]

    def notes(self) -> list[str]:
        """Say what was left out."""
        return [*junk_note(self.hidden, self.split), *others_note(self.others, self.split)]


def _class_folders(listed: _Listing) -> Iterator[_Folder]:
    folders, images = listed.of(listed.root)
    classes = {name: label for name in folders if (label := label_of_wnid(name)) is not None}
    beside = [name for name in images if is_name(listed.split, name)]
    if beside:
        raise SourceError(
            f"{listed.root}: has class folders, and {first_few(beside)} beside them; move the "
            "images into the folders of their classes, or all out of them"
        )
    listed.others += listed.of_split(images)
    listed.others += [f"{name}/" for name in folders if name not in classes]
    for name, label in classes.items():
        inside, names = listed.of(listed.root / name)
        listed.others += [f"{name}/{folder}/" for folder in inside]
        yield _Folder(listed.root / name, names, label)


def _flat_folder(listed: _Listing) -> Iterator[_Folder]:
    folders, names = listed.of(listed.root)
    listed.others += [f"{name}/" for name in folders if label_of_wnid(name) is None]
    yield _Folder(listed.root, listed.of_split(names), NOT_STATED)


# Archives


def _read_class_archives(reading: _Reading) -> list[str]:
    form = reading.form
    reading.status(f"reading the headers of {len(form.files):,} class archives")

    def members_of(number: int) -> tuple[int, TarMembers, list[str]]:
        with open_archive(form.files[number], is_one_of_many=True) as archive:
            return number, *walk(archive, partial=reading.partial).without_junk()

    hidden: list[str] = []
    numbers = (number for number in range(len(form.files)))
    n_walkers = REMOTE_WALKERS if isinstance(form.path, ObjectPath) else _WALKERS
    found = ahead(numbers, members_of, n_ahead=2 * n_walkers, n_threads=n_walkers)
    if reading.executor is not None:
        walks = (Walk(path, partial=reading.partial) for path in form.files)
        walked = enumerate(walk_all(reading.executor, walks))
        found = ((number, *members.without_junk()) for number, members in walked)
    for number, members, junk in found:
        hidden += junk
        path = form.files[number]
        label = label_of_wnid(path.stem)
        stated = np.full(len(members.names), label, dtype=np.int64)
        rows, names, labels = reading.resolve(
            str(path), members.names, stated, stated_by="class archive"
        )
        reading.add(names, labels, number, members.offsets[rows], members.nbytes[rows])
        reading.damage += members.unread
    return [*junk_note(hidden, form.split)]


def _read_tar_gz(reading: _Reading) -> list[str]:
    """Read compressed archives front to back; the images that are wanted are spooled."""
    form = reading.form
    hidden: list[str] = []
    others: list[str] = []
    for path in form.files:
        reading.status(f"decompressing {path.name}")
        with decompressed(path) as file:
            stream = TarStream(file, str(path), partial=reading.partial)
            for member in stream:
                if is_junk(member):
                    hidden.append(member)
                    continue
                if not member.lower().endswith(tuple(IMAGE_SUFFIXES)):
                    others.append(member)
                    continue
                rows, names, labels = reading.resolve(str(path), [member])
                if len(rows):
                    reading.add_spooled(names[0], int(labels[0]), stream.data())
        reading.damage += stream.unread
    return [*junk_note(hidden, form.split), *others_note(others, form.split)]


def _read_webdataset(reading: _Reading) -> list[str]:
    form, left_out = reading.form, Counter[str]()
    shards = walked(form.files, partial=reading.partial, executor=reading.executor)
    for number, (path, shard) in enumerate(zip(form.files, shards, strict=True)):
        reading.status(f"reading {path.name} ({number + 1:,} of {len(form.files):,})")
        if shard is None:
            raise SourceError(f"{path}: is compressed; decompress it first")
        names: list[str] = []
        stated, offset, nbytes = array("q"), array("q"), array("q")
        reading.damage += shard.members.unread
        for sample in samples_of(str(path), shard.members, left_out):
            extension = next((e for e in sample.members if e in _EXTENSIONS), "")
            if not extension:
                raise SourceError(
                    f"{path}: the sample {brief(sample.key)} has no image; its members are "
                    f".{', .'.join(sample.members)}"
                )
            name, label = _named_sample(str(path), shard, sample)
            names.append(name)
            stated.append(label)
            offset.append(sample.members[extension].offset)
            nbytes.append(sample.members[extension].nbytes)
        rows, official, labels = reading.resolve(
            str(path),
            names,
            np.frombuffer(stated, np.int64),
            remedy="; convert shards without ImageNet's names with wds:PATTERN",
        )
        places = (np.frombuffer(values, np.int64)[rows] for values in (offset, nbytes))
        reading.add(official, labels, number, *places)
    return [f"{form.split}: {n:,} members {why}, left out" for why, n in left_out.items()]


def _named_sample(location: str, shard: OpenShard, sample: KeyedSample) -> tuple[str, int]:
    """Return the name and the label that a sample states."""
    name, label = sample.key, NOT_STATED

    def text(extension: str) -> str:
        return shard.read(sample.members[extension]).decode()

    try:
        if "json" in sample.members:
            document = json.loads(text("json"))
            if isinstance(document, dict):
                name = str(document.get("filename", name))
                stated = document.get("label")
                label = stated if isinstance(stated, int) else label
        if "cls" in sample.members:
            number = int(text("cls"))
            if label not in (NOT_STATED, number):
                raise SourceError(
                    f"{location}: {sample.key}: .json states label {label}, .cls {number}"
                )
            label = number
    except (ValueError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{location}: {sample.key}: .json and .cls must be JSON and a number: {error}"
        ) from None
    return name, label


# Records


def _read_tfrecords(reading: _Reading) -> list[str]:
    form = reading.form
    for number, path in enumerate(form.files):
        reading.status(f"reading {path.name} ({number + 1:,} of {len(form.files):,})")
        names: list[str] = []
        stated, offset, nbytes = array("q"), array("q"), array("q")
        with open_records(path) as (records, is_compressed):
            if is_compressed:
                raise SourceError(f"{path}: is compressed; decompress it first")
            for record in records:
                location = f"{path}: {record.position}"
                if record.fault:
                    raise SourceError(f"{location}: {record.fault}; prepare it again")
                try:
                    features = parse_example(record.data)
                except ValueError as error:
                    raise SourceError(
                        f"{location}: must be a tf.train.Example, but {error}"
                    ) from None
                image = _feature(location, features, "image", "bytes")
                name = _feature(location, features, "file_name", "bytes")
                label = _feature(location, features, "label", "int64")
                names.append(str(record.data[name.start : name.stop], "utf-8", "replace"))
                stated.append(label.number)
                offset.append(record.offset + image.start)
                nbytes.append(image.stop - image.start)
        rows, official, labels = reading.resolve(str(path), names, np.frombuffer(stated, np.int64))
        places = (np.frombuffer(values, np.int64)[rows] for values in (offset, nbytes))
        reading.add(official, labels, number, *places)
    return []


def _feature(location: str, features: Mapping[str, Feature], name: str, kind: str) -> Feature:
    feature = features.get(name, Feature(""))
    if feature.kind != kind or feature.count != 1:
        raise SourceError(
            f"{location}: {name!r} must be one value of {kind}, got {feature.count} of "
            f"{feature.kind or 'nothing'}; expected the features of TFDS: image, label, file_name"
        )
    return feature


def _read_parquet(reading: _Reading) -> list[str]:
    """Read the names first, and only the row groups with images that are wanted."""
    pa = need("pyarrow", "parquet", "Parquet")
    pq = need("pyarrow.parquet", "parquet", "Parquet")
    form = reading.form
    for number, path in enumerate(form.files):
        reading.status(f"reading {path.name} ({number + 1:,} of {len(form.files):,})")
        try:
            with pq.ParquetFile(
                opened(path), page_checksum_verification=True, pre_buffer=False
            ) as file:
                _check_columns(path, file.schema_arrow)
                for group in range(file.num_row_groups):
                    _read_row_group(reading, file, str(path), group)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None or isinstance(error, StorageError):
                raise
            reason = str(error).partition("\n")[0]
            raise SourceError(f"{path}: cannot be read: {reason}; download it again") from None
    return []


def _check_columns(path: SourcePath, schema: Any) -> None:
    inner: set[str] = set()
    if "image" in schema.names and str(schema.field("image").type).startswith("struct"):
        inner = {child.name for child in schema.field("image").type}
    if not {"bytes", "path"} <= inner or "label" not in schema.names:
        raise SourceError(
            f"{path}: expected the columns of Hugging Face's imagenet-1k, image with bytes and "
            f"path, and label, got {', '.join(schema.names)}; convert other files with "
            "parquet:PATTERN"
        )


def _read_row_group(reading: _Reading, file: Any, path: str, group: int) -> None:
    table = file.read_row_group(group, columns=["image.path", "label"], use_threads=False)
    paths = [row["path"] for row in table.column("image").to_pylist()]
    if any(name is None for name in paths):
        raise SourceError(
            f"{path}: has images without file names; convert such files with parquet:PATTERN"
        )
    labels = table.column("label").to_pylist()
    stated = np.array([NOT_STATED if k is None else k for k in labels], dtype=np.int64)
    rows, names, label = reading.resolve(path, paths, stated)
    if not len(rows):
        return
    images = file.read_row_group(group, columns=["image.bytes"], use_threads=False).column("image")
    data = images.combine_chunks().field("bytes")
    for i, name, k in zip(rows.tolist(), names, label.tolist(), strict=True):
        reading.add_spooled(name, k, data[i].as_py() or b"")


def _check_kaggle_labels(path: SourcePath, found: SplitImages) -> None:
    """Compare labels with Kaggle's table: image, and class and box of each object."""
    with open_text(path) as file:
        rows = csv.reader(file)
        if next(rows, None) != _KAGGLE_COLUMNS:
            raise SourceError(f"{path}: must begin with the columns {','.join(_KAGGLE_COLUMNS)}")
        wnid = {row[0]: row[1].partition(" ")[0] for row in rows if len(row) > 1}
    names = list(found.file_name)
    stated = np.full(len(names), NOT_STATED, dtype=np.int64)
    for i, name in enumerate(names):
        if (stem := name.removesuffix(".JPEG")) in wnid:
            label = label_of_wnid(wnid[stem])
            stated[i] = -1 if label is None else label
    check_labels(str(path), names, found.label, stated, "row in this table")


_FOLDER_READERS: Final[dict[str, Callable[[_Listing], Iterator[_Folder]]]] = {
    CLASS_FOLDERS: _class_folders,
    FLAT_FOLDER: _flat_folder,
}
_FILE_READERS: Final[dict[str, Callable[[_Reading], list[str]]]] = {
    CLASS_ARCHIVES: _read_class_archives,
    TAR_GZ: _read_tar_gz,
    PARQUET: _read_parquet,
    WEBDATASET: _read_webdataset,
    TFRECORD: _read_tfrecords,
}
