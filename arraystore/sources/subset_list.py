"""Read the lists of the ImageNet subsets, from the archives' folder or downloaded once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore._arguments import as_path
from arraystore.errors import SourceError
from arraystore.storage.buckets import ObjectPath
from arraystore.storage.file_states import NO_FILES, FileState, FileStates, state_of

if TYPE_CHECKING:
    from arraystore.storage.buckets import SourcePath

_BASE_URL: Final = (
    "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets"
)
_TIMEOUT_SECONDS: Final = 60
_OPTIONAL_TIMEOUT_SECONDS: Final = 10
"""Timeout for a list that a conversion does not need."""


@dataclass(frozen=True, slots=True)
class _Published:
    file_name: str
    nbytes: int
    sha256: str
    description: str


SUBSETS: Final = {
    "1pct": _Published(
        "1percent.txt",
        260_323,
        "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
        "The training images are the class-balanced 1 % that SimCLR drew (12,811 images).",
    ),
    "10pct": _Published(
        "10percent.txt",
        2_603_168,
        "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
        "The training images are the class-balanced 10 % that SimCLR drew (128,116 images).",
    ),
}
"""The published lists, with the sizes and checksums that TFDS records."""


@dataclass(frozen=True, slots=True)
class SubsetList:
    """The training images of a subset.

    Attributes
    ----------
    names : dict of str to None
        File names, in the order of the list.
    origin : (str, int)
        Base name and size of the list.
    description : str
        A sentence about the subset.
    states : FileStates
        State of the file before it was read; empty for the cache, whose checksum is known.
    """

    names: dict[str, None]
    origin: tuple[str, int]
    description: str
    states: FileStates


def find_subset_list(
    config: str, given: SourcePath | None, manual_dir: SourcePath, *, optional: bool = False
) -> SubsetList:
    """Read the list of a subset.

    Parameters
    ----------
    config : {"1pct", "10pct"}
    given : Path or ObjectPath, optional
        Path of the list. By default ``1percent.txt`` or ``10percent.txt`` in `manual_dir`, else
        in the user's cache, else from the network. A downloaded list must have the published
        checksum, and is kept in the cache.
    manual_dir : Path or ObjectPath
        Folder of the archives.
    optional : bool, default False
        Use a short timeout for the network.

    Raises
    ------
    SourceError
        If the list cannot be found or downloaded, is empty, or has a name twice.
    """
    published = SUBSETS[config]
    beside = manual_dir / published.file_name
    states = NO_FILES
    path = given or (beside if beside.exists() else None)
    if path is not None:
        data, state = _read(path)
        buckets = path.buckets if isinstance(path, ObjectPath) else None
        states = FileStates.known([(str(path), state)], buckets)
    else:
        path = kept = cache_dir() / published.file_name
        timeout = _OPTIONAL_TIMEOUT_SECONDS if optional else _TIMEOUT_SECONDS
        data = _cached(kept, published, manual_dir, timeout)
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: must be a list of file names in UTF-8: {error}") from None
    listed = [line for line in lines if line]
    names = dict.fromkeys(listed)
    if not names:
        raise SourceError(f"{path}: lists no file names; expected one a line")
    if len(names) < len(listed):
        raise SourceError(f"{path}: lists {len(listed) - len(names)} names more than once")
    description = listed_in(path.name, len(names))
    if _has_checksum(data, published):
        description = published.description
    return SubsetList(names, (path.name, len(data)), description, states)


def listed_in(file_name: str, n_images: int) -> str:
    """Describe a subset by the name of its list, which is not the published one."""
    return f"The training images are the {n_images:,} that {file_name} lists."


def cache_dir() -> Path:
    """Return the folder for downloads, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return as_path(base) / "arraystore"


def _read(path: SourcePath) -> tuple[bytes, FileState]:
    try:
        if isinstance(path, ObjectPath):
            stored = path.open_raw()
            return stored.readall(), stored.state
        with path.open("rb") as file:
            state = state_of(file.fileno())
            return file.read(), state
    except FileNotFoundError:
        raise SourceError(f"{path}: the subset list does not exist") from None
    except IsADirectoryError:
        raise SourceError(f"{path}: is a folder, expected a subset list") from None


def _cached(path: Path, published: _Published, manual_dir: SourcePath, timeout: int) -> bytes:
    if path.exists():
        data = path.read_bytes()
        if _has_checksum(data, published):
            return data
    data = _download(published, manual_dir, timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        import tempfile

        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError:
        # If the cache cannot be written, the next conversion downloads the list again.
        pass
    return data


def _download(published: _Published, manual_dir: SourcePath, timeout: int) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    url = f"{_BASE_URL}/{published.file_name}"
    remedy = (
        f"put the file into {manual_dir}, or name it with subset_list (--subset-list); "
        f"it is published at {url}"
    )
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            data: bytes = reply.read(2 * published.nbytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else repr(error)
        raise SourceError(
            f"{published.file_name}: cannot be downloaded ({reason}); {remedy}"
        ) from None
    if not _has_checksum(data, published):
        raise SourceError(
            f"{published.file_name}: the download from {url} has sha256 "
            f"{hashlib.sha256(data).hexdigest()}, expected {published.sha256}; {remedy}"
        )
    return data


def _has_checksum(data: bytes, published: _Published) -> bool:
    return hashlib.sha256(data).hexdigest() == published.sha256
