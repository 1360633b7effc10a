"""HDF5 files that refer to other files, need foreign code, or state false sizes: all refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import arraystore
from arraystore.errors import ArrayStoreError, FormatError
from arraystore.schema import MAX_NBYTES
from tests.reading.test_damaged_stores import everything, refused
from tests.support import picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAYLOAD = "train/image_payload"
NODES = ["label_name", "train", PAYLOAD, "train/image_start", "train/label", "train/file_name"]

named = pytest.mark.parametrize
every_node = named("node", NODES)
every_array = named("node", [node for node in NODES if node != "train"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a small store to be manipulated."""
    images = [picture(seed=i) for i in range(4)]
    return write_store(tmp_path / "a.h5", list("abcd"), [0, 1, 0, 1], images, classes=["x", "y"])


def use(path: Path) -> None:
    """Read all of train, and the class names."""
    store = arraystore.open(path, checksum="always")
    everything(path)
    _ = store.info, store["train"][:]


def replaced(path: Path, node: str, make: Callable[[Any, str], object]) -> None:
    """Replace a node by one that ``make(group, name)`` creates."""
    with h5py.File(path, "r+") as file:
        parent, _, name = node.rpartition("/")
        group = file[parent or "/"]
        group.move(name, f"moved-{name}")
        make(group, name)


def test_unchanged_store_is_read(store: Path) -> None:
    use(store)


# Links


@every_node
def test_external_links_are_not_followed(store: Path, node: str, tmp_path: Path) -> None:
    shutil.copy(store, tmp_path / "elsewhere.h5")
    replaced(
        store, node, lambda g, n: g.__setitem__(n, h5py.ExternalLink("elsewhere.h5", f"/{node}"))
    )
    (tmp_path / "elsewhere.h5").chmod(0)
    with refused(f"{store}/{node}", "it is not followed"):
        use(store)


@every_node
def test_external_link_opens_no_file(
    store: Path, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(store, tmp_path / "elsewhere.h5")  # whole, and where libhdf5 would look for it
    monkeypatch.chdir(tmp_path)
    replaced(
        store, node, lambda g, n: g.__setitem__(n, h5py.ExternalLink("elsewhere.h5", f"/{node}"))
    )
    with h5py.File(store) as file:
        assert node in file  # h5py follows it
    with refused(f"{store}/{node}", "it is not followed"):
        use(store)


@every_node
@named("target", ["train/moved-label", "/", "nowhere", "../../x"])
def test_soft_links_are_not_followed(store: Path, node: str, target: str) -> None:
    replaced(store, node, lambda g, n: g.__setitem__(n, h5py.SoftLink(target)))
    with refused(f"{store}/{node}", "it is not followed"):
        use(store)


def test_ring_of_hard_links_ends(store: Path, tmp_path: Path) -> None:
    with h5py.File(store, "r+") as file:
        file["train/again"] = file["/"]
    use(store)
    arraystore.copy(store, tmp_path / "b.zarr")
    assert everything(tmp_path / "b.zarr") == everything(store)


# Values in other files


@every_array
def test_external_storage_is_not_read(store: Path, node: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(2**16))

    def make(group: Any, name: str) -> None:
        old = group[f"moved-{name}"]
        group.create_dataset(
            name, old.shape, old.dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )

    replaced(store, node, make)
    with refused(f"{store}/{node}", "has its values in other files"):
        use(store)


@every_array
def test_virtual_datasets_are_not_read(store: Path, node: str, tmp_path: Path) -> None:
    shutil.copy(store, tmp_path / "elsewhere.h5")

    def make(group: Any, name: str) -> None:
        old = group[f"moved-{name}"]
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[:] = h5py.VirtualSource(tmp_path / "elsewhere.h5", node, old.shape, old.dtype)
        group.create_virtual_dataset(name, layout)

    replaced(store, node, make)
    with refused(f"{store}/{node}", "has its values in other files"):
        use(store)


# Filters


@every_array
@named("number", [32000, 32001, 32004, 32015, 300, 500])
def test_unknown_filters_raise(store: Path, node: str, number: int) -> None:
    def make(group: Any, name: str) -> None:
        from h5py import h5d, h5p, h5s

        properties = h5p.create(h5p.DATASET_CREATE)
        old = group[f"moved-{name}"]
        properties.set_chunk(old.shape)
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
        h5d.create(
            group.id, name.encode(), old.id.get_type(), h5s.create_simple(old.shape), properties
        )

    replaced(store, node, make)
    with refused(f"{store}/{node}", "filters"):
        use(store)


def test_filter_plugins_are_not_loaded(store: Path) -> None:
    def make(group: Any, name: str) -> None:
        values = group[f"moved-{name}"][:]
        group.create_dataset(name, data=values, chunks=values.shape, compression="lzf")

    replaced(store, "train/label", make)
    with refused(f"{store}/train/label", "numbers [32000]"):
        use(store)


@named("options", [{"fletcher32": True}, {"compression": "gzip"}, {"shuffle": True}, {}], ids=str)
def test_filters_of_hdf5_are_read(store: Path, options: dict[str, Any]) -> None:
    expected = everything(store)

    def make(group: Any, name: str) -> None:
        values = group[f"moved-{name}"][:]
        group.create_dataset(name, data=values, chunks=values.shape, **options)

    replaced(store, "train/label", make)
    assert everything(store) == expected


def test_deflate_twice_raises(store: Path) -> None:
    def make(group: Any, name: str) -> None:
        from h5py import h5d, h5p, h5s

        properties = h5p.create(h5p.DATASET_CREATE)
        old = group[f"moved-{name}"]
        properties.set_chunk(old.shape)
        properties.set_deflate(9)
        properties.set_deflate(9)
        h5d.create(
            group.id, name.encode(), old.id.get_type(), h5s.create_simple(old.shape), properties
        )

    replaced(store, "train/label", make)
    with refused(f"{store}/train/label", "each once"):
        use(store)


# Stated sizes


@named("length", [2**20, 2**34, 2**40, 2**60])
@named("options", [{}, {"compression": "gzip"}, {"chunks": (2**20,)}], ids=str)
@named("node", [PAYLOAD, "train/label", "train/file_name", "label_name"])
def test_arrays_without_storage_raise_without_memory(
    store: Path, node: str, length: int, options: dict[str, Any]
) -> None:
    def make(group: Any, name: str) -> None:
        group.create_dataset(name, (length,), group[f"moved-{name}"].dtype, **options)

    replaced(store, node, make)
    if node != "label_name":
        with h5py.File(store, "r+") as file:
            file["train"].attrs["num_bytes" if node == PAYLOAD else "num_samples"] = length
    with refused(store, kind=ArrayStoreError):
        use(store)


def test_column_with_missing_chunk_raises(store: Path) -> None:
    def make(group: Any, name: str) -> None:
        values = group[f"moved-{name}"][:]
        column = group.create_dataset(name, values.shape, values.dtype, chunks=(1,))
        column[1:] = values[1:]

    replaced(store, "train/label", make)
    with refused(f"{store}/train/label", "1 chunks of 4 are missing"):
        use(store)


def test_gzip_bomb_raises(store: Path) -> None:
    def make(group: Any, name: str) -> None:
        n = 2**26
        column = group.create_dataset(name, (n,), "i8", chunks=(n,), compression="gzip")
        column.id.write_direct_chunk((0,), b"x" * 2**10)

    replaced(store, "train/label", make)
    with refused(f"{store}/train/label", "chunks may have"):
        _ = arraystore.open(store).stored("train").columns["label"]


# Attributes


@named("group", ["", "train"])
def test_huge_attribute_raises(store: Path, group: str) -> None:
    with h5py.File(store, "r+", libver="latest") as file:
        file[group or "/"].attrs.create("huge", np.zeros(MAX_NBYTES + 1, np.uint8))
    with refused(store, "attribute 'huge'", MAX_NBYTES):
        use(store)


@named(
    "make",
    [
        lambda attrs: attrs.create("x", h5py.Empty("i4")),
        lambda attrs: attrs.create("x", np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])),
        lambda attrs: attrs.create("x", np.zeros((3, 4, 5))),
        lambda attrs: attrs.create("x", np.zeros(0)),
        lambda attrs: attrs.create("x", b"\xff\xfe"),
        lambda attrs: attrs.create("x", np.complex128(1j)),
        lambda attrs: attrs.create("x", "variable"),
        lambda attrs: attrs.create("x", ["a", "bc"], dtype=h5py.string_dtype()),
        lambda attrs: attrs.create("x", h5py.Reference(), dtype=h5py.ref_dtype),
        lambda attrs: attrs.create("x\x1b[2J", 1),
        lambda attrs: attrs.create("x" * 10_000, 1),
        lambda attrs: attrs.create("x", True),
        lambda attrs: h5py.h5a.create(
            attrs._id, b"x", h5py.h5t.STD_B8LE, h5py.h5s.create(h5py.h5s.SCALAR)
        ),
    ],
)  # fmt: skip
def test_odd_attributes_are_harmless(store: Path, make: Callable[[Any], object]) -> None:
    expected = everything(store)
    with h5py.File(store, "r+", libver="latest") as file:
        for group in (file, file["train"], file[PAYLOAD]):
            make(group.attrs)
    try:
        assert everything(store) == expected
        use(store)
    except FormatError as error:
        assert str(store) in str(error)  # noqa: PT017 - either will do


@named("name", ["splits", "format_version", "dataset_name", "skipped"])
@named("value", [h5py.Empty("S4"), np.zeros(5), np.zeros((2, 2), "S3"), np.float64("nan"), 2**62])
def test_attribute_of_wrong_type_raises(store: Path, name: str, value: Any) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs.create(name, value)
    with refused(store, f"'{name}'"):
        use(store)


# Copies write only below their target


@named("suffix", [".zarr", ".h5"])
@named("name", ["..", "../x", "a/../../x", "zarr.json", "a/zarr.json", "\x1b[2J", "a\nb"])
def test_names_do_not_lead_out_of_a_copy(
    store: Path, suffix: str, name: str, tmp_path: Path
) -> None:
    with h5py.File(store, "r+") as file:
        group = file["/"]
        for part in name.split("/"):
            group = group.require_group(part)
        group["more"] = np.arange(3)
    before = {file.name for file in tmp_path.iterdir()}
    (tmp_path / "out").mkdir()
    try:
        arraystore.copy(store, tmp_path / "out" / f"b{suffix}")
    except FormatError as error:
        assert str(error).isprintable()  # noqa: PT017 - either will do
        assert not list((tmp_path / "out").iterdir())
    assert {file.name for file in tmp_path.iterdir()} == before | {"out"}
    assert {file.name for file in (tmp_path / "out").iterdir()} <= {f"b{suffix}"}


@named(
    "value", [5, np.bytes_(b"abc"), np.arange(3), np.array([b"a", b"b"]), "text", h5py.Empty("i4")]
)
def test_wrong_dimension_list_does_not_end_the_process(
    store: Path, value: Any, tmp_path: Path
) -> None:
    with h5py.File(store, "r+") as file:
        file["train/theirs"] = np.arange(4)
        for name in ("theirs", "label"):
            file[f"train/{name}"].attrs.create("DIMENSION_LIST", value)
    with refused("train/theirs", "DIMENSION_LIST"):
        arraystore.copy(store, tmp_path / "b.zarr")
    use(store)
