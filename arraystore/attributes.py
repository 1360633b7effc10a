"""Attributes as they are found, as values of the types they must have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from arraystore.errors import FormatError, brief

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MAX_NBYTES: Final = 64 * 2**20
"""Most bytes that are read of one attribute, or of one document with attributes."""


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
        raise FormatError(f"{where}: attribute {name!r} must be {wanted}, got {brief(value)}")
    return value


def json_of(attributes: Mapping[str, Any], name: str, kind: type[T], *, where: str) -> T:
    """Return the list or object that an attribute holds as JSON."""
    text = need(attributes, name, str, where=where)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
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
