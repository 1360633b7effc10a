"""Reads and memory that must not grow with the number of samples."""

from __future__ import annotations

import tracemalloc
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from obstore.store import LocalStore

import arraystore
from arraystore.containers import open_container
from arraystore.containers.hdf5 import cached_object
from arraystore.containers.hdf5 import writer as hdf5_writer
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.containers.zarr.shards import ShardKeys, ShardManifest
from arraystore.dataset.batches import Epoch
from arraystore.errors import FormatError
from arraystore.indexing.byte_range import ChunkManifest
from arraystore.indexing.sampling import block_buffers
from arraystore.reading import column_reader, stored_split
from arraystore.reading.chunk_cache import ChunkCache
from arraystore.schema import COLUMNS
from arraystore.storage.objects.reader import ObjectReader
from arraystore.storage.range_reader import LocalReader
from tests.support import SUFFIXES, CountingReader, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROWS: Final = 8
"""Rows of a chunk in these tests."""

N: Final = 50
N_CLASSES: Final = 5
OF_SAMPLES: Final = [name for name, column in COLUMNS.items() if column.dimension == "sample"]
named = pytest.mark.parametrize


def store_of(path: Path, n: int) -> Path:
    """Write a store with `n` images of a few bytes and names of different lengths."""
    rng = np.random.default_rng(n)
    names = [f"é{i:04}{'x' * (i % 30)}.jpg" for i in range(n)]
    labels = np.arange(n) % N_CLASSES
    labels[3] = -1
    images = [rng.bytes(i % 7) for i in range(n)]
    classes = [f"c{k}" for k in range(N_CLASSES)]
    return write_store(path, names, labels, images, classes=classes, order="source")


@pytest.fixture(scope="module")
def small_chunks() -> Iterator[None]:
    """Make chunks of `ROWS` rows, and treat every split as a large one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (column_reader, stored_split, zarr_writer, hdf5_writer):
            patch.setattr(module, "COLUMN_CHUNK_ROWS", ROWS)
        patch.setattr(column_reader, "WHOLE_SAMPLES", 0)
        yield


@pytest.fixture(scope="module", params=SUFFIXES)
def grown(
    request: pytest.FixtureRequest,
    small_chunks: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A store of many small chunks; not to be changed."""
    return store_of(tmp_path_factory.mktemp("grown") / f"a{request.param}", N)


@pytest.fixture
def copy(grown: Path, tmp_path: Path) -> Path:
    """A store like `grown`, to be damaged."""
    return store_of(tmp_path / grown.name, N)


def opened_locally(path: Path) -> arraystore.Store:
    return arraystore.open(path)


def opened_remotely(path: Path) -> arraystore.Store:
    return arraystore.open((LocalStore(path.parent), path.name))


everywhere = pytest.mark.parametrize(
    "opened", [opened_locally, opened_remotely], ids=["local", "remote"]
)


def counted(store: arraystore.Store) -> CountingReader:
    """Record every read of a store from now on."""
    counting = CountingReader(store._handle.reader)
    container = store._handle.container
    store._handle._opened = (counting, container)
    container._reader = counting  # type: ignore[attr-defined] # both containers have it
    return counting


def rows_of(split: arraystore.Split, names: Sequence[str], indices: NDArray[np.int64]) -> list[Any]:
    return split._sample_set.gather(indices, lambda s, at, _: s.columns.take(names, at))


@everywhere
def test_concat_of_large_splits_keeps_no_names(
    opened: Callable[[Path], arraystore.Store], grown: Path, copy: Path
) -> None:
    other = copy.with_stem("other")
    names = [f"other{i:04}.jpg" for i in range(N)]
    write_store(other, names, np.zeros(N, int), classes=[f"c{k}" for k in range(N_CLASSES)])
    stores = [opened(path) for path in (grown, other, copy)]
    train, more, same = (store["train"] for store in stores)
    assert len(arraystore.concat([train, more])) == 2 * N
    assert not any(store.stored("train").columns.has_loaded(["file_name"]) for store in stores)
    with pytest.raises(ValueError, match=f"{N} occur more than once"):
        arraystore.concat([train, more, same])


# Rows of columns


@pytest.fixture(scope="module")
def whole(grown: Path) -> dict[str, NDArray[Any]]:
    stored = arraystore.open(grown).stored("train")
    return {name: stored.columns[name] for name in OF_SAMPLES}


@settings(max_examples=25)
@named("whole_samples", [0, 2 * N])
@everywhere
@given(
    takes=st.lists(
        st.tuples(
            st.lists(st.sampled_from(OF_SAMPLES), min_size=1, unique=True),
            st.lists(st.integers(0, N - 1), max_size=12),
        ),
        max_size=4,
    )
)
def test_take_matches_whole_column(
    grown: Path,
    whole: dict[str, NDArray[Any]],
    opened: Callable[[Path], arraystore.Store],
    whole_samples: int,
    takes: list[tuple[list[str], list[int]]],
) -> None:
    stored = opened(grown).stored("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_reader, "WHOLE_SAMPLES", whole_samples)
        for names, at in takes:
            positions = np.array(at, dtype=np.int64)
            for name, found in zip(names, stored.columns.take(names, positions), strict=True):
                assert found.dtype == whole[name].dtype
                assert found.tolist() == whole[name][positions].tolist()
    if not whole_samples:
        assert stored.columns._whole.keys() <= {"label_indptr"}


@everywhere
def test_large_split_reads_as_small(
    grown: Path, opened: Callable[[Path], arraystore.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = opened(grown)["train[5:20]+train[30:]"]
    images = large.image_bytes[::-1]
    label, file_name = rows_of(large, ("label", "file_name"), np.arange(9))
    monkeypatch.setattr(column_reader, "WHOLE_SAMPLES", N)
    small = arraystore.open(grown)["train[5:20]+train[30:]"]
    assert images == small.image_bytes[::-1]
    assert label.tolist() == small.label[:9].tolist()
    assert file_name.tolist() == small.file_name[:9].tolist()


def test_column_is_loaded_after_half_its_chunks(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_reader, "WHOLE_SAMPLES", N)
    stored = arraystore.open(grown).stored("train")
    for number in range(3):
        stored.columns.take(("label",), np.array([number * ROWS]))
    assert "label" not in stored.columns._whole
    stored.columns.take(("label",), np.array([3 * ROWS]))
    assert "label" in stored.columns._whole


# Reads


@pytest.fixture(scope="module", params=SUFFIXES)
def small_and_large(
    request: pytest.FixtureRequest, small_chunks: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A store, and one with ten times as many samples."""
    folder = tmp_path_factory.mktemp("growth")
    return (
        store_of(folder / f"small{request.param}", 60),
        store_of(folder / f"large{request.param}", 600),
    )


READS: Final[dict[str, Callable[[arraystore.Split], Any]]] = {
    "open": len,
    "one image": lambda split: split.image_bytes[41],
    "neighbours": lambda split: split.image_bytes[10:20],
    "batch": lambda split: split.image_bytes[[50, 3, 20, 3]],
    "labels and names": lambda split: rows_of(
        split, ("label", "file_name"), np.array([50, 3, 20, 3])
    ),
    "plan": lambda split: split.read_plan([50, 3]),
    "query": lambda split: split.where(label=0).positions[:3],
}


@named("read", list(READS))
def test_reads_do_not_grow_with_samples(small_and_large: tuple[Path, Path], read: str) -> None:
    counts = []
    for path in small_and_large:
        store = arraystore.open(path)
        reads = counted(store)
        READS[read](store["train"])
        counts.append((len(reads.ranges), reads.nbytes))
    (small, small_nbytes), (large, large_nbytes) = counts
    if read == "query":  # the result is ten times as long
        large -= 10 * 60 // N_CLASSES // ROWS
    # libhdf5 reads metadata in pieces, one more or one less.
    assert large <= small * (1.3 if path.suffix == ".h5" else 1)
    assert large_nbytes < 2 * small_nbytes + 8192


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests in each round trip from now on; no column lies in the ends of an HDF5 file."""
    for module in (open_container, cached_object):
        monkeypatch.setattr(module, "PAGE_NBYTES", 2**10)
    monkeypatch.setattr(open_container, "HEAD_NBYTES", 2**9)
    trips: list[int] = []
    for name in ("arrivals", "read_objects"):
        real = getattr(ObjectReader, name)

        def counting(self: Any, wanted: Any, real: Any = real) -> Any:
            if len(wanted):
                trips.append(len(wanted))
            return real(self, wanted)

        monkeypatch.setattr(ObjectReader, name, counting)
    return trips


def test_remote_batch_takes_large_columns_in_one_round_trip(grown: Path, trips: list[int]) -> None:
    train = opened_remotely(grown)["train"]
    _ = train.image_bytes[5]
    trips.clear()
    _ = train.image_bytes[[10, 20, 30, 40]]
    columns, _ = trips
    assert columns == 12


def test_remote_samples_take_large_columns_in_one_round_trip(grown: Path, trips: list[int]) -> None:
    train = opened_remotely(grown)["train"]
    _ = train._reader.read(np.array([5]))
    trips.clear()
    _ = train._reader.read(np.array([10, 20, 30, 40]))
    columns, _ = trips
    assert columns == 20


@named(("labels", "n_trips"), [(3, 2), ([0, 2, 4], 2), ("c3", 3)])
def test_remote_label_query_of_large_split_takes_two_round_trips(
    grown: Path, trips: list[int], labels: Any, n_trips: int
) -> None:
    store = opened_remotely(grown)
    columns = {"train/label_indptr": "int64", "train/label_order": "int64"}
    columns |= {"label_name": "string", "label_words": "string"}
    assert len(store["train"])
    list(store.opened[1].read_rows([(*column, (0, 0)) for column in columns.items()]))
    trips.clear()
    store["train"].where(label=labels)
    assert len(trips) == n_trips


def test_cached_chunks_are_not_read_again(grown: Path) -> None:
    store = arraystore.open(grown)
    stored = store.stored("train")
    stored.columns.take(OF_SAMPLES, np.arange(N))
    reads = counted(store)
    stored.columns.take(OF_SAMPLES, np.arange(N)[::-1])
    assert reads.ranges == []


def test_chunk_cache_is_limited(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = arraystore.open(grown)
    store._handle.chunks = ChunkCache(max_nbytes=1000)
    stored = store.stored("train")
    everything = np.arange(N)
    found = stored.columns.take(OF_SAMPLES, everything)
    assert 0 < store._handle.chunks.nbytes <= 1000
    again = stored.columns.take(OF_SAMPLES, everything)
    assert [a.tolist() for a in found] == [a.tolist() for a in again]


class CacheMachine(RuleBasedStateMachine):
    """A cache compared with a list of what was used, the last at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = ChunkCache(max_nbytes=80)
        self.model: list[tuple[int, int]] = []

    @rule(key=st.integers(0, 5), length=st.integers(0, 12))
    def put(self, key: int, length: int) -> None:
        self.cache.put(key, np.full(length, key, dtype=np.int64))
        if length > 10:
            return
        self.model = [pair for pair in self.model if pair[0] != key] + [(key, length)]
        while sum(length for _, length in self.model) > 10:
            self.model.pop(0)

    @rule(key=st.integers(0, 5))
    def get(self, key: int) -> None:
        found = self.cache.get(key)
        known = dict(self.model)
        assert (None if found is None else len(found)) == known.get(key)
        if key in known:
            self.model = [pair for pair in self.model if pair[0] != key] + [(key, known[key])]

    @invariant()
    def is_bounded(self) -> None:
        assert self.cache.nbytes == 8 * sum(length for _, length in self.model) <= 80


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=25, stateful_step_count=20)


def test_chunk_cache_counts_text() -> None:
    cache = ChunkCache(max_nbytes=1000)
    cache.put("few", np.array(["x" * 400], dtype=np.dtypes.StringDType()))
    assert cache.nbytes > 400
    cache.put("many", np.array(["x" * 2000], dtype=np.dtypes.StringDType()))
    assert cache.get("many") is None


# Damage


def chunk_of(path: Path, name: str, number: int) -> tuple[Path, int, int]:
    """File, start and stop of a chunk of a column."""
    if path.is_dir():
        file = path / f"train/{name}/c/{number}"
        return file, 0, file.stat().st_size
    import h5py

    with h5py.File(path) as file:
        info = file[f"train/{name}"].id.get_chunk_info_by_coord((number * ROWS,))
    return path, info.byte_offset, info.byte_offset + info.size


@everywhere
@named("name", ["image_start", "file_name"])
def test_damaged_chunk_raises_when_needed(
    copy: Path, name: str, opened: Callable[[Path], arraystore.Store]
) -> None:
    file, start, stop = chunk_of(copy, name, 2)
    with file.open("r+b") as raw:
        raw.seek(start)
        raw.write(bytes(byte ^ 0xFF for byte in range(stop - start)))
    stored = opened(copy).stored("train")
    stored.columns.take((name,), np.array([0, ROWS, 3 * ROWS, N - 1]))
    with pytest.raises(FormatError, match=f"train/{name}"):
        stored.columns.take((name,), np.array([0, 2 * ROWS]))


def test_missing_chunk_raises(copy: Path) -> None:
    if not copy.is_dir():
        pytest.skip("the chunks of HDF5 are no files")
    (copy / "train/label/c/2").unlink()
    stored = arraystore.open(copy).stored("train")
    stored.columns.take(("label",), np.array([0]))
    with pytest.raises(FormatError, match="label/c/2: the chunk is missing"):
        stored.columns.take(("label",), np.array([2 * ROWS]))


@pytest.fixture
def written_wrong(grown: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a store with changed columns."""

    def write(**changes: Callable[[Any], Any]) -> Path:
        path = tmp_path / f"wrong{grown.suffix}"
        writer = zarr_writer.ZarrWriter if path.suffix == ".zarr" else hdf5_writer.HDF5Writer
        real = writer.write_column

        def changed(self: Any, where: str, values: Any, column: Any) -> None:
            change = changes.get(where.removeprefix("train/"), lambda same: same)
            real(self, where, change(values), column)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "write_column", changed)
            return store_of(path, N)

    return write


def test_label_out_of_range_raises(
    written_wrong: Callable[..., Path],
) -> None:
    wrong = written_wrong(label=lambda label: np.where(np.arange(N) == 20, N_CLASSES, label))
    stored = arraystore.open(wrong).stored("train")
    stored.columns.take(("label",), np.array([0, 30]))
    with pytest.raises(FormatError, match=r"train/label: must be .*range\(5\), got 5 at 20"):
        stored.columns.take(("label",), np.array([0, 30, 20]))


def test_image_outside_payload_raises(
    written_wrong: Callable[..., Path],
) -> None:
    wrong = written_wrong(image_start=lambda start: np.where(np.arange(N) == 20, 2**40, start))
    train = arraystore.open(wrong)["train"]
    _ = train.image_bytes[[0, 30]]
    with pytest.raises(FormatError, match="image 20 is 6 bytes at 1099511627776"):
        _ = train.image_bytes[[0, 20]]


@named("length", [N - 3, N + 3])
def test_column_length_mismatch_raises(written_wrong: Callable[..., Path], length: int) -> None:
    wrong = written_wrong(image_crc32c=lambda crc: np.resize(crc, length))
    stored = arraystore.open(wrong).stored("train")
    with pytest.raises(FormatError, match="image_crc32c: must have 50 values, one a sample"):
        stored.columns.take(("image_crc32c",), np.array([N - 1]))


# Loops


def test_unshuffled_order_takes_no_memory() -> None:
    order = Epoch(None, 0, 0, None, rank=1, world_size=2, buffer_size=1)
    assert order.positions(10**12) == range(5 * 10**11, 10**12)


def test_block_shuffle_memory() -> None:
    n = 10**7
    tracemalloc.start()
    try:
        first = next(block_buffers(n, 0, 0, buffer_size=1024))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(np.unique(first)) == 1024
    assert peak < 4 * 8 * n / 64 + 2**20  # a block is 64 samples


def test_block_shuffle_has_every_sample(grown: Path) -> None:
    train = arraystore.open(grown)["train"]
    seen = [batch.tolist() for batch in train.batches(4, shuffle="block").positions()]
    assert sorted(chain.from_iterable(seen)) == list(range(N))


# Shards


class Shards:
    """Shards of a payload, with the starts of the inner chunks of those out of order."""

    def __init__(self, per_shard: int, inner: int, nbytes: int, odd: dict[int, list[int]]) -> None:
        self.n = -(-nbytes // (per_shard * inner))
        self.looked_up: list[int] = []
        self.odd = {
            shard: np.array(s, dtype=np.int64) for shard, s in odd.items() if shard < self.n
        }
        self.lazy = ShardManifest(
            ShardKeys("p", self.n),
            np.arange(self.n),
            np.zeros(self.n, dtype=np.int64),
            per_shard * inner,
            nbytes,
            inner,
            self.look_up,
            np.zeros(self.n, dtype=np.bool_),
        )
        in_order = np.arange(per_shard) * inner
        starts = [self.odd.get(shard, in_order) for shard in range(self.n)]
        self.eager = ChunkManifest(
            tuple(f"p/c/{shard}" for shard in range(self.n)),
            np.repeat(np.arange(self.n), per_shard),
            np.concatenate([np.empty(0, np.int64), *starts]),
            inner,
            nbytes,
        )

    def look_up(self, shard: int) -> NDArray[np.int64] | None:
        self.looked_up.append(shard)
        return self.odd.get(shard)


@st.composite
def shards(draw: st.DrawFn) -> Shards:
    per_shard, inner = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    nbytes = draw(st.integers(1, 6 * per_shard * inner))
    starts = st.lists(st.integers(-1, 99), min_size=per_shard, max_size=per_shard)
    odd = draw(st.dictionaries(st.integers(0, 6), starts, max_size=3))
    return Shards(per_shard, inner, nbytes, odd)


def each_byte(manifest: ChunkManifest, start: Any, nbytes: Any) -> list[tuple[int, str, int]]:
    pieces = manifest.locate(start, nbytes)
    columns = (pieces.wanted, pieces.object, pieces.start, pieces.nbytes)
    return [
        (wanted, manifest.keys[key], at + i if at >= 0 else -1)
        for wanted, key, at, n in zip(*(column.tolist() for column in columns), strict=True)
        for i in range(n)
    ]


@given(shards(), st.data())
def test_lazy_shards_match_eager(some: Shards, data: st.DataObject) -> None:
    n = some.lazy.nbytes
    for _ in range(2):
        bounds = data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), max_size=4))
        start = np.array([min(pair) for pair in bounds], dtype=np.int64)
        nbytes = np.array([max(pair) for pair in bounds], dtype=np.int64) - start
        assert each_byte(some.lazy, start, nbytes) == each_byte(some.eager, start, nbytes)
        length = some.lazy.chunk_nbytes
        touched = {
            shard
            for a, b in zip(start.tolist(), (start + nbytes).tolist(), strict=True)
            for shard in range(a // length, -(-b // length) if b > a else a // length)
        }
        assert touched <= set(some.looked_up)
        assert len(some.looked_up) == len(set(some.looked_up))


@given(shards())
def test_whole_shard_matches_its_bytes(some: Shards) -> None:
    length = some.lazy.chunk_nbytes
    for shard in range(some.n):
        start, nbytes = shard * length, min(length, some.lazy.nbytes - shard * length)
        found = some.lazy.whole(shard)
        assert (found is None) == (shard in some.odd)
        if found is not None:
            key, first = found
            expected = [(0, key, first + i) for i in range(nbytes)]
            assert each_byte(some.eager, np.array([start]), np.array([nbytes])) == expected
    assert some.looked_up == list(range(some.n))
    assert some.lazy.whole(some.n) is None


def test_many_shards_memory() -> None:
    tracemalloc.start()
    try:
        some = Shards(512, 2**17, 2**27, {})
        lazy = some.lazy
        n = 164_000
        many = ShardManifest(
            ShardKeys("p", n),
            np.arange(n),
            np.zeros(n, dtype=np.int64),
            lazy.chunk_nbytes,
            n * lazy.chunk_nbytes,
            lazy.inner_nbytes,
            some.look_up,
            np.zeros(n, dtype=np.bool_),
        )
        pieces = many.locate(np.array([150_000 * 2**26 + 5]), np.array([10]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (pieces.object.tolist(), pieces.start.tolist()) == ([150_000], [5])
    assert some.looked_up == [150_000]
    assert many.keys[150_000] == "p/c/150000"
    assert peak < 20 * n


@pytest.fixture
def two_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Zarr store whose payload has shards of 64 bytes."""
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 64)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", 16)
    return store_of(tmp_path / "a.zarr", N)


def test_only_shards_that_are_read_are_examined(
    two_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[str] = []
    real = LocalReader.size

    def size(self: LocalReader, key: str) -> int:
        sizes.append(key)
        return real(self, key)

    monkeypatch.setattr(LocalReader, "size", size)
    train = arraystore.open(two_shards)["train"]
    start, nbytes = (stored_column(train, name) for name in ("image_start", "image_nbytes"))
    position = int(
        np.flatnonzero((start // 64 == 1) & ((start + nbytes) // 64 == 1) & (nbytes > 0))[0]
    )
    _ = train.image_bytes[position]
    _ = train.image_bytes[position]
    assert [key for key in sizes if "payload/c" in key] == ["train/image_payload/c/1"]


def stored_column(train: arraystore.Split, name: str) -> NDArray[Any]:
    (part,) = train._sample_set
    return part.stored.columns[name]


def test_failed_shard_is_examined_again() -> None:
    def look_up(shard: int) -> None:
        raise FormatError(f"shard {shard}")

    zeros = np.zeros(1, dtype=np.int64)
    manifest = ShardManifest(("f",), zeros, zeros, 64, 64, 8, look_up, np.zeros(1, np.bool_))
    for _ in range(2):
        with pytest.raises(FormatError, match="shard 0"):
            manifest.whole(0)
        with pytest.raises(FormatError, match="shard 0"):
            manifest.locate(zeros, zeros + 1)
