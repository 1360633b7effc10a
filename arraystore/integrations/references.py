"""Export references: with them other Zarr clients read exactly the bytes of each image."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

from arraystore.errors import escaped
from arraystore.integrations.icechunk_repository import write_icechunk
from arraystore.integrations.kerchunk import write_json, write_parquet
from arraystore.integrations.referenced_group import ReferencedGroup, referenced_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arraystore.dataset.split import Split
    from arraystore.storage.location import Location


class _Format(NamedTuple):
    """A form of references.

    Attributes
    ----------
    write : callable
        Writes a group to a new path.
    root : str
        The file without which the others mean nothing; empty if there is only one.
    """

    write: Callable[[Path, ReferencedGroup], None]
    root: str


FORMATS: Final = {
    ".json": _Format(write_json, ""),
    ".parquet": _Format(write_parquet, ".zmetadata"),
    ".icechunk": _Format(write_icechunk, "repo"),
}
"""By the suffix of the target."""


def export_references(splits: Mapping[str, Split], target: Location) -> int:
    """Write references to the images of splits, in their order, and their columns.

    The group of each split has the columns of `docs/format.md`, the further columns that all of
    its stored splits have, and the payload with a chunk for each image (two where an image lies in
    two shards).

    Parameters
    ----------
    splits : mapping of str to Split
        By the name of the group. Their samples are of stores with the same classes.
    target : Location
        The new file or folder, on a disk or in a bucket. Its suffix selects the format:
        ``.json`` or ``.parquet`` (kerchunk), or ``.icechunk``. It appears when it is complete.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    FileExistsError
        If the target exists.
    FileNotFoundError
        If the folder of the target does not exist.
    ValueError
        If the suffix is another one, a sample occurs twice in a split, or the format cannot refer
        to a file.
    SourceError
        If a library that the format needs is not installed.
    """
    if target.suffix not in FORMATS:
        raise ValueError(
            escaped(f"{target}: the name of references must end in {', '.join(FORMATS)}")
        )
    form = FORMATS[target.suffix]
    if not target.is_local:
        return _export_to_bucket(splits, target, form)
    _check_new(target)
    if not target.path.parent.is_dir():
        raise FileNotFoundError(escaped(f"{target}: its folder does not exist; create it first"))
    with TemporaryDirectory(dir=target.path.parent, prefix=".arraystore-") as folder:
        written = Path(folder) / target.path.name
        n_images = _write(splits, written, form)
        _check_new(target)
        written.rename(target.path)
    return n_images


def _write(splits: Mapping[str, Split], path: Path, form: _Format) -> int:
    group = referenced_group(splits)
    form.write(path, group)
    return group.n_images


def _check_new(target: Location) -> None:
    if target.path.exists():
        raise _existing(target)


def _existing(target: Location) -> FileExistsError:
    return FileExistsError(escaped(f"{target}: exists; delete it, or choose another name"))


def _export_to_bucket(splits: Mapping[str, Split], target: Location, form: _Format) -> int:
    """Write references on the disk, and send them; the root of them last."""
    from arraystore.storage.objects.writer import ObjectWriter

    writer = ObjectWriter(target)
    root = "/".join(filter(None, (target.key, form.root)))
    if writer.status(root) is not None:
        raise _existing(target)
    with TemporaryDirectory(prefix="arraystore-") as folder:
        written = Path(folder) / "references"
        n_images = _write(splits, written, form)
        files = {
            f"{target.key}/{path.relative_to(written).as_posix()}": path
            for path in written.rglob("*")
            if path.is_file()
        }
        files.pop(root, None)
        writer.put_files(files)
        writer.create(root, (written / form.root).read_bytes())
    return n_images
