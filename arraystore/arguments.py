"""What a caller gives, as a value of the kind that it must be; all else is refused by its name."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

_SEED_LIMIT: Final = 2**63


def as_seed(value: int, name: str = "seed") -> int:
    """Return a seed or an epoch as an integer; `ValueError` unless it is in ``range(2**63)``."""
    number = operator.index(value)
    if not 0 <= number < _SEED_LIMIT:
        raise ValueError(f"{name} must be 0 or more and below 2**63, got {number}")
    return number


def as_count(value: int, name: str, *, least: int = 0) -> int:
    """Return a number of things as an integer; `ValueError` if it is less than `least`."""
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def check_choice(value: object, name: str, choices: Collection[str]) -> None:
    """Raise a `ValueError` that lists the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_bools(**values: object) -> None:
    """Raise a `TypeError` that names the argument, unless each is True or False.

    Any text is true for Python, ``"no"`` as well.

    Examples
    --------
    >>> check_bools(sync=True, mmap="no")
    Traceback (most recent call last):
    ...
    TypeError: mmap must be True or False, got 'no'
    """
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")
