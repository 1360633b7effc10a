"""The operations of a format and its library."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.suite.data import Ints, Source

GROUP: int = 256
"""Number of images that a scan reads at a time, if the format can read many at once."""

Arena = tuple[NDArray[np.uint8], Ints]
"""A buffer with images end to end, and their offsets, shape (n + 1,)."""


class Peer(ABC):
    """A format and its library, used as usual. It cannot do operations that it does not override.

    Parameters
    ----------
    folder : Path
        Folder that `prepare` writes and `open` reads; it contains nothing else.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    """Imported modules besides NumPy; the peer is installed if all of them exist."""
    modules_to_prepare: ClassVar[tuple[str, ...]] = ()
    """Modules that are imported only for converting."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions are reported; by default the modules."""
    shares: ClassVar["type[Peer] | None"] = None
    """The peer whose folder it reads instead of writing its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def is_installed(cls) -> bool:
        """Return whether its libraries are installed."""
        return all(find_spec(module.partition(".")[0]) for module in cls.modules)

    @classmethod
    def can(cls, operation: str) -> bool:
        """Return whether the format has an operation."""
        return getattr(cls, operation) is not getattr(Peer, operation)

    @abstractmethod
    def prepare(self, source: Source) -> None:
        """Convert a source in its order; the files need not be synced."""

    @abstractmethod
    def open(self) -> None:
        """Open the prepared format for all other operations."""

    @abstractmethod
    def scan(self) -> Iterator[bytes]:
        """Yield the encoded images in order."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close the format, if the library can."""

    def one(self, position: int) -> bytes:
        """Return one encoded image."""
        raise NotImplementedError

    def batch(self, positions: Ints) -> list[bytes]:
        """Return encoded images, each as its own object."""
        raise NotImplementedError

    def views(self, positions: Ints) -> Sequence[Any]:
        """Return encoded images as buffers, without a copy if the format allows it."""
        raise NotImplementedError

    def arena(self, positions: Ints) -> Arena:
        """Return encoded images end to end in one buffer."""
        raise NotImplementedError

    def label(self, label: int) -> list[bytes]:
        """Return the encoded images of one label."""
        raise NotImplementedError

    def decode(self, positions: Ints) -> list[NDArray[np.uint8]]:
        """Return pixels, decoded by one thread per core."""
        raise NotImplementedError


def positions_of(labels: Ints, label: int) -> Ints:
    """Return the positions of a label."""
    return np.flatnonzero(labels == label)


def groups(n_images: int) -> Iterable[Ints]:
    """Return the positions of all images in groups of `GROUP`."""
    return (np.arange(start, min(start + GROUP, n_images)) for start in range(0, n_images, GROUP))
