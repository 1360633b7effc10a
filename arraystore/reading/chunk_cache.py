"""A cache of recently used chunks of columns, limited by their size in memory."""

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
"""Default limit of a store: eighty chunks of numbers, or a dozen of names."""


class ChunkCache:
    """Arrays by key; the least recently used are dropped first. Safe to use from many threads.

    Parameters
    ----------
    max_nbytes : int
        Most memory that the arrays take together. A larger array is not cached.

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
        self._arrays: OrderedDict[Hashable, tuple[NDArray[Any], int]] = OrderedDict()
        self.nbytes = 0
        self._lock = threading.Lock()
        _caches.add(self)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """Return the array cached under a key, or None."""
        with self._lock:
            if key not in self._arrays:
                return None
            self._arrays.move_to_end(key)
            return self._arrays[key][0]

    def put(self, key: Hashable, values: NDArray[Any]) -> None:
        """Cache an array, and drop others until all fit."""
        nbytes = _nbytes(values)
        if nbytes > self._max_nbytes:
            return
        with self._lock:
            self.nbytes += nbytes - self._arrays.pop(key, (values, 0))[1]
            self._arrays[key] = values, nbytes
            while self.nbytes > self._max_nbytes:
                self.nbytes -= self._arrays.popitem(last=False)[1][1]

    def renew_lock(self) -> None:
        """Replace the lock: another thread may have held it when this process was forked."""
        self._lock = threading.Lock()


def _nbytes(values: NDArray[Any]) -> int:
    """Return the memory that an array takes, with text that NumPy keeps elsewhere."""
    if not isinstance(values.dtype, np.dtypes.StringDType):
        return values.nbytes
    return values.nbytes + 2 * int(np.strings.str_len(values).sum())


_caches: Final = weakref.WeakSet[ChunkCache]()


def _renew_locks() -> None:
    for cache in list(_caches):
        cache.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)
