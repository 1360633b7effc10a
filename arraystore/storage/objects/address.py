"""What addresses and storage options mean: text and names in, settings of obstore out; no I/O."""

from __future__ import annotations

import base64
import difflib
import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "adl": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
    "memory": "memory",
}
"""What an address that begins so is read by."""

_HOST_OF_ACCOUNT: Final = re.compile(r"([\w-]+)\.(?:dfs|blob)\.core\.windows\.net")

# The names that fsspec's s3fs, gcsfs and adlfs use, and what obstore calls the same.
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


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, if not on the local disk.

    Attributes
    ----------
    kind : str
        One of the values of `KINDS`.
    root : str
        The address of the bucket or server as messages show it, up to a slash.
    bucket : str
        The bucket or container; of a web server, its origin.
    key : str
        What comes after that, without slashes at its ends.
    account : str
        The storage account that an Azure address names, or empty.
    login : str
        ``user:password`` of a web address, or empty.
    """

    kind: str
    root: str
    bucket: str
    key: str
    account: str = ""
    login: str = field(default="", repr=False)

    @property
    def where(self) -> str:
        """The whole address as messages show it, without a password."""
        return self.root + self.key


def parse_address(text: str) -> Address | None:
    """Take an address apart; None if it is a path on the local disk.

    Raises
    ------
    ValueError
        If it has a scheme that is not known, names no bucket, or has a password or
        a query where neither can be used. The message does not repeat them.

    Examples
    --------
    >>> parse_address("s3://bucket/a/b.zarr")
    Address(kind='s3', root='s3://bucket/', bucket='bucket', key='a/b.zarr', account='')
    >>> parse_address("https://me:secret@example.org/a.h5").where
    'https://example.org/a.h5'
    >>> parse_address("b.zarr") is parse_address("file:///b.zarr") is None
    True
    """
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark or scheme == "file":
        return None
    host, _, path = rest.partition("/")
    login, at, plain_host = host.rpartition("@")
    root = f"{scheme}://{plain_host}/"
    if scheme not in KINDS:
        raise ValueError(
            escaped(
                f"{root}{path.partition('?')[0]}: an address begins with one of "
                f"{', '.join(f'{known}://' for known in KINDS)}, file://, or is a path"
            )
        )
    kind = KINDS[scheme]
    if kind == "http":
        return _web_address(root, path, login)
    if kind == "memory":
        return Address(kind, "memory://", "", rest.strip("/"))
    account = ""
    if at and kind == "az" and ":" not in login:
        named = _HOST_OF_ACCOUNT.match(plain_host)
        account = named[1] if named else plain_host.partition(".")[0]
        root, plain_host = f"{scheme}://{host}/", login
    elif at:
        raise ValueError(
            escaped(
                f"{root}{path}: an address in a bucket has no user or password in it; give them as "
                "storage_options, or in the environment"
            )
        )
    if not plain_host:
        raise ValueError(escaped(f"{root}{path}: names no bucket"))
    return Address(kind, root, plain_host, path.strip("/"), account)


def _web_address(root: str, path: str, login: str) -> Address:
    path, query, _ = path.partition("?")
    if query:
        raise ValueError(
            escaped(
                f"{root}{path}: an address with a query (behind '?', such as a signed one) cannot "
                "be used, since a store has many objects; give credentials as storage_options"
            )
        )
    return Address("http", root, root, unquote(path).strip("/"), login=unquote(login))


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What obstore is told: of the service, of its HTTP client, of retrying.

    Attributes
    ----------
    config, client, retry : dict
        In obstore's names.
    profile : str or None
        The profile of the vendor's configuration files that was asked for.
    """

    config: dict[str, Any]
    client: dict[str, Any]
    retry: dict[str, Any]
    profile: str | None = None

    @property
    def secrets(self) -> frozenset[str]:
        """What no message may repeat."""
        values = [self.config.get(name) for name in _SECRETS]
        values += self.client.get("default_headers", {}).values()
        return frozenset(value for value in values if isinstance(value, str) and value)


def settings_for(address: Address, options: Mapping[str, Any] | None) -> Settings:
    """Translate storage options, in fsspec's names or obstore's own.

    Parameters
    ----------
    address : Address
        The names depend on its kind.
    options : mapping of str to anything, optional
        Values of None are as if they were not there.

    Raises
    ------
    ValueError
        If a name or a value cannot be; the message repeats no value.

    Examples
    --------
    >>> settings = settings_for(parse_address("s3://b/a"), {"anon": True, "timeout": 5})
    >>> settings.config, settings.client
    ({'skip_signature': True}, {'timeout': datetime.timedelta(seconds=5)})
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given = _mapping("client_kwargs", given.pop("client_kwargs", {})) | given
    client = _mapping("client_options", given.pop("client_options", {}))
    retry = _mapping("retry_config", given.pop("retry_config", {}))
    profile = given.pop("profile", None)
    if given.pop("verify", True) is False:
        client["allow_invalid_certificates"] = True
    headers = _mapping("headers", given.pop("headers", {}))
    if headers or address.login:
        client["default_headers"] = _headers(client, headers, address.login)
    config: dict[str, Any] = {"account_name": address.account} if address.account else {}
    for name, value in given.items():
        if name in _CLIENT:
            client[name] = _duration(name, value)
        elif name in _RETRY:
            retry[name] = _duration(name, value)
        elif name in _BACKOFF:
            retry["backoff"] = dict(retry.get("backoff", {})) | {name: _duration(name, value)}
        else:
            config |= _config(address.kind, name, value)
    if address.kind in ("http", "memory"):
        _refuse_config(address, config)
    if address.bucket.startswith("http://"):
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
    """Let a number mean seconds, and refuse what cannot be of a name; no value is repeated."""
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


def _refuse_config(address: Address, config: Mapping[str, Any]) -> None:
    for name in config:
        raise unknown_option(address.kind, name)


def unknown_option(kind: str, name: str) -> ValueError:
    """Return the error about an option that is not known; it has the nearest there are."""
    known = sorted({*_RENAMED[kind], *_CLIENT, *_RETRY, *_BACKOFF, *_RENAMED[kind].values()})
    near = difflib.get_close_matches(name, known)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return ValueError(escaped(f"storage_options: {name!r} is not known for {kind}://{hint}"))
