"""Add and remove columns of a finished HDF5 file, which stays whole if this process is killed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore.containers.hdf5.errors import RAISED, translate_error
from arraystore.containers.hdf5.overlay_file import OverlayFile
from arraystore.containers.hdf5.redo import Redo, complete
from arraystore.containers.hdf5.writer import HDF5Writer
from arraystore.containers.protocol import ColumnEditor
from arraystore.storage.workspace_folder import REDO

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from arraystore.containers.protocol import WriteArray


_DIMENSIONS: Final = "DIMENSION_LIST"
"""Attribute with the references of a dataset to its scales."""


class HDF5Editor(ColumnEditor):
    """Change the columns of an HDF5 file on the local disk; see `ColumnEditor`.

    It always waits until everything is on the disk, because the journal would be worth nothing.
    """

    def __init__(self, path: Path, scratch: Path, *, sync: bool = True) -> None:
        del sync
        self._path, self._scratch = path, scratch

    @override
    @staticmethod
    def recover(path: Path, scratch: Path) -> None:
        complete(path, scratch / REDO)

    @override
    def add(self, name: str, writes: Mapping[str, WriteArray], version: str | None) -> None:
        with self._changing() as file:
            writer = _FileWriter(file)
            for group, write in writes.items():
                if group not in file:
                    writer.create_group(group)
                write(writer, f"{group}/{name}")
            if version is not None:
                writer.set_attributes("", {"format_version": version})

    @override
    def remove(self, name: str, groups: Collection[str]) -> None:
        with self._changing() as file:
            for group in groups:
                columns = file[group]
                _detach(columns, columns[name])
                del columns[name]
                for other in [other for other in columns if other.startswith(f"{name}.")]:
                    del columns[other]
                if all(map(_is_scale, _nodes(columns))):
                    del file[group]

    @override
    def add_part(self, part: Path, group: str, attributes: Mapping[str, Any]) -> None:
        import h5py

        with self._changing() as file:
            try:
                with h5py.File(part, "r") as other:
                    _FileWriter(file).copy_group(other[group], group)
            except RAISED as error:
                raise translate_error(error, str(part)) from error
            _FileWriter(file).set_attributes("", attributes)

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        """Open the file for changes, and make them when the context ends without an error."""
        with OverlayFile(self._path) as overlay:
            try:
                with self._opened(overlay) as file:
                    yield file
                overlay.touch(0)
                redo = Redo.of(
                    {offset: bytes(page) for offset, page in sorted(overlay.pages.items())},
                    overlay.fd,
                    overlay.start,
                    overlay.end,
                )
                os.fsync(overlay.fd)
                redo.write(self._scratch / REDO)
            except BaseException:
                overlay.give_up()
                raise
        redo.apply(self._path)
        (self._scratch / REDO).unlink()

    def _opened(self, overlay: OverlayFile) -> Any:
        import h5py

        try:
            return h5py.File(overlay, "r+", libver=("v110", "v110"))
        except RAISED as error:
            raise translate_error(error, str(self._path)) from error


class _FileWriter(HDF5Writer):
    """Writes into a file that is open already."""

    def __init__(self, file: Any) -> None:
        super().__init__(file.filename, is_skeleton=True)
        self._opened = file

    def copy_group(self, source: Any, path: str) -> None:
        """Copy a group of another file, as its chunks and payloads are stored there."""
        import h5py

        self.create_group(path)
        target = self._opened[path]
        for name, value in source.attrs.items():
            target.attrs.create(name, value, dtype=source.attrs.get_id(name).dtype)
        for name, node in source.items():
            if isinstance(node, h5py.Group):
                self.copy_group(node, f"{path}/{name}")
            elif not _is_scale(node):
                source.copy(node, target, name=name)
                # References do not hold in another file; the scales are created again.
                if _DIMENSIONS in target[name].attrs:
                    del target[name].attrs[_DIMENSIONS]
                for axis, length in enumerate(node.shape):
                    for dimension in node.dims[axis].values():
                        scale = dimension.name.rpartition("/")[2]
                        self._attach_dimension(f"{path}/{name}", scale, length, axis)


def _nodes(group: Any) -> list[Any]:
    return [group[name] for name in group]


def _is_scale(node: Any) -> bool:
    return bool(getattr(node, "is_scale", False))


def _detach(group: Any, node: Any) -> None:
    """Detach a dataset from the dimensions of its group, which would refer to it for ever."""
    from h5py import h5ds

    if not hasattr(node, "dims"):
        return
    for scale in filter(_is_scale, _nodes(group)):
        for axis in range(node.ndim):
            if h5ds.is_attached(node.id, scale.id, axis):
                h5ds.detach_scale(node.id, scale.id, axis)
