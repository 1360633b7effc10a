from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

from arraystore.storage.objects.slots import LONG_NBYTES, MAX_IN_FLIGHT, MAX_LONG, Slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


def most_outstanding(slots: Slots, sizes: Sequence[int | None]) -> int:
    """Return how many requests with responses of some sizes are outstanding together."""
    now, most = 0, 0

    async def request(nbytes: int | None) -> None:
        nonlocal now, most
        async with slots.one(nbytes):
            now += 1
            most = max(most, now)
            for _ in range(3):  # until all others have begun that can begin
                await asyncio.sleep(0)
            now -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(request, sizes))

    asyncio.run(all_of_them())
    assert now == 0
    return most


def test_long_and_unknown_responses_are_fewer() -> None:
    assert most_outstanding(Slots(), [LONG_NBYTES] * 1000) == MAX_IN_FLIGHT == 256
    assert most_outstanding(Slots(), [LONG_NBYTES + 1] * 1000) == MAX_LONG == 64
    assert most_outstanding(Slots(), [None] * 1000) == MAX_LONG


def test_long_responses_leave_slots_to_short_ones() -> None:
    long, short = [LONG_NBYTES + 1] * 1000, [0] * 1000
    assert most_outstanding(Slots(), [*long, *short]) == MAX_IN_FLIGHT
    assert most_outstanding(Slots(3), [*long, *short]) == 3


def test_few_open_files_limit_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for n_files, most in ((256, 64), (2, 1), (resource.RLIM_INFINITY, 256)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, n=n_files: (n, n))
        assert most_outstanding(Slots(), [0] * 1000) == most
