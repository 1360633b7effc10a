"""Deviations of the objects of a Zarr store that reading does not notice.

A reader relies on ``dense``, which fixes where every inner chunk is, and on the consolidated
metadata. Here both are compared with the shards and with the metadata documents themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from arraystore.containers.protocol import Fault
from arraystore.containers.zarr.metadata import CONSOLIDATED, consolidated_documents, document_key
from arraystore.containers.zarr.shards import shard_footer, shard_object_nbytes
from arraystore.indexing.byte_range import ByteRange
from arraystore.schema import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.storage.range_reader import RangeReader

_BATCH: Final = 64
"""Shards whose ends are read in one round trip: half a MiB."""

_MAX_END_NBYTES: Final = 2**20
"""Longest end of a shard that is read; arraystore writes none that is longer."""


def document_faults(reader: RangeReader, root: dict[str, Any]) -> Iterator[Fault]:
    """Compare the metadata documents with their copies in the root's consolidated metadata."""
    for path, consolidated in (consolidated_documents(root) or {}).items():
        key = document_key(path)
        try:
            (document,) = reader.read_objects([key])
            found = parse_json(bytes(document))
        except FileNotFoundError:
            text = "is missing, though the root's consolidated metadata has it"
            yield Fault(key, "missing", text)
        except ValueError as error:
            yield Fault(key, "content", f"must be JSON: {error}")
        else:
            if _without_consolidated(found) != _without_consolidated(consolidated):
                yield Fault(key, "content", "differs from the root's consolidated metadata")


def _without_consolidated(document: Any) -> Any:
    # zarr-python writes this field into every group, and omits it from the consolidated copy.
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name != CONSOLIDATED}


def shard_faults(
    reader: RangeReader, path: str, length: int, shard_nbytes: int, inner_nbytes: int
) -> Iterator[Fault]:
    """Compare length, index and padding of each shard with what ``dense`` requires."""
    n_shards = -(-length // shard_nbytes)
    for first in range(0, n_shards, _BATCH):
        numbers = range(first, min(first + _BATCH, n_shards))
        sizes = [min(shard_nbytes, length - number * shard_nbytes) for number in numbers]
        ends = [
            _ShardEnd(f"{path}/c/{number}", nbytes, shard_nbytes, inner_nbytes)
            for number, nbytes in zip(numbers, sizes, strict=True)
        ]
        for end, data in zip(ends, _read_ends(reader, ends), strict=True):
            if fault := end.fault(data):
                yield fault


class _ShardEnd:
    """The bytes that must follow the payload bytes of a shard.

    Parameters
    ----------
    key : str
        The shard.
    nbytes : int
        Its payload bytes.
    shard_nbytes, inner_nbytes : int
        Length of a whole shard and of an inner chunk.
    """

    def __init__(self, key: str, nbytes: int, shard_nbytes: int, inner_nbytes: int) -> None:
        self._key = key
        self._lengths = nbytes, shard_nbytes, inner_nbytes
        self._size = shard_object_nbytes(nbytes, shard_nbytes, inner_nbytes)
        is_short = self._size - nbytes <= _MAX_END_NBYTES
        # One byte more, which must not exist.
        self.range = ByteRange(key, nbytes if is_short else self._size, self._size + 1)

    def fault(self, data: memoryview | None) -> Fault | None:
        """Return what is wrong with the bytes of `range`; None if they are right."""
        start = self.range.start
        if data is None:
            return Fault(self._key, "missing", "the chunk is missing")
        if start + len(data) < self._size:
            found = start + len(data) if len(data) else f"{start} or less"
            text = f"must have {self._size} bytes, got {found}; the object is truncated"
            return Fault(self._key, "size", text)
        if start + len(data) > self._size:
            return Fault(self._key, "size", f"must have {self._size} bytes, got more")
        if not len(data):
            return None
        footer = shard_footer(*self._lengths)
        if data[-len(footer) :] != footer:
            text = "the shard's index must be that of inner chunks one after another"
            return Fault(self._key, "content", text)
        if any(data[: -len(footer)]):
            return Fault(self._key, "content", "the bytes after the last image must be zeros")
        return None


def _read_ends(reader: RangeReader, ends: list[_ShardEnd]) -> list[memoryview | None]:
    """Read the ends of shards, in one round trip if all of them exist."""
    ranges = [end.range for end in ends]
    try:
        return list(reader.read_ranges(ranges))
    except OSError:
        return [_read_end(reader, one) for one in ranges]


def _read_end(reader: RangeReader, end: ByteRange) -> memoryview | None:
    try:
        (data,) = reader.read_ranges([end])
    except OSError as error:
        if isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return data
