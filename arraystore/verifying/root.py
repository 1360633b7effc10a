"""Checks of the attributes of the root, and of the names of the classes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import FormatError, brief
from arraystore.schema import get_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SKIPPED: Final = ("split", "file_name", "reason")


def attribute_faults(attributes: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """Yield the faults of root attributes that reading does not need.

    Parameters
    ----------
    attributes : mapping
        Attributes that `DatasetInfo.from_attributes` accepted.
    where : str
        Address of the store, for messages.
    """
    if not attributes["dataset_name"]:
        yield "attribute 'dataset_name' must not be empty"
    try:
        get_json(attributes, "features", dict, location=where)
    except FormatError as error:
        yield str(error)
    if not isinstance(attributes["partial"], bool):
        yield f"attribute 'partial' must be a boolean, got {brief(attributes['partial'])}"
    for row in get_json(attributes, "sources", list, location=where):
        if row["nbytes"] < 0:
            yield f"attribute 'sources' must hold sizes of 0 or more, got {brief(row)}"
    for row in get_json(attributes, "skipped", list, location=where):
        if not all(isinstance(row.get(key), str) for key in _SKIPPED):
            yield f"attribute 'skipped' must hold objects with {_SKIPPED}, got {brief(row)}"
    for name in get_json(attributes, "reencoded", list, location=where):
        if not isinstance(name, str):
            yield f"attribute 'reencoded' must hold file names, got {brief(name)}"


def class_faults(names: Sequence[str]) -> Iterator[str]:
    """Yield the faults of the class ids."""
    for label, name in enumerate(names):
        if not name or "\0" in name:
            yield f"class {label} cannot have the id {brief(name)}"
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{brief(name)} must be the id of one class, but {count} classes have it"
