"""Part of `make soak`: hostile HDF5 files, each read in a child process with a limit of time.

libhdf5 is the limit here: a file made for it can keep it busy for ever, or let it crash, and what
runs in a child harms nobody. That is what SECURITY.md advises.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from tests.soak.judge import scratch, whole_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILES: Final = 60
LIMIT_SECONDS: Final = 20
"""For all files that a child is given, and a second more for each."""

CHILD: Final = (sys.executable, "-m", "tests.soak.hdf5_child")
WRONG: Final = "wrong"


def run(seed: int, n_files: int = FILES) -> Counter[str]:
    """Make hostile files, and return what became of them."""
    choose = random.Random(seed)
    files = []
    for number in range(n_files):
        files.append(scratch() / f"hostile-{number}.h5")
        make_hostile(choose, files[-1])
    told = in_children(files)
    wrong = told.pop(WRONG, 0)
    return told + Counter({"WRONG": wrong})


def make_hostile(choose: random.Random, path: Path) -> None:
    """Write a file that a stranger might have made: odd things in it, and some bytes changed."""
    shutil.copy(whole_store(".h5"), path)
    with h5py.File(path, "r+", libver=choose.choice(["earliest", "v110", "latest"])) as file:
        for _ in range(choose.randrange(3)):
            # One oddity may leave no place for the next.
            with contextlib.suppress(Exception):
                choose.choice(ODDITIES)(choose, file)
    data = bytearray(path.read_bytes())
    near = choose.choice([len(data), 4096, 200])
    for _ in range(choose.choice([0, 1, 1, 2, 8])):
        data[choose.randrange(len(data) - near, len(data)) if choose.random() < 0.5
             else choose.randrange(near)] = choose.randrange(256)  # fmt: skip
    path.write_bytes(data)


def in_children(
    files: Sequence[Path], limit: int = LIMIT_SECONDS, command: Sequence[str] = CHILD
) -> Counter[str]:
    """Let child processes read files, and count what they tell of each.

    The child reads one after another and prints a line for each. A file that it is at
    when the time is over, or when it crashes, is counted as such; another child goes on
    after it.
    """
    counts: Counter[str] = Counter()
    left = list(files)
    while left:
        try:
            done = subprocess.run(
                [*command, *map(str, left)],
                capture_output=True,
                text=True,
                timeout=limit + len(left),
                check=False,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            output, code = (late.stdout or b"").decode(), None
        lines = output.split("\n")[:-1]
        counts.update(line.partition(":")[0] for line in lines)
        for line in lines:
            if line.startswith(WRONG):
                print(line, file=sys.stderr)
        left = left[len(lines) :]
        if left:
            counts["stopped at the limit" if code is None else "crashed"] += 1
            print(f"{left[0].name}: code {code}", file=sys.stderr)
            left = left[1:]
    return counts


# Odd things


def _any_node(choose: random.Random, file: Any) -> str:
    return choose.choice(
        ["train/image_payload", "train/label", "train/file_name", "train/image_start", "label_name"]
    )


def _external_link(choose: random.Random, file: Any) -> None:
    node = _any_node(choose, file)
    del file[node]
    file[node] = h5py.ExternalLink(str(whole_store(".h5")), f"/{node}")


def _soft_link(choose: random.Random, file: Any) -> None:
    node = _any_node(choose, file)
    del file[node]
    file[node] = h5py.SoftLink(choose.choice([f"/{node}", "/train", "/train/label"]))


def _huge(choose: random.Random, file: Any) -> None:
    node = _any_node(choose, file)
    dtype = file[node].dtype
    del file[node]
    options: dict[str, Any] = choose.choice([{}, {"compression": "gzip"}, {"chunks": (2**16,)}])
    file.create_dataset(node, (2 ** choose.randrange(16, 60),), dtype, **options)


def _variable_text(choose: random.Random, file: Any) -> None:
    node = choose.choice(["train/file_name", "label_name"])
    values = [text.decode() for text in file[node][:]]
    del file[node]
    file.create_dataset(node, data=values, dtype=h5py.string_dtype())


def _variable_attribute(choose: random.Random, file: Any) -> None:
    name = choose.choice(list(file.attrs))
    file.attrs[name] = choose.choice(["a text of variable length", ["a", "b" * 100]])


def _other_type(choose: random.Random, file: Any) -> None:
    node = _any_node(choose, file)
    # Of another number than there are samples: six names that are all empty would be right.
    values = choose.choice([np.zeros((2, 3)), np.zeros(7, "S9"), np.zeros(6, "f4"), np.int64(1)])
    del file[node]
    file[node] = values


def _many_attributes(choose: random.Random, file: Any) -> None:
    group = choose.choice([file, file["train"]])
    for number in range(200):
        group.attrs[f"more-{number}"] = np.bytes_(b"x" * choose.randrange(1, 50))


def _ring(choose: random.Random, file: Any) -> None:
    file["train/again"] = file["/"]


ODDITIES: Final = (
    _external_link,
    _soft_link,
    _huge,
    _variable_text,
    _variable_attribute,
    _other_type,
    _many_attributes,
    _ring,
)
