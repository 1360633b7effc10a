"""Storage options of a location, translated to the names and values that obstore takes; no I/O."""

from __future__ import annotations

import base64
import difflib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore.storage.location import Location

# Names of fsspec's s3fs, gcsfs and adlfs, and the names of obstore for the same options.
_RENAMED: Final[dict[str, dict[str, str]]] = {
    "s3": {
        "anon": "skip_signature",
        "endpoint_url": "endpoint",
        "key": "access_key_id",
        "region_name": "region",
        "requester_pays": "request_payer",
        "secret": "secret_access_key",
        "token": "session_token",
    },
    "gs": {"anon": "skip_signature", "endpoint_url": "base_url"},
    "az": {
        "anon": "skip_signature",
        "endpoint_url": "endpoint",
        "key": "account_key",
        "sas_token": "sas_key",
    },
    "http": {},
    "memory": {},
}

_CLIENT: Final = frozenset(
    [
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_headers",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "randomize_addresses",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    ]
)
_RETRY: Final = frozenset({"max_retries", "retry_timeout"})
_BACKOFF: Final = frozenset({"init_backoff", "max_backoff", "base"})
_MAX_RETRIES: Final = 10**6
_DURATIONS: Final = frozenset(
    {"connect_timeout", "pool_idle_timeout", "read_timeout", "timeout", "retry_timeout"}
    | {"init_backoff", "max_backoff"}
)
_SECRETS: Final = frozenset(
    [
        "secret_access_key",
        "session_token",
        "account_key",
        "sas_key",
        "bearer_token",
        "service_account_key",
        "client_secret",
        "token",
        "sse_customer_key_base64",
        "encryption_key",
        "fabric_session_token",
    ]
)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Settings of an obstore store.

    Attributes
    ----------
    config, client, retry : dict
        Of the service, of the HTTP client and of retrying, in obstore's names.
    profile : str or None
        The profile of the vendor's configuration files that the caller named.
    """

    config: dict[str, Any]
    client: dict[str, Any]
    retry: dict[str, Any]
    profile: str | None = None

    @property
    def secrets(self) -> frozenset[str]:
        """Values that no message may repeat."""
        values = [self.config.get(name) for name in _SECRETS]
        values += self.client.get("default_headers", {}).values()
        return frozenset(value for value in values if isinstance(value, str) and value)


def settings_for(location: Location, defaults: Mapping[str, Any] | None = None) -> Settings:
    """Translate the storage options of a location.

    Parameters
    ----------
    location : Location
        Its kind determines the names: those of fsspec, or obstore's own. A value of None counts
        as not given.
    defaults : mapping of str to anything, optional
        Options that count unless the location has others.

    Raises
    ------
    ValueError
        If a name is unknown or a value is not valid; the message repeats no value.

    Examples
    --------
    >>> from arraystore.storage.location import Location
    >>> settings = settings_for(Location.parse("s3://b/a", {"anon": True, "timeout": 5}))
    >>> settings.config, settings.client
    ({'skip_signature': True}, {'timeout': datetime.timedelta(seconds=5)})
    """
    options = {**(defaults or {}), **location.options}
    given = {name: value for name, value in options.items() if value is not None}
    given = _mapping("client_kwargs", given.pop("client_kwargs", {})) | given
    client = _mapping("client_options", given.pop("client_options", {}))
    retry = _mapping("retry_config", given.pop("retry_config", {}))
    profile = given.pop("profile", None)
    if given.pop("verify", True) is False:
        client["allow_invalid_certificates"] = True
    headers = _mapping("headers", given.pop("headers", {}))
    if headers or location.login:
        client["default_headers"] = _headers(client, headers, location.login)
    config: dict[str, Any] = {"account_name": location.account} if location.account else {}
    for name, value in given.items():
        if name in _CLIENT:
            client[name] = _duration(name, value)
        elif name in _RETRY:
            retry[name] = _duration(name, value)
        elif name in _BACKOFF:
            retry["backoff"] = dict(retry.get("backoff", {})) | {name: _duration(name, value)}
        else:
            config |= _config(location.kind, name, value)
    if location.kind in ("http", "memory"):
        _refuse_config(location.kind, config)
    if location.bucket.startswith("http://"):
        client.setdefault("allow_http", True)
    return Settings(config, client, retry, profile)


def _config(kind: str, name: str, value: Any) -> dict[str, Any]:
    """Translate one option of a service."""
    if name == "anon" and not value:
        return {}
    if kind == "gs" and name == "token":
        return _google_token(value)
    if kind == "az" and name == "connection_string":
        return connection_string(value)
    if kind == "gs" and name == "project":
        return {}
    if kind in ("http", "memory") and name == "anon":
        return {}
    return {_RENAMED[kind].get(name, name): value}


def _google_token(value: Any) -> dict[str, Any]:
    """Translate gcsfs's `token`: a word, a file, a service account's key, or a bearer token."""
    if value == "anon":
        return {"skip_signature": True}
    if value in ("google_default", "cloud", "cache"):
        return {}
    if isinstance(value, dict):
        return {"service_account_key": json.dumps(value)}
    if str(value).endswith(".json"):
        return {"application_credentials": str(value)}
    return {"bearer_token": value}


def connection_string(text: str) -> dict[str, Any]:
    """Translate the connection string of an Azure storage account.

    Examples
    --------
    >>> connection_string("AccountName=a;AccountKey=bQ==;BlobEndpoint=http://localhost:1/a;")
    {'account_name': 'a', 'account_key': 'bQ==', 'endpoint': 'http://localhost:1/a'}
    """
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    parts = (part.partition("=") for part in text.split(";") if part)
    return {names[name]: value for name, _, value in parts if name in names}


def _headers(client: dict[str, Any], headers: Mapping[str, str], login: str) -> dict[str, str]:
    basic = {}
    if login:
        basic["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return {**client.get("default_headers", {}), **basic, **headers}


def _mapping(name: str, value: Any) -> dict[str, Any]:
    try:
        return {**value}
    except TypeError:
        raise ValueError(f"storage_options: {name} must be a mapping of names to values") from None


def _duration(name: str, value: Any) -> Any:
    """Return a number as seconds, and other values unchanged; no message repeats a value."""
    if name == "default_headers":
        return _mapping(name, value)
    if name == "max_retries" and (not isinstance(value, int) or not 0 <= value <= _MAX_RETRIES):
        raise ValueError(f"storage_options: {name} must be an integer from 0 to {_MAX_RETRIES:,}")
    if name not in _DURATIONS or isinstance(value, str | timedelta):
        return value
    try:
        seconds = timedelta(seconds=value)
    except (ArithmeticError, TypeError, ValueError):
        seconds = None
    if seconds is None or seconds < timedelta() or isinstance(value, bool):
        raise ValueError(f"storage_options: {name} must be a number of seconds, 0 or more")
    return seconds


def _refuse_config(kind: str, config: Mapping[str, Any]) -> None:
    for name in config:
        raise unknown_option(kind, name)


def unknown_option(kind: str, name: str) -> ValueError:
    """Return the error about an unknown option, with the most similar names."""
    known = sorted({*_RENAMED[kind], *_CLIENT, *_RETRY, *_BACKOFF, *_RENAMED[kind].values()})
    near = difflib.get_close_matches(name, known)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return ValueError(escaped(f"storage_options: {name!r} is unknown for {kind}://{hint}"))
