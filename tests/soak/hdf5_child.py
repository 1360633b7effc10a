"""Read hostile HDF5 files one after another, and print the outcome of each in one line.

This runs in its own process with a memory limit. Its parent limits the time.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from arraystore import ArrayStoreError
from tests.soak.judge import DOCUMENTED, use

MEMORY_NBYTES = 4 * 2**30


def outcome_of(path: Path) -> str:
    try:
        use(path)
    except DOCUMENTED as error:
        is_harmless = not isinstance(error, ArrayStoreError) or str(error).isprintable()
        return "refused" if is_harmless else f"wrong: {path.name}: {error!r}"
    except BaseException as error:  # noqa: BLE001 - reported as wrong
        return f"wrong: {path.name}: {error!r}"
    return "read right"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_NBYTES, MEMORY_NBYTES))
    for name in sys.argv[1:]:
        print(outcome_of(Path(name)).replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
