"""Part of `make soak`: iterators abandoned in every way, in processes with a time limit."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Final

from tests.soak.iterators_child import WAYS
from tests.soak.judge import scratch
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ITERATORS: Final = 36
"""Number of iterators that are abandoned in each way."""

LIMIT_SECONDS: Final = 60
"""Time limit of a child; one second per iterator is added."""

N_SAMPLES: Final = 96


@cache
def stores() -> tuple[Path, ...]:
    """Return a store in each container, with images that take some time to decode."""
    images = [picture(48, 64, seed=i) for i in range(N_SAMPLES)]
    names, labels = [f"{i}.jpg" for i in range(N_SAMPLES)], [i % 3 for i in range(N_SAMPLES)]
    return tuple(
        write_store(scratch() / f"looped{suffix}", names, labels, images, classes=["a", "b", "c"])
        for suffix in SUFFIXES
    )


def run(seed: int, n_iterators: int = ITERATORS) -> Counter[str]:
    """Abandon iterators in each way, and count them and the failures."""
    counts: Counter[str] = Counter()
    for way in WAYS:
        counts += abandon([way], seed, n_iterators)
    return counts


def abandon(ways: Sequence[str], seed: int, n: int, limit: float = LIMIT_SECONDS) -> Counter[str]:
    """Abandon `n` iterators in each of some ways, in a child process."""
    names = ",".join(ways)
    command = [sys.executable, "-m", "tests.soak.iterators_child", names, str(seed), str(n)]
    try:
        done = subprocess.run(
            [*command, *map(str, stores())],
            capture_output=True,
            text=True,
            timeout=limit + n * len(ways),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        lines = (late.stdout or b"").decode().splitlines()
        errors, ended = (late.stderr or b"").decode(), "WRONG hang"
    else:
        lines, errors = done.stdout.splitlines(), done.stderr
        ended = "ended" if done.returncode == 0 else "WRONG end"
    counts = Counter(line.partition(":")[0] for line in lines)
    for way in ways:
        counts[f"{way}: iterators abandoned"] = counts.pop(f"abandoned by {way}", 0)
    if ended != "ended":
        counts[f"{ended} ({names})"] += 1
    if any("WRONG" in what for what in counts):
        print(f"{names}, seed {seed}", *lines[-20:], errors[-4000:], sep="\n", file=sys.stderr)
    return counts
