"""Check the redirects of a web server before headers that may be secret follow them.

obstore follows redirects and sends all headers except those that every client treats as secret. It
has no option for that, so each object is first requested by a client that follows no redirect.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DROPPED: Final = frozenset(
    {"authorization", "cookie", "cookie2", "proxy-authorization", "www-authenticate"}
)
"""Headers that obstore does not send to another server."""

_HARMLESS: Final = frozenset({"accept", "accept-language", "user-agent"})

_MAX_REDIRECTS: Final = 10
_TRIES: Final = 3
_TIMEOUT: Final = 10
"""Seconds to wait for a response if the option is in obstore's own notation."""


@dataclass(frozen=True, slots=True)
class RedirectGuard:
    """Refuses redirects to another server.

    Attributes
    ----------
    origin : str
        URL of the server, with a slash at its end.
    client : mapping
        The client options of obstore.
    """

    origin: str
    client: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, origin: str, client: Mapping[str, Any]) -> RedirectGuard | None:
        """Return a guard if a header that may be secret would follow a redirect."""
        names = {name.lower() for name in client.get("default_headers", {})}
        return cls(origin, client) if names - _DROPPED - _HARMLESS else None

    def check(self, key: str) -> None:
        """Check that an object is not redirected to another server.

        Raises
        ------
        StorageError
            If it is, or the server does not respond.
        """
        first = url = self.origin + urllib.parse.quote(key)
        for _ in range(_MAX_REDIRECTS):
            found = self._target_of(url, first)
            if found is None:
                return
            url = urllib.parse.urljoin(url, found)
            if _origin(url) != _origin(self.origin):
                raise StorageError(
                    f"{first}: the server redirects to {_shown(url)}; the headers in "
                    "storage_options may be secret and are not sent there; open that address with "
                    "its own headers, or leave the headers out"
                )

    def _target_of(self, url: str, first: str) -> str | None:
        """Return the URL that a URL redirects to, or None."""
        headers = {**self.client.get("default_headers", {}), "Range": "bytes=0-0"}
        request = urllib.request.Request(url, headers=headers)
        opener, given = self._opener(), self.client.get("read_timeout")
        timeout = given.total_seconds() if isinstance(given, timedelta) else _TIMEOUT
        reason: Exception | None = None
        for _ in range(_TRIES):
            try:
                with closing(opener.open(request, timeout=timeout)):
                    return None
            except urllib.error.HTTPError as error:
                with closing(error):
                    is_redirect = 300 <= error.code < 400
                    return error.headers.get("Location") if is_redirect else None
            except (OSError, HTTPException) as error:
                reason = error
        found = getattr(reason, "reason", reason)
        raise StorageError(f"{first}: the server does not respond ({found})")

    def _opener(self) -> urllib.request.OpenerDirector:
        context = ssl.create_default_context(cadata=self.client.get("root_certificate"))
        if self.client.get("allow_invalid_certificates"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        proxy = self.client.get("proxy_url")
        proxies = None if proxy is None else {"http": proxy, "https": proxy}
        return urllib.request.build_opener(
            _NoRedirects,
            urllib.request.HTTPSHandler(context=context),
            urllib.request.ProxyHandler(proxies),
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    @override
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect, so that it raises `HTTPError`."""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(url: str) -> str:
    """Return a URL without password, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
