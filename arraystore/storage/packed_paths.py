"""Paths of very many files in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, overload

from typing_extensions import override

from arraystore.indexing.packed_names import PackedNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ERRORS: Final = "surrogateescape"  # names of files need not be UTF-8
_LEVEL: Final = 1


class PackedPaths(PackedNames):
    r"""Paths as texts, in a fifth of the memory of a list.

    Examples
    --------
    >>> paths = PackedPaths.of(["/a/1.jpg", "/b/\udcff.jpg"])
    >>> paths[1], list(paths[:1]), len(paths.joined(paths))
    ('/b/\udcff.jpg', ['/a/1.jpg'], 4)
    """

    errors = _ERRORS

    @classmethod
    def of(cls, paths: Iterable[str]) -> Self:
        """Pack paths, if they are not packed yet."""
        if isinstance(paths, cls):
            return paths
        data = bytearray()
        for path in paths:
            data += path.encode(errors=_ERRORS)
            data.append(0)
        return cls(data)

    @override
    def __reduce__(self) -> tuple[Callable[[bytes], PackedPaths], tuple[bytes]]:
        return _decompressed, (zlib.compress(PackedPaths.of(iter(self)).data, _LEVEL),)

    def joined(self, other: PackedPaths) -> PackedPaths:
        """Return these paths followed by others."""
        if not len(other):
            return self
        return PackedPaths.of(chain(self, other)) if len(self) else other


def _decompressed(data: bytes) -> PackedPaths:
    return PackedPaths(zlib.decompress(data))


class PathView(Sequence[Path]):
    """A sequence of paths that are texts until they are used.

    Parameters
    ----------
    texts : sequence of str

    Examples
    --------
    >>> view = PathView(PackedPaths.of(["/a/1.jpg", "/b/2.jpg"]))
    >>> view[-1].name, len(view), [path.name for path in view[:1]]
    ('2.jpg', 2, ['1.jpg'])
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    @override
    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathView: ...
    @override
    def __getitem__(self, index: int | slice) -> Path | PathView:
        if isinstance(index, slice):
            return PathView(self._texts[index])
        return Path(self._texts[index])
