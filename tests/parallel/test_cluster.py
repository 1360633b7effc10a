"""Work on a real cluster of distributed: two worker processes with another working directory."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import WorkersLostError
from arraystore.indexing.layout import blocks
from arraystore.verifying import images as images_module
from arraystore.writing import store_writer
from arraystore.writing.local import LocalStoreWriter
from tests.parallel.conftest import start
from tests.support import SUFFIXES, objects_on_disk, picture, write_folder
from tests.verifying.test_verify import flip_in_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)

PHOTOS = {
    f"{name}/{i}.jpg": picture(seed=i + 12 * (name == "b")) for name in "ab" for i in range(12)
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Images in a folder, named relative to the working directory; blocks of 2,000 bytes."""
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=2_000))
    write_folder(tmp_path / "photos", PHOTOS)
    monkeypatch.chdir(tmp_path)
    return "folder:photos"


def after_blocks(monkeypatch: pytest.MonkeyPatch, n: int, do: Callable[[], object]) -> list[int]:
    """Do something when `n` blocks are filled; return a list that grows with each."""
    filled: list[int] = []
    record = LocalStoreWriter.record

    def recording(self: LocalStoreWriter, split: str, block: Any, *rest: Any) -> None:
        record(self, split, block, *rest)
        filled.append(block.start)
        if len(filled) == n:
            do()

    monkeypatch.setattr(LocalStoreWriter, "record", recording)
    return filled


@every_suffix
def test_cluster_writes_same_bytes_as_threads(
    suffix: str, client: Any, photos: str, tmp_path: Path
) -> None:
    arraystore.convert(photos, f"cluster{suffix}", executor=client.get_executor())
    arraystore.convert(photos, f"threads{suffix}")
    expected = objects_on_disk(tmp_path / f"threads{suffix}").values()
    assert [*objects_on_disk(tmp_path / f"cluster{suffix}").values()] == [*expected]


@every_suffix
def test_second_conversion_writes_again(
    suffix: str, client: Any, photos: str, tmp_path: Path
) -> None:
    # The tasks of both are equal, so a scheduler could return results of the first.
    executor = client.get_executor()
    for _ in range(2):
        arraystore.convert(photos, f"a{suffix}", executor=executor, overwrite=True)
    assert arraystore.verify(tmp_path / f"a{suffix}").ok


@every_suffix
def test_copy_by_cluster_is_equal(suffix: str, client: Any, photos: str, tmp_path: Path) -> None:
    arraystore.convert(photos, f"a{suffix}")
    store = arraystore.open(f"a{suffix}")
    (name,) = store
    some = store[name].select(slice(3, 20))
    executor = client.get_executor()
    arraystore.copy(f"a{suffix}", f"b{suffix}", executor=executor)
    arraystore.copy(some, f"cluster{suffix}", executor=executor)
    arraystore.copy(some, f"threads{suffix}")
    found = {kind: [*objects_on_disk(tmp_path / f"{kind}{suffix}").values()] for kind in "ab"}
    assert found["a"] == found["b"]
    assert arraystore.verify(f"cluster{suffix}").ok
    digests = [arraystore.open(f"{k}{suffix}").info.splits for k in ("cluster", "threads")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("suffix", [".h5"])
def test_killed_worker_costs_its_blocks_only(
    suffix: str, client: Any, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arraystore.convert(photos, f"threads{suffix}")
    pid, *_ = client.run(os.getpid).values()
    filled = after_blocks(monkeypatch, 2, lambda: os.kill(pid, signal.SIGKILL))
    report = arraystore.convert(photos, f"a{suffix}", executor=client.get_executor())
    assert report.notes == ()
    assert len(filled) == len(set(filled)) > 4
    expected = objects_on_disk(tmp_path / f"threads{suffix}").values()
    assert [*objects_on_disk(tmp_path / f"a{suffix}").values()] == [*expected]


@pytest.mark.parametrize("suffix", [".zarr"])
def test_conversion_resumes_after_a_lost_scheduler(
    suffix: str, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arraystore.convert(photos, f"threads{suffix}")
    cluster, client = start()
    with client:
        filled = after_blocks(monkeypatch, 2, cluster.close)
        with pytest.raises(WorkersLostError) as caught:
            arraystore.convert(photos, f"a{suffix}", executor=client.get_executor())
    assert "pass resume=True" in caught.value.__notes__[0]
    assert not (tmp_path / f"a{suffix}").exists()
    n_before = len(filled)
    arraystore.convert(photos, f"a{suffix}", resume=True)
    assert len(filled) == len(set(filled))
    assert n_before >= 2
    expected = objects_on_disk(tmp_path / f"threads{suffix}").values()
    assert [*objects_on_disk(tmp_path / f"a{suffix}").values()] == [*expected]


def test_commands_work_on_a_cluster(client: Any, photos: str, tmp_path: Path) -> None:
    scheduler = client.scheduler.address
    assert main(["convert", photos, "a.zarr", "--dask", scheduler]) == 0
    assert main(["copy", "a.zarr", "b.zarr", "--dask", scheduler]) == 0
    arraystore.convert(photos, "threads.zarr")
    found = [[*objects_on_disk(tmp_path / f"{k}.zarr").values()] for k in ("a", "b", "threads")]
    assert found[0] == found[1] == found[2]


def test_commands_start_their_own_workers(
    photos: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", photos, "a.zarr", "--workers", "2"]) == 0
    assert main(["convert", photos, "b.zarr", "--dask", "local", "--workers", "1"]) == 0
    assert arraystore.open("a.zarr").info.splits == arraystore.open("b.zarr").info.splits
    assert capfd.readouterr().err == ""


def test_scheduler_that_does_not_answer_is_an_error(
    photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "0.1s"}):
        assert main(["convert", photos, "a.zarr", "--dask", "tcp://127.0.0.1:9"]) == 1
    assert "--dask tcp://127.0.0.1:9: no scheduler answers there" in capsys.readouterr().err
    assert main(["convert", photos, "a.zarr", "--dask", "tcp://127.0.0.1:9", "--workers", "2"]) == 2
    assert "--workers is for --dask local" in capsys.readouterr().err


FORMS = ("archives", "class archives", "webdataset")
"""Sources of many archives."""


def in_form(form: str, drawn: DrawnArchives, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return a data set, and the options, that convert drawn archives in some form."""
    if form == "archives":
        return "imagenet2012_subset/1pct", {"manual_dir": drawn.folder, "partial": True}
    if form == "webdataset":
        for i in range(3):
            with tarfile.open(folder / f"train-{i}.tar", "w") as tar:
                for k in range(5):
                    add(tar, f"{i}{k}.jpg", picture(seed=5 * i + k))
                    add(tar, f"{i}{k}.cls", str(k % 2).encode())
        return "wds:train-*.tar", {"classes": 2}
    outer = drawn.folder / "ILSVRC2012_img_train.tar"
    (folder / "train").mkdir()
    with tarfile.open(outer) as tar:
        tar.extractall(folder / "train", filter="data")
    return "imagenet2012", {"manual_dir": folder, "partial": True}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", FORMS)
def test_cluster_walks_archives(
    form: str,
    client: Any,
    drawn: DrawnArchives,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset, options = in_form(form, drawn, tmp_path)
    arraystore.convert(dataset, "threads.zarr", **options)
    walked: list[str] = []
    submit = type(client).submit

    def submitting(self: Any, work: Any, *args: Any, **kwargs: Any) -> Any:
        walked.append(work.__name__)
        return submit(self, work, *args, **kwargs)

    monkeypatch.setattr(type(client), "submit", submitting)
    arraystore.convert(dataset, "cluster.zarr", executor=client.get_executor(), **options)
    found = [[*objects_on_disk(tmp_path / f"{k}.zarr").values()] for k in ("threads", "cluster")]
    assert found[0] == found[1]
    assert walked.count("_walk") == {"archives": 6, "class archives": 6, "webdataset": 3}[form]


@every_suffix
def test_cluster_finds_the_same_problems(
    suffix: str, client: Any, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "BLOCK_NBYTES", 2_000)
    arraystore.convert(photos, f"a{suffix}")
    for damaged in (None, 3, 20):
        if damaged is not None:
            flip_in_image(tmp_path / f"a{suffix}", damaged)
        found = [
            arraystore.verify(f"a{suffix}", decode=True, source=photos, executor=executor)
            for executor in (None, client.get_executor())
        ]
        assert found[0].problems == found[1].problems
        assert found[1].ok is (damaged is None)
    assert [problem.position for problem in found[1].problems] == [3, 20]
