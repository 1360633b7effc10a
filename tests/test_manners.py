"""What a careful program does not do to those who use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import pytest
import zarr
from PIL import Image

import arraystore
from arraystore import FormatError, SourceError, StorageError
from arraystore.cli.commands import main
from arraystore.writing.workspace import workspace
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from arraystore.cli.synthetic_archives import DrawnArchives

OLD = b"\x89HDF, and what the old store held"


def test_demo_leaves_a_folder_alone_that_is_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, {"demo.zarr/zarr.json": b"{}"})
    assert main(["demo", str(tmp_path)]) == 1
    assert "neither empty nor an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["demo.zarr", "zarr.json"]


@pytest.mark.parametrize("kind", ["a link", "a folder"])
def test_what_has_the_name_of_the_work_folder_is_not_emptied(kind: str, tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "theirs", {"precious": b"1"})
    work = tmp_path / ".a.h5.partial"
    work.symlink_to(theirs) if kind == "a link" else theirs.rename(work)
    with (
        pytest.raises(StorageError, match="files that arraystore did not create"),
        workspace(tmp_path / "a.h5"),
    ):
        pass
    assert (work / "precious").read_bytes() == b"1"


def test_an_old_store_is_kept_when_somebody_takes_its_name_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_folder(tmp_path / "a.h5", {"zarr.json": OLD})

    def taken(self: Path, source: Path) -> None:
        self.write_bytes(b"theirs")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr("arraystore.writing.workspace.exchange", lambda *_: False)
    monkeypatch.setattr(Path, "hardlink_to", taken)
    with workspace(target, overwrite=True) as work:
        work.store.write_bytes(b"new")
        with pytest.raises(FileExistsError) as told:
            work.publish()
    kept = tmp_path / "a.replaced-1.h5"
    assert str(kept) in told.value.__notes__[0]
    assert (kept / "zarr.json").read_bytes() == OLD
    assert target.read_bytes() == b"theirs"


def test_more_images_than_files_may_be_open_are_converted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {f"a/{i}.jpg": picture(seed=i) for i in range(200)})
    code = (
        "import resource, sys, arraystore\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "arraystore.convert(f'folder:{sys.argv[1]}', sys.argv[2], sync=False)\n"
    )
    target = tmp_path / "out.h5"
    subprocess.run([sys.executable, "-c", code, str(folder), str(target)], check=True)
    assert len(arraystore.open(target)["train"]) == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_conversion_keeps_no_file_open_that_is_deleted(
    suffix: str, drawn: DrawnArchives, tmp_path: Path
) -> None:
    arraystore.convert(
        "imagenet2012", tmp_path / f"a{suffix}", manual_dir=drawn.folder, partial=True
    )
    links = list(Path("/proc/self/fd").iterdir())
    held = [str(link.readlink()) for link in links if link.is_symlink()]
    assert not [path for path in held if str(tmp_path) in path]


def test_a_missing_archive_is_told_before_a_list_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2012_img_val"):
        arraystore.convert("imagenet2012_subset/1pct", tmp_path / "a.h5", manual_dir=tmp_path)


def test_a_list_of_ones_own_is_not_called_the_published_one(store: arraystore.Store) -> None:
    assert "SimCLR" not in store.info.description
    assert "the 30 that 1percent.txt lists" in store.info.description


@pytest.mark.parametrize(
    ("dataset", "option"),
    [("imagenet2012", "subset_list"), ("folder:.", "subset_list"), ("folder:.", "manual_dir")],
)
def test_an_option_without_a_meaning_is_refused(dataset: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"does not take {option}"):
        arraystore.convert(dataset, tmp_path / "a.h5", **{option: tmp_path})  # type: ignore[arg-type] # chosen by name


def test_a_pipe_is_no_store_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(FormatError, match="neither a folder nor a file"):
        arraystore.open(tmp_path / "a.h5")


def test_an_iteration_goes_on_in_a_forked_child(path: Path) -> None:
    code = (
        "import os, signal, sys, warnings, arraystore\n"
        "warnings.simplefilter('ignore')  # that a process with threads is forked\n"
        "split = arraystore.open(sys.argv[1])['train']\n"
        "arraystore.dataset.sample_reader._READ_AHEAD = 4\n"
        "samples = iter(split)\n"
        "first = [next(samples).file_name for _ in range(3)]\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    signal.alarm(60)\n"
        "    rest = [sample.file_name for sample in samples]\n"
        "    os._exit(0 if first + rest == split.file_name.tolist() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


def test_a_store_is_equal_to_itself_alone_and_serves_as_a_context(path: Path) -> None:
    with arraystore.open(path) as one, arraystore.open(path) as other:
        assert one == one
        assert one != other
        assert len({one, other}) == 2


def test_a_part_of_a_joined_split_is_read_without_joining_its_columns_again(
    store: arraystore.Store,
) -> None:
    joined = store["train+validation"]
    assert joined.label is joined.label


def test_views_of_images_say_what_they_are(train: arraystore.Split) -> None:
    assert repr(train.image).startswith("<image of <Split 'train' of ")
    assert repr(train.resized(32)).startswith("<resized((32, 32)) of ")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("label", [-2, 1])
def test_a_label_that_is_no_class_is_told_with_its_place(
    label: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "in", {"a/1.jpg": picture(), "a/2.jpg": picture(seed=1)})
    target = tmp_path / f"out{suffix}"
    arraystore.convert(f"folder:{folder}", target)
    if suffix == ".zarr":
        zarr.open_array(target / "train" / "label")[1] = label
    else:
        with h5py.File(target, "a") as file:
            file["train/label"][1] = label
    message = rf"train/label: must be -1 or in range\(1\), got {label} at 1"
    with pytest.raises(FormatError, match=message):
        _ = arraystore.open(target)["train"].label


def test_what_is_missing_is_named_in_the_report_and_in_its_notes(
    drawn: DrawnArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--manual-dir", str(drawn.folder), "--partial"]
    assert main(["convert", "imagenet2012:5.1.0", str(tmp_path / "a.h5"), *options]) == 0
    printed = capsys.readouterr().out
    assert "ILSVRC2012_img_test.tar not found; its split is left out" in printed
    assert "ILSVRC2012_img_val.tar: 20 images found, expected 50,000" in printed


def test_a_list_that_is_none_is_refused_even_of_a_partial_source(
    drawn: DrawnArchives, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("import os\n")
    with pytest.raises(SourceError, match=r"none of the 1 name .*; pass another subset_list"):
        arraystore.convert(
            "imagenet2012_subset/1pct",
            tmp_path / "a.h5",
            manual_dir=drawn.folder,
            subset_list=tmp_path / "list.txt",
            partial=True,
        )


def test_a_picture_that_cannot_be_decoded_does_not_spoil_the_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = picture(64, 64)
    folder = write_folder(tmp_path / "in", {"a/1.jpg": whole, "a/2.jpg": whole[: len(whole) // 2]})
    arraystore.convert(f"folder:{folder}", tmp_path / "a.zarr", order="source")
    sheet = tmp_path / "sheet.png"
    assert main(["show", str(tmp_path / "a.zarr"), "-o", str(sheet), "--size", "32"]) == 0
    with Image.open(sheet) as drawn_sheet:
        assert drawn_sheet.getpixel((8 + 32 + 8 + 20, 8 + 4)) == (200, 200, 200)


def test_per_label_shows_every_class_and_the_output_must_be_a_png(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(path)
    sheet = str(tmp_path / "sheet.png")
    assert main(["show", store, "validation+train+train+train", "--size", "16", "-o", sheet]) == 0
    assert "64 of 110 samples" in capsys.readouterr().out
    assert main(["show", store, "--per-label", "5", "--size", "16", "-o", sheet]) == 0
    assert "30 of 30 samples" in capsys.readouterr().out
    assert main(["show", store, "-o", str(tmp_path / "sheet.jpg")]) == 2
    assert "must end in .png" in capsys.readouterr().err


def test_the_module_is_the_command(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "arraystore", "ls", str(path), "--limit", "1"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"1 of 30 samples of train" in done.stdout
