"""Every kind of object, damaged in every way: reading gives right data or an error with its place.

`arraystore.verify` always reports the damage. libhdf5 runs in a child process, so that a crash or
an endless loop is a failed test. Each object is damaged in some ways; `make soak` tries all.
"""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import arraystore
from arraystore.errors import ArrayStoreError, ChecksumError
from arraystore.schema import COLUMN_CHUNK_ROWS, COLUMNS, ROOT_COLUMNS
from tests.reading.test_damaged_stores import PAYLOAD, rewrite_column, rewrite_payload
from tests.support import SUFFIXES, copied, picture, set_chunk_rows, write_folder, write_store
from tests.test_reader import forks, in_forked_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

named = pytest.mark.parametrize

IS_SOAK: Final = "ARRAYSTORE_SOAK" in os.environ
"""Whether `make soak` runs these tests."""

N_WAYS: Final = 3
"""Number of ways to damage each object, unless `IS_SOAK`."""

anywhere = settings(
    deadline=None,
    max_examples=200 if IS_SOAK else 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

SPLITS: Final = ("train", "validation")
CHUNK_ROWS: Final = 512
N_CHUNKED: Final = 520
"""Samples of columns with a full chunk, and another."""

"""More samples than a chunk of a column has."""

DOCUMENTS: Final = (
    "zarr.json",
    "train/zarr.json",
    *(f"{name}/zarr.json" for name in (*ROOT_COLUMNS, PAYLOAD)),
    *(f"train/{name}/zarr.json" for name in COLUMNS),
)
CHUNKS: Final = (
    *(f"{name}/c/0" for name in (*ROOT_COLUMNS, PAYLOAD)),
    *(f"train/{name}/c/0" for name in COLUMNS),
)


def flipped(fraction: float, bit: int = 1) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        at = min(int(fraction * len(data)), len(data) - 1)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    return damage


DAMAGE: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "first byte flipped": flipped(0),
    "byte flipped near the beginning": flipped(0.1),
    "byte flipped in the middle": flipped(0.5, 4),
    "byte flipped near the end": flipped(0.9, 16),
    "last byte flipped": flipped(1),
    "cut to nothing": lambda data: b"",
    "cut in the middle": lambda data: data[: len(data) // 2],
    "last byte cut": lambda data: data[:-1],
    "deleted": lambda data: None,
    "zeros": lambda data: bytes(len(data)),
}


def damaged_in_turn(
    objects: Sequence[str], damages: Mapping[str, Callable[[bytes], bytes | None]]
) -> list[Any]:
    """Return parameters: each object with the next damages, or with all of them in `make soak`."""
    ways, n = list(damages), len(damages) if IS_SOAK else N_WAYS
    return [
        pytest.param(name, damages[way], id=f"{name}-{way}")
        for i, name in enumerate(objects)
        for way in (ways[(i * n + k) % len(ways)] for k in range(n))
    ]


@pytest.fixture(scope="module", params=SUFFIXES)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small store of two splits that fill two chunks of a shard; do not change it."""
    folder = tmp_path_factory.mktemp("matrix")
    files = {
        f"{split}/{label}/{i}.jpg": picture(200, 300, seed=i)
        for split in SPLITS
        for i, label in enumerate(["cat", "dog", "cat", "fox"])
    }
    write_folder(folder / "pictures", files)
    target = folder / f"store{request.param}"
    arraystore.convert(f"folder:{folder}/pictures", target, sync=False)
    return target


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """Return a copy of `sound`, to be damaged."""
    target = tmp_path / sound.name
    copied(sound, target)
    return target


def contents(path: Path, checksum: str) -> list[Any]:
    """Return pixels, labels, names and queries, and encoded bytes if they are checked."""
    opened = arraystore.open(path, checksum=checksum)
    found: list[Any] = [opened.label_names, opened.label_words]
    for name in SPLITS:
        split = opened[name]
        found += [split.label.tolist(), split.file_name.tolist(), split.label_counts().tolist()]
        found += [[split.where(label=k).positions.tolist() for k in range(3)]]
        found += [sha256(b"".join(image.tobytes() for image in split.image[:])).hexdigest()]
        if checksum == "always":
            found += [split.image_bytes[:]]
    return found


contents_of_sound = cache(contents)


def raises_error(path: Path, sound: Path) -> bool:
    """Return whether reading raises an error; if not, the data must be right."""
    is_raised = False
    for checksum in ("auto", "always"):
        try:
            with warnings.catch_warnings(action="ignore"):  # of a newer minor version
                assert contents(path, checksum) == contents_of_sound(sound, checksum)
        except ArrayStoreError as error:
            assert str(path) in str(error)  # noqa: PT017 - either will do
            is_raised = True
        except KeyError as error:
            assert "there is no" in str(error)  # noqa: PT017 - a split or class was renamed
            is_raised = True
        except FileNotFoundError:
            assert not path.exists()
            is_raised = True
    return is_raised


def verified(path: Path) -> bool:
    """Return whether verification finds no problem."""
    with warnings.catch_warnings(action="ignore"):
        report = arraystore.verify(path, progress=False)
    assert report.ok == (not report.problems)
    assert all(problem.message for problem in report.problems)
    return report.ok


def rewrite(file: Path, damage: Callable[[bytes], bytes | None]) -> None:
    damaged = damage(file.read_bytes())
    if damaged is None:
        file.unlink()
    else:
        file.write_bytes(damaged)


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two files."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


# Zarr: objects

only_zarr = named("sound", [".zarr"], indirect=True, scope="module")
only_hdf5 = named("sound", [".h5"], indirect=True, scope="module")


def test_undamaged_store_is_read_and_verified(sound: Path) -> None:
    assert not raises_error(sound, sound)
    assert verified(sound)


@only_zarr
@named(("key", "damage"), damaged_in_turn(CHUNKS, DAMAGE))
def test_damaged_chunk_is_reported_and_never_read_wrong(
    store: Path, sound: Path, key: str, damage: Callable[[bytes], bytes | None]
) -> None:
    rewrite(store / key, damage)
    raises_error(store, sound)
    assert not verified(store)


@only_zarr
@named("is_consolidated", [True, False])
@named(("key", "damage"), damaged_in_turn(DOCUMENTS, DAMAGE))
def test_damaged_document_is_never_read_wrong(
    store: Path,
    sound: Path,
    key: str,
    damage: Callable[[bytes], bytes | None],
    is_consolidated: bool,
) -> None:
    if not is_consolidated:
        root = json.loads((store / "zarr.json").read_text())
        del root["consolidated_metadata"]
        (store / "zarr.json").write_text(json.dumps(root))
    before = (store / key).read_bytes()
    rewrite(store / key, damage)
    is_raised = raises_error(store, sound)
    is_same = (store / key).exists() and _is_same_document(before, (store / key).read_bytes())
    # A document that is not consolidated has no copy to compare with: a wrong letter in text for
    # people is not noticed.
    if is_raised or (is_consolidated and not is_same and key != "zarr.json"):
        assert not verified(store)


def _is_same_document(before: bytes, after: bytes) -> bool:
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


@only_zarr
@anywhere
@given(st.sampled_from([*CHUNKS, *DOCUMENTS]), st.integers(0, 2**40))
def test_flipped_bit_is_never_read_wrong(store: Path, sound: Path, key: str, number: int) -> None:
    file = store / key
    whole = file.read_bytes()
    file.write_bytes(flipped(number // 8 % len(whole) / len(whole), 1 << number % 8)(whole))
    try:
        is_raised = raises_error(store, sound)
        assert not (verified(store) and (is_raised or key in CHUNKS))
    finally:
        file.write_bytes(whole)


@only_zarr
def test_swapped_columns_are_reported(store: Path) -> None:
    exchange(store / "train/image_height/c/0", store / "train/image_width/c/0")
    assert not verified(store)


@only_zarr
def test_swapped_shards_of_two_splits_are_reported(store: Path, sound: Path) -> None:
    exchange(store / PAYLOAD / "c/0", store / "validation/image_payload/c/0")
    assert raises_error(store, sound) == (not verified(store))


@named("dense", [True, False])
@only_zarr
def test_swapped_shards_of_one_split_are_reported(store: Path, sound: Path, dense: bool) -> None:
    rewrite_payload(store, shards=2**17, dense=dense)
    exchange(store / PAYLOAD / "c/0", store / PAYLOAD / "c/1")
    assert raises_error(store, sound)
    report = arraystore.verify(store)
    assert {p.position for p in report.problems if "crc32c" in p.message} == set(range(4))


# Payloads of both containers


@contextmanager
def payload(path: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield file, offset and length of the payload of train."""
    if path.is_dir():
        yield path / PAYLOAD / "c/0", 0, arraystore.open(path).info.splits["train"].num_bytes
    else:
        with h5py.File(path, locking=False) as root:
            dataset = root[PAYLOAD]
            yield path, dataset.id.get_offset(), len(dataset)


PAYLOAD_DAMAGE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "first byte flipped": flipped(0),
    "byte flipped in the middle": flipped(0.5),
    "last byte flipped": flipped(1),
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[:-100] + bytes(100),
    "chunks swapped": lambda data: data[2**16 : 2**17] + data[: 2**16] + data[2**17 :],
}


@forks
@named("damage", PAYLOAD_DAMAGE.values(), ids=PAYLOAD_DAMAGE)
def test_damaged_payload_is_reported_with_its_images(
    store: Path, sound: Path, damage: Callable[[bytes], bytes]
) -> None:
    before = arraystore.open(store)["train"].image_bytes[:]
    with payload(store) as (file, start, nbytes):
        data = file.read_bytes()
    damaged = damage(data[start : start + nbytes])
    file.write_bytes(data[:start] + damaged + data[start + nbytes :])
    assert in_child(raises_error, store, sound)
    after = arraystore.open(store)["train"].image_bytes[:]
    wrong = {i for i in range(4) if before[i] != after[i]}
    names = arraystore.open(store)["train"].file_name
    report = arraystore.verify(store)
    assert {p.position for p in report.problems} == wrong
    assert all(p.split == "train" and p.file_name == names[p.position] for p in report.problems)
    assert all(p.key in str(file) for p in report.problems)


# HDF5


def in_child(act: Callable[..., bool], *arguments: Any) -> bool:
    """Run in a forked child that is killed if it does not end; a crash raises an error."""
    return in_forked_child(lambda: bytes([act(*arguments)])) == b"\1"


def outcome(path: Path, sound: Path) -> tuple[bool, bool]:
    """Return whether reading raises an error, and whether verification reports a problem."""
    answer = in_forked_child(lambda: bytes([raises_error(path, sound), verified(path)]))
    return answer[0] == 1, answer[1] == 0


def data_ranges(path: Path) -> list[tuple[int, int]]:
    """Return offset and length of everything except metadata: chunks of columns, and payloads."""
    found: list[tuple[int, int]] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.chunks:
            node.id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
        elif isinstance(node, h5py.Dataset) and node.id.get_offset() is not None:
            found.append((node.id.get_offset(), node.id.get_storage_size()))

    with h5py.File(path, locking=False) as root:
        root.visititems(visit)
    return found


@pytest.fixture(scope="module")
def metadata(sound: Path) -> list[int]:
    """Return the offsets of the metadata bytes that are not zero."""
    data = np.frombuffer(sound.read_bytes(), np.uint8).copy()
    for start, nbytes in data_ranges(sound):
        data[start : start + nbytes] = 0
    positions: list[int] = np.flatnonzero(data).tolist()
    return positions


@forks
@only_hdf5
@anywhere
@given(st.integers(0, 2**32), st.integers(0, 7))
def test_flipped_bit_in_hdf5_metadata_is_never_read_wrong(
    store: Path, sound: Path, metadata: list[int], number: int, bit: int
) -> None:
    whole = sound.read_bytes()
    at = metadata[number % len(metadata)]
    store.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    is_raised, is_reported = outcome(store, sound)
    assert is_reported or not is_raised


@forks
@only_hdf5
@anywhere
@given(st.integers(0, 2**32), st.sampled_from([8, 64, 512, 4096]))
def test_zeros_in_hdf5_metadata_are_never_read_wrong(
    store: Path, sound: Path, metadata: list[int], number: int, nbytes: int
) -> None:
    whole = sound.read_bytes()
    at = metadata[number % len(metadata)]
    store.write_bytes((whole[:at] + bytes(nbytes) + whole[at + nbytes :])[: len(whole)])
    is_raised, is_reported = outcome(store, sound)
    assert is_reported or not is_raised


@forks
@only_hdf5
@settings(parent=anywhere, max_examples=10)
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_truncated_hdf5_file_raises_and_is_reported(store: Path, sound: Path, place: float) -> None:
    whole = sound.read_bytes()
    store.write_bytes(whole[: int(place * len(whole))])
    assert outcome(store, sound) == (True, True)


def chunk_of(path: Path, name: str) -> tuple[int, int]:
    with h5py.File(path, locking=False) as root:
        chunk = root[name].id.get_chunk_info(0)
        return chunk.byte_offset, chunk.size


CHUNK_DAMAGE = {
    name: damage
    for name, damage in DAMAGE.items()
    if "flipped" in name or name in {"zeros", "cut in the middle"}
}


@forks
@only_hdf5
@named(
    ("name", "damage"),
    damaged_in_turn([*ROOT_COLUMNS, *(f"train/{name}" for name in COLUMNS)], CHUNK_DAMAGE),
)
def test_damaged_hdf5_chunk_is_never_read_wrong(
    store: Path, sound: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    start, nbytes = chunk_of(store, name)
    whole = store.read_bytes()
    # The file continues after the chunk, so bytes that are cut off become zeros.
    damaged = damage(whole[start : start + nbytes]).ljust(nbytes, b"\0")
    store.write_bytes(whole[:start] + damaged + whole[start + nbytes :])
    is_raised, is_reported = outcome(store, sound)
    # Some bits in the header of gzip have no effect.
    assert is_reported or (not is_raised and damage == DAMAGE["first byte flipped"])


@forks
@only_hdf5
@named("name", [*ROOT_COLUMNS, PAYLOAD, *(f"train/{name}" for name in COLUMNS), "train"])
def test_deleted_hdf5_object_is_reported(store: Path, sound: Path, name: str) -> None:
    with h5py.File(store, "r+") as root:
        del root[name]
    raises_error(store, sound)
    assert not verified(store)


# Swapped chunks of a column


def store_of(path: Path, n: int) -> Path:
    """Write a store of `n` samples; images consist of a header only."""
    images = [
        b"\xff\xd8\xff\xfe"
        + (2 + i % 50).to_bytes(2, "big")
        + bytes(i % 50)
        + bytes.fromhex("FFC0000B08")
        + (i % 400 + 1).to_bytes(2, "big")
        + (i % 300 + 1).to_bytes(2, "big")
        + bytes.fromhex("01011100")
        for i in range(n)
    ]
    names = [f"{i}.jpg" for i in range(n)]
    labels = np.arange(n) * 7 % 13
    return write_store(path, names, labels, images, classes=[f"c{k}" for k in range(13)])


@pytest.fixture(scope="module", params=SUFFIXES)
def chunked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store whose columns have two chunks of `CHUNK_ROWS` rows."""
    with pytest.MonkeyPatch.context() as patch:
        set_chunk_rows(patch, CHUNK_ROWS)
        return store_of(tmp_path_factory.mktemp("chunked") / f"large{request.param}", N_CHUNKED)


def swap_chunks(path: Path, name: str) -> None:
    if path.is_dir():
        exchange(path / name / "c/0", path / name / "c/1")
        return
    with h5py.File(path, "r+") as root:
        dataset = root[name].id
        places = [(0,), (CHUNK_ROWS,)]
        chunks = [dataset.read_direct_chunk(place) for place in places]
        for place, (mask, data) in zip(places, reversed(chunks), strict=True):
            dataset.write_direct_chunk(place, data, mask)


def use_columns(path: Path, n: int) -> None:
    """Read everything that needs a column; heights and widths are not needed."""
    train = arraystore.open(path, checksum="always")["train"]
    assert len(train.image_bytes[[0, -1]]) == 2
    assert sum(len(train.where(label=k)) for k in range(13)) == n


@named("suffix", SUFFIXES if IS_SOAK else [".h5"])  # small chunks are tested in both
def test_store_of_two_chunks_of_full_size_is_verified(suffix: str, tmp_path: Path) -> None:
    large = store_of(tmp_path / f"large{suffix}", COLUMN_CHUNK_ROWS + 464)
    assert verified(large)
    use_columns(large, COLUMN_CHUNK_ROWS + 464)


def test_store_of_two_small_chunks_is_verified(
    chunked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_rows(monkeypatch, CHUNK_ROWS)
    assert verified(chunked)
    use_columns(chunked, N_CHUNKED)


@named("column", [name for name in COLUMNS if name != "label_indptr"])
def test_swapped_chunks_of_a_column_are_reported(
    chunked: Path, tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_rows(monkeypatch, CHUNK_ROWS)
    path = tmp_path / chunked.name
    copied(chunked, path)
    swap_chunks(path, f"train/{column}")
    if column not in {"image_height", "image_width"}:
        with pytest.raises(ArrayStoreError, match=r"large\.(zarr|h5)/train"):
            use_columns(path, N_CHUNKED)
    report = arraystore.verify(path)
    text = " ".join(f"{problem.key} {problem.message}" for problem in report.problems)
    evidence = {"file_name": "content_digest", "image_crc32c": "crc32c must be"}
    assert evidence.get(column, column) in text
    assert len(report.problems) <= min(report.num_problems, 1000)


def test_label_index_with_swapped_labels_raises(store: Path) -> None:
    # Labels 1 and 2 have one sample each, so that the index of each alone looks right.
    rewrite_column(store, "train/label_order", lambda order: order[[0, 1, 3, 2]])
    with pytest.raises(
        ChecksumError, match="label_order: lists samples of other labels for label 1"
    ):
        arraystore.open(store, checksum="always")["train"].where(label=1)
    assert not verified(store)
