"""Icechunk repositories in a real bucket, with virtual chunks in it: signed requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from arraystore.integrations.references import export_references
from arraystore.storage.location import Location
from tests.cloud.servers import ACCESS_KEY, BUCKET, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cloud.proxy import Proxy
    from tests.cloud.servers import Server


@pytest.fixture
def rectilinear() -> Iterator[None]:
    import zarr

    if zarr.config.get("array.rectilinear_chunks", None) is None:
        pytest.skip("this zarr-python does not read chunks of different sizes")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield


def opened(key: str, proxy: Proxy) -> Any:
    """Open the repository at a key with zarr-python."""
    import zarr

    icechunk = pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    storage = icechunk.s3_storage(
        bucket=BUCKET,
        prefix=key,
        region="us-east-1",
        endpoint_url=proxy.endpoint,
        allow_http=True,
        force_path_style=True,
        **keys,
    )
    prefixes = icechunk.Repository.fetch_config(storage).virtual_chunk_containers
    credentials = icechunk.s3_credentials(**keys)
    allowed = icechunk.containers_credentials(dict.fromkeys(prefixes, credentials))
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)
    return zarr.open_group(repository.readonly_session("main").store, mode="r")["train"]


@pytest.mark.usefixtures("rectilinear")
def test_images_of_a_store_and_of_its_source(
    start: Callable[[str], Server], path: Path, tmp_path: Path
) -> None:
    server = start("s3")
    server.upload(path, f"virtual/{path.name}")
    expected = arraystore.open(path)["train"]
    photos = tmp_path / "photos" / "train"
    for name, data in zip(expected.file_name, expected.image_bytes[:], strict=True):
        (photos / "class").mkdir(parents=True, exist_ok=True)
        (photos / "class" / name).write_bytes(data)
    server.upload(photos, "virtual/photos/train")
    with server.behind() as proxy:
        address, options = server.at("virtual", proxy.endpoint)
        arraystore.convert(
            *(f"folder:{address}/photos", tmp_path / f"in-place{path.suffix}"),
            source_options=options,
            copy_images=False,
            sync=False,
        )
        in_place: Any = {"storage_options": options, "allow_references": True}
        stores = {
            "store": arraystore.open(f"{address}/{path.name}", storage_options=options),
            "source": arraystore.open(tmp_path / f"in-place{path.suffix}", **in_place),
        }
        for name, store in stores.items():
            key = f"virtual/{name}{path.suffix}.icechunk"
            target = Location.parse(f"s3://{BUCKET}/{key}", options)
            export_references({"train": store["train"]}, target)
            train = opened(key, proxy)
            images = store["train"].image_bytes[:]
            bounds = np.cumsum([0, *map(len, images)]).tolist()
            assert train["image_payload"][:10].tobytes() == images[0][:10]  # and the manifest
            for i in (3, 17, 5):
                proxy.reset()
                assert train["image_payload"][bounds[i] : bounds[i + 1]].tobytes() == images[i]
                assert proxy.nbytes == len(images[i])
                assert len(proxy.requests) == 1
