"""The formats of an export, and the class that writes each."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final

from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.exporting.shard_format import ShardFormat

_CLASSES: Final = {
    "folders": {"": "folders.Folders"},
    "webdataset": {"": "webdataset.WebDataset"},
    "tfrecord": {"": "tfrecord.TFRecord"},
    "parquet": {"": "parquet.Parquet"},
    "array-record": {"": "array_record.ArrayRecord"},
    "lance": {"": "lance_table.LanceTable"},
    "lance-references": {"": "lance_references.LanceReferences"},
    "arrays": {
        ".h5": "hdf5_arrays.HDF5Arrays",
        ".hdf5": "hdf5_arrays.HDF5Arrays",
        ".zarr": "zarr_arrays.ZarrArrays",
    },
}
"""Modules and classes of each format, by the suffix of the target if that matters."""

FORMATS: Final = tuple(_CLASSES)
"""Formats; the first is the default."""


def format_class(name: str, target: Path) -> type[ShardFormat]:
    """Import and return the class that writes a format to a target.

    Raises
    ------
    ValueError
        If the format needs another suffix.
    """
    choices = _CLASSES[name]
    path = choices.get("" if "" in choices else target.suffix)
    if path is None:
        raise ValueError(
            escaped(
                f"format={name}: the target must end in {', '.join(choices)}, got "
                f"{brief(str(target))}"
            )
        )
    module, _, class_name = path.partition(".")
    found = getattr(importlib.import_module(f"arraystore.exporting.{module}"), class_name)
    form: type[ShardFormat] = found
    return form


def check_target(target: Path, form: type[ShardFormat]) -> None:
    """Refuse a target that exists, except an empty folder that becomes a full one.

    Raises
    ------
    FileExistsError
        If there is anything else.
    """
    if os.path.lexists(target) and (
        form.is_one_file or not target.is_dir() or any(target.iterdir())
    ):
        raise FileExistsError(
            escaped(f"{target}: exists and is not an empty folder; choose another name")
        )
