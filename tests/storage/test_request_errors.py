"""What goes wrong on a network: healed, or told in one line, and never wrong bytes."""

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
"""Retries that a test can wait for."""

HEALED: Final = (
    Answer(429),
    Answer(500, "<Error><Code>InternalError</Code></Error>"),
    Answer(503, "<Error><Code>SlowDown</Code></Error>"),
    "reset",
    "truncate",
    "stall",
    "silence",
)


def named(mishap: object) -> str:
    return f"{mishap.status}" if isinstance(mishap, Answer) else str(mishap)


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
    """The train split, of which an image has been read."""
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


def told(act: Callable[[], object], kind: type[Exception] = StorageError) -> str:
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


# What heals


@pytest.mark.parametrize("mishap", HEALED, ids=named)
def test_a_request_that_failed_twice_is_repeated(
    train: arraystore.Split, web: WebServer, known: list[bytes], mishap: Answer | str
) -> None:
    web.fail_next(mishap, mishap)
    assert train.image_bytes[7] == known[7]
    assert len(web.asked) == 3


@pytest.mark.parametrize("mishap", HEALED, ids=named)
def test_a_store_opens_though_the_first_request_fails(
    opened: Callable[..., arraystore.Store], web: WebServer, known: list[bytes], mishap: str
) -> None:
    web.fail_next(mishap, mishap)
    assert opened()["train"].image_bytes[7] == known[7]


@pytest.mark.parametrize("etag", ['W/"1"', ""], ids=["weak etag", "no etag"])
@pytest.mark.parametrize("mishap", HEALED, ids=named)
def test_a_request_that_failed_is_repeated_also_where_etags_are_weak_or_none(
    opened: Callable[..., arraystore.Store],
    web: WebServer,
    known: list[bytes],
    mishap: Answer | str,
    etag: str,
) -> None:
    web.etags |= dict.fromkeys(web.objects, etag)
    train = opened(max_gap=0)["train"]
    _ = train.image_bytes[0]
    web.fail_next(mishap, mishap)
    assert train.image_bytes[7] == known[7]


@pytest.mark.parametrize("mishap", ["truncate", "stall"])
def test_without_etags_requests_are_repeated_as_often_as_allowed_too(
    opened: Callable[..., arraystore.Store], web: WebServer, mishap: str
) -> None:
    web.etags |= dict.fromkeys(web.objects, "")
    train = opened(max_gap=0)["train"]
    _ = train.image_bytes[0]
    web.asked.clear()
    web.answer = lambda asked: mishap
    message = told(lambda: train.image_bytes[7])
    assert "the server's answer broke off, also when asked again" in message
    assert len(web.asked) == 1 + QUICK["max_retries"]


@pytest.mark.parametrize("mishap", HEALED, ids=named)
def test_what_does_not_heal_is_told_after_as_many_tries_as_allowed(
    train: arraystore.Split, web: WebServer, mishap: Answer | str
) -> None:
    web.answer = lambda asked: mishap
    message = told(lambda: train.image_bytes[7])
    assert message.startswith("s3://bucket/")
    assert len(web.asked) == 1 + QUICK["max_retries"]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_byte_is_right_when_a_tenth_of_all_requests_fail(
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


def test_a_flipped_bit_on_the_way_is_read_once_more(
    train: arraystore.Split, web: WebServer, known: list[bytes]
) -> None:
    web.fail_next("flip")
    assert train.image_bytes[[3, 9]] == [known[3], known[9]]


def test_a_flipped_bit_in_the_store_is_a_checksum_error_with_the_name_of_the_image(
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


# Shards that are not as the store promises


@of_zarr
def test_a_shard_with_chunks_left_out_is_read_by_its_index(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path, known: list[bytes]
) -> None:
    train = opened()["train"]
    rewrite_by_zarr(web, path)
    assert train.image_bytes[:] == known
    web.asked.clear()
    assert train.image_bytes[5] == known[5]
    assert len(web.asked) == 1  # it is remembered


def rewrite_by_zarr(web: WebServer, path: Path) -> None:
    """Move the chunks of the shard: a hole between them, as a writer of another kind may leave."""
    name = payload_of(web)
    data, hole = web.objects[name], bytes(1000)
    index = np.frombuffer(data[-8196:-4], "<u8").reshape(-1, 2).copy()
    index[index[:, 1] == INNER_CHUNK_NBYTES, 0] += len(hole)
    body = index.tobytes()
    web.objects[name] = hole + data[:-8196] + body + struct.pack("<I", crc32c(body))


def test_an_object_that_ends_too_soon_is_an_error(
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


# What changes


def test_an_object_that_changes_under_an_open_store_is_told(
    train: arraystore.Split, web: WebServer
) -> None:
    name = payload_of(web)
    web.objects[name] = web.objects[name][:-1] + b"?"
    message = told(lambda: train.image_bytes[7])
    assert message == f"s3://{name}: has changed since the store was opened; open it again"
    assert len(web.asked) == 1


@pytest.mark.parametrize("etags", [('"1"', '"2"'), ('W/"1"', 'W/"2"'), ("", "")])
def test_a_change_is_noticed_also_where_etags_are_weak_or_none(
    opened: Callable[..., arraystore.Store], web: WebServer, etags: tuple[str, str]
) -> None:
    name = payload_of(web)
    web.etags[name] = etags[0]
    train = opened()["train"]
    _ = train.image_bytes[0]
    web.etags[name] = etags[1]
    web.objects[name] += b"?"
    assert "has changed" in told(lambda: train.image_bytes[7])


def test_an_object_that_vanishes_under_an_open_store_is_told(
    train: arraystore.Split, web: WebServer
) -> None:
    name = payload_of(web)
    del web.objects[name]
    assert told(lambda: train.image_bytes[7]) == (
        f"s3://{name}: has vanished since the store was opened; open it again"
    )


@of_zarr
def test_a_shard_that_was_never_there_is_told(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path
) -> None:
    del web.objects[payload_of(web)]
    with pytest.raises(StorageError, match=r"image_payload/c/0: is not there"):
        _ = opened()["train"].image_bytes[7]


@of_zarr
def test_a_column_that_is_not_there_is_told(
    opened: Callable[..., arraystore.Store], web: WebServer, path: Path
) -> None:
    del web.objects[f"bucket/{path.name}/train/label/c/0"]
    with pytest.raises(FormatError, match=r"train/label/c/0: the chunk is missing$"):
        _ = opened()["train"][3]


# What is final


DENIED: Final = {
    Answer(403, "<Error><Code>AccessDenied</Code></Error>"): "if the data is public, say "
    "storage_options={'anon': True} (AccessDenied)",
    Answer(403, "<Error><Code>InvalidAccessKeyId</Code></Error>"): "access is denied, the "
    "credentials are wrong (InvalidAccessKeyId)",
    Answer(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"): "the credentials are wrong",
    Answer(401): "access is denied",
    Answer(400, "<Error><Code>ExpiredToken</Code></Error>"): "the session has expired "
    "(ExpiredToken); renew the credentials",
    Answer(403, "<Error><Code>ExpiredToken</Code></Error>"): "the session has expired",
    Answer(301, "<Error><Code>PermanentRedirect</Code></Error>"): "the bucket is in another "
    "region than the request; say storage_options={'region': the bucket's own}",
    Answer(
        400,
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
    ): "say storage_options={'region': 'eu-west-1'}",
    Answer(400, "<Error><Code>InvalidRequest</Code></Error>"): "the server answered 400 "
    "(InvalidRequest)",
}


@pytest.mark.parametrize(
    ("answer", "expected"), DENIED.items(), ids=[f"{a.status} {a.body[13:40]}" for a in DENIED]
)
def test_what_is_final_is_told_at_once_with_the_address_and_a_hint(
    opened: Callable[..., arraystore.Store], web: WebServer, answer: Answer, expected: str
) -> None:
    web.answer = lambda asked: answer
    message = told(opened)
    assert message.startswith("s3://bucket/drawn")
    assert expected in message
    assert len({asked.path for asked in web.asked}) == 1
    assert len(web.asked) == len(set(web.asked))  # nothing is asked twice


def test_no_such_key_is_a_file_that_is_not_found(
    opened: Callable[..., arraystore.Store], path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        opened(f"no-such{path.suffix}")
    assert str(caught.value) == (
        f"s3://bucket/no-such{path.suffix}: there is nothing here (NoSuchKey)"
    )


def test_no_such_bucket_is_told_so(opened: Callable[..., arraystore.Store], web: WebServer) -> None:
    web.answer = lambda asked: Answer(404, "<Error><Code>NoSuchBucket</Code></Error>")
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/.*: there is no such bucket"):
        opened()


def test_denied_anonymous_access_says_that_it_was_asked_for(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    web.answer = lambda asked: Answer(403, "<Error><Code>AccessDenied</Code></Error>")
    message = told(lambda: opened(options={"anon": True, "key": None, "secret": None}))
    assert "anonymous access is denied, as storage_options={'anon': True} asked for" in message
    assert not any(asked.authorization for asked in web.asked)


def test_requests_are_signed_unless_asked_otherwise(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    opened()
    assert all(asked.authorization for asked in web.asked)


def test_a_server_that_nobody_runs_is_told_without_trying_for_long(path: Path) -> None:
    with WebServer() as gone:
        url = gone.url
    message = told(lambda: arraystore.open(f"{url}/{path.name}", storage_options={"timeout": 60}))
    assert message.startswith(f"{url}/{path.name}")
    assert "cannot connect to the server" in message


def test_a_server_without_ranges_is_told_and_nothing_is_downloaded(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    web.answer = lambda asked: "whole"
    message = told(lambda: opened()["train"].image_bytes[7])
    assert "the server does not support byte ranges (it answered 200" in message


class Quiet(SimpleHTTPRequestHandler):
    """The server of `python -m http.server`."""

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_server_that_comes_with_python_is_told_to_have_no_ranges(path: Path) -> None:
    handler = partial(Quiet, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{path.name}"
            message = told(lambda: arraystore.open(url)["train"].image_bytes[7])
        finally:
            server.shutdown()
            thread.join()
    assert message.startswith(url)
    assert "the server does not support byte ranges (it answered 200" in message
    assert message.count("http://") == 1


def test_a_web_page_is_no_store(web: WebServer, path: Path) -> None:
    web.answer = lambda asked: Answer(200, "<html>Welcome</html>")
    assert told(lambda: arraystore.open(f"{web.url}/a{path.suffix}"))


def test_an_object_that_is_no_hdf5_file_is_told(web: WebServer) -> None:
    web.objects["a.h5"] = b"GIF89a" * 100
    with pytest.raises(FormatError, match=r"/a\.h5: is not an arraystore store: begins with b'GIF"):
        arraystore.open(f"{web.url}/a.h5")


# What is never repeated


SECRET: Final = "Tr0ub4dor&3"


def test_the_password_of_a_web_address_is_sent_and_never_repeated(
    web: WebServer, path: Path
) -> None:
    web.put(path, path.name)
    address = web.url.replace("http://", f"http://me:{SECRET.replace('&', '%26')}@")
    store = arraystore.open(f"{address}/{path.name}")
    _ = store["train"].image_bytes[3]
    assert all(asked.authorization.startswith("Basic ") for asked in web.asked)
    web.answer = lambda asked: Answer(403)
    texts = [
        repr(store),
        store.address,
        told(lambda: store["train"].image_bytes[5]),
        repr(store._handle.options),
    ]
    web.answer = lambda asked: None
    texts.append(told(lambda: arraystore.open(f"{address}/no.zarr"), FileNotFoundError))
    assert not any("Tr0ub4dor" in text for text in texts)


@pytest.mark.parametrize("answer", [Answer(403), Answer(500, SECRET), Answer(400, SECRET)])
def test_secrets_are_never_repeated(
    opened: Callable[..., arraystore.Store], web: WebServer, answer: Answer
) -> None:
    store = opened(options={"secret": SECRET, "token": f"{SECRET}-token"})
    web.answer = lambda asked: answer
    texts = [
        repr(store),
        repr(store._handle.options),
        repr(store.opened),
        told(lambda: store["train"].image_bytes[3]),
    ]
    assert not any(SECRET in text for text in texts)


def test_a_deleted_hdf5_file_leaves_columns_that_were_read(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    train = opened()["train"]
    label = train.label.copy()
    web.objects.clear()
    assert train.label.tolist() == label.tolist()


# Answers that are not the object

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
def test_an_answer_that_is_no_document_says_what_it_is(
    opened: Callable[..., arraystore.Store],
    web: WebServer,
    body: str,
    kind: type[Exception],
    message: str,
) -> None:
    name = next(name for name in web.objects if name.count("/") == 2 and "zarr.json" in name)
    web.objects[name] = body.encode("latin-1")
    assert message in told(opened, kind)


@pytest.mark.parametrize("path", [".h5"], indirect=True)
def test_a_page_in_place_of_a_file_is_reported_as_one(
    opened: Callable[..., arraystore.Store], web: WebServer
) -> None:
    (name,) = web.objects
    web.objects[name] = PAGE.encode()
    assert "must be an HDF5 file, but the server sent an HTML page" in told(opened)


# Headers and redirects


@pytest.fixture
def elsewhere(path: Path, web: WebServer) -> Iterator[WebServer]:
    """Another server, which `web` redirects to."""
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
    message = told(lambda: arraystore.open(address, storage_options=options))
    assert (
        f"the server redirects to http://localhost:{elsewhere.url.rpartition(':')[2]}/" in message
    )
    assert "open that address" in message
    assert "?t=1" not in message
    assert not elsewhere.asked


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer secret"}, {"User-Agent": "me"}])
def test_other_headers_and_none_let_redirects_be_followed_without_secrets(
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


def test_a_later_redirect_of_another_object_is_refused_too(web: WebServer, path: Path) -> None:
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
        assert "redirects to" in told(lambda: store["train"].image_bytes[0])
        assert not other.asked
