"""Search for lost or wrong data: hostile input, damaged stores, failing reads. Count all cases.

The tests run a few cases of each part. Run this before a release, and update the counts in
docs/reliability.md::

    make soak SOAK_ROUNDS=20

Each part runs one round and returns counts by name. If there is a count whose name contains
``WRONG``, the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.soak import (
    changing,
    damage,
    faults,
    fuzzing,
    hostile_hdf5,
    iterators,
    overwriting,
    stated_sizes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Part = Callable[[int], Counter[str]]

PARTS: Final[dict[str, Part]] = {
    "fuzz cases": fuzzing.run,
    "hostile HDF5 files": hostile_hdf5.run,
    "damaged stores": damage.run,
    "faults": faults.run,
    "iterators": iterators.run,
    "overwriting": overwriting.run,
    "stated sizes": stated_sizes.run,
    "changing sources": changing.run,
}
"""Parts of a round: ``run(seed)`` returns counts."""

WRONG: Final = "WRONG"


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for lost or wrong data.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first round; it increases by 1"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="run this part only")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {name: Counter() for name in options.part or PARTS}
    began = time.monotonic()
    for seed in range(options.seed, options.seed + options.rounds):
        for name, total in counts.items():
            total += PARTS[name](seed)
        print(f"round of seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for name, total in counts.items():
        print(name)
        for what in sorted(total):
            print(f"    {what:<40} {total[what]:>10,}")
    n_wrong = sum(n for total in counts.values() for what, n in total.items() if WRONG in what)
    print(f"wrong results: {n_wrong}")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
