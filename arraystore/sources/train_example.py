"""``tf.train.Example``: named features of one record, in the wire format of protocol buffers.

::

    Example    field 1: Features
    Features   field 1, repeated: an entry with key (field 1) and value (field 2, a Feature)
    Feature    field 1: BytesList, 2: FloatList, 3: Int64List, each with a repeated field 1

Only what images need is read: the first value of byte strings, with its place in the record, and
integers. See https://protobuf.dev/programming-guides/encoding/ for the wire format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arraystore.errors import brief

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT: Final = 0
_FIXED64: Final = 1
_DELIMITED: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_NBYTES: Final = 10

_BYTES: Final = 1
_FLOATS: Final = 2
_INTEGERS: Final = 3
_KINDS: Final = {_BYTES: "bytes", _FLOATS: "float", _INTEGERS: "int64"}


@dataclass(frozen=True, slots=True)
class Feature:
    """The value of one feature.

    Attributes
    ----------
    kind : {"bytes", "float", "int64", ""}
        Empty if the feature has no value.
    count : int
        Number of values; of packed floats, 0.
    start, stop : int
        Place of the first byte string in the record.
    number : int
        The first integer.
    """

    kind: str
    count: int = 0
    start: int = 0
    stop: int = 0
    number: int = 0


def parse_example(record: bytes | memoryview) -> dict[str, Feature]:
    """Return the features of a record.

    Parameters
    ----------
    record : bytes or memoryview
        A serialized ``tf.train.Example``.

    Raises
    ------
    ValueError
        If the bytes are not such a message; also for ``tf.train.SequenceExample``, and for
        a message without features.

    Examples
    --------
    >>> record = bytes.fromhex("0a11 0a0f 0a05 6c6162656c 1206 1a04 0a02 ac02".replace(" ", ""))
    >>> parse_example(record)["label"].number
    300
    """
    features: dict[str, Feature] = {}
    for field, start, stop in _delimited(record, 0, len(record)):
        if field != 1:
            raise ValueError(f"has field {brief(field)}, expected those of a tf.train.Example")
        for entry, first, last in _delimited(record, start, stop):
            if entry == 1:
                key, feature = _entry(record, first, last)
                features[key] = feature
    if not features:
        raise ValueError("has no features")
    return features


def _entry(record: bytes | memoryview, start: int, stop: int) -> tuple[str, Feature]:
    key, feature = "", Feature("")
    for field, first, last in _delimited(record, start, stop):
        if field == 1:
            key = bytes(record[first:last]).decode()
        elif field == 2:
            feature = _feature(record, first, last)
    return key, feature


def _feature(record: bytes | memoryview, start: int, stop: int) -> Feature:
    feature = Feature("")
    for field, first, last in _delimited(record, start, stop):
        if field == _BYTES:
            values = list(_delimited(record, first, last))
            _, begin, end = values[0] if values else (1, 0, 0)
            feature = Feature(_KINDS[field], len(values), begin, end)
        elif field == _INTEGERS:
            numbers = list(_integers(record, first, last))
            feature = Feature(_KINDS[field], len(numbers), number=numbers[0] if numbers else 0)
        elif field == _FLOATS:
            feature = Feature(_KINDS[field])
    return feature


def _integers(record: bytes | memoryview, start: int, stop: int) -> Iterator[int]:
    """Yield the values of an Int64List, packed or not."""
    for field, wire, first, last in _fields(record, start, stop):
        if field != 1:
            continue
        if wire == _VARINT:
            yield _signed(first)
        elif wire == _DELIMITED:
            while first < last:
                value, first = _varint(record, first, last)
                yield _signed(value)
        else:
            raise ValueError("has integers of an unknown encoding")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _delimited(record: bytes | memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number and bounds of each field; a field without bounds is an error."""
    for field, wire, first, last in _fields(record, start, stop):
        if wire != _DELIMITED:
            raise ValueError(f"has a field of wire type {brief(wire)} where a message is expected")
        yield field, first, last


def _fields(
    record: bytes | memoryview, start: int, stop: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type and bounds of each field; of a varint its value, and 0."""
    while start < stop:
        tag, start = _varint(record, start, stop)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, start = _varint(record, start, stop)
            yield field, wire, value, 0
            continue
        if wire == _DELIMITED:
            nbytes, start = _varint(record, start, stop)
        elif wire in (_FIXED64, _FIXED32):
            nbytes = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"has a field of wire type {brief(wire)}")
        if field == 0 or start + nbytes > stop:
            raise ValueError("is not a message: a field reaches beyond its end")
        yield field, wire, start, start + nbytes
        start += nbytes


def _varint(record: bytes | memoryview, start: int, stop: int) -> tuple[int, int]:
    """Return a number in base 128, and where it ends."""
    value = 0
    for i in range(_MAX_VARINT_NBYTES):
        if start + i >= stop:
            break
        byte = record[start + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & (2**64 - 1), start + i + 1
    raise ValueError("is not a message: a number has no end")
