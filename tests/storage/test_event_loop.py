"""Items that a thread makes and a coroutine takes, and what either meets when the other fails."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from arraystore._threads import Scope, WorkCancelledError
from arraystore.storage.objects import event_loop
from arraystore.storage.objects.event_loop import NoMoreItemsError, Stream, feed

if TYPE_CHECKING:
    from collections.abc import Iterator


class BoomError(Exception):
    """What fails here."""


def test_items_are_made_in_this_thread_and_taken_in_order() -> None:
    made_in, taken_in = set(), set()

    def items() -> Iterator[int]:
        for i in range(9):
            made_in.add(threading.current_thread())
            yield i

    async def take(stream: Stream[int]) -> list[int]:
        taken_in.add(threading.current_thread())
        return [item async for item in stream]

    assert feed(take, items()) == list(range(9))
    assert made_in == {threading.current_thread()}
    assert not made_in & taken_in


def test_taker_that_fails_ends_the_making_of_items() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    async def take(stream: Stream[int]) -> None:
        async for item in stream:
            if item == 3:
                raise BoomError

    with pytest.raises(BoomError):
        feed(take, items())
    assert 4 <= len(made) < 1000


def test_taker_may_end_before_all_items_are_made() -> None:
    async def take(stream: Stream[int]) -> int:
        return await anext(stream)

    assert feed(take, range(1000)) == 0


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt, StopIteration])
def test_taker_meets_an_error_where_an_item_could_not_be_made(error: type[BaseException]) -> None:
    met: list[str] = []

    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            if met:
                raise error
            met.append("an item")
            return 0

    async def take(stream: Stream[int]) -> int:
        try:
            return sum([item async for item in stream])
        except NoMoreItemsError:
            await asyncio.sleep(0)
            met.append("no more")
            raise

    if error is StopIteration:
        assert feed(take, Items()) == 0
        assert met == ["an item"]
        return
    with pytest.raises(error):
        feed(take, Items())
    assert met == ["an item", "no more"]


def test_taker_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "TIDYING_SECONDS", 0.01)
    cancelled = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        raise BoomError

    async def take(stream: Stream[int]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(BoomError):
        feed(take, items())
    assert cancelled.wait(60)


def test_cancelled_scope_ends_a_feed_and_its_taker() -> None:
    cancelled, scope = threading.Event(), Scope()

    async def take(stream: Stream[int]) -> None:
        await anext(stream)
        scope.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(WorkCancelledError):
        scope.run(feed, take, range(1000))
    assert cancelled.wait(60)
