"""Part of `make soak`: stores that are overwritten repeatedly while 20 readers read them."""

from __future__ import annotations

import io
import multiprocessing
import random
import shutil
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

import arraystore
from arraystore.errors import StoreChangedError
from arraystore.storage.exchange import exchange
from tests.support import SUFFIXES, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue

READS: Final = 1000
PROCESSES: Final = 4
READERS: Final = 20
USES: Final = 6
"""Maximum number of reads before a store is opened again."""

TIMEOUT: Final = 300
"""Seconds after which a process is considered to hang."""

TARGETS: Final = ("a.zarr", "a.h5", "link.zarr", "link.h5")

Facts = dict[str, str]


def run(seed: int, n_reads: int = READS, n_processes: int = PROCESSES) -> Counter[str]:
    """Overwrite stores while they are read; return counts of the outcomes.

    Every read must return data of the store that was opened, or raise `StoreChangedError`.

    Parameters
    ----------
    seed : int
    n_reads : int
        Total number of reads.
    n_processes : int
        Number of processes that share `READERS` threads.
    """
    with tempfile.TemporaryDirectory(prefix="overwriting-") as place:
        return _run(Path(place), seed, n_reads, n_processes)


def _run(folder: Path, seed: int, n_reads: int, n_processes: int) -> Counter[str]:
    contents = [_content(folder, number) for number in range(2)]
    facts = {}
    for number, sources in enumerate(contents):
        store = arraystore.open(sources[1])
        facts[str(store.info.splits["train"].content_digest)] = {
            name: read(store) for name, read in READINGS.items()
        }
        assert len(facts) == number + 1, "the contents are the same"
    for name in TARGETS:
        arraystore.copy(contents[0][1], folder / name, sync=False, progress=False)
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    writer = context.Process(target=_write, args=(folder, contents, seed, stop, results))
    share = -(-n_reads // n_processes)
    readers = [
        context.Process(target=_read, args=(folder, facts, seed * 100 + i, share, results, n))
        for i, n in enumerate([READERS // n_processes] * n_processes)
    ]
    counts: Counter[str] = Counter()
    try:
        for process in (writer, *readers):
            process.start()
        for _ in readers:
            counts += results.get(timeout=TIMEOUT)
        stop.set()
        counts += results.get(timeout=TIMEOUT)
    finally:
        for process in (writer, *readers):
            process.kill()
            process.join()
    left = {path.name for path in folder.iterdir()} - {*TARGETS}
    counts["WRONG things left beside the stores"] += sum(name.startswith(".") for name in left)
    return +counts


def _content(folder: Path, number: int) -> list[Path]:
    """Return source and stores of one of two contents that differ in all values, not in sizes."""
    files = {
        f"train/{c}{number}/{i}{number}.bmp": _bitmap(100 * number + 10 * k + i)
        for k, c in enumerate("ab")
        for i in range(6 + (number if c == "a" else -number))
    }
    paths = [write_folder(folder / f"in{number}", files)]
    for suffix in SUFFIXES:
        paths.append(folder / f"store{number}{suffix}")
        arraystore.convert(f"folder:{paths[0]}", paths[-1], sync=False, progress=False)
    return paths


def _bitmap(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def _digest(*values: Any) -> str:
    return sha256(repr(values).encode()).hexdigest()


READINGS: Final[dict[str, Callable[[arraystore.Store], str]]] = {
    "info": lambda store: _digest(store.info.splits, store.label_names),
    "labels": lambda store: _digest(store["train"].label.tolist()),
    "names": lambda store: _digest(store["train"].file_name.tolist()),
    "one image": lambda store: _digest(store["train"].image_bytes[3]),
    "images": lambda store: _digest(store["train"].image_bytes[::-1]),
    "pixels": lambda store: _digest(store["train"][5].image.tolist()),
    "views": lambda store: _digest([bytes(view) for view in store["train"].image_views[:]]),
    "batches": lambda store: _digest(
        [batch.image.tolist() for batch in store["train"].batches(4, size=8, shuffle=False)]
    ),
    "where": lambda store: _digest(store["train"].where(label=1).file_name.tolist()),
    "map": lambda store: _digest(list(store["train"].map(_name_and_pixels))),
    "verify": lambda store: _digest(arraystore.verify(store.address, progress=False).problems),
}
"""Functions that read something and return a digest of it."""


def _name_and_pixels(sample: arraystore.Sample) -> tuple[str, list[Any]]:
    return sample.file_name, sample.image.tolist()


def _write(
    folder: Path, contents: list[list[Path]], seed: int, stop: Any, results: Queue[Any]
) -> None:
    """Overwrite the targets with both contents in turns."""
    rng, counts, number = random.Random(seed), Counter[str](), 0
    try:
        while not stop.is_set():
            number += 1
            target = folder / TARGETS[number // 2 % len(TARGETS)]
            how = rng.choice(["convert", "copy", "copy"])
            if target.stem == "link":
                how = rng.choice(["convert", "copy", "link", "link"])
            _overwrite(target, contents[number % 2], how, rng)
            counts[f"overwritten by {how}"] += 1
    except Exception:  # noqa: BLE001 - counted as wrong
        traceback.print_exc()
        counts["WRONG in overwriting"] += 1
    results.put(counts)


def _overwrite(target: Path, content: list[Path], how: str, rng: random.Random) -> None:
    source, *stores = content
    if how == "convert":
        arraystore.convert(f"folder:{source}", target, overwrite=True, sync=False, progress=False)
    elif how == "copy":
        arraystore.copy(rng.choice(stores), target, overwrite=True, sync=False, progress=False)
    else:  # a link to a store of either container replaces the target
        other = target.with_name("other")
        other.symlink_to(rng.choice(stores))
        assert exchange(other, target)
        shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()


def _read(
    folder: Path, facts: dict[str, Facts], seed: int, n_reads: int, results: Queue[Any], n: int
) -> None:
    with ThreadPoolExecutor(n) as pool:
        shares = [(folder, facts, seed * 100 + i, -(-n_reads // n)) for i in range(n)]
        counts: Counter[str] = sum(pool.map(_reader, *zip(*shares, strict=True)), Counter())
    results.put(counts)


def _reader(folder: Path, facts: dict[str, Facts], seed: int, n_reads: int) -> Counter[str]:
    rng, counts = random.Random(seed), Counter[str]()
    while counts["reads"] < n_reads:
        path = folder / rng.choice(TARGETS)
        try:
            store = arraystore.open(path, mmap=rng.random() < 1 / 2)
            expected = facts[store.info.splits["train"].content_digest]
        except StoreChangedError:
            counts["reads"] += 1
            counts["StoreChangedError in open"] += 1
            continue
        except Exception as error:  # noqa: BLE001 - counted as wrong
            traceback.print_exc()
            counts["reads"] += 1
            counts[f"WRONG {type(error).__name__} in open"] += 1
            continue
        for name in rng.choices([*READINGS], k=rng.randint(1, USES)):
            counts["reads"] += 1
            counts[_judged(store, name, expected)] += 1
    return counts


def _judged(store: arraystore.Store, name: str, expected: Facts) -> str:
    try:
        found = READINGS[name](store)
    except StoreChangedError:
        return f"StoreChangedError in {name}"
    except Exception as error:  # noqa: BLE001 - counted as wrong
        traceback.print_exc()
        return f"WRONG {type(error).__name__} in {name}"
    return "right" if found == expected[name] else f"WRONG data of {name}"
