"""``tf.train.Example``: named features of one record, in the wire format of protocol buffers.

::

    Example    field 1: Features
    Features   field 1, repeated: an entry with key (field 1) and value (field 2, a Feature)
    Feature    field 1: BytesList, 2: FloatList, 3: Int64List, each with a repeated field 1

Only what images need is read: the first value of byte strings, with its place in the record, and
integers. Everything can be written. See https://protobuf.dev/programming-guides/encoding/ for the
wire format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import brief

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Pieces = list[bytes | memoryview]

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


def encode_example(
    features: Mapping[str, Sequence[bytes | memoryview] | NDArray[Any]],
) -> bytes:
    """Return a serialized ``tf.train.Example`` with features in the order of their names.

    Parameters
    ----------
    features : mapping of str to sequence of bytes, or ndarray of shape (n,)
        Floating-point numbers become float32, and bools integers. Integers of 2**63 and more
        become the negative ones of the same bits.

    Examples
    --------
    >>> record = encode_example({"label": np.array([300]), "image": [b"abc"]})
    >>> feature = parse_example(record)["image"]
    >>> record[feature.start : feature.stop], parse_example(record)["label"].number
    (b'abc', 300)
    """
    entries: Pieces = []
    for name in sorted(features):
        key = _message(1, [name.encode()])
        entries += _message(1, [*key, *_message(2, _value_list(features[name]))])
    return b"".join(_message(1, entries))


def _value_list(values: Sequence[bytes | memoryview] | NDArray[Any]) -> Pieces:
    """Return the pieces of a Feature."""
    if not isinstance(values, np.ndarray):
        return _message(_BYTES, [piece for value in values for piece in _message(1, [value])])
    if values.dtype.kind == "f":
        return _message(_FLOATS, _message(1, [values.astype("<f4").tobytes()]))
    numbers = values.astype(np.int64).astype(np.uint64).tolist()
    return _message(_INTEGERS, _message(1, [b"".join(map(_as_varint, numbers))]))


def _message(field: int, pieces: Pieces) -> Pieces:
    """Return the pieces of a field behind its number and length; nothing is copied."""
    nbytes = sum(map(len, pieces))
    return [bytes([field << 3 | _DELIMITED]) + _as_varint(nbytes), *pieces]


def _as_varint(value: int) -> bytes:
    """Return a number in base 128.

    Examples
    --------
    >>> _as_varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
