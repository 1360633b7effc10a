"""Saved selections: files that select the same samples in every store of the same content.

A file holds ranks, the places of the samples among all of their split sorted by file name,
and the content digest of the split: see ``docs/format.md``, section 9.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_path
from arraystore._checksum import crc32c
from arraystore.errors import FormatError, VersionError, escaped
from arraystore.schema import get_attribute, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from arraystore._typing import Ints

SELECTION_FORMAT: Final = "arraystore-selection"
SELECTION_VERSION: Final = "1.0"
_TYPES: Final = ("int8", "int16", "int32", "int64")
_PIECE_NBYTES: Final = 2**20
_HEAD: Final = ("format", "format_version", "dataset", "made")


@dataclass(frozen=True, slots=True, eq=False)
class SelectedRanks:
    """Selected samples of one stored split.

    Attributes
    ----------
    content_digest : str
        Content digest of the split, see `SplitInfo`.
    num_samples : int
        Number of samples of the whole split.
    ranks : ndarray of int64, shape (n,)
        Places of the selected samples, in their order, among all sorted by file name.
    """

    content_digest: str
    num_samples: int
    ranks: Ints


@dataclass(frozen=True, slots=True, eq=False)
class SavedSelection:
    """A selection of samples, independent of their order; get one from `Split.selection`.

    Attributes
    ----------
    dataset : str
        Name, config and version of the data set, for people.
    made : str
        How it was made, for people.
    splits : dict of str to SelectedRanks
        Selected samples of each stored split.
    """

    dataset: str
    made: str
    splits: dict[str, SelectedRanks]

    def __len__(self) -> int:
        return sum(len(selected.ranks) for selected in self.splits.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the selection to a JSON file; an older selection is replaced.

        Parameters
        ----------
        path : path-like
            Must end in ``.json``.

        Raises
        ------
        ValueError
            If it does not.
        FileExistsError
            If `path` exists and is not a saved selection.
        """
        file = as_path(path)
        if file.suffix != ".json":
            raise ValueError(
                escaped(f"{path}: the name of a saved selection's file must end in .json")
            )
        if os.path.lexists(file):
            _check_may_be_replaced(file)
        document = {
            "format": SELECTION_FORMAT,
            "format_version": SELECTION_VERSION,
            "dataset": self.dataset,
            "made": self.made,
            "splits": {name: _packed(selected) for name, selected in self.splits.items()},
        }
        data = json.dumps(document, indent=2).encode() + b"\n"
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SavedSelection:
        """Read a selection from a file.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        FormatError
            If it is not a saved selection, or is damaged.
        VersionError
            If it has a newer major version.
        """
        location = str(path)
        try:
            document = parse_json(_read_text(as_path(path)))
        except ValueError as error:
            raise FormatError(f"{location}: is not a saved selection: {error}") from None
        if not isinstance(document, dict) or document.get("format") != SELECTION_FORMAT:
            raise FormatError(
                f"{location}: is not a saved selection: 'format' must be {SELECTION_FORMAT!r}"
            )
        _, version, dataset, made = (
            get_attribute(document, key, str, location=location) for key in _HEAD
        )
        if version.split(".")[0] != SELECTION_VERSION.split(".")[0]:
            raise VersionError(
                f"{location}: has selection version {version}, this release reads "
                f"{SELECTION_VERSION.split('.')[0]}.x; upgrade arraystore"
            )
        splits = get_attribute(document, "splits", dict, location=location)
        return cls(
            dataset,
            made,
            {name: _unpacked(entry, location, name) for name, entry in splits.items()},
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(s.ranks):,}" for name, s in self.splits.items())
        return escaped(f"<SavedSelection {self.made} of {self.dataset}: {counts}>")


def _read_text(path: Path) -> bytes:
    """Read a JSON file, refusing zero bytes: a sparse file may state any size."""
    pieces = []
    with path.open("rb") as file:
        while piece := file.read(_PIECE_NBYTES):
            pieces.append(piece)
            if b"\0" in piece:
                raise ValueError("contains zero bytes")
    return b"".join(pieces)


def _check_may_be_replaced(path: Path) -> None:
    try:
        SavedSelection.load(path)
    except (FormatError, OSError):
        raise FileExistsError(
            escaped(f"{path}: exists and is not a saved selection; choose another name")
        ) from None


def _packed(selected: SelectedRanks) -> dict[str, Any]:
    """Return an entry with each rank as the difference from the one before."""
    differences = np.diff(selected.ranks, prepend=0)
    low, high = (int(differences.min()), int(differences.max())) if len(differences) else (0, 0)
    kind = next(t for t in _TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    data = differences.astype(np.dtype(kind).newbyteorder("<")).tobytes()
    return {
        "content_digest": selected.content_digest,
        "num_samples": selected.num_samples,
        "num_selected": len(selected.ranks),
        "rank_differences": base64.b64encode(data).decode("ascii"),
        "type": kind,
        "crc32c": crc32c(data),
    }


def _unpacked(entry: object, path: str, name: str) -> SelectedRanks:
    location = f"{path}: {name}"
    if not isinstance(entry, dict):
        raise FormatError(f"{location}: must be an object, got {str(entry)[:80]!r}")
    fields: Mapping[str, Any] = entry
    digest = get_attribute(fields, "content_digest", str, location=location)
    num_samples, num_selected, checksum = (
        get_attribute(fields, key, int, location=location)
        for key in ("num_samples", "num_selected", "crc32c")
    )
    kind = get_attribute(fields, "type", str, location=location)
    if kind not in _TYPES:
        raise FormatError(f"{location}: 'type' must be one of {', '.join(_TYPES)}, got {kind!r}")
    try:
        data = base64.b64decode(
            get_attribute(fields, "rank_differences", str, location=location), validate=True
        )
    except ValueError as error:
        raise FormatError(f"{location}: 'rank_differences' must be base64: {error}") from None
    if crc32c(data) != checksum:
        raise FormatError(f"{location}: the ranks do not match their checksum; the file is damaged")
    if len(data) != num_selected * np.dtype(kind).itemsize:
        raise FormatError(
            f"{location}: must hold {num_selected} ranks of type {kind}, got {len(data)} bytes"
        )
    differences = np.frombuffer(data, np.dtype(kind).newbyteorder("<")).astype(np.int64)
    ranks = np.cumsum(differences)
    if len(ranks) and not 0 <= ranks.min() <= ranks.max() < num_samples:
        raise FormatError(f"{location}: ranks must be in range({num_samples})")
    return SelectedRanks(digest, num_samples, ranks)
