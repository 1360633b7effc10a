"""What strangers wrote is shown, and never obeyed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import arraystore
from arraystore.cli import main
from arraystore.errors import ArrayStoreError, FormatError, StorageError, escaped, escaped_json
from arraystore.progress import meter
from arraystore.report import ConvertReport, SplitReport
from arraystore.show import captions, contact_sheet
from arraystore.tables import print_report
from tests.support import SUFFIXES, picture, write_folder, write_store
from tests.test_damaged_stores import set_attribute

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egpj\u2066\x9b31m\nexit 0\r[bold]:smile:\x7f\u2028é漢"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\u202egpj\u2066\x9b31m\nexit 0\r[bold]:smile:\x7f\u2028é漢"

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(params=SUFFIXES)
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store in which every text that may be anything is hostile."""
    path = write_store(
        tmp_path / f"a{request.param}",
        [HOSTILE, "ok.jpg"],
        [0, -1],
        [picture(), picture(seed=1)],
        classes=[HOSTILE],
        words=[f"{HOSTILE}, more"],
    )
    for name in ("dataset_name", "dataset_config", "description", "homepage", "citation", "writer"):
        set_attribute(path, "", name, HOSTILE)
    set_attribute(path, "", "sources", json.dumps([{"name": HOSTILE, "nbytes": 1}]))
    set_attribute(path, "", "skipped", json.dumps([{"file_name": HOSTILE}]))
    set_attribute(path, "", "reencoded", json.dumps([HOSTILE]))
    set_attribute(path, "train", "order", HOSTILE)
    set_attribute(path, "train", "content_digest", HOSTILE)
    return path


def assert_harmless(*texts: str) -> None:
    for text in texts:
        assert text.replace("\n", "").isprintable(), text


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "--json"],
        ["ls"],
        ["ls", "--json"],
        ["ls", "--explain"],
        ["ls", "--label", HOSTILE],
        ["ls", "--label", "nothing"],
        ["ls", "--file-name", f"{HOSTILE}x"],
        ["ls", "--per-label", "5"],
        ["ls", HOSTILE],
        ["ls", "--no-such-option=" + HOSTILE],
        ["show", "-o", HOSTILE],
    ],
)
def test_nothing_that_is_printed_moves_a_cursor(
    hostile: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    main([command, str(hostile), *options])
    said = capfd.readouterr()
    assert said.out or said.err
    assert_harmless(said.out, said.err)


def test_names_are_shown_with_escapes_and_letters_as_they_are(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(hostile)]) == 0
    out = capsys.readouterr().out
    assert SHOWN in out
    assert len(out.splitlines()) == 6  # nothing, a title, a rule, a row a sample, nothing


def test_json_means_what_is_stored(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(hostile), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["file_name"] for row in rows} == {HOSTILE, "ok.jpg"}


@every_suffix
def test_a_copy_tells_hostile_names_with_escapes_and_keeps_them(
    hostile: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"b{suffix}"
    assert main(["copy", str(hostile), str(target)]) == 0
    said = capsys.readouterr()
    assert_harmless(said.out, said.err)
    assert HOSTILE in arraystore.open(target)["train"]


def test_a_conversion_reports_hostile_names_with_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{HOSTILE}/1.jpg": picture(), f"a/{HOSTILE}.jpg": b"none", f"a/{HOSTILE}": b""}
    folder = write_folder(tmp_path / "in", files)
    command = ["convert", f"folder:{folder}", str(tmp_path / "a.zarr")]
    assert main(command) == 1
    assert main([*command, "--on-error", "skip", "--progress"]) == 0
    said = capsys.readouterr()
    assert_harmless(said.out, said.err)
    assert f"{SHOWN}.jpg: is not an image" in said.out


def test_a_report_with_anything_in_it_is_printed_with_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = SplitReport(1, 1, HOSTILE, ((HOSTILE, HOSTILE),), (HOSTILE,))
    print_report(ConvertReport(HOSTILE, HOSTILE, {HOSTILE: split}, True, (HOSTILE,), 1.0))
    assert_harmless(capsys.readouterr().out)


def test_a_bar_shows_messages_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with meter(show=True) as shown:
        shown.status("[/]" + HOSTILE)
        shown.start("[/]" + HOSTILE, 10, 10)
    assert_harmless(capsys.readouterr().err)


def test_captions_are_one_line_of_letters_however_long(hostile: Path, tmp_path: Path) -> None:
    train = arraystore.open(hostile)["train"]
    assert set(captions(train, train.positions)) == {SHOWN, "no label"}
    assert contact_sheet(train, train.positions).width
    endless = write_store(tmp_path / "b.h5", ["a"], [0], [picture()], classes=["x" * 50_000])
    assert contact_sheet(arraystore.open(endless)["train"], train.positions[:1]).width


@pytest.mark.parametrize("kind", [ArrayStoreError, FormatError, StorageError])
def test_errors_are_harmless_as_text(kind: type[ArrayStoreError]) -> None:
    assert str(kind(f"a.zarr: {HOSTILE}")) == f"a.zarr: {SHOWN}"
    assert kind(HOSTILE).args == (HOSTILE,)


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_is_left_alone(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)
    assert json.loads(escaped_json(json.dumps(text, ensure_ascii=False))) == text
    assert escaped_json(json.dumps(text, ensure_ascii=False)).isprintable()
