"""ILSVRC 2012: the archives that each user downloads, or the other forms that people keep.

``ILSVRC2012_img_train.tar`` holds one archive per class, named after the WordNet id of the class;
``ILSVRC2012_img_val.tar`` and ``ILSVRC2012_img_test.tar`` hold images. Names, versions and splits
follow TFDS's ``imagenet2012`` and ``imagenet2012_subset``; the subsets are the lists of SimCLR
(https://arxiv.org/abs/2002.05709).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_path
from arraystore.errors import SourceError, escaped
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.reading.read_ahead import ahead
from arraystore.sources.imagenet2012_forms import (
    ARCHIVE,
    ARCHIVES,
    SPLITS,
    SPOOLED,
    TFRECORD,
    WEBDATASET,
    find_forms,
)
from arraystore.sources.imagenet2012_names import (
    REENCODED_BY_TFDS,
    SPLIT_SIZES,
    missing_validation_names,
)
from arraystore.sources.imagenet2012_readers import SplitImages, read_form
from arraystore.sources.imagenet2012_tables import hierarchy, validation_labels, wnids, words
from arraystore.sources.junk import junk_note
from arraystore.sources.sample_table import (
    SampleTable,
    Source,
    Status,
    check_names,
    first_few,
    silent,
)
from arraystore.sources.spool import Spool
from arraystore.sources.subset_list import SUBSETS, SubsetList, find_subset_list, listed_in
from arraystore.sources.tar import Archive, TarMembers, next_header, open_archive, walk
from arraystore.sources.walks import Walk, walk_all
from arraystore.sources.webdataset import REMOTE_WALKERS
from arraystore.storage.buckets import ObjectPath, paths_of
from arraystore.storage.file_states import NO_FILES, FileStates
from arraystore.storage.open_files import open_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.schema import DatasetInfo
    from arraystore.sources.imagenet2012_forms import Form
    from arraystore.storage.buckets import SourcePath

TRAIN_ARCHIVE: Final = ARCHIVES["train"]
VALIDATION_ARCHIVE: Final = ARCHIVES["validation"]
TEST_ARCHIVE: Final = ARCHIVES["test"]

VERSIONS: Final = ("5.0.0", "5.1.0", "3.0.0", "2.0.1", "2.0.0")
"""The versions that TFDS published; the first is the default."""

TEST_VERSIONS: Final = frozenset({"5.1.0"})
"""Versions with a test split."""

AS_FOUND_VERSIONS: Final = frozenset({"2.0.0", "2.0.1"})
"""Versions that re-encode no images."""

MANUAL_DIR: Final = Path("~/tensorflow_datasets/downloads/manual")
"""TFDS's folder for manual downloads."""

REENCODED_KINDS: Final = frozenset({TFRECORD, WEBDATASET})
"""Forms that TFDS has written, or that were made of what it has written."""

HOMEPAGE: Final = "https://image-net.org/"

_SMALLER: Final[dict[str, tuple[str, ...]]] = {
    "1pct": (),
    "10pct": ("1pct",),
    "": ("1pct", "10pct"),
}
"""The smaller subsets of each config, which are stored as named selections."""

_WALKERS: Final = 8
_PROBES: Final = 16
_MOST: Final = 7 / 8
"""Share of cached headers from which one thread is faster than 8, on a disk that takes 0.1 ms."""
_TRAIN_NAME: Final = re.compile(r"(n[0-9]{8})_[0-9]")
_STATUS_EVERY: Final = 10
_VALIDATION_NAME: Final = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")
_TEST_NAME: Final = re.compile(r"ILSVRC2012_test_([0-9]{8})\.JPEG")

_DESCRIPTION: Final = (
    "ILSVRC 2012, known as ImageNet: photographs of 1000 classes, each a noun of WordNet."
)
_CITATION: Final = """\
@article{ILSVRC15,
  author = {Olga Russakovsky and Jia Deng and Hao Su and Jonathan Krause and Sanjeev Satheesh and
    Sean Ma and Zhiheng Huang and Andrej Karpathy and Aditya Khosla and Michael Bernstein and
    Alexander C. Berg and Li Fei-Fei},
  title = {{ImageNet Large Scale Visual Recognition Challenge}},
  journal = {International Journal of Computer Vision (IJCV)},
  year = {2015},
  volume = {115},
  number = {3},
  pages = {211-252},
  doi = {10.1007/s11263-015-0816-y}
}
"""
_SUBSET_CITATION: Final = """\
@article{chen2020simple,
  title = {A Simple Framework for Contrastive Learning of Visual Representations},
  author = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  journal = {arXiv preprint arXiv:2002.05709},
  year = {2020}
}
"""


def load(
    config: str,
    version: str,
    *,
    manual_dir: SourcePath | None = None,
    subset_list: SourcePath | None = None,
    partial: bool = False,
    spool: Path | None = None,
    splits: Sequence[str] | None = None,
    executor: Executor | None = None,
    status: Status = silent,
) -> Source:
    """List the samples of ``imagenet2012`` or of one of its subsets.

    Parameters
    ----------
    config : {"1pct", "10pct", ""}
        Subset of the training images; empty for all of them.
    version : str
        One of `VERSIONS`.
    manual_dir : Path or ObjectPath, optional
        Folder of the archives, or of another form of the images; see `imagenet2012_forms`.
        `MANUAL_DIR` by default.
    subset_list : Path or ObjectPath, optional
        The list of training images, one file name a line. By default the published list in
        `manual_dir`, else downloaded once.
    partial : bool, default False
        Accept missing archives, classes and images.
    spool : Path, optional
        Takes images that are not byte ranges of files.
    splits : sequence of str, optional
        The splits to be listed; by default those of the version.
    executor : concurrent.futures.Executor, optional
        Walks the archives of classes; threads by default.
    status : callable, optional
        Shows which archive is being read.

    Returns
    -------
    Source
        Splits ``train``, ``validation`` and, from 5.1.0 on, ``test``. A file name is the base
        name of a member of an archive.

    Raises
    ------
    SourceError
        If an archive is missing, damaged or another one; if it is incomplete and `partial` is
        false.
    """
    folder = manual_dir or as_path(MANUAL_DIR)
    splits = splits or (SPLITS if version in TEST_VERSIONS else SPLITS[:2])
    forms = {split: found for split, found in find_forms(folder).items() if split in splits}
    present = {split: some[0] for split, some in forms.items() if some}
    absent = [ARCHIVES[split] for split, some in forms.items() if not some]
    if absent and not (partial and present):
        raise SourceError(
            f"{folder}: {' and '.join(absent)} not found; nor are these images there in another "
            f"form (arraystore info FOLDER lists what is); download from {HOMEPAGE} (after "
            "registering) into one folder, and pass it as manual_dir (--manual-dir)"
        )
    _check_bytes(version, present)
    subset = find_subset_list(config, subset_list, folder) if config else None
    read: dict[str, SplitImages] = {}
    with _opened_spool(spool, present) as spooled:
        for split, form in present.items():
            try:
                how: dict[str, Any] = {"partial": partial, "executor": executor, "status": status}
                read[split] = _read(form, subset, spooled, **how)
                check_names(read[split].origin[0], read[split].file_name)
            except SourceError as error:
                for other in forms[split][1:]:
                    error.add_note(
                        escaped(f"also found: {other.text}; to read it, move {form.path} away")
                    )
                raise
    lacks = [f"{name} not found; its split is left out" for name in absent]
    # All archives are read first: damage is reported before the advice to pass partial=True.
    for split, found in read.items():
        lack = _lack(split, found, subset)
        if lack and not partial:
            raise SourceError(
                f"{found.origin[0]}: {lack}; pass partial=True (--partial) to convert the images "
                "found"
            )
        if lack:
            lacks.append(f"{found.origin[0]}: {lack}")
    damage = [unread for found in read.values() for unread in found.damage]
    n_files = sum(len(found.files) for found in read.values())
    tables, first = {}, 0
    for split, found in read.items():
        tables[split] = found.table(first, n_files)
        first += len(found.files)
    selections, lists, notes = _smaller_subsets(config, folder, tables)
    lists = [*([subset] if subset else []), *lists]
    origins = [found.origin for found in read.values()]
    origins += [listed.origin for listed in lists]
    all_states = NO_FILES
    for states in (*(found.states for found in read.values()), *(some.states for some in lists)):
        all_states = all_states.joined(states)
    notes = [*_form_notes(forms, read), *notes]
    return Source(
        name="imagenet2012_subset" if subset else "imagenet2012",
        config=config,
        version=version,
        description=f"{_DESCRIPTION} {subset.description}" if subset else _DESCRIPTION,
        homepage=HOMEPAGE,
        citation=_CITATION + (_SUBSET_CITATION if subset else ""),
        label_name=wnids(),
        label_words=words(),
        files=paths_of(all_states.first(n_files)),
        splits=tables,
        origins=tuple(origins),
        selections=selections,
        reencode=version not in AS_FOUND_VERSIONS,
        partial=bool(lacks or damage),
        notes=(*damage, *lacks, *notes),
        damage=tuple(damage),
        hierarchy=hierarchy(),
        states=all_states,
        spool=spooled.path if spooled is not None and spooled.nbytes else None,
        parts={split: ((0, found.origin[0]),) for split, found in read.items()},
    )


def part_of(
    info: DatasetInfo, splits: Sequence[str], selections: Collection[str], *, subset: str, n: int
) -> DatasetInfo | None:
    """Describe some splits of a store, and perhaps a subset of its training images, as `load` does.

    Parameters
    ----------
    info : DatasetInfo
        Description of a store.
    splits : sequence of str
        Some of its splits.
    selections : collection of str
        Names of its selections that have samples in these splits.
    subset : {"1pct", "10pct", ""}
        The selection that the training images are; empty if they are all of the store's.
    n : int
        Number of these images.

    Returns
    -------
    DatasetInfo or None
        None if the store is not a conversion of ``imagenet2012`` or one of its subsets, or does not
        list its sources as this release does.
    """
    lists = [*([info.config] if info.config else []), *info.selections]
    known = info.name in ("imagenet2012", "imagenet2012_subset") and info.version in VERSIONS
    if not known or len(info.sources) != len(info.splits) + len(lists):
        return None
    origin_of = dict(zip([*info.splits, *lists], info.sources, strict=True))
    config = subset or info.config
    if config not in _SMALLER or (subset and subset not in SUBSETS):
        return None
    smaller = [name for name in _SMALLER[config] if name in selections]
    named = [*splits, *([config] if config else []), *smaller]
    description, citation = info.description, info.citation
    if subset:
        file_name, nbytes = origin_of[subset]
        published = SUBSETS[subset]
        is_published = (file_name, nbytes) == (published.file_name, published.nbytes)
        about = published.description if is_published else listed_in(file_name, n)
        description, citation = f"{_DESCRIPTION} {about}", _CITATION + _SUBSET_CITATION
    return replace(
        info,
        name="imagenet2012_subset" if config else "imagenet2012",
        config=config,
        description=description,
        citation=citation,
        splits=tuple(splits),
        sources=tuple(origin_of[name] for name in named),
        selections={name: info.selections[name] for name in smaller},
    )


def _check_bytes(version: str, forms: Mapping[str, Form]) -> None:
    """Refuse images that were re-encoded where a version keeps them as found."""
    form = forms.get("train")
    if version in AS_FOUND_VERSIONS and form is not None and form.kind in REENCODED_KINDS:
        raise SourceError(
            f"{form.text}: version {version} has every image as found, but TFDS has re-encoded "
            f"{len(REENCODED_BY_TFDS)} of these; convert another version, or from the archives"
        )


@contextmanager
def _opened_spool(path: Path | None, forms: Mapping[str, Form]) -> Iterator[Spool | None]:
    """Open the spool if a form needs it."""
    if path is None or not any(form.kind in SPOOLED for form in forms.values()):
        yield None
        return
    with Spool(path) as spool:
        yield spool


def _form_notes(
    forms: Mapping[str, Sequence[Form]], read: Mapping[str, SplitImages]
) -> Iterator[str]:
    """Say which forms were read, and which were not."""
    for split, found in read.items():
        form, *others = forms[split]
        if form.kind != ARCHIVE or others:
            yield f"{split} is read from {form.text}"
        for other in others:
            yield f"{split}: also found, and not read: {other.text}"
        yield from found.notes
        if split == "train" and form.kind in REENCODED_KINDS:
            names = [name for name in found.file_name if name in REENCODED_BY_TFDS]
            if names:
                yield (
                    f"train: {first_few(names)} re-encoded by TFDS; a conversion of the archives "
                    "may give other bytes"
                )


def _smaller_subsets(
    config: str, folder: SourcePath, tables: dict[str, SampleTable]
) -> tuple[dict[str, dict[str, Ints]], list[SubsetList], list[str]]:
    """Return rows of the smaller subsets of a config, their lists, and notes on missing parts."""
    found: dict[str, dict[str, Ints]] = {}
    lists: list[SubsetList] = []
    notes: list[str] = []
    if "train" not in tables:
        return found, lists, notes
    file_name = tables["train"].file_name
    for name in _SMALLER[config]:
        left_out = f"the selection {name} is left out"
        try:
            listed = find_subset_list(name, None, folder, optional=True)
        except SourceError as error:
            notes.append(f"{left_out}: {error}")
            continue
        rows = {name: i for i, name in enumerate(file_name) if name in listed.names}
        missing = [name for name in listed.names if name not in rows]
        if not rows:
            notes.append(f"{left_out}: none of its images is in train")
            continue
        if missing:
            notes.append(f"the selection {name} lacks {first_few(missing)}: not in train")
        found[name] = {"train": np.fromiter(rows.values(), np.int64, len(rows))}
        lists.append(listed)
    return found, lists, notes


def _read(
    form: Form,
    subset: SubsetList | None,
    spool: Spool | None,
    *,
    partial: bool,
    executor: Executor | None,
    status: Status,
) -> SplitImages:
    """Find the images of a split; of train those of the subset."""
    wanted = subset.names if subset and form.split == "train" else None
    if form.kind == ARCHIVE:
        status(f"reading the headers of {form.path.name}")
        how: dict[str, Any] = {"partial": partial, "executor": executor, "status": status}
        return _read_archive(form.split, form.path, wanted, **how)
    return read_form(form, wanted, spool, partial=partial, executor=executor, status=status)


def _read_archive(
    split: str,
    path: SourcePath,
    wanted: Collection[str] | None,
    *,
    partial: bool,
    executor: Executor | None,
    status: Status,
) -> SplitImages:
    with open_archive(path, is_one_of_many=split == "train") as archive:
        if split == "train":
            how: dict[str, Any] = {"partial": partial, "executor": executor, "status": status}
            return _read_train(path, archive, wanted, **how)
        members, junk = walk(archive, partial=partial, frames=True).without_junk()
        names = _base_names(members)
        label = _labels_of(split, archive.name, names)
    places = members.offsets, members.nbytes
    return _of_archive(
        path,
        archive,
        PackedNames(packed(names)),
        label,
        *places,
        frames=members.frames,
        notes=junk_note(junk, split),
        damage=members.unread,
    )


def _of_archive(
    path: SourcePath,
    archive: Archive,
    file_name: PackedNames,
    label: Ints,
    offset: Ints,
    nbytes: Ints,
    *,
    frames: NDArray[np.int32] | None,
    notes: Sequence[str],
    damage: Sequence[str],
) -> SplitImages:
    return SplitImages(
        files=(path,),
        states=FileStates.known(
            [(str(path), archive.state)], path.buckets if isinstance(path, ObjectPath) else None
        ),
        file_name=file_name,
        label=label,
        file=np.broadcast_to(np.int32(0), len(file_name)),  # takes no memory
        offset=offset,
        nbytes=nbytes,
        origin=(path.name, archive.nbytes),
        notes=tuple(notes),
        damage=tuple(damage),
        frames=frames,
    )


def _read_train(
    path: SourcePath,
    archive: Archive,
    wanted: Collection[str] | None,
    *,
    partial: bool,
    executor: Executor | None,
    status: Status,
) -> SplitImages:
    """Walk the archive of class archives; keep the images of the subset."""
    outer, junk = walk(archive, partial=partial).without_junk()
    label_of = {wnid: k for k, wnid in enumerate(wnids())}
    labels = []
    for name in outer.names:
        base = PurePosixPath(name)
        if base.suffix != ".tar" or base.stem not in label_of:
            raise SourceError(
                f"{archive.name}/{name}: must be the archive of a class of ILSVRC 2012, such as "
                f"{wnids()[0]}.tar; the class is unknown"
            )
        labels.append(label_of[base.stem])

    def walk_of(i: int) -> Walk:
        start, nbytes = int(outer.offsets[i]), int(outer.nbytes[i])
        location = f"{archive.name}/{outer.names[i]}"
        return Walk(path, location, start, start + nbytes, partial, frames=wanted is None)

    def kept(i: int, location: str, members: TarMembers) -> tuple[bytes, TarMembers, list[str]]:
        inner, hidden = members.without_junk()
        names = _base_names(inner)
        _check_class(location, wnids()[labels[i]], names)
        if wanted is not None:
            keep = [j for j, name in enumerate(names) if name in wanted]
            names, inner = [names[j] for j in keep], inner.take(keep)
        return packed(names), replace(inner, names=[]), hidden

    def read_class(i: int) -> tuple[bytes, TarMembers, list[str]]:
        one = walk_of(i)
        members = walk(
            archive,
            one.location,
            start=one.start,
            stop=one.stop,
            partial=partial,
            frames=one.frames,
        )
        return kept(i, one.location, members)

    # One buffer each, because memory that a thread frees is not available to the others.
    file_name, offsets, sizes, frames = bytearray(), bytearray(), bytearray(), bytearray()
    counts, unread = [], [*outer.unread]
    numbers = (i for i in range(len(labels)))
    if executor is None:
        n_walkers = _n_walkers(path, archive, outer)
        found = ahead(numbers, read_class, n_ahead=2 * n_walkers, n_threads=n_walkers)
    else:
        walked = enumerate(walk_all(executor, map(walk_of, numbers)))
        found = (kept(i, walk_of(i).location, members) for i, members in walked)
    for names, members, hidden in found:
        unread += members.unread
        junk += hidden
        file_name += names
        offsets += members.offsets.tobytes()
        sizes += members.nbytes.tobytes()
        frames += b"" if members.frames is None else members.frames.tobytes()
        counts.append(len(members.offsets))
        if len(counts) % _STATUS_EVERY == 0:
            status(f"reading the headers of {path.name} ({len(counts):,} of {len(labels):,})")
    return _of_archive(
        path,
        archive,
        PackedNames(file_name),
        np.repeat(np.array(labels, dtype=np.int64), np.array(counts, dtype=np.int64)),
        np.frombuffer(offsets, dtype=np.int64),
        np.frombuffer(sizes, dtype=np.int64),
        frames=np.frombuffer(frames, np.int32).reshape(-1, 2) if wanted is None else None,
        notes=junk_note(junk, "train"),
        damage=unread,
    )


def _n_walkers(path: SourcePath, archive: Archive, outer: TarMembers) -> int:
    """Return the number of threads to walk with: one if most headers are cached, else more.

    On a cold disk each header waits for a seek, and several threads keep the disk's queue full.
    Threads that hardly ever wait only compete for the interpreter.
    """
    if isinstance(path, ObjectPath):
        return REMOTE_WALKERS
    some = outer.offsets[:: max(1, len(outer.offsets) // _PROBES)].tolist()
    file = open_file(str(path))
    cached = [file.is_cached(next_header(archive, start), unknown=False) for start in some]
    return 1 if sum(cached) >= _MOST * len(cached) else _WALKERS


def _labels_of(split: str, archive: str, names: list[str]) -> Ints:
    """Return the label of each member of the archive of a split; -1 in test."""
    if split == "validation":
        numbers = _numbers(archive, names, _VALIDATION_NAME, SPLIT_SIZES[split])
        return validation_labels()[numbers - 1]
    _numbers(archive, names, _TEST_NAME, SPLIT_SIZES[split])
    return np.full(len(names), -1)


def _base_names(members: TarMembers) -> list[str]:
    names = members.names
    return [name.rpartition("/")[2] for name in names] if "/" in "\0".join(names) else names


def _check_class(location: str, wnid: str, names: list[str]) -> None:
    """Raise `SourceError` if the archive of a class has an image of another class."""
    prefix = f"{wnid}_"
    if "\0".join(("", *names)).count(f"\0{prefix}") == len(names):
        return
    for name in names:
        if not name.startswith(prefix) and (other := _TRAIN_NAME.match(name)):
            raise SourceError(
                f"{location}: member {name!r} has the class {other[1]} in its name, expected "
                f"{wnid}; download the archive again"
            )


def _numbers(archive: str, names: list[str], pattern: re.Pattern[str], limit: int) -> Ints:
    """Return the number in each name; labels belong to names, not to the order of an archive."""
    numbers = []
    for name in names:
        match = pattern.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= limit:
            raise SourceError(
                f"{archive}: member {name!r} is not an image of this archive; expected names like "
                f"{pattern.pattern} with numbers 1 to {limit}"
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _lack(split: str, found: SplitImages, subset: SubsetList | None) -> str:
    """Describe what an archive lacks; return an empty text if it is complete.

    Raises
    ------
    SourceError
        If the archive has none of the images in the subset list: the list must be a wrong one.
    """
    if split == "train" and subset:
        have = set(found.file_name)
        missing = [name for name in subset.names if name not in have]
        if missing and not have:
            raise SourceError(
                f"{found.origin[0]}: has none of the {first_few(missing)} listed in "
                f"{subset.origin[0]}; pass another subset_list (--subset-list)"
            )
        return f"{first_few(missing)} listed in {subset.origin[0]} not found" if missing else ""
    expected = SPLIT_SIZES[split]
    n_found = len(found.file_name)  # names are unique
    if n_found == expected:
        return ""
    lack = f"{n_found:,} images found, expected {expected:,}"
    if split == "validation":
        lack += f"; missing: {missing_validation_names({*found.file_name})}"
    return lack
