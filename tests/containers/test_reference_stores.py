"""Stores that earlier releases wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

import arraystore

STORES = sorted((Path(__file__).parents[1] / "data").glob("v*/polygons.*"))
DIGESTS = {
    "v1.0": {
        "test": "49ff9c9d5c46172b5efcfd633bd7bb898d9e889b13b6ae82d06780836db1237f",
        "train": "99bc6d5114aa1948dad64f302f9f5ea92ee2bfe4263639879ceefda2553a4798",
    },
    "v1.1": {
        "test": "af3f3bdbd7e0478bc954c68018afda06ebc6344eafe6e90e9010c90fd58c0929",
        "train": "c55ce3efefc937029d0667b1c44bde8b9d427297b5594b99b596f08e6acca3d0",
    },
}
DIGESTS["v1.2"] = DIGESTS["v1.1"]
DIGESTS["v2.0"] = DIGESTS["v1.1"] | {
    "train": "1882f3de523f9b69101842dc0389bd9ab194437f2548adc58eeef6d3132803b8"
}
"""Content digest of each split of the stores of each version."""


@pytest.mark.parametrize("path", STORES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_store_of_each_format_version_is_read(path: Path) -> None:
    store = arraystore.open(path, checksum="always")
    assert store.info.format_version == path.parent.name.removeprefix("v")
    names = {store.label_names[label] for label in store["train"].label}
    if path.parent.name == "v1.0":
        assert store.label_names == tuple(sorted(names)) == ("four corners", "three corners")
    else:
        assert names == {"n01443537", "n02012849"}
        assert set(store["train"].where(is_a="bird").label) == {store.str2int("n02012849")}
    if path.parent.name == "v1.2":
        columns = store["train"].columns
        assert columns["features"][5].tolist() == [2.5, 2.625, 2.75, 2.875]
        assert [len(values) for values in columns["corners"][:]] == [3, 4, 3, 4, 3, 4]
        assert columns["caption"][-1] == "é5"
    if path.parent.name == "v2.0":
        check_parts(store)
    for name, digest in DIGESTS[path.parent.name].items():
        split = store[name]
        assert store.info.splits[name].content_digest == digest
        assert all(image.shape == (30, 40, 3) for image in split.image[:])
        assert [len(image) for image in split.image_bytes[:]] == split.image_nbytes.tolist()


def check_parts(store: arraystore.Store) -> None:
    """Check a split of two parts: the store of version 1.2, and three samples; one replaces one."""
    train = store["train"]
    assert store.info.parts == {"train": ("train", "train.1")}
    assert train.file_name[4:].tolist() == [
        *("n02012849/0.jpg", "n01443537/3.jpg", "n02012849/1.jpg", "n02012849/3.jpg")
    ]
    columns = train.columns
    assert list(columns) == ["caption", "corners", "features", "score", "tags"]
    assert columns["caption"][[1, 6]].tolist() == ["é1", "é7"]
    assert columns["features"][:, 0].tolist() == [0, 0.5, 1.5, 2, 2.5, 3, 3.5, 4]
    assert [len(values) for values in columns["corners"][:]] == [3, 4, 4, 3, 4, 3, 4, 4]
    assert columns["score"][:].tolist() == [i / 4 for i in range(8)]
    assert [values.tolist() for values in columns["tags"][:]] == [["a"] * (i % 3) for i in range(8)]
    assert columns["score"].attributes["description"] == "of no model"
    assert arraystore.verify(store.address).problems == ()


@pytest.mark.parametrize("version", arraystore.schema.NEWEST_VERSIONS)
def test_stores_of_this_version_exist(version: tuple[int, int]) -> None:
    folder = "v{}.{}".format(*version)
    names = {path.name for path in STORES if path.parent.name == folder}
    assert names == {"polygons.zarr", "polygons.h5"}
