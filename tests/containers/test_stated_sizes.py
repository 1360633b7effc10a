"""Stated sizes of data that is not stored: refused before memory or disk space is allocated."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import arraystore
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.errors import ArrayStoreError
from tests.containers.test_hostile_zarr import memory_below
from tests.reading.test_damaged_stores import edit_json, refused
from tests.soak import stated_sizes
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

named = pytest.mark.parametrize


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    images = [picture(seed=i) for i in range(6)]
    labels = [0, 1, 0, 1, 0, 1]
    return write_store(tmp_path / f"a{request.param}", list("abcdef"), labels, images, classes="xy")


def state(path: Path, attribute: str, value: int, dimension: str | None = None) -> None:
    """Change an attribute of train, and in Zarr the length of all arrays over a dimension."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file["train"].attrs[attribute] = value
        return

    def change(root: dict[str, Any]) -> None:
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["train"]["attributes"][attribute] = value
        for node in nodes.values():
            if dimension in (node.get("dimension_names") or [""]):
                node["shape"] = [value]

    edit_json(path / "zarr.json", change)


@named("n", [4 * 10**7, 4 * 10**8, 2**40, 2**63 - 1])
@named(
    "use",
    [
        lambda train: train.sample(3, seed=1),
        lambda train: list(train.batches(2, seed=1)),
        lambda train: train - train.where(label=1),
        lambda train: train.image_bytes[0],
        lambda train: train[:],
    ],
    ids=["sample", "batches", "difference", "image", "all"],
)
def test_number_of_samples_that_are_not_stored_raises(
    store: Path, n: int, use: Callable[[Any], object]
) -> None:
    state(store, "num_samples", n)
    with memory_below(2**24), refused(f"{store}/train/image_nbytes", f"have {n} values", "got 6"):
        use(arraystore.open(store)["train"])


@named("n", [4 * 10**7, 2**33, 2**62])
@named("store", [".zarr"], indirect=True)
def test_columns_with_unstored_chunks_raise(store: Path, n: int) -> None:
    state(store, "num_samples", n, "sample")
    with memory_below(2**24), refused(f"{store}/train/image_nbytes", "chunks"):
        arraystore.open(store)["train"].sample(3, seed=1)


SAMPLED_FROM_A_BUCKET = """
import sys
from pathlib import Path
import arraystore
from obstore.store import LocalStore

try:
    arraystore.open((LocalStore(sys.argv[1]), "a.zarr"))["train"].sample(1, seed=1)
except arraystore.FormatError as error:
    print(error)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@named("n", [4 * 10**7, 2**33])
def test_columns_with_unstored_chunks_in_a_bucket_raise(n: int, tmp_path: Path) -> None:
    images = [picture(seed=i) for i in range(2)]
    path = write_store(tmp_path / "a.zarr", list("ab"), [0, 0], images, classes="x")
    state(path, "num_samples", n, "sample")
    # Not traced here: CPython before 3.13.2 crashes when tracing stops while obstore's threads
    # free memory (gh-128679).
    code = [sys.executable, "-c", SAMPLED_FROM_A_BUCKET, str(tmp_path)]
    message, kibibytes = subprocess.check_output(code, text=True).splitlines()
    assert "train/image_nbytes" in message
    assert "chunks" in message
    assert int(kibibytes) * 2**10 < 2**28 < 8 * n


@named("n", [2**36, 2**40])
def test_images_longer_than_the_payload_raise(store: Path, n: int, tmp_path: Path) -> None:
    if store.suffix == ".zarr":
        stated_sizes.one_image(n)(store)
    else:
        state(store, "num_bytes", n)
    with memory_below(2**25), pytest.raises(ArrayStoreError):
        arraystore.open(store)["train"].image_bytes[:]
    with memory_below(2**25), pytest.raises(ArrayStoreError):
        arraystore.copy(store, tmp_path / "b.zarr")
    assert sorted(file.name for file in tmp_path.iterdir()) == [store.name]


def test_dataset_that_ends_beyond_the_file_raises(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.h5", ["a"], [0], [picture()], classes="x")
    with h5py.File(path, "r+") as file:
        payload = file["train/image_payload"]
        n, place = len(payload), payload.id.get_offset()
    data = path.read_bytes()
    for old, new in ((n, 2**40),):
        data = data.replace(old.to_bytes(8, "little"), new.to_bytes(8, "little"))
    assert place < len(data)
    path.write_bytes(data)
    with memory_below(2**25), pytest.raises(ArrayStoreError):
        arraystore.open(path)["train"].image_bytes[:]


def test_sparse_selection_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text("{")
    with file.open("r+b") as sparse:
        sparse.truncate(2**40)
    with memory_below(2**25), refused(file, "is not a saved selection"):
        SavedSelection.load(file)


@named("depth", [65, 500, 5000])
@named("store", [".zarr"], indirect=True)
def test_deeply_nested_attributes_raise(store: Path, depth: int) -> None:
    text = "[" * depth + "]" * depth
    document = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(document.replace('"writer":', f'"deep": {text}, "writer":', 1))
    with refused(store, "must be JSON", "64 levels"):
        arraystore.open(store)


@named("name", ["features", "skipped", "reencoded"])
def test_deeply_nested_json_in_attribute_is_reported(store: Path, name: str) -> None:
    text = "[" * 100 + "]" * 100
    if store.suffix == ".zarr":
        edit_json(store / "zarr.json", lambda root: root["attributes"].update({name: text}))
    else:
        with h5py.File(store, "r+") as file:
            file.attrs[name] = np.bytes_(text.encode())
    report = arraystore.verify(store)
    assert any("64 levels" in str(problem) for problem in report.problems)


def test_enlarged_numbers_never_give_wrong_data() -> None:
    counts = stated_sizes.run(5, 8)
    assert counts.total() >= 6
    assert not [what for what in counts if "WRONG" in what]


def test_every_number_of_a_store_is_enlarged() -> None:
    names = json.dumps([name for name, _, _ in stated_sizes.cases()])
    for word in ("num_samples", "num_bytes", "seed", "shape", "chunk_shape", "label_indptr"):
        assert word in names
