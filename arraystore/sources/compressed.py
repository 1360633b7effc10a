"""Files compressed as a whole, read front to back."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from contextlib import contextmanager
from io import BufferedIOBase, RawIOBase
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.errors import SourceError
from arraystore.storage.buckets import start_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

    from arraystore.storage.buckets import SourcePath

_PIECE_NBYTES: Final = 2**16
_BUFFER_NBYTES: Final = 2**17


def _gzip(file: IO[bytes]) -> Any:
    return gzip.GzipFile(fileobj=file, mode="rb")


def _bzip2(file: IO[bytes]) -> Any:
    return bz2.BZ2File(file, "rb")


def _xz(file: IO[bytes]) -> Any:
    return lzma.LZMAFile(file, "rb")


_OPENERS: Final[dict[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": _bzip2,
    b"\xfd7zXZ\0": _xz,
}
"""How to open a file that begins with these bytes."""


class _ZlibFile(RawIOBase):
    """A file in zlib's own format, which Python has no file object for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()

    @override
    def read(self, size: int = -1, /) -> bytes:
        while not self._inflate.eof:
            piece = self._inflate.unconsumed_tail or self._file.read(_PIECE_NBYTES)
            if not piece:
                raise EOFError
            if data := self._inflate.decompress(piece, max(size, 0)):
                return data
        return b""


def is_compressed(path: SourcePath, *, may_be_zlib: bool = False) -> bool:
    """Whether a file begins as one compressed with gzip, bzip2 or xz does, or perhaps zlib."""
    return _opener_of(path, may_be_zlib=may_be_zlib) is not None


def _opener_of(path: SourcePath, *, may_be_zlib: bool) -> Callable[[IO[bytes]], Any] | None:
    begin = start_of(path, 6)
    for signature, opener in _OPENERS.items():
        if begin.startswith(signature):
            return opener
    is_zlib = begin and begin[0] & 0x0F == 8 and int.from_bytes(begin[:2], "big") % 31 == 0
    return _ZlibFile if may_be_zlib and is_zlib else None


@contextmanager
def decompressed(
    path: SourcePath, *, may_be_zlib: bool = False
) -> Iterator[IO[bytes] | BufferedIOBase]:
    """Open a compressed file for reading front to back, for as long as the context lasts.

    Raises
    ------
    SourceError
        If the file is damaged or truncated, also when that is found later in the context.
    """
    opener = _opener_of(path, may_be_zlib=may_be_zlib)
    if opener is None:
        raise SourceError(f"{path}: is not compressed in a known format")
    with path.open("rb", buffering=_BUFFER_NBYTES) as stored, opener(stored) as file:
        try:
            yield file
        except EOFError:
            raise SourceError(f"{path}: is truncated; download it again") from None
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise SourceError(
                f"{path}: cannot be decompressed ({error}); download it again"
            ) from None
