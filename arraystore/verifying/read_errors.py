"""Errors of reading: which of them are problems of the store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from arraystore.errors import (
    ArrayStoreError,
    ChecksumError,
    ReferencedFileError,
    ShortReadError,
    StorageError,
    StoreChangedError,
)
from arraystore.verifying.problems import Findings, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_ERRORS: Final[tuple[type[Exception], ...]] = (ArrayStoreError, OSError)
"""Exceptions that reading raises if something is damaged or missing."""


@contextmanager
def record_errors(findings: Findings, split: str = "", *, is_remote: bool) -> Iterator[None]:
    """Record errors of reading as problems of the store instead of raising them.

    Parameters
    ----------
    findings : Findings
        Receives the problem.
    split : str, optional
        The split that is read.
    is_remote : bool
        Whether the store is on a server, which may fail although the store is undamaged.
    """
    try:
        yield
    except READ_ERRORS as error:
        if is_access_error(error, is_remote=is_remote):
            raise
        findings.add(Problem(str(error), split=split))


def is_access_error(error: Exception, *, is_remote: bool) -> bool:
    """Return whether a store could not be read, so that nothing is known about its content.

    It was replaced meanwhile, or a server did not respond, or refused the request.

    Examples
    --------
    >>> is_access_error(StoreChangedError("a.zarr: has changed"), is_remote=False)
    True
    >>> is_access_error(StorageError("503"), is_remote=True)
    True
    >>> is_access_error(ShortReadError("truncated"), is_remote=True)
    False
    """
    if isinstance(error, StoreChangedError):
        return True
    if isinstance(error, ReferencedFileError) and error.is_refused:
        return True
    if not is_remote or isinstance(error, ShortReadError | ChecksumError | ReferencedFileError):
        return False
    return isinstance(error, StorageError) and not isinstance(error.__cause__, FileNotFoundError)
