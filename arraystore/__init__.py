"""Image data sets as plain byte ranges of plain Zarr and HDF5 arrays.

>>> import arraystore
>>> arraystore.open("1pct.zarr")["train"][5].file_name
'n04200800_7.JPEG'
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from arraystore.dataset.batch import Batch, Sample
from arraystore.dataset.batches import Batches
from arraystore.dataset.columns import Column, Columns
from arraystore.dataset.concat import concat
from arraystore.dataset.episodes import Episode, Episodes
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.dataset.split import Split
from arraystore.errors import (
    ArrayStoreError,
    ChecksumError,
    FormatError,
    ReferencedFileError,
    ShortReadError,
    SourceChangedError,
    SourceError,
    StorageError,
    StoreChangedError,
    VersionError,
    WorkersLostError,
)
from arraystore.integrations.dask_views import to_dask
from arraystore.integrations.pytorch import torch, torch_batches
from arraystore.integrations.xarray_view import to_xarray
from arraystore.reader import Store, StoreInfo
from arraystore.reader import open_store as open  # noqa: A004 - as gzip.open and h5py.File do
from arraystore.reading.image_reader import ReadPlan
from arraystore.schema import SplitInfo, __version__
from arraystore.writing.map_blocks import map_blocks

if TYPE_CHECKING:
    from arraystore.convert import convert, write
    from arraystore.exporting.export import ExportedSplitReport, ExportReport, export
    from arraystore.verifying.problems import Problem, ProblemGroup
    from arraystore.verifying.verify import VerifyReport, verify
    from arraystore.writing.add_column import ColumnReport, add_column, remove_column
    from arraystore.writing.append import AppendReport, append
    from arraystore.writing.copy import CopyReport, copy
    from arraystore.writing.relocate import RelocateReport, relocate
    from arraystore.writing.report import ConvertReport, SplitReport

__all__ = [
    "AppendReport",
    "ArrayStoreError",
    "Batch",
    "Batches",
    "ChecksumError",
    "Column",
    "ColumnReport",
    "Columns",
    "ConvertReport",
    "CopyReport",
    "Episode",
    "Episodes",
    "ExportReport",
    "ExportedSplitReport",
    "FormatError",
    "Problem",
    "ProblemGroup",
    "ReadPlan",
    "ReferencedFileError",
    "RelocateReport",
    "Sample",
    "SavedSelection",
    "ShortReadError",
    "SourceChangedError",
    "SourceError",
    "Split",
    "SplitInfo",
    "SplitReport",
    "StorageError",
    "Store",
    "StoreChangedError",
    "StoreInfo",
    "VerifyReport",
    "VersionError",
    "WorkersLostError",
    "__version__",
    "add_column",
    "append",
    "concat",
    "convert",
    "copy",
    "export",
    "map_blocks",
    "open",
    "relocate",
    "remove_column",
    "verify",
    "write",
]

_MODULES: Final = {
    "AppendReport": "arraystore.writing.append",
    "ColumnReport": "arraystore.writing.add_column",
    "ConvertReport": "arraystore.writing.report",
    "CopyReport": "arraystore.writing.copy",
    "ExportReport": "arraystore.exporting.export",
    "ExportedSplitReport": "arraystore.exporting.export",
    "Problem": "arraystore.verifying.problems",
    "ProblemGroup": "arraystore.verifying.problems",
    "RelocateReport": "arraystore.writing.relocate",
    "SplitReport": "arraystore.writing.report",
    "VerifyReport": "arraystore.verifying.verify",
    "add_column": "arraystore.writing.add_column",
    "append": "arraystore.writing.append",
    "convert": "arraystore.convert",
    "copy": "arraystore.writing.copy",
    "export": "arraystore.exporting.export",
    "relocate": "arraystore.writing.relocate",
    "remove_column": "arraystore.writing.add_column",
    "verify": "arraystore.verifying.verify",
    "write": "arraystore.convert",
}
"""Public names that a program which only reads does not need, and their modules."""


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module 'arraystore' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return list(__all__)


class _Package(ModuleType):
    """The package: its attribute ``convert`` is the function, never the module of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets each imported submodule as an attribute of its package.
        if name != "convert" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[object, ...]:
        # cloudpickle sends functions of a script with what they use: modules by name, but not those
        # of another class.
        return import_module, (__name__,)


sys.modules[__name__].__class__ = _Package

# Methods that need modules above the layer of `Split`.
Split.map_blocks = map_blocks
Split.to_dask = to_dask
Split.to_xarray = to_xarray
Split.torch = torch
Split.torch_batches = torch_batches
