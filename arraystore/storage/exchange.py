"""Exchange two names in one step, where the system can do that.

Python has no function for it, so this module calls the C library through `ctypes`.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_UNSUPPORTED: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EXDEV)
"""Errors of systems, file systems and sandboxes without this call."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders; neither name is ever absent.

    Parameters
    ----------
    one, other : Path
        Both must exist, on the same file system.

    Returns
    -------
    bool
        False if this system or file system cannot do it; then nothing has changed.

    Raises
    ------
    OSError
        If the call fails for another reason.
    """
    rename = _renameat2()
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    import ctypes

    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _renameat2() -> Any:
    """Return the function of the C library, or None on macOS and before glibc 2.28."""
    import ctypes

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = (*(ctypes.c_int, ctypes.c_char_p) * 2, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function
