"""Appended samples: a new part of a split, against a conversion of all samples at once."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore.errors import FormatError, SourceError, StorageError
from arraystore.storage.workspace_folder import work_folder
from arraystore.writing import local_part, publish_part
from arraystore.writing.workspace import workspace
from tests.support import picture, write_store
from tests.writing.test_kills import kills

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLASSES = ("dog", "cat", "bee")


def records(letter: str, n: int, *, labels: tuple[str, ...] = CLASSES) -> list[dict[str, Any]]:
    return [
        {"image": picture(4, 5, seed=i), "label": labels[i % len(labels)], "file_name": name}
        for i, name in ((i, f"{letter}{i}.jpg") for i in range(n))
    ]


def append(store: Path, samples: Any, **options: Any) -> arraystore.AppendReport:
    options = {"sync": False, "progress": False} | options
    return arraystore.append(store, samples, split="train", **options)


def names_of(split: arraystore.Split) -> list[str]:
    return list(split.file_name.tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("append")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """A store of nine samples without parts."""
    path = folder / "plain.zarr"
    samples = {"train": records("a", 9), "test": records("t", 2)}
    arraystore.write(path, samples, classes=CLASSES, sync=False, progress=False)
    return path


@pytest.fixture
def store(plain: Path, tmp_path: Path) -> Path:
    """A copy of `plain`."""
    return tmp_path / shutil.copytree(plain, tmp_path / "a.zarr").name


def with_two_parts(plain: Path, path: Path) -> Path:
    """Copy the store and append two parts; the last one replaces two samples of the others."""
    arraystore.copy(plain, path, sync=False, progress=False)
    append(path, records("b", 5, labels=("cat", "bee")))
    new = [*records("c", 2), records("a", 4)[3], records("b", 2)[1]]
    append(path, new, on_existing="replace")
    return path


@pytest.fixture(scope="module")
def appended(plain: Path, folder: Path) -> Path:
    return with_two_parts(plain, folder / "b.zarr")


@pytest.fixture(scope="module")
def appended_file(plain: Path, folder: Path) -> Path:
    """The same as an HDF5 file."""
    return with_two_parts(plain, folder / "b.h5")


@pytest.fixture(params=[".zarr", ".h5"])
def either(request: pytest.FixtureRequest, appended: Path, appended_file: Path) -> Path:
    return {".zarr": appended, ".h5": appended_file}[request.param]


def expected_names() -> set[str]:
    return {f"{letter}{i}.jpg" for letter, n in (("a", 9), ("b", 5), ("c", 2)) for i in range(n)}


# Reading


def test_appended_store_has_all_samples_and_their_labels(either: Path) -> None:
    train = arraystore.open(either)["train"]
    assert set(names_of(train)) == expected_names()
    assert len(train) == 16 == len(set(names_of(train)))
    for i in (0, 5, 9, 15):
        sample = train[i]
        number = int(sample.file_name[1:-4])
        expected = ["cat", "bee"] if sample.file_name in ("b0.jpg", "b2.jpg") else CLASSES
        assert train.label_names[sample.label] == expected[number % len(expected)]
        assert train.image_bytes[i] == picture(4, 5, seed=number)


def test_parts_behave_as_the_copy_that_joins_them(either: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.zarr"
    report = arraystore.copy(either, target, sync=False, progress=False)
    before, after = arraystore.open(either), arraystore.open(target)
    assert after.info.parts == {}
    assert after.info.format_version == "1.0"
    assert after.dataset == before.dataset
    assert before.info.splits == after.info.splits == report.splits
    train, joined = before["train"], after["train"]
    assert names_of(train) == names_of(joined)
    for query in QUERIES:
        assert names_of(query(train)) == names_of(query(joined))
    assert train.label_counts().tolist() == joined.label_counts().tolist()
    assert train.find("b1.jpg") == joined.find("b1.jpg")
    for name in ("train[4:12]", "train[9:]", "train[:50%]+test", "train[3:3]", "all"):
        assert names_of(before[name]) == names_of(after[name])
    batches = [list(split.batches(5, seed=2)) for split in (train, joined)]
    one, other = ([name for batch in some for name in batch.file_name] for some in batches)
    assert one == other
    assert train.image_bytes[:] == joined.image_bytes[:]


QUERIES: list[Callable[[arraystore.Split], arraystore.Split]] = [
    lambda split: split.where(label="cat"),
    lambda split: split.where(file_name=["a3.jpg", "*[12].jpg"]),
    lambda split: split.per_label(2, seed=3),
    lambda split: split.sample(7, seed=1),
    lambda split: split.select([3, 0, 15]),
    lambda split: ~split.where(label="cat"),
    lambda split: split.even_splits(3)[1],
]


def test_digest_of_parts_is_that_of_a_conversion(store: Path, tmp_path: Path) -> None:
    report = append(store, records("b", 5))
    whole = {"train": [*records("a", 9), *records("b", 5)]}
    written = arraystore.write(tmp_path / "w.zarr", whole, classes=CLASSES, sync=False)
    assert report.content_digest == written.splits["train"].content_digest
    assert arraystore.open(store).info.splits["train"].content_digest == report.content_digest


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_open_store_keeps_what_it_had(plain: Path, tmp_path: Path, suffix: str) -> None:
    store = tmp_path / f"a{suffix}"
    arraystore.copy(plain, store, sync=False)
    old = arraystore.open(store)
    train = old["train"]
    append(store, [*records("b", 5), records("a", 1)[0]], on_existing="replace")
    assert len(old["train"]) == len(train) == 9
    assert train.image_bytes[:] == old["train"].image_bytes[:]
    assert "a0.jpg" in names_of(train)


def test_copy_reports_nothing_if_a_whole_part_was_replaced(store: Path, tmp_path: Path) -> None:
    for _ in range(2):
        append(store, records("b", 2), on_existing="replace")
    report = arraystore.copy(store, tmp_path / "copy.zarr", sync=False)
    assert report.left_out == ()
    assert report.splits["train"].num_samples == 11


def test_split_with_parts_pickles(either: Path) -> None:
    train = arraystore.open(either)["train"]
    some = train.where(label="cat")
    again = pickle.loads(pickle.dumps(some))
    assert names_of(again) == names_of(some)
    assert names_of(pickle.loads(pickle.dumps(~some))) == names_of(~again) == names_of(~some)


def test_pickled_split_is_valid_after_another_append(store: Path) -> None:
    append(store, records("b", 5))
    train = arraystore.open(store)["train"]
    data = pickle.dumps(train)
    append(store, records("c", 5))
    assert names_of(pickle.loads(data)) == names_of(train)


def test_info_lists_the_parts(either: Path) -> None:
    store = arraystore.open(either)
    assert store.info.parts == {"train": ("train", "train.1", "train.2")}
    assert list(store) == ["train", "test"]
    assert store.info.format_version == "2.0"
    assert "train (16 samples)" in repr(store)


def test_other_clients_find_the_parts(appended: Path) -> None:
    group: Any = zarr.open_group(appended, mode="r")
    parts = json.loads(group.attrs["parts"])["train"]
    assert parts["groups"] == ["train", "train.1", "train.2"]
    replaced = [
        str(group[earlier]["file_name"][position])
        for part, some in parts["replaced"].items()
        for earlier in some
        for position in group[f"{part}/replaced/{earlier}"][:]
    ]
    assert sorted(replaced) == ["a3.jpg", "b1.jpg"]


def test_older_release_refuses_a_store_with_parts(
    either: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arraystore.schema.NEWEST_VERSIONS", ((1, 1),))
    with pytest.raises(arraystore.VersionError, match=r"format version 2\.0 .* upgrade"):
        arraystore.open(either)


def test_samples_of_named_selection_stay_those_of_first_part(tmp_path: Path) -> None:
    images = [picture(4, 5, seed=i) for i in range(4)]
    names = [f"{i}.jpg" for i in range(4)]
    selections = {"odd": [1, 3]}
    path = tmp_path / "a.zarr"
    write_store(path, names, [0, 1, 0, 1], images, classes=CLASSES, selections=selections)
    odd = names_of(arraystore.open(path)["train"].select("odd"))
    report = append(
        path,
        [{"image": images[0], "label": "dog", "file_name": odd[0]}, *records("b", 3)],
        on_existing="replace",
    )
    assert "stored selections have no new samples: 1 name (odd)" in report.notes
    assert names_of(arraystore.open(path)["train"].select("odd")) == odd[1:]
    arraystore.copy(path, tmp_path / "b.zarr", sync=False)
    assert names_of(arraystore.open(tmp_path / "b.zarr")["train"].select("odd")) == odd[1:]


# Sources


def write_folder(path: Path, names: tuple[str, ...]) -> Path:
    for number, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(picture(4, 5, seed=number))
    return path


def test_classes_of_a_folder_are_matched_by_name(store: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "more", ("bee/1.jpg", "dog/2.jpg"))
    report = append(store, f"folder:{folder}")
    train = arraystore.open(store)["train[9:]"]
    found = dict(zip(names_of(train), train.label.tolist(), strict=True))
    assert found == {"bee/1.jpg": 2, "dog/2.jpg": 0}
    assert report.notes == ()


def test_numbers_are_matched_as_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, ["0.jpg"], [0], [picture(4, 5)], classes=["7", "10"])
    folder = write_folder(tmp_path / "more", ("10/1.jpg", "7/2.jpg"))
    append(path, f"folder:{folder}")
    train = arraystore.open(path)["train[1:]"]
    found = dict(zip(names_of(train), train.label.tolist(), strict=True))
    assert found == {"10/1.jpg": 1, "7/2.jpg": 0}


def test_new_classes_are_named(store: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "more", ("ant/1.jpg", "dog/2.jpg", "cow/3.jpg"))
    with pytest.raises(SourceError, match=r"not have the classes .* 2 names \(ant, cow\)"):
        append(store, f"folder:{folder}")
    assert len(arraystore.open(store)["train"]) == 9


def test_numeric_labels_need_classes(store: Path) -> None:
    samples = [{"image": picture(4, 5), "label": 1, "file_name": "b.jpg"}]
    with pytest.raises(SourceError, match="labels are numbers"):
        append(store, samples)
    append(store, samples, classes=["bee", "cat", "dog"])
    assert arraystore.open(store)["train"][-1].label == CLASSES.index("cat")


def test_split_of_a_source_with_several(store: Path, tmp_path: Path) -> None:
    names = ("train/bee/1.jpg", "train/dog/1.jpg", "test/bee/2.jpg", "test/dog/1.jpg")
    folder = write_folder(tmp_path / "more", names)
    report = append(store, f"folder:{folder}")
    assert "other splits of the source are left out: 1 name (test)" in report.notes
    assert report.added.num_samples == 2


def test_skipped_images_are_recorded(store: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "more", ("bee/1.jpg", "dog/2.jpg"))
    (folder / "bee" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"bee/3\.jpg"):
        append(store, f"folder:{folder}")
    report = append(store, f"folder:{folder}", on_error="skip")
    assert [name for name, _ in report.added.skipped] == ["bee/3.jpg"]
    row = arraystore.open(store).info.skipped[-1]
    assert (row["split"], row["file_name"]) == ("train", "bee/3.jpg")


def test_damaged_new_image_replaces_nothing(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    write_folder(folder, ("bee/1.jpg",))
    append(store, f"folder:{folder}")
    (folder / "bee" / "1.jpg").write_bytes(b"no image")
    report = append(store, f"folder:{folder}", on_existing="replace", on_error="skip")
    assert (report.part, report.num_replaced, report.num_samples) == ("", 0, 10)


# Names that exist


def test_existing_names_are_an_error_by_default(store: Path) -> None:
    with pytest.raises(SourceError, match=r"2 names \(a0.jpg, a1.jpg\) exist already in train"):
        append(store, [*records("b", 1), *records("a", 2)])
    assert arraystore.open(store).info.parts == {}


def test_existing_names_are_left_out(store: Path) -> None:
    before = arraystore.open(store)["train"]
    report = append(
        store, [*records("a", 2, labels=("bee",)), *records("b", 1)], on_existing="skip"
    )
    train = arraystore.open(store)["train"]
    assert (report.num_existing, report.added.num_samples) == (2, 1)
    assert names_of(train) == [*names_of(before), "b0.jpg"]
    assert train.label.tolist() == [*before.label.tolist(), 0]


def test_nothing_new_writes_nothing(store: Path) -> None:
    report = append(store, records("a", 2), on_existing="skip")
    assert (report.part, report.num_existing, report.num_samples) == ("", 2, 9)
    assert arraystore.open(store).info.parts == {}
    assert not work_folder(store).exists()


def test_faults_follow_samples_that_are_left_out(store: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "more", ("bee/1.jpg", "bee/2.jpg", "dog/4.jpg"))
    append(store, f"folder:{folder}")
    write_folder(folder, ("bee/0.jpg", "bee/5.jpg"))
    (folder / "bee" / "3.jpg").symlink_to("nowhere")
    report = append(store, f"folder:{folder}", on_existing="skip", on_error="skip")
    assert [name for name, _ in report.added.skipped] == ["bee/3.jpg"]
    assert sorted(names_of(arraystore.open(store)["train[12:]"])) == ["bee/0.jpg", "bee/5.jpg"]


def test_replaced_sample_is_replaced_again(store: Path) -> None:
    for seed in (20, 30):
        image = picture(4, 5, seed=seed)
        samples = [{"image": image, "label": "bee", "file_name": "a4.jpg"}]
        report = append(store, samples, on_existing="replace")
        assert (report.num_replaced, report.num_samples) == (1, 9)
        train = arraystore.open(store)["train"]
        assert len(train) == 9
        assert train.image_bytes[train.find("a4.jpg")] == image
    assert arraystore.verify(store, progress=False).problems == ()


# Verification


def test_store_with_parts_verifies(either: Path) -> None:
    report = arraystore.verify(either, decode=True, progress=False)
    assert report.problems == ()
    assert report.splits["train"].num_samples == 16


def set_parts(store: Path, **changes: Any) -> None:
    path = store / "zarr.json"
    root = json.loads(path.read_text())
    parts = json.loads(root["attributes"]["parts"])
    parts["train"] |= changes
    root["attributes"]["parts"] = json.dumps(parts)
    path.write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content_digest": "0" * 64}, "content_digest of all parts must be 000"),
        ({"num_bytes": 5}, "num_bytes of all parts must be 5"),
        ({"num_samples": 5}, "must have 5 samples, got 16"),
        ({"replaced": {}}, "must have 16 samples, got 18"),
    ],
)
def test_wrong_statement_about_parts_is_found(
    appended: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    copy = shutil.copytree(appended, tmp_path / "a.zarr")
    set_parts(copy, **changes)
    problems = arraystore.verify(copy, progress=False).problems
    assert any(message in str(problem) for problem in problems), problems


def test_damaged_image_of_a_part_is_found(store: Path) -> None:
    append(store, records("b", 2))
    shard = store / "train.1" / "image_payload" / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    problems = arraystore.verify(store, progress=False).problems
    assert [problem.split for problem in problems] == ["train.1"]


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_parts_are_compared_with_each_of_their_sources(tmp_path: Path, suffix: str) -> None:
    one = write_folder(tmp_path / "one", ("bee/1.jpg", "cat/2.jpg", "dog/3.jpg"))
    two = write_folder(tmp_path / "two", ("bee/9.jpg", "dog/8.jpg", "dog/3.jpg", "dog/4.jpg"))
    path = tmp_path / f"a{suffix}"
    arraystore.convert(f"folder:{one}", path, split="train", sync=False, progress=False)
    append(path, f"folder:{two}", on_existing="replace")
    for folder, n_others in ((one, 3), (two, 2)):
        report = arraystore.verify(path, source=f"folder:{folder}", progress=False)
        assert (report.problems, report.not_in_source) == ((), {"train": n_others})
    (two / "dog" / "8.jpg").write_bytes(picture(4, 5, seed=50))
    write_folder(two, ("bee/7.jpg",))
    (two / "dog" / "3.jpg").write_bytes(picture(4, 5, seed=51))
    found = arraystore.verify(path, source=str(two), progress=False).problems
    assert [(problem.file_name, problem.message) for problem in found] == [
        ("dog/8.jpg", "its bytes differ from the source"),
        ("", "lacks 1 name (bee/7.jpg) of the source"),
        ("", "has 1 name (dog/3.jpg) with another label or other bytes"),
    ]
    write_folder(tmp_path / "three", ("ant/1.jpg", "bee/1.jpg"))
    with pytest.raises(SourceError, match=r"not have the classes of these samples: 1 name \(ant\)"):
        arraystore.verify(path, source=str(tmp_path / "three"), progress=False)


def test_labels_of_parts_are_compared_with_the_source(store: Path) -> None:
    samples = records("b", 4)
    append(store, [*samples, records("a", 1)[0] | {"label": "bee"}], on_existing="replace")
    report = arraystore.verify(
        store,
        source={"train": [*samples, *records("a", 9)], "test": records("t", 2)},
        progress=False,
    )
    assert (report.problems, report.not_in_source) == ((), {"train": 0})
    wrong = [samples[0], samples[1] | {"label": "dog"}, records("a", 1)[0] | {"label": "cat"}]
    report = arraystore.verify(store, source={"train": wrong}, progress=False)
    assert [str(problem.message) for problem in report.problems] == [
        "label must be 0, as in the source, got 1",
        "has 1 name (a0.jpg) with another label or other bytes",
    ]
    assert report.not_in_source == {"train": 10, "test": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ["train.1", "train"]},
        {"groups": ["train", "train.1", "train.1"]},
        {"groups": ["train", "test"]},
        {"groups": ["train", "../b"]},
        {"groups": []},
        {"groups": None},
        {"num_samples": -1},
        {"num_samples": "many"},
        {"replaced": {"train": ["train.1"]}},
        {"replaced": {"train.9": ["train"]}},
        {"replaced": 3},
    ],
)
def test_malformed_parts_are_refused(
    appended: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    copy = shutil.copytree(appended, tmp_path / "a.zarr")
    set_parts(copy, **changes)
    with pytest.raises(FormatError):
        arraystore.open(copy)


@pytest.mark.parametrize("positions", [[-1], [9]])
def test_replaced_position_outside_of_part_is_refused(store: Path, positions: list[int]) -> None:
    append(store, records("a", 1), on_existing="replace")
    zarr.open_array(store / "train.1/replaced/train", mode="r+")[:] = positions
    with pytest.raises(FormatError, match=r"replaced samples must be in range\(9\)"):
        arraystore.open(store)["train"]


# Interruptions


def test_killed_append_leaves_the_old_state_and_is_resumed(tmp_path: Path) -> None:
    counts = kills("--append", "--rounds", "1", "--suffix", ".zarr", "--folder", str(tmp_path))
    assert counts["process_kills"] + counts["power_kills"] >= 1


@pytest.mark.parametrize("number", [1, 2])
def test_next_append_publishes_a_complete_part(
    store: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process stops before it moves the part, or before it replaces the root."""
    finish, kept = publish_part.finish_part, store.with_name("kept")

    class Killed(BaseException):
        pass

    def stop(folder: Path, target: Path, *, sync: bool) -> None:
        assert not sync
        if number == 2:
            (folder / "store" / "train.1").rename(target / "train.1")
        shutil.copytree(folder, kept)
        raise Killed

    monkeypatch.setattr(local_part, "finish_part", stop)
    with pytest.raises(Killed):
        append(store, records("b", 3))
    shutil.rmtree(work_folder(store), ignore_errors=True)
    kept.rename(work_folder(store))  # as a process leaves it that is killed
    monkeypatch.setattr(local_part, "finish_part", finish)
    assert len(arraystore.open(store)["train"]) == 9
    report = append(store, records("b", 3), resume=True, sync=True)
    assert (report.was_complete, report.part, report.num_samples) == (True, "train.1", 12)
    assert len(arraystore.open(store)["train"]) == 12
    assert not work_folder(store).exists()


def test_record_of_another_store_is_not_published(store: Path) -> None:
    folder = work_folder(store)
    folder.mkdir()
    publish_part.PartRecord("train.1", "another state", {}).write(folder)
    append(store, records("b", 3))
    assert arraystore.open(store).info.parts["train"] == ("train", "train.1")
    assert len(arraystore.open(store)["train"]) == 12


def test_second_append_at_the_same_time_is_refused(store: Path) -> None:
    def samples() -> Iterator[dict[str, Any]]:
        with pytest.raises(StorageError, match="another process"):
            append(store, records("c", 1))
        yield from records("b", 2)

    assert append(store, samples()).num_samples == 11


def test_append_and_conversion_exclude_each_other(store: Path) -> None:
    with workspace(store, overwrite=True), pytest.raises(StorageError, match="another process"):
        append(store, records("c", 1))


def test_failed_append_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_part.LocalPartWriter, "fill", full)
    with pytest.raises(StorageError, match="No space left"):
        append(store, records("b", 2))
    assert sorted(path.name for path in store.iterdir()) == [
        "label_name",
        "label_words",
        "test",
        "train",
        "zarr.json",
    ]
    assert not work_folder(store).exists()


# Refusals


def test_unknown_split_is_refused(store: Path) -> None:
    with pytest.raises(KeyError, match="no split 'tset', it has train, test"):
        arraystore.append(store, records("b", 1), split="tset")


def test_source_around_the_store_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="lies in the source"):
        append(store, f"folder:{store.parent}")


def test_foreign_group_is_not_overwritten(store: Path) -> None:
    (store / "train.1").mkdir()
    (store / "train.1" / "mine").write_text("x")
    report = append(store, records("b", 1))
    assert report.part == "train.2"
    assert (store / "train.1" / "mine").read_text() == "x"


def test_columns_without_new_values_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, ["0.jpg"], [0], [picture(4, 5)], classes=CLASSES, columns={"age": [3]})
    report = append(path, records("b", 1))
    assert "new samples have no values of the split's columns: 1 name (age)" in report.notes
    assert list(arraystore.open(path)["train"].columns) == []
    samples = [row | {"age": 7} for row in records("c", 2)]
    append(path, samples, columns=["age"])
    assert arraystore.open(path)["train[2:]"].columns["age"][:].tolist() == [7, 7]


@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], [[], []], [[1], []]])
def test_ragged_values_of_one_length_are_appended(tmp_path: Path, values: list[list[int]]) -> None:
    path = tmp_path / "a.zarr"
    old = [[5], [], [6, 7]]
    samples = [row | {"tags": some} for row, some in zip(records("a", 3), old, strict=True)]
    options: Any = {"columns": ["tags"], "sync": False}
    arraystore.write(path, {"train": samples}, classes=CLASSES, order="source", **options)
    samples = [row | {"tags": some} for row, some in zip(records("b", 2), values, strict=True)]
    append(path, samples, order="source", **options)
    column = arraystore.open(path)["train"].columns["tags"]
    assert [some.tolist() for some in column[:]] == [*old, *values]
    assert arraystore.verify(path).problems == ()


@pytest.mark.parametrize("value", ["text", [1, 2]])
def test_values_of_another_kind_are_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, ["0.jpg"], [0], [picture(4, 5)], classes=CLASSES, columns={"age": [3]})
    samples = [row | {"age": value} for row in records("b", 2)]
    with pytest.raises(SourceError, match=r"the column age is .*, but in .* a value is int64 \(\)"):
        append(path, samples, columns=["age"])
    assert arraystore.open(path).info.columns == {"train": {"age": "int64 (1)"}}
    with pytest.MonkeyPatch.context() as patch:  # as another program may write
        patch.setattr("arraystore.writing.append._check_kind", lambda *_: None)
        append(path, samples, columns=["age"], overwrite=True)
    store = arraystore.open(path)
    assert store.info.columns == {}
    with pytest.raises(ValueError, match="values of different shapes or types"):
        _ = store["train"].columns["age"]


def test_conversion_resumed_over_an_appended_store_is_refused(store: Path) -> None:
    append(store, records("b", 1))
    samples = {"train": records("a", 9), "test": records("t", 2)}
    with pytest.raises(FileExistsError, match="samples were appended to train"):
        arraystore.write(store, samples, classes=CLASSES, resume=True)


def test_opening_a_store_without_parts_reads_no_column(plain: Path) -> None:
    store = arraystore.open(plain)
    assert len(store["train"]) == 9
    assert store._of_parts == {}
    assert np.array_equal(store["train"].positions, np.arange(9))


def test_column_of_another_split_keeps_the_version(appended: Path, tmp_path: Path) -> None:
    path = shutil.copytree(appended, tmp_path / "a.zarr")
    arraystore.add_column(path, "test", "score", np.zeros((2, 3)), sync=False)
    store = arraystore.open(path)
    assert store.info.format_version == "2.0"
    assert len(store["train"]) == 16


def test_appended_file_has_dimensions_for_other_libraries(appended_file: Path) -> None:
    with h5py.File(appended_file) as file:
        part = file["train.1"]
        assert part["label"].dims[0][0].name == "/train.1/sample"
        assert part["image_payload"].dims[0][0].name == "/train.1/byte"
        assert part["image_payload"].id.get_offset() > 0


def test_files_and_folders_get_the_same_digests(appended: Path, appended_file: Path) -> None:
    one, other = (arraystore.open(path).info for path in (appended, appended_file))
    assert one.splits == other.splits
    assert one == other


def test_open_store_is_refused_if_another_takes_its_place(store: Path) -> None:
    train = arraystore.open(store)["train"]
    samples = {"train": records("a", 9), "test": records("t", 3)}
    arraystore.write(store, samples, classes=CLASSES, sync=False, overwrite=True)
    append(store, records("b", 1))
    with pytest.raises(arraystore.StoreChangedError):
        _ = train.image_bytes[:]
