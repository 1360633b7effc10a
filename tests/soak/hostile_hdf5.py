"""Part of `make soak`: hostile HDF5 files, each read in a child process with a time limit.

A file can make libhdf5 hang or crash. In a child process this does no harm, as SECURITY.md advises.
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
"""Time limit for a child; one second per file is added."""

CHILD: Final = (sys.executable, "-m", "tests.soak.hdf5_child")
WRONG: Final = "wrong"


def run(seed: int, n_files: int = FILES) -> Counter[str]:
    """Make hostile files, and return counts of the outcomes of reading them."""
    choose = random.Random(seed)
    files = []
    for number in range(n_files):
        files.append(scratch() / f"hostile-{number}.h5")
        make_hostile(choose, files[-1])
    outcomes = in_children(files)
    wrong = outcomes.pop(WRONG, 0)
    return outcomes + Counter({"WRONG": wrong})


def make_hostile(choose: random.Random, path: Path) -> None:
    """Write a file with unusual objects and some changed bytes."""
    shutil.copy(whole_store(".h5"), path)
    with h5py.File(path, "r+", libver=choose.choice(["earliest", "v110", "latest"])) as file:
        for _ in range(choose.randrange(3)):
            # One oddity may remove the object that the next one needs.
            with contextlib.suppress(Exception):
                choose.choice(ODDITIES)(choose, file)
    data = bytearray(path.read_bytes())
    range_nbytes = choose.choice([len(data), 4096, 200])
    for _ in range(choose.choice([0, 1, 1, 2, 8])):
        from_end = choose.random() < 0.5
        offset = choose.randrange(range_nbytes)
        data[len(data) - range_nbytes + offset if from_end else offset] = choose.randrange(256)
    path.write_bytes(data)


def in_children(
    files: Sequence[Path], limit: int = LIMIT_SECONDS, command: Sequence[str] = CHILD
) -> Counter[str]:
    """Read files in child processes, and count the outcomes.

    A child reads one file after another and prints a line for each. If it exceeds the time limit
    or crashes, the file it was reading is counted as such, and another child continues after it.
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


# Oddities


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
    # Not 6 values, the number of samples: six empty names would be right data.
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
