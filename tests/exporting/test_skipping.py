"""Exports of damaged stores: what is left out is named, and nothing else is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore import ChecksumError, FormatError, StorageError
from arraystore.cli.commands import main
from arraystore.containers.zarr import writer as zarr_writer
from tests.exporting.test_formats import COPIES, READERS, records_in, samples_of, values_of
from tests.exporting.test_resume import (
    N_SAMPLES,
    SHARD_NBYTES,
    exported,
    read_folders,
    split_of,
    write_split,
)
from tests.reading.test_damaged_stores import rewrite_column
from tests.reading.test_remote import KEYS
from tests.storage.test_request_errors import QUICK
from tests.support import SUFFIXES, copied, write_once
from tests.test_reader import flip_bit
from tests.web import Answer, WebServer

if TYPE_CHECKING:
    from pathlib import Path

FORMS = {("folders", "out"): read_folders, **COPIES}

DAMAGED = [0, 1, 7, 11]
"""Positions: all images of the first shard, one in the middle, and the last."""


def write_with_column(path: Path) -> None:
    write_split(path)
    arraystore.add_column(path, "train", "score", range(N_SAMPLES))


def damaged_store(folder: Path, suffix: str) -> tuple[arraystore.Split, arraystore.Split]:
    """Return the sound samples, and all samples of a store in which some are damaged."""
    write_once(write_with_column, folder / f"whole{suffix}")
    whole = arraystore.open(folder / f"whole{suffix}")["train"]
    path = copied(folder / f"whole{suffix}", folder / f"a{suffix}")
    for i in DAMAGED:
        flip_bit(path, whole.image_bytes[i], 300 + i)
    sound = [i for i in range(N_SAMPLES) if i not in DAMAGED]
    return whole.select(sound), arraystore.open(path)["train"]


def stem(name: str) -> int:
    return int(name.removesuffix(".jpg"))


def names_of(report: arraystore.ExportReport) -> list[str]:
    return [name for name, _ in report.splits["train"].skipped]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("form", "name"), FORMS)
def test_damaged_images_are_left_out_and_named(
    suffix: str, form: str, name: str, tmp_path: Path
) -> None:
    sound, train = damaged_store(tmp_path, suffix)
    target = tmp_path / name
    options: dict[str, Any] = {"shard_nbytes": SHARD_NBYTES, "sync": False}
    report = arraystore.export(train, target, form, on_error="skip", **options)
    found, wanted = FORMS[form, name](target), samples_of(sound)
    assert found == (
        wanted if form != "folders" else sorted(wanted, key=lambda one: stem(one.name))
    )
    assert names_of(report) == train.file_name[DAMAGED].tolist()
    assert all("crc32c must be" in reason for _, reason in report.splits["train"].skipped)
    expected = arraystore.export(sound, tmp_path / "of sound", **options).splits["train"]
    assert replace(report.splits["train"], skipped=()) == expected


@pytest.mark.parametrize("form", ["folders", "parquet", "lance", "webdataset"])
def test_columns_of_damaged_images_are_left_out(form: str, tmp_path: Path) -> None:
    sound, train = damaged_store(tmp_path, ".zarr")
    options: dict[str, Any] = {"shard_nbytes": SHARD_NBYTES, "on_error": "skip", "sync": False}
    arraystore.export(train, tmp_path / "out", form, **options)
    rows = values_of(form, tmp_path / "out")
    assert [row["score"] for row in rows] == sound.columns["score"][:].tolist()


def test_tfds_counts_what_is_written(tmp_path: Path) -> None:
    _, train = damaged_store(tmp_path, ".h5")
    options: dict[str, Any] = {"shard_nbytes": SHARD_NBYTES, "on_error": "skip", "sync": False}
    report = arraystore.export(train, tmp_path / "out", "tfrecord", **options)
    (split,) = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["splits"]
    shards = sorted((tmp_path / "out").glob("*.tfrecord-*"))
    assert split["shardLengths"] == [str(len(records_in(path))) for path in shards]
    assert split["numBytes"] == str(report.splits["train"].num_bytes)


def test_images_skipped_before_a_kill_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, train = damaged_store(tmp_path, ".zarr")
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        exported(train, target, "webdataset", monkeypatch, after=5, on_error="skip")
    report, meter = exported(train, target, "webdataset", monkeypatch, resume=True, on_error="skip")
    assert meter.n_before + meter.n_images == N_SAMPLES
    assert meter.n_before > 2
    assert names_of(report) == train.file_name[DAMAGED].tolist()
    assert READERS["webdataset", "out"](target) == samples_of(sound)


def test_failed_export_is_finished_without_the_damaged_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `on_error` an export fails; resumed with it, the finished shards are kept."""
    _, damaged = damaged_store(tmp_path, ".zarr")
    train = damaged.select(range(2, N_SAMPLES))
    target = tmp_path / "out"
    with pytest.raises(ChecksumError):
        exported(train, target, "tfrecord", monkeypatch)
    report, _ = exported(train, target, "tfrecord", monkeypatch, resume=True, on_error="skip")
    assert report.num_resumed > 0
    assert names_of(report) == damaged.file_name[DAMAGED[2:]].tolist()


def test_strict_resume_does_not_keep_shards_that_lack_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, train = damaged_store(tmp_path, ".zarr")
    with pytest.raises(KeyboardInterrupt):
        exported(train, tmp_path / "out", "parquet", monkeypatch, after=5, on_error="skip")
    with pytest.raises(ChecksumError, match=str(train.file_name[0])):
        exported(train, tmp_path / "out", "parquet", monkeypatch, resume=True)


@pytest.mark.parametrize("is_remote", [False, True])
def test_images_of_a_lost_shard_are_left_out(
    is_remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 2048)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", 2048)
    path = tmp_path / "a.zarr"
    write_split(path)
    whole = arraystore.open(path)["train"]
    starts = whole._column("image_start")
    chunk = path / "train" / "image_payload" / "c" / "2"
    is_lost = (starts < 3 * 2048) & (starts + whole.image_nbytes > 2 * 2048)
    lost, sound = whole.file_name[is_lost].tolist(), samples_of(whole.select(~is_lost))
    chunk.unlink()
    with WebServer() as web:
        web.put(path, "bucket/a.zarr")
        settings = QUICK | KEYS | {"endpoint_url": web.url}
        place = ("s3://bucket/a.zarr", settings) if is_remote else (path, None)
        train = arraystore.open(place[0], storage_options=place[1])["train"]
        report = arraystore.export(train, tmp_path / "out", "parquet", on_error="skip")
    assert names_of(report) == lost
    assert READERS["parquet", "out"](tmp_path / "out") == sound


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_column_is_not_a_damaged_image(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    split_of(path)
    rewrite_column(path, "train/image_start", lambda starts: starts + 2000)
    with pytest.raises(FormatError, match="is outside the payload"):
        arraystore.export(
            arraystore.open(path)["train"], tmp_path / "out", "parquet", on_error="skip"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failure", ["reset", Answer(503), Answer(403)], ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unreachable_images_are_not_left_out(
    suffix: str, failure: Answer | str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    split_of(path)
    with WebServer() as web:
        web.put(path, f"bucket/{path.name}")
        settings = QUICK | KEYS | {"endpoint_url": web.url}
        train = arraystore.open(f"s3://bucket/{path.name}", storage_options=settings)["train"]
        _ = train.image_bytes[0]
        web.answer = lambda asked: failure
        with pytest.raises(StorageError):
            arraystore.export(train, tmp_path / "out", "parquet", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_command_lists_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, train = damaged_store(tmp_path, ".h5")
    command = ["export", str(tmp_path / "a.h5"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "the stored bytes are damaged" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 0
    printed = capsys.readouterr().out
    assert f"train: {len(DAMAGED)} images skipped:" in printed
    assert all(name in printed for name in train.file_name[DAMAGED])
    assert train.file_name[2] not in printed
