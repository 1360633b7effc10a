"""What a caller may state about a source of general form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, brief
from arraystore.schema import check_column_name, check_split_name
from arraystore.sources.folder_layout import TINY_IMAGENET, Layout
from arraystore.sources.label_space import AUTO
from arraystore.storage.buckets import Buckets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

FIELDS: Final = ("image", "label", "file_name")
"""The fields of a sample that `SourceOptions.fields` may name."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options that several kinds of source have in common.

    Attributes
    ----------
    split : str, optional
        Puts all samples into one split.
    classes : sequence of str, int or path-like, optional
        See `arraystore.sources.classes.as_classes`.
    fields : mapping of str to str
        Where the source keeps image, label and file name: a column, feature or extension. An
        empty label states that samples have none; an empty file name that names are generated.
    partial : bool
        Whether missing files are accepted.
    layout : str, optional
        What the folders above an image are; see `arraystore.sources.folder_layout`.
    label_space : str
        See `arraystore.sources.label_space`; it decides what is worth a note.
    skips_unreadable : bool
        Whether folders and links that cannot be read are left out, instead of an error.
    columns : mapping of str to str
        Further columns of the store: their names, and where the source keeps the values.
    buckets : Buckets
        What addresses in the name of the source are looked up in.
    executor : concurrent.futures.Executor, optional
        Walks archives on a disk; threads by default.
    """

    split: str | None = None
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    layout: str | None = None
    label_space: str = AUTO
    skips_unreadable: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    buckets: Buckets = field(default_factory=Buckets, compare=False)
    executor: Executor | None = field(default=None, compare=False)

    def check(self) -> None:
        """Refuse names of fields, splits and layouts that do not exist.

        Raises
        ------
        ValueError
            If a field has another name than those in `FIELDS`, or names no place; if a split
            cannot have this name; if a layout is unknown.
        """
        for name, place in self.fields.items():
            if name not in FIELDS:
                raise ValueError(
                    f"fields may name {brief(FIELDS)}, got {brief(name)}={brief(place)}"
                )
            if not isinstance(place, str):
                raise TypeError(f"field {brief(name)} must be a text, got {brief(place)}")
        for name in self.columns:
            check_column_name(name)
        if self.split is not None:
            check_split_name(self.split)
        if self.layout not in (None, TINY_IMAGENET):
            Layout.parse(self.layout)

    def stated(self) -> dict[str, str]:
        """Return the options that were given, as text that identifies them."""
        given = {f"field {name}": place for name, place in sorted(self.fields.items())}
        if self.columns:
            given["columns"] = ", ".join(f"{n}={place}" for n, place in self.columns.items())
        if self.split is not None:
            given["split"] = self.split
        if self.layout is not None:
            given["layout"] = self.layout
        if isinstance(self.classes, os.PathLike):
            given["classes"] = os.fspath(self.classes)
        elif isinstance(self.classes, int | str):
            given["classes"] = str(self.classes)
        elif self.classes is not None:
            given["classes"] = str(list(self.classes))
        return given


def as_columns(columns: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return names of further columns with the places of their values.

    Parameters
    ----------
    columns : sequence of str, or mapping of str to str
        Places, after which the columns are named; or names and places.

    Raises
    ------
    TypeError
        If it is a single text, or holds other values.
    """
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list or mapping of names, got {brief(columns)}")
    if not isinstance(columns, Mapping):
        columns = {place.rpartition(".")[2]: place for place in columns}
    return dict(columns)


def no_column(where: str, place: str, found: Sequence[str]) -> SourceError:
    """Return the error for a further column whose values do not exist."""
    there = ", ".join(map(brief, found)) or "none"
    return SourceError(f"{where}: has no values {brief(place)} for a column, it has {there}")


def no_field(
    where: str, kind: str, wanted: str, candidates: Sequence[str], found: Sequence[str]
) -> SourceError:
    """Return the error for a source where no place of a field is known, or several are.

    Parameters
    ----------
    where : str
        Name of the source.
    kind : str
        What the source calls its fields: ``"column"``, ``"feature"``, ``"extension"``.
    wanted : str
        Which of `FIELDS`.
    candidates : sequence of str
        The places that it may be.
    found : sequence of str
        All places that exist.
    """
    there = ", ".join(map(brief, found)) or "none"
    what = (
        f"{len(candidates)} {kind}s may hold the {wanted} ({', '.join(map(brief, candidates))})"
        if candidates
        else f"expected a {kind} with the {wanted}, found {there}"
    )
    remedy = f"pass fields={{'{wanted}': NAME}} (--field {wanted}=NAME)"
    if wanted == "label":
        remedy += ", or an empty NAME if samples have no labels"
    return SourceError(f"{where}: {what}; {remedy}")
