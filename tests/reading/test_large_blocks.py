"""The memory of large batches stays in the process, unless the user forbids it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import arraystore
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import resource, sys
import arraystore

train = arraystore.open(sys.argv[1])["train"]
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    train.image_bytes[:]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""


def faults(store: Path, keep: str) -> int:
    """Return the fewest page faults of a batch that was read before in the process."""
    # Where limits are set, as by clusters of Dask, glibc keeps them.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**plain, "ARRAYSTORE_KEEP_MEMORY": keep}
    command = [sys.executable, "-c", CHILD, str(store)]
    return int(subprocess.check_output(command, env=environment))


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="other C libraries have other limits",
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batches_reuse_their_memory(suffix: str, tmp_path: Path) -> None:
    bitmap = b"BM" + (300_054).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    bitmap += (40).to_bytes(4, "little") + (500).to_bytes(4, "little") + (200).to_bytes(4, "little")
    bitmap += b"\1\0\x18\0" + bytes(24) + bytes(300_000)
    samples = [{"image": bitmap, "label": "a", "file_name": f"{i}.bmp"} for i in range(12)]
    arraystore.write(tmp_path / f"a{suffix}", {"train": samples}, classes=["a"])
    n_pages = 12 * 300_000 // os.sysconf("SC_PAGE_SIZE")
    assert faults(tmp_path / f"a{suffix}", "1") < n_pages // 4
    assert faults(tmp_path / f"a{suffix}", "0") > n_pages // 2
