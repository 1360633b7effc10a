"""Send one object of S3 in parts from several processes.

obstore has no calls for single parts, so the requests are sent with botocore, which boto3 (the
extra ``aws``) installs.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import StorageError, escaped
from arraystore.storage.objects.connection import connect, s3_service
from arraystore.storage.objects.errors import cleaned, denied, no_credentials
from arraystore.storage.objects.event_loop import TIDYING_SECONDS
from arraystore.storage.objects.settings import settings_for
from arraystore.storage.objects.writer import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from arraystore.storage.location import Location

_CONFIG: Final = frozenset(
    [
        "access_key_id",
        "bucket",
        "endpoint",
        "region",
        "secret_access_key",
        "session_token",
        "skip_signature",
    ]
)
_CLIENT: Final = frozenset(
    ["allow_http", "allow_invalid_certificates", "connect_timeout", "read_timeout", "timeout"]
)
_VARIABLES: Final = (
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_REQUEST_PAYER",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
)
"""Variables that obstore reads and botocore does not."""

_ABSENT: Final = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")
_CONDITION_FAILED: Final = ("412", "PreconditionFailed")
_DENIED: Final = 403
_UNSUPPORTED: Final = ("501", "NotImplemented")

_CONNECT_SECONDS: Final = 5
_MAX_RETRIES: Final = 10


def can_send_parts(location: Location) -> bool:
    """Whether several processes can send the parts of an object.

    That needs S3, botocore, and options that botocore has as well.
    """
    if location.kind != "s3" or find_spec("botocore") is None:
        return False
    client = settings_for(location).client
    is_known = connect(location).store.config.keys() <= _CONFIG and client.keys() <= _CLIENT
    is_plain = not any(isinstance(value, str) for value in client.values())  # such as "5s"
    return is_known and is_plain and not any(os.environ.get(name) for name in _VARIABLES)


@dataclass(frozen=True, slots=True)
class PartUpload:
    """An upload of one object in parts; the object appears when it is completed.

    It can be sent to other processes, which find credentials as `connect` does. A part that is
    sent twice counts once.

    Attributes
    ----------
    location : Location
        The object.
    name : str
        What the service calls the upload.
    """

    location: Location
    name: str

    @classmethod
    def begin(cls, location: Location) -> PartUpload:
        """Begin an upload.

        Raises
        ------
        StorageError
            If the service refuses it, or does not respond.
        """
        with _translated(location):
            response = _connected(location).create_multipart_upload(**_names(location))
        return cls(location, response["UploadId"])

    def send(self, part: int, data: Buffer) -> str:
        """Send a part, counted from 0; return its etag."""
        with _translated(self.location):
            response = self._client.upload_part(
                **_names(self.location),
                UploadId=self.name,
                PartNumber=part + 1,
                Body=bytes(data),
            )
        etag: str = response["ETag"]
        return etag

    def complete(self, etags: Sequence[str], *, replaces: bool) -> None:
        """Make the object of its parts.

        Parameters
        ----------
        etags : sequence of str
            Those of all parts.
        replaces : bool
            Whether an existing object is replaced.

        Raises
        ------
        FileExistsError
            If there is an object, and it is not replaced.
        """
        parts = [{"ETag": etag, "PartNumber": i + 1} for i, etag in enumerate(etags)]
        condition = {} if replaces else {"IfNoneMatch": "*"}
        try:
            try:
                self._complete(parts, condition)
            except _RefusedError as error:
                if error.code not in _UNSUPPORTED or replaces:
                    raise
                self._complete(parts, {})  # all that this service supports
        except StorageError as error:
            if self._etag() == whole_etag(etags):
                return  # only the response was lost
            if isinstance(error, _RefusedError) and error.code in _CONDITION_FAILED:
                raise FileExistsError(
                    escaped(f"{self.location}: was created by another process meanwhile")
                ) from None
            raise

    def _complete(self, parts: list[dict[str, Any]], condition: dict[str, str]) -> None:
        with _translated(self.location):
            self._client.complete_multipart_upload(
                **_names(self.location),
                UploadId=self.name,
                MultipartUpload={"Parts": parts},
                **condition,
            )

    def _etag(self) -> str | None:
        """Return the etag of the object, if there is one."""
        try:
            with _translated(self.location):
                return str(self._client.head_object(**_names(self.location))["ETag"])
        except _RefusedError as error:
            if error.code in _ABSENT:
                return None
            raise

    def abort(self) -> None:
        """Delete the parts that were sent; wait for a response a few seconds at most.

        Raises
        ------
        StorageError
            If the service does not respond.
        """
        try:
            with _translated(self.location):
                client = _connected(self.location, seconds=TIDYING_SECONDS)
                client.abort_multipart_upload(**_names(self.location), UploadId=self.name)
        except _RefusedError as error:
            if error.code not in _ABSENT:
                raise

    @property
    def _client(self) -> Any:
        client = _clients.get(self.name)
        if client is None:
            client = _connected(self.location)
            _clients.clear()
            _clients[self.name] = client
        return client


_clients: Final[dict[str, Any]] = {}
"""The client of the last upload of this process, because making one takes a while."""


class _RefusedError(StorageError):
    """The service refused a request, with an error code or a status."""

    code: str = ""


def whole_etag(etags: Sequence[str]) -> str:
    """Return the etag that S3 gives to an object of these parts, or an empty string.

    Examples
    --------
    >>> whole_etag(['"900150983cd24fb0d6963f7d28e17f72"'])
    '"af5da9f45af7a300e3aded972f8ff687-1"'
    """
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:  # of a service whose etags are no MD5 sums
        return ""
    digest = hashlib.md5(digests, usedforsecurity=False).hexdigest()
    return f'"{digest}-{len(etags)}"'


def _names(location: Location) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key}


def _connected(location: Location, seconds: float | None = None) -> Any:
    """Return a client of botocore; `seconds` limits the wait for each response."""
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    settings, service = settings_for(location, PATIENCE), s3_service(location)
    found = connect(location).store.config  # with the keys of a profile
    n_retries = settings.retry.get("max_retries", _MAX_RETRIES) if seconds is None else 1
    return Session(profile=settings.profile).create_client(
        "s3",
        region_name=service.region or "us-east-1",
        endpoint_url=service.endpoint,
        aws_access_key_id=found.get("access_key_id"),
        aws_secret_access_key=found.get("secret_access_key"),
        aws_session_token=found.get("session_token"),
        verify=not settings.client.get("allow_invalid_certificates"),
        config=Config(
            connect_timeout=_seconds(settings.client.get("connect_timeout", _CONNECT_SECONDS)),
            read_timeout=seconds or _seconds(settings.client["read_timeout"]),
            retries={"mode": "standard", "total_max_attempts": 1 + n_retries},
            signature_version=UNSIGNED if service.is_anonymous else None,
            s3={"addressing_style": "path" if service.has_path_style else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else value


@contextmanager
def _translated(location: Location) -> Iterator[None]:
    """Raise `StorageError` instead of the errors of botocore."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError:
        raise StorageError(
            f"{location}: a worker sends a part of this file, which needs boto3 there; "
            "pip install 'arraystore[aws]'"
        ) from None
    try:
        yield
    except NoCredentialsError:
        raise no_credentials(location) from None
    except ClientError as error:
        response = error.response
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        refused = _RefusedError(
            f"{location}: {denied(code)} ({code})"
            if status == _DENIED
            else f"{location}: the server responded with status {status} ({code})"
        )
        refused.code = code
        raise refused from None
    except BotoCoreError as error:
        secrets = settings_for(location).secrets
        raise StorageError(f"{location}: {cleaned(str(error), secrets)}") from None
