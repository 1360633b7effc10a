"""Fixtures of the servers; each kind is started once for all tests of this folder."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cloud.servers import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITABLE = [kind for kind, server in SERVERS.items() if server.writable]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Start a server of a kind, or return the one that runs."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def started(kind: str) -> Server:
            if kind not in running:
                folder = tmp_path_factory.mktemp(kind)
                running[kind] = stack.enter_context(SERVERS[kind](folder))
            return running[kind]

        yield started


@pytest.fixture(scope="session", params=list(SERVERS))
def server(request: pytest.FixtureRequest, start: Callable[[str], Server]) -> Server:
    """A server of each kind."""
    return start(request.param)


@pytest.fixture(scope="session", params=WRITABLE)
def writable(request: pytest.FixtureRequest, start: Callable[[str], Server]) -> Server:
    """A server of each kind that can be written to."""
    return start(request.param)
