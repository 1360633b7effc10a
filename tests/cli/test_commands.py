"""The command: its output, the files that it writes, and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import arraystore
from arraystore.cli.commands import main
from arraystore.cli.contact_sheet import captions, contact_sheet
from arraystore.dataset.class_names import ClassNames
from arraystore.writing.local import LocalStoreWriter
from tests.reading.test_damaged_stores import edited
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from arraystore.cli.synthetic_archives import DrawnArchives


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_convert_prints_a_report(
    suffix: str, drawn: DrawnArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"out{suffix}"
    arguments = ["convert", "imagenet2012_subset/1pct", str(target), "--partial"]
    assert main([*arguments, "--manual-dir", str(drawn.folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "imagenet2012_subset/1pct:5.0.0" in printed.out
    assert drawn.cmyk in printed.out
    assert drawn.png in printed.out
    digest = arraystore.open(target).info.splits["train"].content_digest
    assert digest[:12] in printed.out


def test_convert_prints_json(
    drawn: DrawnArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "out.h5")
    options = ["--manual-dir", str(drawn.folder), "--partial", "--no-sync", "--order", "label"]
    assert main(["convert", "imagenet2012_subset", target, *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == target
    assert report["partial"] is True
    assert report["splits"]["train"]["num_samples"] == len(drawn.train)
    assert sorted(report["splits"]["train"]["reencoded"]) == sorted([drawn.cmyk, drawn.png])


def test_convert_prints_skipped_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "photos", {"cat/1.jpg": picture(), "cat/2.jpg": b""})
    target = str(tmp_path / "out.zarr")
    assert main(["convert", f"folder:{folder}", target]) == 1
    assert "cat/2.jpg: is empty (0 bytes)" in capsys.readouterr().err
    assert main(["convert", f"folder:{folder}", target, "--on-error", "skip"]) == 0
    assert "cat/2.jpg: is empty (0 bytes)" in capsys.readouterr().out


def test_append_prints_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_folder(tmp_path / "old", {"cat/1.jpg": picture(), "dog/2.jpg": picture()})
    store = str(tmp_path / "out.zarr")
    arraystore.convert(f"folder:{old}", store, sync=False)
    images = {"cat/1.jpg": picture(), "dog/3.jpg": picture(), "dog/4.jpg": b""}
    new = write_folder(tmp_path / "new", images)
    command = ["append", store, f"folder:{new}", "--split", "train", "--no-sync"]
    assert main(command) == 1
    assert "cat/1.jpg) exist already in train" in capsys.readouterr().err
    options = ["--on-existing", "replace", "--on-error", "skip"]
    assert main([*command, *options]) == 0
    printed = capsys.readouterr().out
    for fact in ("2 samples", "as train.1", "train: 3 samples", "1 sample was replaced"):
        assert fact in printed
    assert "skipped dog/4.jpg: is empty (0 bytes)" in printed
    assert main(["info", store]) == 0
    assert "train: train, train.1" in capsys.readouterr().out
    assert main([*command, "--on-existing", "skip", "--on-error", "skip", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["part"], report["num_existing"], report["num_samples"]) == ("", 2, 3)


def test_info_prints_metadata(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for fact in ("imagenet2012_subset/1pct:5.0.0", "1,000", "train", "validation", "@article"):
        assert fact in printed


def test_info_prints_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["splits"]["train"]["num_samples"] == 30
    assert info["label_names"][1] == "n01443537"
    assert info["citation"] == arraystore.open(path).info.citation


def test_ls_takes_split_strings(
    path: Path, train: arraystore.Split, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(path), "train[3:5]+validation[:1]", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file_name"] for row in rows[:2]] == train.file_name[3:5].tolist()
    assert [row["label"] for row in rows[:2]] == train.label[3:5].tolist()
    assert rows[0]["nbytes"] == len(train.image_bytes[3])
    assert [rows[0]["height"], rows[0]["width"]] == list(train.image[3].shape[:2])
    assert len(rows) == 3


def test_ls_prints_whole_file_names(
    path: Path, train: arraystore.Split, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(path), "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in train.file_name[:2].tolist())
    assert "2 of 30 samples of train" in printed


def listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["ls", *arguments, "--json", "--limit", "999"]) == 0
    return [json.loads(line)["file_name"] for line in capsys.readouterr().out.splitlines()]


def test_ls_options_select_as_methods_do(
    path: Path, train: arraystore.Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [str(path), "train", "--label", "tench", "--label", "n15075141"]
    both = train.where(label=["tench", 999])
    assert listed(where, capsys) == both.file_name.tolist()
    two = [*where, "--file-name", "*_[123].JPEG", "--per-label", "2", "--seed", "5"]
    few = both.where(file_name="*_[123].JPEG").per_label(2, seed=5)
    assert listed(two, capsys) == few.file_name.tolist()
    saved = str(tmp_path / "a.json")
    drawn = [*two, "--sample", "3", "--save-selection", saved]
    assert listed(drawn, capsys) == few.sample(3, seed=5).file_name.tolist()
    assert listed([str(path), "--selection", saved], capsys) == listed(drawn, capsys)


def test_save_selection_overwrites_no_other_file(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "mine.json"
    other.write_text("1")
    for target in (tmp_path / "few.h5", other):
        assert main(["ls", str(path), "--sample", "2", "--save-selection", str(target)]) == 1
        assert target.name in capsys.readouterr().err
    assert other.read_text() == "1"


def test_ls_prints_positions_in_the_stored_split(
    path: Path, train: arraystore.Split, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(path), "train[3:]+validation", "--label", "tench", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mine = [row["position"] for row in rows if row["split"] == "train"]
    assert mine == [i for i in np.flatnonzero(train.label == 0).tolist() if i >= 3]


def test_ls_explain_prints_the_read_plan(
    path: Path, train: arraystore.Split, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ls", str(path), "--label", "tench", "--explain"]
    plan = train.where(label="tench").read_plan()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"samples": 5, **plan._asdict()}
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Reading the encoded images of train.where(label=['tench']) takes" in printed
    assert f"{plan.nbytes:,}" in printed


def test_info_prints_stored_selections(
    drawn: DrawnArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "a.h5")
    options = ["--manual-dir", str(drawn.folder), "--partial", "--no-sync"]
    assert main(["convert", "imagenet2012", target, *options]) == 0
    assert "the selection 10pct is left out: 10percent.txt: cannot be" in capsys.readouterr().out
    assert main(["info", target]) == 0
    assert "1pct (of train)" in capsys.readouterr().out
    assert main(["ls", target, "--selection", "1pc"]) == 1
    assert "has no selection '1pc', it has 1pct" in capsys.readouterr().err


def test_show_draws_samples_of_a_class(
    path: Path, train: arraystore.Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sheet.png"
    options = ["--label", "tench", "--size", "64", "--columns", "3", "-o", str(output)]
    assert main(["show", str(path), "train", *options]) == 0
    assert "5 of 5 samples" in capsys.readouterr().out
    with Image.open(output) as sheet:
        first = sheet.crop((8, 8, 72, 72))
        tench = (train.label == 0).nonzero()[0]
        assert sheet.format == "PNG"
        assert first.tobytes() == train.resized(64)[int(tench[0])].tobytes()


def test_contact_sheet_fits_images_and_captions(
    train: arraystore.Split,
) -> None:
    pairs = train.per_label(2)
    positions = np.arange(12)
    sheet = contact_sheet(pairs, positions, size=50, columns=5)
    assert sheet.width == 5 * 58 + 8
    assert sheet.height > 3 * 58
    assert captions(pairs, positions)[0] == "tench"


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_resumed_conversion_prints_no_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    source = write_folder(tmp_path / "in", {"train/a/0.jpg": picture()})
    assert main(["convert", f"folder:{source}", str(tmp_path / "a.zarr"), *options]) == 0
    assert ("MB/s" in capsys.readouterr().out) is not bool(options)


def test_show_marks_undecodable_image_and_refuses_lost_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [picture(seed=i) for i in range(3)]
    images[1] = images[1][: len(images[1]) // 2]
    source = write_folder(
        tmp_path / "in", {f"train/a/{i}.jpg": data for i, data in enumerate(images)}
    )
    store = tmp_path / "a.zarr"
    arraystore.convert(f"folder:{source}", store, order="source", sync=False)
    command = ["show", str(store), "--size", "40", "-o", str(tmp_path / "a.png")]
    assert main(command) == 0
    with Image.open(tmp_path / "a.png") as sheet:
        cells = [sheet.getpixel((8 + i * 48 + 30, 8 + 5)) for i in range(3)]
    assert [cell == (200, 200, 200) for cell in cells] == [False, True, False]
    capsys.readouterr()
    for lost in ("train/image_crc32c/c/0", "train/image_payload/c/0"):
        (store / lost).rename(tmp_path / "kept")
        assert main(command) == 1
        assert f"{lost}: the chunk is missing" in capsys.readouterr().err
        (tmp_path / "kept").rename(store / lost)


@pytest.mark.parametrize("split", ["validation", "train[:2]+validation[:2]"])
def test_ls_cuts_no_number_in_80_columns(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setattr("arraystore.cli.tables._WIDTH_OF_A_FILE", 80)
    samples = arraystore.open(path)[split]
    assert main(["ls", str(path), split]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    for label, nbytes in zip(samples.label[:4], samples.image_nbytes[:4], strict=False):
        assert re.search(rf" {label} .* {nbytes:,} *\n", printed)


def test_show_refuses_empty_selection(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(path), "--label", "goldfish"]) == 1
    assert "no sample was selected" in capsys.readouterr().err
    assert main(["show", str(path), "--per-label", "-1"]) == 1
    assert "must be 0 or more" in capsys.readouterr().err


def test_class_is_found_by_number_id_and_word(store: arraystore.Store) -> None:
    names, words = store.label_names, store.label_words
    spelled = ["1", "n01443537", "goldfish", "GOLDFISH", "carassius auratus", words[1]]
    assert {ClassNames(names, words).label(text) for text in spelled} == {1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"several classes: 134 n02012849 \(crane\), 517 n03126707 \(crane\)"),
        ("goldfsh", "did you mean goldfish"),
        ("n01443538", "did you mean n01443537"),
        ("1000", r"not in range\(1000\)"),
    ],
)
def test_unknown_class_raises_with_similar_ones(
    text: str, message: str, store: arraystore.Store
) -> None:
    with pytest.raises(KeyError, match=message):
        store.str2int(text)


def test_demo_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["demo", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert "158 of 160 are equal byte for byte" in printed
    with Image.open(tmp_path / "demo" / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing.zarr"], "nothing.zarr: there is nothing here"),
        (["info", "text.txt"], "is not an arraystore store"),
        (["ls", "STORE", "nope"], "there is no split 'nope'; there are train, validation"),
        (["ls", "STORE", "train[:101%]"], "outside the split"),
        (["ls", "STORE", "--selection", "no.json"], "--selection: there is no file no.json"),
        (["ls", "STORE", "--selection", "no/a"], "--selection: there is no file no/a"),
        (["ls", "STORE", "--selection", "text.txt/a"], "--selection: there is no file text.txt/a"),
        (["ls", "STORE", "--selection", "./"], "--selection: there is no file ./"),
        (
            ["ls", "STORE", "--save-selection", "no/a.json"],
            "--save-selection: the folder no does not exist",
        ),
        (
            ["ls", "nothing", "--save-selection", "no/a.json"],
            "--save-selection: the folder no does not exist",
        ),
        (
            ["show", "STORE", "-o", "no/a.png"],
            "--output: the folder no does not exist; create it first",
        ),
        (
            ["show", "STORE", "-o", "text.txt/a.png"],
            "--output: the folder text.txt does not exist; ",
        ),
        (["show", "STORE", "-o", "."], "--output: . is a folder; it must be a file"),
        (["convert", "cifar10", "out.zarr"], "unknown data set 'cifar10'; known are"),
        (["convert", "imagenet2012:4.0.0", "out.zarr"], "2.0.0, 2.0.1, 3.0.0, 5.0.0, 5.1.0"),
        (["convert", "folder:.", "out.zip"], "the suffix chooses the container"),
        (["convert", "folder:.", "s3://b/x"], "s3://b/x: the suffix chooses the container"),
        (["convert", "folder:.", "STORE"], "exists; choose another name"),
        (["convert", "folder:photos", "no/such/out.zarr"], "create it first"),
        (["convert", "folder:.", "out.h5"], "out.h5: lies in "),
    ],
)
def test_failure_is_one_line_and_status_1(
    arguments: list[str],
    message: str,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("nothing of the kind")
    assert main([str(path) if word == "STORE" else word for word in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("arraystore: ")
    assert message in printed.err


def test_interrupt_is_one_line_and_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_folder(tmp_path / "photos", {"cat/1.jpg": picture(), "dog/2.jpg": picture()})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStoreWriter, "sealing", interrupted)
    command = ["convert", f"folder:{photos}", str(tmp_path / "a.zarr")]
    assert main(command) == 130
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith("arraystore: interrupted; ")
    assert (
        ".a.zarr.partial keeps the blocks copied so far; pass resume=True (--resume)" in printed.err
    )
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0


def test_second_interrupt_keeps_notes_of_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted_twice(*_: object, **__: object) -> None:
        try:
            first = KeyboardInterrupt()
            first.add_note("this is left")
            raise first
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(arraystore, "convert", interrupted_twice)
    assert main(["convert", "folder:in", "a.zarr"]) == 130
    assert capsys.readouterr().err == "arraystore: interrupted; this is left\n"


def test_interrupt_signal_ends_process_with_130(path: Path) -> None:
    code = (
        "import signal, sys, arraystore\n"
        "from arraystore.cli.commands import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "arraystore.open = lambda *_, **__: signal.raise_signal(signal.SIGINT)\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "info", str(path)], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"arraystore: interrupted\n")


@pytest.mark.parametrize("arguments", [["nope"], ["ls"], ["convert", "a", "b", "--order", "up"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: arraystore" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["convert", "info", "ls", "show", "export", "demo"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: arraystore" in capsys.readouterr().out


def test_closed_pipe_prints_no_error(path: Path) -> None:
    code = "import sys; from arraystore.cli.commands import main; sys.exit(main())"
    listing = subprocess.Popen(
        [sys.executable, "-c", code, "info", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    listing.stdout.close()
    _, errors = listing.communicate(timeout=60)
    assert errors == b""


@pytest.mark.parametrize("command", [["info"], ["ls"], ["show"], ["export", "-o", "out"]])
def test_commands_pass_storage_options(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def note(store: str, **options: Any) -> None:
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(arraystore, "open", note)
    assert main([*command, "s3://b/x.zarr", "--storage-option", "anon=true"]) == 1
    assert seen["storage_options"] == {"anon": True}


DAMAGE = tuple(f"n{i:08}.tar: expected zeros, but byte {i} begins data" for i in range(1000))


@pytest.mark.parametrize("command", ["convert", "verify"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_long_list_of_damage_is_shortened(
    command: str,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, target = tmp_path / "photos", str(tmp_path / f"out{suffix}")
    write_folder(folder, {"cat/1.jpg": picture()})
    arraystore.convert(f"folder:{folder}", target)
    if command == "verify":  # problems of an image, which come after those of the source
        with edited(Path(target)) as root:
            root["train/image_height"][:] = 5
    module = sys.modules[getattr(arraystore, command).__module__]
    load_source = vars(module)["load_source"]

    def load_damaged(*args: Any, **options: Any) -> Any:
        return replace(load_source(*args, **options), damage=DAMAGE, notes=DAMAGE)

    monkeypatch.setattr(module, "load_source", load_damaged)
    if command == "convert":
        arguments = ["convert", f"folder:{folder}", target, "--overwrite"]
    else:
        arguments = ["verify", target, "--source", str(folder)]
    status = main(arguments)
    printed = capsys.readouterr().out
    assert [line in printed for line in DAMAGE] == [True] * 20 + [False] * 980
    assert "… and 980 more" in printed
    assert "--json lists each" in printed
    assert main([*arguments, "--json"]) == status == (command == "verify")
    report = json.loads(capsys.readouterr().out)
    assert report["notes" if command == "convert" else "source_damage"] == list(DAMAGE)
    if command == "verify":
        assert "image_height is 5" in printed
        assert report["num_problems"] == 1001
