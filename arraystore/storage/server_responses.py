"""Detect responses that are not the requested object: web pages, truncated documents; no I/O."""

from __future__ import annotations

import re
from typing import Final

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PAGE: Final = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_GZIP: Final = b"\x1f\x8b"


def unexpected_response(data: bytes) -> str:
    """Describe a response that cannot be the object; return an empty text if it may be.

    Parameters
    ----------
    data : bytes
        The response, or its beginning.

    Examples
    --------
    >>> unexpected_response(b"<!DOCTYPE html><title>Log in</title>")
    'an HTML page, as for a login or an error; check the URL, and headers in storage_options'
    >>> unexpected_response(b'{"zarr_format": 3}')
    ''
    """
    if _PAGE.match(data):
        return (
            "an HTML page, as for a login or an error; check the URL, and headers in "
            "storage_options"
        )
    if data.startswith(_GZIP):
        return "it compressed by gzip; configure the server to send objects unchanged"
    return ""


def is_truncated_json(document: bytes) -> bool:
    """Whether a JSON document ends before its first bracket is closed, or is empty.

    Examples
    --------
    >>> texts = b'{"a": "}', b'{"a": [1}', b'{"a": 1}', b"", b"[1,}]"
    >>> list(map(is_truncated_json, texts))
    [True, True, False, True, False]
    """
    plain = _STRING.sub(b"", document)
    n_open = plain.count(b"{") + plain.count(b"[") - plain.count(b"}") - plain.count(b"]")
    return not plain.strip() or b'"' in plain or n_open > 0
