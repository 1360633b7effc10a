"""What addresses, options, variables and profiles mean; nothing is asked of any server."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from arraystore.storage.objects.address import Address, Settings, parse_address, settings_for
from arraystore.storage.objects.connection import connect
from arraystore.storage.objects.errors import is_final, is_refused, told
from arraystore.storage.objects.profiles import (
    NeedsBoto3,
    aws_settings,
    azure_settings,
    google_settings,
    is_plain_http,
)

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD: Final = "Tr0ub4dor"


def address(text: str) -> Address:
    found = parse_address(text)
    assert found is not None
    return found


def settings(text: str, **options: Any) -> Settings:
    return settings_for(address(text), options)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither variables nor files of the one who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


# Addresses


@pytest.mark.parametrize(
    ("text", "kind", "bucket", "key"),
    [
        ("s3://b/a/x.zarr", "s3", "b", "a/x.zarr"),
        ("S3://b/a b#c?d%20.h5", "s3", "b", "a b#c?d%20.h5"),
        ("s3a://b", "s3", "b", ""),
        ("gs://b/x.zarr/", "gs", "b", "x.zarr"),
        ("gcs://b//x.h5", "gs", "b", "x.h5"),
        ("az://c/x.h5", "az", "c", "x.h5"),
        ("abfs://c/x.h5", "az", "c", "x.h5"),
        ("azure://c/x.h5", "az", "c", "x.h5"),
        ("abfss://c@account.dfs.core.windows.net/x.h5", "az", "c", "x.h5"),
        ("http://h:80/a%20b/x.h5", "http", "http://h:80/", "a b/x.h5"),
        ("https://h/x.zarr", "http", "https://h/", "x.zarr"),
        ("memory://a/x.zarr", "memory", "", "a/x.zarr"),
    ],
)
def test_an_address_has_a_kind_a_bucket_and_a_key(
    text: str, kind: str, bucket: str, key: str
) -> None:
    found = address(text)
    assert (found.kind, found.bucket, found.key) == (kind, bucket, key)


@pytest.mark.parametrize("text", ["a.zarr", "/a/b.h5", "file:///a/b.h5", "c:a.h5", "s3:/a"])
def test_a_path_is_no_address(text: str) -> None:
    assert parse_address(text) is None


def test_an_azure_address_may_name_the_account() -> None:
    text = "abfss://c@account.dfs.core.windows.net/x.h5"
    assert address(text).account == "account"
    assert address(text).where == text
    assert settings(text).config == {"account_name": "account"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ftp://me:Tr0ub4dor@h/a?sig=Tr0ub4dor",
            r"^ftp://h/a: an address begins with one of s3://",
        ),
        ("s3://me:Tr0ub4dor@b/a", r"^s3://b/a: an address in a bucket has no user or password"),
        ("az://me:Tr0ub4dor@b/a", r"^az://b/a: an address in a bucket has no user or password"),
        ("https://h/a.h5?sig=Tr0ub4dor", r"^https://h/a\.h5: an address with a query"),
        ("s3:///a", r"^s3:///a: names no bucket"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_secrets(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_address(text)
    assert PASSWORD not in str(caught.value)


def test_the_password_of_a_web_address_becomes_a_header_and_is_not_shown() -> None:
    found = address(f"https://me:{PASSWORD}%40@h/a.h5")
    assert PASSWORD not in repr(found) + found.where
    (value,) = settings_for(found, {}).client["default_headers"].values()
    assert base64.b64decode(value.removeprefix("Basic ")) == f"me:{PASSWORD}@".encode()


# Options


@pytest.mark.parametrize(
    ("text", "options", "config"),
    [
        (
            "s3://b/a",
            {"key": "k", "secret": "s", "token": "t", "endpoint_url": "https://e", "region": "r"},
            {
                "access_key_id": "k",
                "secret_access_key": "s",
                "session_token": "t",
                "endpoint": "https://e",
                "region": "r",
            },
        ),
        ("s3://b/a", {"anon": True}, {"skip_signature": True}),
        ("s3://b/a", {"anon": False, "key": None}, {}),
        ("s3://b/a", {"client_kwargs": {"region_name": "r"}}, {"region": "r"}),
        ("s3://b/a", {"requester_pays": True}, {"request_payer": True}),
        (
            "s3://b/a",
            {"virtual_hosted_style_request": True},
            {"virtual_hosted_style_request": True},
        ),
        ("gs://b/a", {"token": "anon"}, {"skip_signature": True}),
        ("gs://b/a", {"token": "google_default", "project": "p"}, {}),
        ("gs://b/a", {"token": "/k.json"}, {"application_credentials": "/k.json"}),
        ("gs://b/a", {"token": {"type": "x"}}, {"service_account_key": '{"type": "x"}'}),
        ("gs://b/a", {"token": "ya29.x"}, {"bearer_token": "ya29.x"}),
        ("gs://b/a", {"endpoint_url": "http://e"}, {"base_url": "http://e"}),
        (
            "az://c/a",
            {"account_name": "n", "account_key": "k"},
            {"account_name": "n", "account_key": "k"},
        ),
        ("az://c/a", {"sas_token": "?sv=1"}, {"sas_key": "?sv=1"}),
        (
            "az://c/a",
            {"connection_string": "AccountName=n;AccountKey=a2V5==;EndpointSuffix=x"},
            {"account_name": "n", "account_key": "a2V5=="},
        ),
        ("https://h/a", {"anon": True}, {}),
    ],
)
def test_options_have_the_names_of_fsspec_or_obstore(
    text: str, options: dict[str, Any], config: dict[str, Any]
) -> None:
    assert settings(text, **options).config == config


def test_numbers_are_seconds_and_retries_are_bounded_as_told() -> None:
    found = settings("s3://b/a", timeout=5, read_timeout=0.5, max_retries=2, init_backoff=0.1)
    assert found.client == {"timeout": timedelta(seconds=5), "read_timeout": timedelta(seconds=0.5)}
    assert found.retry == {"max_retries": 2, "backoff": {"init_backoff": timedelta(seconds=0.1)}}


def test_options_of_the_caller_are_left_as_they_are() -> None:
    options = {"client_options": {"timeout": "5s"}, "retry_config": {"backoff": {"base": 3}}}
    before = repr(options)
    settings("s3://b/a", **options, read_timeout=3, max_backoff=1, max_retries=1, verify=False)
    assert repr(options) == before


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("s3://b/a", "secrt", "'secrt' is not known for s3://; near it: secret"),
        ("https://h/a", "key", "'key' is not known for http://"),
        ("memory://a", "region", "'region' is not known for memory://"),
        ("gs://b/a", "profile", "'profile' is not known for gs://"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_there_are(
    text: str, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^storage_options: {message}") as caught:
        connect(address(text), {name: PASSWORD})
    assert PASSWORD not in str(caught.value)


def test_a_value_that_cannot_be_is_refused_without_it() -> None:
    with pytest.raises(ValueError, match=r"^s3://b/a: ") as caught:
        connect(address("s3://b/a"), {"key": "k", "secret": None, "session_token": PASSWORD})
    assert PASSWORD not in str(caught.value)


def test_a_connection_shows_no_secret() -> None:
    connection = connect(address("s3://b/a"), {"key": "k", "secret": PASSWORD, "region": "r"})
    assert PASSWORD not in repr(connection)
    assert connection.secrets == {PASSWORD}


def test_a_server_that_has_not_answered_yet_is_called_less_often() -> None:
    connection = connect(address("https://h/a"), {"max_retries": 7})
    assert connection.store.retry_config["max_retries"] == 7
    assert connection.first.retry_config["max_retries"] == 2


# Profiles and variables


@pytest.fixture
def profiles(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-1\n"
        "[profile lab]\nregion = eu-north-1\nendpoint_url = http://localhost:9\n"
        "[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n"
    )
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AK\naws_secret_access_key = SK\n"
        "[lab]\naws_access_key_id = LAK\naws_secret_access_key = L%SK\naws_session_token = LT\n"
    )


LAB: Final = {
    "region": "eu-north-1",
    "endpoint": "http://localhost:9",
    "access_key_id": "LAK",
    "secret_access_key": "L%SK",
    "session_token": "LT",
}


def test_the_default_profile_is_read_where_nothing_else_is_said(profiles: None) -> None:
    expected = {"region": "eu-west-1", "access_key_id": "AK", "secret_access_key": "SK"}
    assert aws_settings({}, None) == expected


def test_a_profile_is_named_by_an_option_or_a_variable(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert aws_settings({}, "lab") == LAB
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert aws_settings({}, None) == LAB


def test_keys_of_the_environment_win_over_a_profile_that_was_not_named(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert "access_key_id" not in aws_settings({}, None)
    assert aws_settings({}, "lab")["access_key_id"] == "LAK"


def test_the_environments_region_and_endpoint_win_over_a_profile(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://other")
    assert not {"region", "endpoint"} & aws_settings({}, "lab").keys()


def test_options_win_over_all(profiles: None) -> None:
    found = aws_settings({"access_key_id": "mine", "region": "r"}, "lab")
    assert found == {"endpoint": "http://localhost:9"}


def test_anonymous_requests_take_no_keys_from_a_profile(profiles: None) -> None:
    assert aws_settings({"skip_signature": True}, "lab").keys() == {"region", "endpoint"}


def test_a_profile_that_is_not_there_is_told(profiles: None) -> None:
    with pytest.raises(ValueError, match=r"there is no AWS profile 'no-such' in .*credentials or"):
        aws_settings({}, "no-such")


def test_no_profile_at_all_is_no_error() -> None:
    assert aws_settings({}, None) == {}


def test_a_file_that_is_no_configuration_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(f"aws_secret_access_key = {PASSWORD}")
    with pytest.raises(ValueError, match="credentials: not a configuration file") as caught:
        aws_settings({}, None)
    assert PASSWORD not in str(caught.value)


def test_credentials_from_elsewhere_need_boto3(profiles: None) -> None:
    with pytest.raises(NeedsBoto3, match="role"):
        aws_settings({}, "role")


def test_azures_own_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "n")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "k")
    assert azure_settings({}) == {"account_name": "n", "account_key": "k"}
    assert azure_settings({"account_name": "o", "account_key": "l"}) == {}
    assert azure_settings({"skip_signature": True}) == {"account_name": "n"}
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=c;AccountKey=d")
    assert azure_settings({}) == {"account_name": "c", "account_key": "d"}


def test_googles_emulator_is_asked_without_signing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert google_settings({}) == {}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")
    assert google_settings({}) == {"base_url": "http://localhost:4443", "skip_signature": True}
    assert google_settings({"base_url": "https://e"}) == {}


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("AWS_ENDPOINT_URL", "s3"),
        ("AWS_ENDPOINT_URL_S3", "s3"),
        ("AZURE_STORAGE_ENDPOINT", "az"),
        ("GOOGLE_BASE_URL", "gs"),
    ],
)
def test_plain_http_is_allowed_where_an_endpoint_says_so(
    monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    assert not is_plain_http(kind, {})
    monkeypatch.setenv(variable, "http://localhost:1")
    assert is_plain_http(kind, {})
    assert not is_plain_http(kind, {"endpoint": "https://e"})


# Errors that no server here can bring about


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal"])
def test_credentials_that_are_not_found_are_not_looked_for_again(host: str) -> None:
    assert is_final(RuntimeError(f"PUT http://{host}/latest after 2 retries: kind: Timeout,"))


@pytest.mark.parametrize(
    ("text", "expected"), [("kind: Connect,", True), ("kind: ConnectionReset,", False)]
)
def test_a_connection_that_was_reset_had_been_made(text: str, expected: bool) -> None:
    assert is_refused(RuntimeError(f"HttpError {{ {text} source: reqwest }}")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PUT http://169.254.169.254/latest/api/token: no route", "no credentials were found"),
        ("GET http://metadata.google.internal/x failed", "no credentials were found"),
        ("GET https://h/x?sig=secret: strange", "GET … strange"),
        ("the token secret is strange\nDebug", "the token *** is strange"),
        ("", "the request failed"),
    ],
)
def test_other_errors_are_told_in_a_line_without_addresses(text: str, expected: str) -> None:
    message = str(told(RuntimeError(text), "s3://b/a", secrets=["secret"]))
    assert message.startswith(f"s3://b/a: {expected}")
    assert "secret" not in message
