"""Part of `make soak`: random damage to stores gives right data or a documented error."""

from __future__ import annotations

import random
import shutil
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.soak.fuzzing import HangError, time_limit
from tests.soak.hostile_hdf5 import in_children
from tests.soak.judge import only_documented, scratch, use, whole_store

if TYPE_CHECKING:
    from pathlib import Path

STORES: Final = 60
KINDS: Final = ("bit flipped", "end cut off", "run of zeros", "object deleted", "objects swapped")


def run(seed: int, n_stores: int = STORES) -> Counter[str]:
    """Damage stores of both containers, and return counts of the damage and its outcomes."""
    choose = random.Random(seed)
    counts: Counter[str] = Counter()
    for number in range(n_stores):
        path = scratch() / "damaged.zarr"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole_store(".zarr"), path)
        kind = damaged_objects(choose, [file for file in path.rglob("*") if file.is_file()])
        counts[f"Zarr, {kind}"] += 1
        try:
            with time_limit(), only_documented():
                use(path)
        except (Exception, HangError):  # noqa: BLE001 - counted as wrong
            traceback.print_exc()
            shutil.copytree(path, scratch() / f"wrong-{seed}-{number}.zarr")
            counts["WRONG Zarr"] += 1
    files = []
    for number in range(n_stores):
        files.append(scratch() / f"damaged-{number}.h5")
        shutil.copy(whole_store(".h5"), files[-1])
        counts[f"HDF5, {damaged_objects(choose, files[-1:])}"] += 1
    outcomes = in_children(files)
    # Damage to a file of arraystore must not make libhdf5 hang or crash.
    failures = ("wrong", "stopped at the limit", "crashed")
    counts["WRONG HDF5"] += sum(outcomes[name] for name in failures)
    return +counts


def damaged_objects(choose: random.Random, files: list[Path]) -> str:
    """Damage one object, and return the kind of damage."""
    kind = choose.choice(KINDS if len(files) > 1 else KINDS[:3])
    file = choose.choice(sorted(files))
    data = bytearray(file.read_bytes())
    offset = choose.randrange(len(data))
    if kind == "bit flipped":
        data[offset] ^= 1 << choose.randrange(8)
    elif kind == "end cut off":
        del data[offset:]
    elif kind == "run of zeros":
        end = min(len(data), offset + choose.choice([1, 16, 512, 2**16]))
        data[offset:end] = bytes(end - offset)
    elif kind == "object deleted":
        file.unlink()
        return kind
    else:
        other = choose.choice(sorted(files))
        theirs = other.read_bytes()
        other.write_bytes(data)
        data = bytearray(theirs)
    file.write_bytes(data)
    return kind
