"""Storage options, variables and profiles as settings of obstore; no request is sent."""

from __future__ import annotations

import base64
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from arraystore.errors import StorageError
from arraystore.storage.location import Location
from arraystore.storage.objects.aws_profile import aws_profile
from arraystore.storage.objects.connection import connect
from arraystore.storage.objects.environment import azure_settings, google_settings, is_plain_http
from arraystore.storage.objects.errors import is_connection_refused, is_final, translate_error
from arraystore.storage.objects.settings import Settings, settings_for

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD: Final = "Tr0ub4dor"


def settings(text: str, **options: Any) -> Settings:
    return settings_for(Location.parse(text, options))


def profile_settings(config: dict[str, Any], profile: str | None) -> dict[str, Any]:
    found, provider = aws_profile(config, profile, "s3://b/a")
    assert provider is None
    return found


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove variables, and replace files, of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def test_login_of_a_url_becomes_a_header() -> None:
    found = settings_for(Location.parse(f"https://me:{PASSWORD}%40@h/a.h5"))
    (value,) = found.client["default_headers"].values()
    assert base64.b64decode(value.removeprefix("Basic ")) == f"me:{PASSWORD}@".encode()
    assert PASSWORD not in repr(found)


def test_account_of_a_url_becomes_a_setting() -> None:
    text = "abfss://c@account.dfs.core.windows.net/x.h5"
    assert settings(text).config == {"account_name": "account"}


def test_defaults_count_unless_the_location_has_others() -> None:
    found = settings_for(Location.parse("s3://b/a", {"timeout": 5}), {"timeout": 1, "region": "r"})
    assert found.client == {"timeout": timedelta(seconds=5)}
    assert found.config == {"region": "r"}


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
def test_options_are_translated(text: str, options: dict[str, Any], config: dict[str, Any]) -> None:
    assert settings(text, **options).config == config


def test_numbers_are_seconds() -> None:
    found = settings("s3://b/a", timeout=5, read_timeout=0.5, max_retries=2, init_backoff=0.1)
    assert found.client == {"timeout": timedelta(seconds=5), "read_timeout": timedelta(seconds=0.5)}
    assert found.retry == {"max_retries": 2, "backoff": {"init_backoff": timedelta(seconds=0.1)}}


def test_options_of_the_caller_are_unchanged() -> None:
    options = {"client_options": {"timeout": "5s"}, "retry_config": {"backoff": {"base": 3}}}
    before = repr(options)
    settings("s3://b/a", **options, read_timeout=3, max_backoff=1, max_retries=1, verify=False)
    assert repr(options) == before


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("s3://b/a", "secrt", r"'secrt' is unknown for s3://; did you mean secret\?"),
        ("https://h/a", "key", "'key' is unknown for http://"),
        ("memory://a", "region", "'region' is unknown for memory://"),
        ("gs://b/a", "profile", "'profile' is unknown for gs://"),
    ],
)
def test_unknown_option_names_a_similar_one(text: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^storage_options: {message}") as caught:
        connect(Location.parse(text, {name: PASSWORD}))
    assert PASSWORD not in str(caught.value)


def test_invalid_value_is_not_repeated() -> None:
    with pytest.raises(ValueError, match=r"^s3://b/a: ") as caught:
        connect(Location.parse("s3://b/a", {"key": "k", "session_token": PASSWORD}))
    assert PASSWORD not in str(caught.value)


def test_connection_shows_no_secret() -> None:
    connection = connect(
        Location.parse("s3://b/a", {"key": "k", "secret": PASSWORD, "region": "r"})
    )
    assert PASSWORD not in repr(connection)
    assert connection.secrets == {PASSWORD}


def test_first_request_has_fewer_retries() -> None:
    connection = connect(Location.parse("https://h/a", {"max_retries": 7}))
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


def test_default_profile_is_read(profiles: None) -> None:
    expected = {"region": "eu-west-1", "access_key_id": "AK", "secret_access_key": "SK"}
    assert profile_settings({}, None) == expected


def test_profile_is_named_by_option_or_variable(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profile_settings({}, "lab") == LAB
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert profile_settings({}, None) == LAB


def test_keys_of_environment_precede_unnamed_profile(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert "access_key_id" not in profile_settings({}, None)
    assert profile_settings({}, "lab")["access_key_id"] == "LAK"


def test_region_and_endpoint_of_environment_precede_profile(
    profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://other")
    assert not {"region", "endpoint"} & profile_settings({}, "lab").keys()


def test_options_precede_all(profiles: None) -> None:
    found = profile_settings({"access_key_id": "mine", "region": "r"}, "lab")
    assert found == {"endpoint": "http://localhost:9"}


def test_anonymous_requests_use_no_keys_of_a_profile(profiles: None) -> None:
    assert profile_settings({"skip_signature": True}, "lab").keys() == {"region", "endpoint"}


def test_unknown_profile_raises(profiles: None) -> None:
    with pytest.raises(ValueError, match=r"there is no AWS profile 'no-such' in .*credentials or"):
        profile_settings({}, "no-such")


def test_absent_profiles_are_no_error() -> None:
    assert profile_settings({}, None) == {}


def test_malformed_profiles_raise_without_content(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(f"aws_secret_access_key = {PASSWORD}")
    with pytest.raises(ValueError, match="credentials: is not a configuration file") as caught:
        profile_settings({}, None)
    assert PASSWORD not in str(caught.value)


def test_role_needs_boto3(profiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    message = r"^s3://b/a: AWS profile 'role' .* needs boto3; pip install 'arraystore\[aws\]'$"
    with pytest.raises(StorageError, match=message):
        aws_profile({}, "role", "s3://b/a")
    assert profile_settings({}, "lab") == LAB
    assert profile_settings({"skip_signature": True}, "role") == {}


def test_boto3_provides_credentials_of_a_program(tmp_path: Path) -> None:
    keys = '{"Version": 1, "AccessKeyId": "PK", "SecretAccessKey": "PS", "SessionToken": "PT"}'
    (tmp_path / "keys.json").write_text(keys)
    (tmp_path / "config").write_text(
        f"[profile program]\nregion = eu-north-1\nendpoint_url = http://localhost:9\n"
        f"credential_process = cat {tmp_path / 'keys.json'}\n"
    )
    found, provider = aws_profile({}, "program", "s3://b/a")
    assert found == {"region": "eu-north-1", "endpoint": "http://localhost:9"}
    given = provider()
    assert (given["access_key_id"], given["secret_access_key"]) == ("PK", "PS")
    connection = connect(Location.parse("s3://b/a", {"profile": "program"}))
    assert connection.store.config == found | {"bucket": "b"}


def test_profile_without_credentials_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile x]\nrole_arn = r\nsource_profile = no-such\n")
    with pytest.raises(StorageError, match=r"^s3://b/a: AWS profile 'x' gives no credentials: "):
        aws_profile({}, "x", "s3://b/a")


def test_azure_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "n")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "k")
    assert azure_settings({}) == {"account_name": "n", "account_key": "k"}
    assert azure_settings({"account_name": "o", "account_key": "l"}) == {}
    assert azure_settings({"skip_signature": True}) == {"account_name": "n"}
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=c;AccountKey=d")
    assert azure_settings({}) == {"account_name": "c", "account_key": "d"}


def test_google_emulator_is_anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_plain_http_follows_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    assert not is_plain_http(kind, {})
    monkeypatch.setenv(variable, "http://localhost:1")
    assert is_plain_http(kind, {})
    assert not is_plain_http(kind, {"endpoint": "https://e"})


# Errors that the test server cannot cause


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal"])
def test_missing_credentials_are_final(host: str) -> None:
    assert is_final(RuntimeError(f"PUT http://{host}/latest after 2 retries: kind: Timeout,"))


@pytest.mark.parametrize(
    ("text", "expected"), [("kind: Connect,", True), ("kind: ConnectionReset,", False)]
)
def test_reset_connection_is_not_a_refused_one(text: str, expected: bool) -> None:
    error = RuntimeError(f"HttpError {{ {text} source: reqwest }}")
    assert is_connection_refused(error) is expected


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
def test_other_errors_become_one_line_without_secrets(text: str, expected: str) -> None:
    location = Location.parse("s3://b/a")
    message = str(translate_error(RuntimeError(text), location, secrets=["secret"]))
    assert message.startswith(f"s3://b/a: {expected}")
    assert "secret" not in message


def test_error_of_a_provider_names_its_cause() -> None:
    class Provider:
        config: ClassVar[dict[str, str]] = {}

        def __call__(self) -> Any:
            raise ValueError("run aws sso login")

    store: Any = S3Store("b", region="r", credential_provider=Provider())
    with pytest.raises(BaseError) as caught:
        store.head("a")
    assert str(translate_error(caught.value, Location.parse("s3://b/a"))) == (
        "s3://b/a: the AWS profile gives no credentials: ValueError: run aws sso login"
    )
