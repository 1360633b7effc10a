"""Text from stores and callers is printed with escapes, so that no terminal obeys it."""

from __future__ import annotations

import json
import os
import pickle
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

import arraystore
from arraystore.cli.commands import main
from arraystore.cli.contact_sheet import captions, contact_sheet
from arraystore.cli.tables import print_report
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.errors import ArrayStoreError, FormatError, StorageError, escaped, escaped_json
from arraystore.writing.progress import meter
from arraystore.writing.report import ConvertReport, SplitReport
from tests.reading.test_damaged_stores import set_attribute
from tests.support import SUFFIXES, picture, write_folder, write_store

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egpj\u2066\x9b31m\nexit 0\r[bold]:smile:\x7f\u2028é漢"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\u202egpj\u2066\x9b31m\nexit 0\r[bold]:smile:\x7f\u2028é漢"

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(params=SUFFIXES)
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store in which every free text is hostile."""
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


GIVEN = f"\0\ud800{HOSTILE}\udcff"
"""Text that a caller may pass and UTF-8 cannot hold."""

FOLDER = os.fsdecode(f"a{HOSTILE}".encode().replace(b"/", b"") + b"\xff")
"""A name that a folder may have on Linux."""


def hostile_function(sample: arraystore.Sample) -> str:
    return sample.file_name


hostile_function.__qualname__ = GIVEN


@pytest.fixture(params=SUFFIXES)
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store in which all names and texts are hostile, and its path; with others beside it."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, first in ((f"a{request.param}", "a.jpg"), (f"b{request.param}", "b.jpg")):
        path = write_store(
            folder / name,
            [HOSTILE, first],
            [0, 1],
            [picture(), picture(seed=1)],
            classes=[HOSTILE, f"{HOSTILE}2"],
            words=[f"{HOSTILE}, more", f"more, {HOSTILE}3"],
            order="source",
        )
        for text in ("dataset_name", "dataset_config", "dataset_version", "writer", "description"):
            set_attribute(path, "", text, HOSTILE)
        if request.param == ".zarr":  # JSON may contain text that UTF-8 cannot hold
            document = path / "zarr.json"
            text = json.dumps(HOSTILE)[1:-1]
            document.write_text(document.read_text().replace(text, f"{text}\\ud800\\u0000"))
    folder.joinpath(f"{HOSTILE}.json").write_text(json.dumps({"format": HOSTILE}))
    train = arraystore.open(path)["train"]
    saved = train.where(label=0).select([0]).selection()
    replace(saved, made=GIVEN).save(folder / f"{HOSTILE}-b.json")
    return folder / f"a{request.param}"


SHOWN_AS: dict[str, Callable[[arraystore.Store], object]] = {
    "store": lambda store: store,
    "info": lambda store: store.info,
    "split info": lambda store: store.info.splits,
    "split": lambda store: store[" train\n"],
    "where": lambda store: store["train"].where(label=HOSTILE, file_name=HOSTILE),
    "pattern": lambda store: store["train"].where(file_name=f"*{GIVEN}*"),
    "sets": lambda store: store["train"].where(label=HOSTILE) | ~store["train"],
    "parts": lambda store: store["train"].where(label=HOSTILE).even_splits(2),
    "selection": lambda store: store["train"].where(label=HOSTILE).selection(),
    "saved": lambda store: SavedSelection.load(beside(store, f"{HOSTILE}-b.json")),
    "saved entries": lambda store: SavedSelection.load(beside(store, f"{HOSTILE}-b.json")).splits,
    "sample": lambda store: store["train"][0],
    "batch": lambda store: store["train"][:],
    "file names": lambda store: store["train"].file_name,
    "images": lambda store: store["train"].where(label=HOSTILE).image,
    "resized": lambda store: store["train"].resized(4),
    "batches": lambda store: store["train"].where(label=HOSTILE).batches(1),
    "episodes": lambda store: store["train"].episodes(1, 1, 0),
    "mapped": lambda store: store["train"].map(hostile_function),
    "plan": lambda store: store["train"].read_plan(),
    "pickled": lambda store: pickle.loads(pickle.dumps(store["train"])),
    "problems": lambda store: arraystore.verify(store.address).problems,
    "problem": lambda store: "".join(map(str, arraystore.verify(store.address).problems)),
    "copy": lambda store: arraystore.copy(store.address, beside(store, f"{HOSTILE}.zarr")),
    "dataset": lambda store: store.dataset and str(_dataset(store, "train").file_name.values),
}
"""Values of a store that can be printed."""

REFUSED: dict[str, Callable[[arraystore.Store], object]] = {
    "open given": lambda _: arraystore.open(GIVEN),
    "open absent": lambda store: arraystore.open(beside(store, f"{HOSTILE}.zarr")),
    "open folder": lambda store: arraystore.open(beside(store, ".")),
    "open file": lambda store: arraystore.open(beside(store, f"{HOSTILE}.json")),
    "open scheme": lambda _: arraystore.open(f"{GIVEN}://{GIVEN}"),
    "open bucket": lambda _: arraystore.open(f"s3://{GIVEN}@{GIVEN}/{GIVEN}"),
    "open query": lambda _: arraystore.open(f"http://h/{GIVEN}?{GIVEN}"),
    "open object": lambda _: arraystore.open(Hostile()),
    "open option": lambda _: arraystore.open("http://h/a", storage_options={GIVEN: GIVEN}),
    "open timeout": lambda _: arraystore.open("http://h/a", storage_options={"timeout": GIVEN}),
    "open seconds": lambda _: arraystore.open("http://h/a", storage_options={"timeout": [GIVEN]}),
    "open retries": lambda _: arraystore.open("http://h/a", storage_options={"max_retries": GIVEN}),
    "open checksum": lambda store: arraystore.open(store.address, checksum=GIVEN),
    "open mmap": lambda store: arraystore.open(store.address, mmap=GIVEN),  # type: ignore[arg-type] # wrong
    "open gap": lambda store: arraystore.open(store.address, max_gap=GIVEN),  # type: ignore[arg-type] # wrong
    "split": lambda store: store[GIVEN],
    "split name": lambda store: store["absent"],
    "split slice": lambda store: store[f"train[{GIVEN}]"],
    "split mixed": lambda store: store["train[\n1\n:\n5%\n]"],
    "split bound": lambda store: store["train[\n99\n:]"],
    "split type": lambda store: store[Hostile()],  # type: ignore[index] # wrong on purpose
    "label": lambda store: store["train"].where(label=GIVEN),
    "label near": lambda store: store["train"].where(label=f"{HOSTILE}4"),
    "label several": lambda store: store["train"].where(label="more"),
    "label type": lambda store: store["train"].where(label=[Hostile()]),  # type: ignore[list-item] # wrong
    "str2int": lambda store: store.str2int(GIVEN),
    "int2str": lambda store: store.int2str(GIVEN),  # type: ignore[arg-type] # wrong on purpose
    "name": lambda store: store["train"].where(file_name=GIVEN.replace("[", "")),
    "name near": lambda store: store["train"].find(f"{HOSTILE}x"),
    "name type": lambda store: store["train"].where(file_name=Hostile()),  # type: ignore[arg-type] # wrong
    "name elsewhere": lambda store: store["train"].where(label=HOSTILE).find("a.jpg"),
    "find": lambda store: store["train"].find(GIVEN),
    "in": lambda store: Hostile() in store["train"],
    "position": lambda store: store["train"][GIVEN],  # type: ignore[index] # wrong on purpose
    "positions": lambda store: store["train"].image_bytes[[GIVEN]],  # type: ignore[list-item] # wrong
    "objects": lambda store: store["train"].select([Hostile()]),  # type: ignore[list-item] # wrong
    "size": lambda store: store["train"].resized(GIVEN),  # type: ignore[arg-type] # wrong on purpose
    "select": lambda store: store["train"].select(GIVEN),
    "select absent": lambda store: store["train"].select(f"{GIVEN}.json"),
    "select file": lambda store: store["train"].select(beside(store, f"{HOSTILE}.json")),
    "select other": lambda store: store["train"].select(beside(store, f"{HOSTILE}-b.json")),
    "save": lambda store: store["train"].selection().save(GIVEN),
    "save over": lambda store: store["train"].selection().save(beside(store, f"{HOSTILE}.json")),
    "sample": lambda store: store["train"].where(label=HOSTILE).sample(99),
    "per_label": lambda store: store["train"].where(label=HOSTILE).per_label(9),
    "episodes": lambda store: store["train"].where(label=HOSTILE).episodes(9, 1, 1),
    "shuffle": lambda store: store["train"].batches(1, shuffle=GIVEN),
    "sets": lambda store: store["train"] & other(store)["train"],
    "joined": lambda store: (store["train"].where(label=HOSTILE).positions, store["absent"]),
    "replaced": lambda store: replaced(store),
    "convert": lambda _: arraystore.convert(GIVEN, "a.zarr"),
    "convert folder": lambda store: arraystore.convert(
        f"folder:{beside(store, HOSTILE)}", beside(store, "c.h5")
    ),
    "convert order": lambda _: arraystore.convert("folder:.", "a.zarr", order=GIVEN),
    "convert suffix": lambda store: arraystore.convert("folder:.", beside(store, HOSTILE)),
    "convert into": lambda store: arraystore.convert(
        f"folder:{beside(store, '.')}", beside(store, "c.h5")
    ),
    "convert over": lambda store: arraystore.convert("folder:.", store.address),
    "convert option": lambda store: arraystore.convert(
        "folder:.", beside(store, "c.h5"), storage_options={GIVEN: GIVEN}
    ),
    "copy onto": lambda store: arraystore.copy(store.address, store.address, overwrite=True),
    "copy over": lambda store: arraystore.copy(store.address, other(store).address),
    "copy into": lambda store: arraystore.copy(beside(store, "."), store.address, overwrite=True),
    "verify": lambda store: arraystore.verify(beside(store, f"{HOSTILE}.zarr")),
    "export": lambda store: arraystore.export(store["train"], beside(store, ".")),
    "sheet": lambda store: contact_sheet(store["train"].where(label=HOSTILE), np.array([], int)),
    "group": lambda store: _dataset(store, GIVEN),
    "array": lambda store: np.array(store["train"]),
}
"""Calls that raise errors which quote given or stored text."""


class Hostile:
    """An object with a hostile repr."""

    def __repr__(self) -> str:
        return GIVEN


def beside(store: arraystore.Store, name: str) -> Path:
    return Path(store.address).parent / name


def other(store: arraystore.Store) -> arraystore.Store:
    return arraystore.open(beside(store, f"b{Path(store.address).suffix}"))


def replaced(store: arraystore.Store) -> object:
    data = pickle.dumps(store["train"])
    here, there = Path(store.address), Path(other(store).address)
    here.rename(beside(store, "kept"))
    there.rename(here)
    try:
        return pickle.loads(data).label
    finally:
        here.rename(there)
        beside(store, "kept").rename(here)


def _dataset(store: arraystore.Store, group: str) -> xarray.Dataset:
    return xarray.open_dataset(store.address, engine="arraystore", group=group)


def texts_of(error: BaseException) -> list[str]:
    """Return all texts that may be printed of an error."""
    own = () if isinstance(error, ArrayStoreError) else error.args
    notes: list[str] = getattr(error, "__notes__", [])
    shown = [str(error), repr(error), *traceback.format_exception_only(error)]
    return [*shown, *notes, *(value for value in own if isinstance(value, str))]


def is_harmless(text: str) -> bool:
    return text.replace("\n", "").isprintable() and len(text.encode()) >= len(text)


def test_repr_is_harmless(everywhere: Path) -> None:
    store = arraystore.open(everywhere)
    shown = {name: show(store) for name, show in SHOWN_AS.items()}
    texts = [(name, text) for name, value in shown.items() for text in (repr(value), str(value))]
    assert not [(name, text) for name, text in texts if not is_harmless(text)]


def test_error_messages_are_harmless(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(everywhere.parent)
    store = arraystore.open(everywhere)
    errors = {}
    for name, refused in REFUSED.items():
        with pytest.raises((ArrayStoreError, OSError, TypeError, ValueError, LookupError)) as found:
            pytest.fail(f"{name}: {refused(store)!r}")
        errors[name] = found.value
    texts = [(name, text) for name, error in errors.items() for text in texts_of(error)]
    assert not [(name, text) for name, text in texts if not is_harmless(text)]


def test_copy_refuses_text_that_hdf5_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_store(tmp_path / "a.zarr", ["a"], [0], [picture()], classes=["x"])
    document = store / "zarr.json"
    document.write_text(document.read_text().replace('"columns"', '"\\ud800"'))
    target = tmp_path / "a.h5"
    assert main(["copy", str(store), str(target)]) == 1
    assert "/@dataset_name: has a lone surrogate, which no text" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_warning_of_a_newer_format_is_harmless(everywhere: Path) -> None:
    set_attribute(everywhere, "", "format_version", "1.9")
    with pytest.warns(UserWarning, match="has format version 1.9") as found:
        arraystore.open(everywhere)
    assert_harmless(*(str(warning.message) for warning in found))


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
def test_printed_text_moves_no_cursor(
    hostile: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    main([command, str(hostile), *options])
    said = capfd.readouterr()
    assert said.out or said.err
    assert_harmless(said.out, said.err)


def test_ls_escapes_only_control_characters(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(hostile)]) == 0
    out = capsys.readouterr().out
    assert SHOWN in out
    assert len(out.splitlines()) == 6  # nothing, a title, a rule, a row a sample, nothing


def test_json_is_what_is_stored(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(hostile), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["file_name"] for row in rows} == {HOSTILE, "ok.jpg"}


@every_suffix
def test_copy_keeps_and_escapes_hostile_names(
    hostile: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"b{suffix}"
    assert main(["copy", str(hostile), str(target)]) == 0
    said = capsys.readouterr()
    assert_harmless(said.out, said.err)
    assert HOSTILE in arraystore.open(target)["train"]


def test_convert_escapes_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"{HOSTILE}/1.jpg": picture(), f"a/{HOSTILE}.jpg": b"none", f"a/{HOSTILE}": b""}
    folder = write_folder(tmp_path / "in", files)
    command = ["convert", f"folder:{folder}", str(tmp_path / "a.zarr")]
    assert main(command) == 1
    assert main([*command, "--on-error", "skip", "--progress"]) == 0
    said = capsys.readouterr()
    assert_harmless(said.out, said.err)
    assert f"{SHOWN}.jpg: is not an image" in said.out


def test_report_is_printed_with_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = SplitReport(1, 1, HOSTILE, ((HOSTILE, HOSTILE),), (HOSTILE,))
    print_report(ConvertReport(HOSTILE, HOSTILE, {HOSTILE: split}, True, (HOSTILE,), 1.0))
    assert_harmless(capsys.readouterr().out)


def test_progress_bar_escapes_messages(capsys: pytest.CaptureFixture[str]) -> None:
    with meter(show=True) as shown:
        shown.status("[/]" + HOSTILE)
        shown.start("[/]" + HOSTILE, 10, 10)
    assert_harmless(capsys.readouterr().err)


def test_captions_are_one_line(hostile: Path, tmp_path: Path) -> None:
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
def test_escaped_text_is_printable(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)
    assert json.loads(escaped_json(json.dumps(text, ensure_ascii=False))) == text
    assert escaped_json(json.dumps(text, ensure_ascii=False)).isprintable()
