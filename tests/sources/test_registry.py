"""Sources by name: their options, and reports of what they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import arraystore
from arraystore import SourceError
from arraystore.cli.commands import main

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives


def test_missing_archive_raises_before_the_list_is_searched(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2012_img_val"):
        arraystore.convert("imagenet2012_subset/1pct", tmp_path / "a.h5", manual_dir=tmp_path)


@pytest.mark.parametrize(
    ("dataset", "option"),
    [("imagenet2012", "subset_list"), ("folder:.", "subset_list"), ("folder:.", "manual_dir")],
)
def test_option_of_another_source_raises(dataset: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"does not take {option}"):
        arraystore.convert(dataset, tmp_path / "a.h5", **{option: tmp_path})  # type: ignore[arg-type] # chosen by name


def test_report_names_missing_archives_and_images(
    drawn: DrawnArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--manual-dir", str(drawn.folder), "--partial"]
    assert main(["convert", "imagenet2012:5.1.0", str(tmp_path / "a.h5"), *options]) == 0
    printed = capsys.readouterr().out
    assert "ILSVRC2012_img_test.tar not found; its split is left out" in printed
    assert "ILSVRC2012_img_val.tar: 20 images found, expected 50,000" in printed
