"""The files that a pattern means, and the split of each.

A pattern is a path, a folder, a glob (``shards/train-*.tar``), or has brace ranges
(``train-{000000..001281}.tar``) and alternatives (``{train,val}.parquet``). ``NAME=PATTERN`` states
a split; several such patterns are separated by commas.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, escaped
from arraystore.schema import check_split_name
from arraystore.sources.folder_layout import SPLIT_WORDS
from arraystore.sources.junk import is_junk
from arraystore.sources.sample_table import first_few
from arraystore.storage.buckets import Buckets, ObjectPath, states_now, states_of
from arraystore.storage.file_states import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import SourcePath
    from arraystore.storage.file_states import FileStates

_MAX_FILES: Final = 1_000_000

_MAX_RECORDED: Final = 100
"""Files that a store names one by one as its origin; if there are more, it has their number."""

_STATED: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_NEXT: Final = re.compile(r",(?=[A-Za-z0-9_][A-Za-z0-9_.-]*=)")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"([0-9]+)\.\.([0-9]+)")

_OF: Final = re.compile(
    r"(?P<before>.*?)(?P<number>[0-9]{4,})-of-(?P<total>[0-9]{4,})(?P<after>.*)"
)
"""A numbered shard that says how many there are."""

_TFDS: Final = re.compile(r"\w+-(?P<split>\w+)\.\w+-[0-9]{5,}-of-[0-9]{5,}")
_HUB: Final = re.compile(r"(?P<split>[A-Za-z]\w*)-[0-9]{5,}-of-[0-9]{5,}\b.*")
_NUMBER: Final = re.compile(r"[0-9]+")
_LETTERS: Final = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Shards:
    """Files of a source, each with its split.

    Attributes
    ----------
    name : str
        Name for the data set.
    files : tuple of Path or ObjectPath
        In the order of the pattern.
    splits : tuple of str
        The split of each file.
    states : FileStates
        Of the files.
    notes : tuple of str
        What is missing.
    guesses : tuple of str
        What was guessed of splits.
    partial : bool
        Whether files are missing.
    """

    name: str
    files: tuple[SourcePath, ...]
    splits: tuple[str, ...]
    states: FileStates
    notes: tuple[str, ...]
    guesses: tuple[str, ...]
    partial: bool

    def of_splits(self) -> dict[str, list[int]]:
        """Return the positions of the files of each split, in their order."""
        found: dict[str, list[int]] = {}
        for i, split in enumerate(self.splits):
            found.setdefault(split, []).append(i)
        return found

    @property
    def origins(self) -> tuple[tuple[str, int], ...]:
        """What to record of the files: name and size of each, or of all if they are many."""
        sizes = self.states.values[:, 0].tolist()
        if len(sizes) > _MAX_RECORDED:
            return ((f"{self.name} ({len(sizes):,} files)", sum(sizes)),)
        return tuple((path.name, nbytes) for path, nbytes in zip(self.files, sizes, strict=True))


def find_shards(pattern: str, suffixes: Sequence[str], options: SourceOptions) -> Shards:
    """Find the files that a pattern means.

    Parameters
    ----------
    pattern : str
        See the module.
    suffixes : sequence of str
        Of the files that belong to the source, where the pattern is a folder.
    options : SourceOptions
        `split` and `partial` apply.

    Raises
    ------
    SourceError
        If no file matches, one is missing, or the split of a file is not clear.
    """
    stated = [match.groups() for part in _NEXT.split(pattern) if (match := _STATED.match(part))]
    if stated and options.split is not None:
        raise SourceError(f"{pattern}: states splits, so split (--split) has no meaning")
    if stated and len(stated) != len(_NEXT.split(pattern)):
        raise SourceError(f"{pattern}: either each part must be SPLIT=PATTERN or none")
    notes: list[str] = []
    guesses: list[str] = []
    files: list[SourcePath] = []
    splits: list[str] = []
    is_partial = False
    for split, part in stated or [(options.split, pattern)]:
        if split is not None:
            _check_split(split, pattern)
        found, lacking = _files_of(part, suffixes, options.buckets)
        lacking += _missing_shards(found)
        if lacking:
            missing = f"{first_few(lacking)} not found"
            if not options.partial:
                raise SourceError(
                    f"{part}: {missing}; download what is missing, or pass partial=True "
                    "(--partial) to convert what is there"
                )
            is_partial = True
            notes.append(f"{part}: {missing}; their samples are left out")
        files += found
        if split is None:
            guessed, reasons = _splits_of(found)
            splits += guessed
            guesses += reasons
        else:
            splits += [split] * len(found)
    _check_once(files)
    return Shards(
        name=name_of(pattern, options.buckets),
        files=tuple(files),
        splits=tuple(splits),
        states=states_of(files),
        notes=tuple(notes),
        guesses=tuple(guesses),
        partial=is_partial,
    )


def name_of(pattern: str, buckets: Buckets | None = None) -> str:
    """Return a name for the data set of a pattern: that of its folder.

    Parameters
    ----------
    pattern : str
    buckets : Buckets, optional
        What addresses are looked up in.

    Examples
    --------
    >>> name_of("train=/data/pets/shards/train-*.tar,val=/data/pets/shards/val.tar")
    'shards'
    """
    parts = [_STATED.match(part) for part in _NEXT.split(pattern)]
    texts = [match[2] for match in parts if match] or [pattern]
    fixed = re.split(r"[{*?\[]", texts[0])[0]
    path = (buckets or Buckets()).path(fixed)
    folder = path if fixed.endswith("/") or path.is_dir() else path.parent
    return folder.resolve().name or "images"


def _check_split(split: str, pattern: str) -> None:
    try:
        check_split_name(split)
    except ValueError as error:
        raise SourceError(f"{pattern}: {error}") from None


def _check_once(files: Sequence[SourcePath]) -> None:
    if len(set(files)) < len(files):
        seen: set[SourcePath] = set()
        for path in files:
            if path in seen:
                raise SourceError(f"{path}: named twice; a file belongs to one split")
            seen.add(path)


def _files_of(
    pattern: str, suffixes: Sequence[str], buckets: Buckets
) -> tuple[list[SourcePath], list[str]]:
    """Return the files of one pattern, and names that it states and that do not exist."""
    if not pattern:
        raise SourceError("expected the path of files, or a pattern, got nothing")
    path = buckets.path(pattern)
    if isinstance(path, ObjectPath):
        return _objects_of(path, suffixes)
    if path.is_dir():
        found = _files_below(path, suffixes)
        if not found:
            raise SourceError(f"{path}: no files *{', *'.join(suffixes)} in this folder")
        return found, []
    if path.is_file():
        return [path], []
    found, lacking = [], []
    for text in _expanded(str(path)):
        if glob.has_magic(text):
            matches = (Path(name) for name in sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
            found += [match for match in matches if match.is_file()]
        elif Path(text).is_file():
            found.append(Path(text))
        else:
            lacking.append(text)
    if not found:
        raise SourceError(f"{path}: no such file, and no file matches it as a pattern")
    return list(dict.fromkeys(found)), lacking


def _objects_of(pattern: ObjectPath, suffixes: Sequence[str]) -> tuple[list[SourcePath], list[str]]:
    """Return the objects of one pattern, and names that it states and that do not exist."""
    named: list[ObjectPath] = []
    found: list[SourcePath] = []
    lacking = []
    is_pattern = "{" in pattern.key or glob.has_magic(pattern.key)
    if not is_pattern and pattern.is_dir():
        paths = sorted(pattern.below()[0], key=lambda path: path.split("/"))
        visible = (path.split("/") for path in paths if not is_junk(path))
        found = [pattern / "/".join(parts) for parts in visible if _has(parts[-1], suffixes)]
        if not found:
            raise SourceError(f"{pattern}: no files *{', *'.join(suffixes)} in this folder")
        return found, []
    for key in _expanded(pattern.key):
        if glob.has_magic(key):
            found += _matching(pattern.at(key))
        else:
            named.append(pattern.at(key))
    for path, state in zip(named, states_now(named), strict=True):
        if state == ABSENT:
            lacking.append(str(path))
        else:
            found.append(path)
    if not found:
        raise SourceError(f"{pattern}: no such object, and no object matches it as a pattern")
    return list(dict.fromkeys(found)), lacking


def _matching(pattern: ObjectPath) -> list[ObjectPath]:
    """Return the objects that match a glob, sorted; the part without wildcards is listed."""
    parts = pattern.key.split("/")
    n_fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    folder = pattern.at("/".join(parts[:n_fixed]))
    if n_fixed == len(parts) - 1 and parts[-1] != "**":
        names = [address.rpartition("/")[2] for address in folder.entries()[1].paths]
    else:
        names = folder.below()[0]
    return [folder / name for name in sorted(names) if _matches(parts[n_fixed:], name.split("/"))]


def _matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob.

    As on a disk, ``*`` matches no hidden name, and ``**`` any number of folders.

    Examples
    --------
    >>> [_matches(["**", "a-*.tar"], path) for path in (["x", "y", "a-1.tar"], ["x", "b.tar"])]
    [True, False]
    """
    if not pattern or not names:
        return not pattern and not names
    first, rest = pattern[0], pattern[1:]
    is_visible = names[0][:1] != "." or first[:1] == "."
    if first != "**":
        fits = is_visible and fnmatch.fnmatchcase(names[0], first)
        return fits and _matches(rest, names[1:])
    if not rest and len(names) == 1:
        return is_visible
    return _matches(rest, names) or (is_visible and _matches(pattern, names[1:]))


def _files_below(folder: Path, suffixes: Sequence[str]) -> list[SourcePath]:
    found: list[SourcePath] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        found += [Path(root, name) for name in names if not is_junk(name) and _has(name, suffixes)]
    return sorted(found)


def _has(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a name has a suffix; that of TFDS comes before the number of the shard."""
    match = _OF.fullmatch(name)
    stem = match["before"].rstrip("-") if match and not match["after"] else name
    return stem.lower().endswith(tuple(suffixes))


def _expanded(pattern: str) -> Iterator[str]:
    """Expand braces, as shells do: ``{000..012}`` and ``{a,b}``, which do not nest."""
    pieces = _BRACES.split(pattern)
    choices = [
        [piece] if i % 2 == 0 else _choices(piece, pattern) for i, piece in enumerate(pieces)
    ]
    total = 1
    for some in choices:
        total *= len(some)
    if total > _MAX_FILES:
        raise SourceError(f"{pattern}: means {total:,} files, at most {_MAX_FILES:,} are read")
    return ("".join(parts) for parts in itertools.product(*choices))


def _choices(inside: str, pattern: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        if not int(first) <= int(last) < int(first) + _MAX_FILES:
            raise SourceError(f"{pattern}: {{{inside}}} must be a range that ascends")
        width = len(first) if first[0] == "0" or len(first) == len(last) else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _missing_shards(files: Sequence[SourcePath]) -> list[str]:
    """Return which shards are missing, where names say how many there are."""
    groups: dict[tuple[SourcePath, str, str], dict[int, str]] = {}
    for path in files:
        if match := _OF.fullmatch(path.name):
            key = path.parent, match["before"], match["total"]
            groups.setdefault(key, {})[int(match["number"])] = match["number"]
    lacking = []
    for (folder, before, total), numbers in groups.items():
        if int(total) > _MAX_FILES:
            raise SourceError(f"{folder}/{before}: means {total} files, more than are read")
        width = len(next(iter(numbers.values())))
        lacking += [
            str(folder / f"{before}{number:0{width}}-of-{total}")
            for number in range(int(total))
            if number not in numbers
        ]
    return lacking


def _splits_of(files: Sequence[SourcePath]) -> tuple[list[str], list[str]]:
    """Return the split of each file, from its name, and what is worth a note."""
    found = [_split_of_name(path) for path in files]
    _check_one_kind(files, found)
    found = [split or _split_of_folder(path) for split, path in zip(found, files, strict=True)]
    without = [path for split, path in zip(found, files, strict=True) if not split]
    if without and len(without) < len(files):
        raise SourceError(
            f"{without[0]}: its name has no split, other names have ({first_few(_given(found))}); "
            "pass SPLIT=PATTERN,SPLIT=PATTERN, or split=… (--split) for one split"
        )
    if without:
        note = f"no split in the names of files ({escaped(without[0].name)}, …); all are in train"
        return ["train"] * len(files), [note]
    for split, path in zip(found, files, strict=True):
        _check_split(split, str(path))
    return found, []


def _given(found: Sequence[str]) -> list[str]:
    return sorted({split for split in found if split})


def _split_of_name(path: SourcePath) -> str:
    """Return the split that a file's name states; empty if it states none."""
    if match := _TFDS.fullmatch(path.name) or _HUB.fullmatch(path.name):
        return match["split"]
    words = _words(path.name)
    if len(set(words)) > 1:
        raise SourceError(
            f"{path}: its name has the splits {' and '.join(words)}; pass SPLIT=PATTERN, or "
            "split=… (--split)"
        )
    return words[0] if words else ""


def _split_of_folder(path: SourcePath) -> str:
    """Return the split that the folder of a file is named after; empty if it is not."""
    name = path.absolute().parent.name
    return name if name.lower() in SPLIT_WORDS else ""


def _words(name: str) -> list[str]:
    return [word for word in _LETTERS.findall(name) if word.lower() in SPLIT_WORDS]


def _check_one_kind(files: Sequence[SourcePath], splits: Sequence[str]) -> None:
    """Refuse to merge ``train_small.tar`` and ``train_full.tar`` into one split."""
    kinds: dict[str, dict[str, SourcePath]] = {}
    for path, split in zip(files, splits, strict=True):
        is_numbered = _TFDS.fullmatch(path.name) or _HUB.fullmatch(path.name)
        if split and not is_numbered:
            kind = _NUMBER.sub("0", path.name)
            kinds.setdefault(split, {}).setdefault(kind, path)
    for split, paths in kinds.items():
        if len(paths) > 1:
            names = [path.name for path in paths.values()]
            raise SourceError(
                f"{next(iter(paths.values())).parent}: names of several kinds have the split "
                f"{split}: {first_few(names)}; pass SPLIT=PATTERN,SPLIT=PATTERN, or split=… "
                f"(--split {split}) for all of them"
            )
