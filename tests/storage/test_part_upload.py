"""Uploads in parts: where they are possible. tests/cloud sends parts to a server."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from obstore.store import MemoryStore

from arraystore.errors import StorageError
from arraystore.storage.location import Location
from arraystore.storage.objects.part_upload import PartUpload, can_send_parts

KEYS = {"key": "a", "secret": "b", "region": "eu-north-1"}


@pytest.mark.parametrize(
    ("place", "options", "expected"),
    [
        ("s3://bucket/a.h5", KEYS, True),
        ("s3://bucket/a.h5", {**KEYS, "endpoint_url": "http://localhost:1", "timeout": 5}, True),
        ("s3://bucket/a.h5", {**KEYS, "verify": False, "max_retries": 1}, True),
        ("s3://bucket/a.h5", {**KEYS, "headers": {"X-Key": "c"}}, False),
        ("s3://bucket/a.h5", {**KEYS, "server_side_encryption": "AES256"}, False),
        ("s3://bucket/a.h5", {**KEYS, "requester_pays": True}, False),
        ("s3://bucket/a.h5", {**KEYS, "virtual_hosted_style_request": True}, False),
        ("s3://bucket/a.h5", {**KEYS, "read_timeout": "5s"}, False),
        ("az://container/a.h5", {"account_name": "a", "account_key": "Yg=="}, False),
        ((MemoryStore(), "a.h5"), {}, False),
    ],
)
def test_parts_are_sent_only_if_all_options_apply(
    place: Any, options: dict[str, Any], expected: bool
) -> None:
    assert can_send_parts(Location.parse(place, options)) is expected


def test_encryption_in_the_environment_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    assert not can_send_parts(Location.parse("s3://bucket/a.h5", KEYS))


def test_worker_without_boto3_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    upload = PartUpload(Location.parse("s3://bucket/a.h5", KEYS), "1")
    with pytest.raises(
        StorageError, match=r"a\.h5: a worker sends.*pip install 'arraystore\[aws\]'"
    ):
        upload.send(0, b"x")


def test_without_boto3_no_parts_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    assert not can_send_parts(Location.parse("s3://bucket/a.h5", KEYS))
