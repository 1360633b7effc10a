"""Every exception that arraystore raises on purpose.

::

    ArrayStoreError
    ├── FormatError          what is stored does not follow docs/format.md     (ValueError)
    │   └── VersionError       it does, but at a version this release cannot read
    ├── SourceError          a source cannot be read as samples                (ValueError)
    └── StorageError         bytes could not be read or written                (OSError)
        ├── ShortReadError     fewer bytes came back than were asked for
        └── ChecksumError      the bytes that came back are not those written

Mistakes that Python has a word for keep it: a position out of bounds is an
`IndexError`, a split that does not exist a `KeyError`, a target that exists a
`FileExistsError`.
"""


class ArrayStoreError(Exception):
    """Base of all exceptions below."""


class FormatError(ArrayStoreError, ValueError):
    """What is stored does not follow the format specification."""


class VersionError(FormatError):
    """The store follows a version of the format that this release cannot read."""


class SourceError(ArrayStoreError, ValueError):
    """A source cannot be read as samples."""


class StorageError(ArrayStoreError, OSError):
    """Bytes could not be read from storage, or written to it."""


class ShortReadError(StorageError):
    """Fewer bytes came back than were asked for."""


class ChecksumError(StorageError):
    """The bytes that came back are not the bytes that were written."""
