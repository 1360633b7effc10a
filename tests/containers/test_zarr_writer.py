"""Stores written through zarr-python: their bytes, and no thread that keeps running."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import struct
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import zarr
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

import arraystore
from arraystore._checksum import crc32c
from arraystore.containers import open_local
from arraystore.containers.zarr import reader as zarr_reader
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.containers.zarr.writer import ZarrWriter, canonical
from arraystore.errors import FormatError
from arraystore.schema import COLUMN_CHUNK_ROWS, COLUMNS, ROOT_COLUMNS, STRING, Column
from arraystore.writing import store_writer
from arraystore.writing.fill import fill
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore.writing.fill import Filled, FillTask

PATIENCE: Final = 60
KEPT: Final = Path(__file__).parents[1] / "data" / "v1.0"
FOREIGN: Final = {
    "score": Column("float32", "sample", 0.5),
    "missing": Column("float64", "sample", "NaN"),
    "flag": Column("bool", "sample", True),
    "byte": Column("uint8", "sample", 7),
    "small": Column("int8", "sample", -1),
}
KINDS: Final = {**COLUMNS, **ROOT_COLUMNS, **FOREIGN}


def files_of(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def values_of(column: Column, n: int) -> Any:
    if column.data_type == STRING:
        return [f"{i % 977}ä" for i in range(n)]
    return (np.arange(n) % 120).astype(column.data_type)


def encoded(values: Any, column: Column) -> bytes:
    """Encode a chunk as docs/format.md specifies, with numcodecs alone."""
    is_text = column.data_type == STRING
    rows: NDArray[Any] = np.full(
        COLUMN_CHUNK_ROWS, column.fill, object if is_text else column.data_type
    )
    rows[: len(values)] = values
    frame = Zstd(3).encode(VLenUTF8().encode(rows) if is_text else rows)
    return bytes(frame) + struct.pack("<I", crc32c(frame))


def metadata_of(n: int, column: Column) -> dict[str, Any]:
    """Return the metadata of a column as docs/format.md specifies, with its keys in order."""
    first: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if column.data_type == STRING:
        first = {"name": "vlen-utf8", "configuration": {}}
    zstd = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    return {
        "shape": [n],
        "data_type": column.data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [COLUMN_CHUNK_ROWS]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": column.fill,
        "codecs": [first, zstd, {"name": "crc32c"}],
        "attributes": {},
        "dimension_names": [column.dimension],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


@pytest.mark.parametrize("name", KINDS)
def test_column_bytes_equal_specification(name: str, tmp_path: Path) -> None:
    column = KINDS[name]
    writer = ZarrWriter(tmp_path / "a")
    lengths = (0, 3, COLUMN_CHUNK_ROWS, COLUMN_CHUNK_ROWS + 1)
    for n in lengths:
        writer.write_column(f"column_{n}", values_of(column, n), column)
    writer.close()
    found = files_of(tmp_path / "a")
    for n in lengths:
        values = values_of(column, n)
        bounds = [*range(0, n, COLUMN_CHUNK_ROWS), n]
        chunks = [encoded(values[start:stop], column) for start, stop in pairwise(bounds)]
        document = json.dumps(metadata_of(n, column), indent=2).encode()
        expected = {f"column_{n}/zarr.json": document}
        expected |= {f"column_{n}/c/{i}": chunk for i, chunk in enumerate(chunks)}
        assert {key: found[key] for key in found if key.startswith(f"column_{n}/")} == expected


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_copy_equals_kept_store(suffix: str, tmp_path: Path) -> None:
    arraystore.copy(KEPT / f"polygons{suffix}", tmp_path / "a.zarr", sync=False)
    assert files_of(tmp_path / "a.zarr") == files_of(KEPT / "polygons.zarr")


def test_reopened_store_keeps_its_bytes(tmp_path: Path) -> None:
    arraystore.copy(KEPT / "polygons.zarr", tmp_path / "a.zarr", sync=False)
    ZarrWriter(tmp_path / "a.zarr").close()
    assert files_of(tmp_path / "a.zarr") == files_of(KEPT / "polygons.zarr")


def test_metadata_has_one_form() -> None:
    group = {
        "node_type": "group",
        "consolidated_metadata": None,
        "zarr_format": 3,
        "attributes": {"b": None, "a": 1},
        "more": 1,
    }
    assert list(canonical(group).items()) == [
        ("attributes", {"b": None, "a": 1}),
        ("zarr_format", 3),
        ("node_type", "group"),
        ("more", 1),
    ]
    array = metadata_of(3, FOREIGN["byte"])
    del array["codecs"][0]["configuration"]
    shuffled = dict(reversed(array.items()))
    assert json.dumps(canonical(shuffled)) == json.dumps(metadata_of(3, FOREIGN["byte"]))


def test_consolidated_metadata_equals_zarr_pythons(tmp_path: Path) -> None:
    arraystore.copy(KEPT / "polygons.zarr", tmp_path / "a.zarr", sync=False)
    document = tmp_path / "a.zarr" / "zarr.json"
    ours = json.loads(document.read_text())["consolidated_metadata"]
    with pytest.warns(UserWarning, match="not part in the Zarr format 3 specification"):
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    theirs = json.loads(document.read_text())["consolidated_metadata"]
    for node in theirs["metadata"].values():
        node.pop("consolidated_metadata", None)  # of groups, and empty
    assert ours == theirs


def test_backslash_in_a_path_raises(tmp_path: Path) -> None:
    writer = ZarrWriter(tmp_path / "a")
    with pytest.raises(FormatError, match="is not a path in a Zarr store"):
        writer.create_group("a\\b")
    with pytest.raises(FormatError, match="is not a path in a Zarr store"):
        writer.write_column("a\\b", [""], ROOT_COLUMNS["label_name"])
    writer.close()
    assert list(files_of(tmp_path / "a")) == ["zarr.json"]


def test_interrupt_is_raised_after_the_write_has_ended() -> None:
    """Otherwise it could write to a folder that was removed or resumed meanwhile."""
    interrupted, ended = threading.Event(), []
    main = threading.main_thread().ident or 0

    def interrupt(*signal_and_frame: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    async def work() -> None:
        while not interrupted.wait(0.01):  # one may come before the main thread waits
            signal.pthread_kill(main, signal.SIGINT)
        for _ in range(100):
            await asyncio.to_thread(len, "")
        ended.append(True)

    loop = zarr_writer._Loop()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended
    loop.close()


def test_interrupt_while_work_is_submitted_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []
    loop = zarr_writer._Loop()
    submit = loop._thread.submit

    def interrupted(*work: Any) -> Any:
        monkeypatch.undo()
        submit(*work)
        raise KeyboardInterrupt

    async def work() -> None:
        for _ in range(100):
            await asyncio.to_thread(len, "")
        ended.append(True)

    monkeypatch.setattr(loop._thread, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(work())
    assert ended
    loop.close()


def test_unclosed_writer_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="a"):
        ZarrWriter(tmp_path / "a")
    _ = ZarrWriter(tmp_path / "b")
    del _
    gc.collect()
    assert set(threading.enumerate()) <= before


def test_store_is_written_inside_an_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        arraystore.copy(KEPT / "polygons.h5", tmp_path / "a.zarr", sync=False)

    asyncio.run(main())
    assert files_of(tmp_path / "a.zarr") == files_of(KEPT / "polygons.zarr")


def in_child(code: str, *arguments: object) -> None:
    """Run code in a new process."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_conversion_leaves_no_thread_of_zarr(suffix: str, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "in", {f"{of}/0.jpg": picture() for of in "ab"})
    code = (
        "import sys, threading, arraystore\n"
        "arraystore.convert(f'folder:{sys.argv[1]}', sys.argv[2])\n"
        "others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]\n"
        "assert all(name.startswith('arraystore-read-ahead') for name in others), others\n"
        "assert ('zarr' in sys.modules) == sys.argv[2].endswith('.zarr')"
    )
    in_child(code, images, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_libraries_are_imported_while_blocks_are_filled(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_folder(tmp_path / "in", {f"{of}/0.jpg": picture() for of in "ab"})
    target = tmp_path / f"a{suffix}"
    began = threading.Event()

    def fill_later(task: FillTask) -> Filled:
        assert began.wait(PATIENCE)
        return fill(task)

    def fail() -> None:
        began.set()
        raise ImportError("raised by the later import, but not here")

    monkeypatch.setattr(store_writer, "fill", fill_later)
    writer = arraystore.containers.writer_for(target)
    monkeypatch.setattr(writer, "import_libraries", staticmethod(fail))
    assert arraystore.convert(f"folder:{images}", target, sync=False).splits["train"].num_samples
    assert not [t for t in threading.enumerate() if t.name == "arraystore-alongside"]


def test_payload_of_more_shards_than_readers_accept_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (zarr_writer, zarr_reader):
        monkeypatch.setattr(module, "MAX_SHARDS", 2)
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 2**17)
    with ZarrWriter(tmp_path / "a.zarr") as writer:
        writer.create_payload("most", 2 * 2**17)
        with pytest.raises(FormatError, match=r"^more: .* more than 2 shards .* several stores$"):
            writer.create_payload("more", 2 * 2**17 + 1)
        writer.close()
    _, reader = open_local(tmp_path / "a.zarr")
    assert len(reader.manifest("most").keys) == 2
    assert not (tmp_path / "a.zarr" / "more").exists()
