"""Threads and processes that read one store while others convert, lock or replace it."""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
from PIL import Image

import arraystore
from arraystore.errors import StorageError, StoreChangedError
from arraystore.sources.source_options import SourceOptions
from arraystore.storage.range_reader import LocalReader
from arraystore.verifying.problems import Findings
from arraystore.verifying.verify import _Verification
from arraystore.writing.progress import Meter
from tests.support import SUFFIXES, copied, picture, write_folder
from tests.test_reader import forks
from tests.web import PATIENCE, Asked, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

named = pytest.mark.parametrize

N_THREADS: Final = 4
N_PROCESSES: Final = 1
N_CONVERSIONS: Final = 1
"""Conversions that finish while each reader reads."""


def fingerprint(store: arraystore.Store) -> str:
    """Digest of pixels, encoded bytes, labels and names, read singly and in batches."""
    digest = sha256()
    for name in store:
        split = store[name]
        for sample in split:
            digest.update(sample.image.tobytes() + f"{sample.label}{sample.file_name}".encode())
        digest.update(b"".join(split.image_bytes[::-1]))
        digest.update(split[len(split) // 2].image.tobytes())
        digest.update(split.where(label=int(split.label[0])).label.tobytes())
    return digest.hexdigest()


def read_while(store: arraystore.Store, conversions: Any) -> set[str]:
    """Read a whole store repeatedly, until enough conversions have finished."""
    end = conversions.value + N_CONVERSIONS
    found = {fingerprint(store)}
    while 0 <= conversions.value < end:
        found.add(fingerprint(arraystore.open(store.address)))
        found.add(fingerprint(store))
    return found


def answer(connection: Any, store: arraystore.Store, conversions: Any) -> None:
    connection.send(read_while(store, conversions))


def convert_again_and_again(source: str, target: str, conversions: Any, stop: Any) -> None:
    """Convert repeatedly, overwriting the store, until stopped; -1 conversions is a failure."""
    try:
        while not stop.is_set():
            arraystore.convert(source, target, overwrite=True, sync=False, progress=False)
            with conversions.get_lock():
                conversions.value += 1
    except BaseException:
        conversions.value = -1
        raise


@pytest.fixture
def conversions(tmp_path: Path) -> Any:
    """Number of conversions that another process has finished, beside the readers."""
    context = multiprocessing.get_context("spawn")
    source = write_folder(
        tmp_path / "pictures", {f"a/{i}.jpg": picture(60, 80, seed=i) for i in range(20)}
    )
    count, stop = context.Value("q", 0), context.Event()
    arguments = f"folder:{source}", str(tmp_path / "beside.h5"), count, stop
    converter = context.Process(target=convert_again_and_again, args=arguments)
    converter.start()
    yield count
    stop.set()
    converter.join(PATIENCE)
    assert converter.exitcode == 0
    assert arraystore.verify(tmp_path / "beside.h5").ok


@forks
def test_reading_while_converting(path: Path, tmp_path: Path, conversions: Any) -> None:
    mine = tmp_path / path.name  # in the folder that the other process writes to
    copied(path, mine)
    store = arraystore.open(mine)
    expected = {fingerprint(arraystore.open(path))}
    children = []
    for method in ["fork", "spawn"] * N_PROCESSES:
        context: Any = multiprocessing.get_context(method)
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=answer, args=(sender, store, conversions))
        child.start()
        sender.close()
        children.append((child, receiver))
    try:
        with ThreadPoolExecutor(N_THREADS) as pool:
            found = list(pool.map(lambda _: read_while(store, conversions), range(N_THREADS)))
        for _, receiver in children:
            assert receiver.poll(PATIENCE), "a child hangs"
            found.append(receiver.recv())
    finally:
        for child, _ in children:
            child.kill()
            child.join(PATIENCE)
    assert conversions.value >= N_CONVERSIONS
    assert found == [expected] * (N_THREADS + 2 * N_PROCESSES)


# Locks


only_hdf5 = named("path", [".h5"], indirect=True, scope="session")


@only_hdf5
def test_locked_file_is_read(path: Path) -> None:
    expected = fingerprint(arraystore.open(path))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            h5py.File(path, locking=True)
        assert fingerprint(arraystore.open(path)) == expected
        assert arraystore.verify(path).ok


@only_hdf5
def test_readers_hold_no_lock(path: Path) -> None:
    store = arraystore.open(path)
    for number, _ in enumerate(store["train"]):
        if number == 5:  # in the middle, with more being read ahead
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Stores that are replaced


def verified(store: arraystore.Store) -> object:
    """Verify an open store, as `arraystore.verify` does after opening it."""
    findings = Findings()
    _Verification(store, findings, Meter(), None, None, SourceOptions(), None).run(decode=True)
    return findings.kept


USES: Final[dict[str, Callable[[arraystore.Store], Any]]] = {
    "nothing": lambda store: None,
    "info": lambda store: store.info,
    "labels": lambda store: store["train"].label,
    "names": lambda store: store["train"].file_name,
    "an image": lambda store: store["train"].image_bytes[0],
    "all": lambda store: fingerprint(store),
}


@pytest.fixture(scope="module", params=SUFFIXES)
def two_stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two stores that differ in all images, names and labels, but not in sizes."""
    folder, paths = tmp_path_factory.mktemp("pair"), []
    for number in range(2):
        files = {
            f"{c}{number}/{i}.bmp": bitmap(10 * number + i) for c in "ab" for i in range(3 + number)
        } | {f"c{number}/{i}.bmp": bitmap(50 + number + i) for i in range(2 - 2 * number)}
        source = write_folder(folder / f"in{number}", files)
        paths.append(folder / f"{number}{request.param}")
        arraystore.convert(f"folder:{source}", paths[-1], sync=False)
    return paths[0], paths[1]


@pytest.fixture
def pair(two_stores: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of `two_stores`, to be changed."""
    old, new = (copied(path, tmp_path / path.name) for path in two_stores)
    return old, new


def bitmap(seed: int) -> bytes:
    """A picture whose encoded size is that of every other one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def replace_by_rename(old: Path, new: Path) -> None:
    old.rename(old.with_name("aside"))
    new.rename(old)


def replace_in_place(old: Path, new: Path) -> None:
    """Write the bytes of the new files into the old ones, as ``cp`` and ``rsync --inplace`` do."""
    files = [new] if new.is_file() else [file for file in new.rglob("*") if file.is_file()]
    for file in files:
        target = old if new.is_file() else old / file.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


@named("replace", [replace_by_rename, replace_in_place])
@named("used", USES.values(), ids=USES)
@named("then", [use for name, use in USES.items() if name != "nothing"], ids=list(USES)[1:])
def test_replaced_store_is_never_mixed(
    pair: tuple[Path, Path],
    replace: Callable[[Path, Path], None],
    used: Callable[[arraystore.Store], Any],
    then: Callable[[arraystore.Store], Any],
) -> None:
    old, new = pair
    expected = repr(then(arraystore.open(old)))
    store = arraystore.open(old)
    used(store)
    replace(old, new)
    try:
        assert repr(then(store)) == expected
    except StoreChangedError as error:
        assert "since the store was opened" in str(error)  # noqa: PT017 - or the old data
    assert fingerprint(arraystore.open(old))  # opening it again reads the new one


OTHER_USES: Final[dict[str, Callable[[arraystore.Store, Path], Any]]] = {
    "where": lambda store, _: store["train"].where(label=1).file_name,
    "map": lambda store, _: list(store["train"].map(lambda sample: sample.file_name)),
    "batches": lambda store, _: [batch.label for batch in store["train"].batches(2, size=8)],
    "verify": lambda store, _: verified(store),
    "export": lambda store, folder: arraystore.export(store["train"], folder / "out", sync=False),
}


@named("use", OTHER_USES.values(), ids=OTHER_USES)
@named("is_other_container", [False, True])
def test_replaced_store_raises_for_any_use(
    pair: tuple[Path, Path],
    use: Callable[[arraystore.Store, Path], Any],
    is_other_container: bool,
    tmp_path: Path,
) -> None:
    old, new = pair
    if is_other_container:
        other = tmp_path / ("other.h5" if new.suffix == ".zarr" else "other.zarr")
        arraystore.copy(new, other, sync=False)
        new = other
    store = arraystore.open(old)
    replace_by_rename(old, new)
    with pytest.raises(
        StoreChangedError, match=rf"{old.name}.* (since|when) the store was opened; open"
    ):
        use(store, tmp_path)


def test_store_replaced_while_opening_is_reopened(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    expected = arraystore.open(new).info
    read = LocalReader.size

    def replaced(self: LocalReader, key: str) -> int:
        if new.exists():
            read(self, key)
            replace_by_rename(old, new)
        return read(self, key)

    monkeypatch.setattr(LocalReader, "size", replaced)
    assert arraystore.open(old).info == expected


@pytest.mark.parametrize("suffix", [".zarr"])
def test_object_of_next_remote_store_raises_changed(suffix: str, pair: tuple[Path, Path]) -> None:
    old, new = pair
    if old.suffix != suffix:
        pytest.skip("one file")
    with WebServer() as web:
        web.put(old, old.name)
        store = arraystore.open(f"{web.url}/{old.name}")
        web.objects.clear()
        web.put(new, old.name)
        for key in [key for key in web.objects if "/c/" in key]:
            del web.objects[key]
        with pytest.raises(StoreChangedError, match="since the store was opened"):
            _ = store["train"].label


def test_newer_object_is_compared_with_root(
    pair: tuple[Path, Path],
) -> None:
    old, new = pair
    if old.suffix == ".h5":
        pytest.skip("one file")
    with WebServer() as web:
        web.put(old, old.name)
        store = arraystore.open(f"{web.url}/{old.name}")
        _ = store["train"].label
        roots = 0

        def replace_between(asked: Asked) -> None:
            """Serve the old root, and the other objects of the new store."""
            nonlocal roots
            roots += asked.path == f"{old.name}/zarr.json"
            if roots > 1 or "/c/" in asked.path:
                web.put(new, old.name)

        web.answer = replace_between
        with pytest.raises(StoreChangedError, match="since the store was opened"):
            _ = store["train"].file_name


@named("used", USES.values(), ids=USES)
@named("then", ["info", "names", "all"])
def test_replaced_remote_store_is_never_mixed(
    pair: tuple[Path, Path],
    used: Callable[[arraystore.Store], Any],
    then: str,
) -> None:
    old, new = pair
    with WebServer() as web:
        web.put(old, old.name)
        expected = repr(USES[then](arraystore.open(f"{web.url}/{old.name}")))
        store = arraystore.open(f"{web.url}/{old.name}")
        used(store)
        web.put(new, old.name)
        try:
            assert repr(USES[then](store)) == expected
        except StorageError as error:
            assert "changed" in str(error)  # noqa: PT017 - either will do


def test_loop_over_replaced_store(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / path.name
    copied(path, mine)
    source = write_folder(
        tmp_path / "pictures", {f"a/{i}.jpg": picture(seed=i) for i in range(100)}
    )
    expected = [sample.image.tobytes() for sample in arraystore.open(path)["train"]]
    found: list[bytes] = []
    barrier = threading.Barrier(2, timeout=PATIENCE)

    def loop() -> None:
        store = arraystore.open(mine)["train"]
        barrier.wait()
        for _ in range(1000):
            for number, sample in enumerate(store):
                assert sample.image.tobytes() == expected[number]
                found.append(sample.image.tobytes())

    with ThreadPoolExecutor(1) as pool:
        looping = pool.submit(loop)
        barrier.wait()
        arraystore.convert(f"folder:{source}", mine, overwrite=True, sync=False, progress=False)
        with pytest.raises((StorageError, FileNotFoundError)):
            looping.result(PATIENCE)
    assert arraystore.verify(mine).ok
