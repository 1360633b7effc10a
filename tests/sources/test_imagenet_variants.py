"""V2, A, R, Sketch, C and ReaL: from published archives and extracted, in ImageNet's labels."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.imagenet2012_tables import validation_labels, wnids, words
from arraystore.sources.registry import CONFIGS, load_source, names_of
from tests.sources.imagenet_forms import VALIDATION, archives, tar_bytes
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FEW: Final = (0, 2, 10, 999)


def wnid_files(top: str, suffix: str = "jpg") -> dict[str, bytes]:
    return {
        f"{top}{wnids()[k]}/{k}_{i}.{suffix}": picture(seed=10 * k + i) for k in FEW for i in (1, 2)
    }


V2_FILES: Final = {
    f"imagenetv2-matched-frequency-format-val/{k}/{i}.jpeg": picture(seed=10 * k + i)
    for k in FEW
    for i in (1, 2)
}
C_FILES: Final = {
    f"gaussian_noise/{severity}/{wnids()[validation_labels()[number - 1]]}"
    f"/ILSVRC2012_val_{number:08d}.JPEG": picture(seed=severity * 100 + number)
    for severity in (1, 3)
    for number in (1, 2, 50_000)
}
ODD: Final = {"README.txt": b"x", "._n01440764": b"x", "__MACOSX/a.jpg": b"x"}


def zip_bytes(members: Mapping[str, bytes], compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar_gz_bytes(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


PUBLISHED: Final = {
    "imagenet_v2": {
        # The published files have this name, and are not compressed.
        "tar": lambda: {"imagenetv2-matched-frequency.tar.gz": tar_bytes(V2_FILES | ODD)},
        "tar.gz": lambda: {"imagenetv2-matched-frequency.tar.gz": tar_gz_bytes(V2_FILES | ODD)},
        "folder": lambda: V2_FILES | ODD,
        "inner folder": lambda: {name.partition("/")[2]: d for name, d in V2_FILES.items()},
    },
    "imagenet_a": {
        "tar": lambda: {"imagenet-a.tar": tar_bytes(wnid_files("imagenet-a/") | ODD)},
        "folder": lambda: wnid_files("imagenet-a/"),
        "inner folder": lambda: wnid_files("") | ODD,
    },
    "imagenet_r": {
        "tar": lambda: {"imagenet-r.tar": tar_bytes(wnid_files("imagenet-r/"))},
        "folder": lambda: wnid_files("imagenet-r/"),
    },
    "imagenet_sketch": {
        "stored": lambda: {
            "ImageNet-Sketch.zip": zip_bytes(
                wnid_files("sketch/", "JPEG") | ODD, zipfile.ZIP_STORED
            )
        },
        "deflated": lambda: {
            "ImageNet-Sketch.zip": zip_bytes(wnid_files("sketch/", "JPEG"), zipfile.ZIP_DEFLATED)
        },
        "folder": lambda: wnid_files("sketch/", "JPEG"),
    },
    "imagenet2012_corrupted": {
        "tar": lambda: {"noise.tar": tar_bytes(C_FILES)},
        "folder": lambda: C_FILES,
        "in a folder": lambda: {f"imagenet-c/{name}": data for name, data in C_FILES.items()},
    },
}


def expected(name: str) -> dict[str, tuple[int, bytes]]:
    """File name, label and bytes that TFDS's builder gives."""
    if name == "imagenet_v2":
        pairs = {path.split("/", 1)[1]: data for path, data in V2_FILES.items()}
        return {path: (int(path.split("/")[0]), data) for path, data in pairs.items()}
    if name == "imagenet2012_corrupted":
        return {
            path.split("/")[-1]: (wnids().index(path.split("/")[2]), data)
            for path, data in C_FILES.items()
            if path.startswith("gaussian_noise/1/")
        }
    files = wnid_files("", "JPEG" if name == "imagenet_sketch" else "jpg")
    cut = 1 if name == "imagenet_a" else 0
    return {
        "/".join(path.split("/")[cut:]): (wnids().index(path[:9]), data)
        for path, data in files.items()
    }


CASES: Final = [(name, form) for name, forms in PUBLISHED.items() for form in forms]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_variant_has_tfds_names_and_imagenets_labels(name: str, form: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "given", PUBLISHED[name][form]())
    target = tmp_path / f"a{SUFFIXES[len(form) % 2]}"
    report = arraystore.convert(name, target, manual_dir=folder, partial=True, sync=False)
    store = arraystore.open(target)
    (split,) = store
    assert split == ("validation" if name == "imagenet2012_corrupted" else "test")
    samples = store[split]
    rows = zip(samples.label.tolist(), samples.image_bytes[:], strict=True)
    assert dict(zip(samples.file_name.tolist(), rows, strict=True)) == expected(name)
    assert (store.label_names, store.label_words) == (wnids(), words())
    assert len(samples.where(is_a="entity")) == len(samples)
    assert report.partial
    assert arraystore.verify(target, source=folder).problems == ()


@pytest.mark.parametrize("name", PUBLISHED)
def test_incomplete_variant_is_an_error(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, PUBLISHED[name]["folder"]())
    with pytest.raises(SourceError, match=r"images found, expected [0-9,]+; pass partial=True"):
        load_source(name, manual_dir=folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_variant_names_its_archive(name: str, tmp_path: Path) -> None:
    archive = next(iter(PUBLISHED[name].values()))()
    with pytest.raises(SourceError, match=f"{re.escape(next(iter(archive)))} .*download it from"):
        load_source(name, manual_dir=tmp_path)


def test_names_configs_and_versions_are_those_of_tfds() -> None:
    assert names_of("imagenet_v2") == ("imagenet_v2", "matched-frequency", "3.0.0")
    assert names_of("imagenet_v2/topimages")[1] == names_of("imagenet_v2/top-images")[1]
    assert names_of("imagenet_a:0.1.0") == ("imagenet_a", "", "0.1.0")
    assert names_of("imagenet2012_corrupted") == (
        "imagenet2012_corrupted",
        "gaussian_noise_1",
        "3.1.0",
    )
    assert len(CONFIGS["imagenet2012_corrupted"]) == 95


def test_folder_without_a_label_is_an_error(tmp_path: Path) -> None:
    files = {f"imagenetv2-top-images-format-val/{k}/1.jpeg": picture() for k in ("1", "n0144")}
    write_folder(tmp_path, files)
    with pytest.raises(SourceError, match=r"'n0144/1.jpeg' must lie in a folder 0 to 999"):
        load_source("imagenet_v2/top-images", manual_dir=tmp_path, partial=True)


def test_corrupted_image_in_the_folder_of_another_class_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, {"snow/2/n01440764/ILSVRC2012_val_00000001.JPEG": picture()})
    with pytest.raises(SourceError, match=r"class 65 .*, but its folder is .*class 0 \(n01440764"):
        load_source("imagenet2012_corrupted/snow_2", manual_dir=tmp_path, partial=True)


def real_labels() -> list[list[int]]:
    labels = [[int(k)] for k in validation_labels()]
    labels[0], labels[1], labels[292] = [3, 65], [], [7]
    return labels


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_has_the_first_label_and_imagenets_own(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    archives(folder, "validation", VALIDATION)
    (folder / "real.json").write_text(json.dumps(real_labels()))
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(
        "imagenet2012_real", target, manual_dir=folder, partial=True, sync=False
    )
    split = arraystore.open(target)["validation"]
    names = split.file_name.tolist()
    numbers = [int(name[15:23]) - 1 for name in names]
    found = dict(zip(numbers, split.label.tolist(), strict=True))
    assert found == {
        0: 3,
        1: -1,
        292: 7,
        24_999: validation_labels()[24_999],
        49_999: validation_labels()[49_999],
    }
    path = "validation/columns/original_label"
    if suffix == ".h5":
        with h5py.File(target) as file:
            original = np.asarray(file[path])
    else:
        original = np.asarray(zarr.open_group(target, mode="r")[path])
    assert original.tolist() == validation_labels()[numbers].tolist()
    assert (
        "labels are the first of ReaL's labels of each image; 1 images have several; 1 have none"
    ) in report.notes
    all_of_them = dict(zip(numbers, split.columns["real_labels"][:], strict=True))
    assert {n: some.tolist() for n, some in all_of_them.items()} == {
        n: real_labels()[n] for n in numbers
    }
    assert "real.json is not the published file" in report.notes
    assert arraystore.verify(target, source=folder).problems == ()
    assert arraystore.copy(target, tmp_path / f"copy{suffix}", sync=False).left_out == ()


@pytest.mark.parametrize("labels", [[], [[0]], [[1000]] * 50_000, [0] * 50_000, {"a": 1}])
def test_other_labels_than_reals_are_an_error(labels: object, tmp_path: Path) -> None:
    archives(tmp_path, "validation", VALIDATION)
    (tmp_path / "real.json").write_text(json.dumps(labels))
    with pytest.raises(SourceError, match="must be a list of 50,000 lists of labels 0 to 999"):
        load_source("imagenet2012_real", manual_dir=tmp_path, partial=True)


def test_real_needs_its_labels(tmp_path: Path) -> None:
    archives(tmp_path, "validation", VALIDATION)
    with pytest.raises(SourceError, match=r"real\.json not found; download it from https://github"):
        load_source("imagenet2012_real", manual_dir=tmp_path, partial=True)


def test_images_after_lost_header_are_reported(tmp_path: Path) -> None:
    path, archive = "imagenetv2-matched-frequency.tar.gz", tar_bytes(V2_FILES)
    at = archive.index(list(V2_FILES)[3].encode())
    lost = archive[:at] + bytes(512) + archive[at + 512 :]
    write_folder(tmp_path, {path: gzip.compress(lost)})
    options: dict[str, Any] = {"manual_dir": tmp_path, "spool": tmp_path / "spool"}
    with pytest.raises(SourceError, match=rf"{path}: expected zeros .* a header may be lost"):
        load_source("imagenet_v2", **options)
    source = load_source("imagenet_v2", partial=True, **options)
    assert len(source.splits["test"]) == 3
    assert len(source.damage) == 1


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_sketch"])
def test_damaged_archive_is_an_error(name: str, tmp_path: Path) -> None:
    form = "tar.gz" if name == "imagenet_v2" else "stored"
    ((path, data),) = PUBLISHED[name][form]().items()
    write_folder(tmp_path, {path: data[: len(data) // 2]})
    with pytest.raises(SourceError, match="download it again"):
        load_source(name, manual_dir=tmp_path, partial=True, spool=tmp_path / "spool")
