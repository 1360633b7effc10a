"""A cluster that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import dask
import distributed
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


PRELOAD: Final = "import os; os.chdir('/')"
"""What a worker does first, also one that replaces a killed worker.

Otherwise that one stays in the folder of the test that killed it. Once the folder is removed,
Python 3.13.0 no longer imports obstore (``SystemError: attempted to fetch exception``).
"""


def start() -> tuple[Any, Any]:
    """Start a cluster of two processes with another working directory; return it and a client."""
    made: Any = distributed  # it has annotations, but not of these
    # Workers that look at their threads every 10 ms take as much CPU time as the tests.
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        cluster = made.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", preload=PRELOAD
        )
    return cluster, made.Client(cluster, set_as_default=False)


@pytest.fixture(scope="package")
def client() -> Iterator[Any]:
    cluster, client = start()
    with cluster, client:
        yield client
