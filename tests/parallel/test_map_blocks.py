"""Columns that are computed block by block, with NumPy as the oracle."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import pytest
from typing_extensions import override

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import StorageError, StoreChangedError
from arraystore.storage.objects import connection as stores
from arraystore.writing import computed_column as module
from arraystore.writing.block_files import BlockFolder
from tests.support import SUFFIXES, Bucket, copied, objects_on_disk, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

N: Final = 30
NAMES: Final = [f"c{i % 3}/{i}.jpg" for i in range(N)]
LABELS: Final = [i % 3 for i in range(N)]
IMAGES: Final = [picture(8 + i % 3, 9, seed=i) for i in range(N)]
EVERY: Final[dict[str, Any]] = {"images": "none", "batch_size": 4}
"""Options of a cheap function; with `small_blocks` there are 4 blocks."""


def number(batch: Any) -> Any:
    """Return the number in the name of each sample."""
    return np.array([int(name[3:-4]) for name in batch.file_name])


def mean(batch: Any) -> Any:
    return np.stack([image.mean(axis=(0, 1), dtype=np.float32) for image in batch.image])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 30 images in each container."""
    folder = tmp_path_factory.mktemp("map")
    for suffix in SUFFIXES:
        write_store(folder / f"a{suffix}", NAMES, LABELS, IMAGES, classes="xyz")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    return copied(folder / f"a{request.param}", tmp_path / f"a{request.param}")


@pytest.fixture(params=[*SUFFIXES, "bucket"])
def place(request: pytest.FixtureRequest, folder: Path, bucket: Bucket, tmp_path: Path) -> Any:
    """A copy of the store in each container, and of the Zarr store in a bucket."""
    if request.param != "bucket":
        return copied(folder / f"a{request.param}", tmp_path / f"a{request.param}")
    for key, data in objects_on_disk(folder / "a.zarr").items():
        bucket.put(key, data)
    return "memory://a.zarr"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 8)


def train_of(place: Any) -> arraystore.Split:
    return arraystore.open(place)["train"]


def left_over(place: Any, bucket: Bucket) -> list[str]:
    """Return the names of the files or objects of a call that has not ended."""
    if isinstance(place, str):
        return [key for key in bucket.objects if ".map-" in key]
    folders = place.parent.glob(".*.map-*")
    return [path.name for folder in folders for path in [folder, *folder.iterdir()]]


class Recording:
    """A function that records the numbers of the samples of each batch, and may fail at one."""

    def __init__(self, fails_at: int | None = None, factor: float = 1) -> None:
        self.batches: list[list[int]] = []
        self.fails_at, self._factor = fails_at, factor

    def __call__(self, batch: Any) -> Any:
        found = number(batch)
        if len(self.batches) == self.fails_at:
            raise ZeroDivisionError("no")
        self.batches.append(found.tolist())
        return found * self._factor

    def numbers(self) -> list[int]:
        """Return all numbers, sorted."""
        return sorted(chain.from_iterable(self.batches))


class InTurn(Executor):
    """Runs tasks at once in this thread, and pickles them first if it is to."""

    def __init__(self, *, pickles: bool = False) -> None:
        self.calls: list[Callable[[], Any]] = []
        self._pickles = pickles

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        call = pickle.loads(pickle.dumps(fn)) if self._pickles else fn
        self.calls.append(lambda: call(*args, **kwargs))
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


@pytest.mark.parametrize(
    ("rows", "batch_size"), [(1, 1), (7, 3), (8, 4), (30, 30), (64, 64), (2, 7)]
)
def test_values_are_those_of_the_samples(
    rows: int, batch_size: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", rows)
    train, function = train_of(store), Recording()
    report = train.map_blocks(function, "n", images="none", batch_size=batch_size, description="d")
    assert (report.split, report.name, report.values) == ("train", "n", f"int64 ({N})")
    assert sorted(len(b) for b in function.batches if len(b) < batch_size) == [
        *([N % batch_size] if N % batch_size else [])
    ]
    column = train_of(store).columns["n"]
    assert column[:].tolist() == number(train).tolist()
    assert column.attributes["description"] == "d"
    assert arraystore.verify(store).ok


def test_functions_get_images_and_columns(store: Path) -> None:
    train = train_of(store)
    seen: dict[str, Any] = {}

    def see(batch: Any) -> Any:
        seen.update(zip(batch.file_name.tolist(), batch.image or [None] * 4, strict=False))
        more = batch.columns.get("n", np.zeros(len(batch.label)))
        return np.stack([batch.label, more], axis=1)

    train.map_blocks(see, "encoded", images="encoded", batch_size=4)
    assert [seen[name] for name in train.file_name.tolist()] == train.image_bytes[:]
    train.map_blocks(see, "decoded", batch_size=4)
    found = [seen[name] for name in train.file_name.tolist()]
    assert all(map(np.array_equal, found, train.image[:]))
    train.map_blocks(number, "n", images="none")
    for images in module.IMAGES:
        train_of(store).map_blocks(
            see, f"with_{images}", columns=["n"], **EVERY | {"images": images}
        )
        found = train_of(store).columns[f"with_{images}"][:]
        assert found.tolist() == np.stack([train.label, number(train)], axis=1).tolist()
    train.map_blocks(lambda batch: batch.image, "small", size=4, batch_size=4)
    assert np.array_equal(train_of(store).columns["small"][:], train.resized(4)[:])


@pytest.mark.parametrize(
    "value",
    [
        np.float16(1.5),
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([True, False]),
        1j,
        "é\n",
        ["a", "bcd"],
    ],
    ids=str,
)
def test_every_kind_of_value_is_kept(value: Any, place: Any, bucket: Bucket) -> None:
    def values(batch: Any) -> Any:
        if isinstance(value, str):
            return [value * i for i in number(batch).tolist()]
        scaled = number(batch).reshape(-1, *[1] * np.ndim(value)) % 2 == 0
        return np.where(scaled, value, np.zeros_like(value))

    train = train_of(place)
    train.map_blocks(values, "v", **EVERY)
    expected = np.asarray(values(train))
    found = train_of(place).columns["v"]
    assert found[:].tolist() == expected.tolist()
    assert expected.dtype.kind == "U" or found.dtype == expected.dtype
    assert not left_over(place, bucket)


def test_cluster_gives_equal_columns(client: Any, store: Path) -> None:
    train = train_of(store)
    train.map_blocks(mean, "threads", batch_size=4)
    train.map_blocks(mean, "cluster", batch_size=4, executor=client.get_executor())
    columns = train_of(store).columns
    assert columns["threads"].attributes == columns["cluster"].attributes
    assert np.array_equal(columns["cluster"][:], mean(train[:]))


def kill_once(marker: Path, batch: Any) -> Any:
    if not marker.exists() and 5 in number(batch):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number(batch)


def test_killed_worker_costs_its_block_only(client: Any, folder: Path, tmp_path: Path) -> None:
    store = copied(folder / "a.zarr", tmp_path / "a.zarr")
    train, function = train_of(store), partial(kill_once, tmp_path / "killed")
    report = train.map_blocks(function, "n", executor=client.get_executor(), **EVERY)
    assert (tmp_path / "killed").exists()
    assert report.notes == ()
    assert train_of(store).columns["n"][:].tolist() == number(train).tolist()


def test_function_that_a_cluster_cannot_import_is_an_error(
    client: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers of distributed would otherwise die of it, again and again.
    (tmp_path / "unsent.py").write_text("def function(batch):\n    return batch.label\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    train = train_of(copied(folder / "a.zarr", tmp_path / "a.zarr"))
    function, executor = importlib.import_module("unsent").function, client.get_executor()
    with pytest.raises(ModuleNotFoundError, match="unsent") as caught:
        train.map_blocks(function, "n", executor=executor, **EVERY)
    assert "Client.upload_file" in caught.value.__notes__[0]
    train.map_blocks(lambda batch: batch.label, "n", executor=executor, **EVERY)


CHILD: Final = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import arraystore
from arraystore.writing import computed_column as module
module._MOST_ROWS = 8
n = 0
def number(batch):
    global n
    n += len(batch.label)
    if n > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return [int(name[3:-4]) for name in batch.file_name]
with ThreadPoolExecutor(1) as pool:
    train = arraystore.open(sys.argv[1])["train"]
    train.map_blocks(number, "n", images="none", batch_size=4, executor=pool)
"""


def test_call_continues_after_its_process_was_killed(store: Path, bucket: Bucket) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, str(store)], check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    train, numbers = train_of(store), number(train_of(store)).tolist()
    again = Recording()
    with pytest.raises(FileExistsError, match=r"finished blocks.*resume=True"):
        train.map_blocks(number, "n", **EVERY)
    again.__qualname__ = "number"  # type: ignore[attr-defined] # as the name of the other
    train.map_blocks(again, "n", resume=True, **EVERY)
    assert again.numbers() == sorted(numbers[16:])
    assert train_of(store).columns["n"][:].tolist() == numbers
    assert not left_over(store, bucket)


def test_failed_call_names_samples_and_continues(place: Any, bucket: Bucket) -> None:
    train, first, again = train_of(place), Recording(fails_at=5), Recording(factor=2)
    numbers = number(train).tolist()
    with pytest.raises(ZeroDivisionError) as caught:
        train.map_blocks(first, "n", executor=InTurn(), **EVERY)
    names = train.file_name
    samples, remedy = caught.value.__notes__
    assert samples.endswith(f"the samples 20 to 23 of train ({names[20]} to {names[23]})")
    assert "resume=True" in remedy
    assert "n" not in train_of(place).columns
    with pytest.raises(FileExistsError, match=r"resume=True.*overwrite=True"):
        train.map_blocks(again, "n", **EVERY)
    for option, text in (({"batch_size": 2}, "batch_size"), ({"images": "encoded"}, "images")):
        with pytest.raises(ValueError, match=f"option {text} is .*, but was"):
            train.map_blocks(again, "n", resume=True, **EVERY | option)
    with pytest.raises(ValueError, match="option function is number, but was Recording"):
        train.map_blocks(number, "n", resume=True, **EVERY)
    train.map_blocks(again, "n", resume=True, **EVERY)
    assert again.numbers() == sorted(numbers[16:])
    found = train_of(place).columns["n"][:].tolist()
    assert found == [*numbers[:16], *(2 * i for i in numbers[16:])]
    assert not left_over(place, bucket)


def test_call_that_fails_at_once_leaves_nothing(place: Any, bucket: Bucket) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        train_of(place).map_blocks(Recording(fails_at=0), "n", executor=InTurn(), **EVERY)
    assert len(caught.value.__notes__) == 1
    assert not left_over(place, bucket)


def test_plan_without_blocks_is_ignored(store: Path, bucket: Bucket) -> None:
    fails = Recording(fails_at=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockFolder, "finished", lambda *_: {0})  # so that nothing is deleted
        patch.setattr(BlockFolder, "block", lambda *_: np.zeros(8, np.int64))
        with pytest.raises(ZeroDivisionError):
            train_of(store).map_blocks(fails, "n", executor=InTurn(), **EVERY)
    assert left_over(store, bucket)
    train_of(store).map_blocks(number, "n", **EVERY)
    assert not left_over(store, bucket)


def test_overwriting_ignores_blocks_of_earlier_calls(place: Any, bucket: Bucket) -> None:
    train, executor, earlier = train_of(place), InTurn(), Recording(fails_at=5)
    with pytest.raises(ZeroDivisionError):
        train.map_blocks(earlier, "n", executor=executor, **EVERY)
    earlier.fails_at = None

    def late(batch: Any) -> Any:
        for call in executor.calls:  # a worker of the earlier call still runs
            call()
        return number(batch) * 3

    train.map_blocks(late, "n", overwrite=True, executor=InTurn(), **EVERY)
    assert train_of(place).columns["n"][:].tolist() == (number(train) * 3).tolist()
    with pytest.raises(FileExistsError, match="has a column 'n'; pass overwrite=True"):
        train.map_blocks(number, "n", **EVERY)
    with pytest.raises(FileExistsError, match="has a column 'n'"):
        train.map_blocks(number, "n", resume=True, **EVERY)
    train.map_blocks(number, "n", overwrite=True, **EVERY)
    assert train_of(place).columns["n"][:].tolist() == number(train).tolist()


class Loading:
    """A function with a model, which is loaded once in each process."""

    loads = 0

    def __init__(self, fails_at: int = -1, factor: int = 1) -> None:
        self.model: int | None = None
        self._fails_at, self._factor = fails_at, factor

    def __call__(self, batch: Any) -> Any:
        if self.model is None:
            self.model = self._factor
            Loading.loads += 1
        if self._fails_at in number(batch):
            raise ZeroDivisionError
        return number(batch) * self.model


def test_function_is_received_once_in_each_call(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loading, "loads", 0)
    train, executor = train_of(store), InTurn(pickles=True)
    numbers = number(train).tolist()
    with pytest.raises(ZeroDivisionError):
        train.map_blocks(Loading(fails_at=numbers[21]), "n", executor=executor, **EVERY)
    assert Loading.loads == 1
    train.map_blocks(Loading(factor=2), "n", resume=True, executor=executor, **EVERY)
    assert Loading.loads == 2
    found = train_of(store).columns["n"][:].tolist()
    assert found == [*numbers[:16], *(2 * i for i in numbers[16:24]), *numbers[24:]]


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda batch: batch.label[1:], ValueError, "one value per sample: 4 values, got 3"),
        (lambda batch: 1.5, ValueError, "got a single value"),
        (lambda batch: None, ValueError, "got a single value"),
        (lambda batch: [[0] * i for i in range(4)], ValueError, "values of one shape; pad them"),
        (lambda batch: ["a", 1, "b", "c"], TypeError, "mixes text with other values"),
        (lambda batch: np.zeros((4, 0)), ValueError, "are empty"),
        (lambda batch: np.zeros(4, "S2"), TypeError, "got data type"),
        (
            lambda batch: number(batch).astype(np.int64 if 5 in number(batch) else np.int32),
            ValueError,
            "one data type and shape, but the function returned 'int",
        ),
        (
            lambda batch: np.zeros((len(batch.label), 1 + (5 in number(batch)))),
            ValueError,
            r"the function returned 'float64 \(\d,\)' and 'float64 \(\d,\)' for a sample",
        ),
    ],
)
def test_results_that_are_no_column_are_errors(
    result: Any, error: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    store = copied(folder / "a.zarr", tmp_path / "a.zarr")
    with pytest.raises(error, match=message):
        train_of(store).map_blocks(result, "n", **EVERY)
    assert "n" not in train_of(store).columns


def test_resumed_values_must_fit_the_finished_blocks(store: Path) -> None:
    train, again = train_of(store), Recording(factor=1.5)
    with pytest.raises(ZeroDivisionError):
        train.map_blocks(Recording(fails_at=5), "n", executor=InTurn(), **EVERY)
    with pytest.raises(ValueError, match=r"'int64 .*' and 'float64"):
        train.map_blocks(again, "n", resume=True, executor=InTurn(), **EVERY)
    assert "n" not in train_of(store).columns


def test_damaged_block_is_an_error(store: Path) -> None:
    train = train_of(store)
    with pytest.raises(ZeroDivisionError):
        train.map_blocks(Recording(fails_at=5), "n", executor=InTurn(), **EVERY)
    block = next(store.parent.glob(".*.map-train.n/block-*-1"))
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.write_bytes(data)
    with pytest.raises(StorageError, match=re.escape(f"{block}: is damaged; delete it")):
        train.map_blocks(Recording(), "n", resume=True, **EVERY)
    block.unlink()
    train.map_blocks(Recording(), "n", resume=True, **EVERY)
    assert train_of(store).columns["n"][:].tolist() == number(train).tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_store_that_is_replaced_gets_no_column(suffix: str, folder: Path, tmp_path: Path) -> None:
    store = copied(folder / f"a{suffix}", tmp_path / f"a{suffix}")
    other = write_store(tmp_path / f"b{suffix}", NAMES, LABELS, IMAGES, classes="xyz", seed=1)
    train, kept = train_of(store), tmp_path / "kept"

    def replace(batch: Any) -> Any:
        if not kept.exists():
            store.rename(kept)
            copied(other, store)
        return number(batch)

    with pytest.raises(StoreChangedError, match="order was shuffled, seed 0, is shuffled, seed 1"):
        train.map_blocks(replace, "n", executor=InTurn(), **EVERY)
    assert not train_of(store).columns
    assert arraystore.verify(store).ok


def test_call_killed_before_its_blocks_were_deleted(
    store: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_of(store)
    with monkeypatch.context() as patch:

        def fail(self: BlockFolder) -> None:
            if "n" in train_of(store).columns:
                raise ZeroDivisionError

        patch.setattr(BlockFolder, "remove", fail)
        with pytest.raises(ZeroDivisionError):
            train.map_blocks(number, "n", **EVERY)
    assert left_over(store, bucket)
    with pytest.raises(FileExistsError, match="has a column 'n'"):
        train.map_blocks(number, "n", **EVERY)
    report = train.map_blocks(number, "n", resume=True, **EVERY)
    assert "added already" in report.notes[0]
    assert report.values == f"int64 ({N})"
    assert not left_over(store, bucket)


def test_two_calls_do_not_compute_one_column(place: Any) -> None:
    def nested(batch: Any) -> Any:
        with pytest.raises((StorageError, FileExistsError), match="another process"):
            train_of(place).map_blocks(number, "n", **EVERY)
        train_of(place).map_blocks(number, f"n{batch.label[0]}", overwrite=True, **EVERY)
        return number(batch)

    train_of(place).map_blocks(nested, "n", executor=InTurn(), **EVERY)
    assert "n" in train_of(place).columns


def test_folder_of_another_program_is_refused(folder: Path, tmp_path: Path) -> None:
    store = copied(folder / "a.zarr", tmp_path / "a.zarr")
    mine = tmp_path / ".a.zarr.map-train.n" / "thesis.tex"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(StorageError, match="did not create"):
        train_of(store).map_blocks(number, "n", overwrite=True, **EVERY)
    assert mine.exists()


def test_what_cannot_be_computed_is_refused(store: Path) -> None:
    train = train_of(store)
    unused = Recording()

    def refused(error: type[Exception], message: str, split: Any = train, **options: Any) -> None:
        given = {"function": unused, "name": "n"} | EVERY | options
        with pytest.raises(error, match=message):
            split.map_blocks(given.pop("function"), given.pop("name"), **given)

    for some in (train.where(label=0), train.sample(N), train.select(slice(1, None))):
        refused(ValueError, "of a whole split of a store", some)
    refused(ValueError, "cannot be named 'label'", name="label")
    refused(ValueError, "size is for decoded images", size=4)
    refused(ValueError, "images must be one of", images="pixels")
    refused(ValueError, "batch_size must be 1 or more", batch_size=0)
    refused(TypeError, "must be a list of names", columns="n")
    refused(KeyError, "has no column 'm'", columns=["m"])
    refused(TypeError, "needs a function", function=3)
    with ProcessPoolExecutor(1) as processes:
        refused(
            TypeError,
            r"cannot be sent to processes: .*; define it in a module.*cloudpickle",
            function=lambda batch: number(batch),
            executor=processes,
        )
    assert not unused.batches
    assert not [*store.parent.glob(".*.map-*")]


def test_file_in_a_bucket_is_refused_at_once(folder: Path, bucket: Bucket) -> None:
    bucket.put("a.h5", (folder / "a.h5").read_bytes())
    unused = Recording()
    with pytest.raises(ValueError, match="HDF5 file in a bucket"):
        train_of("memory://a.h5").map_blocks(unused, "n", **EVERY)
    assert not unused.batches


def test_splits_of_parts_get_a_column(place: Any, bucket: Bucket) -> None:
    more = [
        {"image": picture(seed=i), "label": "x", "file_name": f"c0/{i}.jpg"} for i in range(50, 60)
    ]
    replaced = [{"image": picture(seed=70), "label": "y", "file_name": NAMES[4]}]
    arraystore.append(place, more, split="train")
    arraystore.append(place, replaced, split="train", on_existing="replace")
    train = train_of(place)
    train.map_blocks(Recording(), "n", executor=InTurn(pickles=True), **EVERY)
    assert len(train) == N + 10
    assert train_of(place).columns["n"][:].tolist() == number(train).tolist()


def test_command_computes_a_column(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = "def twice(batch):\n    return 2 * batch.label + batch.image.shape[1]\n"
    (store.parent / "features.py").write_text(code)
    arguments = ["column", "map", store.name, "train", "twice", "features:twice", "--size", "4"]
    try:
        assert main([*arguments, "--workers", "1"]) == 0
        assert capsys.readouterr().out == f"{store}/train: added twice, int64 (30)\n"
        train = train_of(store)
        assert train.columns["twice"][:].tolist() == (2 * train.label + 4).tolist()
        assert main(arguments) == 1
        assert "pass overwrite=True (--overwrite)" in capsys.readouterr().err
        for wrong, text in (
            ("features", "MODULE:FUNCTION"),
            ("a.b:c", "'a'"),
            ("features:no", "'no'"),
        ):
            assert main([*arguments[:5], wrong]) == 2
            assert text in capsys.readouterr().err
    finally:
        sys.modules.pop("features", None)
