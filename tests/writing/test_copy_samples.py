"""Copies of selected samples: equal to a conversion of these samples, and complete."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

import arraystore
from arraystore.cli.commands import cli
from arraystore.cli.synthetic_archives import write_archives
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import ChecksumError, FormatError, SourceChangedError
from arraystore.indexing.layout import blocks
from arraystore.schema import DatasetInfo
from arraystore.sources import imagenet2012
from arraystore.sources.imagenet2012 import part_of
from arraystore.sources.subset_list import SUBSETS
from arraystore.storage.objects import connection
from arraystore.writing import selected_images, store_writer
from tests.support import SUFFIXES, copied, count_reads, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# In the package, the function has the name of the module.
copy_module = importlib.import_module("arraystore.writing.copy")

SHARD: Final = 4096
CLASSES: Final = ["n1", "n2", "n3"]
NAMES: Final = [f"{i}.jpg" for i in range(14)]
IMAGES: Final = [picture(20, 24, seed=i) for i in range(14)]
AGES: Final = [10 * i for i in range(14)]
LABELS: Final = [(0, 2)[i % 2] for i in range(14)]

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Let shards and windows be small, so that images cross their bounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
        patch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
        patch.setattr(selected_images, "WINDOW_NBYTES", 3000)
        yield


def copy(source: Any, target: Any, **options: Any) -> arraystore.CopyReport:
    return arraystore.copy(source, target, sync=False, **options)


def tree(store: Path) -> dict[str, bytes]:
    if store.is_file():
        return {"": store.read_bytes()}
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def contents(split: arraystore.Split) -> list[tuple[str, str, bytes]]:
    """Return file name, id of the class and encoded image of each sample."""
    ids = [*split.label_names, ""]
    names, labels = split.file_name.tolist(), split.label.tolist()
    return [*zip(names, [ids[k] for k in labels], split.image_bytes[:], strict=True)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 14 samples in Zarr, shuffled with seed 3, and another of 5 in HDF5."""
    folder = tmp_path_factory.mktemp("photos")
    write_store(
        folder / "photos.zarr",
        NAMES,
        LABELS,
        IMAGES,
        classes=CLASSES,
        seed=3,
        selections={"few": [1, 4, 6]},
        columns={"age": AGES},
    )
    others = [f"other{i}.jpg" for i in range(5)]
    few = {"few": [0, 2]}
    write_store(
        folder / "others.h5", others, LABELS[:5], IMAGES[5:10], classes=CLASSES, selections=few
    )
    return folder


@pytest.fixture
def train(photos: Path) -> arraystore.Split:
    return arraystore.open(photos / "photos.zarr")["train"]


@pytest.fixture
def both(photos: Path, train: arraystore.Split) -> arraystore.Split:
    return arraystore.concat([train, arraystore.open(photos / "others.h5")["train"]])


# Subsets of ImageNet


CONVERTED: Final = {
    "": "imagenet2012",
    "10pct": "imagenet2012_subset/10pct",
    "1pct": "imagenet2012_subset/1pct",
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the store of a config of drawn archives whose lists are true subsets."""
    folder = tmp_path_factory.mktemp("imagenet")
    names = [*write_archives(folder, n_classes=3, per_class=4, n_validation=3).train]
    for config, listed in (("10pct", names[:9]), ("1pct", names[1:9:3])):
        text = "".join(f"{name}\n" for name in listed)
        (folder / SUBSETS[config].file_name).write_text(text)

    def converted(config: str, suffix: str, order: str = "shuffled") -> Path:
        path = folder / f"{config}-{order}{suffix}"
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:  # so that they are complete
                patch.setattr(imagenet2012, "SPLIT_SIZES", {"train": 12, "validation": 3})
                options: dict[str, Any] = {"manual_dir": folder, "sync": False, "order": order}
                arraystore.convert(CONVERTED[config], path, **options)
        return path

    return converted


@every_suffix
@pytest.mark.parametrize(("whole", "part"), [("", "10pct"), ("", "1pct"), ("10pct", "1pct")])
def test_named_subset_has_the_bytes_of_a_conversion(
    whole: str, part: str, suffix: str, imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    store = arraystore.open(imagenet(whole, suffix))
    samples = {"train": store["train"].select(part), "validation": store["validation"]}
    report = copy(samples, tmp_path / f"copy{suffix}")
    assert tree(tmp_path / f"copy{suffix}") == tree(imagenet(part, suffix))
    assert report.dataset == f"imagenet2012_subset/{part}:5.0.0"
    assert report.splits == arraystore.open(imagenet(part, suffix)).info.splits
    assert (report.left_out, report.notes) == ((), ())


@pytest.mark.parametrize("order", ["label", "source"])
def test_subset_of_another_order_has_the_bytes_of_a_conversion(
    order: str, imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    store = arraystore.open(imagenet("10pct", ".h5", order))
    samples = {"train": store["train"].select("1pct"), "validation": store["validation"]}
    copy(samples, tmp_path / "copy.h5")
    assert tree(tmp_path / "copy.h5") == tree(imagenet("1pct", ".h5", order))


def test_subset_without_validation_is_partial(
    imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    report = copy(arraystore.open(imagenet("", ".h5"))["train"].select("1pct"), tmp_path / "a.zarr")
    info = arraystore.open(tmp_path / "a.zarr").info
    assert (report.dataset, info.partial) == ("imagenet2012_subset/1pct:5.0.0", True)
    assert [name for name, _ in info.sources] == ["ILSVRC2012_img_train.tar", "1percent.txt"]
    assert info.splits["train"] == arraystore.open(imagenet("1pct", ".h5")).info.splits["train"]


def test_other_part_of_imagenet_is_named_after_its_target(
    imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    store = arraystore.open(imagenet("10pct", ".zarr"))
    copy({"train": store["train"].sample(8)}, tmp_path / "eight.h5")
    info = arraystore.open(tmp_path / "eight.h5").info
    assert info.full_name == "eight"
    assert info.description.startswith(
        "Selected from imagenet2012_subset/10pct:5.0.0: train is train.sample(8, seed=0) (8 "
    )
    assert info.sources == store.info.sources
    assert set(info.reencoded) == set(store.info.reencoded) & {*store["train"].sample(8).file_name}


def test_renumbered_subset_is_not_called_by_its_name(
    imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    store = arraystore.open(imagenet("10pct", ".zarr"))
    report = copy(store["train"].select("1pct"), tmp_path / "own.h5", classes="present")
    assert report.dataset == "own"


def test_published_lists_are_described_as_such() -> None:
    lists = tuple((subset.file_name, subset.nbytes) for subset in SUBSETS.values())
    named: dict[str, tuple[str, ...]] = dict.fromkeys(SUBSETS, ("train",))
    info = DatasetInfo(
        *("imagenet2012", "", "5.0.0", "", "", "", ("train", "validation")),
        sources=(("train.tar", 1), ("val.tar", 2), *lists),
        selections=named,
    )
    splits = info.splits
    part = part_of(info, splits, named, subset="10pct", n=128_116)
    assert part is not None
    assert part.description.endswith(SUBSETS["10pct"].description)
    assert part.sources == (*info.sources[:2], lists[1], lists[0])
    assert part.selections == {"1pct": ("train",)}
    for other in (replace(info, version=""), replace(info, sources=info.sources[:2])):
        assert part_of(other, splits, named, subset="10pct", n=128_116) is None


# Contents


@settings(max_examples=10)
@given(data=st.data())
def test_copy_has_the_samples_in_their_order(
    data: st.DataObject,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    opened = [arraystore.open(photos / name)["train"] for name in ("photos.zarr", "others.h5")]
    both = arraystore.concat(opened)
    order = data.draw(st.permutations(range(len(both))))[: data.draw(st.integers(0, len(both)))]
    samples = both.select(np.array(order, np.int64))
    target = tmp_path_factory.mktemp("copy") / data.draw(st.sampled_from(["a.zarr", "a.h5"]))
    classes = data.draw(st.sampled_from(["keep", "present"]))
    copy({"some": samples}, target, classes=classes)
    again = arraystore.open(target)["some"]
    assert contents(again) == contents(samples)
    for name in ("image_height", "image_width", "image_crc32c"):
        assert np.array_equal(getattr(again, name), getattr(samples, name))
    if target.suffix == ".h5":  # in Zarr it finds the small shards of these tests
        assert arraystore.verify(target).ok


@pytest.mark.parametrize(
    ("select", "recorded"),
    [
        (lambda train: train, ("shuffled", 3)),
        (lambda train: train.where(label="n3"), ("shuffled", 3)),
        (lambda train: train.select([1, 0]), ("source", 0)),
    ],
    ids=["whole", "part", "reordered"],
)
def test_copy_records_the_order_that_it_has(
    select: Callable[[arraystore.Split], arraystore.Split],
    recorded: tuple[str, int],
    train: arraystore.Split,
    tmp_path: Path,
) -> None:
    info = copy(select(train), tmp_path / "a.h5").splits["train"]
    assert (info.order, info.seed) == recorded


@pytest.mark.parametrize("order", ["shuffled", "label", "source"])
def test_stated_order_is_that_of_a_conversion(
    order: str, both: arraystore.Split, tmp_path: Path
) -> None:
    info = copy(both, tmp_path / "a.h5", order=order, seed=5).splits["train"]
    names, labels = both.file_name.tolist(), both.label.tolist()
    write_store(
        tmp_path / "b.h5", names, labels, both.image_bytes[:], classes=CLASSES, order=order, seed=5
    )
    one, other = (arraystore.open(tmp_path / name)["train"] for name in ("a.h5", "b.h5"))
    assert contents(one) == contents(other)
    assert (info.order, info.seed) == (order, 5 if order == "shuffled" else 0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda split: split.per_label(2, seed=1),
        lambda split: split.per_label(fraction=0.5),
        lambda split: split.sample(6),
        lambda split: split.where(label="n3", file_name="*[02468].jpg"),
        lambda split: split.even_splits(3)[1],
    ],
    ids=["per_label", "fraction", "sample", "where", "even_splits"],
)
def test_joined_stores_are_drawn_from_as_their_copy_is(
    draw: Callable[[arraystore.Split], arraystore.Split], both: arraystore.Split, tmp_path: Path
) -> None:
    copy(both, tmp_path / "a.h5")
    one = arraystore.open(tmp_path / "a.h5")["train"]
    assert contents(draw(both)) == contents(draw(one))


def test_copied_store_object_is_the_whole_store(photos: Path, tmp_path: Path) -> None:
    copy(arraystore.open(photos / "photos.zarr"), tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(photos / "photos.zarr")


def test_copy_without_a_split_is_partial(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    samples = (pixels, [0, 1])
    arraystore.write(tmp_path / "a.h5", {"one": samples, "two": samples}, classes=2, sync=False)
    store = arraystore.open(tmp_path / "a.h5")
    for names in (["one", "two"], ["two"]):
        copy({name: store[name] for name in names}, tmp_path / "b.h5", overwrite=True)
        info = arraystore.open(tmp_path / "b.h5").info
        assert (info.name, info.partial) == ("a", len(names) < 2)


def test_whole_splits_keep_the_name_of_their_data_set(photos: Path, tmp_path: Path) -> None:
    store = arraystore.open(photos / "photos.zarr")
    copy({"train": store["train"]}, tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(photos / "photos.zarr")


def test_named_selections_follow(
    train: arraystore.Split, both: arraystore.Split, tmp_path: Path
) -> None:
    samples, few = both.select(range(18, 2, -1)), {*both.select("few").file_name.tolist()}
    copy({"some": samples}, tmp_path / "a.h5")
    some = arraystore.open(tmp_path / "a.h5")["some"]
    expected = [name for name in samples.file_name.tolist() if name in few]
    assert some.select("few").file_name.tolist() == expected
    copy(train.select([0]), tmp_path / "b.h5")
    assert arraystore.open(tmp_path / "b.h5").info.selections == {}


def test_present_classes_are_renumbered(imagenet: Callable[..., Path], tmp_path: Path) -> None:
    store = arraystore.open(imagenet("", ".h5"))
    train = store["train"].where(label=[0, 999])
    report = copy(
        {"few": train, "validation": store["validation"]}, tmp_path / "a.zarr", classes="present"
    )
    small = arraystore.open(tmp_path / "a.zarr")
    present = sorted({0, 999, *store["validation"].label.tolist()})
    (note,) = report.notes
    assert note.startswith(f"labels are renumbered: {len(present)} of 1,000 classes have samples")
    assert small.label_names == tuple(store.label_names[k] for k in present)
    assert small.label_words == tuple(store.label_words[k] for k in present)
    assert contents(small["few"]) == contents(train)
    for kind in ("fish", "vertebrate"):
        assert small.is_a(kind).tolist() == [
            k for k, label in enumerate(present) if label in store.is_a(kind)
        ]
    assert small["few"].label_counts().sum() == len(train)


def test_unlabelled_samples_stay_unlabelled(tmp_path: Path) -> None:
    write_store(tmp_path / "a.zarr", NAMES[:4], [1, -1, 1, -1], IMAGES[:4], classes=CLASSES)
    train = arraystore.open(tmp_path / "a.zarr")["train"]
    copy(train, tmp_path / "b.zarr", classes="present")
    again = arraystore.open(tmp_path / "b.zarr")["train"]
    assert again.label_names == ("n2",)
    assert again.label.tolist() == [min(label, 0) for label in train.label.tolist()]


@every_suffix
def test_user_columns_are_selected_and_others_reported(
    suffix: str, photos: Path, train: arraystore.Split, tmp_path: Path
) -> None:
    copy(photos / "photos.zarr", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["train/columns/half"] = np.arange(14) / 2
        file["train/columns/pair"] = np.arange(28).reshape(14, 2)
        file["train/columns/odd"] = ["variable"] * 14
        file["train"].attrs["camera"] = "old"
        file["notes/more"] = [1]
    again = arraystore.open(tmp_path / "a.h5")["train"]
    report = copy(again.select([7, 2]), tmp_path / f"b{suffix}")
    (age,) = (
        arraystore.open(tmp_path / f"b{suffix}")
        .opened[1]
        .read_columns({"train/columns/age": "int64"})
    )
    expected = [AGES[NAMES.index(name)] for name in train.file_name[[7, 2]]]
    assert age.tolist() == expected
    columns = arraystore.open(tmp_path / f"b{suffix}")["train"].columns
    names = columns.keys()
    assert (columns["half"][:].tolist(), columns["pair"][0].tolist()) == ([3.5, 1], [14, 15])
    assert sorted(names) == ["age", "half", "pair"]
    assert sorted(report.left_out) == ["notes", "notes/more", "train/columns/odd", "train@camera"]


@pytest.mark.parametrize(
    ("path", "n", "message"),
    [
        ("train/columns/age", 5, "train/columns/age: must have 14 values, one a sample, got 5"),
        ("label_words", 2, "label_words: must have 3 values"),
    ],
)
def test_column_of_another_length_raises(
    path: str, n: int, message: str, photos: Path, tmp_path: Path
) -> None:
    source = copied(photos / "photos.zarr", tmp_path / "a.zarr")
    root = json.loads((source / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"][path]["shape"] = [n]
    (source / "zarr.json").write_text(json.dumps(root))
    own = json.loads((source / path / "zarr.json").read_text())
    (source / path / "zarr.json").write_text(json.dumps(own | {"shape": [n]}))
    with pytest.raises(FormatError, match=message):
        copy(arraystore.open(source)["train"], tmp_path / "b.h5")


def test_column_that_one_store_lacks_is_reported(
    both: arraystore.Split, photos: Path, tmp_path: Path
) -> None:
    report = copy(both, tmp_path / "a.h5")
    assert report.left_out == (f"{photos / 'photos.zarr'}/train/columns/age",)
    assert report.source == f"{photos / 'photos.zarr'}, {photos / 'others.h5'}"


def test_descriptions_of_columns_are_kept(photos: Path, tmp_path: Path) -> None:
    descriptions: tuple[Any, ...] = ("of a model", "of another", 5)
    splits = []
    for number, description in enumerate(descriptions):
        path = copied(photos / "photos.zarr", tmp_path / f"{number}.zarr")
        n = len(arraystore.open(path)["train"])
        arraystore.add_column(path, "train", "score", np.arange(n), description="x", sync=False)
        stated = f'"description": {json.dumps(description)}'
        for document in (path / "zarr.json", path / "train/columns/score/zarr.json"):
            document.write_text(document.read_text().replace('"description": "x"', stated))
        splits.append(arraystore.open(path)["train"])
    halves = [splits[0].select(slice(5)), splits[1].select(slice(5, None))]
    report = copy(arraystore.concat(halves), tmp_path / "a.h5")
    column = arraystore.open(report.path)["train"].columns["score"]
    assert column.attributes["description"] == "of a model; of another"
    report = copy(splits[2], tmp_path / "b.h5")
    assert "train/columns/score@description" in report.left_out


def test_skipped_images_are_kept_or_reported(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "train" / "a"
    folder.mkdir(parents=True)
    for name, data in (("1.jpg", IMAGES[0]), ("2.jpg", b"no image"), ("3.jpg", IMAGES[1])):
        (folder / name).write_bytes(data)
    arraystore.convert(
        f"folder:{tmp_path / 'photos'}", tmp_path / "a.h5", on_error="skip", sync=False
    )
    store = arraystore.open(tmp_path / "a.h5")
    copy(store["train"], tmp_path / "b.h5")
    assert arraystore.open(tmp_path / "b.h5").info.skipped == store.info.skipped
    report = copy(store["train[:1]"], tmp_path / "c.h5")
    assert arraystore.open(tmp_path / "c.h5").info.skipped == ()
    (note,) = report.notes
    assert note.startswith("train: 1 name (a/2.jpg) could not be read when the store was converted")


# Places


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(connection, "connect_memory", lambda: store)
    return store


@every_suffix
@pytest.mark.usefixtures("bucket")
def test_samples_are_copied_from_and_to_a_bucket(
    suffix: str, photos: Path, train: arraystore.Split, tmp_path: Path
) -> None:
    copy(photos / "photos.zarr", f"memory://folder/a{suffix}")
    remote = arraystore.open(f"memory://folder/a{suffix}")["train"]
    copy(remote.where(label="n3"), f"memory://folder/b{suffix}")
    copy(f"memory://folder/b{suffix}", tmp_path / f"back{suffix}")
    copy(train.where(label="n3"), tmp_path / f"back-expected{suffix}")
    one, other = (arraystore.open(tmp_path / f"{n}{suffix}") for n in ("back", "back-expected"))
    assert contents(one["train"]) == contents(other["train"])
    assert one.info.splits == other.info.splits


def test_neighbours_are_read_together(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "blocks", blocks)
    monkeypatch.setattr(selected_images, "WINDOW_NBYTES", 10**6)
    train = arraystore.open(photos / "photos.zarr")["train"]
    read = count_reads(train)
    samples = train.select([12, 0, 2, 1])
    copy(samples, tmp_path / "a.h5")
    assert read.nbytes == samples.image_nbytes.sum()
    assert len(read.ranges) == 2


# Errors


def assert_nothing_at(target: Path) -> None:
    assert [path.name for path in target.parent.iterdir() if target.name in path.name] == []


def damage(store: Path, image: bytes) -> None:
    """Change one byte of a stored image."""
    piece = image[-200:-184]  # the beginnings of all images are equal
    files = [store] if store.is_file() else [*store.rglob("image_payload/c/*")]
    (path,) = (path for path in files if piece in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(piece, bytes([piece[0] ^ 1]) + piece[1:]))


@every_suffix
def test_damaged_image_raises(suffix: str, photos: Path, tmp_path: Path) -> None:
    copy(photos / "photos.zarr", tmp_path / f"a{suffix}")
    train = arraystore.open(tmp_path / f"a{suffix}")["train"]
    damage(tmp_path / f"a{suffix}", train.image_bytes[4])
    train = arraystore.open(tmp_path / f"a{suffix}")["train"]
    copy(train.select([0, 3, 5]), tmp_path / "sound.zarr")
    with pytest.raises(ChecksumError, match=rf"'{train.file_name[4]}' \(position 4\).* checksum"):
        copy(train.select([0, 4]), tmp_path / "b.zarr")
    assert_nothing_at(tmp_path / "b.zarr")


def test_change_of_the_source_raises(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copied(photos / "photos.zarr", tmp_path / "a.zarr")
    train = arraystore.open(source)["train"]
    read = selected_images.SelectedImages.read

    def change(*arguments: Any) -> None:
        read(*arguments)
        (source / "train/label/c/0").touch()

    monkeypatch.setattr(selected_images.SelectedImages, "read", change)
    with pytest.raises(SourceChangedError):
        copy(train.select([0]), tmp_path / "b.zarr")
    assert_nothing_at(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("select", "error", "message"),
    [
        (lambda s: s["train"].select([1, 2, 1]), ValueError, r"1 name \(.*\) occur more than once"),
        (lambda s: {}, ValueError, "needs one or more splits"),
        (lambda s: {"zarr.json": s["train"]}, ValueError, "cannot be named"),
        (lambda s: {"a": s}, TypeError, "a: must be a split to be copied"),
        (lambda s: s["train+validation"], ValueError, r"of train and validation; pass a mapping"),
    ],
    ids=["repeated", "empty", "name", "store", "joined"],
)
def test_wrong_samples_raise(
    select: Callable[[arraystore.Store], Any],
    error: type[Exception],
    message: str,
    imagenet: Callable[..., Path],
    tmp_path: Path,
) -> None:
    store = arraystore.open(imagenet("1pct", ".h5"))
    with pytest.raises(error, match=message):
        copy(select(store), tmp_path / "a.h5")
    assert_nothing_at(tmp_path / "a.h5")


def test_splits_of_other_classes_raise(
    train: arraystore.Split, imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    other = arraystore.open(imagenet("1pct", ".h5"))["train"]
    with pytest.raises(ValueError, match="label 0 is 'n1'"):
        copy({"train": train, "other": other}, tmp_path / "a.h5")


def test_copy_onto_a_source_raises(photos: Path, both: arraystore.Split) -> None:
    with pytest.raises(ValueError, match="is the source itself"):
        copy(both.select([0]), photos / "others.h5", overwrite=True)
    with pytest.raises(ValueError, match="source_options need an address"):
        copy(both, photos / "c.h5", source_options={"anon": True})


# Command line


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["copy", *map(str, arguments), "--no-sync"])
    assert result.exception is None, result.exception
    return result.output


def test_command_copies_a_selection_and_the_other_splits(
    imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    run(imagenet("10pct", ".zarr"), tmp_path / "a.zarr", "--selection", "1pct")
    assert tree(tmp_path / "a.zarr") == tree(imagenet("1pct", ".zarr"))


def test_command_narrows_and_renames_splits(imagenet: Callable[..., Path], tmp_path: Path) -> None:
    source = imagenet("10pct", ".zarr")
    output = run(
        source, tmp_path / "a.h5", "--split", "few=train[:8]", "--split", "validation",
        "--label", 0, "--per-label", 2, "--classes", "present", "--order", "label",
    )  # fmt: skip
    store, small = arraystore.open(source), arraystore.open(tmp_path / "a.h5")
    expected = store["train[:8]"].where(label=0).per_label(2, seed=0)
    assert sorted(small["few"].file_name) == sorted(expected.file_name)
    assert (list(small), small.info.splits["few"].order) == (["few", "validation"], "label")
    assert "labels are renumbered: 1 of 1,000 classes" in output


def test_saved_selection_narrows_the_splits_that_it_is_of(
    imagenet: Callable[..., Path], tmp_path: Path
) -> None:
    source = imagenet("10pct", ".zarr")
    store = arraystore.open(source)
    store["train"].select([3, 1]).selection().save(tmp_path / "two.json")
    run(source, tmp_path / "a.h5", "--selection", tmp_path / "two.json")
    assert [len(split) for split in arraystore.open(tmp_path / "a.h5").values()] == [2, 3]
    result = CliRunner().invoke(
        cli, ["copy", f"{source}", f"{tmp_path}/b.h5", "--split=validation", "--selection=1pct"]
    )
    assert "the selection '1pct' is of train, this split is of validation" in str(result.exception)
