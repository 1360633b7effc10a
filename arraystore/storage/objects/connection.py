"""Addresses to obstore's stores: the only module that imports obstore."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import StorageError, brief, escaped
from arraystore.storage.objects.address import Address, Settings, settings_for, unknown_option
from arraystore.storage.objects.errors import cleaned
from arraystore.storage.objects.event_loop import check_process
from arraystore.storage.objects.profiles import (
    NeedsBoto3,
    aws_settings,
    azure_settings,
    google_settings,
    is_plain_http,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from arraystore.storage.objects.redirects import RedirectGuard

_CLIENT: Final = {
    "connect_timeout": timedelta(seconds=5),
    # Between two pieces of a reply: this is what finds a stall.
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
"""How often a server is called again that has never answered."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is repeated of which the answer broke off.

    Attributes
    ----------
    max_retries : int
        How often, at most.
    seconds : float
        For how long, at most.
    first_pause, longest_pause : float
        Seconds to wait before the first and the last of them; doubled in between.
    """

    max_retries: int
    seconds: float
    first_pause: float
    longest_pause: float

    @classmethod
    def of(cls, retry: Mapping[str, Any]) -> Patience:
        """Return that of a retry configuration of obstore."""
        backoff = _BACKOFF | retry.get("backoff", {})
        durations = retry["retry_timeout"], backoff["init_backoff"], backoff["max_backoff"]
        return cls(retry["max_retries"], *(value.total_seconds() for value in durations))

    def pauses(self) -> Iterator[float]:
        """Yield what to wait before each repetition, as long as there may be one."""
        end = time.monotonic() + self.seconds
        for number in range(self.max_retries):
            if time.monotonic() > end:
                return
            yield min(self.first_pause * 2**number, self.longest_pause)


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A bucket, container or web server, ready to be asked.

    Attributes
    ----------
    store : obstore store
        Asked with its own asynchronous methods.
    first : obstore store
        The same, giving up sooner: asked until the first answer, so that a wrong
        address is told within a second.
    where : str
        Its address up to a slash, for messages.
    is_anonymous : bool
        Whether requests are not signed.
    errors : tuple of exception types
        What `store` raises.
    patience : Patience
        How long what obstore itself does not repeat is repeated.
    secrets : frozenset of str
        What no message may repeat.
    guard : RedirectGuard or None
        What refuses redirects that headers must not follow.
    """

    store: Any = field(repr=False)
    first: Any = field(repr=False)
    where: str
    is_anonymous: bool
    errors: tuple[type[Exception], ...] = field(repr=False)
    patience: Patience = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    guard: RedirectGuard | None = None

    @property
    def is_listable(self) -> bool:
        """Whether it lists what it holds, which a plain web server does not."""
        from obstore.store import HTTPStore

        return not isinstance(self.store, HTTPStore)


def connect(address: Address, options: Mapping[str, Any] | None = None) -> Connection:
    """Prepare to read from an address; nothing is asked yet.

    Parameters
    ----------
    address : Address
        Its key plays no part.
    options : mapping, optional
        See `arraystore.open`.

    Raises
    ------
    ValueError
        If an option is not known, or its value cannot be.
    StorageError
        In a child that was forked after its parent had used a connection.
    """
    check_process()
    settings = settings_for(address, options)
    if address.kind == "memory":
        return _plain_connection(connect_memory(), address.root)
    config, provider = _complete(address, settings)
    settings = Settings(config, settings.client, settings.retry)
    backoff = _BACKOFF | settings.retry.get("backoff", {})
    retry: dict[str, Any] = _RETRY | settings.retry | {"backoff": backoff}
    first = retry | {"max_retries": min(_FIRST_RETRIES, retry["max_retries"])}
    return Connection(
        _store(address, settings, retry, provider),
        _store(address, settings, first, provider),
        address.root,
        is_anonymous=bool(config.get("skip_signature")),
        errors=_errors(),
        patience=Patience.of(retry),
        secrets=settings.secrets,
        guard=_guard(address, settings),
    )


def _guard(address: Address, settings: Settings) -> RedirectGuard | None:
    if address.kind != "http" or not settings.client.get("default_headers"):
        return None
    from arraystore.storage.objects.redirects import RedirectGuard

    return RedirectGuard.of(address.bucket, _CLIENT | settings.client)


def connection_to(store: Any) -> Connection:
    """Return a connection to a store that the caller has opened with obstore.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not hasattr(store, "get_async") or not hasattr(store, "head_async"):
        raise TypeError(f"must be a path, an address or an obstore store, got {brief(store)}")
    check_process()
    return _plain_connection(store, f"<{type(store).__name__}>/")


def _plain_connection(store: Any, where: str) -> Connection:
    patience = Patience.of(_RETRY)
    return Connection(store, store, where, is_anonymous=False, errors=_errors(), patience=patience)


def _complete(address: Address, settings: Settings) -> tuple[dict[str, Any], Any]:
    """Add what files and variables say; return that, and what provides credentials."""
    config, provider = dict(settings.config), None
    if address.kind == "s3":
        try:
            config |= aws_settings(config, settings.profile)
        except NeedsBoto3 as needed:
            provider = _boto3(str(needed), address)
            config = dict(getattr(provider, "config", {})) | config
    elif settings.profile is not None:
        raise unknown_option(address.kind, "profile")
    elif address.kind == "az":
        config |= azure_settings(config)
    elif address.kind == "gs":
        config |= google_settings(config)
    if is_plain_http(address.kind, config):
        settings.client.setdefault("allow_http", True)
    return config, provider


def _boto3(profile: str, address: Address) -> Any:
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StorageError(
            f"{address.where}: AWS profile {profile!r} says where to get credentials (a role, a "
            "single sign-on or a program), which needs boto3: pip install boto3"
        ) from None
    return Boto3CredentialProvider(Session(profile_name=profile))


def _store(address: Address, settings: Settings, retry: dict[str, Any], provider: Any) -> Any:
    from obstore.exceptions import BaseError, UnknownConfigurationKeyError
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    common: dict[str, Any] = {"client_options": _CLIENT | settings.client, "retry_config": retry}
    try:
        if address.kind == "http":
            return HTTPStore(address.bucket, **common)
        kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[address.kind]
        return kind(address.bucket, config=settings.config, credential_provider=provider, **common)
    except UnknownConfigurationKeyError as error:
        name = next((name for name in settings.config if f"'{name}'" in str(error)), None)
        raise unknown_option(address.kind, name or "a name") from None
    except (BaseError, ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(
            escaped(f"{address.where}: {cleaned(str(error), settings.secrets)[:_LONGEST]}")
        ) from None


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return BaseError, FileNotFoundError, ValueError


_in_memory: list[Any] = []


def connect_memory() -> Any:
    """Return the objects that ``memory://`` addresses of this process share."""
    from obstore.store import MemoryStore

    if not _in_memory:
        _in_memory.append(MemoryStore())
    return _in_memory[0]
