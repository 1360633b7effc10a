"""Conditions of the figures: the machine, and the versions of libraries."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.suite.files import memory_nbytes


def machine(folder: Path) -> dict[str, Any]:
    """Return properties of the machine and of the disk of a folder."""
    return {
        "cpu": _after_colon("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_nbytes() / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(folder),
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed distributions."""
    found = {}
    for package in sorted({*packages}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def _after_colon(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _disk(folder: Path) -> str:
    """Return the file system, and the kind of the disk where the kernel reports it."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = [fields[fields.index("-") + 1] for fields in mounts if fields[2] == number]
    block = Path("/sys/dev/block") / number
    for place in (block, block / ".."):
        rotational = place / "queue" / "rotational"
        if rotational.exists():
            turns = {"0": "not rotational", "1": "reported as rotational"}
            kinds.append(turns.get(rotational.read_text().strip(), ""))
            break
    if block.resolve().name.startswith("vd"):
        kinds.append("virtual")
    return ", ".join(filter(None, dict.fromkeys(kinds))) or "unknown"
