"""Columns of one stored split, read whole or by chunk."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import ChecksumError, FormatError
from arraystore.indexing.layout import content_digest
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    REFERENCE_COLUMNS,
    STRING,
    UNCHECKED,
    UNLABELLED,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.schema import SplitInfo

    Chunk = tuple[str, int]

_CHUNKS_IN_RUN: Final = 8
"""Chunks that are read in one round trip where all of a large column is needed, but not kept."""

WHOLE_SAMPLES: Final = 2**22
"""Columns of larger splits are read by chunk where only some of their rows are needed."""

_DIGESTED: Final = ("file_name", "label", "image_nbytes", "image_crc32c")
"""Columns that the content digest covers, in the order in which it takes them."""

_NEEDED_BY: Final = {"label": "label_indptr"}
"""Columns without which another cannot be checked."""

_COLUMNS: Final = {**COLUMNS, **REFERENCE_COLUMNS}

_ALL_ROWS: Final = (0, 2**62)


class ColumnReader:
    """Read the columns of one stored split.

    Whole columns are kept for as long as the reader, chunks in the cache of the store. With the
    option ``checksum="always"``, the columns that the content digest covers are loaded and
    compared with it as soon as one of them is used.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    split : str
        Name of the split.
    info : SplitInfo
        Its attributes.
    """

    def __init__(self, handle: StoreHandle, split: str, info: SplitInfo) -> None:
        self.location = f"{handle.address}/{split}"
        self._handle = handle
        self._split = split
        self._info = info
        self._whole: dict[str, NDArray[Any]] = {}
        self._touched: dict[str, set[int]] = {}
        self._is_undigested = handle.options.checksum == "always"

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._info.num_samples

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a whole column, read-only.

        Raises
        ------
        FormatError
            If the column is missing or damaged, or has a value that is out of range.
        ChecksumError
            If the content digest is compared and differs.
        """
        if name not in self._whole or (self._is_undigested and name in _DIGESTED):
            self.load((name,))
        return self._whole[name]

    def has_loaded(self, names: Iterable[str]) -> bool:
        """Whether all of some columns have been loaded whole."""
        return self._whole.keys() >= set(names)

    @property
    def loads_at_once(self) -> bool:
        """Whether a column is loaded whole although only some rows of it are needed.

        This is so where the column is a single chunk, and where chunk after chunk would be round
        trip after round trip.
        """
        n = len(self)
        return n <= COLUMN_CHUNK_ROWS or (n <= WHOLE_SAMPLES and self._handle.reader.is_remote)

    def load(self, names: Iterable[str]) -> None:
        """Load whole columns, in one round trip if the store is remote.

        Raises
        ------
        FormatError, ChecksumError
            See `__getitem__`.
        """
        names = tuple(names)
        is_to_digest = self._is_undigested and not set(_DIGESTED).isdisjoint(names)
        if is_to_digest:
            names = (*_DIGESTED, *names)
        needed = dict.fromkeys((*(_NEEDED_BY[n] for n in names if n in _NEEDED_BY), *names))
        missing = [name for name in needed if name not in self._whole]
        if missing:
            self._load(missing)
        if is_to_digest:
            self._check_digest()
            self._is_undigested = False

    def take(self, names: Sequence[str], positions: Ints) -> list[NDArray[Any]]:
        """Return the values of columns at some positions.

        Of a column that is not loaded, only the chunks that hold these rows are read, all in one
        round trip if the store is remote. In a split of at most `WHOLE_SAMPLES` samples the column
        is loaded as soon as half of its chunks have been used, and at once where `loads_at_once`.

        Parameters
        ----------
        names : sequence of str
            Columns with one value per sample.
        positions : ndarray of int64, shape (n,)
            In any order.

        Returns
        -------
        list of ndarray, shape (n,)
            The values of each column, in the order of `positions`.

        Raises
        ------
        FormatError, ChecksumError
            See `__getitem__`. Damage in chunks that are not read is not detected.
        """
        if self._is_undigested and not set(_DIGESTED).isdisjoint(names):
            self.load(names)
        missing = [name for name in names if name not in self._whole]
        if missing and self._is_worth_loading(missing, positions):
            self.load(missing)
            missing = []
        found = self._by_chunk(missing, positions) if missing else {}
        return [found[name] if name in found else self._whole[name][positions] for name in names]

    def rows(self, name: str, spans: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
        """Return runs of consecutive rows of a column; only the chunks that hold them are read.

        Parameters
        ----------
        name : str
            The column.
        spans : sequence of (int, int)
            The rows ``[start, stop)``, cut off at the end of the column.
        """
        whole = self._whole.get(name)
        if whole is not None:
            return [whole[start:stop] for start, stop in spans]
        numbers = sorted(set(chain.from_iterable(_chunks_of(*span) for span in spans)))
        chunks = self._read_chunks([(name, number) for number in numbers])
        chunk_of = dict(zip(numbers, chunks, strict=True))

        def run(start: int, stop: int) -> NDArray[Any]:
            parts = [chunk_of[number] for number in _chunks_of(start, stop)]
            if not parts:
                return np.empty(0, dtype=_dtype(name))
            shift = start // COLUMN_CHUNK_ROWS * COLUMN_CHUNK_ROWS
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
            rows: NDArray[Any] = joined[start - shift : stop - shift]
            return rows

        return [run(*span) for span in spans]

    def runs(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield all rows of a column with one value per sample, in runs of consecutive rows.

        In a split of at most `WHOLE_SAMPLES` samples the column is loaded. Otherwise a few chunks
        are read at a time, and not kept.
        """
        if len(self) <= WHOLE_SAMPLES:
            yield self[name]
            return
        step = COLUMN_CHUNK_ROWS
        for start in range(0, len(self), _CHUNKS_IN_RUN * step):
            stop = min(start + _CHUNKS_IN_RUN * step, len(self))
            spans = [(first, min(first + step, stop)) for first in range(start, stop, step)]
            yield from self.rows(name, spans)

    def check_positions(
        self, path: str, positions: Ints, length: int, *, ascending: bool = False
    ) -> None:
        """Check stored positions.

        Parameters
        ----------
        path : str
            Path of their column, relative to the split, for messages.
        positions : ndarray of int64, shape (n,)
        length : int
            How many there must be.
        ascending : bool, default False
            Whether each must be greater than the one before.

        Raises
        ------
        FormatError
            If values are missing, out of range, or not in order.
        """
        n = len(positions)
        if n != length:
            raise FormatError(f"{self.location}/{path}: {length - n} values are missing")
        if not n:
            return
        if ascending:
            is_wrong = positions[0] < 0 or positions[-1] >= len(self)
            is_wrong = is_wrong or bool(np.any(positions[1:] <= positions[:-1]))
        else:
            is_wrong = positions.min() < 0 or positions.max() >= len(self)
        if is_wrong:
            kind = "ascending positions" if ascending else "positions"
            raise FormatError(f"{self.location}/{path}: must hold {kind} in range({len(self)})")

    def _is_worth_loading(self, names: Sequence[str], positions: Ints) -> bool:
        """Whether to load whole columns, after recording which of their chunks are used."""
        if len(self) > WHOLE_SAMPLES:
            return False
        if self.loads_at_once:
            return True
        numbers = set((positions // COLUMN_CHUNK_ROWS).tolist())
        touched = [self._touched.setdefault(name, set()) for name in names]
        for seen in touched:
            seen |= numbers
        return any(2 * len(seen) * COLUMN_CHUNK_ROWS >= len(self) for seen in touched)

    def _load(self, names: Sequence[str]) -> None:
        types = {self._path(name): _COLUMNS[name].data_type for name in names}
        columns = self._handle.container.read_columns(types)
        for name, values in zip(names, columns, strict=True):
            self._keep(name, values)

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        """Check a whole column, and keep it."""
        if _COLUMNS[name].dimension == "sample" and len(values) != len(self):
            raise FormatError(
                f"{self.location}/{name}: must have {len(self)} values, one a sample, "
                f"got {len(values)}"
            )
        if name == "label":
            self._check_labels(values, np.arange(len(values)))
        values.flags.writeable = False
        self._whole[name] = values

    def _by_chunk(self, names: Sequence[str], positions: Ints) -> dict[str, NDArray[Any]]:
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        numbers, first = np.unique(ascending // COLUMN_CHUNK_ROWS, return_index=True)
        places = np.split(order, first[1:])[: len(numbers)]
        found = {name: np.empty(len(positions), dtype=_dtype(name)) for name in names}
        needed = [_NEEDED_BY[name] for name in names if name in _NEEDED_BY]
        wanted = [(name, number) for name in names for number in numbers.tolist()]
        chunks = self._read_chunks(wanted, [name for name in needed if name not in self._whole])
        for (name, number), chunk, here in zip(wanted, chunks, places * len(names), strict=True):
            found[name][here] = chunk[positions[here] - number * COLUMN_CHUNK_ROWS]
        if "label" in found:
            self._check_labels(found["label"], positions)
        return found

    def _read_chunks(
        self, wanted: Sequence[Chunk], whole: Sequence[str] = ()
    ) -> Iterator[NDArray[Any]]:
        """Yield chunks of columns, those that are not cached read together with whole columns."""
        cache = self._handle.chunks
        cached = {chunk: cache.get((self._split, *chunk)) for chunk in wanted}
        missing = [chunk for chunk in wanted if cached[chunk] is None]
        rows = [(n, (i * COLUMN_CHUNK_ROWS, (i + 1) * COLUMN_CHUNK_ROWS)) for n, i in missing]
        requests = [
            (self._path(name), _COLUMNS[name].data_type, span)
            for name, span in (*((name, _ALL_ROWS) for name in whole), *rows)
        ]
        read = self._handle.container.read_rows(requests) if requests else iter(())
        for name in whole:
            self._keep(name, next(read))
        for name, number in wanted:
            values = cached[name, number]
            if values is None:
                values = next(read)
                self._check_length(name, number, values)
                values.flags.writeable = False
                cache.put((self._split, name, number), values)
            yield values

    def _path(self, name: str) -> str:
        return f"{self._split}/{name}"

    def _check_length(self, name: str, number: int, values: NDArray[Any]) -> None:
        start = number * COLUMN_CHUNK_ROWS
        expected = min(COLUMN_CHUNK_ROWS, len(self) - start)
        if _COLUMNS[name].dimension == "sample" and len(values) != expected:
            raise FormatError(
                f"{self.location}/{name}: must have {len(self)} values, one a sample; chunk "
                f"{number} must have {expected}, got {len(values)}"
            )

    def _check_labels(self, label: Ints, positions: Ints) -> None:
        n_classes = len(self._whole["label_indptr"]) - 1
        outside = np.flatnonzero((label < UNLABELLED) | (label >= n_classes))
        if len(outside):
            i = int(outside[0])
            raise FormatError(
                f"{self.location}/label: must be -1 or in range({n_classes}), got {label[i]} at "
                f"{positions[i]}"
            )

    def _check_digest(self) -> None:
        names, *numbers = (self._whole[name] for name in _DIGESTED)
        found = content_digest(names.tolist(), *numbers)
        if found != self._info.content_digest.removeprefix(UNCHECKED):
            raise ChecksumError(
                f"{self.location}: names, labels, sizes and checksums have the content digest "
                f"{found}, must be {self._info.content_digest}; one of these columns is damaged"
            )


def _chunks_of(start: int, stop: int) -> range:
    """Return the numbers of the chunks that hold the rows ``[start, stop)``."""
    if start >= stop:
        return range(0)
    return range(start // COLUMN_CHUNK_ROWS, -(-stop // COLUMN_CHUNK_ROWS))


def _dtype(name: str) -> np.dtype[Any]:
    data_type = _COLUMNS[name].data_type
    return np.dtypes.StringDType() if data_type == STRING else np.dtype(data_type)
