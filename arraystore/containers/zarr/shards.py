"""Shards of Zarr's ``sharding_indexed`` codec: inner chunks back to back, then their index."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, overload

import numpy as np
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore.indexing.byte_range import ZEROS, ChunkManifest, Pieces
from arraystore.indexing.positions import distinct

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from arraystore._typing import Ints, Mask

_ENTRY_NBYTES: Final = 16
_CHECKSUM_NBYTES: Final = 4
_ABSENT: Final = 2**64 - 1

MAX_SHARDS: Final = 2**22
"""Most shards of a payload: 256 TiB. A manifest takes 17 bytes for each."""


def index_nbytes(n_chunks: int) -> int:
    """Return the size of the index of a shard of `n_chunks` inner chunks, with its checksum."""
    return n_chunks * _ENTRY_NBYTES + _CHECKSUM_NBYTES


def parse_shard_index(index: Buffer, size: int, inner_nbytes: int) -> Ints:
    """Return the offsets of a shard's inner chunks from its index.

    Parameters
    ----------
    index : bytes-like
        The end of the shard: the index and its checksum.
    size : int
        Length of the shard in bytes.
    inner_nbytes : int
        Length of every inner chunk.

    Returns
    -------
    ndarray of int64, shape (n_chunks,)
        `ZEROS` for chunks that are not stored.

    Raises
    ------
    ValueError
        If the index is damaged, or points outside the shard.
    """
    data = memoryview(index)
    body = data[:-_CHECKSUM_NBYTES]
    if crc32c(body) != struct.unpack("<I", data[len(body) :])[0]:
        raise ValueError(
            f"the shard's index does not match its checksum; the file of {size} bytes is "
            "truncated or damaged"
        )
    offset, nbytes = np.frombuffer(body, "<u8").reshape(-1, 2).T
    is_stored = offset != _ABSENT
    if np.any(nbytes[is_stored] != inner_nbytes) or np.any(
        offset[is_stored] > size - len(data) - inner_nbytes
    ):
        raise ValueError("the shard's index points outside the shard")
    return np.where(is_stored, offset.astype(np.int64), ZEROS)


def shard_object_nbytes(nbytes: int, shard_nbytes: int, inner_nbytes: int) -> int:
    """Return the size of a shard object with `nbytes` elements and all of its inner chunks.

    Examples
    --------
    >>> shard_object_nbytes(10, shard_nbytes=64, inner_nbytes=8)
    148
    """
    stored = -(-nbytes // inner_nbytes) * inner_nbytes
    return stored + index_nbytes(shard_nbytes // inner_nbytes)


def shard_footer(nbytes: int, shard_nbytes: int, inner_nbytes: int) -> bytes:
    """Return the index of a shard with `nbytes` elements, and its checksum.

    Zarr's ``sharding_indexed`` codec (ZEP 2) stores offset and length of each inner chunk as
    uint64, both 2**64 - 1 for a chunk that is not stored, then a CRC-32C.
    """
    n_stored = -(-nbytes // inner_nbytes)
    index = np.full((shard_nbytes // inner_nbytes, 2), _ABSENT, dtype="<u8")
    index[:n_stored, 0] = np.arange(n_stored) * inner_nbytes
    index[:n_stored, 1] = inner_nbytes
    body = index.tobytes()
    return body + struct.pack("<I", crc32c(body))


def split_length(length: int, size: int) -> list[int]:
    """Return the lengths of the parts when `length` is divided into parts of `size`."""
    return [min(size, length - start) for start in range(0, length, size)]


class ShardKeys(Sequence[str]):
    """Keys of a payload's shards, made when they are used: there can be `MAX_SHARDS`.

    Parameters
    ----------
    path : str
        The payload.
    n_shards : int
        Number of its shards.
    """

    def __init__(self, path: str, n_shards: int) -> None:
        self._path = path
        self._numbers = range(n_shards)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self._path}/c/{number}" for number in self._numbers[index]]
        return f"{self._path}/c/{self._numbers[index]}"


@dataclass(frozen=True, slots=True)
class ShardManifest(ChunkManifest):
    """A manifest whose shards are looked into when they are first needed.

    Attributes
    ----------
    inner_nbytes : int
        Length of the inner chunks.
    look_up : callable
        Given the number of a shard, returns the offsets of its inner chunks; or None if all of
        them are stored, in order and without gaps.
    is_known : ndarray of bool, shape (n_shards,)
        Which shards need not be looked into.
    starts : dict of int to ndarray of int64
        Offsets of the inner chunks in shards where they are not in order.
    """

    inner_nbytes: int
    look_up: Callable[[int], Ints | None]
    is_known: Mask
    starts: dict[int, Ints] = field(default_factory=dict)

    @override
    def locate(self, start: Ints, nbytes: Ints) -> Pieces:
        pieces = ChunkManifest.locate(self, start, nbytes)
        self._look_into(pieces.object)
        if self.starts and not self.starts.keys().isdisjoint(pieces.object.tolist()):
            return self._by_inner_chunk(pieces)
        return pieces

    @override
    def whole(self, chunk: int) -> tuple[str, int] | None:
        if chunk < len(self.is_known):
            self._look_into(np.array([chunk]))
        return None if chunk in self.starts else ChunkManifest.whole(self, chunk)

    def _look_into(self, shards: Ints) -> None:
        """Look up the shards that are not known."""
        is_known = self.is_known[shards]
        if is_known.all():
            return
        for shard in distinct(shards[~is_known]).tolist():
            starts = self.look_up(shard)
            if starts is not None:
                self.starts[shard] = starts
            self.is_known[shard] = True

    def _by_inner_chunk(self, pieces: Pieces) -> Pieces:
        """Divide pieces of shards into pieces of inner chunks, which can be in any order."""
        per_shard = self.chunk_nbytes // self.inner_nbytes
        shards, shard = np.unique(pieces.object, return_inverse=True)
        in_order = np.arange(per_shard, dtype=np.int64) * self.inner_nbytes
        starts = np.concatenate([self.starts.get(number, in_order) for number in shards.tolist()])
        inner = ChunkManifest(
            ("",),
            np.repeat(shards, per_shard),
            starts,
            self.inner_nbytes,
            self.inner_nbytes * len(starts),
        )
        found = inner.locate(shard * self.chunk_nbytes + pieces.start, pieces.nbytes)
        return Pieces(pieces.wanted[found.wanted], found.object, found.start, found.nbytes)
