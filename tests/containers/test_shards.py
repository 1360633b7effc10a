"""Shards that are filled in place, compared with those that zarr-python writes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.containers.zarr.shards import shard_object_nbytes
from arraystore.indexing.layout import blocks
from arraystore.schema import INNER_CHUNK_NBYTES, PAYLOAD, SHARD_NBYTES
from arraystore.writing import fill as fill_module
from arraystore.writing import store_writer
from arraystore.writing.fill import FilePlace, FillTask, fill
from arraystore.writing.image_source import FileRanges
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SHARD: Final = 64
INNER: Final = 8


@pytest.fixture(scope="module", autouse=True)
def _small_shards() -> Iterator[None]:
    """Make shards 64 bytes long, with 8 inner chunks, unless a test uses `true_size`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", INNER)
        yield


@pytest.fixture
def true_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD_NBYTES)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", INNER_CHUNK_NBYTES)


def write_ours(folder: Path, payload: bytes, *, buffer_nbytes: int = 5) -> Path:
    """Create a payload with `ZarrWriter`, and fill it shard by shard from images of 11 bytes."""
    source, root = folder / "source", folder / "ours.zarr"
    source.write_bytes(payload)
    writer = zarr_writer.ZarrWriter(root)
    writer.create_group("train")
    writer.create_payload(f"train/{PAYLOAD}", len(payload))
    writer.close()
    starts = np.arange(0, len(payload), 11)
    nbytes = np.minimum(11, len(payload) - starts)
    images = FileRanges((str(source),), np.zeros_like(starts), starts, nbytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill_module, "BUFFER_NBYTES", buffer_nbytes)
        for index, block in enumerate(blocks(nbytes, block_nbytes=SHARD)):
            shard = root / "train" / PAYLOAD / "c" / str(index)
            fill(
                FillTask(
                    images=images.rows(block.first, block.last),
                    skip=block.skip,
                    place=FilePlace(((str(shard), 0, block.stop - block.start),)),
                )
            )
    return root / "train" / PAYLOAD


def write_theirs(
    folder: Path, payload: bytes, *, shard_nbytes: int = SHARD, inner_nbytes: int = INNER
) -> Path:
    """Write a payload with zarr-python, including all of its chunks."""
    array = zarr.create_array(
        folder / "theirs.zarr",
        shape=(len(payload),),
        dtype="uint8",
        chunks=(inner_nbytes,),
        shards=(shard_nbytes,),
        compressors=None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if payload:
        array[:] = np.frombuffer(payload, dtype=np.uint8)
    return folder / "theirs.zarr"


def shards(array: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(array.glob("c/*"))}


def filled(n_chunks: int, zeros: Sequence[int] = ()) -> bytes:
    """Return inner chunks, some of them zeros."""
    data = np.arange(1, n_chunks * INNER + 1, dtype=np.uint8) | 1
    for chunk in zeros:
        data[chunk * INNER : (chunk + 1) * INNER] = 0
    return data.tobytes()


@settings(deadline=None, max_examples=40)
@given(payload=st.binary(max_size=5 * SHARD))
@example(payload=b"")
@example(payload=filled(1)[:1])
@example(payload=filled(1))
@example(payload=filled(8))
@example(payload=filled(8) + b"\1")
@example(payload=filled(24))
@example(payload=filled(24)[:-1])
@example(payload=filled(20, zeros=[0, 5, 15, 19]))
@example(payload=bytes(2 * SHARD))
@example(payload=bytes(SHARD + 3))
def test_shards_equal_those_of_zarr_python(
    payload: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    assert shards(write_ours(folder, payload)) == shards(write_theirs(folder, payload))


@pytest.mark.parametrize("buffer_nbytes", [1, 7, INNER, SHARD, 1000])
def test_shards_do_not_depend_on_the_buffer(buffer_nbytes: int, tmp_path: Path) -> None:
    payload = filled(21, zeros=[3])[:-3]
    ours = write_ours(tmp_path, payload, buffer_nbytes=buffer_nbytes)
    assert shards(ours) == shards(write_theirs(tmp_path, payload))


def test_zarr_python_reads_filled_shards(tmp_path: Path) -> None:
    payload = filled(21, zeros=[0, 9])[:-3]
    array = zarr.open_array(write_ours(tmp_path, payload), mode="r")
    assert np.asarray(array[:]).tobytes() == payload
    assert array.metadata.dimension_names == ("byte",)  # type: ignore[union-attr]  # v3 has them


def test_shard_object_nbytes_equals_file_size(tmp_path: Path) -> None:
    for payload in (filled(1)[:3], filled(8), filled(5)):
        folder = tmp_path / str(len(payload))
        folder.mkdir()
        (data,) = shards(write_theirs(folder, payload)).values()
        assert shard_object_nbytes(len(payload), SHARD, INNER) == len(data)


IMAGES: Final = {f"{of}/{number}.jpg": picture(seed=number) for of in "ab" for number in range(4)}


def payload_of(store: Path) -> bytes:
    return b"".join(arraystore.open(store)["train"].image_bytes[:])


def test_converted_shards_equal_those_of_zarr_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 2048)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", 256)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=2048))
    store = tmp_path / "a.zarr"
    arraystore.convert(f"folder:{write_folder(tmp_path / 'in', IMAGES)}", store, sync=False)
    payload = payload_of(store)
    assert sorted(payload) == sorted(b"".join(IMAGES.values()))
    theirs = write_theirs(tmp_path, payload, shard_nbytes=2048, inner_nbytes=256)
    assert len(shards(theirs)) > 2
    assert shards(store / "train" / PAYLOAD) == shards(theirs)


@pytest.mark.usefixtures("true_size")
def test_full_size_shard_equals_that_of_zarr_python(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    zeros = {"c/big.ppm": b"P6 400 400 255\n" + bytes(400 * 400 * 3)}  # holds whole inner chunks
    folder = write_folder(tmp_path / "in", IMAGES | zeros)
    arraystore.convert(f"folder:{folder}", store, sync=False)
    theirs = write_theirs(
        tmp_path, payload_of(store), shard_nbytes=SHARD_NBYTES, inner_nbytes=INNER_CHUNK_NBYTES
    )
    assert shards(store / "train" / PAYLOAD) == shards(theirs)
