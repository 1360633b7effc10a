"""The forms in which people keep ILSVRC 2012: which of them a folder has, and what is missing.

Only names and sizes of files are looked at; `imagenet2012_readers` reads the images.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arraystore.sources.imagenet2012_names import SPLIT_SIZES, is_name, label_of_wnid
from arraystore.sources.imagenet2012_tables import wnids
from arraystore.sources.junk import is_junk
from arraystore.sources.sample_table import first_few
from arraystore.storage.buckets import ObjectPath, state_of_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arraystore.storage.buckets import SourcePath

SPLITS: Final = ("train", "validation", "test")

ARCHIVES: Final = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
    "test": "ILSVRC2012_img_test.tar",
}
"""The official archive of each split."""

ARCHIVE: Final = "archive"
CLASS_ARCHIVES: Final = "class archives"
CLASS_FOLDERS: Final = "class folders"
FLAT_FOLDER: Final = "flat folder"
PARQUET: Final = "parquet"
TAR_GZ: Final = "tar.gz"
WEBDATASET: Final = "webdataset"
TFRECORD: Final = "tfrecord"

KINDS: Final = {
    ARCHIVE: "official archive",
    CLASS_ARCHIVES: "official archive, extracted to one archive per class",
    CLASS_FOLDERS: "extracted, one folder per class",
    FLAT_FOLDER: "extracted, all images in one folder",
    PARQUET: "Parquet files of Hugging Face",
    TAR_GZ: "tar.gz files of Hugging Face",
    WEBDATASET: "WebDataset shards",
    TFRECORD: "TFRecord files of TensorFlow Datasets",
}
"""What each kind of form is; those that keep the original bytes come first."""

SPOOLED: Final = frozenset({PARQUET, TAR_GZ})
"""Kinds whose images are not byte ranges of files."""

_ARCHIVE_NBYTES: Final = {"train": 147_897_477_120, "validation": 6_744_924_160}
"""Published sizes."""

_ROOTS: Final = (
    *("", "ILSVRC", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "Data"),
    *("ILSVRC2012", "imagenet", "imagenet-1k", "imagenet1k", "data", "imagenet-1k/data"),
)
"""Folders below the given one that may hold a form: of Kaggle, of Hugging Face, of extracting."""

_SPLIT_FOLDERS: Final = {
    "train": ("train", "ILSVRC2012_img_train", "ILSVRC2012_train"),
    "validation": ("val", "validation", "valid", "ILSVRC2012_img_val", "ILSVRC2012_val"),
    "test": ("test", "ILSVRC2012_img_test", "ILSVRC2012_test"),
}
_SPLIT_WORDS: Final = {"train": "train", "validation": "val(?:id(?:ation)?)?", "test": "test"}
_KAGGLE_LABELS: Final = "LOC_val_solution.csv"
_KAGGLE_FOLDERS: Final = ("CLS-LOC", "Data", "ILSVRC")

_CLASS_ARCHIVE: Final = re.compile(r"(n[0-9]{8})\.tar")
_SHARD: Final = re.compile(
    r".*?(?P<number>[0-9]{3,})-of-(?P<total>[0-9]{3,}).*|.*?(?P<last>[0-9]{2,})\.tar"
)
_N_HUB_ARCHIVES: Final = {"train": 5, "validation": 1, "test": 1}
_N_PROBED: Final = 1000
"""Entries of a folder that are looked at to find out what it holds."""


@dataclass(frozen=True, slots=True)
class Form:
    """One split of ILSVRC 2012, as it lies in a folder.

    Attributes
    ----------
    split : {"train", "validation", "test"}
    kind : str
        One of `KINDS`.
    path : Path or ObjectPath
        The archive; or the folder that holds images, class folders, or `files`.
    files : tuple of Path or ObjectPath
        The class archives or shards, sorted; empty for archives and folders.
    missing : str
        What the names show to be missing; empty if nothing.
    labels : Path or ObjectPath, optional
        Kaggle's table of validation labels.
    """

    split: str
    kind: str
    path: SourcePath
    files: tuple[SourcePath, ...] = ()
    missing: str = ""
    labels: SourcePath | None = None

    @property
    def text(self) -> str:
        """What it is and where, for messages and reports."""
        n = len(self.files)
        count = f" ({n:,} file{'s' if n > 1 else ''})" if n else ""
        return f"{self.path}: {KINDS[self.kind]}{count}"


def find_forms(folder: SourcePath) -> dict[str, list[Form]]:
    """Return the forms of each split that a folder has, the one to be read first.

    Complete forms come before those that lack something, and those with the original bytes
    before others.

    Parameters
    ----------
    folder : Path or ObjectPath
        As the user keeps it: the place of the archives, the root of an extracted tree or of
        Kaggle's, a copy of a repository of Hugging Face, or the data folder of TFDS.
    """
    if isinstance(folder, ObjectPath):
        folder.objects.check_listable(folder.key)
    forms: list[Form] = []
    for root in _roots(folder):
        names = _names(root)
        forms += _archives(root, names)
        forms += _hub_files(root, names)
        forms += _tfrecords(root, names)
        forms += _webdatasets(root, names)
        forms += _folders(root, names)
    labels = _kaggle_labels(folder)
    found: dict[str, list[Form]] = {split: [] for split in SPLITS}
    order = list(KINDS)
    seen = set()
    for form in sorted(forms, key=lambda form: (bool(form.missing), order.index(form.kind))):
        key = form.split, form.kind, str(form.path.resolve())
        if key not in seen:
            seen.add(key)
            is_labelled = form.split == "validation" and labels is not None
            found[form.split].append(_with_labels(form, labels) if is_labelled else form)
    return found


def archive_missing(split: str, path: SourcePath) -> str:
    """Return in what an official archive differs in size from the published one."""
    expected, found = _ARCHIVE_NBYTES.get(split), state_of_path(path).nbytes
    if expected is None or found == expected:
        return ""
    return f"has {found:,} bytes, the published archive {expected:,}"


def count_images(form: Form) -> int | None:
    """Return how many images the names of files show; None if the files must be read."""
    if form.kind == FLAT_FOLDER:
        return sum(is_name(form.split, name) for name in _names(form.path))
    if form.kind == CLASS_FOLDERS:
        classes = (name for name in _names(form.path) if label_of_wnid(name) is not None)
        return sum(
            is_name(form.split, name) for wnid in classes for name in _names(form.path / wnid)
        )
    return None


def expected_forms(split: str) -> str:
    """Return the forms of a split, for messages."""
    folder = _SPLIT_FOLDERS[split][0]
    images = f"{folder}/*.JPEG" if split == "test" else f"{folder}/WNID/*.JPEG"
    return (
        f"{ARCHIVES[split]}, {images}, or the files of Hugging Face, WebDataset or TensorFlow "
        "Datasets"
    )


def _with_labels(form: Form, labels: SourcePath | None) -> Form:
    return Form(form.split, form.kind, form.path, form.files, form.missing, labels)


def _roots(folder: SourcePath) -> Iterator[SourcePath]:
    """Yield the folders that exist among those that may hold a form."""
    for name in _ROOTS:
        if (root := folder / name).is_dir():
            yield root
    # TFDS prepares name/version; the versions of its subsets have a config before them.
    for name in ("imagenet2012", *_names(folder)):
        if _is_version(name) or name == "imagenet2012":
            root = folder / name
            if root.is_dir():
                yield root
            if name == "imagenet2012":
                yield from (root / v for v in sorted(_names(root), reverse=True) if _is_version(v))


def _is_version(name: str) -> bool:
    return re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", name) is not None


def _names(folder: SourcePath) -> list[str]:
    """Return the names in a folder that are not junk; none if it does not exist."""
    if isinstance(folder, ObjectPath):
        return sorted(name for name in folder.names() if not is_junk(name))
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if not is_junk(name))


def _archives(root: SourcePath, names: Sequence[str]) -> Iterator[Form]:
    for split, name in ARCHIVES.items():
        if name in names and not (root / name).is_dir():
            yield Form(split, ARCHIVE, root / name)
    folders = (root, *(root / name for name in _SPLIT_FOLDERS["train"] if name in names))
    for folder in folders:
        inside = names if folder == root else _names(folder)
        matches = [match for name in inside if (match := _CLASS_ARCHIVE.fullmatch(name))]
        found = [match[0] for match in matches if label_of_wnid(match[1]) is not None]
        if found:
            lacks = sorted({*wnids()} - {name.removesuffix(".tar") for name in found})
            files = tuple(folder / name for name in found)
            yield Form("train", CLASS_ARCHIVES, folder, files, _lacks(lacks, "class archive"))


def _folders(root: SourcePath, names: Sequence[str]) -> Iterator[Form]:
    """Yield folders of images and of class folders, by split and in the root itself."""
    for split in SPLITS:
        for name in ("", *_SPLIT_FOLDERS[split]):
            if not name or name in names:
                yield from _folder(split, root / name, names if not name else None)


def _folder(split: str, folder: SourcePath, names: Sequence[str] | None) -> Iterator[Form]:
    is_root = names is not None
    names = _names(folder) if names is None else names
    classes = [name for name in names if label_of_wnid(name) is not None]
    classes = _only_folders(folder, classes) if split != "test" else []
    if classes and (not is_root or _holds(split, [folder / name for name in classes])):
        lacks = sorted({*wnids()} - {*classes})
        yield Form(split, CLASS_FOLDERS, folder, missing=_lacks(lacks, "class folder"))
    elif split != "train" and any(is_name(split, name) for name in names[:_N_PROBED]):
        yield Form(split, FLAT_FOLDER, folder, missing=_too_few(split, names))


def _only_folders(root: SourcePath, names: Sequence[str]) -> list[str]:
    """Return those of some names in a folder that are folders."""
    if isinstance(root, ObjectPath):
        folders = set(root.entries()[0]) if names else set()
        return [name for name in names if name in folders]
    return [name for name in names if (root / name).is_dir()]


def _holds(split: str, folders: Sequence[SourcePath]) -> bool:
    """Whether the first image in class folders is one of a split."""
    for folder in folders:
        for name in _names(folder):
            return is_name(split, name)
    return False


def _too_few(split: str, names: Sequence[str]) -> str:
    n = sum(is_name(split, name) for name in names)
    return "" if n == SPLIT_SIZES[split] else f"has {n:,} of {SPLIT_SIZES[split]:,} images"


def _hub_files(root: SourcePath, names: Sequence[str]) -> Iterator[Form]:
    """Yield the Parquet files and older archives of Hugging Face's ``ILSVRC/imagenet-1k``."""
    for split, word in _SPLIT_WORDS.items():
        parquet = re.compile(rf"{word}-([0-9]{{5}})-of-([0-9]{{5}})(?:-\w+)?\.parquet")
        files = [name for name in names if parquet.fullmatch(name)]
        if files:
            yield _shards(split, PARQUET, root, files)
        archive = re.compile(rf"{word}_images(?:_([0-9]))?\.tar\.gz")
        files = [name for name in names if archive.fullmatch(name)]
        if files:
            n = _N_HUB_ARCHIVES[split]
            missing = f"has {len(files)} of {n} archives" if len(files) < n else ""
            yield Form(split, TAR_GZ, root, tuple(root / name for name in files), missing)


def _tfrecords(root: SourcePath, names: Sequence[str]) -> Iterator[Form]:
    for split in SPLITS:
        pattern = re.compile(
            rf"imagenet2012(?:_subset)?-{split}\.tfrecord-[0-9]{{5}}-of-[0-9]{{5}}"
        )
        files = [name for name in names if pattern.fullmatch(name)]
        if files:
            yield _shards(split, TFRECORD, root, files)


def _webdatasets(root: SourcePath, names: Sequence[str]) -> Iterator[Form]:
    for split, word in _SPLIT_WORDS.items():
        pattern = re.compile(rf"(?:imagenet(?:[-_]?1k|2012)?[-_])?{word}[-_][0-9]{{2,}}\.tar")
        for folder in (root, *(root / name for name in _SPLIT_FOLDERS[split] if name in names)):
            inside = names if folder == root else _names(folder)
            files = [name for name in inside if pattern.fullmatch(name)]
            if folder != root and not files:
                files = [name for name in inside if re.fullmatch(r"[0-9]{2,}\.tar", name)]
            if files:
                yield _shards(split, WEBDATASET, folder, files)


def _shards(split: str, kind: str, root: SourcePath, files: Sequence[str]) -> Form:
    """Return a form of numbered files; its names may show that some are missing."""
    matches = [match for name in files if (match := _SHARD.fullmatch(name))]
    numbers = {int(match["number"] or match["last"]) for match in matches}
    totals = [int(match["total"]) for match in matches if match["total"]]
    n_expected = max([*totals, *(number + 1 for number in numbers)])
    n_lacks = n_expected - len(numbers)
    missing = f"lacks {n_lacks:,} of {n_expected:,} files" if n_lacks else ""
    return Form(split, kind, root, tuple(root / name for name in files), missing)


def _lacks(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    return f"lacks {len(names):,} of {len(wnids()):,} {what}s: {first_few(names)}"


def _kaggle_labels(folder: SourcePath) -> SourcePath | None:
    """Return Kaggle's table of validation labels, which lies beside its tree or above it."""
    candidates = [folder, folder / "ILSVRC"]
    above = folder.absolute()
    while above.name in _KAGGLE_FOLDERS:
        above = above.parent
        candidates.append(above)
    found = (path / _KAGGLE_LABELS for path in candidates)
    return next((path for path in found if path.is_file()), None)
