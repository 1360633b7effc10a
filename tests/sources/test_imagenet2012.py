"""ImageNet's archives as a source: labels, versions, re-encoding, errors."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import re
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from typing_extensions import override

import arraystore
from arraystore.cli.commands import main
from arraystore.cli.synthetic_archives import draw, encode
from arraystore.errors import SourceError
from arraystore.images import decode as image
from arraystore.reading.read_ahead import ahead
from arraystore.sources import imagenet2012, subset_list
from arraystore.sources.imagenet2012 import TEST_ARCHIVE, TRAIN_ARCHIVE, VALIDATION_ARCHIVE
from arraystore.sources.imagenet2012_names import SPLIT_SIZES
from arraystore.sources.imagenet2012_tables import validation_labels, wnids, words
from arraystore.sources.registry import load_source
from arraystore.storage.open_files import OpenFile
from tests.support import SUFFIXES, picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives
    from arraystore.sources.sample_table import Source

    Classes = Mapping[str, Mapping[str, bytes]]

SUBSET: Final = "imagenet2012_subset/1pct"
VERSIONS: Final = ("2.0.0", "2.0.1", "3.0.0", "5.0.0", "5.1.0")
KNOWN: Final = f"known are {', '.join(VERSIONS)} (default 5.0.0)"
LIST: Final = "1percent.txt"

FEW: Final = [wnids()[label] for label in (3, 500, 999)]
TRAIN: Final = {
    wnid: {f"{wnid}_{number}.JPEG": picture(seed=10 * k + number) for number in (4, 17)}
    for k, wnid in enumerate(FEW)
}
TRAIN_NAMES: Final = [name for members in TRAIN.values() for name in members]
VALIDATION: Final = {
    f"ILSVRC2012_val_{number:08d}.JPEG": picture(seed=100 + number)
    for number in (1, 2, 3, 4, 25_000, 50_000)
}
VALIDATION_1_TO_4: Final = dict(list(VALIDATION.items())[:4])
TEST: Final = {
    f"ILSVRC2012_test_{number:08d}.JPEG": picture(seed=number) for number in (1, 100_000)
}

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """Pack an archive; a name with a slash at its end is a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def train_tar(classes: Classes) -> bytes:
    return tar_of({f"{wnid}.tar": tar_of(members) for wnid, members in classes.items()})


def pack(
    folder: Path,
    train: bytes | Classes = TRAIN,
    validation: bytes | Mapping[str, bytes] = VALIDATION,
    listed: list[str] | None = TRAIN_NAMES,
) -> Path:
    """Write the archives and the list of the 1 % beside them."""
    folder.mkdir(exist_ok=True)
    outer = train if isinstance(train, bytes) else train_tar(train)
    flat = validation if isinstance(validation, bytes) else tar_of(validation)
    (folder / TRAIN_ARCHIVE).write_bytes(outer)
    (folder / VALIDATION_ARCHIVE).write_bytes(flat)
    if listed is not None:
        (folder / LIST).write_text("".join(f"{name}\n" for name in listed))
    return folder


def labels(source: Source, split: str) -> dict[str, int]:
    table = source.splits[split]
    return dict(zip(table.file_name, table.label.tolist(), strict=True))


def stored_bytes(source: Source, split: str) -> dict[str, bytes]:
    """Read the byte ranges in the table."""
    table = source.splits[split]
    files = [source.files[i].read_bytes() for i in table.file]
    ranges = zip(table.file_name, files, table.offset, table.nbytes, strict=True)
    return {name: data[start : start + nbytes] for name, data, start, nbytes in ranges}


def as_cmyk(label: int, number: int) -> bytes:
    return encode(draw(label, number).convert("CMYK"))


# Labels


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_follow_names(store: arraystore.Store, drawn: DrawnArchives, split: str) -> None:
    expected = {
        "train": [wnids().index(name.partition("_")[0]) for name in sorted(drawn.train)],
        "validation": validation_labels()[: len(drawn.validation)].tolist(),
    }
    found = store[split]
    order = np.argsort(found.file_name)
    assert found.file_name[order].tolist() == sorted(getattr(drawn, split))
    assert found.label[order].tolist() == expected[split]


def test_classes_are_wnids_and_words(store: arraystore.Store) -> None:
    assert store.info.label_names == wnids()
    assert store.info.label_words == words()


@pytest.mark.parametrize("before", ["", "./", "val/", "./ILSVRC2012/val/"])
def test_validation_labels_are_independent_of_order(before: str, tmp_path: Path) -> None:
    shuffled = {before + name: VALIDATION[name] for name in reversed(VALIDATION)}
    folders = {"./": b"", **({before: b""} if before else {})}
    folder = pack(tmp_path, validation=tar_of(folders | shuffled))
    source = load_source(SUBSET, manual_dir=folder, partial=True)
    assert labels(source, "validation") == {
        name: validation_labels()[int(name[15:23]) - 1] for name in VALIDATION
    }
    assert stored_bytes(source, "validation") == VALIDATION


@pytest.mark.parametrize("before", ["", "./", "train/", "./train/"])
@pytest.mark.parametrize("inside", ["", "./", "images/"])
def test_training_labels_are_independent_of_order(before: str, inside: str, tmp_path: Path) -> None:
    inner = {
        wnid: tar_of({"./": b""} | {inside + name: members[name] for name in reversed(members)})
        for wnid, members in TRAIN.items()
    }
    outer = {"./": b"", **({before: b""} if before else {})}
    outer |= {f"{before}{wnid}.tar": inner[wnid] for wnid in reversed(inner)}
    folder = pack(tmp_path, train=tar_of(outer))
    source = load_source(SUBSET, manual_dir=folder, partial=True)
    assert labels(source, "train") == {
        name: wnids().index(wnid) for wnid, members in TRAIN.items() for name in members
    }
    assert stored_bytes(source, "train") == {n: d for m in TRAIN.values() for n, d in m.items()}


@every_suffix
def test_label_order_is_independent_of_archive_order(suffix: str, tmp_path: Path) -> None:
    assert sorted(TRAIN_NAMES) != TRAIN_NAMES  # _17 stands before _4
    reverse = dict(reversed(TRAIN.items()))
    folder, target = pack(tmp_path, reverse), tmp_path / f"a{suffix}"
    arraystore.convert(SUBSET, target, manual_dir=folder, partial=True, order="label", sync=False)
    assert arraystore.open(target)["train"].file_name.tolist() == sorted(TRAIN_NAMES)


# Names, configs, versions


@every_suffix
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_recorded(version: str, suffix: str, tmp_path: Path) -> None:
    folder, target = pack(tmp_path), tmp_path / f"a{suffix}"
    report = arraystore.convert(
        f"{SUBSET}:{version}", target, manual_dir=folder, partial=True, sync=False
    )
    info = arraystore.open(target).info
    assert (info.name, info.config, info.version) == ("imagenet2012_subset", "1pct", version)
    assert report.dataset == info.full_name == f"{SUBSET}:{version}"


def test_default_config_and_version(tmp_path: Path) -> None:
    source = load_source("imagenet2012_subset", manual_dir=pack(tmp_path), partial=True)
    assert (source.config, source.version) == ("1pct", "5.0.0")


@pytest.mark.parametrize(("config", "file_name"), [("1pct", LIST), ("10pct", "10percent.txt")])
def test_subset_holds_images_of_its_list(config: str, file_name: str, tmp_path: Path) -> None:
    folder = pack(tmp_path, listed=None)
    (folder / file_name).write_text("\n".join(TRAIN_NAMES[1:4]))
    source = load_source(f"imagenet2012_subset/{config}", manual_dir=folder, partial=True)
    assert sorted(labels(source, "train")) == sorted(TRAIN_NAMES[1:4])
    assert sorted(labels(source, "validation")) == sorted(VALIDATION)


def test_whole_data_set_needs_no_list(tmp_path: Path) -> None:
    folder = pack(tmp_path, listed=None)
    source = load_source("imagenet2012", manual_dir=folder, partial=True)
    assert (source.name, source.config) == ("imagenet2012", "")
    assert sorted(labels(source, "train")) == sorted(TRAIN_NAMES)


@every_suffix
def test_version_5_1_0_adds_unlabelled_test_split(suffix: str, tmp_path: Path) -> None:
    folder, target = pack(tmp_path), tmp_path / f"a{suffix}"
    (folder / TEST_ARCHIVE).write_bytes(
        tar_of({"./": b"", "test/": b""} | {f"test/{name}": TEST[name] for name in TEST})
    )
    arraystore.convert(f"{SUBSET}:5.1.0", target, manual_dir=folder, partial=True, sync=False)
    store = arraystore.open(target)
    assert list(store) == ["train", "validation", "test"]
    assert store["test"].label.tolist() == [-1] * len(TEST)
    found = zip(store["test"].file_name.tolist(), store["test"].image_bytes[:], strict=True)
    assert dict(found) == TEST


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_earlier_versions_have_no_test_split(version: str, tmp_path: Path) -> None:
    folder = pack(tmp_path)
    (folder / TEST_ARCHIVE).write_bytes(tar_of(TEST))
    source = load_source(f"{SUBSET}:{version}", manual_dir=folder, partial=True)
    assert list(source.splits) == ["train", "validation"]


@pytest.mark.parametrize("name", ["imagenet", "", "imagenet2012:", "imagenet2012_subset/", "a/b/c"])
def test_unknown_data_set_raises(name: str) -> None:
    known = (
        "imagenet2012_subset/1pct, imagenet2012_subset/10pct, imagenet2012, "
        "imagenet_v2/matched-frequency, imagenet_v2/threshold-0.7, imagenet_v2/top-images, "
        "imagenet_a, imagenet_r, imagenet_sketch, imagenet2012_corrupted/TYPE_SEVERITY, "
        "imagenet2012_real, folder:PATH, "
        "wds:PATTERN, tfrecord:PATTERN, parquet:PATTERN, array_record:PATTERN, csv:FILE, tsv:FILE"
    )
    message = f"unknown data set {name!r}; known are {known}"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        load_source(name)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "imagenet2012_subset/5pct",
            "imagenet2012_subset: unknown config '5pct'; known are 1pct, 10pct",
        ),
        ("imagenet2012/1pct", "imagenet2012: has no configs, got '1pct'"),
        ("imagenet2012:4.0.0", f"imagenet2012: unknown version '4.0.0'; {KNOWN}"),
        ("imagenet2012_subset/10pct:5", f"imagenet2012_subset: unknown version '5'; {KNOWN}"),
    ],
)
def test_unknown_config_or_version_raises(dataset: str, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        load_source(dataset)


@every_suffix
def test_unknown_data_set_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unknown data set"):
        arraystore.convert("imagenet", tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


# Re-encoding


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of odd images, with a plain one in each split."""
    wnid = FEW[0]
    train = {
        f"{wnid}_1.JPEG": as_cmyk(3, 1),
        f"{wnid}_2.JPEG": encode(draw(3, 2), "PNG"),
        f"{wnid}_3.JPEG": encode(draw(3, 3).convert("L")),
        f"{wnid}_4.JPEG": encode(draw(3, 4)),
        f"{wnid}_5.JPEG": encode(draw(3, 5).convert("L"), "PNG"),
    }
    validation = {
        "ILSVRC2012_val_00000001.JPEG": as_cmyk(4, 1),
        "ILSVRC2012_val_00000002.JPEG": encode(draw(4, 2)),
    }
    folder = tmp_path_factory.mktemp("odd")
    return pack(folder, {wnid: train}, validation, listed=list(train))


REENCODED: Final = (
    *(f"{FEW[0]}_{number}.JPEG" for number in (1, 2, 5)),
    "ILSVRC2012_val_00000001.JPEG",
)


@every_suffix
@pytest.mark.parametrize("version", VERSIONS)
def test_odd_images_are_reencoded_from_3_0_0_on(
    version: str, suffix: str, odd: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(
        f"imagenet2012:{version}", target, manual_dir=odd, partial=True, sync=False
    )
    expected = () if version.startswith("2.") else REENCODED
    assert tuple(n for split in report.splits.values() for n in split.reencoded) == expected
    store = arraystore.open(target)
    assert store.info.reencoded == expected
    source = load_source("imagenet2012", manual_dir=odd, partial=True)
    for name in ("train", "validation"):
        split, original = store[name], stored_bytes(source, name)
        changed = [
            file_name
            for file_name, data in zip(split.file_name, split.image_bytes[:], strict=True)
            if data != original[file_name]
        ]
        assert sorted(changed) == sorted(set(expected) & set(original))


@every_suffix
@pytest.mark.parametrize("name", REENCODED)
def test_reencoded_image_looks_the_same(name: str, suffix: str, odd: Path, tmp_path: Path) -> None:
    target = tmp_path / f"a{suffix}"
    arraystore.convert("imagenet2012", target, manual_dir=odd, partial=True, sync=False)
    split = "validation" if "val" in name else "train"
    found = arraystore.open(target)[split]
    position = found.file_name.tolist().index(name)
    data = found.image_bytes[position]
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.mode) == ("JPEG", "RGB")
        assert isinstance(opened, JpegImageFile)
        assert set(opened.quantization[0]) == {1}  # quality 100
    source = load_source("imagenet2012", manual_dir=odd, partial=True)
    before = image.decode(stored_bytes(source, split)[name])
    after = found.image[position].astype(np.int16)
    # TensorFlow's fast DCT, with which CMYK is decoded here, is off by nearly two.
    assert np.abs(after.mean(axis=2) - before.mean(axis=2)).mean() < 2.5
    assert np.abs(after - before).mean() < 3  # of the colours, JPEG keeps half the resolution
    size = int(found.image_height[position]), int(found.image_width[position])
    assert size == before.shape[:2]
    assert found.image_crc32c[position] == arraystore._checksum.crc32c(data)


def test_odd_images_are_found_by_content(store: arraystore.Store, drawn: DrawnArchives) -> None:
    assert set(store.info.reencoded) == {drawn.cmyk, drawn.png}


@every_suffix
def test_undecodable_png_is_named(suffix: str, tmp_path: Path) -> None:
    name = f"{FEW[0]}_1.JPEG"
    png = encode(draw(3, 1), "PNG")
    train = tar_of({f"{FEW[0]}.tar": tar_of({name: png[: len(png) // 2]})})
    folder, target = pack(tmp_path, train, listed=[name]), tmp_path / f"a{suffix}"
    place = re.escape(f"{TRAIN_ARCHIVE}: {name} (at byte 1,024): cannot be decoded: ")
    with pytest.raises(SourceError, match=place):
        arraystore.convert(SUBSET, target, manual_dir=folder, partial=True)
    arraystore.convert(SUBSET, target, manual_dir=folder, partial=True, on_error="skip", sync=False)
    info = arraystore.open(target).info
    assert [row["file_name"] for row in info.skipped] == [name]
    assert info.reencoded == ()


# Missing parts


@pytest.mark.parametrize("partial", [False, True])
def test_missing_archives_are_named(partial: bool, tmp_path: Path) -> None:
    (tmp_path / LIST).write_text(TRAIN_NAMES[0])
    missing = re.escape(f"{tmp_path}: {TRAIN_ARCHIVE} and {VALIDATION_ARCHIVE} not found; ")
    with pytest.raises(
        SourceError, match=rf"^{missing}.*image-net.org.* manual_dir \(--manual-dir\)$"
    ):
        load_source(SUBSET, manual_dir=tmp_path, partial=partial)


@pytest.mark.parametrize("archive", [TRAIN_ARCHIVE, VALIDATION_ARCHIVE])
def test_missing_archive_is_named(archive: str, tmp_path: Path) -> None:
    (pack(tmp_path) / archive).unlink()
    with pytest.raises(SourceError, match=f"{re.escape(f'{tmp_path}: {archive}')} not found; "):
        load_source(SUBSET, manual_dir=tmp_path)


def test_version_5_1_0_needs_test_archive(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f": {TEST_ARCHIVE} not found; "):
        load_source(f"{SUBSET}:5.1.0", manual_dir=pack(tmp_path))


@every_suffix
@pytest.mark.parametrize(
    ("archive", "left"), [(TRAIN_ARCHIVE, "validation"), (VALIDATION_ARCHIVE, "train")]
)
def test_partial_leaves_out_split_of_missing_archive(
    archive: str, left: str, suffix: str, tmp_path: Path
) -> None:
    (pack(tmp_path) / archive).unlink()
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(SUBSET, target, manual_dir=tmp_path, partial=True, sync=False)
    store = arraystore.open(target)
    assert list(store) == [left]
    assert report.partial
    assert store.info.partial


def test_missing_validation_images_are_named(tmp_path: Path) -> None:
    counts = re.escape(f"{VALIDATION_ARCHIVE}: 6 images found, expected 50,000; ")
    names = r"missing: 49,994 names \(ILSVRC2012_val_00000005.JPEG, .*_00000007.JPEG, …\); "
    with pytest.raises(SourceError, match=f"^{counts}{names}pass partial=True"):
        load_source(SUBSET, manual_dir=pack(tmp_path))


def test_missing_training_images_are_counted(tmp_path: Path) -> None:
    counts = re.escape(f"{TRAIN_ARCHIVE}: 6 images found, expected 1,281,167; pass partial")
    with pytest.raises(SourceError, match=f"^{counts}"):
        load_source("imagenet2012", manual_dir=pack(tmp_path))


@pytest.mark.parametrize(("n_gone", "more"), [(5, ", …"), (3, "")])
def test_missing_listed_images_are_named(n_gone: int, more: str, tmp_path: Path) -> None:
    gone = [f"{FEW[1]}_{1000 + number}.JPEG" for number in range(n_gone)]
    folder = pack(tmp_path, listed=[*gone, *TRAIN_NAMES])
    names = f"{n_gone} names ({', '.join(gone[:3])}{more})"
    message = f"{TRAIN_ARCHIVE}: {names} listed in {LIST} not found; pass partial=True"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load_source(SUBSET, manual_dir=folder)


@every_suffix
def test_store_without_listed_image_is_partial(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPLIT_SIZES, "validation", len(VALIDATION_1_TO_4))
    listed = [*TRAIN_NAMES, "n01440764_1.JPEG"]
    folder = pack(tmp_path, validation=VALIDATION_1_TO_4, listed=listed)
    report = arraystore.convert(
        SUBSET, tmp_path / f"a{suffix}", manual_dir=folder, partial=True, sync=False
    )
    assert report.partial
    assert arraystore.open(tmp_path / f"a{suffix}").info.partial


@every_suffix
@pytest.mark.parametrize("partial", [False, True])
def test_complete_store_is_not_partial(
    partial: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPLIT_SIZES, "validation", len(VALIDATION_1_TO_4))
    folder = pack(tmp_path, validation=VALIDATION_1_TO_4)
    report = arraystore.convert(
        SUBSET, tmp_path / f"a{suffix}", manual_dir=folder, partial=partial, sync=False
    )
    assert not report.partial
    assert not arraystore.open(tmp_path / f"a{suffix}").info.partial


@pytest.mark.parametrize("archive", [TRAIN_ARCHIVE, VALIDATION_ARCHIVE])
def test_archive_without_images_is_incomplete(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"train": len(TRAIN_NAMES), "validation": len(VALIDATION_1_TO_4)}
    monkeypatch.setattr(imagenet2012, "SPLIT_SIZES", sizes)
    folder = pack(tmp_path, validation=VALIDATION_1_TO_4)
    load_source("imagenet2012", manual_dir=folder)  # complete
    (folder / archive).write_bytes(tar_of({}))
    with pytest.raises(SourceError, match=f"^{archive}: 0 images found, expected "):
        load_source("imagenet2012", manual_dir=folder)


def test_default_manual_dir_is_that_of_tfds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets" / "downloads").mkdir(parents=True)
    folder = pack(tmp_path / "tensorflow_datasets" / "downloads" / "manual")
    source = load_source(SUBSET, partial=True)
    assert tuple(source.files) == (folder / TRAIN_ARCHIVE, folder / VALIDATION_ARCHIVE)


@every_suffix
def test_store_records_its_origins(suffix: str, tmp_path: Path) -> None:
    folder, target = pack(tmp_path), tmp_path / f"a{suffix}"
    arraystore.convert(SUBSET, target, manual_dir=folder, partial=True, sync=False)
    names = TRAIN_ARCHIVE, VALIDATION_ARCHIVE, LIST
    info = arraystore.open(target).info
    assert info.sources == tuple((name, (folder / name).stat().st_size) for name in names)
    assert "Russakovsky" in info.citation
    assert "Simple Framework for Contrastive" in info.citation


# Invalid archives


def zeroed(data: bytes, name: str) -> bytes:
    """Zero the header of a member."""
    at = data.index(name.encode())
    return data[:at] + bytes(512) + data[at + 512 :]


LOST: Final = {
    "a validation image": ("ILSVRC2012_val_00000003.JPEG", VALIDATION_ARCHIVE),
    "a test image": ("ILSVRC2012_test_00100000.JPEG", TEST_ARCHIVE),
    "a class": (f"{FEW[1]}.tar", TRAIN_ARCHIVE),
    "an image of a class": (f"{FEW[1]}_17.JPEG", f"{TRAIN_ARCHIVE}/{FEW[1]}.tar"),
}


@pytest.mark.parametrize("lost", LOST)
def test_images_after_lost_header_are_reported(
    lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, location = LOST[lost]
    folder = pack(tmp_path / "in")
    (folder / TEST_ARCHIVE).write_bytes(tar_of(TEST))
    archive = folder / location.partition("/")[0]
    archive.write_bytes(zeroed(archive.read_bytes(), name))
    arguments = ["convert", "imagenet2012:5.1.0", str(tmp_path / "a.h5"), "--manual-dir"]
    arguments.append(str(folder))
    assert main(arguments) == 1
    message = rf"{re.escape(location)}: expected zeros .* cannot be read"
    assert re.search(rf"arraystore: {message}; download the archive again", capsys.readouterr().err)
    assert main([*arguments, "--partial"]) == 0
    printed = capsys.readouterr().out
    assert re.search(message, printed)
    assert "the store is marked as partial" in printed
    assert main(["verify", str(tmp_path / "a.h5"), "--source", str(folder)]) == 1
    assert re.search(f"the source is damaged: {message}", capsys.readouterr().out)


@pytest.mark.parametrize("archive", [TRAIN_ARCHIVE, VALIDATION_ARCHIVE])
def test_truncated_archive_raises(archive: str, tmp_path: Path) -> None:
    whole = (pack(tmp_path) / archive).read_bytes()
    for stop in range(512, len(whole.rstrip(b"\0")) + 512, 1999):
        (tmp_path / archive).write_bytes(whole[:stop])
        with pytest.raises(SourceError, match=rf"^{re.escape(archive)}.*; it is truncated"):
            load_source(SUBSET, manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize("archive", [TRAIN_ARCHIVE, VALIDATION_ARCHIVE])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            gzip.compress,
            "is gzip-compressed, not a plain tar archive; unpack it with gunzip first",
        ),
        (lambda _: b"<!DOCTYPE html><title>Login</title>", "is an HTML page, perhaps a login"),
        (lambda _: b"", "must be a tar archive, but is empty; download it again"),
    ],
    ids=["gzip", "html", "empty"],
)
def test_other_file_than_archive_raises(
    spoil: Any, message: str, archive: str, tmp_path: Path
) -> None:
    path = pack(tmp_path) / archive
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SourceError, match=re.escape(f"{path}: {message}")):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


def test_compressed_class_archive_raises(tmp_path: Path) -> None:
    inner = {f"{wnid}.tar": tar_of(members) for wnid, members in TRAIN.items()}
    inner[f"{FEW[1]}.tar"] = gzip.compress(inner[f"{FEW[1]}.tar"]).ljust(2048, b"?")
    pack(tmp_path, train=tar_of(inner))
    with pytest.raises(SourceError, match=f"^{TRAIN_ARCHIVE}/{FEW[1]}.tar: header at byte .* must"):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize("name", ["n99999999.tar", "n01440764", "n01440764_1.JPEG", "train.tar"])
def test_foreign_member_of_train_archive_raises(name: str, tmp_path: Path) -> None:
    pack(tmp_path, train=tar_of({f"{FEW[0]}.tar": tar_of(TRAIN[FEW[0]]), name: tar_of({})}))
    message = f"{TRAIN_ARCHIVE}/{name}: must be the archive of a class of ILSVRC 2012, such as "
    with pytest.raises(SourceError, match=f"^{re.escape(message)}n01440764.tar; "):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


def test_members_of_the_system_are_counted(tmp_path: Path) -> None:
    inner = {
        f"{wnid}.tar": tar_of({f"._{next(iter(members))}": b"x", **members})
        for wnid, members in TRAIN.items()
    }
    outer = {"._n01440764.tar": b"x", "__MACOSX/._n01440764.tar": b"x", **inner}
    pack(tmp_path, tar_of(outer), {".DS_Store": b"x", **VALIDATION})
    source = load_source(SUBSET, manual_dir=tmp_path, partial=True)
    assert set(source.splits["train"].file_name) == set(TRAIN_NAMES)
    assert set(source.splits["validation"].file_name) == set(VALIDATION)
    train, validation = (note for note in source.notes if "of the system" in note)
    n_junk = len(inner) + 2
    assert train.startswith(f"train: {n_junk} names (._n01440764.tar, ._{TRAIN_NAMES[0]}, ")
    assert validation == "validation: 1 name (.DS_Store) hidden or of the system, left out"


TWICE: Final = TRAIN_NAMES[0]


@pytest.mark.parametrize(
    "train",
    [
        {f"{FEW[0]}.tar": tar_of({TWICE: b"1", f"x/{TWICE}": b"2"})},
        {f"{FEW[0]}.tar": tar_of({TWICE: b"1"}), f"x/{FEW[0]}.tar": tar_of({TWICE: b"1"})},
    ],
    ids=["in one class", "in a class archive that occurs twice"],
)
def test_duplicate_training_image_raises(train: dict[str, bytes], tmp_path: Path) -> None:
    pack(tmp_path, train=tar_of(train))
    message = re.escape(f"{TRAIN_ARCHIVE}: 1 name ({TWICE}) found more than once; ")
    with pytest.raises(SourceError, match=f"^{message}"):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize("name", [f"{FEW[0]}_9.JPEG", "x/n99999999_9.JPEG"])
@pytest.mark.parametrize("dataset", [SUBSET, "imagenet2012"])
def test_image_in_archive_of_another_class_raises(dataset: str, name: str, tmp_path: Path) -> None:
    inner = TRAIN[FEW[1]] | {name: b"1"}
    pack(tmp_path, train=tar_of({f"{FEW[1]}.tar": tar_of(inner)}))
    base = name.rpartition("/")[2]
    message = f"{TRAIN_ARCHIVE}/{FEW[1]}.tar: member {base!r} has the class {base[:9]} in its name"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}, expected {FEW[1]}; download"):
        load_source(dataset, manual_dir=tmp_path, partial=True)


def test_text_in_class_archive_is_skipped(tmp_path: Path) -> None:
    inner = TRAIN[FEW[1]] | {"README": b"some text"}
    pack(tmp_path, train=tar_of({f"{FEW[1]}.tar": tar_of(inner)}))
    options: dict[str, Any] = {"manual_dir": tmp_path, "partial": True, "sync": False}
    match = r"ILSVRC2012_img_train\.tar: README \(at byte .*\): is not an image.*\(in train\)"
    with pytest.raises(SourceError, match=match):
        arraystore.convert("imagenet2012", tmp_path / "a.zarr", **options)
    report = arraystore.convert("imagenet2012", tmp_path / "a.zarr", on_error="skip", **options)
    assert [name for name, _ in report.splits["train"].skipped] == ["README"]
    assert report.splits["train"].num_samples == len(TRAIN[FEW[1]])


def test_duplicate_validation_image_raises(tmp_path: Path) -> None:
    name = next(iter(VALIDATION))
    pack(tmp_path, validation=tar_of(VALIDATION | {f"val/{name}": b"2"}))
    message = re.escape(f"{VALIDATION_ARCHIVE}: 1 name ({name}) found more than once; ")
    with pytest.raises(SourceError, match=f"^{message}"):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize(
    "name",
    [
        "n01440764_1.JPEG",
        "ILSVRC2012_test_00000001.JPEG",
        "ILSVRC2012_val_00000000.JPEG",
        "ILSVRC2012_val_00050001.JPEG",
        "ILSVRC2012_val_00000001.jpg",
        "ILSVRC2012_val_1.JPEG",
        "ILSVRC2012_val_0000000\N{ARABIC-INDIC DIGIT ONE}.JPEG",
        "README",
    ],
)
def test_foreign_member_of_validation_archive_raises(name: str, tmp_path: Path) -> None:
    pack(tmp_path, validation={"ILSVRC2012_val_00000002.JPEG": b"", f"val/{name}": b""})
    message = re.escape(f"{VALIDATION_ARCHIVE}: member {name!r} is not an image of this archive; ")
    with pytest.raises(SourceError, match=f"^{message}expected names like .* 1 to 50000$"):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


# The list of a subset


def test_given_list_has_precedence(tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_text(f"\n  {TRAIN_NAMES[2]}  \r\n\n{TRAIN_NAMES[0]}")
    source = load_source(SUBSET, manual_dir=pack(tmp_path), subset_list=own, partial=True)
    assert sorted(labels(source, "train")) == sorted([TRAIN_NAMES[0], TRAIN_NAMES[2]])
    assert ("mine.txt", own.stat().st_size) in source.origins


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no file names; expected one a line"),
        (b"\n \n", "lists no file names; expected one a line"),
        (b"a.JPEG\nb.JPEG\na.JPEG\na.JPEG\n", "lists 2 names more than once"),
        (b"\xff\xfe", "must be a list of file names in UTF-8: "),
    ],
)
def test_invalid_list_raises(content: bytes, message: str, tmp_path: Path) -> None:
    (pack(tmp_path) / LIST).write_bytes(content)
    with pytest.raises(SourceError, match=f"^{re.escape(f'{tmp_path / LIST}: {message}')}"):
        load_source(SUBSET, manual_dir=tmp_path, partial=True)


@pytest.mark.parametrize("name", ["absent.txt", "."])
def test_unreadable_list_is_named(name: str, tmp_path: Path) -> None:
    given = pack(tmp_path) / name
    with pytest.raises(
        SourceError,
        match=f"^{re.escape(str(given))}: (the subset list does not|is a folder, expected)",
    ):
        load_source(SUBSET, manual_dir=tmp_path, subset_list=given)


@pytest.mark.parametrize(("n_cold", "n_walkers"), [(0, 1), (1, 1), (2, 8), (10, 8)])
def test_number_of_walking_threads(
    n_cold: int, n_walkers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, probed = [], []

    def noted(*arguments: Any, n_ahead: int, n_threads: int) -> Any:
        pools.append(n_threads)
        return ahead(*arguments, n_ahead=n_ahead, n_threads=n_threads)

    def probe(file: OpenFile, offset: int, *, unknown: bool) -> bool:
        probed.append((offset, unknown))
        return len(probed) > n_cold

    monkeypatch.setattr(imagenet2012, "ahead", noted)
    monkeypatch.setattr(OpenFile, "is_cached", probe)
    train = {wnid: {f"{wnid}_{i}.JPEG": picture(seed=i) for i in (4, 17)} for wnid in wnids()[:10]}
    names = [name for members in train.values() for name in members]
    folder = pack(tmp_path, train, listed=names)
    table = load_source(SUBSET, manual_dir=folder, partial=True).splits["train"]
    assert pools == [n_walkers]
    assert probed == [(offset - 512, False) for offset in table.offset[1::2].tolist()]


class Site:
    """A web server on the loopback that publishes the list."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.content = "".join(f"{name}\n" for name in TRAIN_NAMES).encode()
        self.reply: bytes | None = None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.paths.append(self.path)
                if site.reply is None:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(site.content)))
                    self.end_headers()
                    self.wfile.write(site.content)
                else:
                    self.wfile.write(site.reply)

            @override
            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server to download lists from, and an empty cache."""
    site = Site()
    published = dataclasses.replace(
        subset_list.SUBSETS["1pct"],
        nbytes=len(site.content),
        sha256=hashlib.sha256(site.content).hexdigest(),
    )
    monkeypatch.setitem(subset_list.SUBSETS, "1pct", published)
    monkeypatch.setattr(subset_list, "_BASE_URL", site.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with site.server as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


def load_listed(tmp_path: Path) -> list[str]:
    """Names of the training images when the folder of the archives has no list."""
    folder = pack(tmp_path / "archives", listed=None)
    return sorted(labels(load_source(SUBSET, manual_dir=folder, partial=True), "train"))


def test_list_is_downloaded_once(site: Site, tmp_path: Path) -> None:
    assert load_listed(tmp_path) == sorted(TRAIN_NAMES)
    assert load_listed(tmp_path) == sorted(TRAIN_NAMES)
    assert site.paths == ["/1percent.txt"]
    kept = tmp_path / "cache" / "arraystore"
    assert [path.name for path in kept.iterdir()] == [LIST]
    assert (kept / LIST).read_bytes() == site.content


def test_default_cache_is_in_home_folder(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_listed(tmp_path)
    kept = tmp_path / "home" / ".cache" / "arraystore" / LIST
    assert kept.read_bytes() == site.content


def test_damaged_cached_list_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "arraystore" / LIST
    kept.parent.mkdir(parents=True)
    kept.write_bytes(site.content[:-7])
    assert load_listed(tmp_path) == sorted(TRAIN_NAMES)
    assert kept.read_bytes() == site.content


def test_list_in_manual_dir_is_not_downloaded(site: Site, tmp_path: Path) -> None:
    load_source(SUBSET, manual_dir=pack(tmp_path / "archives"), partial=True)
    assert site.paths == []


def test_smaller_subset_becomes_selection(site: Site, tmp_path: Path) -> None:
    folder = pack(tmp_path / "archives", listed=None)
    source = load_source("imagenet2012", manual_dir=folder, partial=True)
    positions = source.selections["1pct"]["train"]
    assert [source.splits["train"].file_name[i] for i in positions] == TRAIN_NAMES
    assert list(source.selections) == ["1pct"]
    assert ("1percent.txt", len(site.content)) in source.origins


def test_incomplete_smaller_subset_is_noted(tmp_path: Path) -> None:
    folder = pack(tmp_path / "archives", listed=[TRAIN_NAMES[0], "n01440764_99.JPEG"])
    source = load_source("imagenet2012", manual_dir=folder, partial=True)
    note = "the selection 1pct lacks 1 name (n01440764_99.JPEG): not in train"
    assert note in source.notes


def test_list_of_other_images_makes_no_selection(tmp_path: Path) -> None:
    folder = pack(tmp_path / "archives", listed=["n01440764_99.JPEG"])
    source = load_source("imagenet2012", manual_dir=folder, partial=True)
    assert source.selections == {}
    assert "the selection 1pct is left out: none of its images is in train" in source.notes


@every_suffix
def test_store_keeps_smaller_subset_as_selection(suffix: str, tmp_path: Path) -> None:
    few = sorted(TRAIN_NAMES)[::2]
    folder = pack(tmp_path / "archives", listed=few)
    (folder / "10percent.txt").write_text("".join(f"{name}\n" for name in TRAIN_NAMES))
    target = tmp_path / f"10pct{suffix}"
    arraystore.convert("imagenet2012_subset/10pct", target, manual_dir=folder, partial=True)
    store = arraystore.open(target)
    assert store.info.selections == {"1pct": ("train",)}
    selected = store["train"].select("1pct")
    assert sorted(selected.file_name) == few
    arraystore.convert(SUBSET, tmp_path / f"1pct{suffix}", manual_dir=folder, partial=True)
    alone = arraystore.open(tmp_path / f"1pct{suffix}")["train"]
    assert selected.file_name.tolist() == alone.file_name.tolist()
    assert selected.image_bytes[:] == alone.image_bytes[:]


def test_unavailable_smaller_subset_is_noted(site: Site, tmp_path: Path) -> None:
    site.reply = b"HTTP/1.0 404 Not Found\r\n\r\n"
    folder = pack(tmp_path / "archives", listed=None)
    source = load_source("imagenet2012", manual_dir=folder, partial=True)
    assert source.selections == {}
    notes = [note for note in source.notes if note.startswith("the selection ")]
    assert [note.split(":")[0] for note in notes] == [
        "the selection 1pct is left out",
        "the selection 10pct is left out",
    ]


@pytest.mark.parametrize(
    "content", [b"n01440764_1.JPEG\n", b"x" * 10_000], ids=["shorter", "longer"]
)
def test_wrong_checksum_of_download_raises(content: bytes, site: Site, tmp_path: Path) -> None:
    expected = hashlib.sha256(site.content).hexdigest()
    site.content = content
    found = hashlib.sha256(content[: 2 * subset_list.SUBSETS["1pct"].nbytes]).hexdigest()
    origin = f"{LIST}: the download from {site.address}/{LIST}"
    message = f"{origin} has sha256 {found}, expected {expected}; put"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        load_listed(tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nn01",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nn01",
        b"220 mail.example.org ESMTP\r\n",
        b"",
    ],
    ids=["absent", "busy", "cut", "chunk cut", "no http", "nothing"],
)
def test_failed_download_names_remedy(reply: bytes, site: Site, tmp_path: Path) -> None:
    site.reply = reply
    expected = re.escape(remedy(site, tmp_path))
    with pytest.raises(SourceError, match=rf"^{LIST}: [\s\S]*; {expected}$"):
        load_listed(tmp_path)


def test_missing_network_names_remedy(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        site.address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(subset_list, "_BASE_URL", site.address)
        expected = re.escape(remedy(site, tmp_path))
        with pytest.raises(SourceError, match=rf"^{LIST}: cannot be .*refused\); {expected}$"):
            load_listed(tmp_path)


def remedy(site: Site, tmp_path: Path) -> str:
    return (
        f"put the file into {tmp_path / 'archives'}, or name it with subset_list (--subset-list); "
        f"it is published at {site.address}/{LIST}"
    )
