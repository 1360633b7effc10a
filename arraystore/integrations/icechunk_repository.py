"""References in an Icechunk repository: each image is a virtual chunk."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np

from arraystore._arguments import need
from arraystore.containers.zarr.references import is_document
from arraystore.errors import SourceError, brief, escaped
from arraystore.storage.file_states import common_folder, is_address
from arraystore.storage.location import Location
from arraystore.writing.references import states_of_objects

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from arraystore.integrations.referenced_group import Chunks, Files, ReferencedGroup
    from arraystore.storage.objects.connection import S3Service

BRANCH: Final = "main"
_READ_ONLY: Final = "written on a disk, without the settings for safe commits in a bucket"
"""Why a repository is read-only; see `_config`."""

MANIFEST_CHUNKS: Final = 2**16
"""Virtual chunks in a manifest; the first image that is read of one takes about 1 MB."""


def write_icechunk(folder: Path, group: ReferencedGroup) -> None:
    """Write an Icechunk repository with one commit.

    The files of the images are in virtual chunk containers, one for each bucket, and for each
    top-level folder of a disk. Icechunk refuses files that are modified afterwards. The
    repository is read-only.

    Raises
    ------
    SourceError
        If icechunk is not installed or too old.
    ValueError
        If Icechunk cannot refer to a file.
    """
    what = f"{folder.name}: an Icechunk repository (Python 3.12 or newer)"
    icechunk: Any = need("icechunk", "icechunk", what)
    if not hasattr(icechunk.IcechunkStore, "set_virtual_refs_arr"):
        raise SourceError(f"{what} needs icechunk 2.1 or newer, got {icechunk.__version__}")
    files = [some for chunks in group.payloads.values() for some in chunks.files]
    urls = {path: url_of(path) for some in files for path in some.paths}
    config = _config(icechunk)
    for prefix, store in _containers(icechunk, files).items():
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    # It warns that commits from several processes would not be safe on a disk. This is one.
    icechunk.set_logs_filter("error")
    try:
        storage = icechunk.local_filesystem_storage(str(folder))
        repository = icechunk.Repository.create(storage, config=config)
        session = repository.writable_session(BRANCH)
        _set_objects(session.store, group.objects)
        for payload, chunks in group.payloads.items():
            _set_chunks(session.store, payload, chunks, urls)
        session.commit(f"references to {group.n_images:,} images")
        repository.set_status(
            icechunk.RepoStatus(
                icechunk.RepoAvailability.read_only, limited_availability_reason=_READ_ONLY
            )
        )
    finally:
        icechunk.set_logs_filter(None)


def _config(icechunk: Any) -> Any:
    """Return settings for reading from a bucket.

    By default those of the disk that a repository is created on are stored, also for the virtual
    chunks: several requests for an image, and none of them is tried again.
    """
    condition, dimension = icechunk.ManifestSplitCondition, icechunk.ManifestSplitDimCondition
    config = icechunk.RepositoryConfig.default()
    config.storage = icechunk.StorageSettings(
        concurrency=icechunk.StorageConcurrencySettings(
            max_concurrent_requests_for_object=18, ideal_concurrent_request_size=12 * 2**20
        ),
        retries=icechunk.StorageRetriesSettings(
            max_tries=10, initial_backoff_ms=100, max_backoff_ms=180_000
        ),
    )
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(
            {condition.AnyArray(): {dimension.Any(): MANIFEST_CHUNKS}}
        )
    )
    return config


def _set_objects(store: Any, objects: dict[str, bytes]) -> None:
    from zarr.buffer.cpu import Buffer

    from arraystore.storage.objects.event_loop import run

    # The document of an array before its chunks, and of a group before what is in it.
    keys = sorted(objects, key=lambda key: (not is_document(key), key.count("/")))

    async def set_all() -> None:
        for key in keys:
            await store.set(key, Buffer.from_bytes(objects[key]))

    run(set_all())


def _set_chunks(store: Any, payload: str, chunks: Chunks, urls: dict[str, str]) -> None:
    """Set the virtual chunks of a payload."""
    if not len(chunks):
        return
    places = [urls[path] for path in chunks.paths]
    failed = store.set_virtual_refs_arr(
        payload,
        (len(chunks),),
        [
            places[i] if is_stored else ""
            for i, is_stored in zip(chunks.file.tolist(), chunks.is_stored.tolist(), strict=True)
        ],
        np.where(chunks.is_stored, chunks.start, 0).astype(np.uint64),
        chunks.nbytes.astype(np.uint64),
        checksum=_last_change(chunks),
    )
    if failed:
        path = chunks.paths[int(chunks.file[failed[0][0]])]
        raise ValueError(escaped(f"{path}: Icechunk cannot refer to this file"))


def _last_change(chunks: Chunks) -> datetime | None:
    """Return the time after which no file has changed; None if it is not known of all."""
    states = [
        state
        for files in chunks.files
        for state in states_of_objects(files.handle, files.keys).values()
    ]
    if not all(state.seconds for state in states):
        return None
    return datetime.fromtimestamp(max(state.seconds for state in states) + 1, UTC)


def url_of(path: str) -> str:
    """Return a path or address as a URL whose reserved characters are escaped.

    Examples
    --------
    >>> url_of("/data/my photos/1#2.jpg"), url_of("s3a://bucket/50%.tar")
    ('file:///data/my%20photos/1%232.jpg', 's3://bucket/50%25.tar')
    """
    if not is_address(path):
        return f"file://{quote(os.fsencode(path))}"
    location = Location.parse(path)
    if location.kind == "s3":
        return f"s3://{location.bucket}/{quote(location.key)}"
    raise ValueError(
        escaped(
            f"{path}: an Icechunk repository can refer to files on a disk and in S3; write a .json "
            "file or a .parquet folder"
        )
    )


def _containers(icechunk: Any, files: Iterable[Files]) -> dict[str, Any]:
    """Return how files are reached, by the beginning of their URLs."""
    folders: dict[str, list[str]] = {}
    services: dict[str, S3Service] = {}
    for some in files:
        for path in some.paths:
            if not is_address(path):
                folders.setdefault(path.split("/")[1], []).append(path)
        for root in {"/".join(path.split("/", 3)[:3]) for path in some.paths if is_address(path)}:
            place = Location.parse(f"{root}/", some.handle.location.options)
            service, prefix = _service(place), url_of(str(place))
            if services.setdefault(prefix, service) != service:
                raise ValueError(
                    escaped(
                        f"{prefix}: is the address of buckets of several services; export the "
                        "stores one by one"
                    )
                )
    containers = {prefix: _remote(icechunk, service) for prefix, service in services.items()}
    for paths in folders.values():
        folder = plain_folder(paths)
        containers[f"file://{folder}/"] = icechunk.local_filesystem_store(folder)
    return containers


def plain_folder(paths: list[str]) -> str:
    """Return the folder that contains all files and has only characters that URLs have.

    Icechunk finds no container whose prefix has escaped characters.
    """
    parts = common_folder(paths).split("/")
    plain = [*takewhile(lambda part: quote(os.fsencode(part)) == part, parts)]
    if len(plain) < 2:  # Icechunk has no container for the root
        raise ValueError(
            escaped(
                f"{brief(paths[0])}: an Icechunk repository cannot refer to files in this folder, "
                "because of its name; rename it, or write a .json file or a .parquet folder"
            )
        )
    return "/".join(plain)


def _service(place: Location) -> S3Service:
    # It is imported only for stores in a bucket.
    from arraystore.storage.objects.connection import s3_service

    return s3_service(place)


def _remote(icechunk: Any, service: S3Service) -> Any:
    """Return how a bucket is reached, without credentials."""
    return icechunk.s3_store(
        region=service.region,
        endpoint_url=service.endpoint,
        allow_http=(service.endpoint or "").startswith("http://"),
        anonymous=service.is_anonymous,
        s3_compatible=service.endpoint is not None,
        force_path_style=service.has_path_style,
    )
