"""A split as a dataset of xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xarray import Dataset

    from arraystore.dataset.split import Split


def to_xarray(
    split: Split,
    *,
    size: int | tuple[int, int] | None = None,
    chunks: int | Mapping[str, Any] | str | None = None,
    drop_variables: str | Iterable[str] | None = None,
) -> Dataset:
    """Return the split as an `xarray.Dataset`, which is read when it is indexed.

    Parameters
    ----------
    split : Split
        Any samples.
    size : int or (int, int), optional
        Height and width to resize images to, see `Split.resized`. Then the variable ``image``,
        uint8 of dimensions sample, height, width and channel, replaces ``image_bytes``.
    chunks : int, mapping or str, optional
        As for `xarray.open_dataset`: arrays of Dask, with ``{}`` of at most 64 MiB.
    drop_variables : str or iterable of str, optional
        Variables to leave out.

    Returns
    -------
    xarray.Dataset
        See `arraystore.integrations.xarray_backend.ArraystoreBackend`.

    Raises
    ------
    ValueError
        If the size is not 1 or more.

    Examples
    --------
    >>> import arraystore
    >>> tench = arraystore.open("1pct.zarr")["train"].where(label="tench")
    >>> tench.to_xarray(size=32).image.dims
    ('sample', 'height', 'width', 'channel')
    """
    import xarray

    samples: Any = split  # xarray has types for paths and files only
    options: Any = {"chunks": chunks, "size": size, "drop_variables": drop_variables}
    return xarray.open_dataset(samples, engine="arraystore", **options)
