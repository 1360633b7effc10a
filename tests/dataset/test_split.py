"""Splits: iteration in forks, joined splits, and text forms."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import arraystore


def test_iteration_continues_in_forked_child(path: Path) -> None:
    code = (
        "import os, signal, sys, warnings, arraystore\n"
        "warnings.simplefilter('ignore')  # that a process with threads is forked\n"
        "split = arraystore.open(sys.argv[1])['train']\n"
        "arraystore.dataset.sample_reader._READ_AHEAD = 4\n"
        "samples = iter(split)\n"
        "first = [next(samples).file_name for _ in range(3)]\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    signal.alarm(60)\n"
        "    rest = [sample.file_name for sample in samples]\n"
        "    os._exit(0 if first + rest == split.file_name.tolist() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


def test_columns_of_joined_split_are_joined_once(store: arraystore.Store) -> None:
    joined = store["train+validation"]
    assert joined.label is joined.label


def test_repr_of_images_names_their_form(train: arraystore.Split) -> None:
    assert repr(train.image).startswith("<image of <Split 'train' of ")
    assert repr(train.resized(32)).startswith("<resized((32, 32)) of ")
