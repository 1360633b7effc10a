"""Attributes as they are found, as values of the types they must have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from typing_extensions import override

from arraystore.errors import FormatError, brief, escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MAX_NBYTES: Final = 64 * 2**20
"""Most bytes that are read of one attribute, or of one document with attributes."""

MAX_DEPTH: Final = 64
"""Most levels of lists and objects in a JSON document, or of groups in a store."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the value of an attribute of a type that is not read.

    Attributes
    ----------
    found : str
        What the attribute holds.
    remedy : str
        How to write it so that it is read; empty if there is no general answer.
    """

    found: str
    remedy: str = ""

    @override
    def __str__(self) -> str:
        return escaped(f"{self.found}; {self.remedy}" if self.remedy else self.found)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON document that is not nested deeper than `MAX_DEPTH`.

    Deeper values would exhaust the stack later, in `repr`, in a comparison or in `json.dumps`.

    Raises
    ------
    ValueError
        If the text is not JSON, or nested too deeply.

    Examples
    --------
    >>> parse_json('[{"a": 1}]')
    [{'a': 1}]
    >>> parse_json("[" * 65 + "]" * 65)
    Traceback (most recent call last):
    ...
    ValueError: is nested more than 64 levels deep
    """
    deep = f"is nested more than {MAX_DEPTH} levels deep"
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(deep) from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for some in level:
            inside += some.values() if isinstance(some, dict) else some
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return value
    raise ValueError(deep)


def need(
    attributes: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, where: str
) -> Any:
    """Return an attribute of the wanted type, or raise a `FormatError` that says where."""
    if name not in attributes:
        raise FormatError(f"{where}: attribute {name!r} is missing")
    value = attributes[name]
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        got = value if isinstance(value, Unreadable) else brief(value)
        raise FormatError(f"{where}: attribute {name!r} must be {wanted}, got {got}")
    return value


def json_of(attributes: Mapping[str, Any], name: str, kind: type[T], *, where: str) -> T:
    """Return the list or object that an attribute holds as JSON."""
    text = need(attributes, name, str, where=where)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise FormatError(f"{where}: attribute {name!r} must be JSON: {error}") from None
    if not isinstance(values, kind):
        raise FormatError(
            f"{where}: attribute {name!r} must be a JSON {kind.__name__}, got {brief(text)}"
        )
    return values


def list_of_objects(
    attributes: Mapping[str, Any], name: str, kinds: Mapping[str, type], *, where: str
) -> list[dict[str, Any]]:
    """Return the objects, each with values of some kinds, that an attribute lists as JSON."""
    rows: list[Any] = json_of(attributes, name, list, where=where)
    for row in rows:
        if not isinstance(row, dict) or any(
            not isinstance(row.get(key), kind) for key, kind in kinds.items()
        ):
            raise FormatError(
                f"{where}: attribute {name!r} must hold objects with {list(kinds)}, "
                f"got {brief(row)}"
            )
    return rows
