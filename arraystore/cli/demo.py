"""The demonstration: draw archives, convert them to both containers, compare and query them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.cli.contact_sheet import contact_sheet
from arraystore.cli.synthetic_archives import write_archives
from arraystore.convert import convert
from arraystore.errors import ArrayStoreError, escaped
from arraystore.reader import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Report = Callable[[str], object]

_MARKER: Final = ".arraystore-demo"


def run_demo(folder: Path, *, report: Report) -> None:
    """Make archives, convert them to both containers, compare those, and query one.

    Parameters
    ----------
    folder : Path
        Folder for archives, stores and a contact sheet; created if it does not exist. Only files
        of an earlier demo are replaced.
    report : callable
        Called with a line about each step.

    Raises
    ------
    FileExistsError
        If the folder has other contents than an earlier demo.
    ArrayStoreError
        If the stores differ from each other or from the archives.
    """
    _claim(folder)
    archives = write_archives(folder / "archives")
    report(
        f"Drew {len(archives.train)} training and {len(archives.validation)} validation images in "
        f"archives like those of ILSVRC 2012: {archives.folder}/"
    )
    stores = []
    for name in ("demo.zarr", "demo.h5"):
        target = folder / name
        converted = convert(
            "imagenet2012_subset/1pct",
            target,
            manual_dir=archives.folder,
            partial=True,
            overwrite=True,
            progress=False,
        )
        counts = ", ".join(f"{split}: {r.num_samples}" for split, r in converted.splits.items())
        report(f"Converted them to {target} in {converted.seconds:.2f} s ({counts})")
        stores.append(open_store(target))
    changed = converted.splits["train"].reencoded
    report(f"Re-encoded, because they were CMYK or PNG: {', '.join(changed)}")
    _compare(stores[0], stores[1], report)
    _compare_with_source(stores[0], archives.train, changed, report)
    _query(stores[0], report)
    sheet = folder / "contact-sheet.png"
    train = stores[0]["train"]
    pairs = train.per_label(2)
    contact_sheet(pairs, np.arange(len(pairs)), columns=10).save(sheet, "PNG")
    report(f"Drew two images of every class with its name: {sheet}")


def _claim(folder: Path) -> None:
    """Mark a folder as one of a demo; it must be new, empty, or of an earlier demo."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    if any(folder.iterdir()) and not marker.exists():
        raise FileExistsError(
            escaped(f"{folder}: is neither empty nor from an earlier demo; choose another folder")
        )
    marker.touch()


def _compare(one: Store, other: Store, report: Report) -> None:
    """Compare labels, names and bytes of two stores."""
    for name in one:
        a, b = one[name], other[name]
        same = (
            one.info.splits[name].content_digest == other.info.splits[name].content_digest
            and np.array_equal(a.label, b.label)
            and np.array_equal(a.file_name, b.file_name)
            and a.image_bytes[:] == b.image_bytes[:]
        )
        if not same:
            raise ArrayStoreError(f"{name}: {one.address} and {other.address} differ")
        digest = one.info.splits[name].content_digest
        report(
            f"Compared {len(a)} samples of {name}: identical in both stores (digest {digest[:12]}…)"
        )


def _compare_with_source(
    store: Store, source: dict[str, bytes], changed: tuple[str, ...], report: Report
) -> None:
    """Compare the stored bytes with the archive."""
    train = store["train"]
    stored = dict(zip(train.file_name.tolist(), train.image_bytes[:], strict=True))
    same = [name for name in source if stored[name] == source[name]]
    if set(source) - set(same) != set(changed):
        raise ArrayStoreError(f"{store.address}: bytes differ from the archive")
    report(f"Compared with the archive: {len(same)} of {len(source)} are equal byte for byte")


def _query(store: Store, report: Report) -> None:
    """Show some queries."""
    train = store["train"]
    image, label, file_name = train[5]
    report(f"train[5]: image {image.dtype} {image.shape}, label {label}, file_name {file_name!r}")
    tenches = train.where(label="tench")
    names = ", ".join(tenches.file_name[:3].tolist())
    report(f"train.where(label='tench'): {len(tenches)} of label {tenches.label[0]} ({names}, …)")
    few = train.per_label(1, seed=0)
    report(
        f"train.per_label(1, seed=0): {len(few)} samples of {len(set(few.label.tolist()))} labels"
    )
    report(f"train.resized(64)[:8]: {train.resized(64)[:8].shape}")
    large = int(np.count_nonzero(train.image_height >= 375))
    report(f"train.image_height >= 375: {large} of {len(train)} images")
    report(f"store['train[:10%]+validation']: {len(store['train[:10%]+validation'])} samples")
