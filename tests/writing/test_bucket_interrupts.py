"""Ctrl-C while a bucket does not respond: no waiting, and the lock is released if possible."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import blocks
from arraystore.storage.objects import event_loop
from arraystore.writing import bucket as bucket_module
from arraystore.writing import store_writer
from arraystore.writing.hdf5_bucket import HDF5BucketWriter
from arraystore.writing.zarr_bucket import ZarrBucketWriter
from tests.support import objects_on_disk, picture, write_folder
from tests.web import Asked, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARD: Final = 2048
PHOTOS: Final = {f"train/a/{i}.jpg": picture(10 + i, 20, seed=i) for i in range(12)}

REQUESTS: Final[dict[str, tuple[str, Callable[[Asked], bool]]]] = {
    "lock object": (
        ".zarr",
        lambda asked: asked.method == "PUT" and asked.path.endswith(".partial"),
    ),
    "listing": (".zarr", lambda asked: "list-type" in asked.query),
    "third shard": (".zarr", lambda asked: asked.path.endswith("image_payload/c/2")),
    "column": (".zarr", lambda asked: asked.path.endswith("label/c/0")),
    "root": (
        ".zarr",
        lambda asked: (asked.method, asked.path) == ("PUT", "bucket/a.zarr/zarr.json"),
    ),
    "beginning of an upload": (".h5", lambda asked: asked.query.startswith("uploads")),
    "part": (".h5", lambda asked: "partNumber" in asked.query),
    "end of an upload": (".h5", lambda asked: asked.method == "POST" and "uploadId" in asked.query),
}
"""Requests of a conversion without a response: suffix of the store, and a test for the request."""


@pytest.fixture(autouse=True)
def _interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let SIGINT raise `KeyboardInterrupt` even if the shell ignores it; make shards small."""
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", PHOTOS)


def silent_from(web: WebServer, is_first: Callable[[Asked], bool], *, on: bool) -> list[Asked]:
    """Send no response to one request, nor to later ones if `on`, and send SIGINT at the first.

    Returns
    -------
    list of Asked
        The requests without a response.
    """
    main = threading.main_thread().ident
    lock = threading.Lock()
    silent: list[Asked] = []

    def answer(asked: Asked) -> str | None:
        with lock:
            if not (is_first(asked) or (on and silent)):
                return None
            silent.append(asked)
            if len(silent) == 1:
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)
        return "silence"

    web.answer = answer
    return silent


def convert(photos: Path, web: WebServer, suffix: str, **options: Any) -> None:
    # The server closes a connection without a response after a minute.
    reached: Any = {**web.s3, "max_retries": 0}
    target = f"s3://bucket/a{suffix}"
    arraystore.convert(f"folder:{photos}", target, storage_options=reached, **options)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("on", [False, True], ids=["one", "all that follow"])
def test_interrupt_does_not_wait_for_response(
    request_: str, on: bool, photos: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, is_first = REQUESTS[request_]
    monkeypatch.setattr(event_loop, "TIDYING_SECONDS", 0.1)
    if on:
        monkeypatch.setattr(bucket_module, "_LEAVING_SECONDS", 0.1)
    silent = silent_from(web, is_first, on=on)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, web, suffix)
    assert silent
    assert web.hung_up == []
    assert f"bucket/a{suffix}" not in web.objects
    assert f"bucket/a{suffix}/zarr.json" not in web.objects


def test_interrupted_conversion_to_bucket_is_resumed(
    photos: Path, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZarrBucketWriter, "max_in_flight", 1)
    silent_from(web, REQUESTS["third shard"][1], on=False)
    with pytest.raises(KeyboardInterrupt) as caught:
        convert(photos, web, ".zarr")
    assert caught.value.__notes__ == [
        "the shards sent so far are kept; pass resume=True (--resume) to continue"
    ]
    web.answer = lambda asked: None
    convert(photos, web, ".zarr", resume=True)
    arraystore.convert(f"folder:{photos}", tmp_path / "a.zarr")
    expected = objects_on_disk(tmp_path / "a.zarr")
    assert web.objects == {f"bucket/{key}": data for key, data in expected.items()}


@pytest.mark.parametrize("moment", ["between parts", "a part is silent"])
def test_interrupted_upload_is_aborted(
    moment: str, photos: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if moment == "between parts":

        def interrupted(self: Any, *args: object) -> Iterator[bytes]:
            yield bytes(self._objects.key, "utf-8")
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(HDF5BucketWriter, "_payload", interrupted)
    else:
        monkeypatch.setattr(event_loop, "TIDYING_SECONDS", 0.1)
        silent_from(web, REQUESTS["part"][1], on=False)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, web, ".h5")
    assert web.objects == {}
    if moment == "between parts":
        assert web.uploads == {}
