"""Exceptions that arraystore raises on purpose, and text that is safe to show.

::

    ArrayStoreError
    ├── FormatError          stored data does not follow docs/format.md        (ValueError)
    │   └── VersionError       it follows a version this release cannot read
    ├── SourceError          a source cannot be read as samples                (ValueError)
    │   └── SourceChangedError   it changed while it was read
    └── StorageError         bytes could not be read or written                (OSError)
        ├── ShortReadError     fewer bytes were returned than requested
        ├── StoreChangedError  the store was replaced or changed since it was opened
        ├── ReferencedFileError  a file outside of the store has no longer its images
        ├── WorkersLostError   the executor that the caller passed has lost its workers
        └── ChecksumError      the bytes returned are not those written

Mistakes for which Python has an exception raise that one: a position out of bounds is an
`IndexError`, a split that does not exist a `KeyError`, a target that exists a `FileExistsError`.

Parts of many messages come from stores, archives and images that other people made: a name can
contain characters that move a terminal's cursor or reverse the direction of writing.
"""

from __future__ import annotations

import re
from typing import Final

from typing_extensions import override

_BRIEF_LENGTH: Final = 200
_MAX_BITS: Final = 500
_JSON_STRING: Final = re.compile(r"[^ -~]")


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return text with escapes for characters that are invisible or control a terminal.

    Parameters
    ----------
    text : str
        Text of any origin.
    keep : str, optional
        Characters that are not escaped, such as a line feed.

    Returns
    -------
    str
        Printable characters only, in the sense of `str.isprintable`: control characters, marks of
        direction, separators and lone surrogates are written as Python writes them in a string.

    Examples
    --------
    >>> escaped("héllo 漢\x1b[2J\u202egpj.exe")
    'héllo 漢\\x1b[2J\\u202egpj.exe'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def escaped_json(text: str) -> str:
    r"""Return an equal JSON text without characters that control a terminal.

    Examples
    --------
    >>> escaped_json('["é\x9b2J"]')
    '["é\\u009b2J"]'
    """
    return _JSON_STRING.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    c = match[0]
    if c.isprintable() or c == "\n":
        return c
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def brief(value: object) -> str:
    """Return the beginning of a value's `repr` in printable characters, for a message.

    Examples
    --------
    >>> len(brief("a" * 10**6))
    201
    >>> brief(10**5000)  # has more digits than Python prints
    'an integer of 16610 bits'
    """
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes | list | tuple):
        value = value[: _BRIEF_LENGTH + 1]
    try:
        text = repr(value)
    except ValueError:  # it contains such an integer
        text = f"<{type(value).__name__}>"
    return escaped(text if len(text) <= _BRIEF_LENGTH else text[:_BRIEF_LENGTH] + "…")


class ArrayStoreError(Exception):
    """Base of all exceptions below; their text is safe to show."""

    @override
    def __str__(self) -> str:
        return escaped(super().__str__())


class FormatError(ArrayStoreError, ValueError):
    """Stored data does not follow the format specification."""


class VersionError(FormatError):
    """The store follows a version of the format that this release cannot read."""


class SourceError(ArrayStoreError, ValueError):
    """A source cannot be read as samples."""


class SourceChangedError(SourceError):
    """A file of a source changed while it was read, or since an interrupted run read it."""


class OtherSelectionError(ArrayStoreError, ValueError):
    """A saved or named selection is of other splits than the one that it is applied to."""


class StorageError(ArrayStoreError, OSError):
    """Bytes could not be read from storage, or written to it."""


class ShortReadError(StorageError):
    """Fewer bytes were returned than requested."""


class StoreChangedError(StorageError):
    """The store was replaced, changed or deleted since it was opened or a split was pickled."""


class ChecksumError(StorageError):
    """The bytes returned are not the bytes that were written."""


class WorkersLostError(StorageError):
    """An executor of the caller was shut down, or the connection to its workers is lost."""


class ReferencedFileError(StorageError):
    """A file that a store refers to is missing, has changed, or may not be followed.

    Attributes
    ----------
    is_refused : bool
        Whether it was not looked at, because the caller did not allow it.
    """

    is_refused = False


def store_changed(location: str) -> StoreChangedError:
    """Return the error about a file or object that differs from the one that was opened."""
    return StoreChangedError(f"{location}: has changed since the store was opened; open it again")
