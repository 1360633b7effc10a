"""Stores of any number of samples with real columns and sparse payloads.

    python -m benchmarks.grown_stores FOLDER

Names, sizes and checksums are as hard to compress as ImageNet's. Labels are shuffled, and the label
index is right. A payload has the length of images of 6.5 KB each (650 GB at 10^8), but contains
images only where `bench_growth` reads them; other Zarr shards do not exist. Everything is written
one chunk at a time.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._checksum import crc32c
from arraystore.cli.synthetic_archives import encode
from arraystore.containers import writer_for
from arraystore.containers.zarr.shards import shard_footer, shard_object_nbytes
from arraystore.indexing.sampling import block_buffers
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    INNER_CHUNK_NBYTES,
    PAYLOAD,
    ROOT_COLUMNS,
    SHARD_NBYTES,
    STRING,
    DatasetInfo,
    SplitInfo,
)
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

N_CLASSES: Final = 1000
SIZES: Final = (10**4, 10**6, 10**8)
BATCH: Final = 256
BUFFER: Final = 1024
SEED: Final = 0

_NAME: Final = np.frombuffer(b"n00000000_000000000.JPEG", dtype=np.uint8)
_SPREAD: Final = 3**18
"""Coprime to 10**9, so that its multiples are different numbers of nine digits."""


def images(n: int) -> Ints:
    """Return the positions of the images that are read one by one."""
    return np.random.default_rng([SEED, 1]).integers(n, size=64)


def batches(n: int) -> Ints:
    """Return the positions of the batches that are read, shape (8, BATCH)."""
    return np.random.default_rng([SEED, 2]).integers(n, size=(8, BATCH))


def make(path: Path, n: int) -> None:
    """Write a store of `n` samples, a multiple of the number of classes."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    partial = path.with_stem(f"{path.stem}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    total = sum(int(_nbytes(rows).sum()) for rows in _chunks(n))
    writer: Any = writer_for(path)(partial, is_skeleton=True)
    writer.create_group("train")
    writer.create_payload(f"train/{PAYLOAD}", total)
    writer.close()
    writer = writer_for(path)(partial, is_skeleton=True)
    wnids = [f"n{k:08d}" for k in range(N_CLASSES)]
    for name, column in ROOT_COLUMNS.items():
        writer.write_column(name, wnids, column)
    label = _labels(n)
    jpeg = _jpeg()
    read = np.unique(np.concatenate([images(n), batches(n).ravel(), *_buffers(n)]))
    places: list[tuple[int, int]] = []
    started = 0

    def of_samples(rows: range) -> dict[str, NDArray[Any]]:
        nonlocal started
        nbytes = _nbytes(rows)
        start = started + np.cumsum(nbytes) - nbytes
        started += int(nbytes.sum())
        rng = np.random.default_rng([SEED, 4, rows.start])
        crc = rng.integers(2**32, size=len(rows), dtype=np.uint32)
        for i in (
            read[np.searchsorted(read, rows.start) : np.searchsorted(read, rows.stop)]
        ).tolist():
            row = i - rows.start
            crc[row] = crc32c(jpeg + bytes(int(nbytes[row]) - len(jpeg)))
            places.append((int(start[row]), int(nbytes[row])))
        return {
            "image_start": start,
            "image_nbytes": nbytes,
            "image_height": rng.integers(300, 600, len(rows), dtype=np.int32),
            "image_width": rng.integers(300, 600, len(rows), dtype=np.int32),
            "image_crc32c": crc,
            "label": label[rows.start : rows.stop].astype(np.int64),
            "file_name": _names(rows, label[rows.start : rows.stop]),
        }

    arrays = {name: _array(writer, name, n) for name in COLUMNS if name != "label_indptr"}
    for rows in _chunks(n):
        for name, values in of_samples(rows).items():
            arrays[name][rows.start : rows.stop] = _as_stored(arrays[name], values)
    for start, values in _label_order(label):
        arrays["label_order"][start : start + len(values)] = values
    indptr = np.arange(N_CLASSES + 1, dtype=np.int64) * (n // N_CLASSES)
    writer.write_column("train/label_indptr", indptr, COLUMNS["label_indptr"])
    writer.set_attributes("train/image_nbytes", {"sample_dimension": "byte"})
    # There is no content digest, because it needs all names in sorted order.
    writer.set_attributes("train", SplitInfo(n, total, "source", 0, "").attributes())
    info = DatasetInfo("grown", "", "1.0.0", "", "", "", ("train",))
    writer.set_attributes("", info.attributes())
    del arrays
    address = None
    if path.suffix != ".zarr":
        address = int(writer._file[f"train/{PAYLOAD}"].id.get_offset())
    writer.close()
    _fill(partial, address, total, places, jpeg)
    partial.rename(path)


def _chunks(n: int) -> Iterator[range]:
    for start in range(0, n, COLUMN_CHUNK_ROWS):
        yield range(start, min(start + COLUMN_CHUNK_ROWS, n))


def _nbytes(rows: range) -> Ints:
    rng = np.random.default_rng([SEED, 3, rows.start])
    return np.maximum(rng.lognormal(8.7, 0.4, len(rows)), 3600).astype(np.int64)


def _labels(n: int) -> NDArray[np.uint16]:
    """Return labels in random order, each once in every thousand samples."""
    label = np.empty((n // N_CLASSES, N_CLASSES), dtype=np.uint16)
    label[:] = np.arange(N_CLASSES, dtype=np.uint16)
    for some in np.array_split(label, max(1, n // 10**6)):
        np.random.default_rng([SEED, 5]).permuted(some, axis=1, out=some)
    return label.ravel()


def _label_order(label: NDArray[np.uint16]) -> Iterator[tuple[int, Ints]]:
    """Yield first row and values of each chunk of the label index."""
    blocks = label.reshape(-1, N_CLASSES)
    n = len(blocks)
    place = np.empty((N_CLASSES, n), dtype=np.uint16)
    for start in range(0, n, 1000):
        some = blocks[start : start + 1000]
        place[:, start : start + 1000] = np.argsort(some, axis=1).astype(np.uint16).T
    flat = place.ravel()
    for rows in _chunks(len(label)):
        within = np.arange(rows.start, rows.stop, dtype=np.int64) % n
        yield rows.start, within * N_CLASSES + flat[rows.start : rows.stop]


def _names(rows: range, label: NDArray[np.uint16]) -> NDArray[np.bytes_]:
    text = np.tile(_NAME, (len(rows), 1))
    number = np.arange(rows.start, rows.stop, dtype=np.int64) * _SPREAD % 10**9
    for values, last, digits in ((label.astype(np.int64), 8, 4), (number, 18, 9)):
        for digit in range(digits):
            text[:, last - digit] += (values // 10**digit % 10).astype(np.uint8)
    return text.view(f"S{text.shape[1]}").ravel()


def _array(writer: Any, name: str, n: int) -> Any:
    """Create a column as the package's writers do, but write nothing yet."""
    column, path = COLUMNS[name], f"train/{name}"
    is_text = column.data_type == STRING
    if hasattr(writer, "_file"):
        import h5py

        dtype = h5py.string_dtype("utf-8", len(_NAME)) if is_text else column.data_type
        options: dict[str, Any] = {} if is_text else {"fillvalue": column.fill}
        array = writer._file.create_dataset(
            path,
            (n,),
            dtype,
            chunks=(min(COLUMN_CHUNK_ROWS, n),),
            shuffle=True,
            compression="gzip",
            track_times=False,
            **options,
        )
        writer._attach_dimension(path, column.dimension, n)
        return array
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    root = zarr.open_group(writer._path, mode="a", zarr_format=3, use_consolidated=False)
    return root.create_array(
        path,
        shape=(n,),
        dtype=str if is_text else column.data_type,
        chunks=(COLUMN_CHUNK_ROWS,),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        filters=None,
        fill_value=column.fill,
        dimension_names=[column.dimension],
        config={"write_empty_chunks": True},
    )


def _as_stored(array: Any, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind != "S":
        return values
    return values.astype(array.dtype if hasattr(array, "id") else np.dtypes.StringDType())


def _jpeg() -> bytes:
    """Draw a small image, so that pixels take little memory."""
    from PIL import Image

    small = np.random.default_rng(SEED).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encode(Image.fromarray(small).resize((160, 120)))


def _buffers(n: int) -> list[Ints]:
    """Return the positions of the buffers that a block shuffle reads first."""
    return list(itertools.islice(block_buffers(n, SEED, 0, buffer_size=BUFFER), 6))


def _fill(
    path: Path, address: int | None, total: int, places: list[tuple[int, int]], jpeg: bytes
) -> None:
    """Write the image to some places of the payload; the rest of each place is zeros."""
    for start, nbytes in places:
        if address is not None:
            with path.open("r+b") as file:
                file.seek(address + start)
                file.write(jpeg)
            continue
        for shard in range(start // SHARD_NBYTES, (start + nbytes - 1) // SHARD_NBYTES + 1):
            first = shard * SHARD_NBYTES
            length = min(SHARD_NBYTES, total - first)
            file_path = path / f"train/{PAYLOAD}/c/{shard}"
            if not file_path.exists():
                file_path.parent.mkdir(exist_ok=True)
                footer = shard_footer(length, SHARD_NBYTES, INNER_CHUNK_NBYTES)
                with file_path.open("wb") as file:
                    file.seek(shard_object_nbytes(length, SHARD_NBYTES, INNER_CHUNK_NBYTES))
                    file.seek(-len(footer), 1)
                    file.write(footer)
            lower, upper = max(start, first), min(start + len(jpeg), first + length)
            if lower < upper:
                with file_path.open("r+b") as file:
                    file.seek(lower - first)
                    file.write(jpeg[lower - start : upper - start])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for n in options.samples:
        for suffix in SUFFIXES:
            path = options.folder / f"grown-{n}{suffix}"
            if not path.exists():
                began = time.perf_counter()
                make(path, n)
                print(f"{path}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
