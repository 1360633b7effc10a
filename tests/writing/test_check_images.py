"""Images that are decoded during the conversion: damage is found before anything is copied."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from arraystore.images.decode import check_decodes
from arraystore.images.reencode import reencode_as_jpeg
from arraystore.writing import plan
from benchmarks.kills import tree
from tests.images.encoded_images import PNG
from tests.sources.forms import write_tar
from tests.sources.imagenet_forms import CMYK, TRAIN, archives
from tests.sources.imagenet_forms import PNG as NAMED_JPEG
from tests.support import Bucket, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name

WHOLE: Final = picture(90, 100, seed=1)
CUT: Final = WHOLE[: len(WHOLE) // 2]
FILES: Final = {
    **{f"train/ant/{i}.jpg": picture(seed=i) for i in range(40)},
    "train/ant/cut.jpg": CUT,
    "train/bee/cut.png": PNG[: len(PNG) // 2],
    "train/bee/whole.jpg": WHOLE,
    "val/bee/0.jpg": picture(),
}
FAULTY: Final = ["ant/cut.jpg", "bee/cut.png"]


class StoppedError(Exception):
    """Stops a conversion."""


@pytest.fixture
def photos(tmp_path: Path) -> str:
    return f"folder:{write_folder(tmp_path / 'photos', FILES)}"


def skipped(report: arraystore.ConvertReport) -> list[str]:
    return [name for name, _ in report.splits["train"].skipped]


def test_truncated_image_stops_the_conversion(photos: str, tmp_path: Path) -> None:
    match = r"ant/cut\.jpg: .*truncated.*; 1 more in train: 1 name \(bee/cut\.png\)"
    with pytest.raises(SourceError, match=match):
        arraystore.convert(photos, tmp_path / "a.zarr", check_images=True)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_truncated_image_is_stored_if_it_is_not_checked(photos: str, tmp_path: Path) -> None:
    report = arraystore.convert(photos, tmp_path / "a.zarr", sync=False)
    assert (skipped(report), report.splits["train"].num_samples) == ([], 43)


def test_image_that_decodes_with_warnings_is_named(tmp_path: Path) -> None:
    closed = CUT + b"\xff\xd9"
    write_folder(tmp_path / "photos", FILES | {"train/ant/cut.jpg": closed})
    (tmp_path / "photos/train/bee/cut.png").unlink()
    source = f"folder:{tmp_path / 'photos'}"
    report = arraystore.convert(source, tmp_path / "a.zarr", check_images=True, sync=False)
    assert skipped(report) == []
    (note,) = report.notes
    assert note.startswith("train: 1 name (ant/cut.jpg) with warnings of the JPEG decoder")
    unchecked = arraystore.convert(source, tmp_path / "b.zarr", sync=False)
    assert unchecked.notes == ()


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_truncated_images_are_skipped(place: str, photos: str, tmp_path: Path) -> None:
    target: Any = tmp_path / "a.h5" if place == "disk" else (Bucket(), "a.zarr")
    report = arraystore.convert(photos, target, check_images=True, on_error="skip", sync=False)
    assert (skipped(report), report.splits["train"].num_samples) == (FAULTY, 41)
    store = arraystore.open(target)
    assert [row["file_name"] for row in store.info.skipped] == FAULTY
    assert arraystore.verify(target, decode=True).problems == ()
    assert arraystore.verify(target, source=photos).problems == ()


def test_truncated_record_is_skipped(tmp_path: Path) -> None:
    records = [{"image": data, "label": 0} for data in (WHOLE, CUT, WHOLE)]
    options: dict[str, Any] = {"classes": ["a"], "check_images": True, "sync": False}
    with pytest.raises(SourceError, match=r"train: sample 1: 000001\.jpg: .*truncated"):
        arraystore.write(tmp_path / "a.zarr", {"train": records}, **options)
    report = arraystore.write(tmp_path / "a.zarr", {"train": records}, on_error="skip", **options)
    assert skipped(report) == ["000001.jpg"]


def test_truncated_member_is_located_in_its_shard(tmp_path: Path) -> None:
    members = [("0.jpg", WHOLE), ("0.cls", b"0"), ("1.jpg", CUT), ("1.cls", b"0")]
    path = write_tar(tmp_path / "pets-train-0.tar", members)
    match = rf"{path}: 1\.jpg \(at byte [0-9,]+\): .*truncated"
    with pytest.raises(SourceError, match=match):
        arraystore.convert(f"wds:{path}", tmp_path / "a.zarr", classes=["a"], check_images=True)


@pytest.fixture
def n_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the images that were decoded."""
    sizes: list[int] = []

    def counted(function: Callable[[Buffer], Any]) -> Callable[[Buffer], Any]:
        def decode(data: Buffer) -> Any:
            sizes.append(memoryview(data).nbytes)
            return function(data)

        return decode

    monkeypatch.setattr(plan, "check_decodes", counted(check_decodes))
    monkeypatch.setattr(plan, "reencode_as_jpeg", counted(reencode_as_jpeg))
    return sizes


def test_each_image_is_decoded_once(n_decoded: list[int], tmp_path: Path) -> None:
    archives(tmp_path, "train", TRAIN)
    assert {CMYK, NAMED_JPEG} < TRAIN.keys()  # these are re-encoded
    report = arraystore.convert(
        *("imagenet2012", tmp_path / "a.zarr"),
        manual_dir=tmp_path,
        partial=True,
        check_images=True,
        sync=False,
    )
    assert sorted(report.splits["train"].reencoded) == sorted([CMYK, NAMED_JPEG])
    assert sorted(n_decoded) == sorted(map(len, TRAIN.values()))


def test_images_are_not_decoded_by_default(
    n_decoded: list[int], photos: str, tmp_path: Path
) -> None:
    arraystore.convert(photos, tmp_path / "a.zarr", sync=False)
    assert n_decoded == []


def test_checked_conversion_is_resumed(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise StoppedError

    options: dict[str, Any] = {"check_images": True, "on_error": "skip"}
    arraystore.convert(photos, tmp_path / "whole.zarr", **options)
    target = tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(StoppedError):
            arraystore.convert(photos, target, **options)
    with pytest.raises(ValueError, match="option check_images is False, but was True"):
        arraystore.convert(photos, target, resume=True, on_error="skip")
    arraystore.convert(photos, target, resume=True, **options)
    assert tree(target) == tree(tmp_path / "whole.zarr")
    report = arraystore.convert(photos, target, resume=True, **options)
    assert report.was_complete
    assert "does not record whether its images were decoded" in report.notes[0]


def test_command_checks_images(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", photos, str(tmp_path / "a.zarr"), "--check-images"]
    assert main(command) == 1
    assert "ant/cut.jpg" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip", "--no-sync"]) == 0
    assert "ant/cut.jpg" in capsys.readouterr().out
