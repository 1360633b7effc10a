"""Encoded images that are not a byte range of any source file, in one file of their own.

Images in compressed files, in Python objects and in arrays are appended to the spool while a
source is read front to back. From then on they are byte ranges like any others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

SPOOL: Final = -1
"""Stands for the spool in `SampleTable.file` while the number of files is not yet known."""

_BUFFER_NBYTES: Final = 2**20


class Spool:
    """Appends encoded images to a file.

    Parameters
    ----------
    path : Path
        The file, in the workspace of the conversion.

    Attributes
    ----------
    path : Path
    nbytes : int
        Length of the file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "spool")
    >>> with Spool(path) as spool:
    ...     spool.append(b"abc"), spool.append(b"de"), spool.nbytes
    (0, 3, 5)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nbytes = path.stat().st_size if path.exists() else 0
        self._file = path.open("ab", buffering=_BUFFER_NBYTES)

    def append(self, data: Buffer) -> int:
        """Append bytes; return the offset of the first."""
        offset = self.nbytes
        self.nbytes += self._file.write(data)
        return offset

    def flush(self) -> None:
        """Make what was appended readable through other descriptors."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
