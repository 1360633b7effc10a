"""Metadata documents of Zarr groups and arrays; fields of arrays are parsed here alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from arraystore.errors import FormatError, brief
from arraystore.schema import MAX_CHUNK_NBYTES, STRING, Column

if TYPE_CHECKING:
    from collections.abc import Mapping

METADATA: Final = "zarr.json"
"""Name of the metadata document of a group or array."""

CONSOLIDATED: Final = "consolidated_metadata"
"""Field of the root's document with copies of all other documents."""

_MALFORMED: Final = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""Exceptions that reading fields of a document raises if it has another structure."""

NUMBERS: Final = "biufc"
"""Kinds of NumPy's data types that an array of any number of dimensions may have, besides text."""

_PAYLOAD_CODECS: Final = {
    "codecs": ["bytes"],
    "index_codecs": ["bytes", "crc32c"],
    "index_location": "end",
}


def document_key(path: str) -> str:
    """Return the key of the metadata document of a group or array."""
    return f"{path}/{METADATA}" if path else METADATA


def check_document(document: Mapping[str, Any], kind: str | None, location: str) -> None:
    """Raise `FormatError` unless a document is of Zarr v3 and of a kind.

    Parameters
    ----------
    document : mapping
    kind : {"group", "array"} or None
        None for both kinds.
    location : str
        The group or array, for messages.
    """
    version = document.get("zarr_format")
    if version != 3:
        raise FormatError(f"{location}: 'zarr_format' must be 3, got {brief(version)}")
    found = document.get("node_type")
    if kind is not None and found != kind:
        raise FormatError(f"{location}: must be {kind}, got {brief(found)}")


def is_group(document: Mapping[str, Any]) -> bool:
    """Return whether a document is that of a group."""
    return bool(document.get("node_type") == "group")


def consolidated_documents(root: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the documents of groups and arrays that the root's document contains, by path.

    Return None if it contains none, or something else.
    """
    consolidated = root.get(CONSOLIDATED)
    documents = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return documents if isinstance(documents, dict) else None


class Codec(NamedTuple):
    """A codec of an array: its name and its configuration."""

    name: Any
    configuration: Any


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """A one-dimensional array, as its metadata document states it.

    Attributes
    ----------
    location : str
        The array, for messages.
    data_type : str
        Zarr's name of the type. Types that arraystore does not write may have other values.
    length : int
        Number of values.
    chunk_length : int
        Values in a chunk; of a sharded array, in a shard.
    chunk_layout : tuple
        Names of the chunk grid and of the encoding of chunk keys, and its separator.
    codecs : tuple of Codec
    dimension : str
        Empty if the array has no dimension name.
    fill_value : Any
        As in JSON.
    """

    location: str
    data_type: Any
    length: int
    chunk_length: int
    chunk_layout: tuple[Any, Any, Any]
    codecs: tuple[Codec, ...]
    dimension: str
    fill_value: Any

    @classmethod
    def parse(cls, document: Mapping[str, Any], location: str) -> ArrayMetadata:
        """Read a metadata document of a one-dimensional array.

        Raises
        ------
        FormatError
            If the document is another one.
        """
        try:
            (length,) = map(int, document["shape"])
            (dimension,) = document.get("dimension_names") or [None]
            if not isinstance(dimension, str | None):
                raise TypeError(f"the name of a dimension is {brief(dimension)}")
            grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
            (chunk_length,) = map(int, grid["configuration"]["chunk_shape"])
            return cls(
                location=location,
                data_type=document["data_type"],
                length=length,
                chunk_length=chunk_length,
                chunk_layout=(grid["name"], keys["name"], keys["configuration"]["separator"]),
                codecs=tuple(
                    Codec(codec["name"], codec.get("configuration")) for codec in document["codecs"]
                ),
                dimension=dimension or "",
                fill_value=document["fill_value"],
            )
        except _MALFORMED as error:
            raise FormatError(
                f"{location}: is not the metadata of a 1-d array: {brief(error)}"
            ) from None

    @property
    def column(self) -> Column:
        """Data type, dimension and fill value."""
        return Column(str(self.data_type), self.dimension, self.fill_value)

    @property
    def is_column(self) -> bool:
        """Whether the array is stored as a column is, with a type that both containers have."""
        try:
            names = [codec.name for codec in self.codecs]
            return (
                names == column_codecs(self.data_type)
                and self.dimension != ""
                and _is_fill_value(self.fill_value, self.data_type)
            )
        except _MALFORMED:
            return False

    def check_column(self, data_type: str) -> None:
        """Raise `FormatError` unless the array is a column of a type that can be decoded."""
        self._check(data_type, column_codecs(data_type))
        options = self.codecs[0].configuration or {}
        if not isinstance(options, dict) or options.get("endian", "little") != "little":
            raise FormatError(f"{self.location}: must be little-endian")

    def inner_chunk_length(self) -> int:
        """Return the length of the inner chunks of a payload.

        Raises
        ------
        FormatError
            If the array is not sharded as a payload is.
        """
        self._check("uint8", ["sharding_indexed"])
        try:
            found = self.codecs[0].configuration
            (length,) = map(int, found["chunk_shape"])
            names = {
                name: [codec["name"] for codec in found[name]]
                for name in ("codecs", "index_codecs")
            } | {"index_location": found.get("index_location", "end")}
        except _MALFORMED as error:
            raise FormatError(f"{self.location}: is not a sharded array: {brief(error)}") from None
        if names != _PAYLOAD_CODECS:
            raise FormatError(
                f"{self.location}: shards must have {_PAYLOAD_CODECS} (no compressor), "
                f"got {brief(names)}"
            )
        if length < 1 or self.chunk_length % length:
            raise FormatError(
                f"{self.location}: inner chunks of {length} bytes do not fill a shard of "
                f"{self.chunk_length}"
            )
        return length

    def _check(self, data_type: str, codecs: list[str]) -> None:
        names = [codec.name for codec in self.codecs]
        if (self.data_type, names) != (data_type, codecs):
            raise FormatError(
                f"{self.location}: must hold {data_type} with codecs {codecs}, got "
                f"{str(self.data_type)[:80]} with {brief(names)}"
            )
        is_possible = 0 <= self.length < 2**63 > self.chunk_length >= 1
        if self.chunk_layout != ("regular", "default", "/") or not is_possible:
            found = *self.chunk_layout, self.length, self.chunk_length
            raise FormatError(f"{self.location}: unknown chunk layout {brief(found)}")


@dataclass(frozen=True, slots=True)
class NDArrayMetadata:
    """An array of any number of dimensions, as its metadata document states it.

    Attributes
    ----------
    data_type : str
        NumPy name of the values, or ``"string"``.
    shape : tuple of int
    chunk_shape : tuple of int
    is_plain : bool
        Whether chunks hold whole rows, and are stored as those of a column.
    """

    data_type: str
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    is_plain: bool

    @classmethod
    def parse(cls, document: Mapping[str, Any], location: str) -> NDArrayMetadata:
        """Read the metadata document of an array of numbers, bools or text.

        Raises
        ------
        FormatError
            If it is another document, or its chunks are larger than those of any store.
        """
        try:
            shape = tuple(map(int, document["shape"]))
            grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
            chunk_shape = tuple(map(int, grid["configuration"]["chunk_shape"]))
            layout = grid["name"], keys["name"], keys["configuration"]["separator"]
            data_type, codecs = document["data_type"], document["codecs"]
            is_text = data_type == STRING
            itemsize = 16 if is_text else np.dtype(data_type).itemsize
            if not (is_text or np.dtype(data_type).kind in NUMBERS):
                raise TypeError(f"data type {brief(data_type)}")
            row_nbytes = math.prod(shape[1:]) * itemsize
            if not (
                len(shape) == len(chunk_shape) >= 1
                and min(shape) >= 0
                and shape[0] < 2**63
                and min(chunk_shape) >= 1
                and max(row_nbytes, math.prod(chunk_shape) * itemsize) <= MAX_CHUNK_NBYTES
            ):
                raise ValueError(f"shape {brief(shape)} in chunks of {brief(chunk_shape)}")
            options = codecs[0].get("configuration") or {}
            is_plain = (
                layout == ("regular", "default", "/")
                and chunk_shape[1:] == tuple(max(1, size) for size in shape[1:])
                and [codec["name"] for codec in codecs] == column_codecs(data_type)
                and options.get("endian", "little") == "little"
            )
            return cls(data_type, shape, chunk_shape, is_plain)
        except _MALFORMED as error:
            raise FormatError(
                f"{location}: is not the metadata of an array of numbers, bools or text: "
                f"{brief(error)}"
            ) from None


def column_codecs(data_type: str) -> list[str]:
    """Return the names of the codecs of a column."""
    return ["vlen-utf8" if data_type == STRING else "bytes", "zstd", "crc32c"]


def _is_fill_value(value: Any, data_type: str) -> bool:
    """Return whether a JSON value is text, or a number of a type that both containers have."""
    if data_type == STRING:
        return isinstance(value, str)
    dtype = np.dtype(data_type)
    if dtype.kind == "f":
        is_special = isinstance(value, float) or value in ("NaN", "Infinity", "-Infinity")
        return is_special or math.isfinite(value)
    if dtype.kind == "b":
        return isinstance(value, bool)
    return dtype.kind in "iu" and type(value) is int and int(dtype.type(value)) == value
