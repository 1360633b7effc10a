"""Objects as files and paths: the bytes and names of the object, by few requests."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from arraystore.errors import SourceChangedError
from arraystore.storage.buckets import Buckets, ObjectFile, ObjectPath, states_of
from arraystore.storage.file_bytes import FileBytes
from arraystore.storage.file_states import FileState, FileStates
from arraystore.storage.objects import connection
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = np.random.default_rng(0).bytes(1000)


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        server.objects["bucket/a/data"] = DATA
        yield server


@pytest.fixture
def path(web: WebServer) -> ObjectPath:
    found = Buckets(web.s3).path("s3://bucket/a/data")
    assert isinstance(found, ObjectPath)
    web.asked.clear()
    return found


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(connection, "_in_memory", [store])
    return store


@settings(max_examples=25)
@given(
    reads=st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 300)), max_size=8),
    least=st.integers(1, 100),
    most=st.integers(100, 400),
    gap=st.integers(0, 200),
)
def test_reads_of_an_object_are_those_of_a_file(
    reads: list[tuple[int, int]], least: int, most: int, gap: int
) -> None:
    connection.connect_memory().put("test_buckets", DATA)
    path = Buckets().path("memory://test_buckets")
    assert isinstance(path, ObjectPath)
    file = ObjectFile(path, path.state(), least=least, most=most, max_gap=gap)
    plain = io.BytesIO(DATA)
    for offset, nbytes in reads:
        assert file.seek(offset) == plain.seek(offset)
        assert file.read(nbytes) == plain.read(nbytes)
        assert file.tell() == plain.tell()


def test_requests_grow_while_reading_front_to_back(web: WebServer, path: ObjectPath) -> None:
    file = ObjectFile(path, path.state(), least=50, most=200)
    assert b"".join(iter(lambda: file.read(10), b"")) == DATA
    ranges = [asked.range for asked in web.asked if asked.range]
    starts = [0, 50, 150, 350, 550, 750, 950]
    assert sorted(ranges, key=lambda text: int(text[6:].partition("-")[0])) == [
        f"bytes={a}-{b - 1}" for a, b in zip(starts, [*starts[1:], 1000], strict=True)
    ]
    file.seek(-5, io.SEEK_END)
    assert file.readall() == DATA[-5:]


def test_object_that_changes_between_reads_raises(web: WebServer, path: ObjectPath) -> None:
    file = ObjectFile(path, path.state(), least=50)
    assert file.read_at(0, 10) == DATA[:10]
    web.etags["bucket/a/data"] = '"other"'
    try:
        with pytest.raises(SourceChangedError, match=r"s3://bucket/a/data: .*ETag differs"):
            file.read_at(100, 10)
    finally:
        web.etags.clear()


def test_states_are_the_same_in_listing_and_response(memory: MemoryStore) -> None:
    for name in ("a/1", "a/b/2", "a/b/é #%.jpg"):
        memory.put(name, name.encode())
    root = Buckets().path("memory://a")
    assert isinstance(root, ObjectPath)
    names, states = root.below()
    assert names == ["1", "b/2", "b/é #%.jpg"]
    assert list(states.paths) == [f"memory://a/{name}" for name in names]
    states.check()
    assert np.array_equal(states.values, states_of([root / name for name in names]).values)


@pytest.mark.parametrize("n", [3, 300])
def test_replaced_and_deleted_objects_are_found(n: int, memory: MemoryStore) -> None:
    """Few are looked up one by one, many are listed."""
    for i in range(n):
        memory.put(f"a/{i:03}", b"x")
    root = Buckets().path("memory://a")
    assert isinstance(root, ObjectPath)
    _, states = root.below()
    states.check()
    memory.put("a/001", b"y")
    with pytest.raises(SourceChangedError, match="memory://a/001: changed since reading began"):
        states.check()
    memory.delete("a/001")
    with pytest.raises(SourceChangedError, match="memory://a/001: no longer exists"):
        states.check()


def test_states_of_responses_are_compared_with_other_ones_of_listings(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were taken before the service was known to list other ETags."""
    monkeypatch.setattr(web, "listed_etag", "-2")
    path = Buckets(web.s3).path("s3://bucket/a/data")
    states = states_of([path])
    monkeypatch.setattr("arraystore.storage.objects.listed_objects._MAX_HEADS", 0)
    states.check()
    assert [bool(value) for value in states[0]] == [True, True, False, True, False]
    monkeypatch.setitem(web.objects, "bucket/a/data", DATA + b"x")
    with pytest.raises(SourceChangedError, match="size was 1,000 and is 1,001"):
        states.check()


def test_listing_with_many_other_objects_is_given_up(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arraystore.storage.objects.listed_objects._MAX_OTHERS", 10)
    for i in range(900):
        memory.put(f"a/{i:03}", b"x")
    root = Buckets().path("memory://a")
    assert isinstance(root, ObjectPath)
    _, states = root.below()
    wanted = states.take(np.arange(600, 900))
    wanted.check()
    memory.put("a/899", b"yy")
    with pytest.raises(SourceChangedError, match=r"a/899: .*size was 1 and is 2"):
        wanted.check()


def test_near_ranges_share_a_request(web: WebServer, path: ObjectPath) -> None:
    states = states_of([path])
    web.asked.clear()
    files = FileBytes(states)
    start, nbytes = np.array([500, 0, 20]), np.array([100, 10, 0])
    files.fetch(np.zeros(3, np.int32), start, nbytes)
    assert [asked.range for asked in web.asked] == ["bytes=0-599"]
    assert bytes(files.read(0, 510, 20)) == DATA[510:530]
    assert len(web.asked) == 1
    assert bytes(files.read(0, 590, 20)) == DATA[590:610]  # was not fetched whole
    assert len(web.asked) == 2


def test_files_and_objects_are_read_together(
    path: ObjectPath, web: WebServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    states = states_of([tmp_path / "file", path])
    assert list(states.paths) == [str(tmp_path / "file"), "s3://bucket/a/data"]
    assert states[0].nbytes == 10
    assert states[1].nbytes == 1000
    files = FileBytes(states)
    files.fetch(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert [bytes(files.read(0, 2, 4)), bytes(files.read(1, 3, 5))] == [b"2345", DATA[3:8]]
    received: FileStates = pickle.loads(pickle.dumps(states))
    received.check()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SourceChangedError, match="file: changed"):
        states.check()


def test_states_are_found_by_their_paths(memory: MemoryStore) -> None:
    for i in range(20):
        memory.put(f"a/{i:02}", b"x" * i)
    root = Buckets().path("memory://a")
    assert isinstance(root, ObjectPath)
    _, states = root.below()
    wanted = ["memory://a/17", "memory://a/03", "memory://a/17"]
    found = states.find(wanted)
    assert list(found.paths) == wanted
    assert [state.nbytes for state in found] == [17, 3, 17]
    assert len(states.find([])) == 0
    for absent in ("memory://a/20", "memory://b/03"):
        with pytest.raises(KeyError, match=absent):
            states.find([absent])


def test_names_of_paths_are_those_of_pathlib() -> None:
    path = Buckets().path("s3://bucket/a/b.tar.gz/")
    assert isinstance(path, ObjectPath)
    assert (path.name, path.stem, path.suffix) == ("b.tar.gz", "b.tar", ".gz")
    assert str(path.parent / "c") == "s3://bucket/a/c"
    assert str(path.parent.parent) == "s3://bucket/"
    assert path.parent.parent.name == "bucket"
    assert path.parts == ("bucket", "a", "b.tar.gz")
    assert path == Buckets().path("s3://bucket/a/b.tar.gz")
    assert path != path.parent
    assert sorted([path / "b", path / "a" / "z"]) == [path / "a" / "z", path / "b"]
    assert str(Buckets().path("https://host/a b.tar")) == "https://host/a%20b.tar"


def test_file_url_is_a_path(tmp_path: Path) -> None:
    assert Buckets().path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


def test_etags_are_compared_without_quotes() -> None:
    one, other = FileState.of_object(1, 2, '"abc"'), FileState.of_object(1, 2, '"abd"')
    assert one == FileState.of_object(1, 2, "abc") == FileState.of_object(1, 2, 'W/"abc"')
    assert one != other
    assert FileState.of_object(1, 2, None).changed_ns == 0
