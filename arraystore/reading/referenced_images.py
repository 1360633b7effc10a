"""The images of a split that are in other files: which files, and who reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore.errors import FormatError
from arraystore.indexing.packed_names import PackedNames
from arraystore.indexing.referenced_payload import ReferencedPayload
from arraystore.schema import PAYLOAD, REFERENCE_COLUMNS
from arraystore.storage.referenced_files import ReferencedFiles, References, reader_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.store_handle import StoreHandle


class ReferencedImages:
    """The files that hold images of a split.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    split : str

    Attributes
    ----------
    files : ReferencedFiles
    payload : ReferencedPayload
        The store's own bytes and the files, as one run of bytes.
    reader : RangeReader
        Reads the store and the files.

    Raises
    ------
    FormatError
        If the columns that name the files are missing or damaged.
    """

    def __init__(self, handle: StoreHandle, split: str) -> None:
        self._location = f"{handle.address}/{split}"
        names = [name for name in REFERENCE_COLUMNS if name.startswith("payload_")]
        types = {f"{split}/{name}": REFERENCE_COLUMNS[name].data_type for name in names}
        paths, nbytes, mtime, etag = handle.container.read_columns(types)
        if not len(paths) == len(nbytes) == len(mtime) == len(etag):
            raise FormatError(
                f"{self._location}: the columns of the files must have the same length, got "
                f"{[len(paths), len(nbytes), len(mtime), len(etag)]}"
            )
        if (nbytes < 0).any() or np.sum(nbytes, dtype=np.float64) >= 2.0**62:
            raise FormatError(f"{self._location}/payload_nbytes: must be sizes of files")
        packed = PackedNames(b"".join(path.encode() + b"\0" for path in paths.tolist()))
        if len(packed) != len(nbytes):
            raise FormatError(f"{self._location}/payload_files: a path cannot have a zero byte")
        references = References(handle.location, handle.options.allow_references)
        self.files = ReferencedFiles(references, packed, nbytes, mtime, etag)
        own = handle.container.manifest(f"{split}/{PAYLOAD}")
        self.payload = ReferencedPayload.of(own, self.files, nbytes)
        self.reader = reader_of(
            handle.reader,
            packed,
            max_gap=handle.options.max_gap,
            storage_options=handle.location.options,
        )
        self._sizes = np.append(nbytes, own.nbytes)  # the last is of file -1, the store

    def start_of(
        self, file: NDArray[np.integer[Any]], start: Ints, nbytes: Ints, positions: Ints
    ) -> Ints:
        """Return the offset of images in `payload`.

        Parameters
        ----------
        file, start, nbytes : ndarray of integers, shape (n,)
            The file that holds each image, -1 for the store, and its range of bytes there.
        positions : ndarray of int64, shape (n,)
            Of the images, for messages.

        Raises
        ------
        FormatError
            If one is outside of its file.
        """
        outside = (file < -1) | (file >= len(self.files))
        size = self._sizes[np.where(outside, -1, file)]
        outside |= (start < 0) | (nbytes < 0) | (start > size - nbytes)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise FormatError(
                f"{self._location}: image {positions[i]} is {nbytes[i]} bytes at {start[i]} of "
                f"file {file[i]}, which is outside of it"
            )
        return self.payload.start_of(file, start)
