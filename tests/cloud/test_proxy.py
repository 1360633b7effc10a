"""The proxy delays, injects faults and counts, as the other tests of this folder assume."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from tests.cloud.proxy import FAULTS, Proxy, longest_chain
from tests.cloud.servers import PlainHTTP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cloud.servers import Server

DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def web(start: Callable[[str], Server]) -> Server:
    server = start(PlainHTTP.kind)
    server.put("data", DATA)
    return server


@pytest.fixture
def proxy(web: Server) -> Iterator[Proxy]:
    with Proxy(web.endpoint) as running:
        yield running


def get(web: Server, proxy: Proxy, span: str = "", *, timeout: float = 60) -> bytes:
    url, _ = web.at("data", proxy.endpoint)
    request = urllib.request.Request(url, headers={"Range": span} if span else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        data: bytes = answer.read()
        return data


def test_bytes_pass_unchanged_and_are_counted(web: Server, proxy: Proxy) -> None:
    assert get(web, proxy) == DATA
    assert get(web, proxy, "bytes=5-8") == DATA[5:9]
    assert [(r.method, r.range, r.status) for r in proxy.requests] == [
        ("GET", "", 200),
        ("GET", "bytes=5-8", 206),
    ]
    assert proxy.nbytes == len(DATA) + 4


@pytest.mark.parametrize("fault", ["503", "500", "429"])
def test_error_statuses_are_injected(fault: str, web: Server, proxy: Proxy) -> None:
    proxy.fail_next(fault)
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(web, proxy)
    with caught.value:
        assert caught.value.code == int(fault)
    assert get(web, proxy) == DATA


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", OSError),
        ("truncate", http.client.IncompleteRead),
        ("reset-mid-body", ConnectionResetError),
    ],
)
def test_connections_are_cut(fault: str, error: type[Exception], web: Server, proxy: Proxy) -> None:
    proxy.fail_next(fault)
    with pytest.raises(error):
        get(web, proxy)
    assert proxy.n_faults == {fault: 1}


def test_stalled_response_never_ends(web: Server, proxy: Proxy) -> None:
    proxy.fail_next("stall")
    with pytest.raises(TimeoutError):
        get(web, proxy, timeout=1)
    assert proxy.nbytes == len(DATA) // 2


def test_planned_fault_waits_for_its_method(web: Server, proxy: Proxy) -> None:
    proxy.fail_next("503", method="PUT")
    assert get(web, proxy) == DATA


def faults_met(web: Server, seed: int) -> list[str]:
    with Proxy(web.endpoint, rate=0.5, faults=["503", "500"], seed=seed) as proxy:
        for i in range(20):
            try:
                get(web, proxy, f"bytes={i}-{i}")
            except urllib.error.HTTPError as error:
                error.close()
        return [request.fault for request in proxy.requests]


def test_seed_determines_faults(web: Server) -> None:
    met = faults_met(web, 1)
    assert met == faults_met(web, 1)
    assert met != faults_met(web, 2)
    assert 0 < met.count("") < 20


def test_every_fault_occurs_at_rate_one(web: Server) -> None:
    with Proxy(web.endpoint, rate=1, faults=FAULTS) as proxy:
        for i in range(60):
            with pytest.raises((OSError, http.client.HTTPException)) as caught:
                get(web, proxy, f"bytes={i}-{i + 9}", timeout=0.1)
            if isinstance(caught.value, urllib.error.HTTPError):
                caught.value.close()
        assert proxy.n_faults.keys() == set(FAULTS)
        assert proxy.n_faults.total() == len(proxy.requests)


def test_concurrent_requests_are_one_round_trip(web: Server) -> None:
    together = Barrier(4)
    with Proxy(web.endpoint, latency=0.5) as slow, ThreadPoolExecutor(4) as pool:

        def ask(i: int) -> None:
            together.wait()
            get(web, slow, f"bytes={i}-{i}")

        list(pool.map(ask, range(4)))
        assert (slow.max_in_flight, slow.round_trips, len(slow.requests)) == (4, 1, 4)
        slow.reset()
        assert (slow.max_in_flight, slow.round_trips, len(slow.requests)) == (0, 0, 0)


def test_round_trips_are_the_longest_chain() -> None:
    assert longest_chain([]) == 0
    assert longest_chain([(0, 10), (1, 2), (3, 4), (4, 9)]) == 3


def test_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="flood"):
        Proxy("http://127.0.0.1:1", faults=["flood"])
