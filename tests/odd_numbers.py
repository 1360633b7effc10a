"""A program that calls everything that takes a number with unusual values; see `test_numbers`.

It runs in a child process with limits, because a value that is not checked may need all memory or
never end. It prints one line for each failure.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import arraystore

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_NBYTES = 4 * 2**30
LIMIT_SECONDS = 10
DOCUMENTED = (TypeError, ValueError, IndexError, KeyError, FileNotFoundError)

ODD: tuple[Any, ...] = (
    10**30,
    -(10**30),
    10**5000,  # has too many digits for Python to print it
    2**63,
    2**64,
    2**31,
    10**6,
    -1,
    0,
    1.5,
    2.0,
    float("nan"),
    float("inf"),
    -0.0,
    True,
    False,
    np.True_,
    np.int8(3),
    np.uint64(2**64 - 1),
    np.float32(2),
    np.array(3),
    np.array([3]),
    np.array(True),
    np.array(float("nan")),
    np.array(10**30, dtype=object),
    np.array([10**30, 1], dtype=object),
    np.datetime64("2026-01-01"),
    Fraction(1, 2),
    Decimal("NaN"),
    3j,
    "3",
    "9" * 5000,
    b"3",
    None,
    (),
    [[1]],
    {},
)

CALLS: dict[str, Callable[[arraystore.Split, Any], object]] = {
    "sample": lambda t, v: t.sample(v),
    "sample replace": lambda t, v: t.sample(v, replace=True),
    "sample seed": lambda t, v: t.sample(3, seed=v),
    "per_label": lambda t, v: t.per_label(v),
    "per_label replace": lambda t, v: t.per_label(v, replace=True),
    "per_label fraction": lambda t, v: t.per_label(fraction=v),
    "per_label fraction replace": lambda t, v: t.per_label(fraction=v, replace=True),
    "per_label seed": lambda t, v: t.per_label(1, seed=v),
    "even_splits": lambda t, v: t.even_splits(v),
    "even_splits drop": lambda t, v: t.even_splits(v, drop_remainder=True),
    "batches": lambda t, v: next(iter(t.batches(v).positions()), None),
    "batches length": lambda t, v: len(t.batches(v)),
    "batches drop": lambda t, v: list(t.batches(v, drop_last=True).positions()),
    "batches seed": lambda t, v: next(t.batches(4, seed=v).positions()),
    "batches epoch": lambda t, v: next(t.batches(4, epoch=v).positions()),
    "batches balanced": lambda t, v: next(t.batches(4, epoch=v, balanced=True).positions()),
    "batches shuffle": lambda t, v: t.batches(4, shuffle=v),
    "batches start": lambda t, v: list(t.batches(4, start_batch=v)),
    "batches start block": lambda t, v: list(
        t.batches(4, start_batch=v, shuffle="block").positions()
    ),
    "batches rank": lambda t, v: list(t.batches(4, rank=v, world_size=5).positions()),
    "batches world": lambda t, v: list(t.batches(4, world_size=v).positions()),
    "batches world block": lambda t, v: list(
        t.batches(4, world_size=v, shuffle="block").positions()
    ),
    "batches buffer": lambda t, v: list(t.batches(4, buffer_size=v, shuffle="block").positions()),
    "batches block": lambda t, v: list(t.batches(v, shuffle="block").positions()),
    "batches size": lambda t, v: t.batches(4, size=v),
    "episodes way": lambda t, v: t.episodes(v, 1, 1),
    "episodes shot": lambda t, v: t.episodes(1, v, 1),
    "episodes query": lambda t, v: t.episodes(1, 1, v),
    "episodes seed": lambda t, v: t.episodes(1, 1, 1, seed=v).positions(0),
    "episodes count": lambda t, v: len(t.episodes(1, 1, 1, n_episodes=v)),
    "episodes start": lambda t, v: next(iter(t.episodes(1, 1, 1, start=v, n_episodes=1))),
    "episodes last": lambda t, v: t.episodes(1, 1, 1, start=v, n_episodes=2**62),
    "episodes number": lambda t, v: t.episodes(1, 1, 1).positions(v),
    "resized": lambda t, v: t.resized(v),
    "resized pair": lambda t, v: t.resized((4, v)),
    "resized many": lambda t, v: t.resized((v, v))[:0],
    "int2str": lambda t, v: t.int2str(v),
    "where label": lambda t, v: t.where(label=v),
    "where labels": lambda t, v: t.where(label=[0, v]),
    "where file_name": lambda t, v: t.where(file_name=v),
    "find": lambda t, v: t.find(v),
    "in": lambda t, v: v in t,
    "one": lambda t, v: t[v],
    "list": lambda t, v: t[[v]],
    "mixed list": lambda t, v: t[[0, v]],
    "start": lambda t, v: t.image_bytes[v:],
    "stop": lambda t, v: t.image_bytes[:v],
    "step": lambda t, v: t.image_bytes[::v],
    "backwards": lambda t, v: t.image_bytes[5 : -(10**40) : v],
    "image_bytes": lambda t, v: t.image_bytes[v],
    "image_views": lambda t, v: t.image_views[v],
    "image": lambda t, v: t.image[v],
    "arena": lambda t, v: t.image_arena(v),
    "read_plan": lambda t, v: t.read_plan(v),
    "select": lambda t, v: t.select(v),
    "select list": lambda t, v: t.select([0, v]),
    "select slice": lambda t, v: t.select(slice(v, None)),
    "select step": lambda t, v: t.select(slice(None, None, v)),
    "map": lambda t, v: t.map(len)[v],
    "getitems": lambda t, v: t.__getitems__([v]),
}
OPENING: dict[str, Callable[[Path, Any], object]] = {
    "split name": lambda p, v: arraystore.open(p)[v],
    "split bound": lambda p, v: arraystore.open(p)[f"train[{_digits(v)}:]"],
    "split percentage": lambda p, v: arraystore.open(p)[f"train[:{_digits(v)}%]"],
    "max_gap": lambda p, v: arraystore.open(p, max_gap=v)["train"].image_bytes[:9],
    "max_in_flight": lambda p, v: arraystore.open(p, max_in_flight=v)["train"].image_bytes[:9],
    "timeout": lambda p, v: _connected({"timeout": v}),
    "retry_timeout": lambda p, v: _connected({"retry_timeout": v}),
    "max_retries": lambda p, v: _connected({"max_retries": v}),
    "seed": lambda p, v: arraystore.convert("folder:/nothing-here", p.parent / "b.h5", seed=v),
}


def _digits(value: Any) -> str:
    is_huge = isinstance(value, int) and value.bit_length() > 10_000
    return "9" * 5000 if is_huge else str(value)


def _connected(options: dict[str, Any]) -> object:
    from arraystore.storage.location import Location
    from arraystore.storage.objects.connection import connect

    return connect(Location.parse("http://127.0.0.1:9/a.zarr", options))


def main(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_NBYTES, LIMIT_NBYTES))
    warnings.simplefilter("error")
    # NumPy before 2.3 takes np.True_ for an index, with a warning; since then it is a TypeError.
    warnings.filterwarnings("ignore", "In future, it will be an error for 'np.bool' scalars")
    train = arraystore.open(path)["train"]
    for value in ODD:
        for name, call in CALLS.items():
            _try(name, partial(call, train), value)
        for name, opening in OPENING.items():
            _try(name, partial(opening, path), value)


def _try(name: str, call: Callable[[Any], object], value: Any) -> None:
    began = time.monotonic()
    try:
        call(value)
        found = ""
    except DOCUMENTED as error:
        text = str(error)
        found = "" if text.isprintable() and len(text) < 1000 else f"message {text[:99]!r}"
        found += " is not a message of arraystore" if "4300 digits" in text else ""
    except BaseException as error:  # noqa: BLE001 - printed as a failure
        found = f"{type(error).__name__}: {str(error)[:99]}"
    seconds = time.monotonic() - began
    found += f" took {seconds:.1f} s" if seconds > LIMIT_SECONDS else ""
    if found:
        print(f"{name}({_digits(value)[:40]}): {found}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
