"""Errors of obstore: what caused them, and the errors that arraystore raises instead.

obstore states most causes in the text of its errors alone. That text is matched here and nowhere
else; other modules call these functions and catch classes.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

from obstore.exceptions import (
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from arraystore.errors import StorageError, escaped, store_changed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from arraystore.storage.location import Location

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([\w.]+)</Code>")  # S3, Google and Azure answer in XML
_REGION: Final = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'")
_PROVIDER: Final = "External AWS credential provider: "
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
_FINAL: Final = (
    FileNotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})


class NoBucketError(FileNotFoundError):
    """There is no such bucket."""


def is_connection_refused(error: Exception) -> bool:
    """Whether no connection to the server could be made."""
    return "kind: Connect," in str(error)


def is_final(error: Exception) -> bool:
    """Whether another request would get the same response."""
    text, status = str(error), _status(error)
    return (
        isinstance(error, _FINAL)
        or (status.startswith("4") and status not in ("408", "429"))
        or any(words in text for words in ("non-partial", "redirect without", *_METADATA_SERVICES))
        or is_connection_refused(error)
    )


def is_interrupted(error: Exception) -> bool:
    """Whether a response began and did not come to its end."""
    return "response body" in str(error)


def is_disconnected(error: Exception) -> bool:
    """Whether a connection failed and obstore did not retry, as it does for plain reads alone."""
    text = str(error)
    is_answered = _status(error) or not any(sign in text for sign in _BROKEN)
    return not is_answered and not _REPEATED.search(text)


def is_past_end(error: Exception) -> bool:
    """Whether a range begins at or behind the end of its object."""
    return _status(error) == "416" or "StartTooLarge" in str(error)


def is_suffix_unsupported(error: Exception) -> bool:
    """Whether the service has no ranges that count from the end, or no ranges at all."""
    return isinstance(error, NotSupportedError) or "non-partial" in str(error)


def is_condition_failed(error: Exception) -> bool:
    """Whether an object is not the one that a conditional request named."""
    return isinstance(error, PreconditionError)


def is_condition_unsupported(error: Exception) -> bool:
    """Whether the service does not support a conditional request."""
    return isinstance(error, NotImplementedError | NotSupportedError) or _status(error) == "501"


def unknown_name(error: Exception, names: Iterable[str]) -> str:
    """Return the name of a setting that obstore does not know, out of those that it was given."""
    return next((name for name in names if f"'{name}'" in str(error)), "a name")


def translate_error(
    error: Exception,
    location: Location,
    *,
    is_anonymous: bool = False,
    secrets: Collection[str] = (),
) -> OSError:
    """Return the error to raise instead of an error of obstore.

    Parameters
    ----------
    error : Exception
        As obstore raised it. Its text is several lines and may contain signed URLs; only codes
        and a cleaned first line are repeated.
    location : Location
        The object.
    is_anonymous : bool
        Whether the request was not signed.
    secrets : collection of str
        Values that must not be repeated.

    Returns
    -------
    FileNotFoundError or StorageError
        `NoBucketError` if the bucket does not exist.
    """
    text = str(error)
    code = match[1] if (match := _CODE.search(text)) else ""
    suffix = f" ({code})" if code else ""
    if code in _NO_BUCKET:
        no_bucket = escaped(f"there is no such bucket{suffix}")
        return NoBucketError(errno.ENOENT, no_bucket, str(location))
    if isinstance(error, FileNotFoundError):
        problem = "there is nothing here"
        if location.kind == "memory":
            problem += "; memory:// is the memory of one process, which no other can read"
        return FileNotFoundError(errno.ENOENT, escaped(f"{problem}{suffix}"), str(location))
    if any(service in text for service in _METADATA_SERVICES):
        return no_credentials(location)
    if _PROVIDER in text:
        reason = cleaned(text.partition(_PROVIDER)[2], secrets)
        return StorageError(f"{location}: the AWS profile gives no credentials: {reason}")
    if code in _EXPIRED or "has expired" in text:
        return StorageError(f"{location}: the session has expired{suffix}; renew the credentials")
    # The error of a listing has no type for it.
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _status(error) == "403":
        return StorageError(f"{location}: {denied(code, is_anonymous=is_anonymous)}{suffix}")
    if isinstance(error, PreconditionError):
        return store_changed(str(location))
    return StorageError(f"{location}: {_generic(error, code, secrets)}")


def _status(error: Exception) -> str:
    """Return the HTTP status that an error states, or an empty string."""
    return match[1] if (match := _STATUS.search(str(error))) else ""


def no_credentials(location: Location) -> StorageError:
    """Return the error about an object that cannot be reached without credentials."""
    return StorageError(
        f"{location}: no credentials were found in storage_options, the environment, a "
        "profile or this machine's metadata service; if the data is public, pass "
        "storage_options={'anon': True}"
    )


def denied(code: str, *, is_anonymous: bool = False) -> str:
    """Return why access was denied, and the remedy, given the error code of the service."""
    if code in _WRONG_CREDENTIALS:
        return "access denied: the credentials are wrong"
    if is_anonymous:
        return (
            "access denied to an anonymous request; remove 'anon' from storage_options and give "
            "credentials"
        )
    return (
        "access denied: the credentials do not permit it, or the object does not exist; if the "
        "data is public, pass storage_options={'anon': True}"
    )


def _generic(error: Exception, code: str, secrets: Collection[str]) -> str:
    text, status = str(error), _status(error)
    if "non-partial" in text or "Range request not supported" in text:
        return (
            "the server does not support byte ranges (status 200 instead of 206), and whole files "
            "are not downloaded for single images; use another server, or copy the store"
        )
    region = _REGION.search(text)
    if "redirect without LOCATION" in text or region:
        name = (region[1] or region[2]) if region else ""
        remedy = f"'{name}'" if name else "the bucket's region"
        return f"the bucket is in another region; pass storage_options={{'region': {remedy}}}"
    if is_connection_refused(error):
        return (
            "cannot connect to the server: unknown host, connection refused, or no route; check "
            "the URL and endpoint_url"
        )
    if is_interrupted(error):
        return "the connection was lost during the response, even after retries (see max_retries)"
    if "kind: Timeout" in text:
        return "the server did not respond in time, even after retries (see timeout)"
    if status in ("429", "500", "502", "503", "504"):
        return f"the server responded with status {status}, even after retries (see max_retries)"
    if status:
        return f"the server responded with status {status}{f' ({code})' if code else ''}"
    if "error following redirect" in text:
        return "the server redirects in a circle, or too often"
    if "error sending request" in text:
        return "the connection was lost, even after retries (see max_retries)"
    if "Content-Length Header missing" in text:
        return "the server does not state the length of its response (Content-Length); use another"
    return cleaned(text, secrets)


def cleaned(text: str, secrets: Collection[str] = ()) -> str:
    r"""Return the first line of a message without URLs and secrets.

    Examples
    --------
    >>> cleaned("GET https://a.b/c?sig=x failed with x1\nDebug", ["x1"])
    'GET … failed with ***'
    """
    line = _URL.sub("…", text.partition("\n")[0].strip())
    for secret in secrets:
        line = line.replace(secret, "***")
    return line or "the request failed"
