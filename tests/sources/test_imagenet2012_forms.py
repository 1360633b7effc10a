"""ImageNet in every form: the same names, labels and digests as from the official archives."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceError
from arraystore.indexing.layout import blocks
from arraystore.sources.imagenet2012_forms import KINDS, find_forms
from arraystore.sources.registry import load_source
from arraystore.writing import journal, store_writer
from arraystore.writing.fill import fill
from tests.sources.forms import write_tar
from tests.sources.imagenet_forms import (
    CMYK,
    FORMS,
    IMAGES,
    PNG,
    TEST,
    TRAIN,
    VALIDATION,
    archives,
    class_folders,
    draw_form,
    kaggle,
    label_of,
    tfds,
    write_lists,
)
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.writing.fill import Filled, FillTask

CONFIGS = ("imagenet2012:5.1.0", "imagenet2012_subset/1pct:5.1.0", "imagenet2012_subset/10pct")


def digests(dataset: str, folder: Path, target: Path) -> dict[str, Any]:
    """Convert, and return what identifies each split; verify the store with its source."""
    report = arraystore.convert(dataset, target, manual_dir=folder, partial=True, sync=False)
    assert arraystore.verify(target, source=folder).problems == ()
    return {
        name: (split.content_digest, sorted(split.reencoded))
        for name, split in report.splits.items()
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each config has from the archives."""
    folder = draw_form(tmp_path_factory.mktemp("archives"), "archives")
    stores = tmp_path_factory.mktemp("stores")
    return {config: digests(config, folder, stores / f"{i}.h5") for i, config in enumerate(CONFIGS)}


def test_archives_have_what_was_drawn(expected: dict[str, dict[str, Any]]) -> None:
    assert [len(splits) for splits in expected.values()] == [3, 3, 2]
    assert len({splits["train"][0] for splits in expected.values()}) == 3
    assert expected["imagenet2012:5.1.0"]["train"][1] == sorted([CMYK, PNG])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_digests_of_the_archives(
    form: str, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = draw_form(tmp_path / "form", form)
    number = list(FORMS).index(form)
    suffix = SUFFIXES[number % 2]
    for config in (CONFIGS[0], CONFIGS[1 + number % 2]):
        target = tmp_path / f"{CONFIGS.index(config)}{suffix}"
        assert digests(config, folder, target) == expected[config]
    store = arraystore.open(tmp_path / f"0{suffix}")
    for split, images in IMAGES.items():
        names, labels = store[split].file_name.tolist(), store[split].label.tolist()
        assert dict(zip(names, labels, strict=True)) == {n: label_of(split, n) for n in images}
        if split != "train":  # two of train are re-encoded
            assert dict(zip(names, store[split].image_bytes[:], strict=True)) == images
    assert store["train"].select("1pct").file_name[:].size == 5


@pytest.mark.parametrize("form", FORMS)
def test_report_names_the_form_that_was_read(form: str, tmp_path: Path) -> None:
    folder = draw_form(tmp_path, form)
    notes = load_source(
        "imagenet2012", manual_dir=folder, partial=True, spool=tmp_path / "spool"
    ).notes
    first = next(note for note in notes if note.startswith("train is read from "))
    assert str(folder) in first


class StoppedError(Exception):
    """Stops a conversion."""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", ["parquet", "tar.gz"])
def test_killed_conversion_of_spooled_form_is_resumed(
    form: str,
    suffix: str,
    expected: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, target = draw_form(tmp_path / "form", form), tmp_path / f"a{suffix}"
    options: dict[str, Any] = {"manual_dir": folder, "partial": True}
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=2000))
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 2000)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", 500)
    monkeypatch.setattr(journal, "GROUP_NBYTES", 2000)
    filled: list[FillTask] = []

    def stop_at_sixth(task: FillTask) -> Filled:
        filled.append(task)
        if len(filled) == 6:
            raise StoppedError
        return fill(task)

    monkeypatch.setattr(store_writer, "fill", stop_at_sixth)
    with pytest.raises(StoppedError):
        arraystore.convert("imagenet2012:5.1.0", target, **options)
    work = tmp_path / f".a{suffix}.partial"
    recorded = journal.read_journal(work / "journal")
    assert recorded is not None
    assert recorded.blocks
    (work / "spool").write_bytes(b"rest of a process that was killed")
    report = arraystore.convert("imagenet2012:5.1.0", target, resume=True, **options)
    found = {
        name: (split.content_digest, sorted(split.reencoded))
        for name, split in report.splits.items()
    }
    assert found == expected["imagenet2012:5.1.0"]
    problems = arraystore.verify(target, source=folder).problems
    assert [problem for problem in problems if problem.position is not None] == []
    assert not work.exists()


@pytest.mark.parametrize("form", ["parquet", "tar.gz"])
def test_conversion_killed_while_it_spools_is_resumed(
    form: str, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = draw_form(tmp_path / "form", form)
    (tmp_path / ".a.zarr.partial").mkdir()
    (tmp_path / ".a.zarr.partial" / "spool").write_bytes(b"rest of a process that was killed")
    config = "imagenet2012_subset/10pct"
    report = arraystore.convert(
        config, tmp_path / "a.zarr", manual_dir=folder, partial=True, resume=True
    )
    assert report.splits["train"].content_digest == expected[config]["train"][0]


def test_splits_may_be_in_different_forms(
    expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    kaggle(tmp_path, "train", TRAIN)
    archives(tmp_path, "validation", VALIDATION)
    tfds(tmp_path, "test", TEST)
    write_lists(tmp_path)
    found = digests("imagenet2012:5.1.0", tmp_path, tmp_path / "a.h5")
    assert found == expected["imagenet2012:5.1.0"]


def test_archive_is_preferred_and_the_other_form_is_named(tmp_path: Path) -> None:
    for split, images in IMAGES.items():
        archives(tmp_path, split, images)
        class_folders(tmp_path, split, images)
    source = load_source("imagenet2012", manual_dir=tmp_path, partial=True)
    assert [path.suffix for path in source.files] == [".tar", ".tar"]
    assert f"train: also found, and not read: {tmp_path / 'train'}: extracted, one folder per" in (
        " ".join(source.notes)
    )


def test_damaged_archive_beside_another_form_says_what_else_is_there(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", TRAIN)
    archives(tmp_path, "train", TRAIN)
    archives(tmp_path, "validation", VALIDATION)
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(SourceError, match="it is truncated") as error:
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)
    (note,) = error.value.__notes__
    assert note.startswith(f"also found: {tmp_path / 'train'}: extracted")


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("class archives", "n01440764.tar"),
        ("tar.gz", "data/train_images_0.tar.gz"),
        ("webdataset", "imagenet1k-train-0000.tar"),
    ],
)
def test_second_archive_after_the_first_is_reported(form: str, path: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path, "train", TRAIN)
    archives(tmp_path, "validation", VALIDATION)
    archive = tmp_path / path
    data = archive.read_bytes()
    packed = form == "tar.gz"
    twice = gzip.compress(2 * gzip.decompress(data)) if packed else 2 * data
    archive.write_bytes(twice)
    options: dict[str, Any] = {"manual_dir": tmp_path, "spool": tmp_path / "spool"}
    with pytest.raises(SourceError, match=rf"{archive.name}: expected zeros .* another archive"):
        load_source("imagenet2012", **options)
    source = load_source("imagenet2012", partial=True, **options)
    assert len(source.splits["train"]) == len(TRAIN)
    assert [archive.name in damage for damage in source.damage] == [True]


# Names


@pytest.mark.parametrize(
    ("split", "old", "new"),
    [
        ("train", "n01440764_3.JPEG", "n01440764_3_n01440764.JPEG"),
        ("train", "n01440764_3.JPEG", "n01440764_3.jpg"),
        ("validation", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000001_n01751748.JPEG"),
        ("validation", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000001.jpeg"),
    ],
)
def test_names_of_other_forms_become_those_of_the_archives(
    split: str, old: str, new: str, tmp_path: Path
) -> None:
    draw_form(tmp_path, "class folders")
    (path,) = tmp_path.rglob(old)
    path.rename(path.with_name(new))
    source = load_source("imagenet2012", manual_dir=tmp_path, partial=True)
    assert set(source.splits[split].file_name) == set(IMAGES[split])


def test_image_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    draw_form(tmp_path, "class folders")
    (path,) = tmp_path.rglob("n01440764_3.JPEG")
    path.with_name("n01440764_3.jpg").write_bytes(path.read_bytes())
    with pytest.raises(SourceError, match=r"n01440764_3\.JPEG\) found more than once"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat.JPEG", "'cat.JPEG' is not the name of a train image; expected n01440764_10026.JPEG"),
        (
            "n01440764_3_n01443537.JPEG",
            "'n01440764_3_n01443537.JPEG' has the class n01443537 in its name, but it is of",
        ),
        (
            "n99999999_3.JPEG",
            "'n99999999_3.JPEG' has the class n99999999, which is not one of the 1000 of",
        ),
    ],
)
def test_other_name_is_an_error(name: str, message: str, tmp_path: Path) -> None:
    draw_form(tmp_path, "class folders")
    folder = tmp_path / "train/n01440764"
    (folder / "n01440764_3.JPEG").rename(folder / name)
    with pytest.raises(SourceError, match=f"^{re.escape(f'{folder}: {message}')}"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)


def test_hidden_and_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    draw_form(tmp_path, "class folders")
    for name in ("train/n01440764/._n01440764_3.JPEG", "train/.DS_Store", "val/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train/n01440764/notes.txt").write_bytes(b"x")
    (tmp_path / "train/__MACOSX").mkdir()
    source = load_source("imagenet2012", manual_dir=tmp_path, partial=True)
    assert set(source.splits["train"].file_name) == set(TRAIN)
    assert (
        "train: 3 names (.DS_Store, ._n01440764_3.JPEG, __MACOSX) hidden or of the system, left out"
    ) in source.notes
    assert "train: 1 name (notes.txt) without the suffix of an image, left out" in source.notes
    assert "validation: 1 name (Thumbs.db) hidden or of the system, left out" in source.notes


@pytest.mark.parametrize(
    ("form", "pattern", "compression"),
    [
        ("class archives", "n01440764.tar", ""),
        ("tar.gz", "train*.tar.gz", "gz"),
        ("webdataset", "*train*.tar", ""),
    ],
)
def test_system_members_of_archives_are_counted(
    form: str, pattern: str, compression: str, tmp_path: Path
) -> None:
    draw_form(tmp_path, form)
    path = min(tmp_path.rglob(pattern))
    with tarfile.open(path, f"r:{compression}") as archive:  # type: ignore[call-overload] # any mode
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    write_tar(path, [("._n01440764_3.JPEG", b"x"), *members], f"w:{compression}")
    spool = tmp_path / "spool"
    source = load_source("imagenet2012", manual_dir=tmp_path, partial=True, spool=spool)
    assert set(source.splits["train"].file_name) == set(TRAIN)
    (note,) = (note for note in source.notes if "of the system" in note)
    assert note.startswith("train: 1 ")


# Labels that contradict the names


def test_image_in_the_folder_of_another_class_is_an_error(tmp_path: Path) -> None:
    draw_form(tmp_path, "class folders")
    (path,) = tmp_path.rglob("ILSVRC2012_val_00000001.JPEG")
    other = tmp_path / "val/n01440764"
    other.mkdir(exist_ok=True)
    path.rename(other / path.name)
    message = (
        f"{other}: ILSVRC2012_val_00000001.JPEG is of class 65 (n01751748, sea snake), but its "
        "class folder is class 0 (n01440764, tench)"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)


def test_class_archive_with_an_image_of_another_class_is_an_error(tmp_path: Path) -> None:
    draw_form(tmp_path, "class archives")
    (tmp_path / "n01440764.tar").rename(tmp_path / "n01443537.tar")
    with pytest.raises(SourceError, match=r"but its class archive is class 1 \(n01443537"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)


def test_row_of_kaggles_table_with_another_class_is_an_error(tmp_path: Path) -> None:
    draw_form(tmp_path, "kaggle")
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text(table.read_text().replace("n01751748", "n01440764"))
    message = (
        f"{table}: ILSVRC2012_val_00000001.JPEG is of class 65 (n01751748, sea snake), but its row "
        "in this table is class 0 (n01440764, tench)"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("form", ["parquet", "webdataset", "tfds"])
def test_stated_label_that_contradicts_the_name_is_an_error(
    form: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = label_of

    def wrong(split_of: str, name: str) -> int:
        return (right(split_of, name) + (split_of == split)) % 1000

    monkeypatch.setattr("tests.sources.imagenet_forms.label_of", wrong)
    monkeypatch.setattr("tests.sources.imagenet_forms.hub_name", lambda split, name: name)
    draw_form(tmp_path, form)
    with pytest.raises(SourceError, match=r"but its label is class .*; the labels of this copy"):
        load_source("imagenet2012", manual_dir=tmp_path, partial=True, spool=tmp_path / "spool")


def test_reencoded_images_are_no_version_as_found(tmp_path: Path) -> None:
    draw_form(tmp_path, "tfds")
    with pytest.raises(SourceError, match=r"version 2\.0\.1 has every image as found, but TFDS"):
        load_source("imagenet2012:2.0.1", manual_dir=tmp_path, partial=True)


# What is missing


def test_nothing_found_lists_what_is_missing(tmp_path: Path) -> None:
    message = (
        f"{tmp_path}: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar not found; nor are these"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load_source("imagenet2012", manual_dir=tmp_path)


def test_incomplete_forms_come_after_complete_ones(tmp_path: Path) -> None:
    draw_form(tmp_path, "parquet")
    class_folders(tmp_path, "train", TRAIN)
    kinds = [form.kind for form in find_forms(tmp_path)["train"]]
    assert kinds == ["parquet", "class folders"]
    (tmp_path / "data/train-00001-of-00002.parquet").unlink()
    first, second = find_forms(tmp_path)["train"]
    assert (first.kind, second.kind) == ("class folders", "parquet")
    assert second.missing == "lacks 1 of 2 files"
    assert first.missing.startswith("lacks 996 of 1,000 class folders: 996 names (n01443537, ")


def test_only_row_groups_with_wanted_images_are_spooled(tmp_path: Path) -> None:
    draw_form(tmp_path, "parquet")
    spool = tmp_path / "spool"
    load_source("imagenet2012_subset/1pct", manual_dir=tmp_path, partial=True, spool=spool)
    wanted = list(TRAIN)[1:6]
    assert spool.stat().st_size == sum(
        len(data) for data in [*(TRAIN[name] for name in wanted), *VALIDATION.values()]
    )


# arraystore info


@pytest.mark.parametrize("form", FORMS)
def test_info_shows_the_form_of_each_split(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw_form(tmp_path, form)
    assert main(["info", str(folder), "--json"]) == 0
    found = {row["split"]: row for row in json.loads(capsys.readouterr().out)["forms"]}
    for split, forms in find_forms(folder).items():
        first = forms[0]
        assert (found[split]["path"], found[split]["is_read"]) == (str(first.path), True)
        assert found[split]["form"] == KINDS[first.kind]
    assert main(["info", str(folder)]) == 0
    assert KINDS[find_forms(folder)["train"][0].kind] in capsys.readouterr().out


def test_info_counts_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_form(tmp_path, "class folders", images={"train": TRAIN, "validation": VALIDATION})
    (tmp_path / "1percent.txt").unlink()
    assert main(["info", str(tmp_path), "--json"]) == 0
    inventory = json.loads(capsys.readouterr().out)
    missing = {row["split"]: row["missing"] for row in inventory["forms"]}
    assert missing["train"].startswith("lacks 996 of 1,000 class folders: 996 names (n01443537,")
    assert missing["train"].endswith(f"has {len(TRAIN)} of 1,281,167 images")
    assert missing["validation"].endswith("has 5 of 50,000 images")
    assert missing["test"].startswith("expected ILSVRC2012_img_test.tar, test/*.JPEG, or")
    assert inventory["lists"] == {
        "1pct": "1percent.txt is downloaded when it is needed",
        "10pct": "10percent.txt in the folder",
    }


def test_info_compares_the_size_of_archives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_form(tmp_path, "archives")
    assert main(["info", str(tmp_path)]) == 0
    assert "bytes, the published archive 147,897,477,120" in capsys.readouterr().out


def test_info_of_another_folder_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    assert main(["info", str(tmp_path)]) == 1
    assert "is not an arraystore store" in capsys.readouterr().err
