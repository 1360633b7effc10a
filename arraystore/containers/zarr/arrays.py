"""Arrays of any number of dimensions in a Zarr store, read along the first."""

from __future__ import annotations

import math
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore._threads import in_threads
from arraystore.containers.protocol import ArrayReader, as_string_array
from arraystore.containers.zarr.column_codec import check_chunk, decode_chunk, import_codecs
from arraystore.errors import FormatError, StorageError
from arraystore.schema import STRING
from arraystore.storage.server_responses import unexpected_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore.containers.zarr.metadata import NDArrayMetadata

_TOGETHER: Final = 16
"""Chunks that are decoded in several threads at a time."""


class _Array(ArrayReader):
    def __init__(self, array: NDArrayMetadata, location: str) -> None:
        self.data_type = array.data_type
        is_text = array.data_type == STRING
        self.dtype = np.dtypes.StringDType() if is_text else np.dtype(array.data_type)
        self.shape = array.shape
        self.chunk_rows = array.chunk_shape[0]
        self._location = location


class PlainArray(_Array):
    """An array whose chunks hold whole rows and are stored as those of a column.

    Parameters
    ----------
    array : NDArrayMetadata
    location : str
        Address of the array, for messages.
    key : str
        Prefix of the keys of its chunks.
    read : callable
        Yields the bytes of whole objects, given their keys.
    """

    def __init__(
        self,
        array: NDArrayMetadata,
        location: str,
        key: str,
        read: Callable[[Sequence[str]], Iterator[bytes | memoryview]],
    ) -> None:
        super().__init__(array, location)
        self._key, self._read = key, read
        self._chunk_shape = self.chunk_rows, *self.shape[1:]

    @override
    def chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        zeros = "/0" * (len(self.shape) - 1)
        keys = [f"{self._key}/c/{number}{zeros}" for number in numbers]
        if len(keys) > 1:
            import_codecs()
        left, encoded = iter(zip(numbers, keys, strict=True)), self._read(keys)
        while some := [(*one, next(encoded)) for one in islice(left, _TOGETHER)]:
            yield from in_threads(partial(self._value, some), len(some))

    def _value(self, some: list[tuple[int, str, bytes | memoryview]], i: int) -> NDArray[Any]:
        return self._values(*some[i])

    def _values(self, number: int, key: str, data: bytes | memoryview) -> NDArray[Any]:
        values = self._decoded(memoryview(data), key)
        values = values[: max(0, self.shape[0] - number * self.chunk_rows)]
        if self.data_type != STRING:
            return values
        # The padding of the last chunk is not converted to text.
        return as_string_array(values.ravel()).reshape(values.shape)

    def _decoded(self, chunk: memoryview, key: str) -> NDArray[Any]:
        location = f"{self._location}{key.removeprefix(self._key)}"
        try:
            frame = check_chunk(chunk)
            values = decode_chunk(frame, self.data_type, math.prod(self._chunk_shape))
        except (RuntimeError, ValueError, TypeError) as error:
            if what := unexpected_response(bytes(chunk[:1024])):
                message = f"{location}: must be a chunk, but the server sent {what}"
                raise StorageError(message) from None
            raise FormatError(f"{location}: cannot be decoded: {error}") from None
        return values.reshape(self._chunk_shape)


class ForeignArray(_Array):
    """An array that another program stored in its own way, read through zarr-python.

    Parameters
    ----------
    array : NDArrayMetadata
    location : str
        Address of the array, for messages.
    find : callable
        Returns the array of zarr-python.
    """

    def __init__(self, array: NDArrayMetadata, location: str, find: Callable[[], Any]) -> None:
        super().__init__(array, location)
        self._find = find

    @override
    def chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        found = self._find()
        for number in numbers:
            start = number * self.chunk_rows
            try:
                values = found[start : start + self.chunk_rows]
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                message = f"{self._location}: zarr-python cannot read it: {error}"
                raise FormatError(message) from error
            yield np.asarray(values, self.dtype)
