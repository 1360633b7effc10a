"""Abandon iterators in one or several ways, and print a line for each.

This runs in its own process; its parent limits the time. At the end it reports threads that are
left after the last iterator.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator
from contextlib import nullcontext, suppress
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import arraystore
from arraystore._threads import n_cpus
from arraystore.exporting import export
from arraystore.writing.progress import Meter
from tests.support import no_threads_are_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Split = arraystore.Split
    Kind = Callable[[Split], Iterator[Any]]

MAX_SECONDS: Final = 0.01
"""Maximum time until a loop is interrupted."""


class FailedError(Exception):
    """Raised in a loop."""


class FailingMeter(Meter):
    """Raises when progress is reported."""

    def advance(self, n: int, nbytes: int = 0) -> None:
        raise FailedError


def exported(split: Split) -> Iterator[None]:
    """Begin to export a split, and fail."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(export, "meter", return_value=nullcontext(FailingMeter())),
    ):
        arraystore.export(split, Path(folder) / "images", sync=False)
    yield


KINDS: Final[dict[str, Kind]] = {
    "samples": iter,
    "drawn samples": lambda split: iter(split.sample(40, seed=1) & split.sample(80, seed=2)),
    "map": lambda split: iter(split.map(lambda sample: sample.label)),
    "supervised": lambda split: iter(split.as_supervised()),
    "batches": lambda split: iter(split.batches(8, seed=1)),
    "resized batches": lambda split: iter(split.batches(16, size=32)),
    "batches by block": lambda split: iter(
        split.batches(8, shuffle="block", buffer_size=24, size=16)
    ),
    "episodes": lambda split: iter(split.episodes(2, 2, 2, size=16)),
    "export": exported,
}


def fail_with(kind: Kind, split: Split, choose: random.Random) -> None:
    """Raise in a loop; the traceback and its error form a cycle that holds the iterator."""

    def loop() -> None:
        iterator = kind(split)
        next(iterator)
        raise FailedError

    try:
        loop()
    except FailedError as error:
        error.args = (error,)


def in_a_cycle(kind: Kind, split: Split, choose: random.Random) -> None:
    """Leave an iterator in a reference cycle, perhaps inside a generator."""

    def generator() -> Iterator[Any]:
        yield from kind(split)

    iterator = generator() if choose.random() < 0.5 else kind(split)
    holder: list[Any] = [iterator]
    holder.append(holder)
    consume(iterator, choose)


def half_consumed(kind: Kind, split: Split, choose: random.Random) -> None:
    """Leave a loop by `break`, or never begin it."""
    if choose.random() < 0.2:
        kind(split)
    else:
        consume(kind(split), choose)


def in_threads_that_end(kind: Kind, split: Split, choose: random.Random) -> None:
    """Begin an iterator in one thread, continue in another, and release it in a third."""
    held: deque[Iterator[Any]] = deque()

    def begin() -> None:
        held.append(kind(split))
        consume(held[0], choose)

    def advance() -> None:
        consume(held[0], choose)

    def release() -> None:
        iterator = held.pop()
        if isinstance(iterator, Generator) and choose.random() < 0.5:
            iterator.close()

    for act in (begin, advance, release):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()


def forked(kind: Kind, split: Split, choose: random.Random) -> None:
    """Fork in the middle of a loop; both processes continue it, and the child may release it."""
    iterator = kind(split)
    consume(iterator, choose)
    is_freed = choose.random() < 0.5
    child = os.fork()
    if child == 0:
        status = 1
        try:
            consume(iterator, random.Random(0))
            if is_freed:
                del iterator
                gc.collect()
            status = 0
        finally:
            os._exit(status)
    consume(iterator, choose)
    _, status = os.waitpid(child, 0)
    if status:
        print("WRONG in a forked child", flush=True)


def interrupted(kind: Kind, split: Split, choose: random.Random) -> None:
    """Interrupt a loop at any moment, as Ctrl-C does."""
    try:
        # Repeated, because Python ignores an interrupt in a finalizer.
        signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-4, MAX_SECONDS), 0.1)
        try:
            while True:
                deque(islice(kind(split), 20), maxlen=0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (KeyboardInterrupt, FailedError):
        pass
    except SystemError as error:  # h5py reports an interrupt in a callback of libhdf5 so
        cause: BaseException | None = error
        while isinstance(cause, SystemError):
            cause = cause.__cause__
        if not isinstance(cause, KeyboardInterrupt):
            raise
        print("interrupted in libhdf5", flush=True)


_never_freed: list[Any] = []


def at_exit(kind: Kind, split: Split, choose: random.Random) -> None:
    """Keep an iterator until the interpreter ends, perhaps while a thread uses another one."""
    iterator = kind(split)

    def loop() -> None:
        while True:
            consume(kind(split), choose)

    if choose.random() < 0.2 and kind is not exported:
        threading.Thread(target=loop, daemon=True).start()
    consume(iterator, choose)
    _never_freed.append([iterator, _never_freed])


WAYS: Final[dict[str, Callable[[Kind, Split, random.Random], None]]] = {
    "exception": fail_with,
    "cycle": in_a_cycle,
    "break": half_consumed,
    "threads that end": in_threads_that_end,
    "fork": forked,
    "interrupt": interrupted,
    "exit": at_exit,
}


def consume(iterator: Iterator[Any], choose: random.Random) -> None:
    deque(islice(iterator, choose.randrange(1, 4)), maxlen=0)


def main() -> None:
    """Abandon iterators as the command line says: ways, seed, number, stores."""
    ways, seed, n = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    choose = random.Random(f"{sys.argv[1]} {seed}")
    splits = [arraystore.open(path)["train"] for path in sys.argv[4:]]
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    sys.unraisablehook = lambda raised: print(
        f"WRONG in a finalizer: {raised.exc_value!r}"
        if not isinstance(raised.exc_value, KeyboardInterrupt)
        else "interrupted in a finalizer",
        flush=True,
    )
    if "interrupt" in ways:
        # An interrupt during an import leaves CPython's import lock locked, so import first.
        for split in splits:
            for kind in KINDS.values():
                with suppress(FailedError):
                    next(kind(split))
    for way, number in product(ways, range(n)):
        gc.set_threshold(choose.choice([1, 5, 20, 100, 700]))
        kind = list(KINDS.values())[number % len(KINDS)]
        try:
            WAYS[way](kind, splits[choose.randrange(len(splits))], choose)
        except (FailedError, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"abandoned by {way}", flush=True)
    if "exit" in ways:
        return
    gc.collect()
    max_threads = n_cpus() + max(32, 2 * n_cpus())
    if threading.active_count() > max_threads:
        print("WRONG number of threads", flush=True)
    if not no_threads_are_left():
        print("WRONG: threads are left", flush=True)


if __name__ == "__main__":
    main()
