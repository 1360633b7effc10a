"""Kill conversions at random points, and see that nothing is lost and nothing is wrong.

::

    python -m benchmarks.kills [--rounds N] [--seed S] [--suffix .zarr] [--folder DIR]
                               [--overwrite] [--no-exchange]

In each round a conversion is killed just before its n-th call that changes something on the
disk, in the middle of it if it writes. Half of the time the machine goes with the process: then
what was written and not synced is destroyed. After each kill the target must be absent or whole,
byte for byte. Then the conversion is resumed, and perhaps killed again; in the end the target
must be whole, and nothing may be left beside it. In a third of the rounds (with ``--overwrite``
in all) an old store is there, to be overwritten: then the target must open after each kill, and
must never be absent, unless names cannot be exchanged (``--no-exchange`` behaves so).

The conversions are children of this process, made by `os.fork`: it must have one thread alone.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import h5py  # noqa: F401 - so that not every child has to
import numpy as np
import zarr  # noqa: F401 - likewise
from PIL import Image

import arraystore
from arraystore.cli.synthetic_archives import encode
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import blocks
from arraystore.storage.exchange import exchange
from arraystore.writing import journal
from arraystore.writing import store_writer as base
from arraystore.writing import workspace as publishing

SUFFIXES: Final = (".zarr", ".h5")
BLOCK_NBYTES: Final = 4000
"""Length of a block, and in Zarr of a shard, instead of 64 MiB."""

GROUP_NBYTES: Final = 10_000
"""Bytes that are synced and recorded together, instead of 512 MiB."""

CALLS: Final = (
    *("fsync", "ftruncate", "link", "mkdir", "posix_fallocate", "pwrite", "rename", "replace"),
    *("rmdir", "truncate", "unlink", "write"),
)
"""Functions of `os` that change what is on the disk, as arraystore calls them."""

EXCHANGE: Final = "exchange"
"""A call of `writing.workspace` that changes what is on the disk, and is none of `os`."""

_CALLS_OF_PUBLISHING: Final = 12
"""About as many are made from the last sync on."""

MAX_KILLS: Final = 3
"""Kills in one round."""

IS_THERE: Final = 3
"""Exit status of a child that finds a store, and is not to overwrite it."""

Tree = dict[str, bytes | None]


class WrongError(Exception):
    """A kill left something that must not be."""


def kills(
    rounds: int,
    *,
    seed: int = 0,
    suffixes: tuple[str, ...] = SUFFIXES,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    may_exchange: bool = True,
) -> dict[str, int]:
    """Kill conversions, and resume them.

    Parameters
    ----------
    rounds : int
        Rounds for each container; there is one kill or more in each.
    seed : int, default 0
        Of the points at which they are killed.
    suffixes : tuple of str
        Of the containers.
    folder : path-like, optional
        Where to do it; by default where temporary files are.
    overwrite : bool, default False
        Whether there is an old store in every round.
    may_exchange : bool, default True
        Whether two names can be exchanged.

    Returns
    -------
    dict of str to int
        How many rounds, kills of a process, kills with a loss of power, resumes, and kills
        after which the store was there (published); of those while an old store was
        overwritten how many (overwritings_killed), and after how many of them the name was
        absent.

    Raises
    ------
    WrongError
        If something is lost or wrong; the message has the container, the round and the seed.
    """
    counts: Counter[str] = Counter()
    names = ("rounds", "process_kills", "power_kills", "resumes", "published")
    for name in (*names, "overwritings_killed", "absent"):
        counts[name] = 0
    with TemporaryDirectory(prefix="kills-", dir=folder) as place, SmallBlocks():
        source = _photos(Path(place) / "photos")
        for suffix in suffixes:
            rng = random.Random(f"{seed}{suffix}")
            lab = _Lab(Path(place), source, suffix, rng, counts)
            lab.overwrites, lab.may_exchange = overwrite, may_exchange
            for number in range(rounds):
                try:
                    lab.round()
                except WrongError as error:
                    error.add_note(f"in round {number} of {suffix} with seed {seed}")
                    raise
    return dict(counts)


class _Lab:
    """A source, the store that it must become, and an old one, in one container."""

    overwrites = False
    may_exchange = True

    def __init__(
        self, place: Path, source: Path, suffix: str, rng: random.Random, counts: Counter[str]
    ) -> None:
        self._source, self._rng, self._counts = source, rng, counts
        self._place = place / f"at{suffix}"
        self._target = self._place / f"a{suffix}"
        self._whole = place / f"whole{suffix}"
        self._old = place / f"old{suffix}"
        for target, order in ((self._whole, "shuffled"), (self._old, "label")):
            if in_child(partial(_convert, source, target, order=order)) != 0:
                raise WrongError(f"{target}: cannot be made")
        self._place.mkdir()
        self._n_calls = self._count_calls()

    def _count_calls(self) -> int:
        read, write = os.pipe()
        hook = _Hook(None)

        def counted() -> None:
            hook.install()
            _convert(self._source, self._target)
            hook.uninstall()
            os.write(write, str(next(hook.numbers)).encode())

        if in_child(counted) != 0:
            raise WrongError(f"{self._target}: cannot be made")
        number = int(os.read(read, 100))
        os.close(read)
        os.close(write)
        self._remove_all()
        return number

    def round(self) -> None:
        """Kill a conversion once or more, and let it be finished."""
        self._counts["rounds"] += 1
        is_old_there = self._rng.random() < 1 / 3 or self.overwrites
        may_be = [tree(self._whole)]
        if is_old_there:
            _copy(self._old, self._target)
            may_be.append(tree(self._old))
        for number in range(self._rng.randint(1, MAX_KILLS)):
            first, last = 1, self._n_calls
            if self.overwrites and self._rng.random() < 1 / 2:  # while the store is published
                first, last = last - _CALLS_OF_PUBLISHING, last + _CALLS_OF_PUBLISHING
            hook = _Hook(
                self._rng.randint(first, last),
                with_power=self._rng.random() < 1 / 2,
                work=self._target.with_name(f".{self._target.name}.partial"),
            )
            if self._attempt(hook, overwrite=is_old_there, is_resume=number > 0) != "killed":
                break
            if is_old_there:
                self._check_open(hook)
            if self._target.exists():
                found = tree(self._target)
                if found not in may_be:
                    raise WrongError(f"a kill before call {hook.at} left a broken store")
                self._counts["published"] += found == may_be[0]
        self._attempt(_Hook(None), overwrite=is_old_there, is_resume=True)
        if not self._target.exists() or tree(self._target) != may_be[0]:
            raise WrongError("what was resumed is not what an undisturbed conversion makes")
        if [path.name for path in self._place.iterdir()] != [self._target.name]:
            raise WrongError(f"something is left beside the store: {list(self._place.iterdir())}")
        self._remove_all()

    def _check_open(self, hook: "_Hook") -> None:
        """See that a reader finds a store, after it gave the old one its name if necessary."""
        self._counts["overwritings_killed"] += 1
        if not self._target.exists():
            self._counts["absent"] += 1
            if self.may_exchange:
                raise WrongError(f"a kill before call {hook.at} left no store")
        if in_child(lambda: arraystore.open(self._target).info) != 0:
            raise WrongError(f"a kill before call {hook.at} left a store that does not open")

    def _attempt(self, hook: "_Hook", *, overwrite: bool, is_resume: bool) -> str:
        """Run a conversion; say whether it was killed, done, or found its store there."""
        self._counts["resumes"] += is_resume

        def run() -> None:
            hook.install()
            if not self.may_exchange:
                setattr(publishing, EXCHANGE, lambda *_: False)
            _convert(self._source, self._target, overwrite=overwrite, resume=True)

        status = in_child(run)
        if status == -signal.SIGKILL:
            self._counts["power_kills" if hook.with_power else "process_kills"] += 1
            return "killed"
        if status not in (0, IS_THERE):
            raise WrongError(f"a conversion ended with status {status}")
        return "done" if status == 0 else "there"

    def _remove_all(self) -> None:
        shutil.rmtree(self._place)
        self._place.mkdir()


class _Hook:
    """Counts calls that change the disk, and kills this process before one of them."""

    def __init__(self, at: int | None, *, with_power: bool = False, work: Path = Path()) -> None:
        self.at, self.with_power = at, with_power
        self.numbers = itertools.count(1)
        self._work = work
        self._real = {name: getattr(os, name) for name in CALLS}
        self._lock = threading.Lock()
        self._unsynced: list[tuple[Path, int, int]] = []

    def install(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, partial(self._call, name, real))
        setattr(publishing, EXCHANGE, partial(self._call, EXCHANGE, exchange))

    def uninstall(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        setattr(publishing, EXCHANGE, exchange)

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if next(self.numbers) == self.at:
            if name in ("write", "pwrite"):
                data = memoryview(args[1])
                self._note(name, args[0], len(data), args[2:])
                real(args[0], data[: len(data) // 2], *args[2:])
            self._die()
        if name == "fsync":
            return self._sync(real, args[0])
        if name in ("write", "pwrite"):
            self._note(name, args[0], len(args[1]), args[2:])
        return real(*args, **options)

    def _note(self, name: str, fd: int, nbytes: int, place: tuple[int, ...]) -> None:
        start = place[0] if name == "pwrite" else os.fstat(fd).st_size
        with self._lock:
            self._unsynced.append((_path(fd), start, nbytes))

    def _sync(self, real: Callable[[int], None], fd: int) -> None:
        path = _path(fd)
        with self._lock:
            before = {one for one in self._unsynced if one[0] == path}
        real(fd)
        with self._lock:
            self._unsynced = [one for one in self._unsynced if one not in before]

    def _die(self) -> None:
        if self.with_power:
            with self._lock:  # so that no other thread writes what is lost already
                self._lose()
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        """Destroy what was written and not synced, in the store also what may have been."""
        for path, start, nbytes in self._unsynced:
            if not path.exists():
                continue
            with path.open("r+b") as file:
                if path.name == "journal":
                    file.truncate(min(start + nbytes // 3, path.stat().st_size))
                else:
                    file.seek(start)
                    file.write(bytes(nbytes))
        store = self._work / "store"
        if store.is_dir():
            for document in store.rglob("zarr.json"):
                document.write_bytes(b"")
        elif store.exists() and store.stat().st_nlink == 1:
            with store.open("r+b") as file:
                file.write(bytes(96))


def _path(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def in_child(act: Callable[[], object]) -> int:
    """Do something in a child; return its exit status, or minus the signal that killed it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        act()
        status = 0
    except FileExistsError:
        status = IS_THERE
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
        traceback.print_exc()
    finally:
        os._exit(status)


def _convert(source: Path, target: Path, **options: Any) -> None:
    arraystore.convert(f"folder:{source}", target, progress=False, **options)


class SmallBlocks:
    """Let blocks, shards and groups be so small that a few photos need many."""

    def __enter__(self) -> None:
        self._were = [
            (module, name, getattr(module, name))
            for module, name in (
                (base, "blocks"),
                (journal, "GROUP_NBYTES"),
                (zarr_writer, "SHARD_NBYTES"),
                (zarr_writer, "INNER_CHUNK_NBYTES"),
            )
        ]
        values = (partial(blocks, block_nbytes=BLOCK_NBYTES), GROUP_NBYTES, BLOCK_NBYTES, 1000)
        for (module, name, _), value in zip(self._were, values, strict=True):
            setattr(module, name, value)

    def __exit__(self, *exception: object) -> None:
        for module, name, value in self._were:
            setattr(module, name, value)


def _photos(folder: Path) -> Path:
    """Write 40 small photos of 2 classes and 2 splits."""
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "test"), ("ant", "bee"), range(10)):
        path = folder / split / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16 + number, 24, 3), dtype=np.uint8)
        path.write_bytes(encode(Image.fromarray(pixels)))
    return folder


def tree(path: Path) -> Tree:
    """Return what a file holds, or all that there is below a folder."""
    return {str(below.relative_to(path)): _content(below) for below in _below(path)}


def _below(path: Path) -> Iterator[Path]:
    yield path
    yield from sorted(path.rglob("*"))


def _content(path: Path) -> bytes | None:
    return None if path.is_dir() else path.read_bytes()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="for each container")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suffix", choices=SUFFIXES, help="of one container alone")
    parser.add_argument("--folder", type=Path, help="where to do it")
    parser.add_argument("--overwrite", action="store_true", help="an old store in every round")
    parser.add_argument(
        "--no-exchange", action="store_true", help="as where two names cannot be exchanged"
    )
    options = parser.parse_args()
    suffixes = (options.suffix,) if options.suffix else SUFFIXES
    counts = kills(
        options.rounds,
        seed=options.seed,
        suffixes=suffixes,
        folder=options.folder,
        overwrite=options.overwrite,
        may_exchange=not options.no_exchange,
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
