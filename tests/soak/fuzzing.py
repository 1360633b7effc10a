"""Part of `make soak`: many cases of every kind of hostile input."""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.soak.fuzz import FUZZED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.fuzz import Fuzz

CASES: Final = 200
LIMIT_SECONDS: Final = 60
"""Time limit of one case; a case that takes longer is considered to hang."""


class HangError(BaseException):
    """A case exceeded the time limit; a `BaseException`, so that no check catches it."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `HangError` in the main thread after the time limit."""

    def stop(number: int, frame: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def run(seed: int, cases: int = CASES) -> Counter[str]:
    """Check every kind of input, and return the number of cases of each."""
    counts: Counter[str] = Counter()
    for kind, fuzz in FUZZED.items():
        counts += _run_kind(kind, fuzz, seed, cases)
    return counts


def _run_kind(kind: str, fuzz: Fuzz, seed: int, cases: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzz.inputs)
    def tried(case: Any) -> None:
        counts[kind] += 1
        with time_limit():
            fuzz.check(case)

    try:
        tried()
    except (Exception, HangError):  # noqa: BLE001 - counted as wrong
        traceback.print_exc()
        counts[f"WRONG {kind}"] += 1
    return counts
