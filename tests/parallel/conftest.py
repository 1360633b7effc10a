"""A cluster that the tests of this folder share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import distributed
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def start() -> tuple[Any, Any]:
    """Start a cluster of two processes with another working directory; return it and a client."""
    made: Any = distributed  # it has annotations, but not of these
    cluster = made.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    client = made.Client(cluster, set_as_default=False)
    client.run(os.chdir, "/")
    return cluster, client


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    cluster, client = start()
    with cluster, client:
        yield client
