"""Model of stores of 10^6 to 10^9 samples: objects, sizes, memory, requests, cost and time.

    python -m benchmarks.scaling_model              # the tables of docs/scaling.md
    python -m benchmarks.scaling_model --check DIR  # measurements at 10^5 to 10^7 beside the model

What the format fixes is computed exactly (`n_objects`, `n_shards`, `column_nbytes`). Everything
else follows from how the code works and from the assumptions in `DataSet`, `Rates` and `Prices`.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.containers.zarr.reader import MAX_COLUMN_CHUNKS
from arraystore.containers.zarr.shards import MAX_SHARDS, shard_object_nbytes
from arraystore.indexing.sampling import BLOCKS_IN_BUFFER
from arraystore.reading.column_reader import WHOLE_SAMPLES
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    INNER_CHUNK_NBYTES,
    SHARD_NBYTES,
    STRING,
)
from arraystore.storage.objects.reader import ObjectReader
from arraystore.storage.objects.writer import MAX_PART_NBYTES, MAX_PARTS, MAX_READ_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SIZES: Final = (10**6, 10**7, 10**8, 10**9)

COMPRESSED: Final = {
    "image_start": 2.23,
    "image_nbytes": 2.30,
    "image_height": 1.56,
    "image_width": 1.56,
    "image_crc32c": 4.00,
    "label": 1.91,
    "file_name": 7.92,
    "label_order": 2.14,
}
"""Stored bytes of each column per sample: Zarr stores of `grown_stores`, 10^6 samples.

Their names, sizes and checksums are as hard to compress as ImageNet's.
"""

READ_BY_BATCH: Final = ("image_start", "image_nbytes", "image_crc32c", "label", "file_name")
"""Columns that a batch of a remote store needs."""

SEEN_NBYTES: Final = 400
"""What a reader of a bucket keeps of each object that it has read from: key, size, time, etag."""

WORKERS: Final = (1, 16, 128)
CORES: Final = 16
"""Of each worker."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of one split.

    Attributes
    ----------
    n : int
        Samples, all of them labelled.
    mean_nbytes : int
        Mean size of an encoded image in bytes. ImageNet's is 110 kB.
    name_nbytes : int
        Mean length of a file name in UTF-8.
    n_classes : int
    """

    n: int
    mean_nbytes: int = 100_000
    name_nbytes: int = 24
    n_classes: int = 1000


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured rates, on a machine of two cores in 2026, except where noted.

    Attributes
    ----------
    header_seconds : float
        Reading the tar header of a sample (`bench_table`).
    probe_seconds : float
        Reading the header of an image (`bench_convert`).
    order_seconds, digest_seconds, names_seconds, columns_seconds : float
        Hashing and sorting a name; the content digest; checking that names are unique (`--check` at
        10^7); compressing and writing all columns (`grown_stores`). Per sample, in one thread.
    full_shuffle_seconds : float
        Order of an epoch, per sample (`--check` at 10^7).
    decode_per_second : float
        Images of 110 kB that a core decodes (`benchmarks.suite`).
    worker_nbytes_per_second : float
        Assumption: what a worker reads from, or writes to, a bucket. 10 Gbit/s.
    """

    header_seconds: float = 4.5e-6
    probe_seconds: float = 10.5e-6
    order_seconds: float = 0.8e-6
    digest_seconds: float = 1.9e-6
    names_seconds: float = 0.2e-6
    columns_seconds: float = 1.3e-6
    full_shuffle_seconds: float = 0.15e-6
    decode_per_second: float = 860.0
    worker_nbytes_per_second: float = 1.25e9


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in US dollars. Assumption: the list prices of S3 Standard in US East (N. Virginia).

    The price of storage is as price guides of March 2026 quote it, for the first 50 TB; those of
    requests are assumed unchanged from 2025. Transfer within a region is free.

    Attributes
    ----------
    put, get : float
        One request of each kind.
    gigabyte_month : float
        10^9 bytes for a month.
    """

    put: float = 0.005 / 1000
    get: float = 0.0004 / 1000
    gigabyte_month: float = 0.023


# What the format fixes


def n_chunks(rows: int) -> int:
    """Return the number of chunks of a column."""
    return -(-rows // COLUMN_CHUNK_ROWS)


def column_rows(data: DataSet) -> dict[str, int]:
    """Return the length of each column of the split."""
    return {
        name: data.n_classes + 1 if column.dimension == "class_bound" else data.n
        for name, column in COLUMNS.items()
    }


def column_nbytes(data: DataSet) -> dict[str, int]:
    """Return the size of the values of each column; of text that of its UTF-8."""
    return {
        name: rows * (data.name_nbytes if kind == STRING else np.dtype(kind).itemsize)
        for name, rows in column_rows(data).items()
        for kind in (COLUMNS[name].data_type,)
    }


def n_shards(payload_nbytes: int) -> int:
    """Return the number of shards of a payload."""
    return -(-payload_nbytes // SHARD_NBYTES)


def shards_nbytes(payload_nbytes: int) -> int:
    """Return the size of all shards of a payload, with padding and indexes."""
    full, rest = divmod(payload_nbytes, SHARD_NBYTES)
    parts = (full, SHARD_NBYTES), (int(rest > 0), rest)
    return sum(
        count * shard_object_nbytes(nbytes, SHARD_NBYTES, INNER_CHUNK_NBYTES)
        for count, nbytes in parts
    )


def n_column_objects(data: DataSet) -> int:
    """Return the number of objects of a Zarr store that are not shards."""
    documents = 1 + 2 + 1 + 1 + len(COLUMNS)  # root, classes, split, payload, columns
    return (
        documents
        + 2 * n_chunks(data.n_classes)
        + sum(n_chunks(rows) for rows in column_rows(data).values())
    )


def n_objects(data: DataSet) -> int:
    """Return the number of objects of a Zarr store."""
    return n_column_objects(data) + n_shards(data.n * data.mean_nbytes)


# What the code does


def compressed_nbytes(data: DataSet, names: Sequence[str] = tuple(COMPRESSED)) -> float:
    """Return the stored size of columns, by the assumption in `COMPRESSED`."""
    return sum(COMPRESSED[name] for name in names) * data.n


def table_nbytes(data: DataSet) -> int:
    """Return the memory of a sample table: names and their offsets, and four numbers."""
    text = data.n * (data.name_nbytes + 1)
    return text + data.n * ((4 if text < 2**32 else 8) + 8 + 4 + 8 + 8)


def planning_nbytes(data: DataSet) -> int:
    """Return the most memory of planning a conversion, without that of the libraries.

    The source's table, the columns of the ordered one (its names are shared), height and width of
    both, and the order.
    """
    offsets = 4 if data.n * (data.name_nbytes + 1) < 2**32 else 8
    return table_nbytes(data) + data.n * (offsets + 28 + 2 * 8 + 8)


def journal_nbytes(data: DataSet, *, etag: int = 0) -> int:
    """Return the size of a journal (of a lock object with `etag`): 8 digits for each checksum."""
    return 8 * data.n + n_shards(data.n * data.mean_nbytes) * (55 + etag)


def task_nbytes(data: DataSet) -> float:
    """Return the size of the pickled task that fills a shard: compressed offsets and sizes."""
    offset = math.log2(data.n * data.mean_nbytes) / 8
    return SHARD_NBYTES / data.mean_nbytes * (offset + 2.1) + 1000


def names_nbytes(data: DataSet) -> int:
    """Return the memory of all names as NumPy's text, which keeps 15 bytes in place."""
    return data.n * (16 + (data.name_nbytes + 1 if data.name_nbytes > 15 else 0))


def full_shuffle_nbytes(data: DataSet) -> int:
    """Return the most memory of `shuffle="full"`: words, their order, and half for the sort."""
    return data.n * (8 + 8 + 4)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests and bytes."""

    requests: float
    nbytes: float

    def cost(self, prices: Prices) -> float:
        """Return the price of the requests in dollars."""
        return self.requests * prices.get


def buffers_traffic(data: DataSet, n_buffers: float, buffer_size: int = 1024) -> Traffic:
    """Return requests and bytes of buffers of a block shuffle of a remote store.

    Each block is one run of the payload, in parts of at most 4 MiB, and may lie in two shards. In a
    large split it needs one chunk of each column, which is rarely cached; a small split loads the
    columns once. Reading new objects includes a request that compares the root. The bounds of the
    label index are read once.
    """
    run = buffer_size // BLOCKS_IN_BUFFER * data.mean_nbytes
    part = ObjectReader.max_request
    assert part is not None
    requests = n_buffers * (BLOCKS_IN_BUFFER * (-(-run // part) + run / SHARD_NBYTES) + 1)
    chunks = float(n_chunks(data.n))
    if data.n > WHOLE_SAMPLES:  # different chunks of 16 random ones
        chunks *= n_buffers * (1 - (1 - 1 / chunks) ** BLOCKS_IN_BUFFER)
        requests += n_buffers
    requests += len(READ_BY_BATCH) * chunks + 1
    columns = compressed_nbytes(data, READ_BY_BATCH) / n_chunks(data.n) * chunks
    return Traffic(requests, n_buffers * BLOCKS_IN_BUFFER * run + columns)


def epoch_traffic(data: DataSet, buffer_size: int = 1024) -> Traffic:
    """Return requests and bytes of an epoch of a block shuffle of a remote store."""
    return buffers_traffic(data, data.n / buffer_size, buffer_size)


def full_epoch_traffic(data: DataSet) -> Traffic:
    """Return requests and bytes of an epoch of a full shuffle of a remote store."""
    images = data.n * (1 + data.mean_nbytes / SHARD_NBYTES)
    columns = float(n_chunks(data.n))
    if data.n > WHOLE_SAMPLES:  # a batch has 256 samples, in different chunks
        columns = data.n / 256 * columns * (1 - (1 - 1 / columns) ** 256)
    read = compressed_nbytes(data, READ_BY_BATCH) / n_chunks(data.n) * columns
    return Traffic(images + len(READ_BY_BATCH) * columns, data.n * data.mean_nbytes + read)


def planning_seconds(data: DataSet, rates: Rates) -> float:
    """Return the time of what one process does alone: checks of names, order, digest, columns."""
    return data.n * (
        rates.names_seconds + rates.order_seconds + rates.digest_seconds + rates.columns_seconds
    )


def filling_seconds(data: DataSet, rates: Rates, n_workers: int) -> float:
    """Return the time of listing, probing and copying, which workers share.

    Each byte is read and sent.
    """
    listed = data.n * (rates.header_seconds + rates.probe_seconds)
    copied = 2 * data.n * data.mean_nbytes / rates.worker_nbytes_per_second
    return (listed + copied) / n_workers


def epoch_seconds(data: DataSet, rates: Rates, n_workers: int, cores: int) -> tuple[float, float]:
    """Return the time of reading and of decoding an epoch on workers with `cores` each."""
    read = epoch_traffic(data).nbytes / (n_workers * rates.worker_nbytes_per_second)
    return read, data.n / (n_workers * cores * rates.decode_per_second)


def limits() -> dict[str, int]:
    """Return the most samples of 100 kB, with names of 24 bytes, that each limit permits."""
    one = DataSet(10**9)
    return {
        "chunks of a column": MAX_COLUMN_CHUNKS * COLUMN_CHUNK_ROWS,
        "shards of a payload": MAX_SHARDS * SHARD_NBYTES // one.mean_nbytes,
        "parts of 5 GiB of an HDF5 file in a bucket": MAX_PARTS
        * MAX_PART_NBYTES
        // one.mean_nbytes,
        "16 TiB of an HDF5 file on ext4": 2**44 // one.mean_nbytes,
        "shards recorded in a bucket": MAX_READ_NBYTES * one.n // journal_nbytes(one, etag=38),
        "planning in 64 GiB": 2**36 * one.n // planning_nbytes(one),
        "full shuffle in 16 GiB": 2**34 * one.n // full_shuffle_nbytes(one),
        "`find` in 16 GiB": 2**34 * one.n // (names_nbytes(one) + 8 * one.n),
    }


# Tables


def quantity(value: float, unit: str = "") -> str:
    """Return a number with three digits and a decimal prefix.

    Examples
    --------
    >>> quantity(1_490_117), quantity(23.6e9, "B"), quantity(0.15)
    ('1.49 M', '23.6 GB', '0.15')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Return a time in the largest unit that fits.

    Examples
    --------
    >>> duration(0.15), duration(8300)
    ('150 ms', '2.3 h')
    """
    for factor, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= factor:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds * 1e3:.3g} ms"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    print()


def print_rows(title: str, rows: Iterable[tuple[str, Callable[[DataSet], str]]]) -> None:
    """Print a table with a column for each size."""
    sets = [DataSet(n) for n in SIZES]
    head = [title, *(f"10^{len(str(data.n)) - 1}" for data in sets)]
    print_table(head, [[name, *map(cell, sets)] for name, cell in rows])


def print_tables(rates: Rates, prices: Prices) -> None:
    """Print the tables of docs/scaling.md."""

    def payload(data: DataSet) -> int:
        return shards_nbytes(data.n * data.mean_nbytes)

    def monthly(data: DataSet) -> float:
        return (payload(data) + compressed_nbytes(data)) / 1e9 * prices.gigabyte_month

    print_rows(
        "stored in Zarr",
        {
            "payload": lambda d: quantity(payload(d), "B"),
            "shards of 64 MiB": lambda d: f"{n_shards(d.n * d.mean_nbytes):,}",
            "other objects": lambda d: f"{n_column_objects(d):,}",
            "columns": lambda d: quantity(compressed_nbytes(d), "B"),
            "label index, a part of them": lambda d: quantity(
                compressed_nbytes(d, ["label_order"]), "B"
            ),
            "storage, $ a month": lambda d: f"{monthly(d):,.0f}",
            "sending all objects, $": lambda d: f"{n_objects(d) * prices.put:,.2f}",
        }.items(),
    )
    print_rows(
        "memory",
        {
            "planning a conversion": lambda d: quantity(planning_nbytes(d), "B"),
            "journal of a conversion": lambda d: quantity(journal_nbytes(d), "B"),
            "task that fills a shard, pickled": lambda d: quantity(task_nbytes(d), "B"),
            "opening, with an image": lambda d: quantity(17 * n_shards(d.n * d.mean_nbytes), "B"),
            "objects seen in an epoch": lambda d: quantity(SEEN_NBYTES * n_objects(d), "B"),
            "`where(label=k)`": lambda d: quantity(8 * d.n / d.n_classes, "B"),
            "`split.label`, the label index": lambda d: quantity(8 * d.n, "B"),
            "`concat`": lambda d: quantity(16 * d.n, "B"),
            "`find`": lambda d: quantity(names_nbytes(d) + 8 * d.n, "B"),
            '`shuffle="full"`': lambda d: quantity(full_shuffle_nbytes(d), "B"),
            '`shuffle="block"`, without buffers': lambda d: quantity(20 * d.n / 64, "B"),
        }.items(),
    )

    def epoch_rows(
        name: str, of: Callable[[DataSet], Traffic]
    ) -> dict[str, Callable[[DataSet], str]]:
        return {
            f"{name}: requests": lambda d: quantity(of(d).requests),
            "… bytes read / payload": lambda d: f"{of(d).nbytes / (d.n * d.mean_nbytes):.2f}",
            "… requests, $": lambda d: f"{of(d).cost(prices):,.2f}",
        }

    print_rows(
        "an epoch from a bucket",
        [
            *epoch_rows("block shuffle, buffer 1,024", epoch_traffic).items(),
            *epoch_rows("buffer 16,384", partial(epoch_traffic, buffer_size=16384)).items(),
            *epoch_rows("full shuffle", full_epoch_traffic).items(),
        ],
    )

    def epoch(n_workers: int) -> Callable[[DataSet], str]:
        return lambda d: " / ".join(map(duration, epoch_seconds(d, rates, n_workers, CORES)))

    def filling(n_workers: int) -> Callable[[DataSet], str]:
        return lambda d: duration(filling_seconds(d, rates, n_workers))

    print_rows(
        "time",
        [
            ("planning and sealing, one process", lambda d: duration(planning_seconds(d, rates))),
            *((f"listing, probing and copying, workers: {n}", filling(n)) for n in WORKERS),
            *((f"an epoch, reading / decoding, workers: {n}", epoch(n)) for n in WORKERS),
        ],
    )
    print_table(["limit", "samples"], [[name, quantity(n)] for name, n in limits().items()])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_model")
    parser.add_argument("--check", type=Path, metavar="DIR", help="measure with stores in DIR")
    options = parser.parse_args(arguments)
    if options.check is None:
        print_tables(Rates(), Prices())
    else:
        from benchmarks.scaling_check import check

        check(options.check)
    return 0


if __name__ == "__main__":
    sys.exit(main())
