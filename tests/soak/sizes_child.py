"""Read stores with false sizes, and print the outcome and the peak memory of each."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import arraystore
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.errors import ArrayStoreError
from tests.soak.judge import DOCUMENTED, images, use, whole_store

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_NBYTES: Final = 300 * 2**20


def steps(path: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """Return all functions that use a store, by name."""

    def split() -> Any:
        return arraystore.open(path)["train"]

    if path.suffix == ".json":
        whole = arraystore.open(whole_store(".zarr"))["train"]
        return {
            "load": lambda: SavedSelection.load(path),
            "select": lambda: whole.select(path).file_name.tolist(),
        }
    return {
        "use": lambda: use(path),
        "describe": lambda: (repr(arraystore.open(path)), arraystore.open(path).info),
        "item": lambda: _right(split()[1:3]),
        "sample": lambda: split().sample(3, seed=1).image_bytes[:],
        "batches": lambda: list(split().batches(4, seed=1)),
        "shuffled": lambda: split().sample(5, seed=1).positions,
        "per_label": lambda: split().per_label(1).file_name,
        "where": lambda: split().where(label=1).file_name,
        "mask": lambda: split() - split().where(label=1),
        "selection": lambda: split().select("few").positions,
        "all": lambda: arraystore.open(path)["all"].label,
        "verify": lambda: arraystore.verify(path, progress=False),
        "to Zarr": lambda: _copied(path, scratch / "b.zarr"),
        "to HDF5": lambda: _copied(path, scratch / "b.h5"),
    }


def _right(samples: Any) -> None:
    del samples


def _copied(path: Path, target: Path) -> None:
    arraystore.copy(path, target, sync=False, progress=False)
    stored = arraystore.open(target)["train"]
    for name, data in zip(stored.file_name.tolist(), stored.image_bytes[:], strict=True):
        assert images()[name] == data


def report_on(path: Path) -> dict[str, Any]:
    """Use a store, and return the number of refused steps, the failures and the memory."""
    scratch = Path(tempfile.mkdtemp(prefix="sizes-", dir=path.parent))
    refused, wrong = 0, []
    for name, step in steps(path, scratch).items():
        try:
            with warnings.catch_warnings(action="ignore"):
                step()
        except DOCUMENTED as error:
            refused += 1
            is_harmless = not isinstance(error, ArrayStoreError) or str(error).isprintable()
            if not is_harmless or not str(error):
                wrong.append(f"{name}: {error!r}")
        except BaseException:  # noqa: BLE001 - reported as wrong
            wrong.append(f"{name}: {traceback.format_exc()[-1200:]}")
    left = [file.name for file in scratch.iterdir() if file.name.endswith(".partial")]
    if left:
        wrong.append(f"left behind: {left}")
    shutil.rmtree(scratch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = peak if sys.platform == "darwin" else peak * 1024
    return {"refused": refused, "wrong": wrong, "memory": memory}


def main() -> None:
    """Fork a process with a time limit for each store, and print a line for it."""
    images()
    whole_store(".zarr")
    limit = int(sys.argv[1])
    for name in sys.argv[2:]:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            signal.alarm(limit)
            print(json.dumps(report_on(Path(name))), flush=True)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            print(json.dumps({"refused": 0, "wrong": [f"ended with {code}"], "memory": 0}))


if __name__ == "__main__":
    main()
