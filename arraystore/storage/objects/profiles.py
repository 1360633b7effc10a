"""Settings that the vendors' own tools read from files and variables, and obstore does not."""

from __future__ import annotations

import configparser
import os
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import as_path
from arraystore.errors import escaped
from arraystore.storage.objects.address import connection_string

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FROM_ELSEWHERE: Final = ("role_arn", "sso_session", "sso_start_url", "credential_process")
"""Keys of a profile whose credentials must be asked for somewhere."""


_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
}
"""Variables that name an endpoint; obstore reads them by itself."""


def is_plain_http(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether an endpoint that was asked for is reached without encryption."""
    given = [config.get("endpoint"), config.get("aws_endpoint_url_s3"), config.get("base_url")]
    named = given if any(given) else [os.environ.get(name) for name in _ENDPOINTS.get(kind, ())]
    return any(str(endpoint).startswith("http://") for endpoint in named)


class NeedsBoto3(Exception):  # noqa: N818 - tells what is needed, and is caught beside
    """A profile has no keys of its own but says where to get some."""


def aws_settings(config: Mapping[str, Any], profile: str | None) -> dict[str, Any]:
    """Return the keys, session, region and endpoint of an AWS profile, as obstore calls them.

    Parameters
    ----------
    config : mapping
        What is known already; it wins.
    profile : str or None
        The profile; by default that of ``AWS_PROFILE``, or ``default``. Unless it is named
        here, credentials in the environment win.

    Raises
    ------
    ValueError
        If a profile that was named is not there.
    NeedsBoto3
        If its credentials come from elsewhere.
    """
    name = profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    found = _aws_profile(name or "default")
    if found is None:
        if name:
            raise ValueError(
                escaped(
                    f"there is no AWS profile {name!r} in {' or '.join(map(str, _aws_files()))}"
                )
            )
        return {}
    settings = {
        "region": found.get("region"),
        "endpoint": found.get("endpoint_url"),
    }
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        del settings["region"]
    if any(os.environ.get(variable) for variable in _ENDPOINTS["s3"]):
        del settings["endpoint"]
    if _wants_credentials(config, profile):
        if "aws_access_key_id" in found:
            settings |= {
                "access_key_id": found["aws_access_key_id"],
                "secret_access_key": found.get("aws_secret_access_key"),
                "session_token": found.get("aws_session_token"),
            }
        elif any(key in found for key in _FROM_ELSEWHERE):
            raise NeedsBoto3(name or "default")
    return {key: value for key, value in settings.items() if value and key not in config}


def _wants_credentials(config: Mapping[str, Any], profile: str | None) -> bool:
    if config.get("skip_signature") or "access_key_id" in config:
        return False
    others = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
    return profile is not None or not any(os.environ.get(name) for name in others)


def _aws_files() -> tuple[Path, Path]:
    return (
        as_path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"),
        as_path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"),
    )


def _aws_profile(name: str) -> dict[str, str] | None:
    credentials, config = _aws_files()
    sections = [(config, f"profile {name}" if name != "default" else name), (credentials, name)]
    found: dict[str, str] | None = None
    for path, section in sections:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error as error:
            raise ValueError(
                escaped(f"{path}: not a configuration file: {type(error).__name__}")
            ) from None
        if parser.has_section(section):
            found = (found or {}) | dict(parser.items(section))
    return found


def azure_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the variables of Azure's own tools say and obstore does not read."""
    settings: dict[str, Any] = {}
    if text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        settings |= connection_string(text)
    for variable, name in (
        ("AZURE_STORAGE_ACCOUNT", "account_name"),
        ("AZURE_STORAGE_KEY", "account_key"),
    ):
        if os.environ.get(variable):
            settings.setdefault(name, os.environ[variable])
    if config.get("skip_signature") or {"account_key", "sas_key", "token"} & config.keys():
        for name in ("account_key", "sas_key"):
            settings.pop(name, None)
    return {name: value for name, value in settings.items() if name not in config}


def google_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the endpoint of an emulator that ``STORAGE_EMULATOR_HOST`` names."""
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if not host or "base_url" in config:
        return {}
    # Nothing is signed there: an emulator knows no accounts.
    return {"base_url": host if "://" in host else f"http://{host}", "skip_signature": True}
