"""Stores in other processes: pickled without secrets of the environment, refused after a fork."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.errors import StorageError
from arraystore.storage.objects import event_loop
from tests.reading.test_remote import KEYS, in_memory
from tests.test_reader import forks, in_forked_child
from tests.web import PATIENCE, Asked, WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET: Final = "wJalrXUtnFEMI"


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def address(path: Path, web: WebServer) -> str:
    web.put(path, f"bucket/{path.name}")
    return f"s3://bucket/{path.name}"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, web: WebServer) -> None:
    """Set credentials and endpoint in variables of Amazon's tools."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


def put_into_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def read(split: arraystore.Split) -> list[bytes]:
    return split.image_bytes[::3]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_read_a_pickled_store(
    address: str, environment: None, path: Path, method: str
) -> None:
    train = arraystore.open(address)["train"]
    expected = train.image_bytes[::3]
    # A fork server keeps the environment of the test that started it.
    mine = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with multiprocessing.get_context(method).Pool(1, put_into_environment, (mine,)) as pool:
        found = pool.map_async(read, [train, train]).get(PATIENCE)
    assert found == [expected, expected]


@pytest.mark.parametrize("thing", ["store", "split"])
def test_pickle_has_no_secret_of_the_environment(
    address: str, environment: None, thing: str
) -> None:
    store = arraystore.open(address)
    data = pickle.dumps(store if thing == "store" else store["train"])
    assert SECRET.encode() not in data
    assert len(data) < 600


def test_pickle_keeps_options(address: str, web: WebServer) -> None:
    options = KEYS | {"endpoint_url": web.url}
    store = arraystore.open(address, storage_options=options, max_gap=7, max_in_flight=2)
    again = pickle.loads(pickle.dumps(store))
    assert again._handle.options == store._handle.options
    assert again._handle.location.options == options
    assert again["train"].image_bytes[3] == store["train"].image_bytes[3]


def test_reader_refuses_to_be_pickled(path: Path) -> None:
    store = in_memory(path)
    with pytest.raises(TypeError, match="may hold secrets; pickle the store"):
        pickle.dumps(store.opened)


def outcome(act: Any) -> bytes:
    """Return the error that `act` raises, as text."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - any error is reported
        return f"{type(error).__name__}: {error}".encode()
    return b"nothing"


@forks
@pytest.mark.parametrize("used", ["inherited", "pickled", "opened again"])
def test_forked_child_raises_with_the_remedy(
    address: str, web: WebServer, environment: None, used: str
) -> None:
    train = arraystore.open(address)["train"]
    _ = train.image_bytes[0]

    data = pickle.dumps(train)

    def act() -> None:
        if used == "inherited":
            split = train
        elif used == "pickled":
            split = pickle.loads(data)
        else:
            split = arraystore.open(address)["train"]
        _ = split.image_bytes[5]

    message = in_forked_child(lambda: outcome(act)).decode()
    assert message.startswith("StorageError: this process was forked after")
    assert 'multiprocessing_context="forkserver"' in message
    assert train.image_bytes[5]


@forks
def test_forked_pool_raises_instead_of_hanging(address: str, environment: None) -> None:
    train = arraystore.open(address)["train"]
    _ = train.image_bytes[0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        asked = pool.apply_async(read, (train,))
        with pytest.raises(StorageError, match='multiprocessing_context="forkserver"'):
            asked.get(PATIENCE)


def test_worker_reports_that_memory_is_not_shared(path: Path) -> None:
    train = in_memory(path)["train"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        asked = pool.apply_async(read, (train,))
        message = r"memory://in/memory/.*: there is nothing here; memory:// is the memory of one pr"
        with pytest.raises(FileNotFoundError, match=message):
            asked.get(PATIENCE)


def test_unpickled_store_is_opened_when_used(
    address: str, environment: None, web: WebServer
) -> None:
    data = pickle.dumps(arraystore.open(address)["train"])
    web.asked.clear()
    train = pickle.loads(data)
    assert web.asked == []
    assert train.image_bytes[3]
    assert web.asked != []


@forks
def test_child_forked_before_first_use_reads(
    address: str, web: WebServer, environment: None, path: Path
) -> None:
    expected = arraystore.open(path)["train"].image_bytes[5]
    code = (
        "import os, sys, arraystore\n"
        "if os.fork() == 0:\n"
        "    print(len(arraystore.open(sys.argv[1])['train'].image_bytes[5]), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, address], check=True, capture_output=True, timeout=PATIENCE
    )
    assert int(found.stdout) == len(expected)


@forks
def test_forked_child_reads_local_store(address: str, environment: None, path: Path) -> None:
    _ = arraystore.open(address)["train"].image_bytes[0]
    local = arraystore.open(path)["train"]
    assert in_forked_child(lambda: local.image_bytes[5]) == local.image_bytes[5]


def test_check_compares_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    event_loop.check_process()
    monkeypatch.setattr(event_loop._background, "_process", -1)
    with pytest.raises(StorageError, match="forked"):
        event_loop.check_process()


def test_process_ends_while_loop_runs(address: str, environment: None) -> None:
    code = "import sys, arraystore; print(len(arraystore.open(sys.argv[1])['train'].label))"
    found = subprocess.run(
        [sys.executable, "-c", code, address], check=True, capture_output=True, timeout=PATIENCE
    )
    assert (found.stdout, found.stderr) == (b"30\n", b"")


# Ctrl-C while a server does not answer


def is_of_images(asked: Asked) -> bool:
    return asked.method == "GET" and (asked.path.endswith(".h5") or "/c/" in asked.path)


READING: Final = """
for _ in train.batches(4, size=8): pass
for _ in train.batches(4, shuffle="block", buffer_size=8): pass
for _ in train: pass
for _ in train.episodes(1, 1, 1): pass
train.image[:]
train.image_bytes[:]
arraystore.verify(sys.argv[1])
arraystore.copy(sys.argv[1], sys.argv[2], sync=False)
"""

READER: Final = """
import sys, arraystore
train = arraystore.open(sys.argv[1])["train"]
_ = train.image[:2], train.label, train.file_name
for reading in sys.stdin:
    try:  # a late request of the reading before can end the wait for the first of this one
        print("begun", flush=True)
        exec(compile(reading, "reading", "exec"))
    except (KeyboardInterrupt, SystemError) as error:
        # h5py raises SystemError from an interrupt that arrives in one of its callbacks.
        if not isinstance(error.__cause__ or error, KeyboardInterrupt):
            raise
        print("interrupted", flush=True)
"""


def test_interrupt_ends_reading_from_silent_server(path: Path, tmp_path: Path) -> None:
    asked = threading.Event()

    def answer(request: Asked) -> str | None:
        if not is_of_images(request):
            return None
        asked.set()
        return "silence"

    with WebServer() as server:
        server.put(path, path.name)
        child = subprocess.Popen(
            [sys.executable, "-c", READER, f"{server.url}/{path.name}", tmp_path / path.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        limit = threading.Timer(PATIENCE / 2, child.kill)  # the server is silent for twice as long
        limit.start()
        try:
            for reading in READING.strip().splitlines():
                asked.clear()
                child.stdin.write(f"{reading}\n")
                child.stdin.flush()
                assert child.stdout.readline() == "begun\n"
                server.answer = answer
                assert asked.wait(PATIENCE)
                child.send_signal(signal.SIGINT)
                # Python drops an interrupt that arrives in the callback of a weak reference.
                while not select.select([child.stdout], [], [], PATIENCE / 20)[0]:
                    child.send_signal(signal.SIGINT)
                assert child.stdout.readline() == "interrupted\n", reading
            child.stdin.close()
            assert child.wait(PATIENCE) == 0
        finally:
            limit.cancel()
            child.kill()
            child.wait(PATIENCE)
            child.stdout.close()
