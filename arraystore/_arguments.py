"""Validate values that a caller passes, and import optional libraries that it asks for."""

from __future__ import annotations

import importlib
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError, brief

if TYPE_CHECKING:
    import os
    from collections.abc import Collection
    from types import ModuleType

ON_ERROR: Final = ("raise", "skip")
"""How to treat an image that cannot be read; the first is the default."""

_LIMIT: Final = 2**63


def as_integer(value: object, name: str) -> int:
    """Return an integer; raise `TypeError` for anything else, including bools and floats.

    Examples
    --------
    >>> as_integer(np.int8(3), "n")
    3
    >>> as_integer(True, "n")
    Traceback (most recent call last):
    ...
    TypeError: n must be an integer, got True
    """
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)  # type: ignore[arg-type] # the TypeError is caught
        except TypeError:
            pass
    raise TypeError(f"{name} must be an integer, got {brief(value)}")


def as_seed(value: int, name: str = "seed") -> int:
    """Return a seed or an epoch; raise `ValueError` unless it is in ``range(2**63)``."""
    number = as_integer(value, name)
    if not 0 <= number < _LIMIT:
        raise ValueError(f"{name} must be 0 or more and below 2**63, got {brief(number)}")
    return number


def as_count(value: int, name: str, *, least: int = 0, most: int = _LIMIT - 1) -> int:
    """Return a count; raise `ValueError` unless it is between `least` and `most`."""
    number = as_integer(value, name)
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {brief(number)}")
    if number > most:
        raise ValueError(f"{name} must be {most:,} or less, got {brief(number)}")
    return number


def as_fraction(value: object, name: str) -> float:
    """Return a fraction; raise `ValueError` unless it is in [0, 1].

    Examples
    --------
    >>> as_fraction(float("nan"), "fraction")
    Traceback (most recent call last):
    ...
    ValueError: fraction must be in [0, 1], got nan
    """
    if isinstance(value, bool | np.bool_ | str | bytes) or np.ndim(value):  # type: ignore[arg-type] # anything
        raise TypeError(f"{name} must be a number, got {brief(value)}")
    try:
        number = float(value)  # type: ignore[arg-type] # the TypeError is caught
    except OverflowError:
        number = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {brief(value)}") from None
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {brief(value)}")
    return number


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` replaced by the home folder, or kept if that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_choice(value: object, name: str, choices: Collection[str]) -> None:
    """Raise `ValueError` with the choices unless the value is one of them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {brief(value)}")


def check_bools(**values: object) -> None:
    """Raise `TypeError` unless each argument is True or False.

    Python treats any text as true, even ``"no"``.

    Examples
    --------
    >>> check_bools(sync=True, mmap="no")
    Traceback (most recent call last):
    ...
    TypeError: mmap must be True or False, got 'no'
    """
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {brief(value)}")


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional library.

    Parameters
    ----------
    module : str
        Its name.
    extra : str
        Name of the extra of arraystore that installs it.
    what : str
        What needs it, for the message.

    Raises
    ------
    SourceError
        If it is not installed; the message names the extra.

    Examples
    --------
    >>> need("no_such_module", "parquet", "parquet:")
    Traceback (most recent call last):
    ...
    arraystore.errors.SourceError: parquet: needs no_such_module, which is not installed; install
    arraystore[parquet]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{what} needs {error.name}, which is not installed; install arraystore[{extra}]"
        ) from error
