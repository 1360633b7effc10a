"""Images exported as files in folders, and only below their folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from arraystore import FormatError
from arraystore.cli.commands import main
from tests.reading.test_damaged_stores import rewrite_column
from tests.support import SUFFIXES, picture, write_folder, write_store

if TYPE_CHECKING:
    from pathlib import Path


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_export_writes_a_file_for_each_image(train: arraystore.Split, tmp_path: Path) -> None:
    assert arraystore.export(train, tmp_path / "out").num_samples == 30
    assert files_below(tmp_path / "out") == {
        f"{name.split('_')[0]}/{name}": data
        for name, data in zip(train.file_name.tolist(), train.image_bytes[:], strict=True)
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_export_restores_a_converted_folder(suffix: str, tmp_path: Path) -> None:
    files = {f"{c}/{i}.jpg": picture(seed=i) for c in ("cat", "dog") for i in range(3)}
    source = write_folder(tmp_path / "in", files)
    arraystore.convert(f"folder:{source}", tmp_path / f"a{suffix}")
    arraystore.export(arraystore.open(tmp_path / f"a{suffix}")["train"], tmp_path / "out")
    assert files_below(tmp_path / "out") == files


def test_export_of_joined_splits_has_a_folder_for_each(
    store: arraystore.Store, tmp_path: Path
) -> None:
    joined = store["train[:2]+validation[:3]"]
    arraystore.export(joined, tmp_path / "out")
    names = files_below(tmp_path / "out")
    assert sorted(name.split("/")[0] for name in names) == ["train"] * 2 + ["validation"] * 3
    assert sorted(name.split("/")[2] for name in names) == sorted(joined.file_name.tolist())


def test_export_writes_repeated_sample_once(train: arraystore.Split, tmp_path: Path) -> None:
    assert arraystore.export(train.select([1, 2, 1]), tmp_path / "out").num_samples == 2


def test_export_of_unlabelled_images_has_a_folder(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.h5", ["x.jpg"], [-1], [b"x"], classes=["a"])
    arraystore.export(arraystore.open(path)["train"], tmp_path / "out")
    assert files_below(tmp_path / "out") == {"unlabelled/x.jpg": b"x"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../x", "a"),
        ("b/../../../x", "a"),
        ("/x", "a"),
        ("x/", "a"),
        (".", "a"),
        ("b//c", "a"),
        ("x", ".."),
        ("x", "/tmp"),
        ("x", "b/../.."),
        ("x" * 10_240, "a"),
        ("é" * 128, "a"),
        ("x/" * 1600 + "y", "a"),
        ("x", "y" * 256),
    ],
)
def test_export_refuses_invalid_paths(suffix: str, name: str, folder: str, tmp_path: Path) -> None:
    path = write_store(
        tmp_path / f"a{suffix}", ["ok", name], [0, 0], [b"1", b"2"], classes=[folder]
    )
    before = files_below(tmp_path)
    with pytest.raises(FormatError, match="is not a valid path of a file"):
        arraystore.export(arraystore.open(path)["train"], tmp_path / "out")
    assert files_below(tmp_path) == before


def test_export_refuses_two_images_with_one_path(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.h5", ["a/x", "x"], [0, 0], [b"1", b"2"], classes=["a"])
    with pytest.raises(FormatError, match="two images have the path 'a/x'"):
        arraystore.export(arraystore.open(path)["train"], tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[2J.jpg",
        "a\nb",
        "\u202egpj.exe",
        "..\\..\\x",
        "~",
        "~root/x",
        "-rf",
        "$(reboot)",
        "C:x",
    ],
)
def test_export_of_unusual_name_stays_below_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    path = write_store(tmp_path / "s" / "a.zarr", [name], [0], [b"1"], classes=["a"])
    arraystore.export(arraystore.open(path)["train"], tmp_path / "out")
    assert files_below(tmp_path / "out") == {f"a/{name}": b"1"}
    assert {file.name for file in tmp_path.iterdir()} == {"s", "out"}


@pytest.mark.parametrize("names", [["x", "x/y"], ["x/y/z", "x"], ["a/x", "x/y"]])
def test_export_refuses_path_of_file_and_folder(names: list[str], tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.h5", names, [0, 0], [b"1", b"2"], classes=["a"])
    with pytest.raises(FormatError, match=r"(the path of both a file and a folder|have the path)"):
        arraystore.export(arraystore.open(path)["train"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n_names", [1, 3])
def test_commands_refuse_labels_without_names(
    suffix: str, n_names: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_store(tmp_path / f"a{suffix}", ["x", "y"], [0, 1], [b"1", b"2"], classes="ab")
    rewrite_column(path, "label_name", lambda values: np.resize(values, n_names))
    for command in (["ls"], ["show"], ["export", "-o", str(tmp_path / "out")]):
        assert main([command[0], str(path), *command[1:]]) == 1
        assert f"label_name: must have 2 values, one a class of train, got {n_names}" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()


def test_export_refuses_folder_with_contents(train: arraystore.Split, tmp_path: Path) -> None:
    write_folder(tmp_path, {"out/mine": b"1"})
    for taken in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(FileExistsError, match="is not an empty folder"):
            arraystore.export(train, taken)
    assert files_below(tmp_path / "out") == {"mine": b"1"}


def test_export_command_selects(
    path: Path, train: arraystore.Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "fewshot.json"
    options = ["--per-label", "2", "--seed", "3", "--save-selection", str(saved)]
    assert main(["export", str(path), *options, "-o", str(tmp_path / "out")]) == 0
    assert "12 images of train.per_label(2, seed=3)" in capsys.readouterr().out
    few = train.per_label(2, seed=3)
    names = sorted(name.split("/")[1] for name in files_below(tmp_path / "out"))
    assert names == sorted(few.file_name.tolist())
    assert train.select(saved).file_name.tolist() == few.file_name.tolist()
    assert main(["export", str(path), "-o", str(tmp_path / "out")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
