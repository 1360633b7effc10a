"""Items that a thread produces and a coroutine consumes, and errors of either side."""

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
    """The error of these tests."""


def test_feed_produces_items_in_this_thread() -> None:
    made_in, consumed_in = set(), set()

    def items() -> Iterator[int]:
        for i in range(9):
            made_in.add(threading.current_thread())
            yield i

    async def consume(stream: Stream[int]) -> list[int]:
        consumed_in.add(threading.current_thread())
        return [item async for item in stream]

    assert feed(consume, items()) == list(range(9))
    assert made_in == {threading.current_thread()}
    assert not made_in & consumed_in


def test_feed_stops_when_consumer_fails() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    async def consume(stream: Stream[int]) -> None:
        async for item in stream:
            if item == 3:
                raise BoomError

    with pytest.raises(BoomError):
        feed(consume, items())
    assert 4 <= len(made) < 1000


def test_feed_stops_when_consumer_ends() -> None:
    async def consume(stream: Stream[int]) -> int:
        return await anext(stream)

    assert feed(consume, range(1000)) == 0


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt, StopIteration])
def test_consumer_gets_an_error_when_producing_fails(error: type[BaseException]) -> None:
    met: list[str] = []

    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            if met:
                raise error
            met.append("an item")
            return 0

    async def consume(stream: Stream[int]) -> int:
        try:
            return sum([item async for item in stream])
        except NoMoreItemsError:
            await asyncio.sleep(0)
            met.append("no more")
            raise

    if error is StopIteration:
        assert feed(consume, Items()) == 0
        assert met == ["an item"]
        return
    with pytest.raises(error):
        feed(consume, Items())
    assert met == ["an item", "no more"]


def test_consumer_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "TIDYING_SECONDS", 0.01)
    cancelled = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        raise BoomError

    async def consume(stream: Stream[int]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(BoomError):
        feed(consume, items())
    assert cancelled.wait(60)


def test_cancelled_scope_ends_feed_and_consumer() -> None:
    cancelled, scope = threading.Event(), Scope()

    async def consume(stream: Stream[int]) -> None:
        await anext(stream)
        scope.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(WorkCancelledError):
        scope.run(feed, consume, range(1000))
    assert cancelled.wait(60)
