"""Handles of stores: a location and options that pickle, opened when they are first used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import as_count, check_bools, check_choice
from arraystore.containers import open_local, open_remote
from arraystore.reading.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from arraystore.containers.protocol import ContainerReader
    from arraystore.storage.location import Location
    from arraystore.storage.range_reader import RangeReader

CHECKSUMS: Final = ("auto", "always")
"""Values of the option `checksum`; the first is the default."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """The keywords of `arraystore.open`."""

    checksum: str = "auto"
    max_gap: int | None = None
    max_in_flight: int = 256
    mmap: bool = True
    allow_references: bool | tuple[str, ...] = False

    def __post_init__(self) -> None:
        check_choice(self.checksum, "checksum", CHECKSUMS)
        check_bools(mmap=self.mmap)
        if self.max_gap is not None:
            as_count(self.max_gap, "max_gap")
        as_count(self.max_in_flight, "max_in_flight", least=1)


class StoreHandle:
    """A store's range reader and container, opened when they are first used.

    A handle pickles as its location and options, and unpickling opens nothing: an error during
    unpickling would end a worker of a `multiprocessing.Pool`, and its parent would wait forever.

    Parameters
    ----------
    location : Location
    options : OpenOptions, optional
        See `arraystore.open`.
    """

    def __init__(self, location: Location, options: OpenOptions | None = None) -> None:
        self.location = location
        self.options = options or OpenOptions()

    @property
    def address(self) -> str:
        """The location of the store as text, without a password."""
        return str(self.location)

    @property
    def reader(self) -> RangeReader:
        """Reader of the bytes of payloads."""
        return self._opened[0]

    @property
    def container(self) -> ContainerReader:
        """Reader of attributes and columns; it also locates the chunks of payloads."""
        return self._opened[1]

    @cached_property
    def chunks(self) -> ChunkCache:
        """Recently used chunks of columns, of all splits of the store."""
        return ChunkCache()

    @cached_property
    def _opened(self) -> tuple[RangeReader, ContainerReader]:
        location, options = self.location, self.options
        if location.is_local:
            return open_local(location.path, max_gap=options.max_gap or 0, mmap=options.mmap)
        from arraystore.storage.objects.connection import connect
        from arraystore.storage.objects.reader import MAX_GAP

        return open_remote(
            connect(location),
            location.key,
            max_gap=MAX_GAP if options.max_gap is None else options.max_gap,
            max_in_flight=options.max_in_flight,
        )

    def __reduce__(self) -> tuple[Callable[..., StoreHandle], tuple[Any, ...]]:
        return StoreHandle, (self.location, self.options)
