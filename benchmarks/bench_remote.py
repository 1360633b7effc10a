"""Time 256 random images from a bucket against other readers of the same stores, in one run.

::

    python -m benchmarks.bench_remote DIR [--rounds N] [--latency MS ...] [--json FILE]

Two stores of the same pictures are made in DIR and kept for the next run. They are uploaded to a
SeaweedFS on loopback. A proxy in its own process delays and counts requests. The readers take
turns. Each has opened its store and loaded the columns, and reads the encoded images at the same
random positions. Every byte is compared with the pictures.

- arraystore, from Zarr and from HDF5, with the default (all requests at once) and fewer;
- bare concurrent GETs of the ranges that arraystore requests: obstore, as many at a time, and
  nothing else;
- a plain loop of these GETs;
- zarr-python through obstore: a slice per image, one after another, and all at once;
- h5py over s3fs: a slice per image.

Then arraystore opens each store again and decodes one image. Finally it reads while a tenth of all
requests fail (`FAULTS` of the proxy).
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import zarr
from obstore.store import S3Store
from PIL import Image
from rich.console import Console
from rich.table import Table

import arraystore
from arraystore.cli.synthetic_archives import encode
from arraystore.schema import PAYLOAD
from arraystore.storage.objects.reader import MAX_GAP
from arraystore.storage.objects.slots import MAX_IN_FLIGHT
from arraystore.storage.range_reader import plan_elements
from tests.cloud.proxy import FAULTS, Proxy
from tests.cloud.servers import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedFS

N_IMAGES: Final = 2_560
N_READ: Final = 256
SUFFIXES: Final = (".zarr", ".h5")

ZARR: Final = "arraystore, Zarr"
HDF5: Final = "arraystore, HDF5"
N_FEWER: Final = 64
ZARR_FEWER: Final = f"{ZARR}, {N_FEWER} at a time"
HDF5_FEWER: Final = f"{HDF5}, {N_FEWER} at a time"
BARE_ZARR: Final = "bare concurrent GETs, Zarr"
BARE_HDF5: Final = "bare concurrent GETs, HDF5"
LOOP: Final = "plain loop of GETs"
ZARR_SLICES: Final = "zarr-python, slices"
ZARR_ASYNC: Final = "zarr-python, async"
S3FS: Final = "h5py over s3fs"
PEERS: Final = (LOOP, ZARR_SLICES, ZARR_ASYNC, S3FS)


class Cost(NamedTuple):
    """Time and traffic of reading a batch."""

    seconds: float
    requests: int
    nbytes: int
    round_trips: int


class Reader(NamedTuple):
    """A function that reads the encoded images at fixed positions."""

    name: str
    read: Callable[[], Sequence[bytes]]


def make_stores(folder: Path) -> None:
    """Write the pictures and both stores, unless they exist."""
    if (folder / "images.h5").exists() and (folder / "images.zarr").exists():
        return
    rng = np.random.default_rng(0)
    pictures = folder / "pictures" / "train" / "all"
    pictures.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    picture = encode(noise)
    # Decoders ignore bytes behind the end of a JPEG. They give each file its own size.
    for number, nbytes in enumerate(rng.lognormal(11.45, 0.45, N_IMAGES).astype(int)):
        data = picture + rng.bytes(max(0, nbytes - len(picture)))
        (pictures / f"{number:05}.jpg").write_bytes(data)
    for suffix in SUFFIXES:
        target = folder / f"images{suffix}"
        arraystore.convert(f"folder:{folder / 'pictures'}", target, overwrite=True, sync=False)


# The proxy, in its own process, so that it takes no CPU time of the readers


class ProxyProcess:
    """A `Proxy` in another process."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, endpoint, options))
        self._process.start()
        self.endpoint: str = self._connection.recv()

    def reset(self) -> None:
        """Set all counters to zero."""
        self._call("reset")

    def cost(self, seconds: float) -> Cost:
        """Return what was counted since the last `reset`."""
        return Cost(seconds, *self._call("cost"))

    def n_faults(self) -> int:
        """Return the number of requests that failed since the last `reset`."""
        found: int = self._call("faults")
        return found

    def close(self) -> None:
        """End the process."""
        self._call("end")
        self._process.join()

    def _call(self, method: str) -> Any:
        self._connection.send(method)
        return self._connection.recv()


def _serve(connection: Connection, endpoint: str, options: dict[str, Any]) -> None:
    with Proxy(endpoint, **options) as proxy:
        connection.send(proxy.endpoint)
        while (method := connection.recv()) != "end":
            if method == "reset":
                proxy.reset()
                connection.send(None)
            elif method == "faults":
                connection.send(sum(proxy.n_faults.values()))
            else:
                connection.send((len(proxy.requests), proxy.nbytes, proxy.round_trips))
        connection.send(None)


@contextmanager
def running_proxy(endpoint: str, **options: Any) -> Iterator[ProxyProcess]:
    """Run a proxy within a context."""
    proxy = ProxyProcess(endpoint, **options)
    try:
        yield proxy
    finally:
        proxy.close()


# The readers


def bucket_at(endpoint: str) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
    )


def train_at(
    endpoint: str, suffix: str, max_in_flight: int = MAX_IN_FLIGHT, **options: Any
) -> arraystore.Split:
    keys = {"key": ACCESS_KEY, "secret": SECRET_KEY, "region": "us-east-1"}
    return arraystore.open(
        f"s3://{BUCKET}/images{suffix}",
        storage_options=keys | {"endpoint_url": endpoint} | options,
        max_in_flight=max_in_flight,
    )["train"]


def by_arraystore(
    endpoint: str, suffix: str, positions: Any, max_in_flight: int = MAX_IN_FLIGHT
) -> Callable[[], Sequence[bytes]]:
    split = train_at(endpoint, suffix, max_in_flight)
    _ = split.image_bytes[0]  # loads the columns
    return lambda: split.image_bytes[positions]


class Ranges(NamedTuple):
    """The byte ranges that arraystore requests, and where each image is in the responses."""

    requests: list[tuple[str, int, int]]
    cuts: list[tuple[int, int, int, int]]

    @classmethod
    def of(cls, local: Path, positions: Any) -> "Ranges":
        """Plan as arraystore does: key, start, stop; image, response, offset, length."""
        stored = arraystore.open(local).stored("train")
        start, nbytes = stored.columns.take(("image_start", "image_nbytes"), positions)
        manifest = stored._images.manifest
        pieces, _, spans = plan_elements(manifest, start, nbytes, max_gap=MAX_GAP)
        prefix = f"{local.name}/" if local.is_dir() else ""
        keys = [prefix + manifest.keys[number] for number in spans.object]
        offset = pieces.start - spans.start[spans.span]
        columns = (pieces.wanted, spans.span, offset, pieces.nbytes)
        return cls(
            list(zip(keys, spans.start.tolist(), spans.stop.tolist(), strict=True)),
            list(zip(*(column.tolist() for column in columns), strict=True)),
        )

    def images(self, responses: Sequence[Any]) -> Sequence[bytes]:
        """Return the images out of the responses."""
        images: dict[int, bytes] = {}
        for image, response, offset, nbytes in self.cuts:
            part = bytes(memoryview(responses[response])[offset : offset + nbytes])
            images[image] = images.get(image, b"") + part
        return [images[number] for number in sorted(images)]


def by_bare_gets(endpoint: str, local: Path, positions: Any) -> Callable[[], Sequence[bytes]]:
    bucket, ranges = bucket_at(endpoint), Ranges.of(local, positions)

    async def one(slots: asyncio.Semaphore, key: str, start: int, stop: int) -> Any:
        async with slots:
            return await bucket.get_range_async(key, start=start, end=stop)

    async def gets() -> list[Any]:
        slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        return await asyncio.gather(*(one(slots, *request) for request in ranges.requests))

    return lambda: ranges.images(asyncio.run(gets()))


def by_loop(endpoint: str, local: Path, positions: Any) -> Callable[[], Sequence[bytes]]:
    bucket, ranges = bucket_at(endpoint), Ranges.of(local, positions)
    return lambda: ranges.images(
        [bucket.get_range(key, start=start, end=stop) for key, start, stop in ranges.requests]
    )


def by_zarr(endpoint: str, positions: Any, *, at_once: bool) -> Callable[[], Sequence[bytes]]:
    from zarr.storage import ObjectStore

    store = ObjectStore(bucket_at(endpoint), read_only=True)
    train: Any = zarr.open_group(store, path="images.zarr/train", mode="r")
    start, nbytes, payload = train["image_start"][:], train["image_nbytes"][:], train[PAYLOAD]
    slices = [slice(int(start[i]), int(start[i] + nbytes[i])) for i in positions]

    async def gets() -> Sequence[bytes]:
        array = payload.async_array
        parts = await asyncio.gather(*(array.getitem(one) for one in slices))
        return [part.tobytes() for part in parts]

    if at_once:
        from zarr.core.sync import sync

        return lambda: sync(gets())
    return lambda: [payload[one].tobytes() for one in slices]


def by_s3fs(endpoint: str, positions: Any) -> Callable[[], Sequence[bytes]]:
    import h5py
    import s3fs

    files = s3fs.S3FileSystem(
        key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=endpoint, skip_instance_cache=True
    )
    # The other caches of s3fs read ten times as many bytes, and take longer.
    file = h5py.File(files.open(f"{BUCKET}/images.h5", cache_type="none"), "r")
    train = file["train"]
    start, nbytes, payload = train["image_start"][:], train["image_nbytes"][:], train[PAYLOAD]
    return lambda: [payload[start[i] : start[i] + nbytes[i]].tobytes() for i in positions]


def readers_at(endpoint: str, folder: Path, positions: Any) -> list[Reader]:
    """Return all readers in the order of their turns."""
    in_zarr, in_hdf5 = (folder / f"images{suffix}" for suffix in SUFFIXES)
    return [
        Reader(ZARR, by_arraystore(endpoint, ".zarr", positions)),
        Reader(BARE_ZARR, by_bare_gets(endpoint, in_zarr, positions)),
        Reader(HDF5, by_arraystore(endpoint, ".h5", positions)),
        Reader(BARE_HDF5, by_bare_gets(endpoint, in_hdf5, positions)),
        Reader(ZARR_FEWER, by_arraystore(endpoint, ".zarr", positions, N_FEWER)),
        Reader(HDF5_FEWER, by_arraystore(endpoint, ".h5", positions, N_FEWER)),
        Reader(LOOP, by_loop(endpoint, in_zarr, positions)),
        Reader(ZARR_SLICES, by_zarr(endpoint, positions, at_once=False)),
        Reader(ZARR_ASYNC, by_zarr(endpoint, positions, at_once=True)),
        Reader(S3FS, by_s3fs(endpoint, positions)),
    ]


def measure(
    readers: Sequence[Reader], proxy: ProxyProcess, expected: Sequence[bytes], rounds: int
) -> dict[str, list[Cost]]:
    """Time the readers in turns, and compare what they read."""
    costs: dict[str, list[Cost]] = {reader.name: [] for reader in readers}
    for _ in range(rounds):
        for name, read in readers:
            proxy.reset()
            start = perf_counter()
            images = read()
            seconds = perf_counter() - start
            if list(images) != list(expected):
                raise SystemExit(f"{name}: wrong bytes")
            costs[name].append(proxy.cost(seconds))
    return costs


def open_and_decode(proxy: ProxyProcess, latency: float) -> None:
    """Print the cost of opening a store and decoding one image, with all libraries imported."""
    for suffix in SUFFIXES:
        proxy.reset()
        start = perf_counter()
        _ = train_at(proxy.endpoint, suffix)[N_IMAGES // 2]
        cost = proxy.cost(perf_counter() - start)
        print(
            f"open to first sample, {suffix}, {latency:g} ms: {cost.round_trips} round trips, "
            f"{cost.requests} requests, {cost.nbytes / 1e6:.1f} MB, {cost.seconds:.3f} s"
        )


def read_with_faults(server: SeaweedFS, positions: Any, expected: Sequence[bytes]) -> None:
    """Read while a tenth of all requests fail; exit if a byte is wrong."""
    for suffix in SUFFIXES:
        with running_proxy(server.endpoint, rate=0.1, latency=0.0) as proxy:
            split = train_at(proxy.endpoint, suffix, read_timeout=1)
            _ = split.image_bytes[0]
            proxy.reset()
            start = perf_counter()
            right = split.image_bytes[positions] == list(expected)
            seconds = perf_counter() - start
            if not right:
                raise SystemExit(f"arraystore, {suffix}: wrong bytes")
            n_requests = proxy.cost(seconds).requests
            print(
                f"{suffix}: {proxy.n_faults()} of {n_requests} requests failed "
                f"({', '.join(FAULTS)}); every byte right, {seconds:.2f} s"
            )


def show(costs: dict[str, list[Cost]], latency: float, wanted: int) -> None:
    table = Table(title=f"{N_READ} random images, {latency:g} ms a request")
    for column in ("reader", "requests", "MB", "x wanted", "round trips", "s, median", "s, all"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    for name, runs in costs.items():
        one, seconds = runs[-1], [run.seconds for run in runs]
        table.add_row(
            name,
            f"{one.requests}",
            f"{one.nbytes / 1e6:.1f}",
            f"{one.nbytes / wanted:.2f}",
            f"{one.round_trips}",
            f"{median(seconds):.3f}",
            " ".join(f"{value:.3f}" for value in sorted(seconds)),
        )
    Console(width=120).print(table)
    fastest = min(PEERS, key=lambda name: median(run.seconds for run in costs[name]))
    bare_of = {ZARR: BARE_ZARR, HDF5: BARE_HDF5}
    for ours, bare in bare_of.items():
        time, of_bare, of_peer = (
            median(run.seconds for run in costs[name]) for name in (ours, bare, fastest)
        )
        print(
            f"{ours}: {of_peer / time:.1f} times as fast as {fastest}, "
            f"{time / of_bare:.2f} times the time of bare GETs ({MAX_IN_FLIGHT} at once)"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, nargs="+", default=[0, 30], metavar="MS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    folder = options.folder
    make_stores(folder)
    positions = np.random.default_rng(1).permutation(N_IMAGES)[:N_READ]
    expected = arraystore.open(folder / "images.zarr")["train"].image_bytes[positions]
    found = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        server = stack.enter_context(SeaweedFS(scratch))
        for suffix in SUFFIXES:
            server.upload(folder / f"images{suffix}", f"images{suffix}")
        for latency in options.latency:
            with running_proxy(server.endpoint, latency=latency / 1000) as proxy:
                readers = readers_at(proxy.endpoint, folder, positions)
                found[latency] = measure(readers, proxy, expected, options.rounds)
                open_and_decode(proxy, latency)
            show(found[latency], latency, sum(map(len, expected)))
        read_with_faults(server, positions, expected)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
