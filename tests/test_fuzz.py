"""A few cases of each part of `make soak`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arraystore.reading.stored_split import StoredSplit
from scripts import soak
from tests.soak import changing, damage, faults, hostile_hdf5, iterators, overwriting
from tests.soak.fuzz import FUZZED
from tests.soak.iterators_child import WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXAMPLES = 10


@pytest.mark.parametrize("kind", FUZZED)
def test_hostile_input_is_read_or_refused(kind: str) -> None:
    @settings(
        deadline=None,
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,  # make soak tries other cases
    )
    @given(st.data())
    def fuzzed(data: st.DataObject) -> None:
        case: Any = data.draw(FUZZED[kind].inputs)
        FUZZED[kind].check(case)

    fuzzed()


@pytest.mark.parametrize(
    ("part", "n"),
    [(hostile_hdf5.run, 5), (damage.run, 5), (faults.run, 5), (changing.run, 2)],
    ids=lambda value: getattr(value, "__module__", str(value)),
)
def test_damage_gives_right_data_or_a_documented_error(
    part: Callable[..., Counter[str]], n: int
) -> None:
    counts = part(7, n)
    assert counts.total() >= n
    assert not [what for what in counts if "WRONG" in what]


def test_overwriting_gives_readers_right_data_or_an_error() -> None:
    counts = overwriting.run(7, 20, n_processes=1)
    assert counts["reads"] >= 20
    assert counts["right"]
    assert not [what for what in counts if "WRONG" in what]


def test_soak_reports_wrong_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["soak", "--rounds", "1"])
    monkeypatch.setattr(soak, "PARTS", {"faults": lambda seed: faults.run(seed, 20)})
    monkeypatch.setattr(StoredSplit, "check", lambda *_: None)
    assert soak.main() == 1
    assert "wrong results: 0" not in capsys.readouterr().out


def test_soak_adds_up_its_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["soak", "--rounds", "3"])
    monkeypatch.setattr(
        soak, "PARTS", {"kills": lambda seed: Counter({"by day": seed, "by night": 1})}
    )
    assert soak.main() == 0
    words = capsys.readouterr().out.split()
    assert words == ["kills", "by", "day", "3", "by", "night", "3", "wrong", "results:", "0"]


ALONE = ("interrupt", "exit")
"""Ways to abandon iterators that need a process of their own; the others share one."""


@pytest.mark.parametrize("ways", [[way for way in WAYS if way not in ALONE], *zip(ALONE)])
def test_abandoned_iterators_leave_no_thread(ways: Sequence[str]) -> None:
    counts = iterators.abandon(ways, 7, 4)
    for way in ways:
        assert counts[f"{way}: iterators abandoned"] == 4
    assert not [what for what in counts if "WRONG" in what]


CHILD = """
import os, signal, sys
for name in sys.argv[1:]:
    if "stuck" in name: signal.pause()
    if "crash" in name: os.abort()
    print("wrong: all of it" if "wrong" in name else "read right", flush=True)
"""


def test_child_that_hangs_or_crashes_is_counted() -> None:
    files = [Path(name) for name in ("a", "crash", "wrong", "stuck", "b")]
    counts = hostile_hdf5.in_children(files, limit=0, command=[sys.executable, "-c", CHILD])
    assert counts == {"read right": 2, "stopped at the limit": 1, "crashed": 1, "wrong": 1}
