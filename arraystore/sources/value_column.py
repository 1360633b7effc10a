"""Values of further columns that arrive with the samples of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore.errors import SourceError, brief
from arraystore.sources.column_file import parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ValueColumn:
    """One value per sample, as they arrive: single ones, or arrays of many.

    Parameters
    ----------
    name : str
        Name of the column.
    is_text : bool, default False
        Whether all values arrive as text, which is parsed if it is of numbers.
    """

    def __init__(self, name: str, *, is_text: bool = False) -> None:
        self._name, self._is_text = name, is_text
        self._pieces: list[NDArray[Any] | list[Any]] = []
        self._n = 0

    def append(self, value: Any) -> None:
        """Add the value of the next sample; None if the sample is left out later."""
        if not self._pieces or not isinstance(self._pieces[-1], list):
            self._pieces.append([])
        self._pieces[-1].append(value)  # type: ignore[union-attr] # it is a list
        self._n += 1

    def extend(self, values: NDArray[Any] | list[Any]) -> None:
        """Add the values of the next samples."""
        self._pieces.append(values)
        self._n += len(values)

    def finished(self, n: int, where: str) -> NDArray[Any] | list[Any]:
        """Return all values: an array, or a list of arrays of different lengths.

        Raises
        ------
        SourceError
            If they are not one per sample, or of several kinds.
        """
        if self._n != n:
            raise SourceError(f"{where}: {self._name} must have {n} values, got {self._n}")
        arrays = [piece for piece in self._pieces if not isinstance(piece, list)]
        if len(arrays) == len(self._pieces) and len({a.shape[1:] for a in arrays}) == 1:
            return np.concatenate(arrays)
        values = [value for piece in self._pieces for value in piece]
        if self._is_text:
            return parsed(["" if value is None else value for value in values])
        known = next((value for value in values if value is not None), 0)
        if isinstance(known, str):
            texts = ["" if value is None else value for value in values]
            if not all(isinstance(text, str) for text in texts):
                raise SourceError(f"{where}: {self._name} mixes text with other values")
            return np.array(texts, dtype=np.dtypes.StringDType())
        found = [np.asarray(known) * 0 if value is None else np.asarray(value) for value in values]
        for i, value in enumerate(found):
            if value.dtype.kind not in "biufcU":
                raise SourceError(
                    f"{where}: {self._name} needs numbers, bools or text, got {brief(values[i])}"
                )
        if len({value.shape for value in found}) > 1:
            return found
        array = np.stack(found)
        return array.astype(np.dtypes.StringDType()) if array.dtype.kind == "U" else array
