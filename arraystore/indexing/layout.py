"""Order of the samples and offset of every byte, computed before the first one is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.indexing.packed_names import encoded
from arraystore.schema import SHARD_NBYTES, UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Checksums, Hashes, Ints


_PIECE: Final = 2**14
"""Names that are hashed at a time: Python objects take much memory."""

_PREFIX: Final = np.dtype("S16")
"""First bytes of a name, which names are sorted by; whole names are compared only if these tie."""

_DIGESTED: Final = np.dtype([("end", "u1"), ("label", "<i8"), ("nbytes", "<i8"), ("crc", "<u4")])
"""What follows a name in the content digest; a zero byte ends the name."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fill block: a part of the payload that is filled independently of the others.

    Attributes
    ----------
    start, stop : int
        The payload bytes ``[start, stop)``.
    first, last : int
        The samples ``[first, last)`` that have bytes in the block, in the stored order.
    skip : int
        Bytes of sample `first` that belong to the previous block.
    """

    start: int
    stop: int
    first: int
    last: int
    skip: int


def image_starts(nbytes: Ints) -> Ints:
    """Return the offset of each image in the payload, where they follow each other.

    Examples
    --------
    >>> image_starts(np.array([3, 0, 4]))
    array([0, 3, 3])
    """
    starts: Ints = np.cumsum(nbytes, dtype=np.int64)
    starts -= nbytes
    return starts


def blocks(nbytes: Ints, *, block_nbytes: int = SHARD_NBYTES, before: int = 0) -> list[Block]:
    """Divide a payload into fill blocks.

    Parameters
    ----------
    nbytes : ndarray of int64, shape (n,)
        Size of each encoded image in bytes, in the order of the payload.
    block_nbytes : int, default 64 MiB
        Length of each block except the last.
    before : int, default 0
        Bytes in front of the payload; blocks are counted from the first of them, and the first
        block has only its bytes in the payload.

    Returns
    -------
    list of Block
        They cover the payload; a sample that crosses a boundary is in both blocks.

    Examples
    --------
    >>> for block in blocks(np.array([6, 6, 6]), block_nbytes=10):
    ...     print(block)
    Block(start=0, stop=10, first=0, last=2, skip=0)
    Block(start=10, stop=18, first=1, last=3, skip=4)
    >>> [block.stop for block in blocks(np.array([6, 6, 6]), block_nbytes=10, before=24)]
    [6, 16, 18]
    """
    starts = image_starts(nbytes)
    total = int(nbytes.sum())
    if not total:
        return []
    grid = np.arange(-(before % block_nbytes), total, block_nbytes, dtype=np.int64)
    lower, upper = np.maximum(grid, 0), np.minimum(grid + block_nbytes, total)
    # The sample that contains byte b is the last that starts at or before b; empty images with the
    # same start sort before it.
    first = np.searchsorted(starts, lower, side="right") - 1
    last = np.searchsorted(starts, upper, side="left")
    return [
        Block(int(a), int(b), int(i), int(j), int(a - starts[i]))
        for a, b, i, j in zip(lower, upper, first, last, strict=True)
    ]


def sample_order(order: str, seed: int, file_name: Sequence[str], label: Ints) -> Ints:
    """Return the order in which samples are stored.

    Parameters
    ----------
    order : {"shuffled", "label", "source"}
        ``shuffled`` sorts by the 8-byte BLAKE2b hash of the file name keyed with
        `seed`, so that a subset keeps the relative order that it has in the whole;
        ``label`` sorts by label; both sort ties by file name. ``source`` keeps
        the order of the source.
    seed : int
        In ``range(2**64)``.
    file_name : sequence of str, length n
    label : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (n,)
        Positions in the source, in the order to store them.

    Examples
    --------
    >>> sample_order("label", 0, ["b", "a", "c"], np.array([1, 1, 0]))
    array([2, 1, 0])
    """
    if order == "source":
        return np.arange(len(file_name), dtype=np.int64)
    keys = label if order == "label" else hash_numbers(file_name, seed)
    return _ranked(keys, file_name)


def _ranked(keys: NDArray[Any], file_name: Sequence[str]) -> Ints:
    """Return the order of the samples by keys, and by file name where the keys are equal."""
    ranked: Ints = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
    is_tie = np.zeros(len(keys) + 1, dtype=np.int8)
    for start in range(1, len(keys), _PIECE):
        piece = keys[ranked[start - 1 : start + _PIECE]]
        is_tie[start : start + len(piece) - 1] = piece[1:] == piece[:-1]
    bounds = np.flatnonzero(np.diff(is_tie)).tolist()
    for first, last in zip(bounds[::2], bounds[1::2], strict=True):
        tied = ranked[first : last + 1]
        tied[:] = sorted(tied.tolist(), key=file_name.__getitem__)
    return ranked


def name_hashes(file_name: Sequence[str], seed: int) -> list[bytes]:
    """Return the keyed 8-byte BLAKE2b (RFC 7693) hash of each name.

    Examples
    --------
    >>> name_hashes(["n01440764_10026.JPEG"], 0)[0].hex()
    'b688a95e164b4169'
    """
    key = seed.to_bytes(8, "little")
    initial = hashlib.blake2b(digest_size=8, key=key)
    hashes = []
    for name in file_name:
        state = initial.copy()
        state.update(name.encode())
        hashes.append(state.digest())
    return hashes


def hash_numbers(file_name: Sequence[str], seed: int) -> Hashes:
    """Return the hashes of `name_hashes` as numbers that sort alike.

    Examples
    --------
    >>> hex(hash_numbers(["n01440764_10026.JPEG"], 0)[0])
    '0xb688a95e164b4169'
    """
    numbers = np.empty(len(file_name), dtype=np.uint64)
    for start in range(0, len(file_name), _PIECE):
        hashes = b"".join(name_hashes(file_name[start : start + _PIECE], seed))
        numbers[start : start + _PIECE] = np.frombuffer(hashes, dtype=">u8")
    return numbers


def label_index(label: Ints, n_classes: int) -> tuple[Ints, Ints]:
    """Group the labelled positions by label.

    Returns
    -------
    label_order : ndarray of int64, shape (n_labelled,)
        Positions grouped by label, ascending within each group.
    label_indptr : ndarray of int64, shape (n_classes + 1,)
        Label k is ``label_order[label_indptr[k]:label_indptr[k + 1]]``.

    Examples
    --------
    >>> label_index(np.array([1, -1, 0, 1]), 3)
    (array([2, 0, 3]), array([0, 1, 3, 3]))
    """
    by_label = np.argsort(label, kind="stable").astype(np.int64)
    order = by_label[int(np.count_nonzero(label == UNLABELLED)) :]
    indptr = np.searchsorted(label[order], np.arange(n_classes + 1)).astype(np.int64)
    return order, indptr


def content_digest(file_name: Sequence[str], label: Ints, nbytes: Ints, crc32c: Checksums) -> str:
    """Return the sha256 that identifies the content of a split in any order.

    It is computed over the samples sorted by file name: the name in UTF-8, a zero byte, label and
    size as int64, the checksum of the encoded image as uint32, all little-endian.

    Examples
    --------
    >>> content_digest([], np.array([]), np.array([]), np.array([]))[:8]
    'e3b0c442'
    """
    prefix = np.empty(len(file_name), dtype=_PREFIX)
    for start in range(0, len(file_name), _PIECE):
        rows = np.arange(start, min(start + _PIECE, len(file_name)))
        prefix[rows] = np.array(encoded(file_name, rows), _PREFIX)  # cuts them
    by_name = _ranked(prefix, file_name)
    del prefix
    digest = hashlib.sha256()
    for start in range(0, len(by_name), _PIECE):
        rows = by_name[start : start + _PIECE]
        numbers = np.zeros(len(rows), _DIGESTED)
        for field, values in (("label", label), ("nbytes", nbytes), ("crc", crc32c)):
            numbers[field] = values[rows]
        parts = [b""] * (2 * len(rows))
        parts[::2] = encoded(file_name, rows)
        parts[1::2] = numbers.view(f"V{numbers.itemsize}").tolist()
        digest.update(b"".join(parts))
    return digest.hexdigest()
