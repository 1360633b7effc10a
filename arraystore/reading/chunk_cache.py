"""The chunks of columns that were read last: as many as fit into a number of bytes."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

MAX_NBYTES: Final = 40 * 2**20
"""What the chunks that one store keeps may take: eighty of numbers, or a dozen of names."""


class ChunkCache:
    """Arrays by key; those used longest ago are forgotten first. Any threads may use it.

    Parameters
    ----------
    max_nbytes : int
        What all of them together may take. A larger one is not kept.

    Examples
    --------
    >>> cache = ChunkCache(max_nbytes=24)
    >>> for key in "abc":
    ...     cache.put(key, np.zeros(1))
    ...     _ = cache.get("a")
    >>> cache.put("d", np.zeros(1))
    >>> [key for key in "abcd" if cache.get(key) is not None]
    ['a', 'c', 'd']
    """

    def __init__(self, max_nbytes: int = MAX_NBYTES) -> None:
        self._max_nbytes = max_nbytes
        self._kept: OrderedDict[Hashable, tuple[NDArray[Any], int]] = OrderedDict()
        self.nbytes = 0
        self._lock = threading.Lock()
        _caches.add(self)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """Return what is kept under a key, if anything is."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, values: NDArray[Any]) -> None:
        """Keep an array, and forget others if there is no room for all."""
        nbytes = _nbytes(values)
        if nbytes > self._max_nbytes:
            return
        with self._lock:
            self.nbytes += nbytes - self._kept.pop(key, (values, 0))[1]
            self._kept[key] = values, nbytes
            while self.nbytes > self._max_nbytes:
                self.nbytes -= self._kept.popitem(last=False)[1][1]

    def renew_lock(self) -> None:
        """Replace the lock, which another thread may have held while this process was forked."""
        self._lock = threading.Lock()


def _nbytes(values: NDArray[Any]) -> int:
    """Return what an array takes, with the text that NumPy keeps beside it and does not count."""
    if not isinstance(values.dtype, np.dtypes.StringDType):
        return values.nbytes
    return values.nbytes + 2 * int(np.strings.str_len(values).sum())


_caches: Final = weakref.WeakSet[ChunkCache]()


def _renew_locks() -> None:
    for cache in list(_caches):
        cache.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)
