"""A cluster, and pools of processes, that read from buckets and write to them."""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import pickle
import select
import shutil
import signal
import tarfile
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import distributed
import pytest
from botocore.session import Session
from typing_extensions import override

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import ChecksumError, SourceError, StorageError, WorkersLostError
from arraystore.indexing.layout import blocks
from arraystore.storage.location import Location
from arraystore.storage.objects import writer as object_writer
from arraystore.storage.objects.part_upload import PartUpload
from arraystore.writing import fill, store_writer
from arraystore.writing.hdf5_bucket import PartPlace
from arraystore.writing.store_writer import StoreWriter
from arraystore.writing.zarr_bucket import ObjectPlace
from tests.cloud.proxy import FAULTS
from tests.cloud.servers import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedFS
from tests.cloud.test_writing import objects_below
from tests.parallel.conftest import PRELOAD
from tests.support import SUFFIXES, objects_on_disk, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.cloud.servers import Server

P = ParamSpec("P")
T = TypeVar("T")

SHARD = 2**20
PART = 5 * 2**20

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)

KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def places(server: Server) -> dict[str, str]:
    """Return variables that name the server, without keys."""
    return {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1"}


class Cluster(NamedTuple):
    """Two worker processes, and a client of them."""

    cluster: Any
    client: Any


def started(stack: ExitStack, server: Server) -> Cluster:
    """Start two workers that have the keys in their environment, and another working directory."""
    made: Any = distributed  # it has annotations, but not of these
    cluster = stack.enter_context(
        made.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            env=places(server) | KEYS,
            preload=PRELOAD,
        )
    )
    return Cluster(cluster, stack.enter_context(made.Client(cluster)))


@pytest.fixture(scope="module")
def server(start: Callable[[str], Server]) -> SeaweedFS:
    server = start(SeaweedFS.kind)
    assert isinstance(server, SeaweedFS)
    return server


@pytest.fixture(scope="module")
def client(server: SeaweedFS) -> Iterator[Any]:
    with ExitStack() as stack:
        yield started(stack, server).client


@pytest.fixture(autouse=True)
def _environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process its keys in a profile; make many shards, and uploads of several parts."""
    profile = tmp_path / "credentials"
    names = "\n".join(f"{name.lower()} = {value}" for name, value in KEYS.items())
    profile.write_text(f"[default]\n{names}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    for name, value in places(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
    monkeypatch.setattr(object_writer, "PART_NBYTES", PART)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 22 MB in a folder, and in shards of WebDataset beside it."""
    data = [picture(1200, 1500, seed=i) for i in range(3)]
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": data[i % 3] for i in range(16)}
    files["val/a/v.jpg"] = picture(seed=77)
    folder = write_folder(tmp_path_factory.mktemp("photos"), files)
    for shard in range(2):
        with tarfile.open(folder.parent / f"shard-{shard}.tar", "w") as archive:
            for i in range(shard, 16, 2):
                for name, member in ((f"{i}.jpg", data[i % 3]), (f"{i}.cls", b"%d" % (i % 3))):
                    info = tarfile.TarInfo(name)
                    info.size = len(member)
                    archive.addfile(info, io.BytesIO(member))
    return folder


@pytest.fixture(scope="module")
def in_bucket(server: SeaweedFS, photos: Path) -> dict[str, tuple[str, int | None]]:
    """The same folder, and the archives, in the bucket: address and number of classes of each."""
    server.upload(photos, "in/photos")
    for path in photos.parent.glob("*.tar"):
        server.upload(path, f"in/{path.name}")
    return {
        "folder": (f"folder:s3://{BUCKET}/in/photos", None),
        "archives": (f"wds:s3://{BUCKET}/in/shard-{{0..1}}.tar", 3),
    }


def convert(source: Path | str, target: str | Path, **options: Any) -> arraystore.ConvertReport:
    dataset = source if isinstance(source, str) else f"folder:{source}"
    return arraystore.convert(dataset, target, sync=False, **options)


@cache
def local_run(photos: Path, suffix: str) -> dict[str, bytes]:
    """Return the objects of a conversion to a disk, without an executor."""
    target = photos.parent / "local" / f"a{suffix}"
    target.parent.mkdir(exist_ok=True)
    convert(photos, target)
    return objects_on_disk(target)


def uploads(server: SeaweedFS) -> list[Any]:
    """Return the uploads that were neither completed nor aborted."""
    client = Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    found: list[Any] = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return found


def after_sent(monkeypatch: pytest.MonkeyPatch, n: int, do: Callable[[], object]) -> list[Any]:
    """Do something when `n` blocks were sent; return a list that grows with the place of each."""
    sent: list[Any] = []
    run = StoreWriter._run

    def counting(self: StoreWriter, workers: Any, tasks: Any) -> Generator[Any]:
        with closing(run(self, workers, tasks)) as found:
            for (block, place), filled in found:
                if isinstance(place, ObjectPlace | PartPlace):
                    sent.append(place)
                    if len(sent) == n:
                        do()
                yield (block, place), filled

    monkeypatch.setattr(StoreWriter, "_run", counting)
    return sent


@pytest.mark.parametrize("form", ["folder", "archives"])
@every_suffix
def test_cluster_sends_the_objects_of_a_local_run(
    suffix: str,
    form: str,
    client: Any,
    server: SeaweedFS,
    in_bucket: dict[str, tuple[str, int | None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, classes = in_bucket[form]
    sent = after_sent(monkeypatch, 0, list)
    target = f"s3://{BUCKET}/{form}{suffix}/a{suffix}"
    convert(source, target, executor=client.get_executor(), classes=classes)
    assert len(sent) == len(set(sent)) >= 2
    convert(source, tmp_path / f"a{suffix}", classes=classes)
    assert objects_below(server, f"{form}{suffix}") == objects_on_disk(tmp_path / f"a{suffix}")
    assert uploads(server) == []


@every_suffix
def test_killed_worker_costs_its_blocks_only(
    suffix: str,
    client: Any,
    server: SeaweedFS,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid, *_ = client.run(os.getpid).values()
    sent = after_sent(monkeypatch, 1, lambda: os.kill(pid, signal.SIGKILL))
    monkeypatch.chdir(photos.parent)  # workers are elsewhere
    report = convert(
        f"folder:{photos.name}",
        f"s3://{BUCKET}/killed{suffix}/a{suffix}",
        executor=client.get_executor(),
    )
    assert report.notes == ()
    assert len(sent) == len(set(sent)) >= 2
    assert objects_below(server, f"killed{suffix}") == local_run(photos, suffix)
    assert uploads(server) == []


@every_suffix
def test_lost_scheduler_leaves_what_can_be_resumed(
    suffix: str,
    server: SeaweedFS,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = f"s3://{BUCKET}/lost{suffix}/a{suffix}"
    with ExitStack() as stack:
        cluster, client = started(stack, server)
        sent = after_sent(monkeypatch, 1, cluster.close)
        with pytest.raises(WorkersLostError) as caught:
            convert(photos, target, executor=client.get_executor())
    assert uploads(server) == []
    left = objects_below(server, f"lost{suffix}")
    n_before = len(sent)
    if suffix == ".h5":
        assert left == {}
        convert(photos, target)
    else:
        assert "pass resume=True" in caught.value.__notes__[0]
        assert ".a.zarr.partial" in left
        assert "a.zarr/zarr.json" not in left
        convert(photos, target, resume=True)
        assert len(sent) == len(set(sent)) > n_before >= 1
    assert objects_below(server, f"lost{suffix}") == local_run(photos, suffix)


def wait_for(fifo: Path) -> None:
    """Wait until a named pipe has data; raise after 20 s."""
    descriptor = os.open(fifo, os.O_RDWR)
    try:
        if not select.select([descriptor], [], [], 20)[0]:
            raise TimeoutError
    finally:
        os.close(descriptor)


def slow_down(fifo: str) -> None:
    """Make the next block of this process wait for a named pipe."""
    filling = fill.fill

    def slow(task: fill.FillTask) -> fill.Filled:
        fill.fill = filling
        wait_for(Path(fifo))
        return filling(task)

    fill.fill = slow


def test_slow_worker_does_not_delay_the_others(
    client: Any, server: SeaweedFS, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    worker, *_ = client.scheduler_info()["workers"]
    client.run(slow_down, str(fifo), workers=[worker])
    n_shards = 21
    in_flight = 4  # two for each worker, and the slow one has at least one of them
    sent = after_sent(monkeypatch, n_shards - in_flight, lambda: os.write(descriptor, b"go"))
    convert(photos, f"s3://{BUCKET}/slow/a.zarr", executor=client.get_executor())
    os.close(descriptor)
    assert len(sent) == len(set(sent)) >= n_shards
    assert objects_below(server, "slow") == local_run(photos, ".zarr")


@pytest.fixture(scope="module", params=["spawn", "loky"])
def processes(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "loky":
        made: Any = importlib.import_module("loky")
        pool: Executor = made.ProcessPoolExecutor(2)
    else:
        pool = ProcessPoolExecutor(2, multiprocessing.get_context(request.param))
    with pool:
        yield pool


@every_suffix
def test_processes_send_the_objects_of_a_local_run(
    suffix: str, processes: Executor, server: SeaweedFS, photos: Path, tmp_path: Path
) -> None:
    folder = f"{type(processes).__module__}{suffix}"
    convert(photos, f"s3://{BUCKET}/{folder}/a{suffix}", executor=processes)
    assert objects_below(server, folder) == local_run(photos, suffix)
    assert uploads(server) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@every_suffix
def test_forked_processes_are_refused(suffix: str, server: SeaweedFS, photos: Path) -> None:
    """A fork has none of the threads that this process sends requests with."""
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool,
        pytest.raises(StorageError, match="forkserver"),
    ):
        convert(photos, f"s3://{BUCKET}/fork/a{suffix}", executor=pool)
    assert objects_below(server, "fork") == {}
    assert uploads(server) == []


@every_suffix
def test_images_of_records_and_tables_are_sent_by_the_caller(
    suffix: str, client: Any, server: SeaweedFS, photos: Path, tmp_path: Path
) -> None:
    executor = client.get_executor()
    records = [
        {"image": path.read_bytes(), "label": int(path.stem) % 3, "file_name": path.name}
        for path in sorted((photos / "train").rglob("*.jpg"))
    ]
    classes = ["x", "y", "z"]
    for target, how in (
        (f"s3://{BUCKET}/spool/a{suffix}", executor),
        (tmp_path / f"a{suffix}", None),
    ):
        arraystore.write(target, {"train": records}, classes=classes, executor=how, overwrite=True)
    expected = objects_on_disk(tmp_path / f"a{suffix}")
    found = objects_below(server, "spool")
    assert {key: found[key] for key in found if key.startswith(f"a{suffix}")} == expected
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": record["image"], "path": record["file_name"]} for record in records]
    table = pyarrow.table({"image": images, "label": [record["label"] for record in records]})
    parquet.write_table(table, tmp_path / "train.parquet", compression="zstd")
    source = f"parquet:{tmp_path}/train.parquet"
    convert(source, f"s3://{BUCKET}/spool/b{suffix}", classes=classes, executor=executor)
    convert(source, tmp_path / f"b{suffix}", classes=classes)
    found = objects_below(server, "spool")
    expected = objects_on_disk(tmp_path / f"b{suffix}")
    assert {key: found[key] for key in found if key.startswith(f"b{suffix}")} == expected
    assert uploads(server) == []


class Pickling(Executor):
    """Threads that get their tasks as processes do; records the pickled tasks."""

    num_workers = 2

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._threads = ThreadPoolExecutor(2)

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.sent.append(pickle.dumps((fn, args, kwargs)))
        work, values, options = pickle.loads(self.sent[-1])
        return self._threads.submit(work, *values, **options)

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


@every_suffix
def test_tasks_contain_no_secret_from_a_profile(
    suffix: str, server: SeaweedFS, in_bucket: dict[str, tuple[str, int | None]]
) -> None:
    with Pickling() as pool:
        convert(in_bucket["folder"][0], f"s3://{BUCKET}/secret/a{suffix}", executor=pool)
    assert len(pool.sent) > 15
    assert not any(SECRET_KEY.encode() in task for task in pool.sent)


def without_keys() -> None:
    """Take this process the ways to credentials."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", *KEYS):
        os.environ.pop(name, None)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def test_worker_without_keys_is_an_error(server: SeaweedFS, photos: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(2, spawn, initializer=without_keys) as pool,
        pytest.raises(StorageError, match=r"a\.h5: no credentials were found"),
    ):
        convert(photos, f"s3://{BUCKET}/keyless/a.h5", executor=pool)
    assert objects_below(server, "keyless") == {}
    assert uploads(server) == []


def test_changed_image_aborts_the_upload(
    server: SeaweedFS, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(photos / "train", tmp_path / "changing")
    begin = PartUpload.begin

    def changing(location: Any) -> PartUpload:
        path = source / "a" / "4.jpg"
        status = path.stat()
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"?")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return begin(location)

    monkeypatch.setattr(PartUpload, "begin", changing)
    with Pickling() as pool, pytest.raises(SourceError, match=r"4\.jpg.*changed"):
        convert(source, f"s3://{BUCKET}/changed/a.h5", executor=pool)
    assert objects_below(server, "changed") == {}
    assert uploads(server) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_created_meanwhile_is_kept_unless_overwritten(
    overwrite: bool,
    server: SeaweedFS,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = f"meanwhile{overwrite}/a.h5"
    complete = PartUpload.complete

    def late(self: PartUpload, *arguments: Any, **options: Any) -> None:
        server.put(key, b"of another program")
        complete(self, *arguments, **options)

    monkeypatch.setattr(PartUpload, "complete", late)
    with Pickling() as pool:
        if not overwrite:
            with pytest.raises(FileExistsError, match="was created by another process meanwhile"):
                convert(photos, f"s3://{BUCKET}/{key}", executor=pool)
            expected = {"a.h5": b"of another program"}
        else:
            convert(photos, f"s3://{BUCKET}/{key}", executor=pool, overwrite=True)
            expected = local_run(photos, ".h5")
    assert objects_below(server, key.split("/")[0]) == expected
    assert uploads(server) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_each_fault_of_an_upload_is_retried(method: str, fault: str, server: SeaweedFS) -> None:
    key, parts = f"part-{fault}-{method}", (os.urandom(PART), b"end")
    with server.behind() as proxy:
        address, options = server.at(key, proxy.endpoint)
        upload = PartUpload.begin(Location.parse(address, options | {"read_timeout": 0.5}))
        if method == "PUT":
            proxy.fail_next(fault, method=method)
        etags = [upload.send(i, part) for i, part in enumerate(parts)]
        if method == "POST":
            proxy.fail_next(fault, method=method)
        upload.complete(etags, replaces=False)
        assert proxy.n_faults == {fault: 1}
    assert bytes(server.store().get(key).bytes()) == b"".join(parts)
    assert uploads(server) == []


@every_suffix
def test_copy_between_buckets_by_cluster(
    suffix: str,
    client: Any,
    server: SeaweedFS,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, other = f"s3://{BUCKET}/copied/a{suffix}", {".zarr": ".h5", ".h5": ".zarr"}[suffix]
    convert(photos, source)
    sent = after_sent(monkeypatch, 0, list)
    executor = client.get_executor()
    arraystore.copy(source, f"s3://{BUCKET}/copy{other}/a{other}", executor=executor)
    assert len(sent) == len(set(sent)) >= 2
    arraystore.copy(source, tmp_path / f"a{other}")
    assert objects_below(server, f"copy{other}") == objects_on_disk(tmp_path / f"a{other}")
    assert uploads(server) == []


def test_damaged_image_of_a_copy_aborts_the_upload(
    server: SeaweedFS, photos: Path, tmp_path: Path
) -> None:
    convert(photos, tmp_path / "a.h5")
    image = arraystore.open(tmp_path / "a.h5")["train"].image_bytes[8]
    data = (tmp_path / "a.h5").read_bytes()
    middle = data.index(image, len(data) // 2) + len(image) // 2
    (tmp_path / "a.h5").write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with Pickling() as pool, pytest.raises(ChecksumError, match="does not match its checksum"):
        arraystore.copy(tmp_path / "a.h5", f"s3://{BUCKET}/damaged/a.h5", executor=pool)
    assert objects_below(server, "damaged") == {}
    assert uploads(server) == []
