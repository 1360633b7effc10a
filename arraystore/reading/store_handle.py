"""Handles of stores: a place and options that pickle, opened when they are first used."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import as_count, as_path, check_bools, check_choice
from arraystore.containers import open_local, open_remote
from arraystore.reading.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arraystore.containers.protocol import ContainerReader
    from arraystore.storage.range_reader import RangeReader

    ObjectStore = Any
    Place = str | ObjectStore | tuple[ObjectStore, str]

CHECKSUMS: Final = ("auto", "always")
"""Values of the option `checksum`; the first is the default."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """The keywords of `arraystore.open`."""

    checksum: str = "auto"
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    max_gap: int | None = None
    max_in_flight: int = 64
    mmap: bool = True

    def __post_init__(self) -> None:
        check_choice(self.checksum, "checksum", CHECKSUMS)
        check_bools(mmap=self.mmap)
        if self.max_gap is not None:
            as_count(self.max_gap, "max_gap")
        as_count(self.max_in_flight, "max_in_flight", least=1)


class StoreHandle:
    """A store's range reader and container, opened when they are first used.

    A handle pickles as its place and options, and unpickling opens nothing: an error during
    unpickling would end a worker of a `multiprocessing.Pool`, and its parent would wait forever.

    Parameters
    ----------
    place : str, obstore store, or pair of an obstore store and a key
        Absolute path or address of the store.
    options : OpenOptions, optional
        See `arraystore.open`.
    """

    def __init__(self, place: Place, options: OpenOptions | None = None) -> None:
        self.place = place
        self.options = options or OpenOptions()

    @cached_property
    def address(self) -> str:
        """Location of the store for messages, without a password."""
        if not isinstance(self.place, str):
            store, key = self.place if isinstance(self.place, tuple) else (self.place, "")
            return f"<{type(store).__name__}>/{key}"
        if "://" not in self.place:
            return self.place
        from arraystore.storage.objects.address import parse_address

        address = parse_address(self.place)
        return address.where if address else self.place

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
        place, options = self.place, self.options
        if isinstance(place, str) and "://" not in place:
            return open_local(Path(place), max_gap=options.max_gap or 0, mmap=options.mmap)
        from arraystore.storage.objects.address import parse_address
        from arraystore.storage.objects.connection import connect, connection_to
        from arraystore.storage.objects.reader import MAX_GAP

        max_gap = MAX_GAP if options.max_gap is None else options.max_gap
        address = parse_address(place) if isinstance(place, str) else None
        if address is not None:
            connection, key = connect(address, options.storage_options), address.key
        else:
            store, key = place if isinstance(place, tuple) else (place, "")
            connection = connection_to(store)
        return open_remote(connection, key, max_gap=max_gap, max_in_flight=options.max_in_flight)

    def __reduce__(self) -> tuple[Callable[..., StoreHandle], tuple[Any, ...]]:
        return StoreHandle, (self.place, self.options)


def open_place(
    place: str | os.PathLike[str] | Place, options: OpenOptions | None = None
) -> StoreHandle:
    """Return a handle of a store; paths are made absolute, and nothing is opened.

    Parameters
    ----------
    place : path-like, str, obstore store, or pair of an obstore store and a key
        See `arraystore.open`.
    options : OpenOptions, optional
        See `arraystore.open`.
    """
    if isinstance(place, str | os.PathLike):
        place = os.fspath(place)
        if "://" not in place or place.startswith("file://"):
            place = str(as_path(place.removeprefix("file://")).absolute())
    return StoreHandle(place, options)
