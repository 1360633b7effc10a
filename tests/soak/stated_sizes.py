"""Part of `make soak`: stores with one false number give right data or an error.

Each case runs in its own process, which ends after `LIMIT_SECONDS`. Its peak memory
(``ru_maxrss``) must stay below `MEMORY_NBYTES`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
from numcodecs.zstd import Zstd

import arraystore
from arraystore._checksum import crc32c
from arraystore.schema import COLUMNS
from tests.soak.judge import scratch, whole_store
from tests.soak.sizes_child import MEMORY_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Change = Callable[[Path], None]
    Case = tuple[str, str, Change]
    KeyPath = tuple[Any, ...]

SIZES: Final = (7, 4 * 10**7, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 10**30, 0, -1)
"""Values that replace each number."""

LIMIT_SECONDS: Final = 60
"""Time limit for each store; most take a tenth of a second."""

CASES: Final = 150
"""Number of cases in one round."""

_CASES_PER_CHILD: Final = 25

CHILD: Final = (sys.executable, "-m", "tests.soak.sizes_child")
WRONG: Final = "WRONG"
_INT64: Final = range(-(2**63), 2**63)


def run(seed: int, n_cases: int = CASES) -> Counter[str]:
    """Run some cases, and return counts of the outcomes; successive seeds cover all cases."""
    all_cases = list(cases())
    random.Random(0).shuffle(all_cases)
    first = seed * n_cases % len(all_cases)
    some = (all_cases + all_cases)[first : first + n_cases]
    counts: Counter[str] = Counter()
    for first in range(0, len(some), _CASES_PER_CHILD):
        made = {}
        for number, (name, suffix, change) in enumerate(some[first : first + _CASES_PER_CHILD]):
            path = scratch() / f"sizes-{number}{suffix}"
            fresh(suffix, path)
            with contextlib.suppress(OSError, OverflowError, ValueError, TypeError, struct.error):
                change(path)  # a container cannot hold every number
                made[path] = name
        for (path, name), outcome in zip(made.items(), in_child([*made]), strict=True):
            if outcome["memory"] > MEMORY_NBYTES:
                outcome["wrong"].append(f"{outcome['memory'] / 2**20:.0f} MiB of memory")
            if outcome["wrong"]:
                print(f"{WRONG}: {name}", *outcome["wrong"], sep="\n    ", file=sys.stderr)
                counts[f"{WRONG} {path.suffix[1:]}"] += 1
            else:
                result = "with errors" if outcome["refused"] else "right data"
                counts[f"{path.suffix[1:]}: {result}"] += 1
            remove(path)
    return counts


def fresh(suffix: str, path: Path) -> None:
    remove(path)
    if suffix == ".json":
        split = arraystore.open(whole_store(".zarr"))["train"]
        split.select([3, 1]).selection().save(path)
    elif suffix == ".zarr":
        shutil.copytree(whole_store(suffix), path)
    else:
        shutil.copy(whole_store(suffix), path)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def in_child(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Use stores in child processes, and return their reports."""
    done = subprocess.run(
        [*CHILD, str(LIMIT_SECONDS), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS * (len(paths) + 1),
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def cases() -> Iterator[Case]:
    """Yield name, suffix and change of every case."""
    yield from zarr_cases()
    yield from hdf5_cases()
    yield from selection_cases()


# Zarr


def number_paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of keys to every number inside a JSON value."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield path
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from number_paths(inner, (*path, key))


def edit(document: Any, path: KeyPath, value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def zarr_cases() -> Iterator[Case]:
    root = json.loads((whole_store(".zarr") / "zarr.json").read_text())
    for keys in number_paths(root):
        for size in SIZES:
            yield f"zarr.json {keys} = {size}", ".zarr", _in_document(keys, size)
    for size in SIZES:
        yield f"Zarr, all of samples = {size}", ".zarr", _all_of("sample", "num_samples", size)
        yield f"Zarr, all of bytes = {size}", ".zarr", _all_of("byte", "num_bytes", size)
        yield f"Zarr, all of classes = {size}", ".zarr", _all_of("class", "", size)
        yield f"Zarr, size of sources = {size}", ".zarr", _sources(size)
        for column in ("image_start", "image_nbytes", "label", "label_order", "label_indptr"):
            for row in (0, -1):
                name = f"Zarr {column}[{row}] = {size}"
                yield name, ".zarr", _value(column, row, size)
        yield f"Zarr, one image of {size}", ".zarr", one_image(size)


def _in_document(keys: KeyPath, size: int) -> Change:
    def change(path: Path) -> None:
        root = json.loads((path / "zarr.json").read_text())
        edit(root, keys, size)
        _write(path, root)

    return change


def _write(path: Path, root: dict[str, Any]) -> None:
    """Write all documents as in the root's consolidated metadata."""
    (path / "zarr.json").write_text(json.dumps(root))
    for name, node in root["consolidated_metadata"]["metadata"].items():
        (path / name / "zarr.json").write_text(json.dumps(node))


def _all_of(dimension: str, attribute: str, size: int, chunk: int | None = None) -> Change:
    """Change the length of all arrays of a dimension, and the attribute."""

    def change(path: Path) -> None:
        root = json.loads((path / "zarr.json").read_text())
        nodes = root["consolidated_metadata"]["metadata"]
        if attribute:
            nodes["train"]["attributes"][attribute] = size
        for node in nodes.values():
            names = node.get("dimension_names", [""])
            if names[0] == dimension or (dimension == "sample" and names[0] == "labelled"):
                node["shape"] = [size]
                if chunk is not None:
                    node["chunk_grid"]["configuration"]["chunk_shape"] = [chunk]
            if dimension == "class" and names[0] == "class_bound":
                node["shape"] = [size + 1]
        _write(path, root)

    return change


def _sources(size: int) -> Change:
    def change(path: Path) -> None:
        root = json.loads((path / "zarr.json").read_text())
        root["attributes"]["sources"] = json.dumps([{"name": "a", "nbytes": size}])
        _write(path, root)

    return change


def _value(column: str, row: int, size: int) -> Change:
    """Change a value of a column, and the checksum of its chunk."""

    def change(path: Path) -> None:
        chunk = path / "train" / column / "c" / "0"
        values = np.frombuffer(Zstd().decode(chunk.read_bytes()[:-4]), "<i8").copy()
        root = json.loads((path / "train" / column / "zarr.json").read_text())
        values[root["shape"][0] + row if row < 0 else row] = size
        frame = Zstd(3).encode(values)
        chunk.write_bytes(frame + struct.pack("<I", crc32c(frame)))

    return change


def one_image(size: int) -> Change:
    """Extend the payload and its last image to a size, consistently."""

    def change(path: Path) -> None:
        _all_of("byte", "num_bytes", size, max(2**26, size // 2**12 // 2**17 * 2**17))(path)
        start = np.frombuffer(
            Zstd().decode((path / "train/image_start/c/0").read_bytes()[:-4]), "<i8"
        )
        _value("image_nbytes", -1, size - int(start[5]))(path)

    return change


# HDF5


def hdf5_cases() -> Iterator[Case]:
    with h5py.File(whole_store(".h5")) as file:
        attributes = [
            (group, name)
            for group in ("/", "train")
            for name, value in file[group].attrs.items()
            if isinstance(value, np.integer)
        ]
        arrays = ["train/image_payload", "label_name", *(f"train/{name}" for name in COLUMNS)]
        columns = {name: file[name].dtype for name in arrays}
    for size in SIZES:
        for group, name in attributes:
            yield f"HDF5 {group}@{name} = {size}", ".h5", _attribute(group, name, size)
        for array in arrays:
            for layout in ("contiguous", "gzip", "one chunk"):
                name = f"HDF5 {array}, {layout}, of {size}"
                yield name, ".h5", _dataset([array], size, layout)
        for layout in ("contiguous", "chunked", "gzip"):
            yield f"HDF5, all of samples, {layout} = {size}", ".h5", _all_samples(size, layout)
            yield f"HDF5, all of bytes, {layout} = {size}", ".h5", _all_bytes(size, layout)
        for column, dtype in columns.items():
            if dtype == np.int64:
                yield f"HDF5 {column}[-1] = {size}", ".h5", _h5_value(column, size)
        for old in ("shape", "chunks"):
            yield f"HDF5, {old} in the bytes = {size}", ".h5", _in_bytes(size, old)


def _attribute(group: str, name: str, size: int) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            dtype = np.int64 if size in _INT64 else np.uint64
            file[group].attrs[name] = np.array(size, dtype=dtype)[()]

    return change


def _dataset(names: Sequence[str], size: int, layout: str) -> Change:
    """Replace datasets by empty ones of a length."""

    def change(path: Path) -> None:
        layouts: dict[str, dict[str, Any]] = {
            "contiguous": {},
            "chunked": {"chunks": (2**16,)},
            "gzip": {"chunks": (2**16,), "compression": "gzip", "shuffle": True},
            "one chunk": {"chunks": (min(size, 2**32 - 1) // 8,)},
        }
        options = layouts[layout]
        with h5py.File(path, "r+", libver="latest") as file:
            for name in names:
                dtype = file[name].dtype
                attributes = [(key, file[name].attrs[key]) for key in ("sample_dimension", "dense")
                              if key in file[name].attrs]  # fmt: skip
                del file[name]
                made = file.create_dataset(name, (size,), dtype, maxshape=(None,)
                                           if options else None, **options)  # fmt: skip
                for key, value in attributes:
                    made.attrs[key] = value

    return change


def _all_samples(size: int, layout: str) -> Change:
    columns = ("image_start", "image_nbytes", "image_height", "image_width", "image_crc32c",
               "label", "file_name", "label_order")  # fmt: skip

    def change(path: Path) -> None:
        _dataset([f"train/{name}" for name in columns], size, layout)(path)
        _attribute("train", "num_samples", size)(path)

    return change


def _all_bytes(size: int, layout: str) -> Change:
    def change(path: Path) -> None:
        _dataset(["train/image_payload"], size, layout)(path)
        _attribute("train", "num_bytes", size)(path)

    return change


def _h5_value(column: str, size: int) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[column][-1] = size

    return change


def _in_bytes(size: int, what: str) -> Change:
    """Replace every length of 6 samples in the structures of the file."""

    def change(path: Path) -> None:
        old = {"shape": struct.pack("<Q", 6), "chunks": struct.pack("<I", 6)}[what]
        new = struct.pack("<Q", size) if what == "shape" else struct.pack("<I", size)
        path.write_bytes(path.read_bytes().replace(old, new))

    return change


# Saved selections


def selection_cases() -> Iterator[Case]:
    for size in SIZES:
        for name in ("num_samples", "num_selected", "crc32c"):
            yield f"selection {name} = {size}", ".json", _selection(name, size)
        yield f"selection, rank {size}", ".json", _rank(size)


def _selection(name: str, size: int) -> Change:
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        document["splits"]["train"][name] = size
        path.write_text(json.dumps(document))

    return change


def _rank(size: int) -> Change:
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        entry = document["splits"]["train"]
        data = np.array([1, size], "<i8").tobytes()
        entry |= {"type": "int64", "num_selected": 2, "crc32c": crc32c(data), "num_samples": size}
        entry["rank_differences"] = base64.b64encode(data).decode()
        path.write_text(json.dumps(document))

    return change


def main() -> None:
    """Print every case: ``python -m tests.soak.stated_sizes``."""
    with contextlib.suppress(BrokenPipeError):
        for name, _, _ in cases():
            print(name)


if __name__ == "__main__":
    main()
