"""Settings from variables that the vendors' own tools read, and obstore does not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from arraystore.storage.objects.settings import connection_string

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
}
"""Variables that name an endpoint; obstore reads them itself."""


def endpoints(kind: str) -> list[str]:
    """Return the endpoints that variables name for a kind of location."""
    return [os.environ[name] for name in _ENDPOINTS.get(kind, ()) if os.environ.get(name)]


def is_plain_http(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether the endpoint of a service is reached without encryption."""
    given = [config.get("endpoint"), config.get("aws_endpoint_url_s3"), config.get("base_url")]
    named = given if any(given) else endpoints(kind)
    return any(str(endpoint).startswith("http://") for endpoint in named)


def azure_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings from variables of Azure's tools; those in `config` take precedence."""
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
    # An emulator has no accounts, so requests to it are not signed.
    return {"base_url": host if "://" in host else f"http://{host}", "skip_signature": True}
