"""Profiles of AWS: settings from the files in ``~/.aws``, which obstore does not read.

Keys, region and endpoint are read here. boto3 (the extra ``aws``) is needed only for profiles
whose credentials come from elsewhere: it takes as long to import as all of arraystore.
"""

from __future__ import annotations

import configparser
import os
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import as_path
from arraystore.errors import StorageError, escaped
from arraystore.storage.objects.environment import endpoints

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SOURCES: Final = ("role_arn", "sso_session", "sso_start_url", "credential_process")
"""Keys of a profile whose credentials come from elsewhere."""


def aws_profile(
    config: Mapping[str, Any], profile: str | None, location: str
) -> tuple[dict[str, Any], Any]:
    """Return the settings of a profile, and a provider of its credentials if it has no keys.

    Parameters
    ----------
    config : mapping
        Settings in obstore's names, which take precedence.
    profile : str or None
        The profile; by default that of ``AWS_PROFILE``, or ``default``. Credentials in the
        environment take precedence, unless the profile is named here.
    location : str
        For messages.

    Returns
    -------
    settings : dict
        Region, endpoint and keys, in obstore's names.
    provider : obstore.auth.boto3.Boto3CredentialProvider or None

    Raises
    ------
    ValueError
        If a profile that was named does not exist.
    StorageError
        If boto3 is needed and not installed, or finds no credentials.
    """
    name = profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    found = _read_profile(name or "default")
    if found is None:
        if name:
            files = " or ".join(map(str, _files()))
            raise ValueError(escaped(f"{location}: there is no AWS profile {name!r} in {files}"))
        return {}, None
    settings = {"region": found.get("region"), "endpoint": found.get("endpoint_url")}
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        del settings["region"]
    if endpoints("s3"):
        del settings["endpoint"]
    provider = None
    if _needs_credentials(config, profile):
        if "aws_access_key_id" in found:
            settings |= {
                "access_key_id": found["aws_access_key_id"],
                "secret_access_key": found.get("aws_secret_access_key"),
                "session_token": found.get("aws_session_token"),
            }
        elif any(key in found for key in _SOURCES):
            provider = _provider(name or "default", location)
    return {key: value for key, value in settings.items() if value and key not in config}, provider


def _needs_credentials(config: Mapping[str, Any], profile: str | None) -> bool:
    if config.get("skip_signature") or "access_key_id" in config:
        return False
    others = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
    return profile is not None or not any(os.environ.get(name) for name in others)


def _provider(profile: str, location: str) -> Any:
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StorageError(
            f"{location}: AWS profile {profile!r} takes its credentials from a role, single "
            "sign-on or a program, which needs boto3; pip install 'arraystore[aws]'"
        ) from None
    try:
        return Boto3CredentialProvider(Session(profile=profile))
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"{location}: AWS profile {profile!r} gives no credentials: {error}"
        ) from None


def _files() -> tuple[Path, Path]:
    return (
        as_path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"),
        as_path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"),
    )


def _read_profile(name: str) -> dict[str, str] | None:
    credentials, config = _files()
    sections = [(config, f"profile {name}" if name != "default" else name), (credentials, name)]
    found: dict[str, str] | None = None
    for path, section in sections:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error as error:
            raise ValueError(
                escaped(f"{path}: is not a configuration file ({type(error).__name__})")
            ) from None
        if parser.has_section(section):
            found = (found or {}) | dict(parser.items(section))
    return found
