"""Errors of reading as problems of a store, except those that say nothing of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from arraystore.errors import (
    ArrayStoreError,
    ChecksumError,
    ShortReadError,
    StorageError,
    StoreChangedError,
)
from arraystore.verifying.problems import Findings, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

READING: tuple[type[Exception], ...] = (ArrayStoreError, OSError)
"""What reading raises of what is damaged or missing."""


@contextmanager
def told(findings: Findings, split: str = "", *, is_remote: bool) -> Iterator[None]:
    """Take errors of what is read in this context as problems of the store.

    Parameters
    ----------
    findings : Findings
        Given the problem.
    split : str, optional
        What is read.
    is_remote : bool
        Whether it is read from a server, which may fail though the store is good.
    """
    try:
        yield
    except READING as error:
        if is_not_of_the_store(error, is_remote=is_remote):
            raise
        findings.add(Problem(str(error), split=split))


def is_not_of_the_store(error: Exception, *, is_remote: bool) -> bool:
    """Whether an error says nothing of a store that is verified.

    It was replaced meanwhile, or a server did not answer, or refused.

    Examples
    --------
    >>> is_not_of_the_store(StoreChangedError("a.zarr: has changed"), is_remote=False)
    True
    >>> is_not_of_the_store(StorageError("503"), is_remote=True)
    True
    >>> is_not_of_the_store(ShortReadError("truncated"), is_remote=True)
    False
    """
    if isinstance(error, StoreChangedError):
        return True
    if not is_remote or isinstance(error, ShortReadError | ChecksumError):
        return False
    return isinstance(error, StorageError) and not isinstance(error.__cause__, FileNotFoundError)
