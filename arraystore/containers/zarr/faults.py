"""What may be wrong with the objects of a Zarr store and is passed over when it is read.

A reader relies on the places that ``dense`` promises and on the consolidated metadata; here
they are compared with the shards' indices and with the documents themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from arraystore.containers.zarr.shards import shard_footer, shard_object_nbytes
from arraystore.indexing.byte_range import ByteRange
from arraystore.schema import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.storage.range_reader import RangeReader

    Fault = tuple[str, str]

_METADATA: Final = "zarr.json"

_BATCH: Final = 64
"""Shards whose ends are read in one round trip: half a MiB."""

_LONGEST_END: Final = 2**20
"""Longest end of a shard that is read; longer ones are not of our making."""

MISSING: Final = "the chunk is missing"


def document_of(path: str) -> str:
    """Return the key of the metadata document of a group or array."""
    return f"{path}/{_METADATA}" if path else _METADATA


def document_faults(reader: RangeReader, root: dict[str, Any]) -> Iterator[Fault]:
    """Compare the documents with what the root's consolidated metadata says of them."""
    consolidated = root.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    for path, node in nodes.items() if isinstance(nodes, dict) else ():
        key = document_of(path)
        try:
            (document,) = reader.read_objects([key])
            found = parse_json(bytes(document))
        except FileNotFoundError:
            yield key, "is missing, though the root's consolidated metadata has it"
        except ValueError as error:
            yield key, f"must be JSON: {error}"
        else:
            if isinstance(found, dict):
                # zarr-python writes this into every group, and leaves it out of what it gathers.
                found.pop("consolidated_metadata", None)
            if found != _without_gathered(node):
                yield key, "is not what the root's consolidated metadata says of it"


def _without_gathered(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: value for name, value in node.items() if name != "consolidated_metadata"}


def shard_faults(
    reader: RangeReader, path: str, length: int, shard_nbytes: int, inner_nbytes: int
) -> Iterator[Fault]:
    """Compare the length, index and padding of each shard of a dense payload with the promise."""
    n_shards = -(-length // shard_nbytes)
    for first in range(0, n_shards, _BATCH):
        wanted = [
            _End(path, index, min(shard_nbytes, length - index * shard_nbytes))
            for index in range(first, min(first + _BATCH, n_shards))
        ]
        for end, tail in zip(
            wanted, _ends(reader, wanted, shard_nbytes, inner_nbytes), strict=True
        ):
            fault = MISSING if tail is None else end.fault(tail, shard_nbytes, inner_nbytes)
            if fault:
                yield end.key, fault


class _End:
    """What must come after the payload bytes of a shard."""

    def __init__(self, path: str, index: int, nbytes: int) -> None:
        self.key = f"{path}/c/{index}"
        self._nbytes = nbytes

    def range(self, shard_nbytes: int, inner_nbytes: int) -> ByteRange:
        """Return the end, and one byte more, which must not be there."""
        size = shard_object_nbytes(self._nbytes, shard_nbytes, inner_nbytes)
        start = self._nbytes if size - self._nbytes <= _LONGEST_END else size
        return ByteRange(self.key, start, size + 1)

    def fault(self, tail: memoryview, shard_nbytes: int, inner_nbytes: int) -> str:
        """Say what is wrong with the end; nothing if it is right."""
        _, start, stop = self.range(shard_nbytes, inner_nbytes)
        if len(tail) < stop - 1 - start:
            found = start + len(tail) if len(tail) else f"{start} or less"
            return f"must have {stop - 1} bytes, got {found}; the object is truncated"
        if len(tail) == stop - start:
            return f"must have {stop - 1} bytes, got more"
        if start == stop - 1:
            return ""
        footer = shard_footer(self._nbytes, shard_nbytes, inner_nbytes)
        if tail[-len(footer) :] != footer:
            return "the shard's index is not that of inner chunks one after another"
        if any(tail[: -len(footer)]):
            return "what comes after the last image must be zeros"
        return ""


def _ends(
    reader: RangeReader, wanted: list[_End], shard_nbytes: int, inner_nbytes: int
) -> list[memoryview | None]:
    """Read the ends of some shards, in one round trip if they are all there."""
    ranges = [end.range(shard_nbytes, inner_nbytes) for end in wanted]
    try:
        return list(reader.read_ranges(ranges))
    except OSError:
        return [_end(reader, one) for one in ranges]


def _end(reader: RangeReader, wanted: ByteRange) -> memoryview | None:
    try:
        (tail,) = reader.read_ranges([wanted])
    except OSError as error:
        if isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return tail
