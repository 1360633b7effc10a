"""The servers respond, and leave no process behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cloud.programs import find_program, request
from tests.cloud.servers import BUCKET, bucket_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cloud.servers import Server

STARTER = """
import sys
from pathlib import Path
from tests.cloud.servers import PlainHTTP
with PlainHTTP(Path(sys.argv[1])) as server:
    print(server._process.pid, flush=True)
    sys.stdin.read()
"""


def test_uploaded_files_are_served(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"found")
    server.upload(tmp_path / "a", "up/load")
    if server.writable:
        assert bytes(bucket_of(server).get_range("up/load/b/c", start=1, end=3)) == b"ou"
    elif server.kind == "gs":
        url = f"{server.endpoint}/storage/v1/b/{BUCKET}/o/up%2Fload%2Fb%2Fc?alt=media"
        assert request(url, "GET", headers={"Range": "bytes=1-2"}) == b"ou"
    else:
        url, _ = server.at("up/load/b/c")
        assert request(url, "GET", headers={"Range": "bytes=1-2"}) == b"ou"


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere nothing ends a killed parent's child"
)
def test_server_ends_when_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([server], [], [], 30)
    os.close(server)
    assert ended


def test_missing_server_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="make test-cloud"):
        find_program("no-such-server", "no-such-package")
