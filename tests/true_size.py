"""Stores with as many samples as the real ones; nearly all images are holes of sparse files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._checksum import crc32c
from arraystore.containers import open_local, writer_for
from arraystore.containers.hdf5 import writer as hdf5_writer
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import image_starts, label_index
from arraystore.schema import COLUMNS, PAYLOAD, ROOT_COLUMNS, DatasetInfo, SplitInfo

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from arraystore.indexing.byte_range import ChunkManifest

N_CLASSES: Final = 1000
N_VALIDATION: Final = 50_000
SIZES: Final = {"1pct": 12_811, "10pct": 128_116}
"""Number of training samples of each config."""


def write_true_size(
    target: Path, n_train: int, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, *, every: int
) -> None:
    """Write a store of `n_train` and 50,000 samples; every `every`-th one is `jpeg`."""
    for module in (zarr_writer, hdf5_writer):
        monkeypatch.setattr(module, "reserve", _reserve_nothing)
    rng = np.random.default_rng(0)
    splits = {"train": n_train, "validation": N_VALIDATION}
    columns = {name: _columns(name, n, jpeg, every, rng) for name, n in splits.items()}
    open_writer = writer_for(target)
    writer = open_writer(target)
    for name in splits:
        writer.create_group(name)
        writer.create_payload(f"{name}/{PAYLOAD}", int(columns[name]["image_nbytes"].sum()))
    writer.close()
    _, container = open_local(target)
    root = target if target.is_dir() else target.parent
    manifests = {name: container.manifest(f"{name}/{PAYLOAD}") for name in splits}
    for name, manifest in manifests.items():
        _write(root, manifest, columns[name]["image_start"][::every], jpeg)
    writer = open_writer(target)
    wnids = [f"n{i:08d}" for i in range(N_CLASSES)]
    writer.write_column("label_name", wnids, ROOT_COLUMNS["label_name"])
    writer.write_column("label_words", wnids, ROOT_COLUMNS["label_words"])
    for split, values in columns.items():
        for name, column in COLUMNS.items():
            writer.write_column(f"{split}/{name}", values[name], column)
        total = int(values["image_nbytes"].sum())
        info = SplitInfo(splits[split], total, "shuffled", 0, "")
        writer.set_attributes(split, info.attributes())
    info_of_all = DatasetInfo("true_size", "", "1.0.0", "", "", "", tuple(splits))
    writer.set_attributes("", info_of_all.attributes())
    writer.close()


def _columns(
    split: str, n: int, jpeg: bytes, every: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return columns that are as hard to compress as the real ones."""
    nbytes = rng.lognormal(11.5, 0.4, n).astype(np.int64)
    crc = rng.integers(0, 2**32, n, dtype=np.uint32)
    nbytes[::every], crc[::every] = len(jpeg), crc32c(jpeg)
    label = rng.integers(0, N_CLASSES, n)
    label_order, label_indptr = label_index(label, N_CLASSES)
    numbers = rng.permutation(2 * n)[:n]
    return {
        "image_start": image_starts(nbytes),
        "image_nbytes": nbytes,
        "image_height": rng.integers(300, 600, n, dtype=np.int32),
        "image_width": rng.integers(300, 600, n, dtype=np.int32),
        "image_crc32c": crc,
        "label": label,
        "file_name": [f"n{k:08d}_{i}.JPEG" for k, i in zip(label, numbers, strict=True)],
        "label_order": label_order,
        "label_indptr": label_indptr,
    }


def _write(root: Path, manifest: ChunkManifest, starts: Any, jpeg: bytes) -> None:
    pieces = manifest.locate(starts, np.full(len(starts), len(jpeg)))
    done = dict.fromkeys(range(len(starts)), 0)
    for wanted, key, start, nbytes in zip(
        pieces.wanted, pieces.object, pieces.start, pieces.nbytes, strict=True
    ):
        with (root / manifest.keys[key]).open("r+b") as file:
            file.seek(start)
            file.write(jpeg[done[wanted] : done[wanted] + nbytes])
        done[wanted] += nbytes


def _reserve_nothing(path: Path, nbytes: int) -> None:
    with path.open("ab") as file:
        file.truncate(nbytes)
