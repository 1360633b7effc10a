"""Use a store in every way, each in a process of its own, and print what other threads import.

A thread of `alongside` may import: whoever starts it waits for it.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

import arraystore

if TYPE_CHECKING:
    from collections.abc import Callable


class Finder(MetaPathFinder):
    """Notes what is looked for outside of the main thread, and finds nothing."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @override
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        thread = threading.current_thread()
        if thread is not threading.main_thread() and thread.name != "arraystore-alongside":
            self.names.append(f"{fullname} ({thread.name})")


def train(path: str) -> arraystore.Split:
    return arraystore.open(path)["train"]


def show(path: str) -> None:
    from arraystore.cli.commands import main

    main(["show", path, "-o", "sheet.png"])


def export(path: str) -> None:
    from arraystore.cli.commands import main

    main(["export", path, "-o", "images"])


def unpickled(path: str) -> None:
    """Read a split in a process that has opened nothing."""
    reads, writes = os.pipe()
    if not os.fork():
        os.write(writes, pickle.dumps(train(path)))
        os._exit(0)
    os.wait()
    list(pickle.loads(os.read(reads, 2**20)).batches(4))


ACTS: Final[dict[str, Callable[[str], object]]] = {
    "batches": lambda path: list(train(path).batches(4, size=8)),
    "batches by block": lambda path: list(train(path).batches(4, shuffle="block", buffer_size=5)),
    "map": lambda path: list(train(path).map(lambda sample: sample.label)),
    "slice": lambda path: train(path)[:],
    "episodes": lambda path: list(train(path).episodes(1, 2, 2, n_episodes=2)),
    "unpickled": unpickled,
    "verify": lambda path: arraystore.verify(path, decode=True),
    "copy": lambda path: arraystore.copy(path, "a.h5"),
    "show": show,
    "export": export,
    "convert": lambda path: arraystore.convert(f"folder:{path}-photos", f"b{Path(path).suffix}"),
}
REMOTE: Final = ("batches", "verify")


def run(name: str, path: str) -> None:
    """Do it in a fork, in which nothing has been imported yet, and print what was found."""
    if os.fork():
        os.wait()
        return
    finder = Finder()
    sys.meta_path.insert(0, finder)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ACTS[name](path)
        os.chdir("/")
    place = " of a web server" if "://" in path else ""
    print(f"{name}{place}: {', '.join(finder.names[:5])}", file=sys.stderr, flush=True)
    os._exit(0)


def main() -> None:
    """Do everything with the stores that are named."""
    for path in sys.argv[1:]:
        for name in ACTS if "://" not in path else REMOTE:
            run(name, path)


if __name__ == "__main__":
    main()
