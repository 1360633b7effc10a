"""What went wrong with an object, told in one line: the place, what was found, the way out."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

from arraystore.errors import StorageError, escaped, store_changed

if TYPE_CHECKING:
    from collections.abc import Collection

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([\w.]+)</Code>")  # S3, Google and Azure answer in XML
_REGION: Final = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'")
_URL: Final = re.compile(r"https?://\S+")
_BROKEN: Final = ("response body", "error sending request", "kind: Timeout", "kind: Interrupted")
_REPEATED: Final = re.compile(r"\bretries: [1-9]")
_METADATA_SERVICES: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_WRONG_CREDENTIALS: Final = frozenset(
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthenticationFailed",
        "InvalidSecurity",
        "InvalidToken",
    ]
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_FINAL: Final = frozenset(
    {"PermissionDeniedError", "UnauthenticatedError", "PreconditionError", "NotSupportedError"}
)
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})


def is_refused(error: Exception) -> bool:
    """Whether nobody answered at the other end."""
    return "kind: Connect," in str(error)


def is_final(error: Exception) -> bool:
    """Whether asking again would bring the same answer."""
    text = str(error)
    status = match[1] if (match := _STATUS.search(text)) else ""
    return (
        isinstance(error, FileNotFoundError)
        or type(error).__name__ in _FINAL
        or (status.startswith("4") and status not in ("408", "429"))
        or any(words in text for words in ("non-partial", "redirect without", *_METADATA_SERVICES))
        or is_refused(error)
    )


def is_interrupted(error: Exception) -> bool:
    """Whether an answer had begun, and did not come to its end."""
    return "response body" in str(error)


def is_broken_off(error: Exception) -> bool:
    """Whether a connection failed and obstore has not asked again, as for what is no plain read."""
    text = str(error)
    is_answered = _STATUS.search(text) or not any(sign in text for sign in _BROKEN)
    return not is_answered and not _REPEATED.search(text)


def is_beyond_the_end(error: Exception) -> bool:
    """Whether a range begins where the object has ended already."""
    text = str(error)
    return "status code: 416" in text or "StartTooLarge" in text


def is_no_suffix(error: Exception) -> bool:
    """Whether a service has no ranges counted from the end, or this server none at all."""
    return type(error).__name__ == "NotSupportedError" or "non-partial" in str(error)


def told(
    error: Exception,
    where: str,
    *,
    is_anonymous: bool = False,
    secrets: Collection[str] = (),
) -> OSError:
    """Return what is raised in place of an error of obstore.

    Parameters
    ----------
    error : Exception
        As obstore raised it. Its text is several lines, and may hold addresses with
        signatures in them; none of it is repeated but codes and a cleaned first line.
    where : str
        Address of the object.
    is_anonymous : bool
        Whether the request was not signed.
    secrets : collection of str
        What must not be repeated.

    Returns
    -------
    FileNotFoundError or StorageError
    """
    text = str(error)
    code = match[1] if (match := _CODE.search(text)) else ""
    said = f" ({code})" if code else ""
    if isinstance(error, FileNotFoundError):
        what = "there is no such bucket" if code in _NO_BUCKET else "there is nothing here"
        if where.startswith("memory://"):
            what += "; memory:// is the memory of one process, which no other can read"
        return FileNotFoundError(errno.ENOENT, escaped(f"{what}{said}"), where)
    kind = type(error).__name__
    if any(service in text for service in _METADATA_SERVICES) or "Credential" in kind:
        return StorageError(
            f"{where}: no credentials were found, neither in storage_options nor in the "
            "environment, a profile or this machine's metadata service; if the data is public, "
            "say storage_options={'anon': True}"
        )
    if code in _EXPIRED or "has expired" in text:
        return StorageError(f"{where}: the session has expired{said}; renew the credentials")
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return StorageError(f"{where}: {_denied(code, is_anonymous=is_anonymous)}{said}")
    if kind == "PreconditionError":
        return store_changed(where)
    return StorageError(f"{where}: {_generic(text, code, secrets)}")


def _denied(code: str, *, is_anonymous: bool) -> str:
    if code in _WRONG_CREDENTIALS:
        return "access is denied, the credentials are wrong"
    if is_anonymous:
        return (
            "anonymous access is denied, as storage_options={'anon': True} asked for; "
            "leave it out, and give credentials"
        )
    return (
        "access is denied: the credentials do not allow it, or it is not there and they "
        "do not allow knowing; if the data is public, say storage_options={'anon': True}"
    )


def _generic(text: str, code: str, secrets: Collection[str]) -> str:
    status = match[1] if (match := _STATUS.search(text)) else ""
    if "non-partial" in text or "Range request not supported" in text:
        return (
            "the server does not support byte ranges (it answered 200 to a request for one, "
            "not 206), and whole files are not downloaded for single images; use another "
            "server, or copy the store"
        )
    region = _REGION.search(text)
    if "redirect without LOCATION" in text or region:
        name = (region[1] or region[2]) if region else ""
        remedy = f"'{name}'" if name else "the bucket's own"
        return (
            "the bucket is in another region than the request; say "
            f"storage_options={{'region': {remedy}}}"
        )
    if "kind: Connect," in text:
        return (
            "cannot connect to the server: no such host, nobody listens there, or no route; "
            "look at the address and endpoint_url"
        )
    if "response body" in text:
        return "the server's answer broke off, also when asked again (see `max_retries`)"
    if "kind: Timeout" in text:
        return "the server did not answer in time, also when asked again (see `timeout`)"
    if status in ("429", "500", "502", "503", "504"):
        return f"the server answered {status} each time it was asked (see `max_retries`)"
    if status:
        return f"the server answered {status}{f' ({code})' if code else ''}"
    if "error following redirect" in text:
        return "the server redirects in a circle, or too often"
    if "error sending request" in text:
        return "the connection was lost, also when asked again (see `max_retries`)"
    if "Content-Length Header missing" in text:
        return "the server does not say how long its answer is (Content-Length); use another one"
    return cleaned(text, secrets)


def cleaned(text: str, secrets: Collection[str] = ()) -> str:
    r"""Return the first line of a message without addresses and secrets.

    Examples
    --------
    >>> cleaned("GET https://a.b/c?sig=x failed with x1\nDebug", ["x1"])
    'GET … failed with ***'
    """
    line = _URL.sub("…", text.partition("\n")[0].strip())
    for secret in secrets:
        line = line.replace(secret, "***")
    return line or "the request failed"
