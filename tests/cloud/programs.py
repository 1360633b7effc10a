"""Server programs: their paths and ports, plain requests to them, and their end."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PR_SET_PDEATHSIG: Final = 1


def free_ports(number: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def find_program(name: str, package: str, *folders: Path) -> str:
    """Return the path of a program that `package` installs."""
    for folder in (Path(sys.executable).parent, *folders):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise not_installed(name, package)
    return found


def request(
    url: str, method: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """Send a request, and return the body of the response; status 409 is not an error."""
    wanted = urllib.request.Request(url, body, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(wanted, timeout=10) as answer:
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 409:
                return b""
            raise


def not_installed(name: str, package: str) -> RuntimeError:
    """Return the error about a program that is not installed."""
    return RuntimeError(
        f"{name} (of the package {package}) is not installed; run `make test-cloud`"
    )


def end_with_parent() -> None:
    """Make the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
