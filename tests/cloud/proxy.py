"""A proxy between a client and a server that delays requests, injects faults and counts.

::

    client ──▶ Proxy ──wait──▶ server
           ◀──fault?──       ◀──

Requests and responses pass through byte for byte, so that signatures stay valid. Whether a request
meets a fault depends on the seed, on its method, target and range, and on how often the same was
requested before; so the order of concurrent requests does not matter.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

FAULTS: Final = ("503", "500", "429", "reset", "truncate", "reset-mid-body", "stall")
"""Faults: an error status, a connection reset before the request arrives, and a response that ends,
is reset or stops in the middle.
"""

_PIECE_NBYTES: Final = 2**18
_HEAD_NBYTES: Final = 2**20
_BUSY: Final = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"


@dataclass(slots=True)
class Request:
    """One request that passed the proxy.

    Attributes
    ----------
    method, target, range : str
        Of the request; `range` is the value of the header, or empty.
    fault : str
        One of `FAULTS`, or empty.
    status : int
        Of the response; 0 until it arrives.
    nbytes_up, nbytes_down : int
        Bytes of the bodies that were passed on.
    began, ended : float
        Seconds on the monotonic clock.
    """

    method: str
    target: str
    range: str
    fault: str = ""
    status: int = 0
    nbytes_up: int = 0
    nbytes_down: int = 0
    began: float = 0.0
    ended: float = float("inf")


class Proxy:
    """A proxy on its own port, which runs while its context lasts.

    Parameters
    ----------
    upstream : str
        Endpoint of the server, such as ``http://127.0.0.1:8333``.
    latency : float, default 0
        Seconds between the arrival of a request and passing it on.
    faults : sequence of str, default all of `FAULTS`
        Faults to choose from.
    rate : float, default 0
        Fraction of the requests that meet a fault.
    seed : int, default 0
        Seed of the choice.
    renames_host : bool, default False
        Whether requests name the server instead of the proxy; this breaks signatures.

    Attributes
    ----------
    requests : list of Request
        Requests since the last `reset`, in the order of their arrival.
    max_in_flight : int
        Most concurrent requests since then.
    """

    def __init__(
        self,
        upstream: str,
        *,
        latency: float = 0.0,
        faults: Sequence[str] = FAULTS,
        rate: float = 0.0,
        seed: int = 0,
        renames_host: bool = False,
    ) -> None:
        unknown = set(faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"faults must be of {FAULTS}, got {sorted(unknown)}")
        host, _, port = upstream.removeprefix("http://").split("/")[0].partition(":")
        self._upstream = host, int(port)
        self._latency, self._faults, self._rate, self._seed = latency, faults, rate, seed
        self._renames_host = renames_host
        self._loop = asyncio.new_event_loop()
        self._planned: deque[tuple[str, str]] = deque()
        self.reset()

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def nbytes(self) -> int:
        """Bytes of response bodies that were passed on since the last `reset`."""
        return sum(request.nbytes_down for request in self.requests)

    @property
    def n_faults(self) -> Counter[str]:
        """Number of occurrences of each fault since the last `reset`."""
        return Counter(request.fault for request in self.requests if request.fault)

    @property
    def round_trips(self) -> int:
        """Length of the longest chain of requests, each begun after the end of the one before."""
        return longest_chain([(r.began, r.ended) for r in self.requests])

    def reset(self) -> None:
        """Set all counters to zero."""
        self.requests: list[Request] = []
        self.max_in_flight = 0
        # A set, because requests that began before may end later.
        self._in_flight: set[int] = set()
        self._asked: Counter[tuple[str, str, str]] = Counter()

    def fail_next(self, *faults: str, method: str = "") -> None:
        """Inject these faults into the next requests (of one method, if given), at any rate."""
        self._planned.extend((fault, method) for fault in faults)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_NBYTES)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client, through one connection to the server."""
        client, server = _Peer(reader, writer), _Peer()
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                while True:
                    head = await client.read_head()
                    request = self._note(head)
                    try:
                        if not await self._exchange(request, head, client, server):
                            return
                    finally:
                        request.ended = time.monotonic()
                        self._in_flight.discard(id(request))
        finally:
            client.close()
            server.close()

    def _note(self, head: _Head) -> Request:
        method, target, _ = head.first.split(" ", 2)
        request = Request(method, target, head.fields.get("range", ""), began=time.monotonic())
        self.requests.append(request)
        request.fault = self._choose_fault(request)
        self._in_flight.add(id(request))
        self.max_in_flight = max(self.max_in_flight, len(self._in_flight))
        return request

    def _choose_fault(self, request: Request) -> str:
        if self._planned and self._planned[0][1] in ("", request.method):
            return self._planned.popleft()[0]
        asked = request.method, request.target, request.range
        self._asked[asked] += 1
        chance = Random(f"{self._seed} {asked} {self._asked[asked]}")
        return chance.choice(self._faults) if chance.random() < self._rate else ""

    async def _exchange(self, request: Request, head: _Head, client: _Peer, server: _Peer) -> bool:
        """Serve one request; return whether the connection can serve another."""
        if self._latency:
            await asyncio.sleep(self._latency)
        if request.fault == "reset":
            client.reset()
            return False
        if head.fields.get("expect"):
            await client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.fault.isdigit():
            await client.drop_body(head)
            request.status = int(request.fault)
            body = b"" if request.method == "HEAD" else _BUSY
            first = f"HTTP/1.1 {request.fault} Injected\r\nContent-Length: {len(_BUSY)}\r\n\r\n"
            await client.write(first.encode() + body)
            return True
        if not server.is_open:
            server.connect(*await asyncio.open_connection(*self._upstream, limit=_HEAD_NBYTES))
        names = head.fields["host"], f"{self._upstream[0]}:{self._upstream[1]}"
        renamed = head.raw.replace(names[0].encode(), names[1].encode(), 1)
        await server.write(renamed if self._renames_host else head.raw)
        async for piece in client.body(head):
            request.nbytes_up += len(piece)
            await server.write(piece)
        reply = await server.read_head()
        while reply.status == 100:
            reply = await server.read_head()
        has_body = request.method != "HEAD" and reply.status not in (204, 304)
        return await self._answer(request, reply, client, server, has_body=has_body)

    async def _answer(
        self, request: Request, reply: _Head, client: _Peer, server: _Peer, *, has_body: bool
    ) -> bool:
        """Pass a response on, or half of it; return whether the connection can serve another."""
        request.status = reply.status
        limit = reply.content_length // 2 if request.fault else None
        if not request.fault or (has_body and reply.content_length):
            await client.write(reply.raw)  # else it cannot be halved, and nothing is sent
        async for piece in server.body(reply, has_body=has_body):
            room = len(piece) if limit is None else limit - request.nbytes_down
            request.nbytes_down += len(piece[:room])
            await client.write(piece[:room])
            if request.nbytes_down == limit:
                break
        if request.fault == "stall":
            await client.wait_until_closed()
        if request.fault == "reset-mid-body":
            client.reset()
        closes = reply.fields.get("connection", "").lower() == "close"
        return not request.fault and not closes


class _Head(NamedTuple):
    """The head of a message: its bytes, its first line, and its fields by lower-case names."""

    raw: bytes
    first: str
    fields: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def content_length(self) -> int:
        return int(self.fields.get("content-length", "0"))


class _Peer:
    """One end of a connection, speaking HTTP/1.1."""

    def __init__(
        self, reader: asyncio.StreamReader | None = None, writer: asyncio.StreamWriter | None = None
    ) -> None:
        self.is_open = False
        if reader and writer:
            self.connect(reader, writer)

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self.is_open = reader, writer, True

    async def read_head(self) -> _Head:
        raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return _Head(raw, first, {name.lower(): value.strip() for name, _, value in pairs})

    async def body(self, head: _Head, *, has_body: bool = True) -> AsyncIterator[bytes]:
        """Yield the body of a message in pieces, including any chunk headers."""
        if not has_body:
            return
        if head.fields.get("transfer-encoding", "").lower() != "chunked":
            async for piece in self._pieces(head.content_length):
                yield piece
            return
        size = 1
        while size:
            line = await self._reader.readuntil(b"\r\n")
            yield line
            size = int(line.split(b";")[0], 16)
            async for piece in self._pieces(size + 2):
                yield piece

    async def drop_body(self, head: _Head) -> None:
        async for _ in self.body(head):
            pass

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def wait_until_closed(self) -> None:
        await self._reader.read(1)

    def reset(self) -> None:
        """Close so that the other end gets an error, not an end."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        if self.is_open:
            self._writer.close()

    async def _pieces(self, nbytes: int) -> AsyncIterator[bytes]:
        while nbytes:
            piece = await self._reader.read(min(nbytes, _PIECE_NBYTES))
            if not piece:
                raise EOFError
            nbytes -= len(piece)
            yield piece


def longest_chain(spans: Sequence[tuple[float, float]]) -> int:
    """Return the size of the largest set of time spans without overlaps.

    Examples
    --------
    >>> longest_chain([(0, 3), (1, 2), (2, 4), (5, 6)])
    3
    """
    length, free_from = 0, float("-inf")
    for began, ended in sorted(spans, key=lambda span: span[1]):
        if began >= free_from:
            length, free_from = length + 1, ended
    return length
