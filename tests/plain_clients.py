"""Readers of stores that use other libraries only, and nothing of arraystore.

Each function opens one split with one client, as its manual says, and returns a `PlainSplit`.
Images are sliced from the payload one by one.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

PAYLOAD = "image_payload"
NUMBERS = (
    "image_start",
    "image_nbytes",
    "image_height",
    "image_width",
    "image_crc32c",
    "label",
    "label_order",
    "label_indptr",
)


class PlainSplit(NamedTuple):
    """A split as a client reads it.

    Attributes
    ----------
    images : list of bytes
        Encoded images, each read with its own request.
    columns : dict of str to ndarray
        The columns of numbers.
    file_name, label_name : list of str
        Empty if the client cannot read text.
    dimensions : dict of str to str
        The dimension of each array of the split.
    root, attributes : dict
        Attributes of the root and of the split, as plain Python values.
    """

    images: list[bytes]
    columns: dict[str, NDArray[Any]]
    file_name: list[str]
    label_name: list[str]
    dimensions: dict[str, str]
    root: dict[str, Any]
    attributes: dict[str, Any]


def read_with_zarr(store: Path, split: str) -> PlainSplit:
    import zarr

    root: Any = zarr.open_group(store, mode="r")
    group = root[split]
    return _plain_split(
        group,
        file_name=group["file_name"][:],
        label_name=root["label_name"][:],
        dimensions={name: array.metadata.dimension_names for name, array in group.arrays()},
        root=root.attrs,
        attributes=group.attrs,
    )


def read_with_h5py(store: Path, split: str) -> PlainSplit:
    import h5py

    with h5py.File(store, "r") as root:
        group = root[split]
        names = (PAYLOAD, "file_name", *NUMBERS)
        return _plain_split(
            group,
            file_name=group["file_name"].asstr()[:],
            label_name=root["label_name"].asstr()[:],
            dimensions={name: [_base(d[0].name) for d in group[name].dims] for name in names},
            root=root.attrs,
            attributes=group.attrs,
        )


def read_with_h5netcdf(store: Path, split: str) -> PlainSplit:
    import h5netcdf

    with h5netcdf.File(store, "r") as root:
        group = root[split]
        return _plain_split(
            group,
            file_name=group["file_name"][:],
            label_name=root["label_name"][:],
            dimensions={name: array.dimensions for name, array in group.variables.items()},
            root=root.attrs,
            attributes=group.attrs,
        )


def read_with_netcdf4(store: Path, split: str) -> PlainSplit:
    import netCDF4

    with netCDF4.Dataset(store) as root:
        root.set_auto_mask(False)
        group = root[split]
        return _plain_split(
            group,
            file_name=group["file_name"][:],
            label_name=root["label_name"][:],
            dimensions={name: array.dimensions for name, array in group.variables.items()},
            root=root.__dict__,
            attributes=group.__dict__,
        )


def read_with_xarray(store: Path, split: str, *, engine: str) -> PlainSplit:
    import xarray

    with xarray.open_datatree(store, engine=engine) as root:
        group = root[split].to_dataset()
        return _plain_split(
            {name: array.variable for name, array in group.items()},
            file_name=group["file_name"].values,
            label_name=root["label_name"].values,
            dimensions={str(name): array.dims for name, array in group.items()},
            root=root.attrs,
            attributes=group.attrs,
        )


def read_with_xarray_zarr(store: Path, split: str) -> PlainSplit:
    return read_with_xarray(store, split, engine="zarr")


def read_with_xarray_h5netcdf(store: Path, split: str) -> PlainSplit:
    return read_with_xarray(store, split, engine="h5netcdf")


def read_with_xarray_netcdf4(store: Path, split: str) -> PlainSplit:
    return read_with_xarray(store, split, engine="netcdf4")


def read_with_tensorstore(store: Path, split: str) -> PlainSplit:
    """Read with TensorStore, which has no data type for text and no groups."""
    import tensorstore

    def opened(name: str) -> Any:
        kvstore = {"driver": "file", "path": f"{store}/{split}/{name}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()

    arrays = {name: opened(name) for name in (PAYLOAD, *NUMBERS)}
    return _plain_split(
        arrays,
        file_name=[],
        label_name=[],
        dimensions={name: array.domain.labels for name, array in arrays.items()},
        root={},
        attributes={},
    )


ZARR_CLIENTS: dict[str, Callable[[Path, str], PlainSplit]] = {
    "zarr": read_with_zarr,
    "xarray-zarr": read_with_xarray_zarr,
    "tensorstore": read_with_tensorstore,
}
HDF5_CLIENTS: dict[str, Callable[[Path, str], PlainSplit]] = {
    "h5py": read_with_h5py,
    "h5netcdf": read_with_h5netcdf,
    "netCDF4": read_with_netcdf4,
    "xarray-h5netcdf": read_with_xarray_h5netcdf,
    "xarray-netcdf4": read_with_xarray_netcdf4,
}
CLIENTS = {name: (".zarr", read) for name, read in ZARR_CLIENTS.items()} | {
    name: (".h5", read) for name, read in HDF5_CLIENTS.items()
}


def content_digest(split: PlainSplit) -> str:
    """Compute the attribute ``content_digest`` from what a client read."""
    digest = hashlib.sha256()
    rows = zip(
        (name.encode() for name in split.file_name),
        *(split.columns[name].tolist() for name in ("label", "image_nbytes", "image_crc32c")),
        strict=True,
    )
    for name, label, nbytes, crc32c in sorted(rows):
        digest.update(name + b"\0" + struct.pack("<qqI", label, nbytes, crc32c))
    return digest.hexdigest()


def _plain_split(
    arrays: Any,
    *,
    file_name: Any,
    label_name: Any,
    dimensions: Mapping[str, Any],
    root: Mapping[Any, Any],
    attributes: Mapping[Any, Any],
) -> PlainSplit:
    columns = {name: np.asarray(arrays[name][:]) for name in NUMBERS}
    payload = arrays[PAYLOAD]
    ranges = zip(columns["image_start"].tolist(), columns["image_nbytes"].tolist(), strict=True)
    return PlainSplit(
        images=[np.asarray(payload[i : i + nbytes]).tobytes() for i, nbytes in ranges],
        columns=columns,
        file_name=[_plain(name) for name in file_name],
        label_name=[_plain(name) for name in label_name],
        dimensions={name: ", ".join(map(str, dims)) for name, dims in dimensions.items()},
        root={name: _plain(value) for name, value in root.items()},
        attributes={name: _plain(value) for name, value in attributes.items()},
    )


def _plain(value: Any) -> Any:
    """Turn the clients' own scalars, bytes and arrays into Python values."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


def _base(path: str) -> str:
    return path.rpartition("/")[2]
