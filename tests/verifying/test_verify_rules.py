"""Rules of docs/format.md that readers do not need: `verify` reports each that is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore.errors import StorageError
from tests.reading.test_damaged_stores import edited, rewrite_column, set_attribute
from tests.support import SUFFIXES, picture, write_store
from tests.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

named = pytest.mark.parametrize


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    images = [picture(seed=i) for i in range(4)]
    return write_store(
        tmp_path / f"a{request.param}", list("abcd"), [0, 1, 0, 1], images, classes=["x", "y"]
    )


def assert_reported(path: Path, *facts: object) -> None:
    lines = [str(problem) for problem in arraystore.verify(path).problems]
    assert any(all(str(fact) in line for fact in facts) for line in lines), lines


@named(
    ("group", "name", "value", "facts"),
    [
        ("", "dataset_name", "\0", ("'dataset_name'", "must not be empty")),
        ("", "features", "[1]", ("'features'", "must be a JSON dict")),
        ("", "features", "{", ("'features'", "must be JSON")),
        ("", "partial", 5, ("'partial'", "must be a boolean")),
        ("", "sources", json.dumps([{"name": "a", "nbytes": -1}]), ("'sources'", "0 or more")),
        ("", "skipped", json.dumps([{"split": "train"}]), ("'skipped'", "'reason'")),
        ("", "reencoded", "[1]", ("'reencoded'", "must hold file names")),
        ("train", "seed", 2**63 - 1, ("must be in the order 'shuffled' of seed",)),
    ],
)
def test_wrong_attribute_is_reported(
    store: Path, group: str, name: str, value: Any, facts: tuple[object, ...]
) -> None:
    if value == "\0" and store.suffix == ".zarr":
        value = ""
    set_attribute(store, group, name, value)
    assert_reported(store, *facts)


def test_missing_features_are_reported(store: Path) -> None:
    with edited(store) as root:
        del root.attrs["features"]
    assert_reported(store, "'features' is missing")


def test_seed_of_an_order_without_seed_is_reported(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.h5", ["a"], [0], [picture()], classes="x", order="source")
    set_attribute(path, "train", "seed", 4)
    assert_reported(path, "'seed' must be 0 in the order 'source'")


@named(
    ("classes", "fact"),
    [
        (["x", "x"], "must be the id of one class, but 2 classes have it"),
        (["x", ""], "class 1 cannot have the id"),
    ],
)
@named("suffix", SUFFIXES)
def test_repeated_or_empty_class_ids_are_reported(
    tmp_path: Path, suffix: str, classes: list[str], fact: str
) -> None:
    path = write_store(tmp_path / f"a{suffix}", ["a"], [0], [picture()], classes=classes)
    assert_reported(path, "label_name", fact)


@named("store", [".zarr"], indirect=True)
def test_zarr_chunks_of_another_length_are_reported(store: Path) -> None:
    for name in ("label", "file_name"):
        with edited(store) as root:
            values = root[f"train/{name}"][:]
            del root[f"train/{name}"]
            root.create_array(f"train/{name}", data=values, chunks=(2,))
        assert_reported(store, f"train/{name}")
    rewrite_column(store, "train/image_width", lambda values: values)
    document = store / "train/image_width/zarr.json"
    document.write_text(document.read_text().replace("65536", "65535"))
    assert_reported(store, "train/image_width", "must have chunks of 65536 rows, got 65535")


@named("store", [".h5"], indirect=True)
@named(
    ("options", "fact"),
    [
        ({"chunks": (2,), "shuffle": True, "compression": "gzip"}, "must have chunks of 4 rows"),
        ({"chunks": (4,), "compression": "gzip"}, "must have the filters [2, 1]"),
        ({}, "must have chunks of 4 rows, got None"),
    ],
)
def test_hdf5_layout_of_columns_is_reported(
    store: Path, options: dict[str, Any], fact: str
) -> None:
    with h5py.File(store, "r+") as file:
        values = file["train/image_width"][:]
        del file["train/image_width"]
        file.create_dataset("train/image_width", data=values, **options)
    assert_reported(store, "train/image_width", fact)


# Attributes that are not read


@named("name", ["format", "format_version", "dataset_name", "splits"])
@named("store", [".h5"], indirect=True)
def test_variable_length_text_raises_with_a_remedy(store: Path, name: str) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs[name] = ["train"] if name == "splits" else "arraystore"
        if name == "splits":
            file.attrs.create(name, ["train"], dtype=h5py.string_dtype())
    with pytest.raises(arraystore.FormatError) as caught:
        _ = arraystore.open(store).info
    for fact in (f"'{name}'", "got variable-length text", "h5py.string_dtype('utf-8', n)"):
        assert fact in str(caught.value)


@named("store", [".h5"], indirect=True)
def test_remedy_for_variable_length_text_works(store: Path) -> None:
    expected = arraystore.open(store).info
    with h5py.File(store, "r+") as file:
        for node in (file, file["train"]):
            for name, value in list(node.attrs.items()):
                if isinstance(value, np.bytes_):
                    text = value.decode()
                    n = max(2, len(text.encode()))
                    node.attrs[name] = text  # as h5py writes it by default
                    node.attrs.create(name, text.encode(), dtype=h5py.string_dtype("utf-8", n))
    assert arraystore.open(store).info == expected
    assert arraystore.verify(store).ok


@named("store", [".h5"], indirect=True)
def test_copy_reports_what_it_leaves_out(store: Path, tmp_path: Path) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs["by"] = "text of variable length"
        file.attrs["nothing"] = h5py.Empty("i4")
        file["soft"] = h5py.SoftLink("/train")
        file["mask"] = np.zeros(9, np.uint8)
        file["kind"] = np.dtype("i4")
    found = arraystore.copy(store, tmp_path / "b.zarr").left_out
    assert sorted(found) == ["@by", "@nothing", "kind", "mask", "soft"]


@named("store", [".zarr"], indirect=True)
@named(("group", "name"), [("train", "seed"), ("", "theirs")])
def test_integers_too_large_for_hdf5_are_refused_or_left_out(
    store: Path, group: str, name: str, tmp_path: Path
) -> None:
    set_attribute(store, group, name, 10**30)
    if name == "seed":
        with pytest.raises(arraystore.FormatError, match="'seed' must be in range"):
            arraystore.copy(store, tmp_path / "b.h5")
    else:
        assert arraystore.copy(store, tmp_path / "b.h5").left_out == ("@theirs",)


# Arrays that only a listing shows


def add_arrays(path: Path) -> None:
    """Add a group with arrays to a Zarr store, and drop the consolidated metadata."""
    with edited(path) as root:
        group = root.create_group("theirs")
        group.create_array("matrix", shape=(2, 2), dtype="f4")
        array = group.create_array(
            "column",
            shape=(4,),
            dtype="f8",
            chunks=(4,),
            compressors=[zarr.codecs.ZstdCodec(level=3), zarr.codecs.Crc32cCodec()],
            dimension_names=["sample"],
        )
        array[:] = np.arange(4.0)


@named("store", [".zarr"], indirect=True)
@named("place", ["disk", "bucket"])
def test_arrays_without_consolidated_metadata_are_copied(
    store: Path, place: str, tmp_path: Path
) -> None:
    from obstore.store import MemoryStore

    add_arrays(store)
    source: Any = store
    if place == "bucket":
        bucket = MemoryStore()
        for file in store.rglob("*"):
            if file.is_file():
                bucket.put(f"p/a.zarr/{file.relative_to(store)}", file.read_bytes())
        source = (bucket, "p/a.zarr")
    report = arraystore.copy(source, tmp_path / "b.h5")
    assert report.left_out == ("theirs/matrix",)
    with h5py.File(tmp_path / "b.h5") as copied:
        assert copied["theirs/column"][:].tolist() == [0, 1, 2, 3]


@named("store", [".zarr"], indirect=True)
def test_copy_from_a_web_server_needs_consolidated_metadata(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.zarr"
    with WebServer() as web:
        web.put(store, "whole.zarr")
        add_arrays(store)
        web.put(store, "unlisted.zarr")
        assert arraystore.copy(f"{web.url}/whole.zarr", target).left_out == ()
        with pytest.raises(StorageError, match=r"no consolidated metadata.*; download the store"):
            arraystore.copy(f"{web.url}/unlisted.zarr", target, overwrite=True)
        # Nothing else needs a listing.
        assert len(arraystore.open(f"{web.url}/unlisted.zarr")["train"][:].image) == 4
        assert arraystore.verify(f"{web.url}/unlisted.zarr").ok
    assert arraystore.verify(target).ok
    assert not list(tmp_path.glob(".*.partial"))
