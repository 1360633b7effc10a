"""Folders of images as a source: samples, names, errors."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.parallel.executors import Workers
from arraystore.sources.folder import load
from arraystore.sources.folder_layout import arrange
from arraystore.sources.folder_listing import listing_of
from arraystore.sources.junk import is_junk
from arraystore.sources.source_options import SourceOptions
from arraystore.storage.open_files import OpenFile
from arraystore.writing import plan
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from arraystore.sources.sample_table import Source

PICTURE: Final = picture()
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def encoded(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 18)).convert("RGB").save(file, form, **options)
    return file.getvalue()


def convert(folder: Path, target: Path, **options: Any) -> arraystore.ConvertReport:
    options = {"order": "source", "sync": options.get("resume", False), **options}
    return arraystore.convert(f"folder:{folder}", target, **options)


def samples(source: Source) -> dict[str, list[tuple[str, str]]]:
    """File name and name of the class of each sample, split by split."""
    return {
        name: [
            (file_name, source.label_name[label])
            for file_name, label in zip(table.file_name, table.label, strict=True)
        ]
        for name, table in source.splits.items()
    }


# Samples


@pytest.mark.parametrize("slash", ["", "/", "//", "/."])
def test_folder_of_split_class_file(slash: str, tmp_path: Path) -> None:
    names = ["train/dog/2.jpg", "train/cat/1.jpg", "test/dog/3.jpg", "train/dog/10.jpg"]
    write_folder(tmp_path, dict.fromkeys(names, PICTURE))
    assert samples(load(Path(f"{tmp_path}{slash}"))) == {
        "test": [("dog/3.jpg", "dog")],
        "train": [("cat/1.jpg", "cat"), ("dog/10.jpg", "dog"), ("dog/2.jpg", "dog")],
    }


def test_folder_of_class_file_is_one_train_split(tmp_path: Path) -> None:
    write_folder(tmp_path, dict.fromkeys(["dog/2.jpg", "cat/1.jpg"], PICTURE))
    assert samples(load(tmp_path)) == {"train": [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog")]}


@every_suffix
def test_classes_of_all_splits_are_sorted(suffix: str, tmp_path: Path) -> None:
    names = ["a/zebra/1.jpg", "a/Zebra/1.jpg", "b/ant/1.jpg", "b/zebra/1.jpg", "b/été/1.jpg"]
    write_folder(tmp_path / "in", dict.fromkeys(names, PICTURE))
    report = convert(tmp_path / "in", tmp_path / f"out{suffix}")
    assert report.notes[0] == (
        "classes that differ only in the case of letters: 2 names (Zebra, zebra)"
    )
    store = arraystore.open(tmp_path / f"out{suffix}")
    assert store.info.label_names == store.info.label_words == ("Zebra", "ant", "zebra", "été")
    assert store["a"].label.tolist() == [0, 2]
    assert store["b"].label.tolist() == [1, 2, 3]


@every_suffix
def test_images_of_every_format_keep_their_bytes(suffix: str, tmp_path: Path) -> None:
    files = {
        "a/jpeg.jpg": encoded("JPEG"),
        "a/png.png": encoded("PNG"),
        "a/webp.webp": encoded("WEBP"),
        "b/gif.gif": encoded("GIF"),
        "b/bmp.bmp": encoded("BMP"),
        "b/tiff.tif": encoded("TIFF"),
        "c/cmyk.jpg": cmyk(),
        "c/png.jpg": encoded("PNG"),
    }
    report = convert(write_folder(tmp_path / "in", files), tmp_path / f"out{suffix}")
    train = arraystore.open(tmp_path / f"out{suffix}")["train"]
    assert dict(zip(train.file_name.tolist(), train.image_bytes[:], strict=True)) == files
    assert report.splits["train"].reencoded == ()
    assert train.image_height.tolist() == [18] * len(files)
    assert train.image_width.tolist() == [24] * len(files)
    assert [image.shape for image in train.image[:]] == [(18, 24, 3)] * len(files)


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (24, 18), (10, 20, 30, 40)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_suffix_in_capitals_is_accepted(suffix: str, tmp_path: Path) -> None:
    names = [f"cat/1{suffix}", f"cat/2{suffix.upper()}"]
    source = load(write_folder(tmp_path, dict.fromkeys(names, b"")))
    assert list(source.splits["train"].file_name) == names


def test_hidden_and_system_files_are_counted(tmp_path: Path) -> None:
    hidden = [".DS_Store", ".git/a/1.jpg", "cat/.2.jpg", "cat/._1.jpg", "cat/.thumbs/a/b/1.jpg"]
    system = ["__MACOSX/cat/1.jpg", "cat/Thumbs.db", "@eaDir/cat/1.jpg", "desktop.ini"]
    write_folder(tmp_path, dict.fromkeys(["cat/1.jpg", *hidden, *system], PICTURE))
    source = load(tmp_path)
    assert samples(source) == {"train": [("cat/1.jpg", "cat")]}
    assert source.notes == (
        "9 names (.DS_Store, .git/, @eaDir/, …) hidden or of the system, left out",
    )


def test_other_files_are_counted_in_report(tmp_path: Path) -> None:
    others = ["README", "cat/notes.txt", "cat/movie.mp4", "dog/deep/down/labels.csv", "x/jpg"]
    write_folder(tmp_path / "in", dict.fromkeys(["cat/1.jpg", *others], PICTURE))
    left_out, counted = convert(tmp_path / "in", tmp_path / "out.h5").notes
    assert left_out.endswith("left out, as neither splits nor classes: 2 names (dog, x)")
    names = "5 names (README, cat/movie.mp4, cat/notes.txt, …)"
    assert counted == f"{names} without the suffix of an image, left out"


def test_links_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"there/dog/1.jpg": PICTURE, "in/cat/1.jpg": PICTURE})
    (tmp_path / "in" / "dog").symlink_to(tmp_path / "there" / "dog")
    (tmp_path / "in" / "cat" / "2.jpg").symlink_to("1.jpg")
    found = [("cat/1.jpg", "cat"), ("cat/2.jpg", "cat"), ("dog/1.jpg", "dog")]
    assert samples(load(tmp_path / "in"))["train"] == found


def test_split_without_images_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/cat/1.jpg": PICTURE})
    (tmp_path / "test").mkdir()
    (tmp_path / "validation" / "dog").mkdir(parents=True)
    source = load(tmp_path)
    assert (list(source.splits), source.label_name) == (["train"], ("cat",))
    (note,) = source.notes
    assert note == (
        "folders without an image are left out, as neither splits nor classes: 2 names (test, "
        "validation)"
    )


@every_suffix
def test_class_without_images_has_label(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE, "dog/1.jpg": PICTURE})
    (tmp_path / "in" / "cow").mkdir()
    report = convert(tmp_path / "in", tmp_path / f"out{suffix}")
    assert report.notes == ("classes without an image: 1 name (cow)",)
    store = arraystore.open(tmp_path / f"out{suffix}")
    assert store.label_names == ("cat", "cow", "dog")
    assert store["train"].label.tolist() == [0, 2]


@every_suffix
def test_single_image_is_converted(suffix: str, tmp_path: Path) -> None:
    convert(write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE}), tmp_path / f"out{suffix}")
    (sample,) = arraystore.open(tmp_path / f"out{suffix}")["train"]
    assert (sample.label, sample.file_name) == (0, "cat/1.jpg")


def test_data_set_has_name_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "my pets", {"cat/1.jpg": PICTURE, "cat/2.jpg": PICTURE})
    monkeypatch.chdir(folder)
    for root in (folder, Path(), Path("..", "my pets")):
        source = load(root)
        assert (source.name, source.config, source.version) == ("my pets", "", "")
        assert source.origins == (("my pets", 2 * len(PICTURE)),)


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE})
    report = arraystore.convert("folder:~/in", "~/out.h5", sync=False)
    assert report.splits["train"].num_samples == 1
    assert (tmp_path / "out.h5").exists()


# Names


ODD_NAMES: Final = [
    "été/été.jpg",
    "e\u0301te\u0301/decomposed.jpg",
    "猫/猫 1.jpg",
    "🐈/🐈\u200d⬛.jpg",
    "with space/ a b .jpg",
    "quotes/'it''s' \"so\".jpg",
    "lines/one\ntwo\r.jpg",
    "tab\t/\t.jpg",
    "back\\slash/a\\b.jpg",
    "percent%2F/%00.jpg",
    "star*/[a]?.jpg",
    "-rf/--help.jpg",
    "colon:/a:b.jpg",
    "x/" + "n" * 251 + ".jpg",
    "~/~.jpg",
]


@every_suffix
def test_unusual_names_are_kept(suffix: str, tmp_path: Path) -> None:
    files = {name: picture(seed=k) for k, name in enumerate(ODD_NAMES)}
    convert(write_folder(tmp_path / "in", files), tmp_path / f"out{suffix}")
    store = arraystore.open(tmp_path / f"out{suffix}")
    assert stored_samples(store) == {name: (class_of(name), data) for name, data in files.items()}


def class_of(name: str) -> str:
    return unicodedata.normalize("NFC", name.partition("/")[0])


def stored_samples(store: arraystore.Store) -> dict[str, tuple[str, bytes]]:
    train = store["train"]
    rows = zip(train.file_name.tolist(), train.label.tolist(), train.image_bytes[:], strict=True)
    return {name: (store.label_names[label], data) for name, label, data in rows}


parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
visible = parts.filter(
    lambda part: part[0] != "." and not is_junk(part) and len(part.encode()) < 200
)


@every_suffix
@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.sets(st.tuples(visible, visible), min_size=1, max_size=6))
def test_random_names_are_kept(
    suffix: str, names: set[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    files = {f"{of}/{name}.jpg": PICTURE for of, name in names}
    # Hypothesis also draws names such as "train", which only a stated layout accepts as classes.
    write_folder(folder / "in", files)
    convert(folder / "in", folder / f"out{suffix}", layout="class/file")
    expected = {name: (class_of(name), data) for name, data in files.items()}
    assert stored_samples(arraystore.open(folder / f"out{suffix}")) == expected


@every_suffix
@pytest.mark.parametrize("name", ["val-2", "a.b", "_x", "c", "0", "sample", "TRAIN", "class_"])
def test_split_has_name_of_folder(name: str, suffix: str, tmp_path: Path) -> None:
    files = {f"{name}/cat/1.jpg": PICTURE, "train/cat/1.jpg": PICTURE, "train/dog/1.jpg": PICTURE}
    convert(write_folder(tmp_path / "in", files), tmp_path / f"out{suffix}")
    store = arraystore.open(tmp_path / f"out{suffix}")
    assert set(store) == {name, "train"}
    assert store[name].file_name.tolist() == ["cat/1.jpg"]


@pytest.mark.parametrize(
    "name",
    ["label_name", "label_words", "selections", "class", "a+b", "a b", "été", "a[1]", "zarr.json"],
)
def test_invalid_split_name_raises(name: str) -> None:
    message = f"in: a split cannot be named {name!r}: use letters, digits, '_', '-' and '.'"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        arrange("in", listing_of([f"{name}/cat/1.jpg"]), "split/class/file")


@pytest.mark.parametrize("name", [b"\xff.jpg", b"caf\xe9/1.jpg", b"\xed\xa0\x80.jpg"])
def test_name_that_is_not_utf_8_can_be_skipped(name: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"train/cat/1.jpg": PICTURE})
    path = Path(os.fsdecode(os.fsencode(tmp_path / "in/train/cat") + b"/../" + name))
    if b"/" not in name:
        path = Path(os.fsdecode(os.fsencode(tmp_path / "in/train/cat") + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PICTURE)
    shown = (name if b"/" in name else b"cat/" + name).decode(errors="backslashreplace")
    message = f": {shown}: file names must be UTF-8; rename it (in train); pass on_error='skip'"
    with pytest.raises(SourceError, match=re.escape(message)):
        convert(tmp_path / "in", tmp_path / "out.h5")
    report = convert(tmp_path / "in", tmp_path / "out.h5", on_error="skip")
    (skipped,) = report.splits["train"].skipped
    assert skipped == (shown, "file names must be UTF-8; rename it")
    assert arraystore.open(tmp_path / "out.h5")["train"].file_name.tolist() == ["cat/1.jpg"]


# Errors


def test_pipe_raises_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE})
    os.mkfifo(tmp_path / "in" / "cat" / "fifo.jpg")
    real = os.open

    def spy(path: str, *args: Any, **kwargs: Any) -> int:
        assert not str(path).endswith("fifo.jpg"), "opening it would wait for ever"
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", spy)
    with pytest.raises(SourceError, match=r"fifo\.jpg"):
        convert(tmp_path / "in", tmp_path / "out.h5")


def test_image_that_cannot_be_read_can_be_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE, "dog/2.jpg": PICTURE})
    (folder / "cat" / "0.jpg").symlink_to("absent.jpg")
    os.mkfifo(folder / "dog" / "3.jpg")
    message = (
        f"{folder}: sample 0: cat/0.jpg: is a broken link; 1 more in train: 1 name "
        "(dog/3.jpg); pass on_error='skip'"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        convert(folder, tmp_path / "out.h5")
    report = convert(folder, tmp_path / "out.h5", on_error="skip")
    assert report.splits["train"].skipped == (
        ("cat/0.jpg", "is a broken link"),
        ("dog/3.jpg", "is a pipe or device"),
    )
    train = arraystore.open(tmp_path / "out.h5")["train"]
    assert train.file_name.tolist() == ["cat/1.jpg", "dog/2.jpg"]
    assert train.label.tolist() == [0, 1]
    assert arraystore.verify(tmp_path / "out.h5", source=folder).problems == ()


@pytest.mark.parametrize(
    ("link", "to", "reason"),
    [
        ("cat/up", "..", "is a link to a folder above it"),
        ("dog", "absent", "is a broken link"),
        ("dog", "dog", "is a link that cannot be followed: Too many levels of symbolic links"),
    ],
)
def test_link_that_may_be_a_class_raises(link: str, to: str, reason: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE})
    (folder / link).symlink_to(to)
    message = f"{folder}/{link}: {reason}; restore or remove it, or pass on_error='skip'"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load(folder)
    report = convert(folder, tmp_path / "out.h5", on_error="skip")
    assert report.notes == (f"{reason}; left out: 1 name ({link})",)
    assert arraystore.verify(tmp_path / "out.h5", source=folder).problems == ()


def test_links_to_each_other_end(tmp_path: Path) -> None:
    write_folder(tmp_path, {"in/cat/1.jpg": PICTURE, "there/2.txt": b""})
    (tmp_path / "in" / "cat" / "there").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "in" / "cat")
    with pytest.raises(SourceError, match=r"in/cat/there/back: is a link to a folder above it"):
        load(tmp_path / "in")


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE, "dog/2.jpg": PICTURE})
    real = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        SourceError, match=r"in/dog: is a folder that cannot be listed: Permission den"
    ):
        load(folder)
    source = load(folder, SourceOptions(skips_unreadable=True))
    assert source.label_name == ("cat", "dog")
    assert source.notes == (
        "classes without an image: 1 name (dog)",
        "is a folder that cannot be listed: Permission denied; left out: 1 name (dog)",
    )


def test_missing_folder_raises(tmp_path: Path) -> None:
    message = re.escape(f"{tmp_path / 'absent'}: is not a folder; folder:PATH needs split/class")
    with pytest.raises(FileNotFoundError, match=message):
        load(tmp_path / "absent")


def test_file_instead_of_folder_raises(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1.jpg": PICTURE})
    message = re.escape(f"{tmp_path / '1.jpg'}: is not a folder; folder:PATH needs split/class")
    with pytest.raises(NotADirectoryError, match=message):
        load(tmp_path / "1.jpg")


# Targets


def paths_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@every_suffix
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["in", "in/a", "in/cat/a", "in/no/such/a", "link/a"])
def test_target_inside_source_raises(
    target: str, suffix: str, overwrite: bool, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / f"in{suffix}", {"cat/1.jpg": PICTURE, "zarr.json": b"{}"})
    (tmp_path / "in").symlink_to(folder.name)
    (tmp_path / "link").symlink_to("in/cat")
    before = paths_below(tmp_path)
    with pytest.raises(ValueError, match=rf"{suffix}: lies in the source .*/in; "):
        arraystore.convert(
            f"folder:{tmp_path}/in", tmp_path / f"{target}{suffix}", overwrite=overwrite
        )
    assert paths_below(tmp_path) == before


def test_target_around_source_raises(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.zarr"
    folder = write_folder(target / "in", {"cat/1.jpg": PICTURE})
    convert(write_folder(tmp_path / "other", {"cat/1.jpg": PICTURE}), tmp_path / "b.zarr")
    (tmp_path / "b.zarr" / "zarr.json").rename(target / "zarr.json")
    with pytest.raises(ValueError, match=r"a\.zarr: contains the source .*/in; "):
        arraystore.convert(f"folder:{folder}", target, overwrite=True)
    assert (folder / "cat" / "1.jpg").read_bytes() == PICTURE


@every_suffix
def test_target_with_prefix_of_source_name(suffix: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE})
    assert convert(folder, tmp_path / f"in{suffix}").splits["train"].num_samples == 1


@pytest.mark.parametrize(("cached", "n_probers"), [(True, 1), (False, 2)])
def test_number_of_probing_threads(
    cached: bool, n_probers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []

    class Noting(Workers):
        def __init__(self, executor: Any, *, n_threads: int, max_in_flight: int) -> None:
            pools.append(n_threads)
            super().__init__(executor, n_threads=n_threads, max_in_flight=max_in_flight)

    def probe(file: OpenFile, offset: int, *, unknown: bool) -> bool:
        return cached or unknown

    monkeypatch.setattr(plan, "Workers", Noting)
    monkeypatch.setattr(OpenFile, "is_cached", probe)
    source = write_folder(tmp_path / "photos", {"a/0.png": picture(), "a/1.png": picture()})
    arraystore.convert(f"folder:{source}", tmp_path / "a.h5", sync=False)
    assert pools == [n_probers]


def test_missing_folder_prefix_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError, match=r"'photos' \(to convert the folder, give folder:photos\)"
    ):
        arraystore.convert("photos", tmp_path / "a.zarr")


def test_linked_image_has_size_of_its_file(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE})
    (source / "cat" / "2.jpg").symlink_to(source / "cat" / "1.jpg")
    assert load(source).splits["train"].nbytes.tolist() == [len(PICTURE)] * 2


# Layouts, classes and label spaces


def labels_of(store: arraystore.Store, split: str = "train") -> dict[str, int]:
    found = store[split]
    return dict(zip(found.file_name.tolist(), found.label.tolist(), strict=True))


def test_image_without_permission_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE, "dog/2.jpg": PICTURE})
    real = os.open

    def refusing(path: str, *args: Any, **options: Any) -> int:
        if str(path).endswith("2.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(
        SourceError, match=r"in/dog/2\.jpg: cannot be read: Permission denied \(in train\); pass"
    ):
        convert(folder, tmp_path / "a.h5")
    report = convert(folder, tmp_path / "a.h5", on_error="skip")
    assert report.splits["train"].skipped == (("dog/2.jpg", "cannot be read: Permission denied"),)


@pytest.mark.parametrize(
    ("layout", "names", "expected"),
    [
        ("split/file", ["val/1.jpg"], {"val": {"1.jpg": -1}}),
        ("file", ["1.jpg", "2.jpg"], {"train": {"1.jpg": -1, "2.jpg": -1}}),
        ("class/**/file", ["b/x/1.jpg", "a/2.jpg"], {"train": {"b/x/1.jpg": 1, "a/2.jpg": 0}}),
        (None, ["train/a/1.jpg", "test/2.jpg"], {"test": {"2.jpg": -1}, "train": {"a/1.jpg": 0}}),
    ],
)
def test_stores_of_layouts(
    layout: str | None, names: list[str], expected: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "in", dict.fromkeys(names, PICTURE))
    target = tmp_path / "a.h5"
    convert(folder, target, layout=layout)
    store = arraystore.open(target)
    assert {split: labels_of(store, split) for split in store} == expected
    assert arraystore.verify(target, source=f"folder:{folder}", layout=layout).problems == ()
    again = convert(folder, target, layout=layout, resume=True)
    assert again.was_complete
    lacks = "the store was complete; it does not record layout"
    not_compared = (f"{lacks}: arraystore verify --source compares the labels",)
    assert again.notes == (not_compared if layout else ())


@every_suffix
def test_nested_classes_are_kinds_of_those_above(suffix: str, tmp_path: Path) -> None:
    names = ["pet/dog/1.jpg", "pet/cat/2.jpg", "farm/cow/3.jpg"]
    folder, target = tmp_path / "in", tmp_path / f"a{suffix}"
    write_folder(folder, dict.fromkeys(names, PICTURE))
    convert(folder, target, layout="class/class/file")
    store = arraystore.open(target)
    assert store.label_names == ("farm/cow", "pet/cat", "pet/dog")
    assert store.label_words == ("cow", "cat", "dog")
    train = store["train"]
    assert train.where(is_a="pet").file_name.tolist() == ["pet/cat/2.jpg", "pet/dog/1.jpg"]
    assert train.where(label="cow").file_name.tolist() == ["farm/cow/3.jpg"]
    assert store.info.format_version == "1.1"
    assert arraystore.verify(target, source=folder, layout="class/class/file").problems == ()
    same = {"layout": "class/class/file", "label_space": "own", "resume": True}
    assert convert(folder, target, **same).was_complete
    classes = ["pet/dog", "pet/cat", "farm/cow"]
    convert(folder, target, layout="class/class/file", classes=classes, overwrite=True)
    assert arraystore.open(target).is_a("pet").tolist() == [0, 1]


def test_table_of_classes_gives_order_and_hierarchy(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", dict.fromkeys(["cat/1.jpg", "owl/2.jpg"], PICTURE))
    (folder / "ant").mkdir()
    (folder / "bee").mkdir()
    table = tmp_path / "classes.tsv"
    table.write_text("name\tparent\nowl\tanimal\ncat\tanimal\nbee\tanimal\n")
    report = convert(folder, tmp_path / "a.h5", classes=table)
    store = arraystore.open(tmp_path / "a.h5")
    assert store.label_names == ("owl", "cat", "bee")
    assert labels_of(store) == {"cat/1.jpg": 1, "owl/2.jpg": 0}
    assert len(store["train"].where(is_a="animal")) == 2
    assert report.notes == (
        "folders without an image that are not among the classes: 1 name (ant)",
    )
    assert arraystore.verify(tmp_path / "a.h5", source=folder, classes=table).problems == ()
    (problem,) = arraystore.verify(
        tmp_path / "a.h5", source=folder, classes=["owl", "cat", "bee"]
    ).problems
    assert "hierarchy" in problem.key


def test_class_that_is_not_stated_raises(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", dict.fromkeys(["cat/1.jpg", "dgo/2.jpg"], PICTURE))
    message = f"{folder}: folder dgo: label 'dgo' is not among the 2 classes (cat, dog); did you"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        convert(folder, tmp_path / "a.h5", classes=["cat", "dog"])


def test_classes_that_are_numbers_are_reported(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "in", dict.fromkeys(["1/1.jpg", "2/2.jpg", "10/3.jpg"], PICTURE)
    )
    report = convert(folder, tmp_path / "a.h5")
    (note,) = report.notes
    assert note == (
        "the classes are numbers, but not the labels: classes are sorted as text, so folder 1 has "
        "label 0; pass classes=11 (--classes) if the numbers are the labels, a list of the classes "
        "in their order, or label_space='imagenet2012'"
    )
    assert labels_of(arraystore.open(tmp_path / "a.h5")) == {
        "1/1.jpg": 0,
        "10/3.jpg": 1,
        "2/2.jpg": 2,
    }
    for options in ({"classes": 11}, {"label_space": "imagenet2012"}):
        report = convert(folder, tmp_path / "a.h5", **options, overwrite=True)
        assert labels_of(arraystore.open(tmp_path / "a.h5")) == {
            "1/1.jpg": 1,
            "2/2.jpg": 2,
            "10/3.jpg": 10,
        }
        assert not any("sorted as text" in note for note in report.notes)


@pytest.mark.parametrize("names", [["0", "1", "2"], ["00", "01", "02"]])
def test_numbers_in_their_order_are_not_reported(names: list[str], tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{name}/1.jpg": PICTURE for name in names})
    source = load(tmp_path)
    assert source.notes == ()
    assert source.splits["train"].label.tolist() == [0, 1, 2]


def test_class_in_two_normal_forms_is_one(tmp_path: Path) -> None:
    names = ["train/café/1.jpg", "train/bee/2.jpg", "val/cafe\u0301/3.jpg"]
    source = load(write_folder(tmp_path, dict.fromkeys(names, PICTURE)))
    assert source.label_name == ("bee", "café")
    assert samples(source) == {
        "train": [("bee/2.jpg", "bee"), ("café/1.jpg", "café")],
        "val": [("cafe\u0301/3.jpg", "café")],
    }
    assert "merged" in source.notes[0]


def test_interrupted_conversion_of_another_layout_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "in", dict.fromkeys(["a/1.jpg", "b/2.jpg"], PICTURE))
    target = tmp_path / "a.zarr"

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    options = {"layout": "class/**/file", "resume": True, "sync": True}
    with monkeypatch.context() as patch:
        patch.setattr("arraystore.writing.local.LocalStoreWriter.sealing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(folder, target, **options)
    with pytest.raises(ValueError, match="option layout is split/file, but was class/"):
        convert(folder, target, **{**options, "layout": "split/file"})
    assert convert(folder, target, **options).splits["train"].num_samples == 2


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("folder:.", {"fields": {"label": "x"}}, "folder:PATH: does not take fields"),
        ("csv:a.csv", {"layout": "file"}, "csv:PATTERN: does not take layout"),
        ("imagenet2012", {"layout": "file"}, "imagenet2012: does not take layout"),
    ],
)
def test_option_of_another_source_is_refused(
    dataset: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"^{message}$"):
        arraystore.convert(dataset, tmp_path / "a.h5", **options)


def test_command_prints_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": PICTURE, "__MACOSX/cat/._1.jpg": b""})
    arguments = ["convert", f"folder:{folder}", str(tmp_path / "a.h5")]
    assert main(arguments) == 0
    assert "1 name (__MACOSX/) hidden or of the system, left out" in capsys.readouterr().out
    assert main([*arguments, "--overwrite", "--layout", "split/file"]) == 0
    assert list(arraystore.open(tmp_path / "a.h5")) == ["cat"]
    assert main([*arguments, "--overwrite", "--layout", "x"]) == 1
    assert "layout must be split/class/file" in capsys.readouterr().err
