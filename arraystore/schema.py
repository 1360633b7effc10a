"""What is on disk, as names, types and versions: the Python spelling of ``docs/format.md``.

This module reads and writes nothing. A store is one group::

    /                       attributes of the data set
    ├── label_name          string (class,)
    ├── label_words         string (class,)
    ├── label_hierarchy/    what the classes are kinds of; optional, from version 1.1 on
    └── train/ …            one group a split
        ├── image_payload   uint8  (byte,)      the encoded images, end to end
        ├── image_start     int64  (sample,)    image i is image_payload[image_start[i] :
        ├── image_nbytes    int64  (sample,)        image_start[i] + image_nbytes[i]]
        ├── image_height    int32  (sample,)
        ├── image_width     int32  (sample,)
        ├── image_crc32c    uint32 (sample,)
        ├── label           int64  (sample,)
        ├── file_name       string (sample,)
        ├── label_order     int64  (labelled,)
        └── label_indptr    int64  (class_bound,)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from typing_extensions import override

from arraystore.errors import FormatError, VersionError, brief, escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

__version__: Final = "0.1.0"
"""Version of this package."""

FORMAT_NAME: Final = "arraystore"
"""Value of the root attribute ``format``."""

FORMAT_VERSION: Final = (1, 1)
"""Newest major and minor version that this release writes; it reads every minor of the major.

A store has the lowest minor version that has all it uses, see `DatasetInfo.format_version`.
"""

SPLIT_ENCODING: Final = "image-split"
"""Value of a split's attribute ``encoding-type``."""

SPLIT_ENCODING_VERSION: Final = "1.0"
"""Value of a split's attribute ``encoding-version``."""

UNLABELLED: Final = -1
"""Label of a sample that has none; also the fill value of the column."""

ORDERS: Final = ("shuffled", "label", "source")
"""How the samples of a split may be ordered; the first is the default."""

SHARD_NBYTES: Final = 64 * 2**20
"""Length of a Zarr shard of the payload, and of a block of filling, in bytes."""

INNER_CHUNK_NBYTES: Final = 128 * 2**10
"""Length of the chunks inside a Zarr shard, in bytes: what a plain client reads at least."""

MAX_NAME_NBYTES: Final = 4096
"""Most bytes of UTF-8 that a file name may have."""

MIN_TEXT_WIDTH: Final = 2
"""Bytes that text in HDF5 is wide, at least: netCDF4 takes 1 for an array of characters."""

COLUMN_CHUNK_ROWS: Final = 64 * 2**10
"""Length of the chunks of every column, in rows."""

MAX_CHUNK_NBYTES: Final = COLUMN_CHUNK_ROWS * MAX_NAME_NBYTES
"""Most bytes that a chunk of a column may have, not compressed."""

MAX_SPLITS: Final = 1000
"""Most splits that a store may have, and most named selections."""

PAYLOAD: Final = "image_payload"
SELECTIONS: Final = "selections"
"""Group of the named selections: arrays ``selections/NAME/SPLIT`` of positions."""

HIERARCHY: Final = "label_hierarchy"
"""Group of the ancestors of the classes, and the root attribute that has its version."""

HIERARCHY_VERSION: Final = "1.0"
"""Value of the root attribute `HIERARCHY`."""

STRING: Final = "string"
"""The data type of a column of text."""


class Column(NamedTuple):
    """Data type, dimension and fill value of a column."""

    data_type: str
    dimension: str
    fill: float | str = 0


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
"""The columns of a split."""

ROOT_COLUMNS: Final[Mapping[str, Column]] = {
    "label_name": Column(STRING, "class", ""),
    "label_words": Column(STRING, "class", ""),
}
"""The columns of the root."""

HIERARCHY_COLUMNS: Final[Mapping[str, Column]] = {
    "name": Column(STRING, "ancestor", ""),
    "words": Column(STRING, "ancestor", ""),
    "parent": Column("int64", "link"),
    "parent_indptr": Column("int64", "node_bound"),
}
"""The columns of the group `HIERARCHY`."""

FEATURES: Final = {
    "image": {"dtype": "uint8", "shape": [None, None, 3]},
    "label": {"dtype": "int64", "shape": []},
    "file_name": {"dtype": "string", "shape": []},
}
"""What a sample decodes to; stored in the root attribute ``features``."""

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ODD_PART = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_RESERVED = frozenset({*ROOT_COLUMNS, "selections", "class", "zarr.json"})


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a store says of its data set as a whole.

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
        Whether samples that belong to the data set were missing in the sources.
    skipped : tuple of dict
        The images left out with ``on_error="skip"``: split, file name, reason.
    reencoded : tuple of str
        File names of the images whose bytes are not those of the source.
    selections : dict of str to tuple of str
        Name of each selection that is stored, and the splits it is of.
    label_hierarchy : str
        Version of the stored hierarchy of the classes; empty if the store has none.
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
        return (1, 1) if self.label_hierarchy else (1, 0)

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
            "format": FORMAT_NAME,
            "format_version": ".".join(map(str, self.format_version)),
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], *, where: str) -> DatasetInfo:
        """Read the attributes of a root group.

        Parameters
        ----------
        attributes : mapping
            Attributes of the root.
        where : str
            Address of the store, for messages.

        Raises
        ------
        FormatError
            If one is missing, of the wrong type, or not the JSON it should be.
        """

        def text(name: str) -> str:
            return str(need(attributes, name, str, where=where))

        sources = list_of_objects(attributes, "sources", {"name": str, "nbytes": int}, where=where)
        skipped = list_of_objects(attributes, "skipped", {}, where=where)
        return cls(
            name=text("dataset_name"),
            config=text("dataset_config"),
            version=text("dataset_version"),
            description=text("description"),
            homepage=text("homepage"),
            citation=text("citation"),
            splits=split_names(attributes, where=where),
            sources=tuple((s["name"], s["nbytes"]) for s in sources),
            partial=bool(need(attributes, "partial", (bool, int), where=where)),
            skipped=tuple({str(k): str(v) for k, v in row.items()} for row in skipped),
            reencoded=tuple(map(str, json_of(attributes, "reencoded", list, where=where))),
            selections=_selections(attributes, where=where),
            label_hierarchy=text(HIERARCHY) if HIERARCHY in attributes else "",
            writer=text("writer"),
        )


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """What a store says of one split.

    Attributes
    ----------
    num_samples : int
        Number of samples.
    num_bytes : int
        Length of the payload, in bytes.
    order : str
        One of `ORDERS`.
    seed : int
        Seed of the shuffled order; 0 and without meaning in the others.
    content_digest : str
        sha256 over names, labels, sizes and checksums in the order of the names;
        the same in both containers and in every order.
    """

    num_samples: int
    num_bytes: int
    order: str
    seed: int
    content_digest: str

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the split's group."""
        return {
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "order": self.order,
            "seed": self.seed,
            "content_digest": self.content_digest,
            "encoding-type": SPLIT_ENCODING,
            "encoding-version": SPLIT_ENCODING_VERSION,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], *, where: str) -> SplitInfo:
        """Read the attributes of a split's group; `FormatError` if they are not as specified."""
        encoding = need(attributes, "encoding-type", str, where=where)
        if encoding != SPLIT_ENCODING:
            raise FormatError(
                f"{where}: attribute 'encoding-type' must be {SPLIT_ENCODING!r}, "
                f"got {encoding[:80]!r}"
            )
        version = need(attributes, "encoding-version", str, where=where)
        if version.split(".")[0] != SPLIT_ENCODING_VERSION.split(".")[0]:
            raise VersionError(
                f"{where}: {SPLIT_ENCODING} version {version[:9]} cannot be read, this release "
                f"reads {SPLIT_ENCODING_VERSION.split('.')[0]}.x; upgrade arraystore"
            )
        info = cls(
            num_samples=int(need(attributes, "num_samples", int, where=where)),
            num_bytes=int(need(attributes, "num_bytes", int, where=where)),
            order=need(attributes, "order", str, where=where),
            seed=int(need(attributes, "seed", int, where=where)),
            content_digest=need(attributes, "content_digest", str, where=where),
        )
        for name, value in (("num_samples", info.num_samples), ("num_bytes", info.num_bytes)):
            if not 0 <= value < 2**63:
                raise FormatError(
                    f"{where}: attribute {name!r} must be in range(2**63), got {brief(value)}"
                )
        return info


def check_version(attributes: Mapping[str, Any], *, where: str) -> tuple[int, int]:
    """Return the format version of a store that this release can read.

    Parameters
    ----------
    attributes : mapping
        Attributes of the root group.
    where : str
        Address of the store, for messages.

    Returns
    -------
    (int, int)
        Major and minor version. A minor newer than `FORMAT_VERSION` is the
        caller's to warn about.

    Raises
    ------
    FormatError
        If the attributes are not those of a store.
    VersionError
        If its major version is another than this release's.

    Examples
    --------
    >>> check_version({"format": "arraystore", "format_version": "1.7"}, where="a.zarr")
    (1, 7)
    >>> check_version({"format": "arraystore", "format_version": "2.0"}, where="a.zarr")
    Traceback (most recent call last):
    ...
    arraystore.errors.VersionError: a.zarr: format version 2.0 cannot be read, this release reads
    1.x; upgrade arraystore
    """
    found = attributes.get("format")
    if found != FORMAT_NAME:
        raise FormatError(
            f"{where}: is not an arraystore store: attribute 'format' must be {FORMAT_NAME!r}, "
            f"got {found if isinstance(found, Unreadable) else brief(found)}"
        )
    text = need(attributes, "format_version", str, where=where)
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text)
    if match is None:
        raise FormatError(
            f"{where}: attribute 'format_version' must look like '1.0', got {brief(text)}"
        )
    major, minor = int(match[1]), int(match[2])
    if major != FORMAT_VERSION[0]:
        way_out = "upgrade arraystore" if major > FORMAT_VERSION[0] else "convert it again"
        raise VersionError(
            f"{where}: format version {text} cannot be read, this release reads "
            f"{FORMAT_VERSION[0]}.x; {way_out}"
        )
    return major, minor


def file_name_fault(name: str) -> str:
    """Return why a sample cannot have a file name; nothing if it can.

    Examples
    --------
    >>> file_name_fault("cat/1.jpg"), file_name_fault("../cat.jpg")
    ('', "a file cannot be named '../cat.jpg': must be a path below a folder")
    """
    # No character has more than 4 bytes, so that few names need be encoded.
    if len(name) * 4 > MAX_NAME_NBYTES:
        nbytes = len(name.encode(errors="surrogatepass"))
        if nbytes > MAX_NAME_NBYTES:
            return f"a name may have {MAX_NAME_NBYTES} bytes, got {nbytes} in {brief(name)}"
    if not name or "\0" in name:
        return f"a file cannot be named {brief(name)}"
    if _ODD_PART.search(name):
        return f"a file cannot be named {brief(name)}: must be a path below a folder"
    return ""


def check_split_name(name: str) -> None:
    """Refuse a name that a split cannot have, with a `ValueError`."""
    if not _SPLIT_NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"a split cannot be named {name[:80]!r}: letters, digits, '_', '-' and '.' make a "
            f"name, and {', '.join(sorted(_RESERVED))} are taken"
        )


def split_names(attributes: Mapping[str, Any], *, where: str) -> tuple[str, ...]:
    """Return the names in the root attribute ``splits``, checked."""
    names = need(attributes, "splits", list, where=where)
    if not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{where}: attribute 'splits' must be a list of names, got {brief(names)}"
        )
    _check_number(names, f"{where}: attribute 'splits'")
    for name in names:
        _check_stored_name(name, f"{where}: attribute 'splits'")
    return tuple(names)


def _selections(attributes: Mapping[str, Any], *, where: str) -> dict[str, tuple[str, ...]]:
    """Return the names of the stored selections; a store may have none and not say so."""
    if SELECTIONS not in attributes:
        return {}
    rows: dict[str, Any] = json_of(attributes, SELECTIONS, dict, where=where)
    _check_number(list(rows), f"{where}: attribute 'selections'")
    for name, splits in rows.items():
        if not (isinstance(splits, list) and all(isinstance(split, str) for split in splits)):
            raise FormatError(
                f"{where}: attribute 'selections' must hold lists of splits, got {brief(splits)}"
            )
        _check_stored_name(name, f"{where}: attribute 'selections'")
    return {name: tuple(splits) for name, splits in rows.items()}


def _check_number(names: list[str], where: str) -> None:
    if len(names) > MAX_SPLITS or len(set(names)) < len(names):
        raise FormatError(
            f"{where}: must be {MAX_SPLITS} different names or fewer, got {len(names)}"
        )


def _check_stored_name(name: str, where: str) -> None:
    try:
        check_split_name(name)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from None


T = TypeVar("T")

MAX_NBYTES: Final = 64 * 2**20
"""Most bytes that are read of one attribute, or of one document with attributes."""

MAX_DEPTH: Final = 64
"""Most levels of lists and objects in a JSON document, or of groups in a store."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the value of an attribute of a type that is not read.

    Attributes
    ----------
    found : str
        What the attribute holds.
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


def need(
    attributes: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, where: str
) -> Any:
    """Return an attribute of the wanted type, or raise a `FormatError` that says where."""
    if name not in attributes:
        raise FormatError(f"{where}: attribute {name!r} is missing")
    value = attributes[name]
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        got = value if isinstance(value, Unreadable) else brief(value)
        raise FormatError(f"{where}: attribute {name!r} must be {wanted}, got {got}")
    return value


def json_of(attributes: Mapping[str, Any], name: str, kind: type[T], *, where: str) -> T:
    """Return the list or object that an attribute holds as JSON."""
    text = need(attributes, name, str, where=where)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise FormatError(f"{where}: attribute {name!r} must be JSON: {error}") from None
    if not isinstance(values, kind):
        raise FormatError(
            f"{where}: attribute {name!r} must be a JSON {kind.__name__}, got {brief(text)}"
        )
    return values


def list_of_objects(
    attributes: Mapping[str, Any], name: str, kinds: Mapping[str, type], *, where: str
) -> list[dict[str, Any]]:
    """Return the objects, each with values of some kinds, that an attribute lists as JSON."""
    rows: list[Any] = json_of(attributes, name, list, where=where)
    for row in rows:
        if not isinstance(row, dict) or any(
            not isinstance(row.get(key), kind) for key, kind in kinds.items()
        ):
            raise FormatError(
                f"{where}: attribute {name!r} must hold objects with {list(kinds)}, "
                f"got {brief(row)}"
            )
    return rows
