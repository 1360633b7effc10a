"""Part of `make soak`: sources that change while they are converted, or before resuming.

A conversion runs in a child process. The source changes at a random call that reads, lists or
stats a file. Half of the conversions are also killed at another such call, and resumed. If a store
results, it must be, byte for byte, that of the source before or after the change.

The children are made by `os.fork`, so this runs in its own process::

    python -m tests.soak.changing SEED NUMBER
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import arraystore
from arraystore.cli.synthetic_archives import write_archives
from arraystore.errors import SourceError
from arraystore.sources.imagenet2012 import TRAIN_ARCHIVE, VALIDATION_ARCHIVE
from benchmarks.kills import SmallBlocks, in_child, tree
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[Path, random.Random], None]

ROUNDS: Final = 40
CALLS: Final = ("open", "stat", "fstat", "pread", "preadv", "scandir", "pwrite", "fsync")
"""Functions of `os` at which a source may change or a process may be killed."""

REFUSED: Final = 3
"""Exit status of a conversion that refused its source."""

PHOTOS: Final = {
    f"{split}/{name}/{number}.jpg": picture(10 + number, 20, seed=number + 50 * (name == "ant"))
    for split in ("train", "validation")
    for name in ("ant", "bee")
    for number in range(6)
}


def run(seed: int, number: int = ROUNDS) -> Counter[str]:
    """Change the sources of conversions, and count the outcomes."""
    command = [sys.executable, "-m", "tests.soak.changing", str(seed), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return Counter({"WRONG: the part failed": 1})
    return Counter(json.loads(done.stdout))


def whole(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def renamed(path: Path, data: bytes) -> None:
    new = path.with_name(".new")
    new.write_bytes(data)
    new.replace(path)


def in_place(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


WRITERS: Final = (whole, renamed, in_place)


def _rewrite(path: Path, rng: random.Random, data: bytes) -> None:
    """Write other bytes in one of several ways; half of the time keep the modification time."""
    status = path.stat()
    rng.choice(WRITERS)(path, data)
    if rng.random() < 1 / 2:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def same_size(path: Path, rng: random.Random) -> None:
    """Write another image of another height, with the same number of bytes."""
    old = path.read_bytes()
    new = picture(rng.randint(3, 9), 20, seed=rng.randrange(10**6))
    _rewrite(path, rng, new[: len(old)].ljust(len(old), b"\0"))


def longer(path: Path, rng: random.Random) -> None:
    _rewrite(path, rng, picture(30, 40, seed=rng.randrange(10**6)))


def truncated(path: Path, rng: random.Random) -> None:
    _rewrite(path, rng, path.read_bytes()[: path.stat().st_size * 2 // 3])


def removed(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def moved(path: Path, rng: random.Random) -> None:
    to = path.parents[2] / rng.choice(("train", "validation")) / rng.choice(("ant", "bee"))
    path.rename(to / f"moved-{path.name}")


def added(path: Path, rng: random.Random) -> None:
    path.with_name("added.jpg").write_bytes(picture(seed=rng.randrange(10**6)))


def touched(path: Path, rng: random.Random) -> None:
    rng.choice((lambda: path.chmod(0o600), lambda: os.utime(path)))()


def reordered(path: Path, rng: random.Random) -> None:
    """Write the same members in another order: the same number of bytes."""
    _repack(path, rng, lambda members: rng.shuffle(members))


def shortened(path: Path, rng: random.Random) -> None:
    """Remove a member of an archive."""
    _repack(path, rng, lambda members: members.pop(rng.randrange(len(members))))


def end_overwritten(path: Path, rng: random.Random) -> None:
    """Change one byte of an image in an archive."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xff\xd9") - 5] ^= 1
    _rewrite(path, rng, bytes(data))


def header_zeroed(path: Path, rng: random.Random) -> None:
    with tarfile.open(path) as tar:
        offset = rng.choice(tar.getmembers()).offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 512] = bytes(512)
    _rewrite(path, rng, bytes(data))


def _repack(
    path: Path, rng: random.Random, change: Callable[[list[tarfile.TarInfo]], object]
) -> None:
    file = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=file, mode="w") as new:
        members = old.getmembers()
        change(members)
        for member in members:
            new.addfile(member, old.extractfile(member))
    _rewrite(path, rng, file.getvalue())


FOLDER_CHANGES: Final[tuple[Change, ...]] = (
    *(same_size, same_size, longer, truncated, removed, moved, added, touched),
)
ARCHIVE_CHANGES: Final[tuple[Change, ...]] = (
    *(reordered, reordered, shortened, end_overwritten, truncated, header_zeroed, touched),
)


class _Hook:
    """Runs a function at the n-th call of this process, and kills it at another."""

    def __init__(self, at: int, act: Callable[[], None], *, kill_at: int) -> None:
        self._at, self._act, self._kill_at = at, act, kill_at
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._is_acting = False

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, partial(self._call, getattr(os, name)))

    @property
    def n_calls(self) -> int:
        return next(self._numbers) - 1

    def _call(self, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self._lock:
            if not self._is_acting:
                number = next(self._numbers)
                if number == self._kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if number == self._at:
                    self._is_acting = True
                    self._act()
                    self._is_acting = False
        return real(*args, **options)


class _Lab:
    """A kind of source, and its conversions to one container."""

    def __init__(self, place: Path, kind: str, suffix: str, rng: random.Random) -> None:
        self._place, self._kind, self._suffix, self._rng = place, kind, suffix, rng
        self._original = place / "original"
        if kind == "folder":
            write_folder(self._original, PHOTOS)
        else:
            write_archives(self._original, n_classes=3, per_class=2, n_validation=6)
        self._n_calls = self._count_calls()

    def round(self) -> str:
        """Change a source once during a conversion; return the outcome."""
        rng, place = self._rng, self._place / "round"
        source = self._fresh(place / "old")
        changed = self._fresh(place / "new")
        change, path = self._choose()
        state = rng.getstate()
        before = self._reference(place / "old")
        change(changed / path, rng)  # the same change as later
        after = self._reference(place / "new")
        source = self._fresh(place / "now")

        def act() -> None:
            again = random.Random()
            again.setstate(state)
            change(source / path, again)

        found = self._attempt(place / "now", act)
        shutil.rmtree(place)
        if found is None:
            return "refused"
        if isinstance(found, str):
            return f"WRONG: {found}"
        if found == before:
            return "as it was"
        if found == after:
            return "as it is now"
        return f"WRONG: neither ({self._kind}{self._suffix}, {change.__name__})"

    def _choose(self) -> tuple[Change, str]:
        rng = self._rng
        if self._kind == "folder":
            return rng.choice(FOLDER_CHANGES), rng.choice([*PHOTOS])
        return rng.choice(ARCHIVE_CHANGES), rng.choice((TRAIN_ARCHIVE, VALIDATION_ARCHIVE))

    def _attempt(self, place: Path, act: Callable[[], None]) -> Any:
        """Convert, kill and resume; return the store, or None if there is none."""
        rng = self._rng
        is_killed = rng.random() < 1 / 2
        is_between = is_killed and rng.random() < 1 / 2
        kill_at = rng.randint(self._n_calls // 3, self._n_calls) if is_killed else 0
        at = 0 if is_between else rng.randint(1, self._n_calls)
        status = self._run(place, _Hook(at, act, kill_at=kill_at))
        if status == -signal.SIGKILL:
            if is_between:
                act()
            status = self._run(place, _Hook(0, act, kill_at=0))
        if status not in (0, REFUSED):
            return "an error that is not documented"
        target = place / f"a{self._suffix}"
        return tree(target) if target.exists() else None

    def _reference(self, place: Path) -> Any:
        """Return the store of an undisturbed conversion; an empty tuple if that is refused."""
        if self._run(place, _Hook(0, lambda: None, kill_at=0)) == 0:
            return tree(place / f"a{self._suffix}")
        return ()

    def _count_calls(self) -> int:
        read, write = os.pipe()
        self._fresh(self._place / "first")
        hook = _Hook(0, lambda: None, kill_at=0)

        def counted() -> None:
            hook.install()
            self._convert(self._place / "first")
            os.write(write, str(hook.n_calls).encode())

        status = in_child(counted)
        os.close(write)  # so that reading ends even if the child wrote nothing
        number = int(os.read(read, 100) or 0)
        os.close(read)
        if status or not number:
            raise RuntimeError(f"an undisturbed conversion ended with status {status}")
        shutil.rmtree(self._place / "first")
        return number

    def _run(self, place: Path, hook: _Hook) -> int:
        def converted() -> None:
            hook.install()
            try:
                self._convert(place)
            except (SourceError, FileNotFoundError):
                os._exit(REFUSED)

        return in_child(converted)

    def _convert(self, place: Path) -> None:
        source, target = place / "source", place / f"a{self._suffix}"
        options: dict[str, Any] = {"progress": False, "resume": True}
        if self._kind == "folder":
            arraystore.convert(f"folder:{source}", target, **options)
        else:
            arraystore.convert("imagenet2012", target, manual_dir=source, partial=True, **options)

    def _fresh(self, place: Path) -> Path:
        shutil.copytree(self._original, place / "source")
        return place / "source"


def _rounds(seed: int, number: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="changing-") as folder, SmallBlocks():
        for i, (kind, suffix) in enumerate(itertools.product(("folder", "archive"), SUFFIXES)):
            rng = random.Random(f"{seed} {kind} {suffix}")
            lab = _Lab(Path(folder) / f"{i}", kind, suffix, rng)
            for _ in range(i, number, 4):
                counts[lab.round()] += 1
    return counts


if __name__ == "__main__":
    print(json.dumps(_rounds(*map(int, sys.argv[1:]))))
