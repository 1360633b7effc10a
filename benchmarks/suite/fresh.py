"""Measures that need a new process: conversion, cold files, and a new heap.

`run` starts a process with a task and a peer; it prints the figures. Only NumPy is imported before
the peer's own libraries, so that their import time is measured.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.suite import files

if TYPE_CHECKING:
    from benchmarks.suite.data import Ints, Source
    from benchmarks.suite.peers.base import Peer

Task = dict[str, float]


def convert(peer: "Peer", source: "Source", _positions: "Ints") -> Task:
    """Write the peer's format, wait for the disk, and compare its content with the source."""
    from benchmarks.suite.measures import check

    shutil.rmtree(peer.folder, ignore_errors=True)
    peer.folder.mkdir(parents=True)
    files.read_all(source.images)
    begin = perf_counter()
    peer.prepare(source)
    converted = perf_counter()
    files.sync(peer.folder)
    synced = perf_counter()
    peak = files.peak_nbytes()
    peer.open()
    check(peer, source, seed=len(source))
    peer.close()
    return {
        "convert": converted - begin,
        "convert_and_sync": synced - begin,
        "peak": peak / 1e6,
        "size": files.size_of(peer.folder) / source.total_nbytes,
    }


def cold(peer: "Peer", _source: "Source", positions: "Ints") -> Task:
    """Open the format and read one batch, with no file in the page cache."""
    if not peer.can("batch"):
        return {}
    files.drop_cache(peer.folder)
    before, begin = files.nbytes_read(), perf_counter()
    peer.open()
    images = peer.batch(positions)
    seconds, nbytes = perf_counter() - begin, files.nbytes_read() - before
    wanted = sum(map(len, images))
    return {"cold": seconds * 1e3, "cold_read": nbytes / wanted}


def start(peer: "Peer", _source: "Source", positions: "Ints") -> Task:
    """Open the format and read the first image; then images one by one, and a batch."""
    begin = perf_counter()
    peer.open()
    if not peer.can("one"):
        next(peer.scan())
        return {"first": (perf_counter() - begin) * 1e3}
    peer.one(0)
    opened = perf_counter()
    for position in positions.tolist():
        peer.one(position)
    got = perf_counter()
    images = peer.batch(positions[::-1])
    read = perf_counter()
    return {
        "first": (opened - begin) * 1e3,
        "new_one": len(positions) / (got - opened),
        "new_batch": len(images) / (read - got),
    }


TASKS: Final[Mapping[str, Callable[["Peer", "Source", "Ints"], Task]]] = {
    "convert": convert,
    "cold": cold,
    "start": start,
}


def run(task: str, peer: "Peer", source: "Source", positions: "Ints") -> Task:
    """Run a task in a new process.

    Parameters
    ----------
    task : {"convert", "cold", "start"}
    peer : Peer
        The format; it is not opened in this process.
    source : Source
        Source of the format.
    positions : ndarray of int64, shape (n,)
        Positions of the images that are read.

    Returns
    -------
    dict of str to float
        Figures, and ``import``: milliseconds for importing the peer's libraries.
    """
    if task == "start":
        files.read_all(peer.folder)
    request = {
        "task": task,
        "peer": type(peer).__name__,
        "modules": peer.modules + (peer.modules_to_prepare if task == "convert" else ()),
        "folder": str(peer.folder),
        "source": str(source.folder),
        "positions": positions.tolist(),
    }
    # Installed peers are compiled; the modules of a checkout must be kept compiled as well.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suite.fresh"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=True,
    )
    found: Task = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(request: dict[str, Any]) -> Task:
    begin = perf_counter()
    for module in request["modules"]:
        importlib.import_module(module)
    imported = perf_counter() - begin
    from benchmarks.suite.data import load_source
    from benchmarks.suite.peers import PEERS

    (kind,) = (peer for peer in PEERS if peer.__name__ == request["peer"])
    source = load_source(Path(request["source"]))
    before = {*sys.modules}
    figures = TASKS[request["task"]](
        kind(Path(request["folder"])), source, np.array(request["positions"], np.int64)
    )
    late = {name.partition(".")[0] for name in {*sys.modules} - before}
    late -= {name.partition(".")[0] for name in request["modules"]} | sys.stdlib_module_names
    if request["task"] == "cold" and late:
        print(f"{kind.name}: the time to open includes imports: {late}", file=sys.stderr)
    return figures | {"import": imported * 1e3}


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
