"""Image data sets as plain byte ranges of plain Zarr and HDF5 arrays.

>>> import arraystore
>>> arraystore.open("1pct.zarr")["train"][5].file_name
'n04200800_7.JPEG'
"""

from arraystore.convert import convert, write
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
from arraystore.exporting.export import ExportedSplitReport, ExportReport, export
from arraystore.integrations.dask_views import to_dask
from arraystore.integrations.pytorch import torch, torch_batches
from arraystore.integrations.xarray_view import to_xarray
from arraystore.reader import Store, StoreInfo
from arraystore.reader import open_store as open  # noqa: A004 - as gzip.open and h5py.File do
from arraystore.reading.image_reader import ReadPlan
from arraystore.schema import SplitInfo, __version__
from arraystore.verifying.problems import Problem, ProblemGroup
from arraystore.verifying.verify import VerifyReport, verify
from arraystore.writing.add_column import ColumnReport, add_column, remove_column
from arraystore.writing.append import AppendReport, append
from arraystore.writing.copy import CopyReport, copy
from arraystore.writing.map_blocks import map_blocks
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

# Methods that need modules above the layer of `Split`.
Split.map_blocks = map_blocks
Split.to_dask = to_dask
Split.to_xarray = to_xarray
Split.torch = torch
Split.torch_batches = torch_batches
