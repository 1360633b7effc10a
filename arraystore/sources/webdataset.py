"""Shards of WebDataset: tar archives whose members with one key form a sample.

The key of a member is its path up to the first dot of the base name; the rest, in lower case, is
its extension: ``train/0001.jpg`` and ``train/0001.cls`` belong to the sample ``train/0001``.
Members of a sample follow each other. Images in plain archives stay where they are, as byte
ranges; compressed archives are decompressed into the spool first.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import SourceError, brief
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.reading.read_ahead import ahead
from arraystore.sources.assemble import assemble
from arraystore.sources.classes import as_classes
from arraystore.sources.compressed import decompressed, is_compressed
from arraystore.sources.image_suffix import N_BYTES
from arraystore.sources.junk import is_junk
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import first_few, silent
from arraystore.sources.shards import find_shards
from arraystore.sources.source_options import no_column, no_field
from arraystore.sources.spool import SPOOL, Spool
from arraystore.sources.tar import Archive, TarMembers, open_archive, walk
from arraystore.sources.walks import Walk, walk_all
from arraystore.storage.buckets import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import SourcePath

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Of the files that are read where the pattern is a folder."""

CLS: Final = "cls"
JSON: Final = "json"
FOLDER: Final = "folder"
"""Places of a label: a member with this extension, a key of a JSON member, the folder's name."""

_LABEL_KEY: Final = "label"
MAX_LABEL_NBYTES: Final = 2**20
"""Most bytes of a member that are read for a label or a name."""

_MAX_KEPT_NBYTES: Final = 2**16
_KEPT_NBYTES: Final = 2**24
"""Bytes of one member, and of all members of a shard, that are kept while it is walked."""

REMOTE_WALKERS: Final = 32
"""Archives in a bucket that are walked at the same time, because each mostly waits."""

_MANY: Final = 8
"""Number of shards from which they are many."""

_PIECE_NBYTES: Final = 2**20
_EXTENSIONS: Final = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Member:
    """The bytes of one member: a range of an open file."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class KeyedSample:
    """Members that have one key.

    Attributes
    ----------
    key : str
    members : dict of str to Member
        By extension, in lower case.
    names : dict of str to str
        The whole name of each member, by extension.
    """

    key: str
    members: dict[str, Member]
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard whose members can be read.

    Attributes
    ----------
    archive : Archive
        The file that `members` are ranges of: the archive, or the spool.
    is_spooled : bool
        Whether that is the spool.
    members : TarMembers
    """

    archive: Archive
    is_spooled: bool
    members: TarMembers

    def read(self, member: Member, limit: int = MAX_LABEL_NBYTES) -> bytes:
        """Return the bytes of a member, at most `limit`."""
        nbytes = min(member.nbytes, limit)
        kept = self.members.kept.get(member.offset, b"")
        if len(kept) >= nbytes:
            return kept[:nbytes]
        return self.archive.reader()(nbytes, member.offset)


class LabelKeeper:
    """Chooses what a walk keeps of a shard: members with labels and names.

    Parameters
    ----------
    places : iterable of str
        Extensions of further members that hold labels or names. An empty one states that names
        are generated, for which the first bytes of images are needed.
    """

    def __init__(self, places: Iterable[str] = ()) -> None:
        self._extensions = {CLS, JSON, *places, *(place.partition(".")[0] for place in places)}
        self._start_nbytes = N_BYTES if "" in places else 0
        self._left = _KEPT_NBYTES

    def __call__(self, name: str, nbytes: int) -> int:
        """Return how many bytes to keep of a member; up to some megabytes in all."""
        is_small = split_key(name)[1] in self._extensions and nbytes <= _MAX_KEPT_NBYTES
        n_kept = nbytes if is_small else self._start_nbytes
        self._left -= n_kept
        return n_kept if self._left >= 0 else 0


def walked(
    paths: Sequence[SourcePath],
    *,
    places: Collection[str] = (),
    partial: bool = False,
    executor: Executor | None = None,
) -> Generator[OpenShard | None]:
    """Yield each shard, open; those in buckets are walked ahead, many at the same time.

    Parameters
    ----------
    paths : sequence of Path or ObjectPath
    places : collection of str
        See `LabelKeeper`.
    partial : bool, default False
        See `arraystore.sources.tar.walk`.
    executor : concurrent.futures.Executor, optional
        Walks the shards on a disk.

    Yields
    ------
    OpenShard or None
        None for files that are compressed. A shard on the disk is closed with the next one.
    """
    is_one_of_many = len(paths) >= _MANY

    def walk_object(path: ObjectPath) -> OpenShard | None:
        if is_compressed(path):
            return None
        with open_archive(path, is_one_of_many=is_one_of_many) as archive:
            members = walk(archive, partial=partial, keep=LabelKeeper(places))
            return OpenShard(archive, False, members)

    remote = (path for path in paths if isinstance(path, ObjectPath))
    objects = ahead(remote, walk_object, n_ahead=REMOTE_WALKERS, n_threads=REMOTE_WALKERS)
    plain = (path for path in paths if isinstance(path, Path) and _is_plain(path))
    walks = (Walk(path, partial=partial, keep=LabelKeeper(places)) for path in plain)
    found = None if executor is None else walk_all(executor, walks)
    with closing(objects), nullcontext() if found is None else closing(found):
        for path in paths:
            if isinstance(path, ObjectPath):
                yield next(objects)
            elif not _is_plain(path):
                yield None
            else:
                with open_archive(path) as archive:
                    members = walk(archive, partial=partial) if found is None else next(found)
                    yield OpenShard(archive, False, members)


def _is_plain(path: Path) -> bool:
    return not (path.is_file() and is_compressed(path))


@contextmanager
def decompressed_shard(
    path: SourcePath, spool: Spool, *, partial: bool = False
) -> Iterator[OpenShard]:
    """Spool a compressed shard whole, and open it for as long as the context lasts.

    Parameters
    ----------
    path : Path or ObjectPath
        A tar archive, compressed with gzip, bzip2 or xz.
    spool : Spool
        Takes the bytes of a compressed archive.
    partial : bool, default False
        See `arraystore.sources.tar.walk`.

    Raises
    ------
    SourceError
        If the archive is damaged, truncated, or of another format.
    """
    start = spool.nbytes
    with decompressed(path) as file:
        while piece := file.read(_PIECE_NBYTES):
            spool.append(piece)
    spool.flush()
    fd = os.open(spool.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        archive = Archive(fd, spool.nbytes, path.name)
        members = walk(archive, start=start, location=str(path), partial=partial)
        yield OpenShard(archive, True, members)
    finally:
        os.close(fd)


def samples_of(where: str, members: TarMembers, left_out: Counter[str]) -> Iterator[KeyedSample]:
    """Group the members of a shard by key.

    Parameters
    ----------
    where : str
        Name of the shard, for messages.
    members : TarMembers
    left_out : Counter
        Counts the members that belong to no sample, by the reason.

    Raises
    ------
    SourceError
        If two members of a sample have one extension.

    Examples
    --------
    >>> import numpy as np
    >>> members = TarMembers(["a/1.jpg", "a/1.CLS", "a/2.jpg"], np.arange(3), np.arange(3))
    >>> [(sample.key, *sample.members) for sample in samples_of("", members, Counter())]
    [('a/1', 'jpg', 'cls'), ('a/2', 'jpg')]
    """
    sample: KeyedSample | None = None
    places = zip(members.offsets.tolist(), members.nbytes.tolist(), strict=True)
    for name, (offset, nbytes) in zip(members.names, places, strict=True):
        key, extension = split_key(name)
        if is_junk(name):
            left_out["hidden or of the system"] += 1
            continue
        if not key or _is_metadata(name):
            left_out["metadata, or without an extension"] += 1
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = KeyedSample(key, {}, {})
        if extension in sample.members:
            raise SourceError(
                f"{where}: the sample {brief(key)} has two members .{extension}; members of a "
                "sample must differ in their extensions"
            )
        sample.members[extension] = Member(offset, nbytes)
        sample.names[extension] = name
    if sample is not None:
        yield sample


def split_key(name: str) -> tuple[str, str]:
    """Return key and extension of a member; two empty texts if it belongs to no sample.

    Examples
    --------
    >>> split_key("train/n01/7.seg.PNG"), split_key("LICENSE"), split_key("a.b/.hidden")
    (('train/n01/7', 'seg.png'), ('', ''), ('', ''))
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot:
        return "", ""
    return f"{folder}{slash}{stem}", extension.lower()


def _is_metadata(name: str) -> bool:
    """Whether a member describes the shard: its first folder or name is like ``__this__``."""
    first = name.partition("/")[0]
    return first.startswith("__") and first.endswith("__")


def load(
    pattern: str, options: SourceOptions, spool_path: Path, *, status: Status = silent
) -> Source:
    """List the samples of WebDataset shards.

    Parameters
    ----------
    pattern : str
        See `arraystore.sources.shards`.
    options : SourceOptions
        `fields`: ``image`` is an extension, by default the one of an image format; ``label`` is
        the extension of a member with a number or a class name (``cls``), ``json.KEY``, or
        ``folder``; by default ``cls``, then ``json.label``. File names are the key with the
        extension of the image.
    spool_path : Path
        Takes the bytes of compressed shards.
    status : callable, optional
        Receives the name of each shard.

    Raises
    ------
    SourceError
        If a shard is missing or damaged, labels cannot be found, or a file name occurs twice.
    """
    shards = find_shards(pattern, SUFFIXES, options)
    reader = _Reader(options)
    collectors: dict[str, SampleCollector] = {}
    damage: list[str] = []
    opened = walked(
        shards.files,
        places=reader.places,
        partial=options.partial,
        executor=options.executor,
    )
    with Spool(spool_path) as spool, shards.states.unchanged(), closing(opened):
        for i, (path, split) in enumerate(zip(shards.files, shards.splits, strict=True)):
            status(f"reading {path.name} ({i + 1:,} of {len(shards.files):,})")
            if split not in collectors:
                collectors[split] = SampleCollector(
                    split,
                    labels_are_text=True,
                    columns=options.columns,
                    columns_are_typed=True,
                )
            collector = collectors[split]
            collector.begin_part(str(path))
            with ExitStack() as stack:
                shard = next(opened) or stack.enter_context(
                    decompressed_shard(path, spool, partial=options.partial)
                )
                damage += shard.members.unread
                reader.read(str(path), shard, i, collector)
    return assemble(
        f"wds:{pattern}",
        shards.name,
        f"WebDataset shards of {shards.name}",
        collectors,
        classes=as_classes(options.classes),
        files=shards.files,
        states=shards.states,
        origins=shards.origins,
        spool=spool,
        notes=(*shards.notes, *shards.guesses, *reader.notes()),
        damage=damage,
        partial=shards.partial or bool(damage),
    )


class _Reader:
    """Reads samples; the place of labels is decided by the first one."""

    def __init__(self, options: SourceOptions) -> None:
        self._image = options.fields.get("image", "").removeprefix(".").lower()
        self._label = options.fields.get("label")
        self._is_guessed = self._label is None
        self._named = options.fields.get("file_name")
        self._columns = options.columns
        self._others: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def read(self, where: str, shard: OpenShard, number: int, collector: SampleCollector) -> None:
        """Add the samples of a shard."""
        file = SPOOL if shard.is_spooled else number
        for sample in samples_of(where, shard.members, self._left_out):
            if self._label is None:
                self._label = self._guess_label(where, shard, sample)
            extension = self._image_of(where, sample)
            self._others.update(sample.members.keys() - {extension, *self._used})
            name: str | None = sample.names.get(extension, sample.key)
            try:
                label = self._label_of(where, shard, sample)
                member = _image_member(sample, extension)
                if self._named is not None:
                    name = self._name_of(where, shard, sample)
            except _IncompleteError as error:
                for values in collector.values.values():
                    values.append(None)
                collector.append_fault(name, None, str(error))
                continue
            for column, place in self._columns.items():
                value = _further_value(place, where, shard, sample)
                collector.values[column].append(value)
            start = shard.read(member, N_BYTES) if name is None else b""
            collector.append(name, label, file, member.offset, member.nbytes, start=start)

    @property
    def places(self) -> list[str]:
        """Where labels and names are, if that is stated; names that are generated are nowhere."""
        stated = [*([self._label] if self._label else []), *self._columns.values()]
        return stated if self._named is None else [*stated, self._named]

    @property
    def _used(self) -> set[str]:
        """The extensions of members that hold labels and file names."""
        places = (self._label or "", self._named or "", *self._columns.values())
        return {part for place in places for part in (place, place.partition(".")[0])}

    def _image_of(self, where: str, sample: KeyedSample) -> str:
        """Return the extension of a sample's image; empty if it has none."""
        if self._image:
            return self._image if self._image in sample.members else ""
        found = [extension for extension in sample.members if extension in _EXTENSIONS]
        if not found:
            found = [e for e in sample.members if e.rpartition(".")[2] in _EXTENSIONS]
        if len(found) > 1:
            raise no_field(f"{where}: {sample.key}", "extension", "image", found, found)
        return found[0] if found else ""

    def _guess_label(self, where: str, shard: OpenShard, sample: KeyedSample) -> str:
        if CLS in sample.members:
            return CLS
        if JSON in sample.members and _LABEL_KEY in _json_of(where, shard, sample):
            return f"{JSON}.{_LABEL_KEY}"
        remedy = no_field(where, "member", "label", (), list(sample.members))
        raise SourceError(
            f"{remedy}; NAME is an extension, json.KEY, or folder for the folder in the key"
        )

    def _label_of(self, where: str, shard: OpenShard, sample: KeyedSample) -> int | str | None:
        place = self._label
        if not place:
            return None
        if place == FOLDER:
            folder = sample.key.rpartition("/")[0].rpartition("/")[2]
            if not folder:
                raise SourceError(
                    f"{where}: the key {brief(sample.key)} has no folder; expected CLASS/NAME"
                )
            return folder
        return _value_of(place, "label", where, shard, sample)

    def _name_of(self, where: str, shard: OpenShard, sample: KeyedSample) -> str | None:
        """Return the file name of a sample that is not its key; None if it is generated."""
        if not self._named:
            return None
        name = _value_of(self._named, "file name", where, shard, sample)
        return None if name is None else str(name)

    def notes(self) -> list[str]:
        """Say what was decided, and left out."""
        notes = []
        if self._is_guessed and self._label:
            notes.append(f"labels are read from {_described(self._label)}")
        if self._others:
            names = [f".{extension}" for extension in self._others]
            notes.append(f"further members of samples are left out: {first_few(sorted(names))}")
        for why, count in self._left_out.items():
            notes.append(f"{count:,} members are left out: {why}")
        return notes


class _IncompleteError(Exception):
    """A sample lacks a member that it needs."""


def _described(place: str) -> str:
    return f"the key {place.partition('.')[2]} of .json" if "." in place else f".{place}"


def _image_member(sample: KeyedSample, extension: str) -> Member:
    if extension:
        return sample.members[extension]
    there = ", ".join(f".{name}" for name in sample.members)
    raise _IncompleteError(f"has no image; its members are {there}")


def _json_of(where: str, shard: OpenShard, sample: KeyedSample) -> Any:
    member = sample.members[JSON]
    try:
        return json.loads(shard.read(member))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: {sample.key}.json: must be JSON: {error}") from None


def _further_value(place: str, where: str, shard: OpenShard, sample: KeyedSample) -> Any:
    """Return the value of a further column: of a key of the JSON document, or a member's text."""
    extension, _, keys = place.partition(".")
    try:
        if extension == JSON and keys and place not in sample.members and JSON in sample.members:
            value = _json_of(where, shard, sample)
            for key in keys.split("."):
                value = value[key]
            return value
        return shard.read(sample.members[place]).decode().strip()
    except (KeyError, TypeError):
        there = [f".{name}" for name in sample.members]
        raise no_column(f"{where}: {sample.key}", place, there) from None
    except UnicodeDecodeError:
        raise SourceError(f"{where}: {sample.key}.{place}: must be UTF-8 text") from None


def _value_of(
    place: str, what: str, where: str, shard: OpenShard, sample: KeyedSample
) -> int | str | None:
    """Return a label or name from a member of a sample, or from a key of its JSON document."""
    extension, _, keys = place.partition(".")
    if extension == JSON and keys and place not in sample.members:
        if JSON not in sample.members:
            raise _IncompleteError(f"has no .json with its {what}")
        value = _json_of(where, shard, sample)
        for key in keys.split("."):
            if not isinstance(value, dict) or key not in value:
                raise _IncompleteError(f"has no {keys} in its .json")
            value = value[key]
        if value is None or (isinstance(value, int | str) and not isinstance(value, bool)):
            return value
        raise SourceError(
            f"{where}: {sample.key}.json: {keys} must be a number or text, got {brief(value)}"
        )
    if place not in sample.members:
        raise _IncompleteError(f"has no .{place} with its {what}")
    try:
        text = shard.read(sample.members[place]).decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise SourceError(f"{where}: {sample.key}.{place}: must be the text of a {what}")
    return text
