"""Reading from real servers: the same bytes as from the disk, and errors with remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.errors import StorageError
from tests.cloud.servers import BUCKET
from tests.exporting.test_resume import contents_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cloud.servers import Server


@pytest.fixture
def uploaded(server: Server, path: Path) -> Server:
    server.upload(path, f"reading/{path.name}")
    return server


def opened(
    server: Server, path: Path, through: str | None = None, **keywords: Any
) -> arraystore.Store:
    address, options = server.at(f"reading/{path.name}", through)
    return arraystore.open(address, storage_options=options, **keywords)


def test_remote_store_equals_local_store(uploaded: Server, path: Path) -> None:
    local, remote = arraystore.open(path), opened(uploaded, path)
    assert remote.info == local.info
    for name in local:
        assert remote[name].image_bytes[:] == local[name].image_bytes[:]
        assert remote[name].file_name.tolist() == local[name].file_name.tolist()


def test_zarr_python_and_h5py_read_with_credentials(uploaded: Server, path: Path) -> None:
    local, remote = arraystore.open(path), opened(uploaded, path)
    root: Any = remote.zarr() if path.suffix == ".zarr" else remote.h5py()
    nbytes = int(root["train/image_nbytes"][0])
    assert root["train/image_payload"][:nbytes].tobytes() == local["train"].image_bytes[0]


def test_scattered_images_are_concurrent_requests(uploaded: Server, path: Path) -> None:
    expected = arraystore.open(path)["train"].image_bytes[::-2]
    with uploaded.behind(latency=0.02) as proxy:
        train = opened(uploaded, path, proxy.endpoint, max_gap=0)["train"]
        _ = train.image_bytes[0]
        proxy.reset()
        assert train.image_bytes[::-2] == expected
        assert proxy.nbytes == sum(map(len, expected))
        assert proxy.max_in_flight == len(expected) == len(proxy.requests)
        assert {request.method for request in proxy.requests} == {"GET"}


def test_first_sample_takes_few_round_trips(uploaded: Server, path: Path) -> None:
    with uploaded.behind(latency=0.02) as proxy:
        _ = opened(uploaded, path, proxy.endpoint)["train"][7]
        # Of a Zarr store one is a second HEAD, since its objects were written within a second.
        assert proxy.round_trips <= 5


def test_bytes_are_right_when_a_tenth_of_requests_fail(uploaded: Server, path: Path) -> None:
    expected = arraystore.open(path)["train"].image_bytes[:]
    with uploaded.behind(rate=0.1, seed=1) as proxy:
        address, options = uploaded.at(f"reading/{path.name}", proxy.endpoint)
        options |= {"read_timeout": 0.5, "init_backoff": 0.01}
        train = arraystore.open(address, storage_options=options, max_gap=0)["train"]
        for _ in range(4):
            assert train.image_bytes[::2] == expected[::2]
            assert train.image_bytes[1::2] == expected[1::2]
        assert sum(proxy.n_faults.values()) > 5


def test_export_is_right_when_a_fifth_of_requests_fail(
    uploaded: Server, path: Path, tmp_path: Path
) -> None:
    local = arraystore.open(path)["train"]
    expected = arraystore.export(local, tmp_path / "local", "webdataset", shard_nbytes=1)
    with uploaded.behind(rate=0.2, seed=2) as proxy:
        address, options = uploaded.at(f"reading/{path.name}", proxy.endpoint)
        options |= {"read_timeout": 0.5, "init_backoff": 0.01}
        train = arraystore.open(address, storage_options=options, max_gap=0)["train"]
        found = arraystore.export(train, tmp_path / "remote", "webdataset", shard_nbytes=1)
        assert sum(proxy.n_faults.values()) > 2
    assert found.splits == expected.splits
    assert contents_of(tmp_path / "remote") == contents_of(tmp_path / "local")


def test_absent_store_raises(uploaded: Server, path: Path) -> None:
    address, options = uploaded.at(f"no-such{path.suffix}")
    with pytest.raises(FileNotFoundError, match=f"no-such{path.suffix}: there is nothing here"):
        arraystore.open(address, storage_options=options)


def test_absent_bucket_raises(uploaded: Server, path: Path) -> None:
    address, options = uploaded.at(f"a{path.suffix}")
    with pytest.raises(FileNotFoundError, match="there is n"):
        arraystore.open(address.replace(BUCKET, "no-such-bucket"), storage_options=options)


WRONG: Final[dict[str, list[tuple[dict[str, Any], str]]]] = {
    "s3": [
        ({"secret": "wrong"}, "access denied: the credentials are wrong"),
        ({"key": "wrong"}, "access denied: the credentials are wrong"),
        ({"anon": True, "key": None, "secret": None}, "access denied to an anonymous request"),
    ],
    "az": [
        ({"account_key": "d3Jvbmc="}, "access denied"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [(kind, change, message) for kind, cases in WRONG.items() for change, message in cases],
)
def test_wrong_credentials_raise(
    start: Callable[[str], Server],
    path: Path,
    kind: str,
    change: dict[str, Any],
    message: str,
) -> None:
    server = start(kind)
    address, options = server.at(f"reading/{path.name}")
    with pytest.raises(StorageError, match=message):
        arraystore.open(address, storage_options=options | change)
