"""Groups and folders nested thousands of levels deep: refused or removed at little cost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h5py
import pytest

import arraystore
from arraystore.schema import MAX_DEPTH
from arraystore.storage.folder_trees import remove_tree
from tests.reading.test_damaged_stores import (
    drop_consolidated_metadata,
    edit_json,
    everything,
    refused,
)
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from pathlib import Path

named = pytest.mark.parametrize
GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
DOCUMENT = b'{"attributes": {}, "zarr_format": 3, "node_type": "group"}'


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_store(
        tmp_path / f"a{request.param}", ["a", "b"], [0, 0], [picture(seed=1)] * 2, classes="x"
    )


def make_deep(folder: Path, depth: int, name: str = "deeper") -> None:
    """Make nested folders, each a Zarr group, deeper than the longest path."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        file = os.open("zarr.json", os.O_WRONLY | os.O_CREAT, dir_fd=inner)
        os.write(file, DOCUMENT)
        os.close(file)
        fd = inner
    os.close(fd)


def nest(path: Path, depth: int, *, consolidated: bool = True) -> None:
    """Add nested groups to a store."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            group = file["/"]
            for _ in range(depth):
                group = group.create_group("deeper")
        return
    make_deep(path, depth)
    if consolidated:
        nodes = {"/".join(["deeper"] * (n + 1)): GROUP for n in range(depth)}
        edit_json(
            path / "zarr.json", lambda root: root["consolidated_metadata"]["metadata"].update(nodes)
        )
    else:
        drop_consolidated_metadata(path)


in_each_way = named(
    ("store", "consolidated"),
    [(".zarr", True), (".zarr", False), (".h5", True)],  # HDF5 has no consolidated metadata
    indirect=["store"],
)


@in_each_way
@named("depth", [MAX_DEPTH + 1, 1100])
def test_copying_deep_groups_raises_and_leaves_nothing(
    store: Path, consolidated: bool, depth: int, tmp_path: Path
) -> None:
    nest(store, depth, consolidated=consolidated)
    expected = everything(store)
    (tmp_path / "out").mkdir()
    with refused(store, "levels deep"):
        arraystore.copy(store, tmp_path / "out" / f"b{store.suffix}")
    assert not list((tmp_path / "out").iterdir())
    assert everything(store) == expected
    if store.is_dir():
        remove_tree(store)


@named(
    ("store", "consolidated", "suffix"),
    [
        (".zarr", True, ".zarr"),
        (".zarr", False, ".h5"),
        (".h5", True, ".zarr"),
        (".h5", True, ".h5"),
    ],
    indirect=["store"],
)
def test_groups_up_to_the_limit_are_copied(
    store: Path, suffix: str, consolidated: bool, tmp_path: Path
) -> None:
    nest(store, MAX_DEPTH, consolidated=consolidated)
    copied = arraystore.copy(store, tmp_path / f"b{suffix}")
    assert copied.left_out == ()
    tree = arraystore.open(tmp_path / f"b{suffix}").opened[1].tree()
    assert "/".join(["deeper"] * MAX_DEPTH) in tree.groups


def test_copying_too_many_groups_raises(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arraystore.containers.protocol.MAX_NODES", 20)
    monkeypatch.setattr("arraystore.containers.hdf5.links.MAX_NODES", 20)
    for number in range(20):
        if store.is_dir():
            (store / f"g{number}").mkdir()
            (store / f"g{number}/zarr.json").write_bytes(DOCUMENT)
        else:
            with h5py.File(store, "r+") as file:
                file.create_group(f"g{number}")
    with refused(store, "has more than 20 groups and arrays"):
        arraystore.copy(store, tmp_path / "b.h5")


@named("store", [".h5"], indirect=True)  # what is removed is a folder in either case
def test_workspace_with_deep_folders_is_removed(store: Path, tmp_path: Path) -> None:
    work = tmp_path / ".b.zarr.partial"
    (work / "store").mkdir(parents=True)
    make_deep(work / "store", 1100)
    arraystore.copy(store, tmp_path / "b.zarr")
    assert not work.exists()


@named("store", [".zarr"], indirect=True)
def test_deep_store_is_overwritten(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.zarr"
    arraystore.copy(store, target)
    make_deep(target, 1100)
    arraystore.copy(store, target, overwrite=True)
    assert everything(target) == everything(store)


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/link").symlink_to(outside)
    (tmp_path / "tree/a/b/link").symlink_to(outside / "kept")
    (tmp_path / "tree/link").symlink_to(outside)
    make_deep(tmp_path / "tree/a/b", 1100, "x" * 200)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert (outside / "kept").exists()
