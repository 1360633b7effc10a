"""Errors of reading as problems of a store, but for those that are the network's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from arraystore.errors import ArrayStoreError, ChecksumError, ShortReadError, StorageError
from arraystore.findings import Findings, Problem

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
        if is_remote and is_of_the_network(error):
            raise
        findings.add(Problem(str(error), split=split))


def is_of_the_network(error: Exception) -> bool:
    """Whether an error says nothing of the store: a server did not answer, or refused.

    Examples
    --------
    >>> is_of_the_network(StorageError("503")), is_of_the_network(ShortReadError("truncated"))
    (True, False)
    """
    if isinstance(error, ShortReadError | ChecksumError):
        return False
    return isinstance(error, StorageError) and not isinstance(error.__cause__, FileNotFoundError)
