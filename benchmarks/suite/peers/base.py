"""What a format and its library are asked to do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.suite.data import Ints, Source

GROUP: int = 256
"""Images that a scan takes at a time, where a format reads many at once."""

Arena = tuple[NDArray[np.uint8], Ints]
"""A buffer with images end to end, and the offset of each; one offset more than images."""


class Peer(ABC):
    """A format and its library, as a user would use them. What it does not override it cannot do.

    Parameters
    ----------
    folder : Path
        Holds what `prepare` makes and `open` opens, and nothing else.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    """What it imports besides NumPy; all must be there, else the peer is not installed."""
    modules_to_prepare: ClassVar[tuple[str, ...]] = ()
    """What it imports to convert, and not to read."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions are told; by default the modules."""
    shares: ClassVar["type[Peer] | None"] = None
    """The peer whose folder it reads, instead of making one of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def is_installed(cls) -> bool:
        """Whether its libraries are there."""
        return all(find_spec(module.partition(".")[0]) for module in cls.modules)

    @classmethod
    def can(cls, operation: str) -> bool:
        """Whether the format has an operation."""
        return getattr(cls, operation) is not getattr(Peer, operation)

    @abstractmethod
    def prepare(self, source: Source) -> None:
        """Convert a source, in its order; nothing need be on the disk afterwards."""

    @abstractmethod
    def open(self) -> None:
        """Open what was prepared, so that anything may follow."""

    @abstractmethod
    def scan(self) -> Iterator[bytes]:
        """Yield the encoded images in order."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close what is open, if the library has a way to."""

    def one(self, position: int) -> bytes:
        """Return one encoded image."""
        raise NotImplementedError

    def batch(self, positions: Ints) -> list[bytes]:
        """Return encoded images, each an object of its own."""
        raise NotImplementedError

    def views(self, positions: Ints) -> Sequence[Any]:
        """Return encoded images as buffers, without a copy where the format allows that."""
        raise NotImplementedError

    def arena(self, positions: Ints) -> Arena:
        """Return encoded images end to end in one buffer."""
        raise NotImplementedError

    def label(self, label: int) -> list[bytes]:
        """Return the encoded images of one label."""
        raise NotImplementedError

    def decode(self, positions: Ints) -> list[NDArray[np.uint8]]:
        """Return pixels, decoded by as many threads as there are processors."""
        raise NotImplementedError


def positions_of(labels: Ints, label: int) -> Ints:
    """Return where a label is."""
    return np.flatnonzero(labels == label)


def groups(n_images: int) -> Iterable[Ints]:
    """Return the positions of all images, some at a time."""
    return (np.arange(start, min(start + GROUP, n_images)) for start in range(0, n_images, GROUP))
