"""Every row of the table in docs/images.md, converted and read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import FormatError, SourceError
from arraystore.images.decode import decode
from arraystore.images.probe import probe
from tests.images.encoded_images import JPEGS
from tests.support import SUFFIXES, write_folder
from tests.wild import DECODED, REFUSED, REPORTED, TALL, TALLER, of_separate_scans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Converted = tuple[arraystore.Store, arraystore.ConvertReport]

TABLE = Path(__file__).parents[2] / "docs" / "images.md"
OVER = "file of another kind, over 1 GiB"
EVERY = {
    **{name: data for name, (data, _, _) in DECODED.items()},
    **REPORTED,
    **REFUSED,
    TALLER: TALL,
}

named = pytest.mark.parametrize


def file_of(name: str) -> str:
    return f"{name}.jpg"


@pytest.fixture(scope="module", params=SUFFIXES)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    """Return a store of all images of the table that are not refused, and the report."""
    folder = tmp_path_factory.mktemp("wild")
    write_folder(folder / "in", {f"a/{file_of(name)}": data for name, data in EVERY.items()})
    path = folder / f"wild{request.param}"
    report = arraystore.convert(f"folder:{folder}/in", path, on_error="skip", sync=False)
    return arraystore.open(path), report


def test_table_lists_every_image_and_outcome() -> None:
    rows = re.findall(
        r"^\| (.+?) \| (decoded|reported|refused) \|", TABLE.read_text(), re.MULTILINE
    )
    made = dict.fromkeys((*DECODED, TALLER), "decoded")
    made |= dict.fromkeys(REPORTED, "reported") | dict.fromkeys(REFUSED, "refused")
    assert dict(rows) == made | {OVER: "refused"}


def pixels_of(expected: NDArray[np.integer] | bytes) -> NDArray[np.integer]:
    return decode(expected) if isinstance(expected, bytes) else expected


@named("name", DECODED)
def test_decoded_image_has_right_pixels(converted: Converted, name: str) -> None:
    store, _ = converted
    data, expected, off = DECODED[name]
    (sample,) = store["train"].where(file_name=f"a/{file_of(name)}")
    assert store["train"].where(file_name=f"a/{file_of(name)}").image_bytes[0] == data
    right = pixels_of(expected)
    assert sample.image.shape == right.shape
    assert np.abs(sample.image.astype(int) - right).max() <= off


def test_report_names_cmyk_without_adobe_marker(converted: Converted) -> None:
    _, report = converted
    (note,) = report.notes
    assert re.fullmatch(r"train: 1 name \(a/CMYK without .*\) CMYK .* Pillow .*: inverted", note)


def test_missing_rows_are_gray(converted: Converted) -> None:
    (sample,) = converted[0]["train"].where(file_name=f"a/{file_of(TALLER)}")
    assert sample.image.shape == (450, 70, 3)
    assert (sample.image[100:] == 128).all()


@named("name", REPORTED)
def test_reported_image_is_stored_and_decoding_raises(converted: Converted, name: str) -> None:
    split = converted[0]["train"].where(file_name=f"a/{file_of(name)}")
    assert split.image_bytes[0] == REPORTED[name]
    with pytest.raises(FormatError, match=re.escape(file_of(name))):
        _ = split[0]


SEVERAL = JPEGS | {"separate scans": of_separate_scans()}


@named(
    "kind",
    ["420", "444", "gray", "restarts", "RGB", "progressive", "arithmetic", "separate scans"],
)
def test_jpeg_cut_anywhere_decodes_whole_or_raises(kind: str) -> None:
    whole = SEVERAL[kind]
    right = decode(whole)
    for nbytes in range(len(whole)):
        try:
            pixels = decode(whole[:nbytes])
        except ValueError:
            continue
        np.testing.assert_array_equal(pixels, right)


def test_skipped_images_are_listed_in_report_and_store(converted: Converted) -> None:
    store, report = converted
    skipped = dict(report.splits["train"].skipped)
    assert skipped.keys() == {f"a/{file_of(name)}" for name in REFUSED}
    assert all(skipped.values())
    assert {row["file_name"]: row["reason"] for row in store.info.skipped} == skipped
    assert {row["split"] for row in store.info.skipped} == {"train"}


@named("name", REFUSED)
def test_refused_image_stops_a_conversion(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {f"a/{file_of(name)}": REFUSED[name]})
    with pytest.raises(SourceError, match=re.escape(file_of(name))):
        arraystore.convert(f"folder:{tmp_path}/in", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_json_output_lists_skipped_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a/good.jpg": EVERY["JPEG of 1 x 1"], "a/empty.jpg": b""}
    folder = write_folder(tmp_path / "in", files)
    options = ["--on-error", "skip", "--json"]
    assert main(["convert", f"folder:{folder}", str(tmp_path / "a.h5"), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["skipped"] == [["a/empty.jpg", "is empty (0 bytes)"]]
    assert main(["info", str(tmp_path / "a.h5"), "--json"]) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped == [
        {"split": "train", "file_name": "a/empty.jpg", "reason": "is empty (0 bytes)"}
    ]


def test_too_many_skipped_images_raise_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arraystore.writing.seal.MAX_NBYTES", 4000)
    files = {f"a/{i}.jpg": b"" for i in range(40)}
    folder = write_folder(tmp_path / "in", files | {"a/good.jpg": EVERY["JPEG of 1 x 1"]})
    with pytest.raises(SourceError, match="40 images cannot be read"):
        arraystore.convert(f"folder:{folder}", tmp_path / "a.zarr", on_error="skip")
    assert not (tmp_path / "a.zarr").exists()


def test_huge_image_is_not_read_whole() -> None:
    def read(start: int, stop: int) -> bytes:
        assert stop - start <= 2048, "must not be read"
        return b"BM" + bytes(stop - start - 2)

    with pytest.raises(ValueError, match="at most"):
        probe(read, 2**30 + 1)
