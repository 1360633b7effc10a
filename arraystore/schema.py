"""Names, types and versions of stored data: ``docs/format.md`` in Python.

In this order: what a store consists of (names, sizes, limits, columns), the names that users
choose, attributes as typed values, and the attributes of a store and of its splits. This module
performs no I/O. A store is one group::

    /                       attributes of the data set
    ├── label_name          string (class,)
    ├── label_words         string (class,)
    ├── label_hierarchy/    what the classes are kinds of; optional, from version 1.1 on
    ├── train.1/ …          samples that were appended to train; optional, version 2.0
    └── train/ …            one group per split
        ├── image_payload   uint8  (byte,)      the encoded images, end to end
        ├── image_start     int64  (sample,)    image i is image_payload[image_start[i] :
        ├── image_nbytes    int64  (sample,)        image_start[i] + image_nbytes[i]]
        ├── image_height    int32  (sample,)
        ├── image_width     int32  (sample,)
        ├── image_crc32c    uint32 (sample,)
        ├── label           int64  (sample,)
        ├── file_name       string (sample,)
        ├── label_order     int64  (labelled,)
        ├── label_indptr    int64  (class_bound,)
        └── columns/        further columns, also ragged ones and ones of several dimensions

A split whose images are ranges of other files has the columns `REFERENCE_COLUMNS` as well.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from typing_extensions import override

from arraystore.errors import FormatError, VersionError, brief, escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

# Versions and names

__version__: Final = "0.1.0"
"""Version of this package."""

FORMAT_NAME: Final = "arraystore"
"""Value of the root attribute ``format``."""

FORMAT_VERSION: Final = (1, 2)
"""Newest major and minor version without parts; this release reads every minor of the major.

A store has the lowest minor version that has all it uses, see `DatasetInfo.format_version`.
"""

PARTS_VERSION: Final = (2, 0)
"""Version of a store with parts: a reader that does not know them would miss samples.

A reader refuses another major version, so no older one shows a part of the samples for all.
"""

NEWEST_VERSIONS: Final = (FORMAT_VERSION, PARTS_VERSION)
"""Newest minor version of each major version that this release reads."""

SPLIT_ENCODING: Final = "image-split"
"""Value of a split's attribute ``encoding-type``."""

REFERENCED_ENCODING: Final = "image-references"
"""Value of a split's attribute ``encoding-type`` if images are in other files.

Readers that do not know this kind of split refuse it by this name.
"""

SPLIT_ENCODING_VERSION: Final = "1.0"
"""Value of a split's attribute ``encoding-version``."""

PAYLOAD: Final = "image_payload"
"""Array of a split with the encoded images."""

SELECTIONS: Final = "selections"
"""Group of the named selections: arrays ``selections/NAME/SPLIT`` of positions."""

USER_COLUMNS: Final = "columns"
"""Group of a split with further columns: arrays over `sample`, and ragged columns."""

USER_COLUMNS_VERSION: Final = (1, 2)
"""First version of the format with columns of several dimensions, and ragged ones."""

RAGGED: Final = ("values", "indptr")
"""Arrays of the group of a ragged column."""

COLUMN_DIGEST: Final = "digest"
"""Attribute of a further column with the digest of its values."""

COLUMN_DESCRIPTION: Final = "description"
"""Attribute of a further column with a text for people."""

HIERARCHY: Final = "label_hierarchy"
"""Group of the ancestors of the classes, and the root attribute with its version."""

REFERENCES: Final = "references"
"""Root attribute with the splits and parts that have images in other files."""

HIERARCHY_VERSION: Final = "1.0"
"""Value of the root attribute `HIERARCHY`."""

UNCHECKED: Final = "unchecked:"
"""Beginning of a content digest without checksums; those that are stored are zeros."""

PARTS: Final = "parts"
"""Root attribute with the parts of the splits that samples were appended to."""

REPLACED: Final = "replaced"
"""Group of a part with the positions of the samples of earlier parts that it replaces."""

MAX_PARTS: Final = 1000
"""Most parts of a split."""

ORDERS: Final = ("shuffled", "label", "source")
"""Orders in which the samples of a split may be stored; the first is the default."""

# Sizes

SHARD_NBYTES: Final = 64 * 2**20
"""Length in bytes of a Zarr shard of the payload, and of a fill block."""

INNER_CHUNK_NBYTES: Final = 128 * 2**10
"""Length in bytes of the chunks inside a Zarr shard: the least that another client reads."""

COLUMN_CHUNK_ROWS: Final = 64 * 2**10
"""Length in rows of the chunks of every column."""

ARRAY_CHUNK_NBYTES: Final = 2**20
"""Length in bytes of the chunks of an array of several dimensions, rounded down to whole rows."""

MIN_TEXT_WIDTH: Final = 2
"""Least width in bytes of text in HDF5: netCDF4 reads a width of 1 as an array of characters."""

# Limits

MAX_NAME_NBYTES: Final = 4096
"""Most bytes of UTF-8 in a file name."""

MAX_CHUNK_NBYTES: Final = COLUMN_CHUNK_ROWS * MAX_NAME_NBYTES
"""Most bytes of an uncompressed chunk of a column."""

MAX_SPLITS: Final = 1000
"""Most splits of a store, and most named selections."""

MAX_NBYTES: Final = 64 * 2**20
"""Most bytes that are read of one attribute, or of one document with attributes."""

MAX_DEPTH: Final = 64
"""Most levels of lists and objects in a JSON document, or of groups in a store."""

# Columns

STRING: Final = "string"
"""Data type of a column of text."""

UNLABELLED: Final = -1
"""Label of a sample without a label; also the fill value of the column."""


class Column(NamedTuple):
    """Data type, dimension and fill value of a column."""

    data_type: str
    dimension: str
    fill: float | str = 0


class ArraySpec(NamedTuple):
    """Data type, shape and dimensions of an array of any number of dimensions.

    Attributes
    ----------
    data_type : str
        NumPy name of the values, or ``"string"``.
    shape : tuple of int
    dimensions : tuple of str
        Name of each dimension.
    text_nbytes : int
        Most bytes of UTF-8 in one of the values, if they are text.
    """

    data_type: str
    shape: tuple[int, ...]
    dimensions: tuple[str, ...]
    text_nbytes: int = 0

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk: as of every column, or about 1 MiB if rows have several values."""
        if len(self.shape) == 1:
            return COLUMN_CHUNK_ROWS
        is_text = self.data_type == STRING
        size = max(16, self.text_nbytes) if is_text else np.dtype(self.data_type).itemsize
        row_nbytes = max(1, math.prod(self.shape[1:]) * size)
        return max(1, min(COLUMN_CHUNK_ROWS, ARRAY_CHUNK_NBYTES // row_nbytes))


COLUMNS: Final[Mapping[str, Column]] = {
    "image_start": Column("int64", "sample"),
    "image_nbytes": Column("int64", "sample"),
    "image_height": Column("int32", "sample"),
    "image_width": Column("int32", "sample"),
    "image_crc32c": Column("uint32", "sample"),
    "label": Column("int64", "sample", UNLABELLED),
    "file_name": Column(STRING, "sample", ""),
    "label_order": Column("int64", "labelled"),
    "label_indptr": Column("int64", "class_bound"),
}
"""Columns of a split."""

REFERENCE_COLUMNS: Final[Mapping[str, Column]] = {
    "image_file": Column("int32", "sample", -1),
    "payload_files": Column(STRING, "file", ""),
    "payload_nbytes": Column("int64", "file"),
    "payload_mtime": Column("int64", "file"),
    "payload_etag": Column("int64", "file"),
}
"""Further columns of a split whose images are in other files."""

ROOT_COLUMNS: Final[Mapping[str, Column]] = {
    "label_name": Column(STRING, "class", ""),
    "label_words": Column(STRING, "class", ""),
}
"""Columns of the root."""

HIERARCHY_COLUMNS: Final[Mapping[str, Column]] = {
    "name": Column(STRING, "ancestor", ""),
    "parent": Column("int64", "link"),
    "parent_indptr": Column("int64", "node_bound"),
    "words": Column(STRING, "ancestor", ""),
}
"""The columns of the group `HIERARCHY`."""

FEATURES: Final = {
    "image": {"dtype": "uint8", "shape": [None, None, 3]},
    "label": {"dtype": "int64", "shape": []},
    "file_name": {"dtype": "string", "shape": []},
}
"""Types of a decoded sample; stored in the root attribute ``features``."""

# Names that users choose

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_COLUMN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_ODD_PART = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_RESERVED = frozenset({*ROOT_COLUMNS, "selections", "class", "zarr.json"})
_NOT_COLUMNS = frozenset(
    {
        *(*COLUMNS, PAYLOAD, "image", "image_bytes", "is_a"),  # attributes and conditions of splits
        *("sample", "byte", "labelled", "class_bound"),  # dimensions
    }
)


def check_split_name(name: str) -> None:
    """Raise `ValueError` if a split cannot have a name."""
    if not _SPLIT_NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"a split cannot be named {name[:80]!r}: use letters, digits, '_', '-' and '.'; "
            f"{', '.join(sorted(_RESERVED))} are reserved"
        )


def check_column_name(name: object) -> None:
    """Raise an error if a user cannot add a column with a name.

    Raises
    ------
    TypeError
        If it is not text.
    ValueError
        If it has other characters than letters, digits, ``_`` and ``-``, more than 100 of them, or
        another meaning.

    Examples
    --------
    >>> check_column_name("label")
    Traceback (most recent call last):
    ...
    ValueError: a column cannot be named 'label': it is a column of every split
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a column is text, got {brief(name)}")
    if not _COLUMN_NAME.fullmatch(name):
        raise ValueError(
            f"a column cannot be named {brief(name)}: use at most 100 letters, digits, '_' and '-'"
        )
    if name in _NOT_COLUMNS:
        what = "it is a column of every split" if name in COLUMNS else "the name has a meaning"
        raise ValueError(escaped(f"a column cannot be named {name!r}: {what}"))


def file_name_fault(name: str) -> str:
    """Return why a sample cannot have a file name; empty if it can.

    Examples
    --------
    >>> file_name_fault("cat/1.jpg"), file_name_fault("../cat.jpg")
    ('', "a file cannot be named '../cat.jpg': must be a path below a folder")
    """
    # No character has more than 4 bytes, so few names need to be encoded.
    if len(name) * 4 > MAX_NAME_NBYTES:
        nbytes = len(name.encode(errors="surrogatepass"))
        if nbytes > MAX_NAME_NBYTES:
            return f"a name may have {MAX_NAME_NBYTES} bytes, got {nbytes} in {brief(name)}"
    if not name or "\0" in name:
        return f"a file cannot be named {brief(name)}"
    if _ODD_PART.search(name):
        return f"a file cannot be named {brief(name)}: must be a path below a folder"
    return ""


def are_file_names(names: Sequence[str]) -> bool:
    """Return whether samples can have all of some file names; false if that takes a closer look.

    It is much faster than to ask `file_name_fault` of each name.

    Examples
    --------
    >>> are_file_names(["cat/1.jpg", "2.jpg"]), are_file_names(["cat/1.jpg", "../2.jpg"])
    (True, False)
    """
    text = f"/{'/'.join(names)}/"
    return max(map(len, names), default=0) * 4 <= MAX_NAME_NBYTES and not any(
        odd in text for odd in ("//", "/./", "/../", "\0", "\n")
    )


# Attributes as typed values


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the value of an attribute whose type is not read.

    Attributes
    ----------
    found : str
        Type of the value, for messages.
    remedy : str
        How to write it so that it is read; empty if there is no general answer.
    """

    found: str
    remedy: str = ""

    @override
    def __str__(self) -> str:
        return escaped(f"{self.found}; {self.remedy}" if self.remedy else self.found)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON document that is not nested deeper than `MAX_DEPTH`.

    Deeper values would exhaust the stack later, in `repr`, in a comparison or in `json.dumps`.

    Raises
    ------
    ValueError
        If the text is not JSON, or nested too deeply.

    Examples
    --------
    >>> parse_json('[{"a": 1}]')
    [{'a': 1}]
    >>> parse_json("[" * 65 + "]" * 65)
    Traceback (most recent call last):
    ...
    ValueError: is nested more than 64 levels deep
    """
    deep = f"is nested more than {MAX_DEPTH} levels deep"
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(deep) from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for some in level:
            inside += some.values() if isinstance(some, dict) else some
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return value
    raise ValueError(deep)


def get_attribute(
    attributes: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, location: str
) -> Any:
    """Return an attribute of some type.

    Parameters
    ----------
    attributes : mapping
        Attributes of a group or array, or fields of a JSON object.
    name : str
    kind : type or tuple of types
        Types that the value may have.
    location : str
        The group, array or file, for messages.

    Raises
    ------
    FormatError
        If the attribute is missing or has another type.
    """
    if name not in attributes:
        raise FormatError(f"{location}: attribute {name!r} is missing")
    value = attributes[name]
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(k.__name__ for k in kinds)
        got = value if isinstance(value, Unreadable) else brief(value)
        raise FormatError(f"{location}: attribute {name!r} must be {expected}, got {got}")
    return value


def get_json(attributes: Mapping[str, Any], name: str, kind: type[T], *, location: str) -> T:
    """Return the list or object that an attribute stores as JSON text.

    Parameters and errors are those of `get_attribute`.
    """
    text = get_attribute(attributes, name, str, location=location)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise FormatError(f"{location}: attribute {name!r} must be JSON: {error}") from None
    if not isinstance(values, kind):
        raise FormatError(
            f"{location}: attribute {name!r} must be a JSON {kind.__name__}, got {brief(text)}"
        )
    return values


def get_json_objects(
    attributes: Mapping[str, Any], name: str, kinds: Mapping[str, type], *, location: str
) -> list[dict[str, Any]]:
    """Return the objects that an attribute lists as JSON text.

    Parameters and errors are those of `get_attribute`, except for `kinds`: the type of each field
    that every object must have.
    """
    rows: list[Any] = get_json(attributes, name, list, location=location)
    for row in rows:
        if not isinstance(row, dict) or any(
            not isinstance(row.get(key), kind) for key, kind in kinds.items()
        ):
            raise FormatError(
                f"{location}: attribute {name!r} must hold objects with {list(kinds)}, "
                f"got {brief(row)}"
            )
    return rows


# Attributes of a store and of its splits


def check_version(attributes: Mapping[str, Any], *, location: str) -> tuple[int, int]:
    """Return the format version of a store, which must be one that this release can read.

    Parameters
    ----------
    attributes : mapping
        Attributes of the root group.
    location : str
        Address of the store, for messages.

    Returns
    -------
    (int, int)
        Major and minor version. The caller warns about a minor version newer than that in
        `NEWEST_VERSIONS`.

    Raises
    ------
    FormatError
        If the attributes are not those of a store.
    VersionError
        If this release cannot read its major version.

    Examples
    --------
    >>> check_version({"format": "arraystore", "format_version": "1.7"}, location="a.zarr")
    (1, 7)
    >>> check_version({"format": "arraystore", "format_version": "3.0"}, location="a.zarr")
    Traceback (most recent call last):
    ...
    arraystore.errors.VersionError: a.zarr: format version 3.0 cannot be read, this release reads
    1.x and 2.x; upgrade arraystore
    """
    found = attributes.get("format")
    if found != FORMAT_NAME:
        raise FormatError(
            f"{location}: is not an arraystore store: attribute 'format' must be {FORMAT_NAME!r}, "
            f"got {found if isinstance(found, Unreadable) else brief(found)}"
        )
    text = get_attribute(attributes, "format_version", str, location=location)
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text)
    if match is None:
        raise FormatError(
            f"{location}: attribute 'format_version' must look like '1.0', got {brief(text)}"
        )
    major, minor = int(match[1]), int(match[2])
    known = [newest[0] for newest in NEWEST_VERSIONS]
    if major not in known:
        remedy = "upgrade arraystore" if major > known[-1] else "convert it again"
        reads = " and ".join(f"{number}.x" for number in known)
        raise VersionError(
            f"{location}: format version {text} cannot be read, this release reads {reads}; "
            f"{remedy}"
        )
    return major, minor


def without_parts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a root without those that new columns or samples change."""
    changed = {"format_version", PARTS, "sources", "partial", "skipped", "reencoded"}
    return {name: value for name, value in attributes.items() if name not in changed}


@dataclass(frozen=True, slots=True)
class SplitParts:
    """A split that samples were appended to: its parts, and what they are together.

    Attributes
    ----------
    groups : tuple of str
        The groups with the samples, in their order; the first has the name of the split.
    num_samples, num_bytes : int
        Number of samples, and size of their images, without those that are replaced.
    content_digest : str
        Of these samples, as of a split without parts.
    replaced : dict of str to tuple of str
        Of each part that replaces samples: the earlier parts that these are in.
    """

    groups: tuple[str, ...]
    num_samples: int
    num_bytes: int
    content_digest: str
    replaced: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def info(self) -> SplitInfo:
        """Attributes of the split."""
        return SplitInfo(self.num_samples, self.num_bytes, ORDERS[2], 0, self.content_digest)

    @classmethod
    def parse(cls, split: str, value: Any, *, location: str) -> SplitParts:
        """Read the entry of a split in the root attribute `PARTS`.

        Raises
        ------
        FormatError
            If it is not as specified.
        """
        try:
            groups = tuple(map(str, value["groups"]))
            replaced = {
                str(part): tuple(map(str, earlier))
                for part, earlier in value.get("replaced", {}).items()
            }
            parts = cls(
                groups,
                int(value["num_samples"]),
                int(value["num_bytes"]),
                str(value["content_digest"]),
                replaced,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FormatError(
                f"{location}: attribute {PARTS!r} must hold objects with groups, num_samples, "
                f"num_bytes and content_digest, got {brief(value)}"
            ) from None
        _check_stored_names(list(groups), f"{location}: the parts of {brief(split)}")
        earlier_of = {group: groups[:number] for number, group in enumerate(groups)}
        is_earlier = all(
            set(earlier) <= set(earlier_of.get(part, ())) for part, earlier in replaced.items()
        )
        sizes = parts.num_samples, parts.num_bytes
        if groups[:1] != (split,) or not is_earlier or not all(0 <= n < 2**63 for n in sizes):
            raise FormatError(
                f"{location}: attribute {PARTS!r} must list the groups of {brief(split)}, that "
                f"one first, each with earlier ones that it replaces, got {brief(value)}"
            )
        return parts


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Attributes of a store that describe its data set as a whole.

    Attributes
    ----------
    name, config, version : str
        As in ``imagenet2012_subset/1pct:5.0.0``; `config` may be empty.
    description, homepage, citation : str
        For people; `citation` is BibTeX.
    splits : tuple of str
        Names of the splits, in their order.
    sources : tuple of (str, int)
        Base name and size in bytes of each file or folder converted.
    partial : bool
        Whether the sources lacked samples that belong to the data set.
    skipped : tuple of dict
        Images left out with ``on_error="skip"``: split, file name, reason.
    reencoded : tuple of str
        File names of the images whose bytes are not those of the source.
    selections : dict of str to tuple of str
        Name of each stored selection, and the splits that it selects from.
    label_hierarchy : str
        Version of the stored hierarchy of the classes; empty if the store has none.
    references : tuple of str
        Splits and parts with images that are in other files.
    parts : dict of str to SplitParts
        The parts of each split that samples were appended to.
    """

    name: str
    config: str
    version: str
    description: str
    homepage: str
    citation: str
    splits: tuple[str, ...]
    sources: tuple[tuple[str, int], ...] = ()
    partial: bool = False
    skipped: tuple[dict[str, str], ...] = ()
    reencoded: tuple[str, ...] = ()
    selections: dict[str, tuple[str, ...]] = field(default_factory=dict)
    label_hierarchy: str = ""
    references: tuple[str, ...] = ()
    parts: dict[str, SplitParts] = field(default_factory=dict)
    writer: str = field(default=f"arraystore {__version__}", kw_only=True)

    def __post_init__(self) -> None:
        for name in (*self.splits, *self.selections):
            check_split_name(name)
        if self.label_hierarchy and HIERARCHY in self.splits:
            raise ValueError(
                f"a split cannot be named {HIERARCHY!r} in a store with a hierarchy of classes"
            )

    @property
    def format_version(self) -> tuple[int, int]:
        """Lowest version of the format that has all that the store uses."""
        if self.parts:
            return PARTS_VERSION
        if self.references:
            return (1, 2)
        return (1, 1) if self.label_hierarchy else (1, 0)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all groups with samples: the splits, and all parts of them."""
        parts = (group for some in self.parts.values() for group in some.groups[1:])
        return *self.splits, *parts

    def split_of(self, group: str) -> str:
        """Return the split that a group with samples is, or is a part of."""
        found = (split for split, parts in self.parts.items() if group in parts.groups)
        return next(found, group)

    @property
    def full_name(self) -> str:
        """Name, config and version in one, such as ``imagenet2012_subset/1pct:5.0.0``."""
        config = f"/{self.config}" if self.config else ""
        version = f":{self.version}" if self.version else ""
        return f"{self.name}{config}{version}"

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the root group, the version last."""
        return {
            "writer": self.writer,
            "dataset_name": self.name,
            "dataset_config": self.config,
            "dataset_version": self.version,
            "description": self.description,
            "homepage": self.homepage,
            "citation": self.citation,
            "features": json.dumps(FEATURES),
            "splits": list(self.splits),
            "sources": json.dumps([{"name": n, "nbytes": b} for n, b in self.sources]),
            "partial": self.partial,
            "skipped": json.dumps(list(self.skipped)),
            "reencoded": json.dumps(list(self.reencoded)),
            **({"selections": json.dumps(self.selections)} if self.selections else {}),
            **({HIERARCHY: self.label_hierarchy} if self.label_hierarchy else {}),
            **({REFERENCES: list(self.references)} if self.references else {}),
            **({PARTS: json.dumps(_plain_parts(self.parts))} if self.parts else {}),
            "format": FORMAT_NAME,
            "format_version": ".".join(map(str, self.format_version)),
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], *, location: str) -> DatasetInfo:
        """Read the attributes of a root group.

        Parameters
        ----------
        attributes : mapping
            Attributes of the root.
        location : str
            Address of the store, for messages.

        Raises
        ------
        FormatError
            If one is missing, has another type, or is not the JSON it should be.
        """

        def text(name: str) -> str:
            return str(get_attribute(attributes, name, str, location=location))

        kinds = {"name": str, "nbytes": int}
        sources = get_json_objects(attributes, "sources", kinds, location=location)
        skipped = get_json_objects(attributes, "skipped", {}, location=location)
        reencoded: list[Any] = get_json(attributes, "reencoded", list, location=location)
        return cls(
            name=text("dataset_name"),
            config=text("dataset_config"),
            version=text("dataset_version"),
            description=text("description"),
            homepage=text("homepage"),
            citation=text("citation"),
            splits=_split_names(attributes, location),
            sources=tuple((s["name"], s["nbytes"]) for s in sources),
            partial=bool(get_attribute(attributes, "partial", (bool, int), location=location)),
            skipped=tuple({str(k): str(v) for k, v in row.items()} for row in skipped),
            reencoded=tuple(map(str, reencoded)),
            selections=_selections(attributes, location),
            label_hierarchy=text(HIERARCHY) if HIERARCHY in attributes else "",
            references=_references(attributes, location),
            parts=_parts(attributes, location),
            writer=text("writer"),
        )


def _split_names(attributes: Mapping[str, Any], location: str) -> tuple[str, ...]:
    names = get_attribute(attributes, "splits", list, location=location)
    if not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{location}: attribute 'splits' must be a list of names, got {brief(names)}"
        )
    _check_stored_names(names, f"{location}: attribute 'splits'")
    return tuple(names)


def _selections(attributes: Mapping[str, Any], location: str) -> dict[str, tuple[str, ...]]:
    if SELECTIONS not in attributes:
        return {}
    rows: dict[str, Any] = get_json(attributes, SELECTIONS, dict, location=location)
    for splits in rows.values():
        if not (isinstance(splits, list) and all(isinstance(split, str) for split in splits)):
            raise FormatError(
                f"{location}: attribute 'selections' must hold lists of splits, got {brief(splits)}"
            )
    _check_stored_names(list(rows), f"{location}: attribute 'selections'")
    return {name: tuple(splits) for name, splits in rows.items()}


def _references(attributes: Mapping[str, Any], location: str) -> tuple[str, ...]:
    if REFERENCES not in attributes:
        return ()
    names = get_attribute(attributes, REFERENCES, list, location=location)
    if not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{location}: attribute {REFERENCES!r} must be a list of splits, got {brief(names)}"
        )
    return tuple(names)


def _plain_parts(parts: Mapping[str, SplitParts]) -> dict[str, Any]:
    return {
        split: {
            "groups": list(some.groups),
            "num_samples": some.num_samples,
            "num_bytes": some.num_bytes,
            "content_digest": some.content_digest,
            **({REPLACED: some.replaced} if some.replaced else {}),
        }
        for split, some in parts.items()
    }


def _parts(attributes: Mapping[str, Any], location: str) -> dict[str, SplitParts]:
    if PARTS not in attributes:
        return {}
    rows: dict[str, Any] = get_json(attributes, PARTS, dict, location=location)
    parts = {split: SplitParts.parse(split, row, location=location) for split, row in rows.items()}
    groups = [group for some in parts.values() for group in some.groups[1:]]
    splits = _split_names(attributes, location)
    if not set(parts) <= set(splits) or len({*groups, *splits}) < len(groups) + len(splits):
        raise FormatError(
            f"{location}: attribute {PARTS!r} must list groups of splits, each once, got "
            f"{brief(rows)}"
        )
    return parts


def _check_stored_names(names: list[str], location: str) -> None:
    if len(names) > MAX_SPLITS or len(set(names)) < len(names):
        raise FormatError(
            f"{location}: must be {MAX_SPLITS} different names or fewer, got {len(names)}"
        )
    for name in names:
        try:
            check_split_name(name)
        except ValueError as error:
            raise FormatError(f"{location}: {error}") from None


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """Attributes of one split.

    Attributes
    ----------
    num_samples : int
        Number of samples.
    num_bytes : int
        Size of all images together, in bytes.
    order : str
        One of `ORDERS`.
    seed : int
        Seed of the shuffled order; 0 and without meaning in the others.
    content_digest : str
        sha256 over names, labels, sizes and checksums in the order of the names;
        the same in both containers and in every order. It begins with ``unchecked:`` if the
        checksums are not known.
    is_referenced : bool
        Whether images are in other files.
    """

    num_samples: int
    num_bytes: int
    order: str
    seed: int
    content_digest: str
    is_referenced: bool = False

    @property
    def has_checksums(self) -> bool:
        """Whether the checksums of the images are known."""
        return not self.content_digest.startswith(UNCHECKED)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the split's group."""
        return {
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "order": self.order,
            "seed": self.seed,
            "content_digest": self.content_digest,
            "encoding-type": REFERENCED_ENCODING if self.is_referenced else SPLIT_ENCODING,
            "encoding-version": SPLIT_ENCODING_VERSION,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], *, location: str) -> SplitInfo:
        """Read the attributes of a split's group.

        Parameters
        ----------
        attributes : mapping
            Attributes of the group.
        location : str
            Address of the split, for messages.

        Raises
        ------
        FormatError
            If they are not as specified.
        VersionError
            If the split is encoded in another major version.
        """
        encoding = get_attribute(attributes, "encoding-type", str, location=location)
        if encoding not in (SPLIT_ENCODING, REFERENCED_ENCODING):
            raise FormatError(
                f"{location}: attribute 'encoding-type' must be {SPLIT_ENCODING!r} or "
                f"{REFERENCED_ENCODING!r}, got {encoding[:80]!r}"
            )
        version = get_attribute(attributes, "encoding-version", str, location=location)
        if version.split(".")[0] != SPLIT_ENCODING_VERSION.split(".")[0]:
            raise VersionError(
                f"{location}: {encoding} version {version[:9]} cannot be read, this release "
                f"reads {SPLIT_ENCODING_VERSION.split('.')[0]}.x; upgrade arraystore"
            )
        info = cls(
            num_samples=int(get_attribute(attributes, "num_samples", int, location=location)),
            num_bytes=int(get_attribute(attributes, "num_bytes", int, location=location)),
            order=get_attribute(attributes, "order", str, location=location),
            seed=int(get_attribute(attributes, "seed", int, location=location)),
            content_digest=get_attribute(attributes, "content_digest", str, location=location),
            is_referenced=encoding == REFERENCED_ENCODING,
        )
        for name, value in (("num_samples", info.num_samples), ("num_bytes", info.num_bytes)):
            if not 0 <= value < 2**63:
                raise FormatError(
                    f"{location}: attribute {name!r} must be in range(2**63), got {brief(value)}"
                )
        return info


ROOT_ATTRIBUTES: Final = tuple(
    DatasetInfo(
        *("", "", "", "", "", "", ()),
        selections={"some": ()},
        label_hierarchy="1.0",
        references=("some",),
        parts={"some": SplitParts((), 0, 0, "")},
    ).attributes()
)
"""Names of all attributes of a root group, the version last."""

SPLIT_ATTRIBUTES: Final = tuple(SplitInfo(0, 0, "", 0, "").attributes())
"""Names of all attributes of a split's group."""
