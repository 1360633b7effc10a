"""`Store.zarr` and `Store.h5py`: a store as objects of zarr-python and h5py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from obstore.store import MemoryStore

import arraystore
from arraystore.errors import StorageError
from tests.support import copied
from tests.test_reader import forks, in_forked_child
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PATIENCE: Final = 60
KEPT: Final = Path(__file__).parents[1] / "data" / "v1.0"
KEY: Final = "AKIDEXAMPLE"
OTHER: Final = {"zarr": "h5py", "h5py": "zarr"}


@pytest.fixture
def web(path: Path) -> Iterator[WebServer]:
    with WebServer() as server:
        server.put(path, f"bucket/a/{path.name}")
        yield server


@pytest.fixture
def opened(path: Path, web: WebServer) -> Callable[[str], arraystore.Store]:
    """Return a function that opens the store of `path` in a kind of place."""

    def bucket() -> MemoryStore:
        objects = MemoryStore()
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for one in files:
            objects.put(f"a/b/{one.relative_to(path.parent)}", one.read_bytes())
        return objects

    s3 = {"key": KEY, "secret": "b", "endpoint_url": web.url, "region": "us-east-1"}
    places: Mapping[str, Callable[[], arraystore.Store]] = {
        "disk": lambda: arraystore.open(path),
        "obstore": lambda: arraystore.open((bucket(), f"a/b/{path.name}")),
        "s3": lambda: arraystore.open(f"s3://bucket/a/{path.name}", storage_options=s3),
        "web": lambda: arraystore.open(f"{web.url}/bucket/a/{path.name}"),
    }
    return lambda place: places[place]()


def library_object(store: arraystore.Store, path: Path) -> Any:
    return store.zarr() if path.suffix == ".zarr" else store.h5py()


@pytest.mark.parametrize("place", ["disk", "obstore", "s3", "web"])
def test_library_reads_the_whole_store(
    place: str, path: Path, opened: Callable[[str], arraystore.Store]
) -> None:
    store = opened(place)
    root = library_object(store, path)
    assert f"{type(root).__module__}.{type(root).__name__}".startswith(path.suffix[1:3])
    assert {"train", "validation", "label_name", "label_words"} <= {*root}
    train = root["train"]
    assert np.array_equal(train["label"][:], store["train"].label)
    start, nbytes = int(train["image_start"][3]), int(train["image_nbytes"][3])
    image = train["image_payload"][start : start + nbytes].tobytes()
    assert image == store["train"].image_bytes[3]


def test_requests_use_credentials_of_the_store(
    path: Path, web: WebServer, opened: Callable[[str], arraystore.Store]
) -> None:
    store = opened("s3")
    assert library_object(store, path)["train/image_payload"][:10].nbytes == 10
    assert len(web.asked) > 0
    assert all(KEY in asked.authorization for asked in web.asked)


@pytest.mark.parametrize("place", ["disk", "obstore", "s3"])
def test_library_object_is_read_only(
    place: str, path: Path, opened: Callable[[str], arraystore.Store]
) -> None:
    root = library_object(opened(place), path)
    with pytest.raises((ValueError, OSError, RuntimeError)):
        root["train/label"][:1] = 0
    with pytest.raises((ValueError, OSError, RuntimeError, KeyError)):
        root.create_group("new")
    if path.suffix == ".zarr":
        assert root.read_only
    else:
        assert root.mode == "r"


@pytest.mark.parametrize("place", ["disk", "obstore", "s3", "web"])
def test_other_container_raises_type_error(
    place: str, path: Path, opened: Callable[[str], arraystore.Store]
) -> None:
    store = opened(place)
    right = {".zarr": "zarr", ".h5": "h5py"}[path.suffix]
    with pytest.raises(TypeError, match=rf"drawn{path.suffix}: is .*; use store\.{right}\(\)"):
        getattr(store, OTHER[right])()


def test_file_is_not_locked(path: Path) -> None:
    if path.suffix == ".zarr":
        pytest.skip("zarr-python locks nothing")
    with arraystore.open(path).h5py():
        code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        subprocess.run([sys.executable, "-c", code, path], check=True, timeout=PATIENCE)


def test_path_that_looks_like_an_address_is_a_path(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "s3:" / path.name
    target.parent.mkdir()
    copied(path, target)
    assert library_object(arraystore.open(target), path)["train/label"].shape == (30,)


@forks
def test_forked_child_raises(path: Path, opened: Callable[[str], arraystore.Store]) -> None:
    store = opened("web")
    _ = store["train"].image_bytes[0]

    def outcome() -> bytes:
        try:
            library_object(store, path)
        except StorageError as error:
            return str(error).encode()
        return b"no error"

    assert b"forked after its parent had read" in in_forked_child(outcome)


@pytest.mark.parametrize("name", ["polygons.zarr", "polygons.h5"])
def test_library_is_imported_when_it_is_used(name: str) -> None:
    code = (
        "import sys, arraystore\n"
        "store = arraystore.open(sys.argv[1])\n"
        "train = store['train']\n"
        "assert len(train.image_bytes[::2]) == len(train.image[::2]) == 3\n"
        "assert len(train.where(label='three corners').file_name[:]) == 3\n"
        "assert store.info.splits and train.batches(2)\n"
        "assert 'zarr' not in sys.modules\n"
        "store.zarr() if sys.argv[1].endswith('.zarr') else store.h5py().close()\n"
        "assert ('zarr' in sys.modules) == sys.argv[1].endswith('.zarr')\n"
    )
    subprocess.run([sys.executable, "-c", code, KEPT / name], check=True, timeout=PATIENCE)
