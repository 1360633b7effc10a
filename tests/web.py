"""A web server in this process: objects in memory, byte ranges, and failures on demand.

It also accepts uploads as S3 does: with the options `WebServer.s3`, ``s3://bucket/key`` is the
object ``bucket/key``.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE: Final = 60
"""Seconds after which a waiting test fails."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    range: str
    if_match: str
    authorization: str
    headers: tuple[tuple[str, str], ...] = ()
    query: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response instead of the regular one."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def etag_of(data: bytes) -> str:
    """Return a strong etag; Python caches the hash of bytes."""
    return f'"{hash(data):x}"'


class WebServer:
    """Serve `objects` on a port of loopback within a context.

    Attributes
    ----------
    objects : dict of str to bytes
        Objects by path, without the leading slash.
    etags : dict of str to str
        Etags that replace the default one, which depends on the bytes; empty for none.
    asked : list of Asked
        All requests in the order of arrival.
    answer : callable
        Receives a request and returns None, an `Answer`, or the name of a failure: "reset",
        "silence" (no response), "truncate", "stall" (half a response), "flip" (one bit of the
        body), "whole" (200 instead of 206), "no-suffix" (200 if the range counts from the end).
    together : threading.Barrier or None
        Requests wait here for each other.
    uploads : dict of str to dict of int to bytes
        Parts of the uploads that are neither complete nor aborted.
    hung_up : list of Asked
        Requests that were not answered, and whose connection is closed now.
    keys_per_page : int
        Objects that one page of a listing has at most.
    listed_time : str
        The time of change that listings state; responses state the first second of 2026.
    listed_etag : str
        What listings add to ETags.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer | str | None] = lambda asked: None
        self.together: threading.Barrier | None = None
        self.closing = threading.Event()
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.hung_up: list[Asked] = []
        self.keys_per_page = 1000
        self.listed_time = "2026-01-01T00:00:00.000Z"
        self.listed_etag = ""
        self._next: deque[Answer | str] = deque()

    def put(self, path: Path, name: str) -> None:
        """Store a file, or all files of a folder, under a name."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        for file in files:
            below = "" if path.is_file() else f"/{file.relative_to(path)}"
            self.objects[f"{name}{below}"] = file.read_bytes()

    def fail_next(self, *mishaps: Answer | str) -> None:
        """Let the next requests fail in these ways."""
        self._next.extend(mishaps)

    def mishap(self, asked: Asked) -> Answer | str | None:
        try:
            return self._next.popleft()
        except IndexError:
            return self.answer(asked)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def s3(self) -> dict[str, Any]:
        """The storage options of ``s3://`` addresses of this server."""
        return {"endpoint": self.url, "region": "us-east-1", "skip_signature": True}

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.web = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        if self.together:
            self.together.abort()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    web: WebServer

    @override
    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # the base class would look up the name of this machine
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web, fields = self.server.web, self.headers
        path, _, query = self.path.partition("?")
        path = unquote(path).lstrip("/")
        asked = Asked(
            self.command,
            path,
            fields.get("Range", ""),
            fields.get("If-Match", ""),
            fields.get("Authorization", ""),
            tuple(fields.items()),
            query,
        )
        body = self.rfile.read(int(fields.get("Content-Length", 0)))
        web.asked.append(asked)
        mishap = web.mishap(asked)
        if web.together and isinstance(mishap, str | None):
            web.together.wait(PATIENCE)
        if isinstance(mishap, Answer):
            self._send(mishap.status, mishap.body.encode(), mishap.headers)
        elif mishap == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        elif mishap == "silence":
            web.closing.wait(PATIENCE)
            web.hung_up.append(asked)
            self.close_connection = True
        elif self.command not in ("GET", "HEAD") or "list-type=2" in query:
            self._take(asked, body)
        elif path not in web.objects:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", ())
        else:
            self._send_object(web.objects[path], asked, mishap or "")

    def _take(self, asked: Asked, body: bytes) -> None:
        """Write, delete or list objects, as S3 does."""
        web, path, method = self.server.web, asked.path, self.command
        query = parse_qs(asked.query, keep_blank_values=True)
        (upload,) = query.get("uploadId", [""])
        if method == "GET":
            self._send_xml("ListBucketResult", self._listed(path, query))
        elif method == "PUT" and upload:
            web.uploads[upload][int(query["partNumber"][0])] = body
            self._send(200, b"", [("ETag", etag_of(body))])
        elif method == "PUT":
            there = web.objects.get(path)
            wanted = self.headers.get("If-Match")
            if (self.headers.get("If-None-Match") and there is not None) or (
                wanted and (there is None or wanted != etag_of(there))
            ):
                self._send(412, b"", ())
                return
            web.objects[path] = body
            self._send(200, b"", [("ETag", etag_of(body))])
        elif method == "DELETE":
            web.uploads.pop(upload, None) if upload else web.objects.pop(path, None)
            self._send(204, b"", ())
        elif "uploads" in query:
            web.uploads[name := f"upload-{len(web.asked)}"] = {}
            self._send_xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
        elif upload:
            parts = web.uploads.pop(upload)
            data = web.objects[path] = b"".join(parts[number] for number in sorted(parts))
            self._send_xml("CompleteMultipartUploadResult", f"<ETag>{etag_of(data)}</ETag>")
        else:
            names = [name.decode() for name in re.findall(rb"<Key>(.*?)</Key>", body)]
            for name in names:
                web.objects.pop(f"{path.rstrip('/')}/{name}", None)
            deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            self._send_xml("DeleteResult", deleted)

    def _listed(self, bucket: str, query: dict[str, list[str]]) -> str:
        """Return the next page of a listing; with a delimiter, folders are listed as such."""
        web, root = self.server.web, f"{bucket.rstrip('/')}/"
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key.removeprefix(root) for key in web.objects if key.startswith(root))
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        page, rest = keys[: web.keys_per_page], keys[web.keys_per_page :]
        below = {key: key.removeprefix(prefix).partition("/") for key in page}
        is_flat = "delimiter" not in query
        folders = sorted({prefix + name + "/" for name, mark, _ in below.values() if mark})
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(web.objects[root + key])}</Size>"
            f"<ETag>{web.etags.get(root + key, etag_of(web.objects[root + key]))}"
            f"{web.listed_etag}</ETag>"
            f"<LastModified>{web.listed_time}</LastModified></Contents>"
            for key in page
            if is_flat or not below[key][1]
        )
        if not is_flat:
            contents += "".join(
                f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                for name in folders
            )
        if rest:
            token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
            contents += f"<IsTruncated>true</IsTruncated>{token}"
        return contents

    def _send_xml(self, name: str, content: str) -> None:
        self._send(200, f"<{name}>{content}</{name}>".encode(), ())

    def _send_object(self, data: bytes, asked: Asked, mishap: str) -> None:
        web = self.server.web
        etag = web.etags.get(asked.path, etag_of(data))
        headers = [("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")]
        if etag:
            headers.append(("ETag", etag))
        if asked.if_match and (asked.if_match != etag or etag.startswith("W/")):
            self._send(412, b"", ())
            return
        is_suffix = asked.range.startswith("bytes=-")
        if not asked.range or mishap == "whole" or (is_suffix and mishap == "no-suffix"):
            self._send(200, data, headers, mishap)
            return
        first, _, last = asked.range.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1 if first and last else len(data), len(data))
        if start >= len(data):
            self._send(416, b"", [("Content-Range", f"bytes */{len(data)}")])
            return
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))
        self._send(206, data[start:stop], headers, mishap)

    def _send(self, status: int, body: bytes, headers: Any, mishap: str = "") -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if mishap == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        if mishap in ("truncate", "stall"):
            self.wfile.write(body[: len(body) // 2])
            if mishap == "stall":
                self.server.web.closing.wait(PATIENCE)
            self.close_connection = True
            return
        self.wfile.write(body)
