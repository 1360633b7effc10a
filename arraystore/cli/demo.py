"""The whole of it in a few seconds, on pictures drawn here."""

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

    Tell = Callable[[str], object]

_MARKER: Final = ".arraystore-demo"


def run(folder: Path, *, tell: Tell) -> None:
    """Make archives, convert them to both containers, compare those, and query one.

    Parameters
    ----------
    folder : Path
        Where to put archives, stores and a contact sheet; created if it is not
        there. An earlier demo's are replaced, nothing else.
    tell : callable
        Given each line of what is done.

    Raises
    ------
    FileExistsError
        If there is something in the folder, and it is no earlier demo.
    ArrayStoreError
        If the containers differ, or from the archives.
    """
    _claim(folder)
    archives = write_archives(folder / "archives")
    tell(
        f"Drew {len(archives.train)} training and {len(archives.validation)} validation pictures "
        f"into archives shaped like those of ILSVRC 2012: {archives.folder}/"
    )
    stores = []
    for name in ("demo.zarr", "demo.h5"):
        target = folder / name
        report = convert(
            "imagenet2012_subset/1pct",
            target,
            manual_dir=archives.folder,
            partial=True,
            overwrite=True,
            progress=False,
        )
        counts = ", ".join(f"{split}: {r.num_samples}" for split, r in report.splits.items())
        tell(f"Converted them to {target} in {report.seconds:.2f} s ({counts})")
        stores.append(open_store(target))
    changed = report.splits["train"].reencoded
    tell(f"Encoded anew, being CMYK or PNG inside: {', '.join(changed)}")
    _compare(stores[0], stores[1], tell)
    _compare_with_source(stores[0], archives.train, changed, tell)
    _query(stores[0], tell)
    sheet = folder / "contact-sheet.png"
    train = stores[0]["train"]
    pairs = train.per_label(2)
    contact_sheet(pairs, np.arange(len(pairs)), columns=10).save(sheet, "PNG")
    tell(f"Drew two pictures of every class, with their names: {sheet}")


def _claim(folder: Path) -> None:
    """Take a folder for the demo: one that is new, empty, or an earlier demo's."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    if any(folder.iterdir()) and not marker.exists():
        raise FileExistsError(
            escaped(f"{folder}: is neither empty nor an earlier demo; name another folder")
        )
    marker.touch()


def _compare(one: Store, other: Store, tell: Tell) -> None:
    """Compare all columns and all bytes of two stores."""
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
        tell(f"Compared {len(a)} samples of {name}: the same in both (digest {digest[:12]}…)")


def _compare_with_source(
    store: Store, source: dict[str, bytes], changed: tuple[str, ...], tell: Tell
) -> None:
    """Compare the stored bytes with those that went into the archive."""
    train = store["train"]
    stored = dict(zip(train.file_name.tolist(), train.image_bytes[:], strict=True))
    same = [name for name in source if stored[name] == source[name]]
    if set(source) - set(same) != set(changed):
        raise ArrayStoreError(f"{store.address}: bytes differ from the archive's")
    tell(f"Compared with the archive: {len(same)} of {len(source)} byte for byte the same")


def _query(store: Store, tell: Tell) -> None:
    """Show a few ways to ask."""
    train = store["train"]
    image, label, file_name = train[5]
    tell(f"train[5]: image {image.dtype} {image.shape}, label {label}, file_name {file_name!r}")
    tenches = train.where(label="tench")
    names = ", ".join(tenches.file_name[:3].tolist())
    tell(f"train.where(label='tench'): {len(tenches)} of label {tenches.label[0]} ({names}, …)")
    few = train.per_label(1, seed=0)
    tell(f"train.per_label(1, seed=0): {len(few)} samples of {len(set(few.label.tolist()))} labels")
    tell(f"train.resized(64)[:8]: {train.resized(64)[:8].shape}")
    large = int(np.count_nonzero(train.image_height >= 375))
    tell(f"train.image_height >= 375: {large} of {len(train)} images")
    tell(f"store['train[:10%]+validation']: {len(store['train[:10%]+validation'])} samples")
