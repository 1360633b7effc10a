"""Exports that were interrupted: resumed to the same result, or refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

import arraystore
from arraystore import ChecksumError, FormatError, StorageError
from arraystore.cli.commands import main
from arraystore.exporting import export as export_module
from arraystore.exporting import lance_references
from arraystore.exporting.export import _OWN
from arraystore.storage.workspace_folder import work_folder
from arraystore.writing.progress import Meter
from arraystore.writing.workspace import locked_folder, unlock
from tests.exporting.test_formats import COPIES, READERS, Exported, every_format, samples_of
from tests.support import SUFFIXES, copied, picture, write_once, write_store
from tests.test_reader import flip_bit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SHARD_NBYTES = 1800
"""Two images a shard."""

N_SAMPLES = 12


class Interrupting(Meter):
    """Interrupts after some images, and counts those before."""

    def __init__(self, after: int) -> None:
        self.after, self.n_images, self.n_before = after, 0, 0

    @override
    def start(
        self, message: str, n_images: int, n_bytes: int = 0, *, done: tuple[int, int] = (0, 0)
    ) -> None:
        self.n_before = done[0]

    @override
    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        self.n_images += n_images
        if self.n_images > self.after:
            raise KeyboardInterrupt


def write_split(path: Path) -> None:
    names = [f"{i}.jpg" for i in range(N_SAMPLES)]
    images = [picture(seed=i) for i in range(N_SAMPLES)]
    write_store(path, names, [i % 2 for i in range(N_SAMPLES)], images, classes="ab")


def split_of(path: Path) -> arraystore.Split:
    write_once(write_split, path)
    return arraystore.open(path)["train"]


def exported(
    train: arraystore.Split,
    target: Path,
    form: str,
    patch: pytest.MonkeyPatch,
    *,
    after: int = N_SAMPLES,
    **options: Any,
) -> tuple[arraystore.ExportReport, Interrupting]:
    meter = Interrupting(after)
    with patch.context() as context:
        context.setattr(export_module, "meter", lambda show: nullcontext(meter))
        options = {"shard_nbytes": SHARD_NBYTES, "sync": False} | options
        return arraystore.export(train, target, form, **options), meter


def interrupt(
    train: arraystore.Split, target: Path, form: str, patch: pytest.MonkeyPatch, after: int = 5
) -> None:
    with pytest.raises(KeyboardInterrupt):
        exported(train, target, form, patch, after=after)
    assert not target.exists()


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read_folders(target: Path) -> list[Exported]:
    paths = sorted(target.rglob("*.jpg"), key=lambda path: int(path.stem))
    return [Exported(path.name, "ab".index(path.parent.name), path.read_bytes()) for path in paths]


@pytest.mark.parametrize("suffix", SUFFIXES)
@every_format
def test_interrupted_export_is_resumed(
    suffix: str, form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_references, "_ROWS", 2)
    train = split_of(tmp_path / f"a{suffix}")
    target = tmp_path / name
    interrupt(train, target, form, monkeypatch)
    report, meter = exported(train, target, form, monkeypatch, resume=True)
    assert READERS[form, name](target) == samples_of(train)
    is_file = target.is_file()
    assert (report.num_resumed > 0) == (not is_file)
    assert meter.n_before + meter.n_images == N_SAMPLES
    assert (meter.n_before > 0) == (not is_file)
    assert (
        report.splits["train"].content_digest
        == arraystore.open(tmp_path / f"a{suffix}").info.splits["train"].content_digest
    )
    assert {path.name for path in tmp_path.iterdir()} == {f"a{suffix}", name}


def test_killed_export_is_resumed(tmp_path: Path) -> None:
    train = split_of(tmp_path / "a.zarr")
    program = (
        "import os, signal, sys, arraystore\n"
        "from contextlib import nullcontext\n"
        "from arraystore.exporting import export\n"
        "from arraystore.writing.progress import Meter\n"
        "class Killing(Meter):\n"
        "    n = 0\n"
        "    def advance(self, n_images, n_bytes=0):\n"
        "        Killing.n += n_images\n"
        "        if Killing.n > 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "export.meter = lambda show: nullcontext(Killing())\n"
        "train = arraystore.open(sys.argv[1])['train']\n"
        "for form in sys.argv[3:]:\n"
        "    if not os.fork():\n"
        "        target = sys.argv[2] + form\n"
        f"        arraystore.export(train, target, form, shard_nbytes={SHARD_NBYTES}, sync=False)\n"
        "    print(os.wait()[1])\n"
    )
    forms = ("webdataset", "folders", "tfrecord")
    arguments = [sys.executable, "-c", program, str(tmp_path / "a.zarr"), str(tmp_path / "o-")]
    done = subprocess.run([*arguments, *forms], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(forms)
    for form in forms:
        target = tmp_path / f"o-{form}"
        assert work_folder(target).is_dir()
        assert not target.exists()
        options: dict[str, Any] = {"shard_nbytes": SHARD_NBYTES, "sync": False}
        report = arraystore.export(train, target, form, resume=True, **options)
        whole = arraystore.export(train, tmp_path / form, form, **options)
        assert report.num_resumed > 0 == whole.num_resumed
        assert contents_of(target) == contents_of(tmp_path / form)
        assert report.splits == whole.splits


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"form": "parquet"}, "format is 'parquet'"),
        ({"shard_nbytes": 4000}, "shard_nbytes is '4000'"),
        ({"columns": ["score"]}, "columns is 'score'"),
        ({"samples": slice(0, 11)}, "digest of the samples of train is"),
        ({"samples": slice(None, None, -1)}, "digest of the samples of train is"),
    ],
)
def test_changed_export_is_not_resumed(
    changed: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split_of(tmp_path / "a.h5")
    arraystore.add_column(tmp_path / "a.h5", "train", "score", range(N_SAMPLES))
    train = arraystore.open(tmp_path / "a.h5")["train"]
    with pytest.raises(KeyboardInterrupt):
        exported(train, tmp_path / "out", "webdataset", monkeypatch, after=5, columns=())
    kept = contents_of(work_folder(tmp_path / "out"))
    options: dict[str, Any] = {"columns": (), "resume": True} | changed
    some = train.select(range(N_SAMPLES)[options.pop("samples", slice(None))])
    with pytest.raises(ValueError, match=f"cannot resume: {name}"):
        exported(some, tmp_path / "out", options.pop("form", "webdataset"), monkeypatch, **options)
    assert contents_of(work_folder(tmp_path / "out")) == kept


def test_export_of_fewer_splits_is_not_resumed(
    store: arraystore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, train = store["train+validation"], store["train"]
    interrupt(both, tmp_path / "out", "webdataset", monkeypatch, after=len(train) + 5)
    with pytest.raises(ValueError, match="digest of the samples of validation is ''"):
        exported(train, tmp_path / "out", "webdataset", monkeypatch, resume=True)


def test_changed_column_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zarr"
    split_of(path)
    arraystore.add_column(path, "train", "score", range(N_SAMPLES))
    interrupt(arraystore.open(path)["train"], tmp_path / "out", "parquet", monkeypatch)
    arraystore.remove_column(path, "train", "score")
    arraystore.add_column(path, "train", "score", range(1, N_SAMPLES + 1))
    with pytest.raises(ValueError, match="cannot resume: digest of the samples"):
        arraystore.export(
            arraystore.open(path)["train"],
            *(tmp_path / "out", "parquet"),
            shard_nbytes=SHARD_NBYTES,
            resume=True,
        )


def test_unfinished_export_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split_of(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "webdataset", monkeypatch)
    with pytest.raises(FileExistsError, match="holds an unfinished export to out; pass resume"):
        exported(train, tmp_path / "out", "webdataset", monkeypatch)


def test_export_without_a_finished_shard_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split_of(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "webdataset", monkeypatch, after=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", ["folders", *dict.fromkeys(form for form, _ in COPIES)])
def test_damaged_image_is_reported_and_not_written(suffix: str, form: str, tmp_path: Path) -> None:
    whole = split_of(tmp_path / f"whole{suffix}")
    path = copied(tmp_path / f"whole{suffix}", tmp_path / f"a{suffix}")
    data = whole.image_bytes[7]
    flip_bit(path, data, len(data) - 100)
    train = arraystore.open(path)["train"]
    target = tmp_path / ("out.zarr" if form == "arrays" else "out")
    with pytest.raises(ChecksumError, match=str(whole.file_name[7])) as caught:
        arraystore.export(train, target, form, shard_nbytes=SHARD_NBYTES, sync=False)
    remedy, note = caught.value.__notes__
    assert "--on-error skip" in remedy
    assert f"of {N_SAMPLES} images in finished shards" in note
    assert not target.exists()
    written = b"".join(contents_of(work_folder(target)).values())
    assert whole.image_bytes[0][-90:] in written
    assert data[-90:] not in written


def test_shard_of_another_size_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split_of(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "webdataset", monkeypatch, after=7)
    content = work_folder(tmp_path / "out") / "content"
    first, *_ = sorted(content.glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-1])
    (content / "left.tar").write_bytes(b"of a killed process")
    report, meter = exported(train, tmp_path / "out", "webdataset", monkeypatch, resume=True)
    assert meter.n_before == 2 * report.num_resumed
    whole, _ = exported(train, tmp_path / "whole", "webdataset", monkeypatch)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")
    assert report.splits == whole.splits


def damage(journal: Path, lines: Iterable[bytes]) -> None:
    journal.write_bytes(b"".join(lines))


def test_torn_journal_is_resumed_and_a_wrong_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support import checked

    train = split_of(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "tfrecord", monkeypatch, after=7)
    journal = work_folder(tmp_path / "out") / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    damage(journal, [*lines, checked(json.dumps(["train", 0, "zz", [], {}, ""]).encode())])
    with pytest.raises(FormatError, match="must record a shard of an export"):
        exported(train, tmp_path / "out", "tfrecord", monkeypatch, resume=True)
    damage(journal, [*lines[:-1], lines[-1][:-5]])
    report, _ = exported(train, tmp_path / "out", "tfrecord", monkeypatch, resume=True)
    assert report.num_resumed == len(lines) - 2
    assert READERS["tfrecord", "out"](tmp_path / "out") == samples_of(train)


def test_second_process_is_refused(tmp_path: Path) -> None:
    train = split_of(tmp_path / "a.zarr")
    lock = locked_folder(work_folder(tmp_path / "out"), _OWN.__contains__)
    with pytest.raises(StorageError, match="another process is exporting to the same target"):
        arraystore.export(train, tmp_path / "out", "webdataset")
    unlock(lock)


def test_foreign_folder_is_not_emptied(tmp_path: Path) -> None:
    train = split_of(tmp_path / "a.zarr")
    folder = work_folder(tmp_path / "out")
    folder.mkdir()
    (folder / "mine").write_bytes(b"1")
    with pytest.raises(StorageError, match="contains files that arraystore did not create"):
        arraystore.export(train, tmp_path / "out", "webdataset")
    assert contents_of(folder) == {"mine": b"1"}


def test_export_command_resumes_and_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = split_of(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "webdataset", monkeypatch)
    options = ["--format", "webdataset", "--shard-nbytes", str(SHARD_NBYTES), "--json"]
    command = ["export", str(tmp_path / "a.zarr"), "train", "-o", str(tmp_path / "out"), *options]
    assert main(command) == 1
    assert "pass resume=True (--resume)" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["num_samples"] == N_SAMPLES
    assert report["num_resumed"] > 0
    assert main([*command, "--column", "x", "--no-columns"]) == 2
