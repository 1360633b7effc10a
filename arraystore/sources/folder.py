"""Read image files in folders.

`folder_listing` lists the files, `folder_layout` decides which folders are splits and classes, and
this module makes the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError, escaped
from arraystore.indexing.hierarchy import Hierarchy
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.schema import UNLABELLED
from arraystore.sources.classes import Classes, as_classes, nfc, resolve_names
from arraystore.sources.folder_layout import TINY_IMAGENET, arrange
from arraystore.sources.folder_listing import joined, list_folder, listing_of
from arraystore.sources.junk import junk_note, others_note
from arraystore.sources.label_space import IMAGENET
from arraystore.sources.sample_table import SampleTable, Source, check_names, first_few
from arraystore.sources.source_options import SourceOptions
from arraystore.sources.tiny_imagenet import TABLES, arrange_tiny_imagenet, is_tiny_imagenet
from arraystore.storage.buckets import ObjectPath, paths_of, states_of
from arraystore.storage.file_states import FileStates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arraystore.sources.folder_layout import Arrangement, ImageFolder
    from arraystore.sources.folder_listing import FolderListing
    from arraystore.storage.buckets import SourcePath

    StatesOf = Callable[[Sequence[str]], FileStates]

_SHAPES: Final = "split/class/file, or class/file as one train split"


def load(root: SourcePath, options: SourceOptions | None = None) -> Source:
    """List the images below a folder.

    Parameters
    ----------
    root : Path or ObjectPath
        A file with a suffix in `arraystore.images.probe.IMAGE_SUFFIXES` is an image. Hidden files,
        those of the system, and other files are left out and counted in the notes.
    options : SourceOptions, optional
        `layout` states what the folders are; by default split/class/file, or class/file, which
        becomes one train split, if that is clear. `split` names the one split of a layout without
        splits, `classes` states the classes.

    Returns
    -------
    Source
        Files sorted by path; the classes of all splits in one list sorted by name, like those of
        torchvision's ``ImageFolder``. Its notes say what was guessed, and what was left out.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If `root` is not a folder.
    SourceError
        If there are no images, or if splits and classes are not clear, or other than stated.
    SourceChangedError
        If a folder changed while it was listed.
    """
    options = options or SourceOptions()
    if isinstance(root, ObjectPath):
        listing, states_of_images = _list_bucket(root)
    elif root.is_dir():
        listing, states_of_images = list_folder(str(root)), FileStates.of
    else:
        kind = NotADirectoryError if root.exists() else FileNotFoundError
        raise kind(escaped(f"{root}: is not a folder; folder:PATH needs {_SHAPES}"))
    _check_clear(root, listing, options)
    tables: FileStates = FileStates.known([])
    if options.layout == TINY_IMAGENET or (options.layout is None and is_tiny_imagenet(listing)):
        if options.split is not None:
            raise SourceError(f"{root}: Tiny ImageNet has splits, so split (--split) has no place")
        tables = states_of([root / name for name in TABLES if name in listing.others])
        found = arrange_tiny_imagenet(str(root), listing, lambda name: _text(root / name))
    else:
        found = arrange(str(root), listing, options.layout, split=options.split)
    return _source(root, listing, found, options, tables, states_of_images)


def _list_bucket(root: ObjectPath) -> tuple[FolderListing, StatesOf]:
    """List a folder of a bucket; also return what knows the states of the objects from that."""
    paths, known = root.below()
    if not paths:
        raise FileNotFoundError(escaped(f"{root}: is empty; folder:ADDRESS needs {_SHAPES}"))
    return listing_of(paths), known.find


def name_of(root: SourcePath) -> str:
    """Return the name of the data set of a folder."""
    return root.resolve().name or "folder"


def _check_clear(root: SourcePath, listing: FolderListing, options: SourceOptions) -> None:
    """Refuse folders and links that cannot be read: a class may be missing, and shift labels."""
    if listing.unclear and not options.skips_unreadable:
        (name, reason), *others = listing.unclear.items()
        more = f"; {first_few([name for name, _ in others])} too" if others else ""
        raise SourceError(
            f"{root}/{name}: {reason}{more}; restore or remove it, or pass on_error='skip' "
            "(--on-error skip) to leave it out"
        )


def _text(path: SourcePath) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: must be UTF-8 text: {error}") from None


@dataclass
class _Samples:
    """The samples of all splits, as they are put together."""

    root: str
    faults: Mapping[str, str]
    number_of: Mapping[str, int]
    paths: list[str] = field(default_factory=list)

    def of_split(self, folders: Sequence[ImageFolder], images: Mapping[str, list[str]]) -> _Split:
        """Return the samples of one split; images without a fault are added to `paths`."""
        split = _Split()
        for folder in folders:
            label = self.number_of[folder.label_name] if folder.label_name else UNLABELLED
            for name in images[folder.path]:
                path = joined(folder.path, name)
                if folder.label_names is not None:
                    label = self.number_of[folder.label_names[name]]
                split.names.append(joined(folder.below, name))
                split.labels.append(label)
                if path in self.faults:
                    split.faults[len(split.labels) - 1] = self.faults[path]
                else:
                    self.paths.append(f"{self.root}/{path}")
        return split


@dataclass
class _Split:
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def table(self, first: int, n_files: int, states: FileStates) -> SampleTable:
        """Return the samples, whose files begin at `first` of `n_files`."""
        has_file = np.ones(len(self.names), dtype=np.bool_)
        has_file[list(self.faults)] = False
        file = np.full(len(self.names), n_files, dtype=np.int32)  # a file that does not exist
        nbytes = np.zeros(len(self.names), dtype=np.int64)
        stop = first + int(has_file.sum())
        file[has_file] = np.arange(first, stop, dtype=np.int32)
        nbytes[has_file] = states.values[first:stop, 0]
        return SampleTable(
            file_name=PackedNames(packed(self.names)),
            label=np.array(self.labels, dtype=np.int64),
            file=file,
            offset=np.zeros(len(self.names), dtype=np.int64),
            nbytes=nbytes,
        )


def _source(
    root: SourcePath,
    listing: FolderListing,
    found: Arrangement,
    options: SourceOptions,
    tables: FileStates,
    states_of_images: StatesOf,
) -> Source:
    classes, number_of, notes = _classes(str(root), found, options)
    samples = _Samples(str(root).rstrip("/"), listing.faults, number_of)
    splits, firsts = {}, {}
    for name, folders in found.splits.items():
        firsts[name] = len(samples.paths)
        splits[name] = samples.of_split(folders, listing.images)
        check_names(f"{root}: {name}", splits[name].names)
    states = states_of_images(samples.paths)
    unclear: dict[str, list[str]] = {}
    for name, reason in listing.unclear.items():
        unclear.setdefault(reason, []).append(name)
    read = {path.removeprefix(f"{root}/") for path in tables.paths}
    return Source(
        name=name_of(root),
        config="",
        version="",
        description=f"Images of the folder {root.resolve().name}",
        homepage="",
        citation="",
        label_name=classes.names,
        label_words=classes.words,
        files=paths_of(states),
        splits={
            name: split.table(firsts[name], len(samples.paths), states)
            for name, split in splits.items()
        },
        origins=((root.resolve().name, int(states.values[:, 0].sum())),),
        hierarchy=classes.hierarchy,
        notes=(
            *notes,
            *found.notes,
            *(f"{reason}; left out: {first_few(names)}" for reason, names in unclear.items()),
            *junk_note(listing.junk),
            *others_note([name for name in listing.others if name not in read]),
        ),
        states=states.joined(tables),
        faults={name: split.faults for name, split in splits.items() if split.faults},
        parts={name: ((0, str(root)),) for name, split in splits.items() if split.faults},
    )


def _classes(
    where: str, found: Arrangement, options: SourceOptions
) -> tuple[Classes, dict[str, int], list[str]]:
    """Return the classes, the label of each as its folder is named, and what must be reported."""
    stated = as_classes(options.classes)
    folders = {name: f"folder {path}" for name, path in found.class_folders.items()}
    empty = sorted(found.empty)
    if stated is not None:
        empty = [name for name in empty if nfc(name) not in set(map(nfc, stated.names))]
        for name in empty:
            del folders[name]
    classes, number_of, notes = resolve_names(where, folders, stated)
    if stated is not None:
        if empty:
            notes.append(
                f"folders without an image that are not among the classes: {first_few(empty)}"
            )
    else:
        if empty:
            notes.append(f"classes without an image: {first_few(empty)}")
        notes += _case_notes(classes.names)
        if (note := _number_note(classes.names)) and options.label_space != IMAGENET:
            notes.append(note)
        words = tuple(found.words.get(name) or name for name in classes.names)
        classes = replace(classes, words=words)
    if found.is_nested and classes.hierarchy is None:
        classes = _nested(classes)
    return classes, number_of, notes


def _case_notes(names: Sequence[str]) -> list[str]:
    """Return a note on classes that differ only in the case of letters, if there are any."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    some = [name for names in same.values() if len(names) > 1 for name in names]
    return [f"classes that differ only in the case of letters: {first_few(some)}"] if some else []


def _number_note(names: Sequence[str]) -> str:
    """Return a note on classes that are numbers, if their labels are other numbers."""
    if not names or not all(name.isascii() and name.isdecimal() for name in names):
        return ""
    odd = [(k, name) for k, name in enumerate(names) if int(name) != k]
    if not odd:
        return ""
    label, name = odd[0]
    return (
        f"the classes are numbers, but not the labels: classes are sorted as text, so folder "
        f"{name} has label {label}; pass classes={max(map(int, names)) + 1} (--classes) if the "
        "numbers are the labels, a list of the classes in their order, or "
        "label_space='imagenet2012'"
    )


def _nested(classes: Classes) -> Classes:
    """Return classes such as ``animal/dog`` with a hierarchy, in which it is an ``animal``."""
    parents: dict[str, list[str]] = {}
    above_words: dict[str, str] = {}
    for name in classes.names:
        below = name
        while above := below.rpartition("/")[0]:
            parents[below] = [above]
            above_words.setdefault(above, _last(above))
            below = above
    pairs = zip(classes.names, classes.words, strict=True)
    words = tuple(_last(name) if words == name else words for name, words in pairs)
    hierarchy = Hierarchy.from_parents(classes.names, parents, above_words)
    return Classes(classes.names, words, hierarchy)


def _last(path: str) -> str:
    return path.rpartition("/")[2]
