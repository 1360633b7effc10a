"""Remote stores: the same data as from a disk, in few round trips, and no other bytes."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pytest
import xarray as xr
from obstore.store import HTTPStore, LocalStore, MemoryStore, S3Store
from typing_extensions import override

import arraystore
from arraystore._checksum import crc32c
from arraystore._threads import Scope, WorkCancelledError
from arraystore.containers import open_container
from arraystore.containers.hdf5 import cached_object
from arraystore.errors import StorageError
from arraystore.images import decode
from arraystore.storage.location import Location
from arraystore.storage.objects import connection, event_loop
from arraystore.storage.objects import reader as object_reader
from arraystore.storage.objects.reader import ObjectReader
from tests.support import SUFFIXES, picture, write_folder
from tests.true_size import SIZES, write_true_size
from tests.web import PATIENCE, Asked, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from arraystore.indexing.byte_range import ByteRange

KEYS: Final = {"key": "me", "secret": "mine", "region": "us-east-1"}


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    """A server for all tests that do not disturb it."""
    with WebServer() as server:
        yield server


def in_memory(path: Path) -> arraystore.Store:
    store = connection.connect_memory()
    for name, data in objects_of(path).items():
        store.put(f"in/memory/{name}", data)
    return arraystore.open(f"memory://in/memory/{path.name}")


def objects_of(path: Path) -> dict[str, bytes]:
    """Return the objects of a store, by their paths below its parent."""
    server = WebServer()
    server.put(path, path.name)
    return server.objects


def behind_a_web_server(path: Path, web: WebServer) -> arraystore.Store:
    web.put(path, f"a folder/{path.name}")
    return arraystore.open(f"{web.url}/a%20folder/{path.name}")


def in_a_bucket(path: Path, web: WebServer) -> arraystore.Store:
    web.put(path, f"bucket/with/{path.name}")
    options = KEYS | {"endpoint_url": web.url}
    return arraystore.open(f"s3://bucket/with/{path.name}", storage_options=options)


PLACES: Final[dict[str, Callable[[Path, WebServer], arraystore.Store]]] = {
    "disk": lambda path, web: arraystore.open(path),
    "memory": lambda path, web: in_memory(path),
    "web": behind_a_web_server,
    "bucket": in_a_bucket,
}


@pytest.fixture(params=list(PLACES))
def placed(request: pytest.FixtureRequest, path: Path, web: WebServer) -> arraystore.Store:
    """The same store in different places."""
    web.asked.clear()
    return PLACES[request.param](path, web)


@pytest.fixture
def known(path: Path) -> arraystore.Split:
    return arraystore.open(path)["train"]


# Data


@pytest.mark.parametrize("split", ["train", "validation", "train[10:]+validation[:50%]"])
def test_store_reads_the_same_everywhere(placed: arraystore.Store, path: Path, split: str) -> None:
    found, expected = placed[split], arraystore.open(path)[split]
    assert found.image_bytes[:] == expected.image_bytes[:]
    assert found.label.tolist() == expected.label.tolist()
    assert found.file_name.tolist() == expected.file_name.tolist()
    for one, other in zip(found.image[::7], expected.image[::7], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("selection", [[5, 3, 5, -1], slice(None, None, -1), 7, [], slice(3, 9)])
def test_images_keep_order(
    placed: arraystore.Store, known: arraystore.Split, selection: Any
) -> None:
    assert placed["train"].image_bytes[selection] == known.image_bytes[selection]


def test_info_is_the_same_everywhere(placed: arraystore.Store, path: Path) -> None:
    assert placed.info == arraystore.open(path).info


def test_column_rows_are_the_same_everywhere(
    placed: arraystore.Store, known: arraystore.Split
) -> None:
    found = placed.opened[1].read_column("train/label", "int64", (3, 7))
    assert found.tolist() == known.label[3:7].tolist()


def test_reading_only_gets_objects(path: Path, web: WebServer) -> None:
    web.asked.clear()
    train = in_a_bucket(path, web)["train"]
    assert train[3].file_name
    assert {asked.path.split("/")[0] for asked in web.asked} == {"bucket"}
    assert {asked.method for asked in web.asked} <= {"GET", "HEAD"}
    assert all(asked.path.removeprefix("bucket/") for asked in web.asked)


def test_local_store_needs_no_obstore(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reader, "run", None)
    monkeypatch.setattr(connection, "connect", None)
    assert arraystore.open(f"file://{path}")["train"][3].file_name


@pytest.mark.parametrize("path", [".zarr"], indirect=True)
def test_consolidated_metadata_is_optional(path: Path, web: WebServer) -> None:
    web.put(path, "plain.zarr")
    root = json.loads(web.objects["plain.zarr/zarr.json"])
    del root["consolidated_metadata"]
    web.objects["plain.zarr/zarr.json"] = json.dumps(root).encode()
    found, expected = arraystore.open(f"{web.url}/plain.zarr")["train"], arraystore.open(path)
    assert found.image_bytes[:] == expected["train"].image_bytes[:]
    assert found.file_name.tolist() == expected["train"].file_name.tolist()


@pytest.mark.parametrize("suffix", [".data", ""])
def test_name_without_suffix(path: Path, web: WebServer, suffix: str) -> None:
    name = f"bucket/unnamed-{path.suffix[1:]}{suffix}"
    web.put(path, name)
    store = arraystore.open(f"{web.url}/{name}")
    assert len(store["train"]) == 30


def test_obstore_store_and_key(path: Path) -> None:
    expected = arraystore.open(path)["train"].image_bytes[3]
    outside = LocalStore(path.parent)
    assert arraystore.open((outside, path.name))["train"].image_bytes[3] == expected
    if path.is_dir():
        assert arraystore.open(LocalStore(path))["train"].image_bytes[3] == expected


def test_obstore_prefix_may_be_hdf5_file(path: Path, web: WebServer) -> None:
    in_a_bucket(path, web)
    store = S3Store(
        "bucket",
        prefix=f"with/{path.name}",
        endpoint=web.url,
        access_key_id="me",
        secret_access_key="mine",
        client_options={"allow_http": True},
    )
    assert len(arraystore.open(store)["train"]) == 30


def test_other_object_raises() -> None:
    with pytest.raises(TypeError, match="must be a path, a URL or an obstore store, got 5"):
        arraystore.open(5)


def test_xarray_opens_address_with_options(path: Path, web: WebServer) -> None:
    address = in_a_bucket(path, web).address
    options = KEYS | {"endpoint_url": web.url}
    expected = arraystore.open(path)["train"]
    with xr.open_dataset(
        address, engine="arraystore", group="train", storage_options=options
    ) as dataset:
        assert dataset.image_bytes[5].item() == expected.image_bytes[5]
    tree = xr.open_datatree(address, engine="arraystore", storage_options=options)
    assert tree["train"].label.values.tolist() == expected.label.tolist()


def test_threads_share_remote_store(path: Path, web: WebServer, known: arraystore.Split) -> None:
    train = in_a_bucket(path, web)["train"]
    expected = known.image_bytes[:]
    found: dict[int, list[bytes]] = {}
    start = threading.Barrier(8, timeout=PATIENCE)

    def work(number: int) -> None:
        start.wait()
        found[number] = train.image_bytes[:]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == dict.fromkeys(range(8), expected)


# Requests


class Round(NamedTuple):
    """One call of a reader, which makes all its requests at once."""

    requests: tuple[tuple[str, int], ...]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Round]:
    """The rounds of all remote readers from now on, with key and size of each request."""
    seen: list[Round] = []

    class Counted(ObjectReader):
        @override
        def size(self, key: str) -> int:
            if key not in self._seen:
                seen.append(Round(((key, 0),)))
            return super().size(key)

        @override
        def arrivals(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[int, memoryview]]:
            if ranges:
                seen.append(Round(tuple((wanted.key, wanted.nbytes) for wanted in ranges)))
            return super().arrivals(ranges)

        @override
        def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
            data = super().read_objects(keys)
            sizes = zip(keys, map(len, data), strict=True)
            seen.append(Round(tuple(sizes)))
            return data

        @override
        def read_ends(self, key: str, first: int, last: int) -> tuple[int, memoryview, memoryview]:
            seen.append(Round(((key, first), (key, last))))
            return super().read_ends(key, first, last)

    monkeypatch.setattr(object_reader, "ObjectReader", Counted)
    return seen


@pytest.fixture(scope="module")
def true_size(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function that writes a store of a config's true size, with every tenth image."""
    folder = tmp_path_factory.mktemp("true")

    def made(config: str, suffix: str) -> Path:
        path = folder / f"{config}{suffix}"
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                write_true_size(path, SIZES[config], picture(), patch, every=10)
        return path

    return made


MOST_ROUNDS: Final = {".zarr": 4, ".h5": 5}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("config", list(SIZES))
@pytest.mark.parametrize("split", ["train", "validation"])
def test_first_sample_round_trips(
    true_size: Callable[[str, str], Path],
    rounds: list[Round],
    config: str,
    suffix: str,
    split: str,
) -> None:
    path = true_size(config, suffix)
    sample = arraystore.open((LocalStore(path.parent), path.name))[split][5000]
    assert sample.image.shape == (12, 16, 3)
    assert 1 < len(rounds) <= MOST_ROUNDS[suffix], rounds


def test_columns_are_requested_together(
    true_size: Callable[[str, str], Path], rounds: list[Round]
) -> None:
    path = true_size("1pct", ".zarr")
    _ = arraystore.open((LocalStore(path.parent), path.name))["train"].image_bytes[10]
    names = [sorted(key.split("/")[1] for key, _ in one.requests) for one in rounds[1:]]
    assert names == [["image_crc32c", "image_nbytes", "image_start"], ["image_payload"]]


def test_hdf5_chunks_are_requested_together(
    true_size: Callable[[str, str], Path],
    rounds: list[Round],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (open_container, cached_object):
        monkeypatch.setattr(module, "PAGE_NBYTES", 2**15)  # so that they do not lie in the tail
    path = true_size("1pct", ".h5")
    stored = arraystore.open((LocalStore(path.parent), path.name)).stored("train")
    _ = stored.info
    rounds.clear()
    stored.columns.load(("image_start", "image_nbytes", "image_crc32c"))
    *_, last = rounds
    assert len(last.requests) >= 3
    assert sum(len(one.requests) > 1 for one in rounds) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_later_batch_is_one_round_trip(
    true_size: Callable[[str, str], Path], rounds: list[Round], suffix: str
) -> None:
    path = true_size("1pct", suffix)
    train = arraystore.open((LocalStore(path.parent), path.name))["train"]
    _ = train[10]
    rounds.clear()
    _ = train[[20, 5000, 40, 12000]]
    assert len(rounds) == 1


QUERIES: Final[dict[str, tuple[int, Callable[[arraystore.Store], Any]]]] = {
    "number": (1, lambda store: store["train"].where(label=5)),
    "numbers": (1, lambda store: store["train"].where(label=[5, 7])),
    "id": (2, lambda store: store["train"].where(label="n00000005")),
    "names": (1, lambda store: (store.label_names, store.label_words)),
    "counts": (1, lambda store: store["train"].label_counts()),
    "groups": (1, lambda store: store["train"].per_label(2)),
}
"""Round trips of queries after the metadata of the columns."""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("query", list(QUERIES))
def test_query_round_trips(
    true_size: Callable[[str, str], Path],
    rounds: list[Round],
    suffix: str,
    query: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (open_container, cached_object):
        monkeypatch.setattr(module, "PAGE_NBYTES", 2**12)  # the columns do not lie in the tail
    path = true_size("1pct", suffix)
    store = arraystore.open((LocalStore(path.parent), path.name))
    read_metadata(store)
    rounds.clear()
    n_rounds, ask = QUERIES[query]
    ask(store)
    assert len(rounds) == n_rounds, rounds


def read_metadata(store: arraystore.Store) -> None:
    """Read where the columns of labels and classes are, and none of their values."""
    columns = {"train/label_indptr": "int64", "train/label_order": "int64"}
    columns |= {"label_name": "string", "label_words": "string"}
    assert len(store["train"])
    found = store.opened[1].read_rows([(*column, (0, 0)) for column in columns.items()])
    assert [len(values) for values in found] == [0] * len(columns)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_samples_are_one_request_each(
    true_size: Callable[[str, str], Path], rounds: list[Round], suffix: str
) -> None:
    path = true_size("1pct", suffix)
    train = arraystore.open((LocalStore(path.parent), path.name))["train"]
    _ = train[10]
    rounds.clear()
    positions = np.random.default_rng(0).permutation(len(train) // 10)[:256] * 10
    wanted = sum(map(len, train.image_bytes[positions]))
    (batch,) = rounds
    assert len(batch.requests) <= 257
    assert sum(nbytes for _, nbytes in batch.requests) <= 1.01 * wanted


@pytest.fixture(params=SUFFIXES)
def large(
    request: pytest.FixtureRequest, tmp_path: Path, web: WebServer
) -> tuple[arraystore.Split, WebServer]:
    """Thirty pictures of about a megabyte each, behind a web server."""
    image = picture(600, 800)
    padded = image + bytes(2**20 - len(image))  # bytes after the end are ignored
    folder = write_folder(tmp_path, {f"in/train/a/{i:02}.jpg": padded for i in range(30)})
    path = tmp_path / f"large{request.param}"
    arraystore.convert(f"folder:{folder}/in", path, order="label", sync=False)
    web.put(path, path.name)
    return arraystore.open(f"{web.url}/{path.name}")["train"], web


def test_long_run_is_requested_in_parts(
    large: tuple[arraystore.Split, WebServer],
) -> None:
    train, web = large
    first = train.image_bytes[0]
    web.asked.clear()
    web.together = threading.Barrier(8)  # 30 MiB in parts of 4 MiB: one alone would wait forever
    try:
        assert train.image_bytes[:] == [first] * 30
    finally:
        web.together = None
    assert len(web.asked) == 8


def hold_one(web: WebServer, until: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next request wait; a client that waits for it would send another."""
    is_first = threading.Lock()

    def answer(asked: Asked) -> None:
        if is_first.acquire(blocking=False):
            until.wait(PATIENCE)

    web.asked.clear()
    monkeypatch.setattr(web, "answer", answer)


def test_images_are_checked_while_others_arrive(
    path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put(path, path.name)
    train = arraystore.open(f"{web.url}/{path.name}", max_gap=0)["train"]
    expected = arraystore.open(path)["train"].image_bytes[[0, 2, 4]]
    _ = train.image_bytes[0]
    one_is_checked = threading.Event()

    def crc32c_seen(data: memoryview) -> int:
        one_is_checked.set()
        return crc32c(data)

    monkeypatch.setattr("arraystore.reading.stored_split.crc32c", crc32c_seen)
    hold_one(web, one_is_checked, monkeypatch)
    assert train.image_bytes[[0, 2, 4]] == expected
    assert len(web.asked) == 3


@pytest.mark.parametrize("size", [None, 8])
def test_images_are_decoded_while_others_arrive(
    path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    web.put(path, path.name)
    train = arraystore.open(f"{web.url}/{path.name}", max_gap=0)["train"]
    local = arraystore.open(path)["train"]
    _ = train.image_bytes[0]
    one_is_decoded = threading.Event()
    name = "decode" if size is None else "decode_crops"
    real = getattr(decode, name)

    def decode_seen(*arguments: Any) -> Any:
        try:
            return real(*arguments)
        finally:
            one_is_decoded.set()

    def images(split: arraystore.Split) -> Any:
        return (split.image if size is None else split.resized(size))[[0, 2, 4]]

    expected = images(local)
    monkeypatch.setattr(decode, name, decode_seen)
    hold_one(web, one_is_decoded, monkeypatch)
    for found, wanted in zip(images(train), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert len(web.asked) == 3


async def _endless(ended: threading.Event) -> int:
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()
    return 0


async def _one() -> int:
    return 1


async def _failing() -> int:
    raise StorageError("no")


def test_abandoned_requests_are_cancelled() -> None:
    ended = threading.Event()
    found = event_loop.arrivals([_endless(ended), _one()])
    assert next(found) == (1, 1)
    found.close()
    assert ended.wait(PATIENCE)


def test_failed_request_cancels_others() -> None:
    ended = threading.Event()
    with pytest.raises(StorageError, match=r"^no$"):
        list(event_loop.arrivals([_endless(ended), _failing()]))
    assert ended.wait(PATIENCE)


def test_cancelled_scope_cancels_requests() -> None:
    ended, waits = threading.Event(), threading.Event()
    scope = Scope()

    async def endless() -> int:
        waits.set()
        return await _endless(ended)

    def wait_for_it() -> None:
        with pytest.raises(WorkCancelledError):
            scope.run(event_loop.run, endless())
        left.set()

    left = threading.Event()
    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert waits.wait(PATIENCE)
    scope.cancel()
    assert left.wait(PATIENCE)
    assert ended.wait(PATIENCE)
    thread.join(PATIENCE)


def test_early_cancellation_leaves_no_warning() -> None:
    def cancel_and_read(scope: Scope) -> None:
        scope.cancel()
        next(event_loop.arrivals([_one(), _one()]))

    for _ in range(20):
        scope = Scope()
        with pytest.raises(WorkCancelledError):
            scope.run(cancel_and_read, scope)
    assert event_loop.run(_one()) == 1  # all earlier ones are cancelled by now
    gc.collect()


def test_max_in_flight_limits_requests(
    true_size: Callable[[str, str], Path], web: WebServer
) -> None:
    path = true_size("1pct", ".zarr")
    web.put(path / "zarr.json", "few/zarr.json")
    for name in ("image_start", "image_nbytes", "image_crc32c"):
        web.put(path / "train" / name, f"few/train/{name}")
    web.put(path / "train/image_payload/c/0", "few/train/image_payload/c/0")
    train = arraystore.open(f"{web.url}/few", max_in_flight=3)["train"]
    expected = arraystore.open(path)["train"].image_bytes[:500:10]
    waiting, most, lock = 0, 0, threading.Lock()

    class Gate(threading.Barrier):
        @override
        def wait(self, timeout: float | None = None) -> int:
            nonlocal waiting, most
            with lock:
                waiting += 1
                most = max(most, waiting)
            super().wait(timeout)
            with lock:
                waiting -= 1
            return 0

    _ = train.image_bytes[0]
    web.together = Gate(3)
    try:
        assert train.image_bytes[0:480:10] == expected[:48]
    finally:
        web.together = None
    assert most == 3


def test_max_gap_merges_requests(path: Path, web: WebServer) -> None:
    web.put(path, path.name)
    every_other = slice(0, 10, 2)

    def n_requests(**options: Any) -> int:
        train = arraystore.open(f"{web.url}/{path.name}", **options)["train"]
        _ = train.image_bytes[0]
        web.asked.clear()
        assert (
            train.image_bytes[every_other]
            == arraystore.open(path)["train"].image_bytes[every_other]
        )
        return len(web.asked)

    assert n_requests(max_gap=0) == 5
    assert n_requests(max_gap=2**20) == 1


def test_max_gap_on_disk(path: Path) -> None:
    expected = arraystore.open(path)["train"].image_bytes[::2]
    assert arraystore.open(path, max_gap=2**30)["train"].image_bytes[::2] == expected


@pytest.mark.parametrize(
    ("option", "value"), [("max_gap", -1), ("max_in_flight", 0), ("checksum", "never")]
)
def test_invalid_option_raises(path: Path, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be .* got {value!r}$"):
        arraystore.open(path, **{option: value})


def test_server_without_suffix_ranges(path: Path, web: WebServer) -> None:
    web.put(path, path.name)
    web.answer = lambda asked: "no-suffix"
    try:
        assert len(arraystore.open(f"{web.url}/{path.name}")["train"]) == 30
    finally:
        web.answer = lambda asked: None


def test_etag_of_first_response_is_required(path: Path, web: WebServer) -> None:
    web.put(path, path.name)
    train = arraystore.open(f"{web.url}/{path.name}", max_gap=0)["train"]
    _ = train.image_bytes[0]
    web.asked.clear()
    _ = train.image_bytes[[3, 7]]
    assert len(web.asked) == 2
    assert all(asked.if_match for asked in web.asked)


def test_weak_etag_is_not_sent(path: Path, web: WebServer) -> None:
    name = f"weak/{path.name}"
    web.put(path, name)
    web.etags |= {key: 'W/"1"' for key in web.objects if key.startswith(name)}
    train = arraystore.open(f"{web.url}/{name}")["train"]
    assert train.image_bytes[:] == arraystore.open(path)["train"].image_bytes[:]
    assert not any(asked.if_match for asked in web.asked if asked.path.startswith("weak"))


def test_obstore_store_has_name_in_messages() -> None:
    for store, name in ((MemoryStore(), "MemoryStore"), (HTTPStore("http://a.b"), "HTTPStore")):
        assert str(Location.parse((store, "a/b"))) == f"<{name}>/a/b"
