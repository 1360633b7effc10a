"""ILSVRC 2012 as its authors pack it: two archives that each user downloads.

``ILSVRC2012_img_train.tar`` holds one archive a class, named after the class's
WordNet id; ``ILSVRC2012_img_val.tar`` and ``ILSVRC2012_img_test.tar`` hold images.
Names, versions and splits are those of TFDS's ``imagenet2012`` and
``imagenet2012_subset``; the subsets are the lists of SimCLR
(https://arxiv.org/abs/2002.05709).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore._arguments import as_path
from arraystore.errors import SourceError
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.reading.read_ahead import ahead
from arraystore.sources.imagenet2012_tables import hierarchy, validation_labels, wnids, words
from arraystore.sources.sample_table import (
    SampleTable,
    Source,
    Status,
    check_names,
    first_few,
    silent,
)
from arraystore.sources.subset_list import SubsetList, find_subset_list
from arraystore.sources.tar import Archive, TarMembers, next_header, open_archive, walk
from arraystore.storage.file_states import FileState, FileStates
from arraystore.storage.open_files import open_file

if TYPE_CHECKING:
    from collections.abc import Collection

    from arraystore._typing import Ints

TRAIN_ARCHIVE: Final = "ILSVRC2012_img_train.tar"
VALIDATION_ARCHIVE: Final = "ILSVRC2012_img_val.tar"
TEST_ARCHIVE: Final = "ILSVRC2012_img_test.tar"

VERSIONS: Final = ("5.0.0", "5.1.0", "3.0.0", "2.0.1", "2.0.0")
"""The versions TFDS published; the first is the default."""

TEST_VERSIONS: Final = frozenset({"5.1.0"})
"""Versions that have a test split."""

AS_FOUND_VERSIONS: Final = frozenset({"2.0.0", "2.0.1"})
"""Versions whose images keep the bytes they have in the archive, without exception."""

SPLIT_SIZES: Final = {"train": 1_281_167, "validation": 50_000, "test": 100_000}
"""Number of images in each complete archive."""

MANUAL_DIR: Final = Path("~/tensorflow_datasets/downloads/manual")
"""Where TFDS looks for archives that are downloaded by hand."""

HOMEPAGE: Final = "https://image-net.org/"

_SMALLER: Final[dict[str, tuple[str, ...]]] = {
    "1pct": (),
    "10pct": ("1pct",),
    "": ("1pct", "10pct"),
}
"""The subsets inside of each, which are stored as named selections."""

_WALKERS: Final = 8
_PROBES: Final = 16
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


@dataclass(frozen=True, slots=True)
class _Found:
    """The members of one archive that are samples, and what the archive is."""

    path: Path
    state: FileState
    unread: tuple[str, ...]
    file_name: PackedNames
    label: Ints
    offset: Ints
    nbytes: Ints

    def table(self, file: int) -> SampleTable:
        files = np.broadcast_to(np.int32(file), len(self.file_name))  # takes no memory
        return SampleTable(self.file_name, self.label, files, self.offset, self.nbytes)


def load(
    config: str,
    version: str,
    *,
    manual_dir: Path | None = None,
    subset_list: Path | None = None,
    partial: bool = False,
    status: Status = silent,
) -> Source:
    """List the samples of ``imagenet2012`` or of one of its subsets.

    Parameters
    ----------
    config : {"1pct", "10pct", ""}
        Which subset of the training images; empty for all of them.
    version : str
        One of `VERSIONS`.
    manual_dir : Path, optional
        Folder of the archives, `MANUAL_DIR` by default.
    subset_list : Path, optional
        The list of training images, one file name a line. By default it is
        looked for in `manual_dir`, then downloaded once.
    partial : bool, default False
        Accept archives, classes and images that are missing.
    status : callable, optional
        Told which archive is being read.

    Returns
    -------
    Source
        Splits ``train``, ``validation`` and, from 5.1.0 on, ``test``. A file name
        is the base name of the archive's member.

    Raises
    ------
    SourceError
        If an archive is missing, damaged, or not what it should be; if
        it does not hold all it should and `partial` is false.
    """
    folder = as_path(manual_dir or MANUAL_DIR)
    readers = {"train": TRAIN_ARCHIVE, "validation": VALIDATION_ARCHIVE}
    if version in TEST_VERSIONS:
        readers["test"] = TEST_ARCHIVE
    present = {s: folder / name for s, name in readers.items() if (folder / name).exists()}
    absent = [name for name in readers.values() if not (folder / name).exists()]
    if absent and not (partial and present):
        raise SourceError(
            f"{folder}: {' and '.join(absent)} not found; download from {HOMEPAGE} (after "
            "registering) into one folder, and name it with manual_dir (--manual-dir)"
        )
    subset = find_subset_list(config, subset_list, folder) if config else None
    read: dict[str, _Found] = {}
    for split, path in present.items():
        status(f"reading the headers of {path.name}")
        read[split] = _read_archive(split, path, subset, partial=partial)
        check_names(path.name, read[split].file_name)
    lacks = [f"{name} not found; its split is left out" for name in absent]
    # Damage of any archive is an error before the advice to take what there is.
    for split, found in read.items():
        lack = _lack(split, found, subset)
        if lack and not partial:
            raise SourceError(
                f"{found.path.name}: {lack}; give partial=True (--partial) to convert what is there"
            )
        if lack:
            lacks.append(f"{found.path.name}: {lack}")
    damage = [unread for found in read.values() for unread in found.unread]
    tables = {split: found.table(file) for file, (split, found) in enumerate(read.items())}
    selections, lists, notes = _smaller_subsets(config, folder, tables)
    lists = [*([subset] if subset else []), *lists]
    origins = [(found.path.name, found.state.nbytes) for found in read.values()]
    origins += [listed.origin for listed in lists]
    all_states = FileStates.known([(str(found.path), found.state) for found in read.values()])
    for listed in lists:
        all_states = all_states.joined(listed.states)
    return Source(
        name="imagenet2012_subset" if subset else "imagenet2012",
        config=config,
        version=version,
        description=f"{_DESCRIPTION} {subset.description}" if subset else _DESCRIPTION,
        homepage=HOMEPAGE,
        citation=_CITATION + (_SUBSET_CITATION if subset else ""),
        label_name=wnids(),
        label_words=words(),
        files=tuple(present.values()),
        splits=tables,
        origins=tuple(origins),
        selections=selections,
        reencode=version not in AS_FOUND_VERSIONS,
        partial=bool(lacks or damage),
        notes=(*damage, *lacks, *notes),
        damage=tuple(damage),
        hierarchy=hierarchy(),
        states=all_states,
    )


def _smaller_subsets(
    config: str, folder: Path, tables: dict[str, SampleTable]
) -> tuple[dict[str, dict[str, Ints]], list[SubsetList], list[str]]:
    """Return what is in the subsets that are inside of this one, their lists, and what lacks."""
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
        where = {name: i for i, name in enumerate(file_name) if name in listed.names}
        missing = [name for name in listed.names if name not in where]
        if not where:
            notes.append(f"{left_out}: none of its images is in train")
            continue
        if missing:
            notes.append(f"the selection {name} lacks {first_few(missing)}: not in train")
        found[name] = {"train": np.fromiter(where.values(), np.int64, len(where))}
        lists.append(listed)
    return found, lists, notes


def _read_archive(split: str, path: Path, subset: SubsetList | None, *, partial: bool) -> _Found:
    with open_archive(path) as archive:
        if split == "train":
            wanted = subset.names if subset else None
            return _read_train(path, archive, wanted, partial=partial)
        members = walk(archive, partial=partial)
        names = _base_names(members)
        label = _labels_of(split, archive.name, names)
    places = members.offsets, members.nbytes
    return _Found(path, archive.state, members.unread, PackedNames(packed(names)), label, *places)


def _read_train(
    path: Path, archive: Archive, wanted: Collection[str] | None, *, partial: bool
) -> _Found:
    """Walk the archive of class archives; keep the images that are wanted."""
    outer = walk(archive, partial=partial)
    label_of = {wnid: k for k, wnid in enumerate(wnids())}
    labels = []
    for name in outer.names:
        base = PurePosixPath(name)
        if base.suffix != ".tar" or base.stem not in label_of:
            raise SourceError(
                f"{archive.name}/{name}: must be the archive of a class of ILSVRC 2012, such as "
                f"{wnids()[0]}.tar; the name is no known one"
            )
        labels.append(label_of[base.stem])

    def read_class(i: int) -> tuple[bytes, Ints, Ints, tuple[str, ...]]:
        start, nbytes = int(outer.offsets[i]), int(outer.nbytes[i])
        where = f"{archive.name}/{outer.names[i]}"
        inner = walk(archive, start=start, stop=start + nbytes, where=where, partial=partial)
        names, unread = _base_names(inner), inner.unread
        if wanted is None:
            return packed(names), inner.offsets, inner.nbytes, unread
        keep = np.array([j for j, name in enumerate(names) if name in wanted], dtype=np.int64)
        return packed([names[j] for j in keep]), inner.offsets[keep], inner.nbytes[keep], unread

    # They grow in one place: what the threads leave behind they cannot give back to others.
    file_name, offsets, sizes = bytearray(), bytearray(), bytearray()
    counts, unread = [], [*outer.unread]
    n_walkers = _n_walkers(path, archive, outer)
    numbers = (i for i in range(len(labels)))
    found = ahead(numbers, read_class, n_ahead=2 * n_walkers, n_threads=n_walkers)
    for names, offset, nbytes, lost in found:
        unread += lost
        file_name += names
        offsets += offset.tobytes()
        sizes += nbytes.tobytes()
        counts.append(len(offset))
    return _Found(
        path,
        archive.state,
        tuple(unread),
        PackedNames(file_name),
        np.repeat(np.array(labels, dtype=np.int64), np.array(counts, dtype=np.int64)),
        np.frombuffer(offsets, dtype=np.int64),
        np.frombuffer(sizes, dtype=np.int64),
    )


def _n_walkers(path: Path, archive: Archive, outer: TarMembers) -> int:
    """Return how many walk at a time.

    On a cold disk each header waits for a seek: several walkers keep the disk's queue full. Where
    there is nothing to wait for they are only in each other's way.
    """
    some = outer.offsets[:: max(1, len(outer.offsets) // _PROBES)].tolist()
    file = open_file(str(path))
    cached = (file.is_cached(next_header(archive, start), unknown=False) for start in some)
    return 1 if all(cached) else _WALKERS


def _labels_of(split: str, where: str, names: list[str]) -> Ints:
    """Return the label of each member of an archive of one split; -1 in test."""
    if split == "validation":
        numbers = _numbers(where, names, _VALIDATION_NAME, SPLIT_SIZES[split])
        return validation_labels()[numbers - 1]
    _numbers(where, names, _TEST_NAME, SPLIT_SIZES[split])
    return np.full(len(names), -1)


def _base_names(members: TarMembers) -> list[str]:
    return [name.rpartition("/")[2] for name in members.names]


def _numbers(where: str, names: list[str], pattern: re.Pattern[str], limit: int) -> Ints:
    """Return the number in each name; labels belong to names, not to the archive's order."""
    numbers = []
    for name in names:
        match = pattern.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= limit:
            raise SourceError(
                f"{where}: member {name!r} is not an image of this archive; expected names like "
                f"{pattern.pattern} with numbers 1 to {limit}"
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _lack(split: str, found: _Found, subset: SubsetList | None) -> str:
    """Say what an archive lacks; nothing if it has all it should.

    Raises
    ------
    SourceError
        If there is nothing of what the subset's list names, so that it cannot be the one meant.
    """
    if split == "train" and subset:
        have = set(found.file_name)
        missing = [name for name in subset.names if name not in have]
        if missing and not have:
            raise SourceError(
                f"{found.path.name}: has none of the {first_few(missing)} listed in "
                f"{subset.origin[0]}; is that a subset list?"
            )
        return f"{first_few(missing)} listed in {subset.origin[0]} not found" if missing else ""
    expected = SPLIT_SIZES[split]
    n_found = len(found.file_name)  # no name is there twice
    if n_found == expected:
        return ""
    lack = f"{n_found:,} images found, there should be {expected:,}"
    if split == "validation":
        have = set(found.file_name)
        every = (f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, expected + 1))
        missing = [name for name in every if name not in have]
        lack += f"; missing: {first_few(missing)}"
    return lack
