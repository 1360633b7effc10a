"""The progress bar fits into a terminal and shows the speed of this process."""

from __future__ import annotations

import pytest

from arraystore.writing import progress
from arraystore.writing.progress import meter

IMAGENET = 1_281_167, 147_897_477_120


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line, which is drawn outside of a terminal."""
    (only,) = capsys.readouterr().err.splitlines()
    return only


@pytest.mark.parametrize(
    ("split", "begins"),
    [
        ("validation", "validation: copying images ━"),
        ("a_long_name_of_mine", "a_long_name_of_mine: copyin… ━"),
    ],
)
def test_bar_fits_into_80_columns(
    split: str,
    begins: str,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with meter(show=True) as shown:
        shown.start(f"{split}: copying images", *IMAGENET)
        clock.now = 100.0
        shown.advance(1_281_000, 147_800_000_000)
    drawn = line(capsys)
    assert len(drawn) <= 80
    assert begins in drawn
    assert " 99% 147.8/147.9 GB 1,478 MB/s " in drawn
    assert drawn.rstrip().endswith("-:--:--")  # rich knows no speed after a single step


@pytest.mark.parametrize("columns", ["50", "60", "80", "200"])
def test_short_line_keeps_numbers(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with meter(show=True) as shown:
        shown.start("validation: probing images", IMAGENET[0])
        shown.advance(1_281_000)
    assert " 99% 1,281,000/1,281,167 images " in line(capsys)


def test_speed_excludes_work_done_before(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with meter(show=True) as shown:
        shown.start("train: copying images", 10, 8_000_000, done=(5, 4_000_000))
        clock.now = 0.5
        shown.advance(1, 1_000_000)
    assert " 62% 5.0/8.0 MB 2 MB/s " in line(capsys)


def test_work_done_before_is_shown_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with meter(show=True) as shown:
        shown.start("train: copying images", 10, done=(5, 0))
    assert " 50% 5/10 images " in line(capsys)


def test_remaining_time_excludes_work_done_before(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.monotonic", lambda: clock.now)
    with meter(show=True) as shown:
        shown.start("train: copying images", 100, 100_000_000, done=(50, 50_000_000))
        for clock.now in (1.0, 2.0, 3.0):
            shown.advance(1, 1_000_000)
    assert line(capsys).rstrip().endswith(" 53% 53.0/100.0 MB 1 MB/s 0:00:47")
