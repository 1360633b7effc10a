"""How many requests are outstanding at one time."""

from __future__ import annotations

import asyncio
import resource
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_IN_FLIGHT: Final = 256
"""Most requests that are outstanding at one time; more do not arrive sooner."""

MAX_LONG: Final = 64
"""Most of them that are long."""

LONG_NBYTES: Final = 2**20
"""Longer responses are limited in number, or a slow line would not finish one before its timeout.

With at most 4 MiB for each, no more than 448 MiB are outstanding.
"""


class Slots:
    """Limits of the requests of one reader.

    Parameters
    ----------
    max_in_flight : int
        Most requests. There are never more than a quarter of the files that the process may open,
        because each has a connection.
    """

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        n_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if n_files != resource.RLIM_INFINITY:
            max_in_flight = max(1, min(max_in_flight, n_files // 4))
        self._all = asyncio.Semaphore(max_in_flight)
        self._long = asyncio.Semaphore(min(max_in_flight, MAX_LONG))

    @asynccontextmanager
    async def one(self, nbytes: int | None) -> AsyncIterator[None]:
        """Wait until a request may be sent; it is outstanding while the context lasts.

        Parameters
        ----------
        nbytes : int or None
            Size of the response, if it is known.
        """
        if nbytes is not None and nbytes <= LONG_NBYTES:
            async with self._all:
                yield
        else:
            async with self._long, self._all:
                yield
