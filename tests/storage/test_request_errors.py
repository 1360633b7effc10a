"""Failures of a network: retried or raised in one line, and never wrong bytes."""

from __future__ import annotations

import re
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from typing_extensions import override

import arraystore
from arraystore._checksum import crc32c
from arraystore.errors import ChecksumError, FormatError, ShortReadError, StorageError
from arraystore.schema import INNER_CHUNK_NBYTES
from tests.cloud.proxy import FAULTS, Proxy
from tests.reading.test_remote import KEYS
from tests.web import Answer, WebServer, etag_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

of_zarr = pytest.mark.parametrize("path", [".zarr"], indirect=True)

QUICK: Final = {
    "max_retries": 3,
    "init_backoff": 0.001,
    "max_backoff": 0.01,
    "read_timeout": 0.3,
    "timeout": 5,
}
"""Short limits of retries."""

TRANSIENT: Final = (
    Answer(429),
    Answer(500, "<Error><Code>InternalError</Code></Error>"),
    Answer(503, "<Error><Code>SlowDown</Code></Error>"),
    "reset",
    "truncate",
    "stall",
    "silence",
)


def named(failure: object) -> str:
    return f"{failure.status}" if isinstance(failure, Answer) else str(failure)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def opened(path: Path, web: WebServer) -> Callable[..., arraystore.Store]:
    """Open the store of `path` in a bucket of `web`."""
    web.put(path, f"bucket/{path.name}")

    def act(
        key: str = "", options: Mapping[str, Any] | None = None, **keywords: Any
    ) -> arraystore.Store:
        settings = QUICK | KEYS | {"endpoint_url": web.url} | dict(options or {})
        address = f"s3://bucket/{key or path.name}"
        return arraystore.open(address, storage_options=settings, **keywords)

    return act


@pytest.fixture
def train(opened: Callable[..., arraystore.Store], web: WebServer) -> arraystore.Split:
    """The train split after an image was read."""
    split = opened(max_gap=0)["train"]
    _ = split.image_bytes[0]
    web.asked.clear()
    return split


@pytest.fixture
def known(path: Path) -> list[bytes]:
    return arraystore.open(path)["train"].image_bytes[:]


def payload_of(web: WebServer) -> str:
    """Path of the object that has the images of the train split."""
    (found,) = (name for name in web.objects if name.endswith((".h5", "train/image_payload/c/0")))
    return found


def message_of(act: Callable[[], object], kind: type[Exception] = StorageError) -> str:
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


# Transient failures


@pytest.mark.parametrize("failure", TRANSIENT, ids=named)
def test_failed_request_is_retried(
    train: arraystore.Split, web: WebServer, known: list[bytes], failure: Answer | str
) -> None:
    web.fail_next(failure, failure)
    assert train.image_bytes[7] == known[7]
    assert len(web.asked) == 3


@pytest.mark.parametrize("failure", TRANSIENT, ids=named)
def test_store_opens_after_failed_requests(
    opened: Callable[..., arraystore.Store], web: WebServer, known: list[bytes], failure: str
) -> None:
    web.fail_next(failure, failure)
    assert opened()["train"].image_bytes[7] == known[7]


@pytest.mark.parametrize("etag", ['W/"1"', ""], ids=["weak etag", "no etag"])
@pytest.mark.parametrize("failure", ["reset", "truncate", "stall"])
def test_failed_request_is_retried_without_strong_etags(
    opened: Callable[..., arraystore.Store],
    web: WebServer,
    known: list[bytes],
    failure: Answer | str,
    etag: str,
) -> None:
    web.etags |= dict.fromkeys(web.objects, etag)
    train = opened(max_gap=0)["train"]
    _ = train.image_bytes[0]
    web.fail_next(failure, failure)
    assert train.image_bytes[7] == known[7]


@pytest.mark.parametrize("failure", ["truncate", "stall"])
def test_retries_without_etags_are_bounded(
    opened: Callable[..., arraystore.Store], web: WebServer, failure: str
) -> None:
    web.etags |= dict.fromkeys(web.objects, "")
    train = opened(max_gap=0)["train"]
    _ = train.image_bytes[0]
    web.asked.clear()
    web.answer = lambda asked: failure
    message = message_of(lambda: train.image_bytes[7])
    assert "the connection was lost during the response, even after retries" in message
    assert len(web.asked) == 1 + QUICK["max_retries"]


@pytest.mark.parametrize("failure", TRANSIENT, ids=named)
def test_permanent_failure_raises_after_max_retries(
    train: arraystore.Split, web: WebServer, failure: Answer | str
) -> None:
    web.answer = lambda asked: failure
    message = message_of(lambda: train.image_bytes[7])
    assert message.startswith("s3://bucket/")
    assert len(web.asked) == 1 + QUICK["max_retries"]


@pytest.mark.parametrize("fault", FAULTS)
def test_bytes_are_right_when_a_tenth_of_requests_fail(
    opened: Callable[..., arraystore.Store],
    web: WebServer,
    known: list[bytes],
    fault: str,
) -> None:
    with Proxy(web.url, faults=[fault], rate=0.1, seed=3) as proxy:
        options = {"endpoint_url": proxy.endpoint, "max_retries": 6}
        train = opened(options=options, max_gap=0)["train"]
        for _ in range(4):
            assert train.image_bytes[::2] == known[::2]  # that do not touch
            assert train.image_bytes[::-2] == known[::-2]
        assert proxy.n_faults[fault] > 5


def test_bit_flipped_in_transit_is_read_again(
    train: arraystore.Split, web: WebServer, known: list[bytes]
) -> None:
    web.fail_next("flip")
    assert train.image_bytes[[3, 9]] == [known[3], known[9]]


def test_bit_flipped_in_the_store_raises_checksum_error(
    train: arraystore.Split, web: WebServer, path: Path, known: list[bytes]
) -> None:
    name, first = payload_of(web), known[9]
    data = web.objects[name]
    at = data.index(first) + 100
    web.objects[name] = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    web.etags[name] = etag_of(data)
    local = arraystore.open(path)["train"]
    with pytest.raises(ChecksumError, match=re.escape(local.file_name[9])):
        _ = train.image_bytes[[3, 9]]
    assert train.image_bytes[[3, 8]] == [known[3], known[8]]


# Shards that differ from their metadata


@of_zarr
def test_rewritten_shard_is_read_by_its_index(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path, known: list[bytes]
) -> None:
    train = opened()["train"]
    rewrite_by_zarr(web, path)
    assert train.image_bytes[:] == known
    web.asked.clear()
    assert train.image_bytes[5] == known[5]
    assert len(web.asked) == 1  # it is remembered


def rewrite_by_zarr(web: WebServer, path: Path) -> None:
    """Move the chunks of the shard apart, as another writer may do."""
    name = payload_of(web)
    data, hole = web.objects[name], bytes(1000)
    index = np.frombuffer(data[-8196:-4], "<u8").reshape(-1, 2).copy()
    index[index[:, 1] == INNER_CHUNK_NBYTES, 0] += len(hole)
    body = index.tobytes()
    web.objects[name] = hole + data[:-8196] + body + struct.pack("<I", crc32c(body))


def test_truncated_object_raises(
    opened: Callable[..., arraystore.Store], web: WebServer, known: list[bytes], path: Path
) -> None:
    train = opened()["train"]
    _ = train.image_bytes[0] if path.suffix == ".zarr" else len(train)
    name = payload_of(web)
    data = web.objects[name]
    web.objects[name] = data[: data.index(known[9]) + 5]
    web.etags[name] = etag_of(data)
    with pytest.raises((ShortReadError, FormatError, StorageError)):
        _ = train.image_bytes[9]


# Changes of an open store


def test_changed_object_raises(train: arraystore.Split, web: WebServer) -> None:
    name = payload_of(web)
    web.objects[name] = web.objects[name][:-1] + b"?"
    message = message_of(lambda: train.image_bytes[7])
    assert message == f"s3://{name}: has changed since the store was opened; open it again"
    assert len(web.asked) == 1


@pytest.mark.parametrize("etags", [('"1"', '"2"'), ('W/"1"', 'W/"2"'), ("", "")])
def test_changed_object_raises_without_strong_etags(
    opened: Callable[..., arraystore.Store], web: WebServer, etags: tuple[str, str]
) -> None:
    name = payload_of(web)
    web.etags[name] = etags[0]
    train = opened()["train"]
    _ = train.image_bytes[0]
    web.etags[name] = etags[1]
    web.objects[name] += b"?"
    assert "has changed" in message_of(lambda: train.image_bytes[7])


def test_deleted_object_raises(train: arraystore.Split, web: WebServer) -> None:
    name = payload_of(web)
    del web.objects[name]
    assert message_of(lambda: train.image_bytes[7]) == (
        f"s3://{name}: no longer exists, but did when the store was opened; open it again"
    )


@of_zarr
def test_missing_shard_raises(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path
) -> None:
    del web.objects[payload_of(web)]
    with pytest.raises(
        StorageError, match=r"image_payload/c/0: does not exist, but the store refers to it"
    ):
        _ = opened()["train"].image_bytes[7]


@of_zarr
def test_missing_column_raises(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path
) -> None:
    del web.objects[f"bucket/{path.name}/train/label/c/0"]
    with pytest.raises(FormatError, match=r"train/label/c/0: the chunk is missing$"):
        _ = opened()["train"][3]


# Permanent errors


DENIED: Final = {
    Answer(403, "<Error><Code>AccessDenied</Code></Error>"): "if the data is "
    "public, pass storage_options={'anon': True} (AccessDenied)",
    Answer(403, "<Error><Code>InvalidAccessKeyId</Code></Error>"): "access denied: the "
    "credentials are wrong (InvalidAccessKeyId)",
    Answer(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"): "the credentials are wrong",
    Answer(401): "access denied",
    Answer(400, "<Error><Code>ExpiredToken</Code></Error>"): "the session has expired "
    "(ExpiredToken); renew the credentials",
    Answer(403, "<Error><Code>ExpiredToken</Code></Error>"): "the session has expired",
    Answer(301, "<Error><Code>PermanentRedirect</Code></Error>"): "the bucket is in another "
    "region; pass storage_options={'region': the bucket's region}",
    Answer(
        400,
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
    ): "pass storage_options={'region': 'eu-west-1'}",
    Answer(400, "<Error><Code>InvalidRequest</Code></Error>"): "the server responded with "
    "status 400 (InvalidRequest)",
}


@pytest.mark.parametrize(
    ("answer", "expected"), DENIED.items(), ids=[f"{a.status} {a.body[13:40]}" for a in DENIED]
)
def test_permanent_error_raises_at_once_with_a_remedy(
    opened: Callable[..., arraystore.Store], web: WebServer, answer: Answer, expected: str
) -> None:
    web.answer = lambda asked: answer
    message = message_of(opened)
    assert message.startswith("s3://bucket/drawn")
    assert expected in message
    assert len({asked.path for asked in web.asked}) == 1
    assert len(web.asked) == len(set(web.asked))  # no request is sent twice


def test_absent_key_is_file_not_found(opened: Callable[..., arraystore.Store], path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        opened(f"no-such{path.suffix}")
    assert str(caught.value) == (
        f"s3://bucket/no-such{path.suffix}: there is nothing here (NoSuchKey)"
    )


def test_absent_bucket_is_reported(opened: Callable[..., arraystore.Store], web: WebServer) -> None:
    web.answer = lambda asked: Answer(404, "<Error><Code>NoSuchBucket</Code></Error>")
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/.*: there is no such bucket"):
        opened()


def test_denied_anonymous_access_names_the_option(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    web.answer = lambda asked: Answer(403, "<Error><Code>AccessDenied</Code></Error>")
    message = message_of(lambda: opened(options={"anon": True, "key": None, "secret": None}))
    assert "access denied to an anonymous request; remove 'anon' from storage_options" in message
    assert not any(asked.authorization for asked in web.asked)


def test_requests_are_signed_by_default(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    opened()
    assert all(asked.authorization for asked in web.asked)


def test_unreachable_server_is_reported(path: Path) -> None:
    with WebServer() as gone:
        url = gone.url
    message = message_of(
        lambda: arraystore.open(f"{url}/{path.name}", storage_options={"timeout": 60})
    )
    assert message.startswith(f"{url}/{path.name}")
    assert "cannot connect to the server" in message


def test_server_without_ranges_is_reported(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    web.answer = lambda asked: "whole"
    message = message_of(lambda: opened()["train"].image_bytes[7])
    assert "the server does not support byte ranges (status 200" in message


class Quiet(SimpleHTTPRequestHandler):
    """The server of `python -m http.server`."""

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_http_server_of_python_is_reported(path: Path) -> None:
    handler = partial(Quiet, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{path.name}"
            message = message_of(lambda: arraystore.open(url)["train"].image_bytes[7])
        finally:
            server.shutdown()
            thread.join()
    assert message.startswith(url)
    assert "the server does not support byte ranges (status 200" in message
    assert message.count("http://") == 1


def test_web_page_is_refused(web: WebServer, path: Path) -> None:
    web.answer = lambda asked: Answer(200, "<html>Welcome</html>")
    assert message_of(lambda: arraystore.open(f"{web.url}/a{path.suffix}"))


def test_object_of_another_format_is_refused(web: WebServer) -> None:
    web.objects["a.h5"] = b"GIF89a" * 100
    with pytest.raises(FormatError, match=r"/a\.h5: is not an arraystore store: begins with b'GIF"):
        arraystore.open(f"{web.url}/a.h5")


# Secrets


SECRET: Final = "Tr0ub4dor&3"


def test_password_of_a_url_is_sent_and_never_shown(web: WebServer, path: Path) -> None:
    web.put(path, path.name)
    address = web.url.replace("http://", f"http://me:{SECRET.replace('&', '%26')}@")
    store = arraystore.open(f"{address}/{path.name}")
    _ = store["train"].image_bytes[3]
    assert all(asked.authorization.startswith("Basic ") for asked in web.asked)
    web.answer = lambda asked: Answer(403)
    texts = [
        repr(store),
        store.address,
        message_of(lambda: store["train"].image_bytes[5]),
        repr(store._handle.options),
    ]
    web.answer = lambda asked: None
    texts.append(message_of(lambda: arraystore.open(f"{address}/no.zarr"), FileNotFoundError))
    assert not any("Tr0ub4dor" in text for text in texts)


@pytest.mark.parametrize("answer", [Answer(403), Answer(500, SECRET), Answer(400, SECRET)])
def test_secrets_are_never_shown(
    opened: Callable[..., arraystore.Store], web: WebServer, answer: Answer
) -> None:
    store = opened(options={"secret": SECRET, "token": f"{SECRET}-token"})
    web.answer = lambda asked: answer
    texts = [
        repr(store),
        repr(store._handle.options),
        repr(store.opened),
        message_of(lambda: store["train"].image_bytes[3]),
    ]
    assert not any(SECRET in text for text in texts)


def test_columns_in_memory_outlive_a_deleted_file(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    train = opened()["train"]
    label = train.label.copy()
    web.objects.clear()
    assert train.label.tolist() == label.tolist()


# Responses that are not the object

PAGE: Final = "<!DOCTYPE html>\n<html><title>Log in</title></html>"
CUT: Final = '{"zarr_format": 3, "attributes": {"form'


@of_zarr
@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (CUT, ShortReadError, "must be JSON, but ends after 39 bytes; the response"),
        ("", ShortReadError, "must be JSON, but ends after 0 bytes; the response"),
        (PAGE, StorageError, "must be JSON, but the server sent an HTML page, as for a login"),
        ("\x1f\x8b\x08", StorageError, "must be JSON, but the server sent it compressed by gzip"),
        ("{,}", FormatError, "must be JSON: Expecting"),
    ],
)
def test_response_that_is_not_a_document_is_described(
    opened: Callable[..., arraystore.Store],
    web: WebServer,
    body: str,
    kind: type[Exception],
    message: str,
) -> None:
    name = next(name for name in web.objects if name.count("/") == 2 and "zarr.json" in name)
    web.objects[name] = body.encode("latin-1")
    assert message in message_of(opened, kind)


@pytest.mark.parametrize("path", [".h5"], indirect=True)
def test_page_instead_of_a_file_is_described(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    (name,) = web.objects
    web.objects[name] = PAGE.encode()
    assert "must be an HDF5 file, but the server sent an HTML page" in message_of(opened)


# Headers and redirects


@pytest.fixture
def elsewhere(path: Path, web: WebServer) -> Iterator[WebServer]:
    """Another server, to which `web` redirects."""
    with WebServer() as other:
        other.put(path, path.name)
        there = other.url.replace("127.0.0.1", "localhost")
        web.answer = lambda asked: Answer(302, "", (("Location", f"{there}/{asked.path}?t=1"),))
        yield other


def test_secret_headers_do_not_follow_a_redirect(
    web: WebServer, elsewhere: WebServer, path: Path
) -> None:
    address = f"{web.url}/{path.name}"
    options = QUICK | {"headers": {"X-Api-Key": "secret"}}
    message = message_of(lambda: arraystore.open(address, storage_options=options))
    assert (
        f"the server redirects to http://localhost:{elsewhere.url.rpartition(':')[2]}/" in message
    )
    assert "open that address" in message
    assert "?t=1" not in message
    assert not elsewhere.asked


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer secret"}, {"User-Agent": "me"}])
def test_redirects_are_followed_without_secret_headers(
    web: WebServer, elsewhere: WebServer, path: Path, headers: dict[str, str]
) -> None:
    options = QUICK | {"headers": headers}
    store = arraystore.open(f"{web.url}/{path.name}", storage_options=options)
    assert store["train"].image_bytes[0] == arraystore.open(path)["train"].image_bytes[0]
    assert elsewhere.asked
    assert not any("secret" in value for asked in elsewhere.asked for _, value in asked.headers)


def test_headers_follow_a_redirect_on_the_same_server(web: WebServer, path: Path) -> None:
    web.put(path, f"there/{path.name}")

    def answer(asked: Any) -> Answer | None:
        if asked.path.startswith("there/"):
            return None
        return Answer(307, "", (("Location", f"/there/{asked.path}"),))

    web.answer = answer
    options = QUICK | {"headers": {"X-Api-Key": "secret"}}
    store = arraystore.open(f"{web.url}/{path.name}", storage_options=options)
    assert store["train"].image_bytes[0] == arraystore.open(path)["train"].image_bytes[0]
    assert all(("X-Api-Key", "secret") in dict_items(asked.headers) for asked in web.asked)


def dict_items(headers: tuple[tuple[str, str], ...]) -> set[tuple[str, str]]:
    """Return header names as `X-Api-Key`, however they were sent."""
    return {(name.title(), value) for name, value in headers}


def test_redirect_of_a_later_object_is_refused(web: WebServer, path: Path) -> None:
    if path.suffix == ".h5":
        pytest.skip("one file")
    web.put(path, path.name)
    options = QUICK | {"headers": {"X-Api-Key": "secret"}}
    store = arraystore.open(f"{web.url}/{path.name}", storage_options=options)
    with WebServer() as other:
        there = (("Location", f"{other.url}/x"),)
        web.answer = lambda asked: (
            Answer(301, "", there) if "image_payload/c" in asked.path else None
        )
        assert "redirects to" in message_of(lambda: store["train"].image_bytes[0])
        assert not other.asked
