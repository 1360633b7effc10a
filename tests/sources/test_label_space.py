"""Sources whose classes are those of ImageNet get its labels, words and hierarchy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from arraystore.sources.imagenet2012_tables import hierarchy, wnids, words
from arraystore.sources.label_space import in_label_space
from arraystore.sources.registry import load_source
from arraystore.sources.source_options import SourceOptions
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def photos(folder: Path, classes: Sequence[str]) -> Path:
    """A folder with one picture of each class."""
    return write_folder(
        folder, {f"train/{name}/{k}.jpg": picture(seed=k) for k, name in enumerate(classes)}
    )


@every_suffix
def test_classes_named_by_wordnet_ids_get_the_labels_of_imagenet(
    suffix: str, tmp_path: Path
) -> None:
    labels = [999, 2, 151]
    root = photos(tmp_path / "few", [wnids()[k] for k in labels])
    report = arraystore.convert(f"folder:{root}", tmp_path / f"a{suffix}", sync=False)
    store = arraystore.open(tmp_path / f"a{suffix}")
    found = dict(zip(store["train"].file_name.tolist(), store["train"].label.tolist(), strict=True))
    assert found == {f"{wnids()[k]}/{i}.jpg": k for i, k in enumerate(labels)}
    assert (store.label_names, store.label_words) == (wnids(), words())
    assert store["train"].where(is_a="dog").file_name.tolist() == [f"{wnids()[151]}/2.jpg"]
    (note,) = report.notes
    assert note == (
        "the 3 classes are of ImageNet 2012: labels are in its 1000 classes; label_space='own' "
        "(--label-space own) keeps them apart"
    )
    assert arraystore.verify(tmp_path / f"a{suffix}", source=f"folder:{root}").problems == ()


@every_suffix
def test_own_label_space_keeps_the_classes(suffix: str, tmp_path: Path) -> None:
    root = photos(tmp_path / "few", [wnids()[999], wnids()[2]])
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(f"folder:{root}", target, label_space="own", sync=False)
    store = arraystore.open(target)
    assert store.label_names == (wnids()[2], wnids()[999])
    assert (store.info.format_version, report.notes) == ("1.0", ())
    assert arraystore.verify(target, source=f"folder:{root}").problems == ()


def test_one_other_class_keeps_the_classes(tmp_path: Path) -> None:
    root = photos(tmp_path / "few", [wnids()[0], "n99999999"])
    source = in_label_space(load_source(f"folder:{root}"), "auto")
    assert source.label_name == (wnids()[0], "n99999999")
    assert (source.hierarchy, source.notes) == (None, ())


def test_numbers_are_labels_of_imagenet_only_where_that_is_stated(tmp_path: Path) -> None:
    root = photos(tmp_path / "v2", ["0", "2", "10", "999"])
    own = load_source(f"folder:{root}")
    assert in_label_space(own, "auto").label_name == ("0", "10", "2", "999")
    source = in_label_space(own, "imagenet2012")
    table = source.splits["train"]
    assert dict(zip(table.file_name, table.label.tolist(), strict=True)) == {
        "0/0.jpg": 0,
        "2/1.jpg": 2,
        "10/2.jpg": 10,
        "999/3.jpg": 999,
    }


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (["cat", "n01440764"], "1 name (cat)"),
        (["0", "1000"], "2 names (0, 1000)"),
        (["0", "00"], "2 names (0, 00)"),
        (["n01440764", "5"], "1 name (5)"),
    ],
)
def test_stated_label_space_refuses_other_classes(
    classes: list[str], named: str, tmp_path: Path
) -> None:
    root = photos(tmp_path / "few", classes)
    message = (
        "few: classes must be WordNet ids of ImageNet 2012, such as n01440764, or its labels 0 to "
        f"999, got {named}; leave label_space (--label-space) out to keep them as they are"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        in_label_space(load_source(f"folder:{root}"), "imagenet2012")


def test_hierarchy_that_is_stated_is_kept(tmp_path: Path) -> None:
    root = photos(tmp_path / "few", [wnids()[5], wnids()[2]])
    table = tmp_path / "classes.tsv"
    table.write_text(f"name\tparent\n{wnids()[2]}\tfish\n{wnids()[5]}\tfish\n")
    own = load_source(f"folder:{root}", options=SourceOptions(classes=table))
    assert in_label_space(own, "auto") is own
    assert own.hierarchy is not None
    assert own.hierarchy.names == ("fish",)
    stated = in_label_space(own, "imagenet2012")
    assert (stated.label_name, stated.hierarchy) == (wnids(), hierarchy())
    assert in_label_space(stated, "imagenet2012") is stated


def test_unknown_label_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label_space must be one of auto, imagenet2012, own"):
        arraystore.convert("folder:x", tmp_path / "a.zarr", label_space="cifar10")


def test_archives_of_imagenet_have_no_other_label_space(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="imagenet2012: does not take label_space='own'"):
        arraystore.convert("imagenet2012", tmp_path / "a.zarr", label_space="own")


def test_complete_store_of_another_label_space_is_not_resumed(tmp_path: Path) -> None:
    root, target = photos(tmp_path / "few", [wnids()[5]]), tmp_path / "a.zarr"
    arraystore.convert(f"folder:{root}", target)
    assert arraystore.convert(f"folder:{root}", target, resume=True).was_complete
    with pytest.raises(ValueError, match="label_space"):
        arraystore.convert(f"folder:{root}", target, resume=True, label_space="own")


def test_command_states_the_label_space(tmp_path: Path) -> None:
    root, target = photos(tmp_path / "v2", ["7"]), tmp_path / "a.zarr"
    assert main(["convert", f"folder:{root}", str(target), "--label-space", "imagenet2012"]) == 0
    assert arraystore.open(target)["train"].label.tolist() == [7]
