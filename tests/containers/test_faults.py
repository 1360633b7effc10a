"""Kinds of faults that `ContainerReader.faults` yields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from arraystore.containers import open_local
from arraystore.errors import FormatError, ShortReadError
from tests.reading.test_damaged_stores import edit_json
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD = "train/image_payload"


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    images = [picture(seed=i) for i in range(2)]
    path = tmp_path / f"a{request.param}"
    return write_store(path, ["a", "b"], [0, 1], images, classes=["x", "y"])


only_zarr = pytest.mark.parametrize("store", [".zarr"], indirect=True)
only_hdf5 = pytest.mark.parametrize("store", [".h5"], indirect=True)


def kinds(store: Path, path: str) -> list[tuple[str, str]]:
    _, container = open_local(store)
    return [(fault.key, fault.kind) for fault in container.faults(path)]


def test_sound_store_has_no_faults(store: Path) -> None:
    assert [kinds(store, path) for path in ("", "train/label", PAYLOAD)] == [[], [], []]


@only_zarr
def test_kinds_of_shard_faults(store: Path) -> None:
    shard = store / PAYLOAD / "c/0"
    data = shard.read_bytes()
    for damaged, kind in (
        (data[:-1], "size"),
        (data + b"x", "size"),
        (data[:-1] + bytes([data[-1] ^ 1]), "content"),
    ):
        shard.write_bytes(damaged)
        assert kinds(store, PAYLOAD) == [(f"{PAYLOAD}/c/0", kind)]
    shard.unlink()
    assert kinds(store, PAYLOAD) == [(f"{PAYLOAD}/c/0", "missing")]


@only_zarr
def test_kinds_of_document_faults(store: Path) -> None:
    document = store / "train/label/zarr.json"
    edit_json(document, lambda node: node.update(attributes={"a": 1}))
    assert kinds(store, "") == [("train/label/zarr.json", "content")]
    document.write_text("[")
    assert kinds(store, "") == [("train/label/zarr.json", "content")]
    document.unlink()
    assert kinds(store, "") == [("train/label/zarr.json", "missing")]


@only_zarr
def test_kind_of_zarr_layout_fault(store: Path) -> None:
    def change(root: dict[str, object]) -> None:
        text = json.dumps(root).replace('"chunk_shape": [65536]', '"chunk_shape": [100]')
        root.update(json.loads(text))

    edit_json(store / "zarr.json", change)
    assert kinds(store, "train/label") == [("train/label", "layout")]


@only_hdf5
def test_kind_of_hdf5_layout_fault(store: Path) -> None:
    with h5py.File(store, "r+") as file:
        del file["train/label"]
        file.create_dataset("train/label", data=np.array([0, 1]), chunks=(1,))
    assert set(kinds(store, "train/label")) == {("train/label", "layout")}


@only_hdf5
def test_truncated_file_raises_short_read_error(store: Path) -> None:
    data = store.read_bytes()
    store.write_bytes(data[: len(data) // 2])
    _, container = open_local(store)
    with pytest.raises(ShortReadError, match=r"a\.h5: HDF5 cannot read it: .*truncated"):
        container.attributes()
    store.write_bytes(data[:8] + bytes(len(data) - 8))
    with pytest.raises(FormatError, match="HDF5 cannot read it"):
        open_local(store)[1].attributes()
