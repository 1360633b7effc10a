"""Time decoding through a store against plain threads that decode the same bytes.

::

    python -m benchmarks.bench_decode [--images 1024] [--rounds 7] [--json FILE]

A store of JPEGs with the sizes of ImageNet's is made in a temporary folder. The acts take turns,
with the store in the page cache. Each act decodes all images in batches of 256:

- ``simplejpeg``: one thread, and one thread per core, on bytes in memory, with a future per image.
  The pixels of a batch are kept until the next batch exists, as a training loop keeps them;
- ``threads, resized``: the same threads decode and resize each image as arraystore does, on bytes
  in memory: the limit of `batches` with a size;
- ``image``, ``resized``, ``batches``, ``__getitems__``: through the store, with all checksums.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

import arraystore
from arraystore._threads import n_cpus
from arraystore.images.decode import decode_resized
from benchmarks.photographs import jpegs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCH: Final = 256
SIZE: Final = 224
SMALL: Final = 84
N_PICTURES: Final = 128

Act = tuple[str, "Callable[[], object]", str]


def acts_on(train: arraystore.Split) -> list[Act]:
    """Return name, function and reference of each act."""
    encoded = train.image_bytes[:]
    pool = ThreadPoolExecutor(n_cpus())
    n = len(encoded)
    chunks = [slice(i, min(i + BATCH, n)) for i in range(0, n, BATCH)]

    def plain() -> object:
        return _last(list(pool.map(simplejpeg.decode_jpeg, encoded[chunk])) for chunk in chunks)

    def single() -> object:
        return _last(list(map(simplejpeg.decode_jpeg, encoded[chunk])) for chunk in chunks)

    def resized(size: int) -> object:
        return _last(_resized(pool, encoded[chunk], size) for chunk in chunks)

    def looped(size: int | None) -> object:
        return _last(iter(train.batches(BATCH, seed=0, size=size)))

    threads = f"simplejpeg, {n_cpus()} threads"
    sizes = (SIZE, SMALL)
    return [
        ("simplejpeg, 1 thread", single, ""),
        (threads, plain, ""),
        ("image[…]", lambda: _last(train.image[chunk] for chunk in chunks), threads),
        ("__getitems__", lambda: _last(map(train.__getitems__, _rows(chunks))), threads),
        ("batches", partial(looped, None), threads),
        *((f"threads, resized {size}", partial(resized, size), "") for size in sizes),
        *(
            (
                f"resized({size})[…]",
                lambda size=size: _last(train.resized(size)[chunk] for chunk in chunks),
                f"threads, resized {size}",
            )
            for size in sizes
        ),
        *(
            (f"batches, size={size}", partial(looped, size), f"threads, resized {size}")
            for size in sizes
        ),
    ]


def _rows(chunks: Sequence[slice]) -> Iterator[list[int]]:
    return (list(range(chunk.start, chunk.stop)) for chunk in chunks)


def _resized(pool: ThreadPoolExecutor, encoded: Sequence[bytes], size: int) -> object:
    out = np.empty((len(encoded), size, size, 3), np.uint8)
    return list(pool.map(decode_resized, encoded, out))


def _last(batches: Iterator[object]) -> object:
    """Consume batches, and keep each until the next one exists."""
    batch = None
    for batch in batches:  # noqa: B007 - kept, as a loop keeps it
        pass
    return batch


def measure(acts: Sequence[Act], *, n_rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each act, one number per round."""
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in acts}
    for _ in range(n_rounds):
        for name, act, _ in acts:
            start = perf_counter()
            act()
            seconds[name].append(perf_counter() - start)
    return seconds


def make_store(folder: Path, n_images: int, suffix: str) -> Path:
    """Convert a folder of `n_images` JPEGs, among them `N_PICTURES` different ones."""
    pictures = jpegs(min(N_PICTURES, n_images))
    source = folder / "source" / "train" / "class"
    source.mkdir(parents=True)
    for i in range(n_images):
        (source / f"{i:06}.jpg").write_bytes(pictures[i % len(pictures)])
    target = folder / f"store{suffix}"
    arraystore.convert(f"folder:{folder / 'source'}", target, sync=False, progress=False)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_decode", description="Time decoding through a store."
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--suffix", choices=(".zarr", ".h5"), default=".zarr")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        store = arraystore.open(make_store(Path(folder), options.images, options.suffix))
        acts = acts_on(store["train"])
        seconds = measure(acts, n_rounds=options.rounds)
    rates = {name: options.images / median(values) for name, values in seconds.items()}
    best = {name: options.images / min(values) for name, values in seconds.items()}
    print(f"{'':26}  median /s    best /s   ratio of medians, of the best")
    for name, _, reference in acts:
        ratio = (
            f"{rates[name] / rates[reference]:8.2f} {best[name] / best[reference]:6.2f}"
            f"  of {reference}"
            if reference
            else ""
        )
        print(f"{name:26} {rates[name]:10,.0f} {best[name]:10,.0f} {ratio}")
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
