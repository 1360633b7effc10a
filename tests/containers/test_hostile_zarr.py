"""Zarr stores that state false sizes, or do not consist of files: refused at little cost."""

from __future__ import annotations

import json
import os
import struct
import sys
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
from numcodecs.zstd import Zstd

import arraystore
from arraystore.containers.zarr.column_codec import content_nbytes
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.errors import ArrayStoreError, FormatError, StorageError
from arraystore.indexing.selection import parse_split_string
from arraystore.schema import MAX_CHUNK_NBYTES, MAX_NAME_NBYTES, MAX_NBYTES, MAX_SPLITS
from arraystore.sources.sample_table import check_names
from tests.reading.test_damaged_stores import (
    codec_of_payload,
    drop_consolidated_metadata,
    edit_json,
    everything,
    payload_file,
    refused,
    set_attribute,
)
from tests.support import picture, write_folder, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAYLOAD = "train/image_payload"

named = pytest.mark.parametrize


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a small store to be manipulated."""
    images = [picture(seed=i) for i in range(4)]
    path = write_store(tmp_path / "a.zarr", list("abcd"), [0, 1, 0, 1], images, classes=["x", "y"])
    drop_consolidated_metadata(path)
    return path


@contextmanager
def memory_below(nbytes: int) -> Iterator[None]:
    """Expect that Python and NumPy allocate less memory than a limit."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def use(path: Path) -> None:
    """Read all of train, and the class names."""
    store = arraystore.open(path, checksum="always")
    everything(path)
    _ = store.info, store["train"][:]


def grid(node: dict[str, Any]) -> dict[str, Any]:
    configuration: dict[str, Any] = node["chunk_grid"]["configuration"]
    return configuration


# Stated sizes


@named(
    "change",
    [
        lambda node: node.update(shape=[2**62]),
        lambda node: node.update(shape=[2**63]),
        lambda node: node.update(shape=[10**400]),
        lambda node: grid(node).update(chunk_shape=[1]),
        lambda node: grid(node).update(chunk_shape=[2**62]),
        lambda node: grid(node).update(chunk_shape=[10**400]),
        lambda node: (node.update(shape=[2**50]), grid(node).update(chunk_shape=[1])),
    ],
)
@named("node", [PAYLOAD, "train/label", "train/file_name", "label_name"])
def test_impossible_numbers_raise_without_memory(
    store: Path, node: str, change: Callable[[dict[str, Any]], object]
) -> None:
    edit_json(store / node / "zarr.json", change)
    document = json.loads((store / node / "zarr.json").read_text())
    if document["shape"][0] < 2**63 and node != "label_name":
        name = "num_bytes" if node == PAYLOAD else "num_samples"
        set_attribute(store, "train", name, document["shape"][0])
    if node == PAYLOAD:
        edit_json(store / node / "zarr.json", lambda n: codec_of_payload(n).update(chunk_shape=[1]))
    with memory_below(2**28), refused(store, kind=ArrayStoreError):
        use(store)


@named("n_more", [2**20, 2**40])
def test_shard_of_countless_chunks_raises(store: Path, n_more: int) -> None:
    def change(node: dict[str, Any]) -> None:
        grid(node).update(chunk_shape=[2**17 * n_more])

    edit_json(store / PAYLOAD / "zarr.json", change)
    with memory_below(2**26), refused(f"{store}/{PAYLOAD}", kind=ArrayStoreError):
        use(store)


def rewritten_chunk(store: Path, column: str, frame: bytes) -> None:
    data = frame + struct.pack("<I", google_crc32c.value(frame))
    (store / "train" / column / "c" / "0").write_bytes(data)


BOMB = b"\x28\xb5\x2f\xfd\xe0"


@named("nbytes", [2**19 + 8, 2**30, 2**40, 2**63])
@named("column", ["label", "file_name"])
def test_chunk_of_wrong_stated_size_raises_without_memory(
    store: Path, column: str, nbytes: int
) -> None:
    rewritten_chunk(store, column, BOMB + struct.pack("<Q", nbytes) + bytes(20))
    with memory_below(2**26), refused(f"{store}/train/{column}/c/0", "cannot be decoded"):
        use(store)


@named(
    "frame",
    [b"", b"\x28\xb5\x2f\xfd", BOMB, BOMB + bytes(3), b"\x28\xb5\x2f\xfd\0\0\0\0", b"x" * 50],
)
@named("column", ["label", "file_name"])
def test_chunk_without_stated_size_raises(store: Path, column: str, frame: bytes) -> None:
    rewritten_chunk(store, column, frame)
    with refused(f"{store}/train/{column}/c/0", "cannot be decoded"):
        use(store)


@named("n", [0, 1, 2**16 - 1, 2**16 + 1, 2**32 - 1])
def test_wrong_number_of_texts_raises_without_memory(store: Path, n: int) -> None:
    rewritten_chunk(store, "file_name", Zstd().encode(struct.pack("<I", n) + bytes(100)))
    with memory_below(2**26), refused(f"{store}/train/file_name/c/0", f"got {n}"):
        use(store)


def test_zstd_bomb_raises(store: Path) -> None:
    rewritten_chunk(store, "file_name", Zstd(19).encode(bytes(MAX_CHUNK_NBYTES + 1)))
    with memory_below(2**26), refused(f"{store}/train/file_name/c/0", "at most"):
        use(store)


@named("nbytes", [0, 1, 255, 256, 257, 65535, 65536, 65791, 65792, 2**20])
def test_content_nbytes_equals_decoded_size(nbytes: int) -> None:
    assert content_nbytes(memoryview(Zstd().encode(bytes(nbytes) + b"x"))) == nbytes + 1


# Large documents and lists


def test_huge_document_is_not_read(store: Path) -> None:
    for document in (store / "train" / "zarr.json", store / "zarr.json"):
        with document.open("r+b") as file:
            file.truncate(2**40)
        with memory_below(2**24), refused(store, f"has {2**40} bytes"):
            use(store)


def test_huge_chunk_is_not_read(store: Path) -> None:
    with (store / "train/label/c/0").open("r+b") as file:
        file.truncate(2**40)
    with memory_below(2**24), refused(f"{store}/train/label/c/0", f"has {2**40} bytes"):
        use(store)


def test_message_about_huge_attribute_is_short(store: Path) -> None:
    def change(root: dict[str, Any]) -> None:
        root["attributes"]["description"] = ["x" * (MAX_NBYTES // 2)]

    edit_json(store / "zarr.json", change)
    with pytest.raises(FormatError) as caught:
        arraystore.open(store)
    assert len(str(caught.value)) < 1000


@named("name", ["splits", "selections"])
@named("n", [MAX_SPLITS + 1, 10**5])
def test_too_many_splits_raise(store: Path, name: str, n: int) -> None:
    names = [f"s{i}" for i in range(n)]
    value = names if name == "splits" else json.dumps({key: ["train"] for key in names})
    edit_json(store / "zarr.json", lambda root: root["attributes"].update({name: value}))
    with refused(store, f"'{name}'", f"got {n}"):
        arraystore.open(store)


def test_duplicate_split_raises(store: Path) -> None:
    set_attribute(store, "", "splits", ["train", "train"])
    with refused(store, "'splits'", "different names"):
        arraystore.open(store)


@named(
    "text", ["train" + " " * 200_000 + "!", "+".join(["train"] * 100_000), "train[" + "1" * 10**5]
)
def test_long_split_string_is_parsed_or_raises(text: str) -> None:
    try:
        assert len(parse_split_string(text, {"train": 10})) == 100_000
    except ValueError as error:
        assert "is not a split" in str(error)  # noqa: PT017 - either will do


@named("bound", ["9" * 5000, "1." + "9" * 5000 + "%", "1_" * 3000 + "1"])
def test_bound_of_thousands_of_digits_raises(bound: str) -> None:
    with pytest.raises(ValueError, match=r"outside|digits|limit"):
        parse_split_string(f"train[:{bound}]", {"train": 10})


@named("text", ["[" * 10**6, '{"a":' * 10**5, "9" * 10**6, '"\\ud800"', '{"format": NaN}'])
def test_selection_file_of_odd_json_raises(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with refused(tmp_path, "is not a saved selection"):
        SavedSelection.load(tmp_path / "s.json")


# Names


@named("n", [1, MAX_NAME_NBYTES])
def test_long_names_are_accepted(tmp_path: Path, n: int) -> None:
    check_names("a.tar", ["x" * n, "é" * (n // 2) + "y" * (n % 2)])


def test_names_with_equal_hashes_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arraystore.indexing.packed_names.hash", lambda _: 0, raising=False)
    check_names("a.tar", ["b", "a"])


@named("name", ["x" * 10_240, "é" * 2049, "a\0b", ""])
def test_message_about_wrong_name_is_short(name: str) -> None:
    from arraystore import SourceError

    with pytest.raises(SourceError) as caught:
        check_names("a.tar", ["ok", name])
    assert len(str(caught.value)) < 400


# Files of other kinds


@named("key", ["zarr.json", "train/zarr.json", "train/label/c/0", f"{PAYLOAD}/c/0"])
@named("kind", ["pipe", "folder", "device"])
def test_pipes_folders_and_devices_raise(store: Path, key: str, kind: str) -> None:
    (store / key).unlink()
    if kind == "pipe":
        os.mkfifo(store / key)
    elif kind == "folder":
        (store / key).mkdir()
    else:
        (store / key).symlink_to("/dev/zero")
    with refused(store, kind=ArrayStoreError):
        use(store)


def test_converting_a_pipe_raises(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"a/1.jpg": picture()})
    os.mkfifo(tmp_path / "in/a/2.jpg")
    with pytest.raises(ArrayStoreError, match="pipe"):
        arraystore.convert(f"folder:{tmp_path}/in", tmp_path / "a.zarr")


# Offsets


@named(
    ("start", "nbytes"),
    [
        (2**63 - 1, 1),
        (2**63 - 1, 2**63 - 1),
        (1, 2**63 - 1),
        (-1, 1),
        (-(2**63), 2**63 - 1),
        (0, 2**40),
    ],
)
def test_offsets_that_wrap_around_raise(
    tmp_path: Path, start: int, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["arraystore.writing.seal"], "image_starts", lambda sizes: np.array([0, start])
    )
    path = write_store(tmp_path / "a.zarr", ["a", "b"], [0, 0], [b"1", b"2"], classes=["x"])
    stored = arraystore.open(path)["train"]
    (part,) = stored._sample_set
    part.stored.columns.load(("image_nbytes",))
    values = part.stored.columns._whole["image_nbytes"].copy()
    values[1] = nbytes
    part.stored.columns._whole["image_nbytes"] = values
    with refused(path, "outside the payload"):
        _ = stored.image_bytes[0]


def test_overlapping_images_are_not_copied(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys.modules["arraystore.writing.seal"], "image_starts", lambda sizes: np.array([0, 0])
        )
        path = write_store(tmp_path / "a.zarr", ["a", "b"], [0, 0], [b"12", b"34"], classes=["x"])
    with pytest.raises(StorageError, match="crc32c must be"):
        _ = arraystore.open(path, checksum="always")["train"].image_bytes[:]
    with refused(path, "running sum"):
        arraystore.copy(path, tmp_path / "b.h5")
    assert payload_file(path).exists()
