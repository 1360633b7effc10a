"""Connections to buckets and web servers, made with obstore."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arraystore.errors import escaped
from arraystore.storage.objects.aws_profile import aws_profile
from arraystore.storage.objects.environment import (
    azure_settings,
    endpoints,
    google_settings,
    is_plain_http,
)
from arraystore.storage.objects.errors import cleaned, translate_error, unknown_name
from arraystore.storage.objects.event_loop import check_process
from arraystore.storage.objects.settings import Settings, settings_for, unknown_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from arraystore.storage.location import Location
    from arraystore.storage.objects.redirects import RedirectGuard

_CLIENT: Final = {
    "connect_timeout": timedelta(seconds=5),
    # Between two pieces of a response, so that a stall is detected.
    "read_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=60),
}
_RETRY: Final = {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}
_BACKOFF: Final = {
    "init_backoff": timedelta(milliseconds=100),
    "max_backoff": timedelta(seconds=5),
    "base": 2,
}
_LONGEST: Final = 500
_FIRST_RETRIES: Final = 2
"""Retries of a request to a server that has never responded."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a request is retried whose response was interrupted.

    Attributes
    ----------
    max_retries : int
        Most retries.
    seconds : float
        Time after which no retry begins.
    first_pause, longest_pause : float
        Seconds to wait before the first retry, and at most; doubled in between.
    """

    max_retries: int
    seconds: float
    first_pause: float
    longest_pause: float

    @classmethod
    def of(cls, retry: Mapping[str, Any]) -> Patience:
        """Return the patience that a retry configuration of obstore states."""
        backoff = _BACKOFF | retry.get("backoff", {})
        durations = retry["retry_timeout"], backoff["init_backoff"], backoff["max_backoff"]
        return cls(retry["max_retries"], *(value.total_seconds() for value in durations))

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each retry."""
        end = time.monotonic() + self.seconds
        for number in range(self.max_retries):
            if time.monotonic() > end:
                return
            yield min(self.first_pause * 2**number, self.longest_pause)


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A bucket, container or web server that requests can be sent to.

    Attributes
    ----------
    store : obstore store
        Its asynchronous methods send the requests.
    first : obstore store
        The same with fewer retries, used until the first response, so that a wrong address is
        reported within a second.
    location : Location
        A place in it; its key is not used.
    is_anonymous : bool
        Whether requests are not signed.
    errors : tuple of exception types
        The errors that `store` raises.
    patience : Patience
        Limits of retries that obstore itself does not make.
    secrets : frozenset of str
        Values that no message may repeat.
    guard : RedirectGuard or None
        Refuses redirects that headers must not follow.
    """

    store: Any = field(repr=False)
    first: Any = field(repr=False)
    location: Location
    is_anonymous: bool
    errors: tuple[type[Exception], ...] = field(repr=False)
    patience: Patience = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    guard: RedirectGuard | None = None

    @property
    def is_listable(self) -> bool:
        """Whether it can list its objects; a plain web server cannot."""
        from obstore.store import HTTPStore

        return not isinstance(self.store, HTTPStore)

    def translate(self, error: Exception, key: str) -> OSError:
        """Return the error to raise instead of an error of `store`, about the object `key`."""
        return translate_error(
            error,
            self.location.at(key),
            is_anonymous=self.is_anonymous,
            secrets=self.secrets,
        )


def connect(location: Location, defaults: Mapping[str, Any] | None = None) -> Connection:
    """Prepare requests to the bucket or server of a location; none is sent yet.

    Parameters
    ----------
    location : Location
        Not a path.
    defaults : mapping of str to anything, optional
        Storage options that count unless the location has others.

    Raises
    ------
    ValueError
        If an option is unknown, or its value is not valid.
    StorageError
        In a child that was forked after its parent had used a connection.
    """
    check_process()
    if location.kind == "obstore":
        return _plain_connection(location.store, location)
    settings = settings_for(location, defaults)
    if location.kind == "memory":
        return _plain_connection(connect_memory(), location)
    config, provider = _complete(location, settings)
    settings = Settings(config, settings.client, settings.retry)
    backoff = _BACKOFF | settings.retry.get("backoff", {})
    retry: dict[str, Any] = _RETRY | settings.retry | {"backoff": backoff}
    first = retry | {"max_retries": min(_FIRST_RETRIES, retry["max_retries"])}
    return Connection(
        _store(location, settings, retry, provider),
        _store(location, settings, first, provider),
        location,
        is_anonymous=bool(config.get("skip_signature")),
        errors=_errors(),
        patience=Patience.of(retry),
        secrets=settings.secrets,
        guard=_guard(location, settings),
    )


class S3Service(NamedTuple):
    """How other programs reach a bucket in S3, without credentials.

    Attributes
    ----------
    endpoint, region : str or None
        None if the default is meant.
    is_anonymous : bool
        Whether requests are not signed.
    has_path_style : bool
        Whether the bucket is part of the path, not of the host name.
    """

    endpoint: str | None
    region: str | None
    is_anonymous: bool
    has_path_style: bool


def s3_service(location: Location) -> S3Service:
    """Return how other programs reach the bucket of a location in S3."""
    connection = connect(location)
    config = connection.store.config
    named = (config.get(name) for name in ("endpoint", "aws_endpoint_url_s3"))
    endpoint = next(filter(None, (*named, *endpoints("s3"))), None)
    region = config.get("region") or os.environ.get("AWS_REGION")
    is_virtual = str(config.get("virtual_hosted_style_request", "false")).lower() == "true"
    has_path_style = endpoint is not None and not is_virtual
    return S3Service(
        endpoint,
        region or os.environ.get("AWS_DEFAULT_REGION"),
        connection.is_anonymous,
        has_path_style,
    )


def _guard(location: Location, settings: Settings) -> RedirectGuard | None:
    if location.kind != "http" or not settings.client.get("default_headers"):
        return None
    from arraystore.storage.objects.redirects import RedirectGuard

    return RedirectGuard.of(location.bucket, _CLIENT | settings.client)


def _plain_connection(store: Any, location: Location) -> Connection:
    patience = Patience.of(_RETRY)
    return Connection(
        store, store, location, is_anonymous=False, errors=_errors(), patience=patience
    )


def _complete(location: Location, settings: Settings) -> tuple[dict[str, Any], Any]:
    """Return settings with those from files and variables, and a provider of credentials."""
    config, provider = dict(settings.config), None
    if location.kind == "s3":
        found, provider = aws_profile(config, settings.profile, str(location))
        config |= found
    elif settings.profile is not None:
        raise unknown_option(location.kind, "profile")
    elif location.kind == "az":
        config |= azure_settings(config)
    elif location.kind == "gs":
        config |= google_settings(config)
    if is_plain_http(location.kind, config):
        settings.client.setdefault("allow_http", True)
    return config, provider


def _store(location: Location, settings: Settings, retry: dict[str, Any], provider: Any) -> Any:
    from obstore.exceptions import BaseError, UnknownConfigurationKeyError
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    common: dict[str, Any] = {"client_options": _CLIENT | settings.client, "retry_config": retry}
    try:
        if location.kind == "http":
            return HTTPStore(location.bucket, **common)
        kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[location.kind]
        return kind(location.bucket, config=settings.config, credential_provider=provider, **common)
    except UnknownConfigurationKeyError as error:
        raise unknown_option(location.kind, unknown_name(error, settings.config)) from None
    except (BaseError, ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(
            escaped(f"{location}: {cleaned(str(error), settings.secrets)[:_LONGEST]}")
        ) from None


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return BaseError, FileNotFoundError, ValueError


_in_memory: list[Any] = []


def connect_memory() -> Any:
    """Return the objects that all ``memory://`` locations of this process share."""
    from obstore.store import MemoryStore

    if not _in_memory:
        _in_memory.append(MemoryStore())
    return _in_memory[0]
