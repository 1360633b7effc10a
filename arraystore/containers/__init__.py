"""The two formats, thin and alike, behind one protocol.

Which of them a store has is known here, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arraystore.containers.hdf5 import SIGNATURE, HDF5Reader, HDF5Writer
from arraystore.containers.zarr import METADATA, ZarrReader, ZarrWriter
from arraystore.errors import FormatError
from arraystore.storage import LocalReader

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from arraystore.containers.base import ContainerReader, ContainerWriter
    from arraystore.storage import RangeReader

_WRITERS: Final[dict[str, type[ContainerWriter]]] = {
    ".zarr": ZarrWriter,
    ".h5": HDF5Writer,
    ".hdf5": HDF5Writer,
}


def writer_for(target: PurePath) -> type[ContainerWriter]:
    """Return the writer of the container that a name's suffix asks for.

    Raises
    ------
    ValueError
        If it asks for none.
    """
    try:
        return _WRITERS[target.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{target}: the suffix chooses the container and must be one of "
            f"{', '.join(_WRITERS)}, got {target.suffix!r}"
        ) from None


def open_local(path: Path) -> tuple[RangeReader, ContainerReader]:
    """Open a container on the local disk.

    Parameters
    ----------
    path : Path
        A Zarr group's folder, or an HDF5 file, whatever their names.

    Returns
    -------
    RangeReader, ContainerReader
        What reads the bytes of payloads, and what tells where they are.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FormatError
        If what is there is neither.
    """
    where = str(path)
    reader: RangeReader
    if path.is_dir():
        if not (path / METADATA).is_file():
            is_v2 = (path / ".zgroup").exists() or (path / ".zarray").exists()
            found = "a Zarr v2 hierarchy" if is_v2 else "a folder"
            raise FormatError(
                f"{where}: is not an arraystore store: {found} without {METADATA}, "
                "expected a Zarr v3 group or an HDF5 file"
            )
        reader = LocalReader(path)
        return reader, ZarrReader(reader, where)
    if not path.exists():
        raise FileNotFoundError(f"{where}: there is nothing here")
    if not path.is_file():
        raise FormatError(f"{where}: is not an arraystore store: neither a folder nor a file")
    with path.open("rb") as file:
        start = file.read(len(SIGNATURE))
    if start != SIGNATURE:
        raise FormatError(
            f"{where}: is not an arraystore store: begins with {start!r}, "
            "expected a Zarr v3 group or an HDF5 file"
        )
    reader = LocalReader(path.parent)
    return reader, HDF5Reader(reader, path.name, where)
