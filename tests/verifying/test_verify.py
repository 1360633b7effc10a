"""Verification: what it compares, and how it reports problems."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore import StorageError
from arraystore.cli.commands import main
from arraystore.sources import folder as folder_source
from arraystore.sources.published import published_counts
from arraystore.storage.range_reader import LocalReader
from arraystore.verifying import images as images_check
from arraystore.verifying.columns import Columns
from arraystore.verifying.problems import MAX_KEPT, Findings, Problem
from arraystore.verifying.source import SourceCheck
from tests.reading.test_damaged_stores import (
    PAYLOAD,
    edit_json,
    edited,
    only_hdf5,
    only_zarr,
    payload_file,
    rewrite_column,
    rewrite_payload,
    set_attribute,
)
from tests.support import SUFFIXES, copied, picture, set_chunk_rows, write_folder, write_store
from tests.web import Answer, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives
    from arraystore.indexing.byte_range import ByteRange

    Change = Callable[[Any], Any]

named = pytest.mark.parametrize
N_TRAIN = 30


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    """A copy of the store at `path`, to be changed."""
    target = tmp_path / path.name
    copied(path, target)
    return target


def problems(path: object, **options: Any) -> list[str]:
    report = arraystore.verify(path, progress=False, **options)  # type: ignore[arg-type] # by name
    assert report.num_problems == len(report.problems)
    return [str(problem) for problem in report.problems]


def assert_reported(found: list[str], *facts: object) -> None:
    """Check that one problem contains all of `facts`."""
    assert any(all(str(fact) in line for fact in facts) for line in found), found


def changed(position: int, value: Any) -> Change:
    def change(values: Any) -> Any:
        values[position] = value
        return values

    return change


# Stores without problems


@named("decode", [False, True])
def test_new_store_has_no_problems(path: Path, decode: bool) -> None:
    report = arraystore.verify(path, decode=decode)
    assert (report.ok, report.problems, report.num_problems) == (True, (), 0)
    assert report.dataset == "imagenet2012_subset/1pct:5.0.0"
    assert report.store == str(path)
    assert report.splits == arraystore.open(path).info.splits
    assert report.decoded == decode


def test_new_store_matches_its_archives(path: Path, drawn: DrawnArchives) -> None:
    assert problems(path, source=drawn.folder) == []


@named("suffix", SUFFIXES)
@named("order", ["label", "source"])
def test_new_store_matches_its_folder(suffix: str, order: str, tmp_path: Path) -> None:
    files = {f"{c}/{i}.jpg": picture(seed=i) for c in ("cat", "dog") for i in range(3)}
    write_folder(tmp_path / "in", {**files, "cat/4.png": picture(seed=9)})
    arraystore.convert(f"folder:{tmp_path}/in", tmp_path / f"a{suffix}", order=order, seed=3)
    assert problems(tmp_path / f"a{suffix}", source=tmp_path / "in", decode=True) == []


@named("suffix", SUFFIXES)
def test_empty_store_has_no_problems(suffix: str, tmp_path: Path) -> None:
    assert problems(write_store(tmp_path / f"a{suffix}", [], [], classes=["a"])) == []


def test_repacked_payload_differs_only_in_its_chunks(copy: Path) -> None:
    if copy.is_dir():
        rewrite_payload(copy, shards=2**18)
        edit_json(copy / PAYLOAD / "zarr.json", lambda node: node.update(dimension_names=["byte"]))
        (found,) = problems(copy)
        assert "must have shards of 67108864 bytes" in found
        rewrite_payload(copy)
        edit_json(copy / PAYLOAD / "zarr.json", lambda node: node.update(dimension_names=["byte"]))
        assert problems(copy) == []
    else:
        rewrite_payload(copy)
        dimension, chunks = problems(copy)
        assert "dimension must be 'byte'" in dimension
        assert "must be one contiguous run, got chunks of 131072 bytes" in chunks


def test_images_are_read_once_in_windows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_check, "WINDOW_NBYTES", 40_000)
    seen: list[ByteRange] = []
    real = LocalReader.read_ranges

    def spy(self: LocalReader, ranges: Sequence[ByteRange]) -> Any:
        seen.extend(ranges)
        return real(self, ranges)

    manifest = arraystore.open(path).stored("train")._images.manifest
    images = arraystore.open(path)["train"].image_nbytes
    monkeypatch.setattr(LocalReader, "read_ranges", spy)
    assert problems(path) == []
    first, nbytes = int(manifest.start[0]), manifest.nbytes
    read = [
        r for r in seen if r.key == manifest.keys[0] and first <= r.start < r.stop <= first + nbytes
    ]
    assert sum(r.nbytes for r in read) == nbytes
    assert max(r.nbytes for r in read) <= max(40_000, int(images.max()))
    assert len(read) > 5


# Columns

COLUMN_PROBLEMS: list[tuple[str, Change, tuple[object, ...]]] = [
    ("image_start", changed(7, 5), ("train[7]", "must begin at ", "got 5")),
    ("image_start", changed(7, 2**62), ("train[7]", "are outside the payload")),
    ("image_start", changed(7, -(2**63)), ("train[7]", "are outside the payload")),
    ("image_nbytes", changed(3, 2**63 - 1), ("train[3]", "are outside the payload")),
    ("image_nbytes", changed(3, 17), ("image_nbytes", "must be sizes that add up to")),
    ("image_height", changed(4, 7), ("train[4]", "image_height is 7, the image's header has")),
    ("image_width", changed(4, 7), ("train[4]", "image_width is 7, the image's header has")),
    ("image_crc32c", changed(9, 1), ("train[9]", "crc32c must be 0x00000001")),
    ("image_crc32c", changed(9, 1), ("content_digest", "the columns give")),
    ("label", changed(2, 5), ("label_order", "must be the index of the labels")),
    ("label", changed(2, 5), ("label_indptr", "must be the index of the labels")),
    ("label", changed(2, 5), ("content_digest",)),
    ("label", changed(2, 1000), ("train[2]", "must be -1 or in range(1000), got 1000")),
    ("label", lambda values: values[:-1], ("train/label", "must have 30 values, got 29")),
    ("label_order", lambda values: values[::-1].copy(), ("label_order", "30 of 30 values")),
    ("label_order", lambda values: values[:-1], ("label_order", "must have 30 values, got 29")),
    ("label_indptr", changed(1, 30), ("label_indptr", "value 1 is 30, expected")),
    ("label_indptr", lambda v: v[:-1], ("label_indptr", "must have 1001 values, got 1000")),
    ("file_name", lambda v: v[::-1].copy(), ("must be in the order 'shuffled' of seed 0",)),
    (
        "file_name",
        lambda v: changed(1, v[0])(v),
        ("train[1]", "must be unique", "position 0 has it"),
    ),
    ("file_name", changed(1, ""), ("train[1]", "a file cannot be named ''")),
    ("file_name", changed(1, "../../etc/x"), ("train[1]", "must be a path below a folder")),
    ("file_name", changed(1, "/etc/x"), ("train[1]", "must be a path below a folder")),
    ("file_name", changed(1, "a//x"), ("train[1]", "must be a path below a folder")),
]


@named(("column", "change", "facts"), COLUMN_PROBLEMS)
def test_wrong_column_is_reported(
    copy: Path, column: str, change: Change, facts: tuple[object, ...]
) -> None:
    rewrite_column(copy, f"train/{column}", change)
    assert_reported(problems(copy), *facts)


@named("column", ["image_start", "image_nbytes"])
def test_images_are_checked_without_a_column_of_places(copy: Path, column: str) -> None:
    flip_in_image(copy, 11)
    with edited(copy) as root:
        del root[f"train/{column}"]
    found = problems(copy)
    assert_reported(found, f"{copy}/train/{column}", "missing")
    assert_reported(found, "train[11]", "crc32c must be")


def test_images_without_any_places_are_reported_as_unchecked(
    copy: Path,
) -> None:
    with edited(copy) as root:
        del root["train/image_start"], root["train/image_nbytes"]
    assert_reported(problems(copy), "train", "no image was checked")


@named(
    ("name", "value", "fact"),
    [
        ("content_digest", "0" * 64, "the columns give"),
        ("content_digest", "none", "must have 64 hexadecimal digits, got 'none'"),
        ("order", "random", "must be one of shuffled, label, source"),
        ("order", "label", "must be in the order 'label'"),
        ("seed", 1, "must be in the order 'shuffled' of seed 1"),
        ("seed", -1, "must be in range(2**64)"),
        ("num_samples", 29, "must have 29 values, got 30"),
        ("num_bytes", 1000, "must have 1000 bytes, got"),
        ("encoding-version", "2.0", "upgrade arraystore"),
    ],
)
def test_wrong_split_attribute_is_reported(copy: Path, name: str, value: Any, fact: str) -> None:
    set_attribute(copy, "train", name, value)
    assert_reported(problems(copy), "train", fact)


@only_zarr
@named(
    ("array", "change", "fact"),
    [
        ("train/label", {"dimension_names": ["row"]}, "its dimension must be 'sample', got 'row'"),
        ("train/label", {"dimension_names": None}, "its dimension must be 'sample', got ''"),
        ("train/label", {"fill_value": 0}, "its fill value must be -1, got 0"),
        ("train/label", {"data_type": "int32"}, "must hold int64, got int32"),
        ("train/label", {"shape": [5, 6]}, "not the metadata of a 1-d array"),
        (PAYLOAD, {"dimension_names": ["b"]}, "its dimension must be 'byte'"),
        ("label_name", {"dimension_names": ["label"]}, "must be ('string', 'class')"),
        ("train/image_nbytes", {"attributes": {}}, "'sample_dimension' must be 'byte'"),
    ],
)
def test_wrong_array_metadata_is_reported(
    copy: Path, array: str, change: dict[str, Any], fact: str
) -> None:
    edit_json(copy / "zarr.json", lambda root: root.pop("consolidated_metadata"))
    edit_json(copy / array / "zarr.json", lambda node: node.update(change))
    assert_reported(problems(copy), array, fact)


@only_hdf5
def test_dimension_without_a_scale_is_reported(copy: Path) -> None:
    with edited(copy) as root:
        root["train/label"].dims[0].detach_scale(root["train/sample"])
    assert_reported(problems(copy), "train/label", "its dimension must be 'sample', got ''")


@named("suffix", SUFFIXES)
def test_wrong_selections_are_reported(suffix: str, tmp_path: Path) -> None:
    path = write_store(
        tmp_path / f"a{suffix}",
        ["a.jpg", "b.jpg"],
        [0, 0],
        [picture(seed=i) for i in range(2)],
        classes=["a"],
        selections={"few": [0, 1]},
    )
    assert problems(path) == []
    rewrite_column(path, "selections/few/train", changed(1, 2))
    set_attribute(path, "", "selections", '{"few": ["train"], "more": ["train"], "x": ["test"]}')
    found = problems(path)
    assert_reported(found, "selections/few/train", "must hold positions in range(2)")
    assert_reported(found, "selections/more/train", "missing")
    assert_reported(found, "the selection 'x' names the split 'test', which does not exist")


def test_class_columns_of_different_length_are_reported(copy: Path) -> None:
    rewrite_column(copy, "label_words", lambda values: values[:-1])
    assert_reported(problems(copy), "must have the same length, got [1000, 999]")


# Images


def flip_in_image(path: Path, position: int) -> None:
    """Flip a bit in the middle of an image of train."""
    data = arraystore.open(path)["train"].image_bytes[position]
    file = payload_file(path)
    whole = file.read_bytes()
    at = whole.index(data) + len(data) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_damaged_images_are_reported_with_their_places(copy: Path) -> None:
    for position in (3, 4, 29):
        flip_in_image(copy, position)
    report = arraystore.verify(copy)
    names = arraystore.open(copy)["train"].file_name
    assert [(p.split, p.position) for p in report.problems] == [("train", i) for i in (3, 4, 29)]
    assert [p.file_name for p in report.problems] == [names[i] for i in (3, 4, 29)]
    assert {p.key for p in report.problems} == {
        f"{PAYLOAD}/c/0" if copy.is_dir() else copy.name,
    }
    assert all("crc32c must be" in p.message for p in report.problems)


def test_large_image_is_compared_in_pieces(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_check, "WINDOW_NBYTES", 1000)
    monkeypatch.setattr(images_check, "WHOLE_NBYTES", 5000)
    assert problems(copy) == []
    flip_in_image(copy, 3)
    assert_reported(problems(copy), "train[3]", "crc32c must be")


@named("suffix", SUFFIXES)
def test_bytes_that_are_not_an_image_are_reported(suffix: str, tmp_path: Path) -> None:
    files = ["a.jpg", "b.jpg", "c.jpg"]
    path = write_store(
        tmp_path / f"a{suffix}", files, [0] * 3, [picture(), b"hello", b""], classes=["a"]
    )
    found = problems(path)
    assert len(found) == 2
    assert_reported(found, "b.jpg", "is not an image that can be decoded; it begins with b'hello'")
    assert_reported(found, "c.jpg", "is empty (0 bytes)")


@named("suffix", SUFFIXES)
def test_undecodable_pixels_are_reported_with_decode(suffix: str, tmp_path: Path) -> None:
    images = [picture(seed=0), picture(seed=1)[:-100]]
    path = write_store(tmp_path / f"a{suffix}", ["a", "b"], [0, 0], images, classes=["a"])
    assert problems(path) == []
    (found,) = problems(path, decode=True)
    assert_reported([found], " b ", "cannot be decoded")


# Objects


@only_zarr
def test_lost_shard_is_reported_and_the_rest_is_read(
    copy: Path,
) -> None:
    payload_file(copy).unlink()
    shown: Any = zarr.open_group(copy, mode="r")[PAYLOAD]
    assert not shown[:].any()
    (copy / "validation/image_payload/c/0").write_bytes(
        (copy / "validation/image_payload/c/0").read_bytes()[:-1]
    )
    found = problems(copy)
    assert_reported(found, f"{PAYLOAD}/c/0", "the chunk is missing")
    assert_reported(found, "validation/image_payload/c/0", "the object is truncated")
    assert sum("train[" in line for line in found) == N_TRAIN
    assert not any("validation[" in line for line in found)


@only_zarr
def test_end_of_a_shard_is_compared(copy: Path) -> None:
    file = payload_file(copy)
    whole = file.read_bytes()
    at = arraystore.open(copy).info.splits["train"].num_bytes + 5
    file.write_bytes(whole[:at] + b"\1" + whole[at + 1 :])
    assert_reported(problems(copy), f"{PAYLOAD}/c/0", "must be zeros")
    file.write_bytes(whole[:-7] + b"\1" + whole[-6:])
    assert_reported(problems(copy), f"{PAYLOAD}/c/0", "the shard's index must be that")
    file.write_bytes(whole + b"\1")
    assert_reported(problems(copy), f"{PAYLOAD}/c/0", "got more")


@only_zarr
def test_document_unlike_its_consolidated_copy_is_reported(copy: Path) -> None:
    edit_json(copy / "train/zarr.json", lambda node: node["attributes"].update(seed=7))
    assert_reported(problems(copy), "train/zarr.json", "differs from the root's consolidated")


@named("suffix", SUFFIXES)
def test_damaged_chunks_of_a_column_are_reported(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, rows = 390, 128
    set_chunk_rows(monkeypatch, rows)
    labels = np.random.default_rng(0).integers(0, 2, n)
    names = list(map(str, range(n)))
    path = write_store(tmp_path / f"a{suffix}", names, labels, classes=["a", "b"])
    for number in (1, 3):
        if path.is_dir():
            (path / f"train/label/c/{number}").unlink()
        else:
            with h5py.File(path, "r+") as root:
                root["train/label"].id.write_direct_chunk((number * rows,), b"no gzip")
    report = arraystore.verify(path)
    messages = [p.message for p in report.problems if "train/label" in p.message]
    assert [line.rpartition("(rows ")[2].split()[0] for line in messages] == ["128", "384"]


def test_huge_number_of_samples_is_reported(copy: Path) -> None:
    set_attribute(copy, "train", "num_samples", 2**62)
    with edited(copy) as root:
        del root["train/label_indptr"], root["label_name"]
    if copy.is_dir():
        (copy / "train/image_width/c/0").unlink()
    found = problems(copy)
    assert any("label_indptr: is missing" in line for line in found)
    assert_reported(found, "train/label", f"must have {2**62} values, got 30")


def test_problems_do_not_hide_each_other(copy: Path) -> None:
    flip_in_image(copy, 5)
    rewrite_column(copy, "validation/label", changed(3, 77))
    set_attribute(copy, "train", "seed", 3)
    with edited(copy) as root:
        del root["label_words"]
    found = problems(copy)
    assert_reported(found, "train[5]", "crc32c")
    assert_reported(found, "validation", "content_digest")
    assert_reported(found, "of seed 3")
    assert_reported(found, "label_words", "missing")


def test_repeated_split_name_is_reported(copy: Path) -> None:
    names = ["train", "validation", "train"]
    with edited(copy) as root:
        root.attrs["splits"] = names if copy.is_dir() else np.array(names, dtype="S10")
    assert_reported(problems(copy), "attribute 'splits'", "different names", "got 3")


def test_unreadable_split_does_not_hide_others(copy: Path) -> None:
    set_attribute(copy, "train", "encoding-type", "audio")
    rewrite_column(copy, "validation/image_height", changed(3, 1))
    report = arraystore.verify(copy)
    assert list(report.splits) == ["validation"]
    found = [str(problem) for problem in report.problems]
    assert_reported(found, f"{copy}/train", "audio")
    assert_reported(found, "validation[3]", "image_height is 1")


def test_unreadable_store_is_one_problem(copy: Path) -> None:
    set_attribute(copy, "", "format_version", "9.0")
    report = arraystore.verify(copy)
    assert not report.ok
    assert (report.dataset, report.splits) == ("", {})
    assert_reported([str(p) for p in report.problems], str(copy), "upgrade arraystore")


def test_missing_store_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is nothing here"):
        arraystore.verify(tmp_path / "gone.zarr")


@named("suffix", SUFFIXES)
def test_problems_are_counted_and_the_first_kept(suffix: str, tmp_path: Path) -> None:
    n = 2 * MAX_KEPT
    images = [b"no image"] * n
    path = write_store(
        tmp_path / f"a{suffix}", list(map(str, range(n))), [0] * n, images, classes=["a"]
    )
    report = arraystore.verify(path)
    assert report.num_problems == n
    assert [p.position for p in report.problems] == list(range(500))


def test_problem_text_is_one_escaped_line() -> None:
    problem = Problem("got \x1b[2J", "train", 3, "a\nb\u202e.jpg", "c/0")
    assert str(problem) == "train[3] a\\nb\\u202e.jpg c/0: got \\x1b[2J"


# Remote stores


@pytest.fixture
def web() -> Any:
    with WebServer() as server:
        yield server


def test_store_on_a_web_server_is_verified(copy: Path, web: WebServer) -> None:
    web.put(copy, copy.name)
    assert problems(f"{web.url}/{copy.name}") == []
    flip_in_image(copy, 5)
    web.put(copy, copy.name)
    (found,) = problems(f"{web.url}/{copy.name}")
    assert_reported([found], "train[5]", "crc32c must be")


def test_image_damaged_in_transfer_is_read_again(path: Path, web: WebServer) -> None:
    web.put(path, path.name)
    biggest = max(arraystore.open(path).info.splits["train"].num_bytes, 1)
    flips = iter(["flip"])

    def flip_once(asked: Any) -> str | None:
        first, _, last = asked.range.removeprefix("bytes=").partition("-")
        is_images = first and last and int(last) - int(first) + 1 >= biggest
        return next(flips, None) if is_images else None

    web.answer = flip_once
    assert problems(f"{web.url}/{path.name}") == []


@only_zarr
def test_objects_lost_in_a_bucket_are_reported(path: Path, web: WebServer) -> None:
    web.put(path, path.name)
    del web.objects[f"{path.name}/{PAYLOAD}/c/0"]
    del web.objects[f"{path.name}/validation/label/c/0"]
    found = problems(f"{web.url}/{path.name}")
    assert_reported(found, f"{PAYLOAD}/c/0", "the chunk is missing")
    assert_reported(found, "validation/label/c/0", "the chunk is missing")
    assert sum("train[" in line for line in found) == N_TRAIN
    # An object that is known to be lost is not requested again for each of its images.
    assert len([asked for asked in web.asked if f"{PAYLOAD}/c" in asked.path]) <= 3


@only_zarr
@named("refused", [f"{PAYLOAD}/c", "train/zarr.json", "train/label/c", "label_words/c"])
def test_server_that_denies_access_raises(path: Path, web: WebServer, refused: str) -> None:
    web.put(path, path.name)
    web.answer = lambda asked: Answer(403) if refused in asked.path else None
    with pytest.raises(StorageError, match="access denied"):
        arraystore.verify(f"{web.url}/{path.name}")


# Against the source


@pytest.fixture(params=SUFFIXES)
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A store, and the folder that it was made from."""
    files = {f"{c}/{i}.jpg": picture(seed=i) for c in ("cat", "dog") for i in range(3)}
    source = write_folder(tmp_path / "in", files)
    target = tmp_path / f"a{request.param}"
    arraystore.convert(f"folder:{source}", target)
    return target, source


def test_image_unlike_its_source_is_reported(
    converted: tuple[Path, Path],
) -> None:
    path, source = converted
    image = source / "cat/1.jpg"
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    (source / "dog/2.jpg").write_bytes(picture(seed=77) + b"longer")
    found = problems(path, source=source)
    assert len(found) == 2
    assert_reported(found, "cat/1.jpg", "its bytes differ from the source")
    assert_reported(found, "dog/2.jpg", "its bytes differ from the source")


def test_missing_and_extra_samples_are_reported(converted: tuple[Path, Path]) -> None:
    path, source = converted
    (source / "cat/1.jpg").rename(source / "cat/new.jpg")
    found = problems(path, source=source)
    assert_reported(found, "train: lacks 1 name (cat/new.jpg) of the source")
    assert_reported(found, "train: has 1 name (cat/1.jpg) that the source does not have")


def test_classes_and_splits_unlike_the_source_are_reported(
    converted: tuple[Path, Path], tmp_path: Path
) -> None:
    path, source = converted
    (source / "bird").mkdir()
    found = problems(path, source=source)
    assert_reported(found, "label_name", "must be the classes of the source")
    assert_reported(found, "cat/1.jpg", "label must be 1, as in the source, got 0")
    (tmp_path / "splits").mkdir()
    source.rename(tmp_path / "splits" / "test")
    found = problems(path, source=tmp_path / "splits")
    assert_reported(found, "the source has the splits test, the store has train")


def test_class_words_unlike_the_source_are_reported(
    converted: tuple[Path, Path],
) -> None:
    path, source = converted
    rewrite_column(path, "label_words", changed(1, "wolf"))
    assert_reported(problems(path, source=source), "label_words", "must be the words")


def test_source_may_have_the_prefix_folder(
    converted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, source = converted
    (source / "cat/1.jpg").unlink()
    monkeypatch.setenv("HOME", str(source.parent))
    for written in (f"folder:{source}", f"folder:~/{source.name}", f"~/{source.name}", source):
        assert_reported(problems(path, source=written), "cat/1.jpg")
        assert main(["verify", str(path), "--source", str(written)]) == 1


@named(
    ("source", "message"),
    [
        (
            "folder:in",
            r"^folder:in: imagenet2012_subset/1pct:5\.0\.0 was made from archives; give source ",
        ),
        ("imagenet2012", r"^imagenet2012: is not a folder; .* that of the archives$"),
    ],
)
def test_source_that_is_not_a_folder_of_archives_raises(
    source: str, message: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((arraystore.SourceError, FileNotFoundError), match=message):
        arraystore.verify(path, source=source)
    assert main(["verify", str(path), "--source", source]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_missing_source_raises(converted: tuple[Path, Path]) -> None:
    path, source = converted
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        arraystore.verify(path, source=source / "gone")


def test_reencoded_images_are_compared_with_their_record(copy: Path, drawn: DrawnArchives) -> None:
    set_attribute(copy, "", "reencoded", json.dumps([drawn.gray, drawn.png]))
    found = problems(copy, source=drawn.folder)
    assert len(found) == 2
    assert_reported(found, drawn.cmyk, "its bytes differ from the source")
    assert_reported(
        found, drawn.gray, "is recorded as re-encoded, but the source's JPEG need not be"
    )


def test_class_counts_are_compared_with_published_ones(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat/1.jpg": picture(), "dog/2.jpg": picture()})
    source = folder_source.load(tmp_path)
    names = np.array(["cat/1.jpg", "dog/2.jpg"], dtype=np.dtypes.StringDType())
    columns = Columns({"file_name": names, "label": np.array([0, 1])})
    findings = Findings()
    check = SourceCheck(source, "train", ())
    check.check_samples(columns, (), np.array([1, 1]), findings)
    assert findings.kept == []
    check.check_samples(columns, (), np.array([2, 0]), findings)
    assert [p.message for p in findings.kept] == [
        "must have 2 samples of class 0 (cat), got 1",
        "must have 0 samples of class 1 (dog), got 1",
    ]
    left_out = replace(findings.kept[0], message="")
    check.check_samples(columns, [left_out.file_name], np.array([2, 0]), findings)
    assert len(findings.kept) == 2  # samples left out on purpose are not counted as missing


def test_published_counts_are_those_of_the_lists(drawn: DrawnArchives) -> None:
    counts = published_counts("1pct", "train", manual_dir=drawn.folder)
    assert counts is not None
    assert sorted(counts[counts > 0].tolist()) == [5] * 6
    validation = published_counts("1pct", "validation", manual_dir=drawn.folder)
    assert validation is not None
    assert set(validation.tolist()) == {50}
    assert published_counts("", "train") is None
    assert published_counts("", "test") is None


# The command


def test_command_reports_a_good_store(
    path: Path, drawn: DrawnArchives, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--decode", "--source", str(drawn.folder), "--no-progress"]
    assert main(["verify", str(path), *options]) == 0
    printed = capsys.readouterr()
    assert "read, decoded and compared with" in printed.out
    assert "no problems" in printed.out
    assert printed.err == ""


def test_command_prints_one_line_for_what_is_not_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path}: is not an arraystore store")
    assert printed.count("\n") == 1


def test_command_prints_every_problem(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_in_image(copy, 5)
    set_attribute(copy, "train", "seed", 1)
    assert main(["verify", str(copy)]) == 1
    printed = capsys.readouterr().out
    name = arraystore.open(copy)["train"].file_name[5]
    assert f"\ntrain[5] {name} " in printed
    assert "\ntrain: the samples must be in the order" in printed
    assert "2 problems." in printed


@named("suffix", SUFFIXES)
def test_command_prints_similar_problems_as_one_line(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = 2 * MAX_KEPT
    images = [bytes([i % 251]) * 20 for i in range(n)]
    names = [f"{i:04}" for i in range(n)]
    path = write_store(tmp_path / f"a{suffix}", names, [0] * n, images, classes=["a"])
    rewrite_column(path, "train/image_crc32c", np.zeros_like)
    assert main(["verify", str(path)]) == 1
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "images, first" in line]
    assert len(lines) == 1, printed
    assert lines[0].startswith("2,000 images, first train[0] ")
    assert "crc32c must be 0x00000000, got 0x" in lines[0]
    assert main(["verify", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert len([p for p in report["problems"] if p["position"] is not None]) == 500
    assert [g["count"] for g in report["groups"] if g["count"] > 1] == [n]


def test_command_prints_a_lost_shard_in_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_store(
        tmp_path / "a.zarr",
        ["a", "b", "c"],
        [0] * 3,
        [picture(seed=i) for i in range(3)],
        classes=["a"],
    )
    name = arraystore.open(path)["train"].file_name[0]
    (path / PAYLOAD / "c" / "0").unlink()
    assert main(["verify", str(path)]) == 1
    printed = [line for line in capsys.readouterr().out.splitlines() if PAYLOAD in line]
    assert printed == [
        f"{PAYLOAD}/c/0: the chunk is missing",
        f"3 images, first train[0] {name} {PAYLOAD}/c/0: cannot be read: {PAYLOAD}/c/0 is missing",
    ]


def test_groups_do_not_mix_objects() -> None:
    findings = Findings()
    for key in ("c/0", "c/1"):
        for position in range(3):
            findings.add(Problem(f"got {position}", "train", position, "a", key))
    findings.add(Problem("got 3 pixels", "train", 3, "a", "c/0"))
    findings.add(Problem("got 3", "train", key="c/0"))
    findings.add(Problem("got 4", "train", key="c/0"))
    assert [(str(group.first), group.count) for group in findings.groups] == [
        ("train[0] a c/0: got 0", 3),
        ("train[0] a c/1: got 0", 3),
        ("train[3] a c/0: got 3 pixels", 1),
        ("c/0: got 3", 1),
        ("c/0: got 4", 1),
    ]


def test_command_prints_the_report_as_json(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_in_image(copy, 5)
    assert main(["verify", str(copy), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["num_problems"]) == (False, 1)
    (problem,) = report["problems"]
    assert (problem["split"], problem["position"]) == ("train", 5)
    assert report["splits"]["train"]["num_samples"] == N_TRAIN


def test_command_has_a_status_for_wrong_usage(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(path), "--fast"]) == 2
    assert main(["verify"]) == 2
    assert main(["verify", str(tmp_path / "gone.h5")]) == 1
    assert "there is nothing here" in capsys.readouterr().err


def test_command_draws_a_progress_bar(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(path), "--progress"]) == 0
    assert "100%" in capsys.readouterr().err
