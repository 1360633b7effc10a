"""Encoded images in every form: same bytes, few waits, and no signal."""

from __future__ import annotations

import os
import pickle
import shutil
import weakref
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import FormatError, ShortReadError, StorageError
from arraystore.indexing.byte_range import ZEROS, ChunkManifest
from arraystore.reading import image_reader
from arraystore.storage import open_files, range_reader
from arraystore.storage.open_files import OpenFile
from tests.support import SUFFIXES, copied, picture, write_folder

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

N = 40
SHARD = 4096

named = pytest.mark.parametrize
on_one_store = settings(
    max_examples=10,
    # The fixtures are never changed.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def arena(split: arraystore.Split, selection: Any) -> list[bytes]:
    data, offsets = split.image_arena(selection)
    assert data.dtype == np.uint8
    assert offsets.dtype == np.int64
    assert (offsets[0], offsets[-1]) == (0, len(data))
    return [bytes(data[a:b]) for a, b in pairwise(offsets)]


MANY: dict[str, Callable[[arraystore.Split, Any], list[bytes]]] = {
    "image_bytes": lambda split, selection: split.image_bytes[selection],
    "image_views": lambda split, selection: list(map(bytes, split.image_views[selection])),
    "image_arena": arena,
}
every_way = named("read", MANY.values(), ids=MANY)


@pytest.fixture(scope="module", params=SUFFIXES)
def small_shards(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[bytes]]:
    """A store whose images lie in many shards, some in two or three; and the images."""
    folder = tmp_path_factory.mktemp("shards")
    images = [picture(seed=i) + bytes([i]) * (i % 7 * 900) for i in range(N)]
    source = write_folder(
        folder / "in", {f"train/a/{i:02d}.jpg": data for i, data in enumerate(images)}
    )
    target = folder / f"store{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD)
        arraystore.convert(f"folder:{source}", target, order="source", sync=False)
    return target, images


@pytest.fixture(params=[True, False], ids=["in the page cache", "on the disk"])
def _cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Make files appear cached, or not."""
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: request.param)
    return bool(request.param)


@every_way
@named("options", [{}, {"mmap": False}, {"checksum": "always"}], ids=str)
@pytest.mark.usefixtures("_cache")
@on_one_store
@given(
    selection=st.lists(st.integers(-N, N - 1), max_size=60)
    | st.slices(N)
    | st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)
)
def test_every_form_matches_numpy(
    small_shards: tuple[Path, list[bytes]],
    read: Callable[[arraystore.Split, Any], list[bytes]],
    options: dict[str, Any],
    selection: Any,
) -> None:
    path, images = small_shards
    numbers = np.arange(N)[selection].tolist()
    assert read(arraystore.open(path, **options)["train"], selection) == [
        images[i] for i in numbers
    ]


@named("options", [{}, {"mmap": False}], ids=str)
@named("trusted", [-1, 1e9], ids=["looked at each time", "trusted"])
def test_single_image_matches_batch(
    small_shards: tuple[Path, list[bytes]],
    options: dict[str, Any],
    trusted: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, images = small_shards
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", trusted)
    train = arraystore.open(path, **options)["train"]
    if not options:  # all of them are copied from a map, in one piece or more
        monkeypatch.setattr(image_reader.ImageReader, "copies", None)
    assert [train.image_bytes[i] for i in range(N)] == images
    assert [bytes(train.image_views[i]) for i in range(N)] == images
    assert [train.image_bytes[-i] for i in (1, N)] == [images[-1], images[0]]


@every_way
def test_joined_splits_keep_order(
    store: arraystore.Store, read: Callable[[arraystore.Split, Any], list[bytes]]
) -> None:
    both = store["validation[3:9]+train[:4]"]
    expected = store["validation"].image_bytes[3:9] + store["train"].image_bytes[:4]
    assert read(both, slice(None)) == expected
    assert [both.image_bytes[i] for i in range(10)] == expected


@pytest.mark.usefixtures("_cache")
def test_view_is_read_only_and_outlives_store(
    small_shards: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    path, images = small_shards
    copy = tmp_path / path.name
    copied(path, copy)
    views = arraystore.open(copy)["train"].image_views[:]
    assert all(view.readonly for view in views)
    shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    open_files.close_idle_files()
    assert list(map(bytes, views)) == images


def test_view_is_not_a_copy(small_shards: tuple[Path, list[bytes]]) -> None:
    path, _ = small_shards
    first, second = (
        np.frombuffer(arraystore.open(path)["train"].image_views[0], np.uint8) for _ in range(2)
    )
    assert first.ctypes.data == second.ctypes.data


@every_way
@named("before", [False, True], ids=["not read before", "read before"])
@pytest.mark.usefixtures("_cache")
def test_truncated_file_raises(
    small_shards: tuple[Path, list[bytes]],
    tmp_path: Path,
    read: Callable[[arraystore.Split, Any], list[bytes]],
    *,
    before: bool,
) -> None:
    path, images = small_shards
    copy = tmp_path / path.name
    copied(path, copy)
    train = arraystore.open(copy)["train"]
    assert train.image_bytes[0] == images[0]
    if before:
        _ = train.image_views[:]
    cut = copy
    if path.is_dir():
        cut = max(copy.rglob("image_payload/c/*"), key=lambda shard: int(shard.name))
    os.truncate(cut, 100)
    with pytest.raises((FormatError, ShortReadError, StorageError)):
        read(train, slice(None))
    with pytest.raises((FormatError, ShortReadError, StorageError)):
        _ = train.image_bytes[N - 1]


@named("options", [{}, {"mmap": False}], ids=str)
def test_truncated_shard_raises_for_single_image(
    small_shards: tuple[Path, list[bytes]], tmp_path: Path, options: dict[str, Any]
) -> None:
    path, images = small_shards
    copy = tmp_path / path.name
    if path.suffix == ".h5":
        copy.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ShortReadError, match="truncated"):
            arraystore.open(copy, **options)
        return
    shutil.copytree(path, copy)
    os.truncate(copy / "train/image_payload/c/0", len(images[0]) - 1)
    train = arraystore.open(copy, **options)["train"]
    for _ in range(2):
        with pytest.raises((FormatError, ShortReadError), match="image_payload/c/0"):
            _ = train.image_bytes[0]
    assert train.image_bytes[N - 1] == images[-1]


def test_many_shards_keep_few_files_open(
    small_shards: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images = small_shards
    monkeypatch.setattr(open_files, "_open_files", open_files._OpenFiles())
    monkeypatch.setattr(open_files, "_MAX_OPEN", 4)
    train = arraystore.open(path)["train"]
    assert train.image_bytes[:] == images
    assert [train.image_bytes[i] for i in range(N)] == images
    assert len(open_files._open_files._files) <= 4


def n_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_views_of_many_files_take_no_descriptors(
    small_shards: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images = small_shards
    monkeypatch.setattr(open_files, "_open_files", open_files._OpenFiles())
    monkeypatch.setattr(open_files, "_MAX_OPEN", 2)
    before = n_descriptors()
    views = arraystore.open(path)["train"].image_views[:]
    views_take = image_reader._MAX_VIEWED if open_files.MAPS_TAKE_DESCRIPTORS else 0
    assert n_descriptors() - before <= 2 * open_files._DESCRIPTORS + views_take
    assert list(map(bytes, views)) == images


def test_uncached_images_are_announced(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train.image_bytes[::4]
    called: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            called.append(name)
            return real(*args)

        return call

    for name in ("posix_fadvise", "pread"):
        monkeypatch.setattr(os, name, noting(name))
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: False)
    assert train.image_bytes[::4] == expected
    assert called == ["posix_fadvise"] * len(expected) + ["pread"] * len(expected)


def test_batches_after_cache_miss_are_read(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few probes can overlook images that are not cached."""
    read: list[int] = []

    def note(file: OpenFile, offset: int, nbytes: int) -> bytes:
        read.append(nbytes)
        return os.pread(file.fd, nbytes, offset)

    def n_read() -> int:
        read.clear()
        _ = train.image_bytes[:]
        return len(read)

    _ = train.image_bytes[0]  # loads columns
    monkeypatch.setattr(range_reader, "read_at", note)
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: True)
    assert n_read() == 0
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: False)
    assert n_read() == len(train)
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: True)
    assert [n_read() for _ in range(range_reader._UNCACHED_BATCHES)] == [len(train)] * 15 + [0]


def test_announcements_have_limited_lead(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train.image_bytes[:]
    lead: list[int] = [0]

    def read(file: OpenFile, offset: int, nbytes: int) -> bytes:
        lead.append(lead[-1] - nbytes)
        return os.pread(file.fd, nbytes, offset)

    monkeypatch.setattr(range_reader, "_LEAD_NBYTES", 10_000)
    monkeypatch.setattr(range_reader, "read_at", read)
    monkeypatch.setattr(OpenFile, "is_cached", lambda self, offset: False)
    monkeypatch.setattr(
        OpenFile, "read_ahead", lambda self, offset, nbytes: lead.append(lead[-1] + nbytes)
    )
    assert train.image_bytes[:] == expected
    assert 10_000 < max(lead) <= 10_000 + max(map(len, expected))
    assert lead[-1] == 0


def test_mmap_false_is_pickled(path: Path) -> None:
    train = pickle.loads(pickle.dumps(arraystore.open(path, mmap=False)["train"]))
    assert not train._sample_set.only.stored.handle.reader.has_maps


@named("options", [{}, {"mmap": False}], ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_image_across_shards_excludes_index(
    suffix: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD)
    last = picture(seed=1)
    first = picture(seed=0).ljust(SHARD + 10 - len(last), b"\0")
    source = write_folder(tmp_path / "in", {"train/a/0.jpg": first, "train/a/1.jpg": last})
    target = tmp_path / f"store{suffix}"
    arraystore.convert(f"folder:{source}", target, order="source", sync=False)
    train = arraystore.open(target, **options)["train"]
    assert [train.image_bytes[i] for i in (0, 1)] == [first, last]


def test_missing_chunks_are_zeros(train: arraystore.Split) -> None:
    _ = train.image_bytes[0]
    only = train._sample_set.only
    assert only is not None
    stored = only.stored._images
    nowhere = np.full(2, ZEROS)
    stored.manifest = ChunkManifest(("x",), np.zeros(2, np.int64), nowhere, SHARD, 2 * SHARD)
    places = np.array([0, SHARD - 100]), np.array([10, 200])
    assert stored.copies(*places) == [bytes(10), bytes(200)]
    assert isinstance(stored._reader, range_reader.LocalReader)
    stored._local = image_reader._LocalImages(stored._reader, stored.manifest)
    del stored.copy
    assert [stored.copy(*place) for place in zip(*places, strict=True)] == [bytes(10), bytes(200)]
    assert list(map(bytes, stored.views(*places))) == [bytes(10), bytes(200)]


@named("options", [{}, {"mmap": False}], ids=str)
def test_empty_range_at_end(path: Path, options: dict[str, Any]) -> None:
    only = arraystore.open(path, **options)["train"]._sample_set.only
    assert only is not None
    stored = only.stored._images
    end = stored.manifest.chunk_nbytes * len(stored.manifest.start)
    assert stored.copy(end, 0) == b""
    assert stored.copies(np.array([end, 0]), np.array([0, 0])) == [b"", b""]


def test_closing_file_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls `__del__` while weak references still return the object."""
    (tmp_path / "a").write_bytes(b"a")
    file = OpenFile(str(tmp_path / "a"))
    known = weakref.ref(file)
    found: list[OpenFile | None] = []

    def note(fd: int) -> None:
        found.append(known())
        close(fd)

    close = os.close
    monkeypatch.setattr(os, "close", note)
    del file
    assert found == [None]


@named("trusted", [-1, 1e9], ids=["looked at each time", "trusted"])
def test_image_across_many_chunks(
    train: arraystore.Split, trusted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", trusted)
    expected = train.image_bytes[0]
    only = train._sample_set.only
    assert only is not None
    stored, start = only.stored._images, only.stored._ranges[0].item(0)
    key, first = stored.manifest.whole(0) or ("", 0)
    n = min(stored.manifest.chunk_nbytes, stored.manifest.nbytes)
    tiny = ChunkManifest((key,), np.zeros(n, np.int64), first + np.arange(n), 1, n)
    assert isinstance(stored._reader, range_reader.LocalReader)
    stored.manifest = tiny
    stored._local = image_reader._LocalImages(stored._reader, tiny)
    del stored.copy
    assert stored.copy(start, len(expected)) == expected
    assert stored.copy(start, 5) == expected[:5]


def test_copies_hold_one_map_at_a_time(
    small_shards: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images = small_shards
    maps: weakref.WeakSet[Any] = weakref.WeakSet()
    n_held: list[int] = []

    def mapped(fd: int) -> mmap.mmap:
        n_held.append(len(maps))
        maps.add(made := real(fd))
        return made

    real = open_files._mapped
    monkeypatch.setattr(open_files, "_mapped", mapped)
    monkeypatch.setattr(image_reader, "MAPS_TAKE_DESCRIPTORS", True)
    monkeypatch.setattr(open_files, "_open_files", open_files._OpenFiles())
    monkeypatch.setattr(open_files, "_MAX_OPEN", 1)
    train = arraystore.open(path)["train"]
    for n in range(1, N):
        assert train.image_bytes[:n] == images[:n]
    assert max(n_held) <= 2
    for n in range(1, N):
        assert list(map(bytes, train.image_views[:n])) == images[:n]
    assert max(n_held) <= image_reader._MAX_VIEWED


@named("options", [{}, {"mmap": False}], ids=str)
def test_image_beyond_file_raises(path: Path, options: dict[str, Any]) -> None:
    train = arraystore.open(path, **options)["train"]
    _ = train.image_bytes[0]
    only = train._sample_set.only
    assert only is not None
    stored = only.stored._images
    key, _ = stored.manifest.whole(0) or ("", 0)
    size = (path / key if path.is_dir() else path).stat().st_size
    beyond = ChunkManifest((key,), np.array([0]), np.array([size - 10]), SHARD, SHARD)
    assert isinstance(stored._reader, range_reader.LocalReader)
    stored.manifest = beyond
    stored._local = image_reader._LocalImages(stored._reader, beyond)
    del stored.copy
    assert len(stored.copy(0, 10)) == 10
    places = np.array([0, 5]), np.array([10, 6])
    for read in (stored.copies, stored.views, lambda *_: [stored.copy(5, 6)]):
        with pytest.raises(ShortReadError, match="truncated"):
            read(*places)


def test_changed_store_raises_for_every_single_image(
    small_shards: tuple[Path, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = small_shards
    copy = tmp_path / path.name
    copied(path, copy)
    train = arraystore.open(copy)["train"]
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", -1)
    _ = train.image_bytes[0], train.image_bytes[0]
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", 1e9)
    os.utime(copy / "zarr.json" if copy.is_dir() else copy)
    for _ in range(3):
        with pytest.raises(StorageError, match="has changed"):
            _ = train.image_bytes[0]
