"""Examine many tar headers at once: their checksums, and whether they are plain."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OCTAL: Final = re.compile(rb" *([0-7]+)[ \0]*")
"""A number in a tar header; programs pad it in different ways."""

_HEADER_NBYTES: Final = 512
_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 135)
_SIZE_END: Final = 135
_CHECKSUM: Final = slice(148, 156)
_KIND: Final = 156
_MAGIC: Final = slice(257, 265)
_POSIX: Final = slice(257, 263)
_PREFIX: Final = 345
_PLACES: Final = 8 ** np.arange(5, -1, -1)
_PLAIN_HEADER: Final = re.compile(
    rb"(?!\./)(?=([\x01-\x7f]{1,99})(?<!/)\0).{124}([0-7]{11})[ \0].{20}[0\0]"
    rb".{100}ustar(?:  \0.{247}|\0.{82}\0.{166})",
    re.DOTALL,
)


def checksums(headers: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Compare the checksum of each header with its bytes.

    Parameters
    ----------
    headers : sequence of bytes
        Each of 512 bytes.

    Returns
    -------
    stated : ndarray of uint8, shape (n, 8)
        The field that holds the checksum.
    holds : ndarray of bool, shape (n,)
        Whether it matches the header.
    """
    joined = np.frombuffer(bytearray().join(headers), np.uint8)
    return block_checksums(joined.reshape(len(headers), _HEADER_NBYTES))


def block_checksums(
    blocks: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what `checksums` does of an array of shape (n, 512), whose checksums are blanked."""
    stated = blocks[:, _CHECKSUM].copy()
    blocks[:, _CHECKSUM] = ord(" ")
    expected = _octals(stated)
    holds = blocks.sum(axis=1, dtype=np.int32) == expected
    if not holds.all():  # some old programs sum signed bytes
        holds |= blocks.view(np.int8).sum(axis=1, dtype=np.int32) == expected
    return stated, holds


def _octals(fields: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number in each field, or -1 if it is not a number."""
    digits, ends = fields[:, :6] - ord("0"), fields[:, 6:]  # as nearly all programs write it
    if np.all(digits < 8) and np.all((ends == 0) | (ends == ord(" "))):
        numbers: NDArray[np.int64] = digits @ _PLACES
        return numbers
    octals = [OCTAL.fullmatch(field.tobytes()) for field in fields]
    return np.array([int(octal[1], 8) if octal else -1 for octal in octals])


def plain_name(header: bytes) -> str:
    """Return the name in a plain header; empty if it is another one.

    Plain is how nearly all programs write the header of a file: with a short ASCII name that needs
    no other part of the archive, the size in octal, and the magic of POSIX or GNU.
    """
    plain = _PLAIN_HEADER.fullmatch(header)
    return plain[1].decode() if plain else ""


def plain_names(blocks: NDArray[np.uint8]) -> list[str]:
    r"""Return the names in the first headers that are plain, up to one that is not.

    Parameters
    ----------
    blocks : ndarray of uint8, shape (n, 512)
        Headers with a size that `int` takes for octal.

    Examples
    --------
    >>> import tarfile
    >>> headers = [tarfile.TarInfo(name).tobuf() for name in ("a.jpg", "./b.jpg", "c.jpg")]
    >>> plain_names(np.frombuffer(b"".join(headers), np.uint8).reshape(3, 512))
    ['a.jpg']
    """
    if names := _names_if_plain(blocks):
        return names
    return list(takewhile(bool, (plain_name(block.tobytes()) for block in blocks)))


def _names_if_plain(blocks: NDArray[np.uint8]) -> list[str]:
    """Return the names if all headers are plain and by one program; else nothing.

    Methods of `bytes` examine the fields of many headers as fast as those of one.
    """
    n = len(blocks)
    names = blocks[:, _NAME].copy().view(f"S{_NAME.stop}")[:, 0].tolist()
    joined = b"\0".join((b"", *names, b""))
    is_plain = (
        joined.isascii()
        and joined.count(b"\0") == n + 1
        and not any(part in joined for part in (b"\0\0", b"\0./", b"/\0"))
        and blocks[:, _SIZE].tobytes().isdigit()
        and not blocks[:, _SIZE_END].tobytes().strip(b" \0")
        and not blocks[:, _KIND].tobytes().strip(b"0\0")
        and (
            blocks[:, _MAGIC].tobytes() == b"ustar  \0" * n
            or (blocks[:, _POSIX].tobytes() == b"ustar\0" * n and not blocks[:, _PREFIX].any())
        )
    )
    return joined[1:-1].decode().split("\0") if is_plain else []
