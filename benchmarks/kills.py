"""Kill conversions at random points, and check that nothing is lost or wrong.

::

    python -m benchmarks.kills [--rounds N] [--seed S] [--suffix .zarr] [--folder DIR]
                               [--overwrite] [--no-exchange] [--no-copy-images]
                               [--columns] [--append]

In each round a conversion is killed just before its n-th call that changes the disk, or in the
middle of that call if it writes. Half of the kills simulate a loss of power: bytes that were
written but not synced are destroyed. After each kill the target must be absent or complete, byte
for byte. Then the conversion is resumed, and perhaps killed again. At the end the target must be
complete, and nothing may be left beside it. In a third of the rounds (with ``--overwrite`` in all)
the conversion overwrites an old store: then the target must open after each kill, and must never
be absent, except where names cannot be exchanged (simulated with ``--no-exchange``).

With ``--no-copy-images`` the images stay in their files.

With ``--columns`` columns are added to a finished store and removed from it instead; in half of the
rounds their split has three parts, and some of its samples are replaced. After each
kill the store must open with the columns before or after the change, with the same values and
images, and the change must succeed when it is repeated.

With ``--append``, samples are appended to a store instead, some of them in place of others. After
each kill the store must open with all old samples or with all new ones, and no old file of a Zarr
store may have changed, except its root.

The conversions are children of this process, made by `os.fork`, so it must have only one thread.
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

import h5py  # noqa: F401 - imported once for all children
import numpy as np
import zarr  # noqa: F401 - likewise
from PIL import Image
from typing_extensions import override

import arraystore
from arraystore.cli.synthetic_archives import encode
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import blocks
from arraystore.storage.exchange import exchange
from arraystore.writing import journal, store_writer, workspace

SUFFIXES: Final = (".zarr", ".h5")
BLOCK_NBYTES: Final = 4000
"""Length of a fill block, and in Zarr of a shard, instead of 64 MiB."""

GROUP_NBYTES: Final = 10_000
"""Bytes that are synced and recorded together, instead of 512 MiB."""

CALLS: Final = (
    *("fsync", "ftruncate", "link", "mkdir", "posix_fallocate", "pwrite", "rename", "replace"),
    *("rmdir", "truncate", "unlink", "write"),
)
"""Functions of `os` that arraystore calls and that change the disk."""

EXCHANGE: Final = "exchange"
"""A function of `writing.workspace` that changes the disk and does not belong to `os`."""

_CALLS_OF_PUBLISHING: Final = 12
"""About the number of calls from the last sync on."""

MAX_KILLS: Final = 3
"""Maximum number of kills in one round."""

TARGET_EXISTS: Final = 3
"""Exit status of a child that finds a store and must not overwrite it."""

Tree = dict[str, bytes | None]


class WrongError(Exception):
    """A kill left a wrong state on the disk."""


def kills(
    rounds: int,
    *,
    seed: int = 0,
    suffixes: tuple[str, ...] = SUFFIXES,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    may_exchange: bool = True,
    append: bool = False,
    copy_images: bool = True,
) -> dict[str, int]:
    """Kill conversions and resume them.

    Parameters
    ----------
    rounds : int
        Rounds for each container, with one or more kills in each.
    seed : int, default 0
        Seed of the points at which conversions are killed.
    suffixes : tuple of str
        Suffixes of the containers.
    folder : path-like, optional
        Folder for all files; by default that of temporary files.
    overwrite : bool, default False
        Whether an old store exists in every round.
    may_exchange : bool, default True
        Whether two names can be exchanged.
    append : bool, default False
        Whether samples are appended to a store.
    copy_images : bool, default True
        Whether images are copied, or stay in their files.

    Returns
    -------
    dict of str to int
        Number of rounds, of kills of a process, of kills with a loss of power, of resumed
        conversions, of kills after which the store existed (published), of kills while an old
        store was overwritten (overwritings_killed), and of these after which the target did not
        exist (absent).

    Raises
    ------
    WrongError
        If something is lost or wrong; a note has the container, the round and the seed.
    """
    counts: Counter[str] = Counter()
    names = ("rounds", "process_kills", "power_kills", "resumes", "published")
    for name in (*names, "overwritings_killed", "absent"):
        counts[name] = 0
    with TemporaryDirectory(prefix="kills-", dir=folder) as place, SmallBlocks():
        source = _photos(Path(place) / "photos")
        for suffix in suffixes:
            rng = random.Random(f"{seed}{suffix}")
            kind = _AppendingLab if append else _Lab
            lab = kind(Path(place), source, suffix, rng, counts, copy_images=copy_images)
            lab.overwrites, lab.may_exchange = overwrite, may_exchange
            for number in range(rounds):
                try:
                    lab.round()
                except WrongError as error:
                    error.add_note(f"in round {number} of {suffix} with seed {seed}")
                    raise
    return dict(counts)


class _Lab:
    """A source, the store that a conversion must make of it, and an old store."""

    overwrites = False
    may_exchange = True

    def __init__(
        self,
        place: Path,
        source: Path,
        suffix: str,
        rng: random.Random,
        counts: Counter[str],
        *,
        copy_images: bool,
    ) -> None:
        self._source, self._rng, self._counts = source, rng, counts
        self._copy_images = copy_images
        self._place = place / f"at{suffix}"
        self._target = self._place / f"a{suffix}"
        # As far from the source as the target: a store states relative paths of files beside it.
        (place / "stores").mkdir(exist_ok=True)
        self._whole = place / "stores" / f"whole{suffix}"
        self._old = place / "stores" / f"old{suffix}"
        self._make_stores()
        self._place.mkdir()
        self._n_calls = self._count_calls()

    def _make_stores(self) -> None:
        """Write what the round begins with, and what it must end with."""
        for target, order in ((self._whole, "shuffled"), (self._old, "label")):
            if in_child(partial(self._convert, target, order=order)) != 0:
                raise WrongError(f"{target}: cannot be made")

    def _act(self, *, overwrite: bool = False) -> None:
        """Do what is killed, or resume it."""
        self._convert(self._target, overwrite=overwrite, resume=True)

    def _convert(self, target: Path, **options: Any) -> None:
        options["copy_images"] = self._copy_images
        if not self._copy_images:
            options["checksums"] = True
        _convert(self._source, target, **options)

    def _count_calls(self) -> int:
        read, write = os.pipe()
        hook = _Hook(None)

        def counted() -> None:
            hook.install()
            self._act()
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
        """Kill a conversion one or more times, then finish it."""
        self._counts["rounds"] += 1
        has_old_store = self._rng.random() < 1 / 3 or self.overwrites
        allowed = [tree(self._whole)]
        if has_old_store:
            _copy(self._old, self._target)
            allowed.append(tree(self._old))
        for number in range(self._rng.randint(1, MAX_KILLS)):
            first, last = 1, self._n_calls
            if self.overwrites and self._rng.random() < 1 / 2:  # while the store is published
                first, last = last - _CALLS_OF_PUBLISHING, last + _CALLS_OF_PUBLISHING
            hook = _Hook(
                self._rng.randint(first, last),
                with_power=self._rng.random() < 1 / 2,
                work=self._target.with_name(f".{self._target.name}.partial"),
            )
            if self._attempt(hook, overwrite=has_old_store, is_resume=number > 0) != "killed":
                break
            if has_old_store:
                self._check_open(hook)
            if self._target.exists():
                found = tree(self._target)
                if found not in allowed:
                    raise WrongError(f"a kill before call {hook.at} left a broken store")
                self._counts["published"] += found == allowed[0]
        self._attempt(_Hook(None), overwrite=has_old_store, is_resume=True)
        if not self._target.exists() or tree(self._target) != allowed[0]:
            raise WrongError("the resumed store differs from that of an undisturbed conversion")
        if [path.name for path in self._place.iterdir()] != [self._target.name]:
            raise WrongError(f"files are left beside the store: {list(self._place.iterdir())}")
        self._remove_all()

    def _check_open(self, hook: "_Hook") -> None:
        """Check that the target opens, with the old store moved back if necessary."""
        self._counts["overwritings_killed"] += 1
        if not self._target.exists():
            self._counts["absent"] += 1
            if self.may_exchange:
                raise WrongError(f"a kill before call {hook.at} left no store")
        if in_child(lambda: arraystore.open(self._target).info) != 0:
            raise WrongError(f"a kill before call {hook.at} left a store that does not open")

    def _attempt(self, hook: "_Hook", *, overwrite: bool, is_resume: bool) -> str:
        """Run a conversion; return whether it was killed, done, or found its store existing."""
        self._counts["resumes"] += is_resume

        def run() -> None:
            hook.install()
            if not self.may_exchange:
                setattr(workspace, EXCHANGE, lambda *_: False)
            self._act(overwrite=overwrite)

        status = in_child(run)
        if status == -signal.SIGKILL:
            self._counts["power_kills" if hook.with_power else "process_kills"] += 1
            return "killed"
        if status not in (0, TARGET_EXISTS):
            raise WrongError(f"a conversion ended with status {status}")
        return "done" if status == 0 else "exists"

    def _remove_all(self) -> None:
        shutil.rmtree(self._place)
        self._place.mkdir()


class _AppendingLab(_Lab):
    """A store, samples that are appended to it, and the store that this must make."""

    @override
    def _make_stores(self) -> None:
        if in_child(partial(self._convert, self._old)) != 0:
            raise WrongError(f"{self._old}: cannot be made")
        self._more = self._source.with_name(f"more{self._whole.suffix}")
        for name, size in (("ant", 5), ("bee", 20)):  # of both, some are in the store
            (self._more / name).mkdir(parents=True)
            for number in range(size):
                data = (self._source / "train" / "bee" / f"{number % 10}.jpg").read_bytes()
                (self._more / name / f"{number + 7}.jpg").write_bytes(data)
        _copy(self._old, self._whole)
        if in_child(partial(self._append, self._whole)) != 0:
            raise WrongError(f"{self._whole}: cannot be made")

    def _append(self, store: Path) -> None:
        arraystore.append(
            store,
            f"folder:{self._more}",
            split="train",
            on_existing="replace",
            resume=True,
            copy_images=self._copy_images,
            progress=False,
        )

    @override
    def _act(self, *, overwrite: bool = False) -> None:
        self._append(self._target)

    @override
    def _count_calls(self) -> int:
        _copy(self._old, self._target)
        return super()._count_calls()

    @override
    def round(self) -> None:
        """Kill an append one or more times, then finish it."""
        self._counts["rounds"] += 1
        _copy(self._old, self._target)
        for number in range(self._rng.randint(1, MAX_KILLS)):
            first, last = 1, self._n_calls
            if self._rng.random() < 1 / 2:  # while the part is published
                first = last - 2 * _CALLS_OF_PUBLISHING
            hook = _Hook(
                self._rng.randint(first, last),
                with_power=self._rng.random() < 1 / 2,
                work=self._target.with_name(f".{self._target.name}.partial"),
            )
            if self._attempt(hook, overwrite=False, is_resume=number > 0) != "killed":
                break
            if in_child(self._check_state) != 0:
                raise WrongError(f"a kill before call {hook.at} left a wrong store")
            self._counts["published"] += bool(arraystore.open(self._target).info.parts)
        self._attempt(_Hook(None), overwrite=False, is_resume=True)
        if tree(self._target) != tree(self._whole):
            raise WrongError("the resumed store differs from that of an undisturbed append")
        if [path.name for path in self._place.iterdir()] != [self._target.name]:
            raise WrongError(f"files are left beside the store: {list(self._place.iterdir())}")
        self._remove_all()

    def _check_state(self) -> None:
        """Check that the store is as before or as after, and that old files are unchanged."""
        names, images = _samples_of(self._target)
        new, old = _samples_of(self._whole), _samples_of(self._old)
        if (names, images) not in (new, old):
            raise WrongError("the samples are neither the old nor the new ones")
        if not self._target.is_dir():
            return
        found, before = tree(self._target), tree(self._old)
        changed = [path for path in before if found.get(path) != before[path]]
        if changed not in ([], ["zarr.json"]) or bool(changed) != (names == new[0]):
            raise WrongError(f"old files have changed: {changed}")


def _samples_of(store: Path) -> tuple[list[str], list[bytes]]:
    """Return names and images of a split, compared with their checksums."""
    split = arraystore.open(store, checksum="always", allow_references=True)["train"]
    return split.file_name.tolist(), split.image_bytes[:]


def column_kills(
    rounds: int,
    *,
    seed: int = 0,
    suffixes: tuple[str, ...] = SUFFIXES,
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, int]:
    """Kill changes of columns, and repeat them; parameters and errors are those of `kills`.

    Returns
    -------
    dict of str to int
        Number of rounds, of kills of a process, of kills with a loss of power, and of kills after
        which the change was complete (after).
    """
    counts = dict.fromkeys(("rounds", "process_kills", "power_kills", "after"), 0)
    with TemporaryDirectory(prefix="kills-", dir=folder) as place:
        source = _photos(Path(place) / "photos")
        for suffix in suffixes:
            rng = random.Random(f"{seed}{suffix}")
            targets = [Path(place) / folder / f"a{suffix}" for folder in ("plain", "parts")]
            for target in targets:
                target.parent.mkdir(exist_ok=True)
                if in_child(partial(_convert, source, target)) != 0:
                    raise WrongError(f"{target}: cannot be made")
            if in_child(partial(_append_parts, targets[1])) != 0:
                raise WrongError(f"{targets[1]}: cannot be made")
            for number in range(rounds):
                try:
                    _column_round(targets[number % 2], rng, counts)
                except WrongError as error:
                    error.add_note(f"in round {number} of {suffix} with seed {seed}")
                    raise
    return counts


def _append_parts(target: Path) -> None:
    """Append two parts; each replaces a sample."""
    train = arraystore.open(target)["train"]
    for number, old in enumerate(train.file_name[[3, 11]].tolist()):
        records = [
            {"image": train.image_bytes[0], "label": "bee", "file_name": name}
            for name in (old, f"bee/new{number}.jpg")
        ]
        arraystore.append(target, records, split="train", on_existing="replace", progress=False)


def _column_round(target: Path, rng: random.Random, counts: dict[str, int]) -> None:
    """Kill one change of the columns of a store, check the store, and repeat the change."""
    counts["rounds"] += 1
    name = rng.choice("abc")
    images, before = _state(target)
    after = before ^ {name}

    def change() -> None:
        if name in before:
            arraystore.remove_column(target, "train", name)
        else:
            arraystore.add_column(target, "train", name, _values(name, len(images)))

    last = 80 if arraystore.open(target).info.parts else 40
    hook = _Hook(rng.randint(1, last), with_power=rng.random() < 1 / 2)

    def killed() -> None:
        hook.install()
        change()

    if in_child(killed) == -signal.SIGKILL:
        counts["power_kills" if hook.with_power else "process_kills"] += 1
    # In a child, which recovers the store: this process must have only one thread.
    if in_child(lambda: _check_columns(target, images, [before, after])) != 0:
        raise WrongError(f"a kill before call {hook.at} left a wrong store")
    if _state(target)[1] == after:
        counts["after"] += 1
    elif in_child(change) != 0:
        raise WrongError(f"a change cannot be repeated after a kill before call {hook.at}")
    if in_child(lambda: _check_columns(target, images, [after])) != 0:
        raise WrongError(f"the change after a kill before call {hook.at} is wrong")


def _values(name: str, n: int) -> Any:
    number = ord(name)
    if name == "c":
        return [np.arange(i % 3 + number) for i in range(n)]
    shape = (n, 300 * (number - ord("a")) + 1)
    return np.random.default_rng(number).standard_normal(shape)


def _state(target: Path) -> tuple[list[bytes], set[str]]:
    """Return the images of a split, and the columns of each of its parts."""
    store = arraystore.open(target)
    parts = store.info.parts.get("train", ("train",))
    (names,) = {frozenset(store.stored(part).user_columns) for part in parts}
    return store["train"].image_bytes[:], set(names)


def _check_columns(target: Path, images: list[bytes], allowed: list[set[str]]) -> None:
    found, names = _state(target)
    assert found == images
    assert names in allowed
    columns = arraystore.open(target)["train"].columns
    for name in names:
        expected = _values(name, len(images))
        assert all(map(np.array_equal, columns[name], expected))
    problems = arraystore.verify(target).problems
    assert not problems, problems


class _Hook:
    """Counts calls that change the disk, and kills this process before one of them."""

    def __init__(self, at: int | None, *, with_power: bool = False, work: Path = Path()) -> None:
        self.at, self.with_power = at, with_power
        self.numbers = itertools.count(1)
        self._work = work
        self._real = {name: getattr(os, name) for name in CALLS}
        self._lock = threading.Lock()
        self._unsynced: list[tuple[Path, int, int, bytes]] = []

    def install(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, partial(self._call, name, real))
        setattr(workspace, EXCHANGE, partial(self._call, EXCHANGE, exchange))

    def uninstall(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        setattr(workspace, EXCHANGE, exchange)

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
        path = _path(fd)
        # A sector of a finished file keeps its old bytes until it has new ones.
        is_finished = self._work not in path.parents and path.name in self._work.name
        old = _bytes_of(path, start, nbytes) if is_finished else b""
        with self._lock:
            self._unsynced.append((path, start, nbytes, old))

    def _sync(self, real: Callable[[int], None], fd: int) -> None:
        path = _path(fd)
        with self._lock:
            before = {one for one in self._unsynced if one[0] == path}
        real(fd)
        with self._lock:
            self._unsynced = [one for one in self._unsynced if one not in before]

    def _die(self) -> None:
        if self.with_power:
            with self._lock:  # no other thread may write to what is already lost
                self._lose()
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        """Destroy bytes that were written but not synced, and documents that may not have been."""
        for path, start, nbytes, old in reversed(self._unsynced):
            if not path.exists():
                continue
            with path.open("r+b") as file:
                if path.name == "journal":
                    file.truncate(min(start + nbytes // 3, path.stat().st_size))
                else:
                    file.seek(start)
                    file.write(old + bytes(nbytes - len(old)))
        store = self._work / "store"
        if (self._work / "part").exists() or (self._work / "redo").exists():
            return  # the new part was synced before
        if store.is_dir():
            for document in store.rglob("zarr.json"):
                document.write_bytes(b"")
        elif store.exists() and store.stat().st_nlink == 1:
            with store.open("r+b") as file:
                file.write(bytes(96))


def _bytes_of(path: Path, start: int, nbytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(nbytes)


def _path(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def in_child(act: Callable[[], object]) -> int:
    """Run a function in a child; return its exit status, or minus the signal that killed it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        act()
        status = 0
    except FileExistsError:
        status = TARGET_EXISTS
    except BaseException:  # noqa: BLE001 - the child must end here
        traceback.print_exc()
    finally:
        os._exit(status)


def _convert(source: Path, target: Path, **options: Any) -> None:
    arraystore.convert(f"folder:{source}", target, progress=False, **options)


class SmallBlocks:
    """Make blocks, shards and groups so small that a few photos need many."""

    def __enter__(self) -> None:
        self._originals = [
            (module, name, getattr(module, name))
            for module, name in (
                (store_writer, "blocks"),
                (journal, "GROUP_NBYTES"),
                (zarr_writer, "SHARD_NBYTES"),
                (zarr_writer, "INNER_CHUNK_NBYTES"),
            )
        ]
        values = (partial(blocks, block_nbytes=BLOCK_NBYTES), GROUP_NBYTES, BLOCK_NBYTES, 1000)
        for (module, name, _), value in zip(self._originals, values, strict=True):
            setattr(module, name, value)

    def __exit__(self, *exception: object) -> None:
        for module, name, value in self._originals:
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
    """Return the content of a file, or of everything below a folder."""
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
    parser.add_argument("--rounds", type=int, default=200, help="rounds for each container")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suffix", choices=SUFFIXES, help="test only this container")
    parser.add_argument("--folder", type=Path, help="folder for all files")
    parser.add_argument("--overwrite", action="store_true", help="overwrite a store in every round")
    parser.add_argument(
        "--no-exchange", action="store_true", help="behave as if two names could not be exchanged"
    )
    parser.add_argument("--no-copy-images", action="store_true", help="leave images in their files")
    parser.add_argument("--columns", action="store_true", help="change columns of a store")
    parser.add_argument("--append", action="store_true", help="append samples to a store")
    options = parser.parse_args()
    suffixes = (options.suffix,) if options.suffix else SUFFIXES
    if options.columns:
        found = column_kills(
            options.rounds, seed=options.seed, suffixes=suffixes, folder=options.folder
        )
        print(json.dumps(found))
        return
    counts = kills(
        options.rounds,
        seed=options.seed,
        suffixes=suffixes,
        folder=options.folder,
        overwrite=options.overwrite,
        may_exchange=not options.no_exchange,
        append=options.append,
        copy_images=not options.no_copy_images,
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
