"""WebDataset shards: keys, labels, compressed and damaged archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.source_options import SourceOptions
from arraystore.sources.webdataset import load
from tests.sources.forms import write_tar
from tests.support import picture

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.sample_table import Source

PICTURE = picture()


def loaded(folder: Path, members: list[tuple[str, bytes]], **options: Any) -> Source:
    path = write_tar(folder / "train-0.tar", members)
    return load(str(path), SourceOptions(**options), folder / "spool")


def labels(source: Source) -> dict[str, str | None]:
    table = source.splits["train"]
    names = (*source.label_name, None)
    return {name: names[label] for name, label in zip(table.file_name, table.label, strict=True)}


def test_key_ends_at_the_first_dot(tmp_path: Path) -> None:
    members = [("a.b/x.jpg", PICTURE), ("a.b/x.CLS", b" dog\n"), ("y.cls", b"cat"), ("y.JPG", b"1")]
    found = labels(loaded(tmp_path, members))
    assert found == {"a.b/x.jpg": "dog", "y.JPG": "cat"}


def test_further_members_are_left_out_and_named(tmp_path: Path) -> None:
    members = [
        ("__meta__/x.json", b"{}"),
        ("README", b""),
        ("._0.jpg", b""),
        (".thumbs/1.jpg", b""),
        ("__MACOSX/2.jpg", b""),
        ("0.jpg", PICTURE),
        ("0.seg.png", PICTURE),
        ("0.txt", b"words"),
        ("0.cls", b"cat"),
    ]
    source = loaded(tmp_path, members)
    assert labels(source) == {"0.jpg": "cat"}
    assert source.notes == (
        "labels are read from .cls",
        "further members of samples are left out: 2 names (.seg.png, .txt)",
        "2 members are left out: metadata, or without an extension",
        "3 members are left out: hidden or of the system",
    )


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (None, "ant"),
        ("cls", "ant"),
        ("json.name", "bee"),
        ("json.meta.kind", "cat"),
        ("folder", "dog"),
        ("", None),
    ],
)
def test_label_is_where_the_option_says(
    place: str | None, expected: str | None, tmp_path: Path
) -> None:
    members = [
        ("x/dog/0.jpg", PICTURE),
        ("x/dog/0.cls", b"ant"),
        ("x/dog/0.json", b'{"name": "bee", "meta": {"kind": "cat"}}'),
    ]
    fields = {} if place is None else {"label": place}
    assert labels(loaded(tmp_path, members, fields=fields)) == {"x/dog/0.jpg": expected}


def test_label_of_json_is_the_second_choice(tmp_path: Path) -> None:
    members = [("0.jpg", PICTURE), ("0.json", b'{"label": 1}')]
    source = loaded(tmp_path, members, classes=["a", "b"])
    assert labels(source) == {"0.jpg": "b"}
    assert source.notes == ("labels are read from the key label of .json",)


def test_file_name_may_be_a_key_of_json_or_generated(tmp_path: Path) -> None:
    members = [("0.jpg", PICTURE), ("0.json", b'{"label": "a", "filename": "n1/n1_3.JPEG"}')]
    assert labels(loaded(tmp_path, members, fields={"file_name": "json.filename"})) == {
        "n1/n1_3.JPEG": "a"
    }
    assert labels(loaded(tmp_path, members, fields={"file_name": ""})) == {"000000.jpg": "a"}


@pytest.mark.parametrize(
    ("members", "fields", "message"),
    [
        (
            [("0.jpg", b""), ("0.txt", b"")],
            {},
            r"expected a member with the label, found 'jpg', 'txt'; pass fields=.*or an empty NAME",
        ),
        ([("0.jpg", b""), ("0.cls", b""), ("0.png", b"")], {}, "2 extensions may hold the image"),
        ([("0.jpg", b""), ("0.cls", b"")], {}, r"0\.cls: must be the text of a label"),
        ([("0.jpg", b""), ("0.cls", b"\xff")], {}, r"0\.cls: must be the text of a label"),
        ([("0.jpg", b""), ("0.json", b"{")], {}, r"0\.json: must be JSON"),
        (
            [("0.jpg", b""), ("0.json", b'{"label": [1]}')],
            {},
            r"0\.json: label must be a number or text, got \[1\]",
        ),
        ([("0.jpg", b"")], {"label": "folder"}, "the key '0' has no folder"),
        ([("0.jpg", b""), ("0.jpg", b"")], {"label": ""}, r"has two members \.jpg"),
    ],
    ids=str,
)
def test_sample_that_is_not_clear_is_refused(
    members: list[tuple[str, bytes]], fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        loaded(tmp_path, members, fields=fields)


def test_sample_without_image_or_label_is_skipped(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "train.tar",
        [
            *(("0.jpg", PICTURE), ("0.cls", b"cat"), ("1.cls", b"cat"), ("2.jpg", PICTURE)),
            *(("3.cls", b"dog"), ("3.jpg", PICTURE)),
        ],
    )
    dataset = f"wds:{path}"
    message = r"train\.tar: sample 1: 1: has no image; its members are \.cls; 1 more"
    with pytest.raises(SourceError, match=message):
        arraystore.convert(dataset, tmp_path / "a.zarr", sync=False)
    report = arraystore.convert(dataset, tmp_path / "a.zarr", sync=False, on_error="skip")
    assert report.splits["train"].skipped == (
        ("1", "has no image; its members are .cls"),
        ("2.jpg", "has no .cls with its label"),
    )
    assert len(arraystore.open(tmp_path / "a.zarr")["train"]) == 2


def tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("0.jpg", PICTURE), ("0.cls", b"cat")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(tar_bytes())[:-200], "train.tar: is truncated; download it again"),
        (gzip.compress(tar_bytes()[:700]), r"train\.tar: .* it is truncated"),
        (b"\x1f\x8b" + bytes(100), "train.tar: cannot be decompressed"),
        (tar_bytes()[:700], "it is truncated"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "is zstd-compressed"),
    ],
    ids=["gzip cut", "tar cut", "gzip damaged", "plain cut", "zstd"],
)
def test_damaged_shard_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.tar").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        arraystore.convert(f"wds:{tmp_path}/train.tar", tmp_path / "a.zarr", sync=False)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_shards_are_read(mode: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train.tar.z", [("0.jpg", PICTURE), ("0.cls", b"cat")], mode)
    arraystore.convert(f"wds:{path}", tmp_path / "a.zarr", sync=False)
    assert arraystore.open(tmp_path / "a.zarr")["train"].image_bytes[0] == PICTURE


def test_second_archive_behind_the_first_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    path.write_bytes(2 * tar_bytes())
    with pytest.raises(SourceError, match="begins another archive"):
        arraystore.convert(f"wds:{path}", tmp_path / "a.zarr", sync=False)
    report = arraystore.convert(f"wds:{path}", tmp_path / "a.zarr", sync=False, partial=True)
    assert report.partial
    assert "begins another archive" in report.notes[0]
