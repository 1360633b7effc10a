"""Checks of the columns of one split: each exists, and they agree with each other."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import brief
from arraystore.indexing.layout import content_digest, image_starts, label_index, sample_order
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    ORDERS,
    PAYLOAD,
    REFERENCE_COLUMNS,
    UNCHECKED,
    UNLABELLED,
    SplitInfo,
    file_name_fault,
)
from arraystore.verifying.problems import MAX_KEPT, Findings, Problem
from arraystore.verifying.read_errors import READ_ERRORS, is_access_error, record_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerReader

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SEEDS: Final = range(2**64)


@dataclass(frozen=True, slots=True)
class Columns:
    """The readable columns of a split, and the byte ranges of its images.

    Attributes
    ----------
    values : dict of str to ndarray
        Columns that could be read and have the right length.
    start, nbytes : ndarray of int64, shape (n,)
        Byte range of each image in the payload, or in its file if it is in another; empty if no
        column gives them.
    """

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    start: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    nbytes: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def name(self, position: int) -> str:
        """Return the file name of a sample; empty if it is unknown."""
        names = self.values.get("file_name")
        return "" if names is None else str(names[position])


class ColumnsCheck:
    """Checks the columns of one split.

    Parameters
    ----------
    container : ContainerReader
        Reads the columns.
    split : str
        Name of the split.
    info : SplitInfo
        Attributes of the split.
    n_classes : int or None
        Number of classes, if it is known.
    findings : Findings
        Receives the problems.
    is_remote : bool
        See `arraystore.verifying.read_errors.record_errors`.
    """

    def __init__(
        self,
        container: ContainerReader,
        split: str,
        info: SplitInfo,
        n_classes: int | None,
        findings: Findings,
        *,
        is_remote: bool,
    ) -> None:
        self._container = container
        self._split = split
        self._info = info
        self._n_classes = n_classes
        self._findings = findings
        self._is_remote = is_remote
        self._columns = {**COLUMNS, **(REFERENCE_COLUMNS if info.is_referenced else {})}

    def run(self) -> Columns:
        """Check all columns; return those that could be read."""
        for name in (PAYLOAD, *self._columns):
            self._check_array(name)
        if not self._info.is_referenced:
            self._check_sample_dimension()
        values = self._read()
        self._check_names(values)
        self._check_labels(values)
        self._check_content(values)
        if not self._info.has_checksums:
            values.pop("image_crc32c", None)
        start, nbytes = self._byte_ranges(values)
        return Columns(values, start, nbytes)

    def _check_sample_dimension(self) -> None:
        with record_errors(self._findings, self._split, is_remote=self._is_remote):
            found = self._container.attributes(f"{self._split}/image_nbytes")
            if found.get("sample_dimension") != "byte":
                self._add("attribute 'sample_dimension' must be 'byte'", "image_nbytes")

    def _add(self, message: str, name: str = "", position: int | None = None) -> None:
        key = f"{self._split}/{name}" if name else ""
        self._findings.add(Problem(message, self._split, position, key=key))

    def _add_each(self, message: str, name: str, positions: Iterable[int]) -> None:
        for position in positions:
            self._add(message, name, position)

    def _check_array(self, name: str) -> None:
        """Compare type, dimension and fill value with the specification."""
        expected = self._columns.get(name)
        data_type, dimension = ("uint8", "byte") if expected is None else expected[:2]
        with record_errors(self._findings, self._split, is_remote=self._is_remote):
            found = self._container.describe_array(f"{self._split}/{name}")
            if found.data_type != data_type:
                self._add(f"must hold {data_type}, got {found.data_type}", name)
            if found.dimension != dimension:
                self._add(f"its dimension must be {dimension!r}, got {found.dimension!r}", name)
            if name == "label" and found.fill != UNLABELLED:
                self._add(f"its fill value must be {UNLABELLED}, got {found.fill!r}", name)

    def _read(self) -> dict[str, NDArray[Any]]:
        """Read all columns at once; if one is damaged, read each on its own."""
        paths = {
            f"{self._split}/{name}": column.data_type for name, column in self._columns.items()
        }
        try:
            found = dict(zip(self._columns, self._container.read_columns(paths), strict=True))
        except READ_ERRORS as error:
            if is_access_error(error, is_remote=self._is_remote):
                raise
            found = {
                name: read for name in self._columns if (read := self._read_one(name)) is not None
            }
        n, n_classes = self._info.num_samples, self._n_classes
        columns = self._columns
        lengths = dict.fromkeys((c for c in columns if columns[c].dimension == "sample"), n)
        if n_classes is not None:
            lengths["label_indptr"] = n_classes + 1
        for name, length in lengths.items():
            if name in found and len(found[name]) != length:
                self._add(f"must have {length} values, got {len(found.pop(name))}", name)
        return found

    def _read_one(self, name: str) -> NDArray[Any] | None:
        """Read a column; if that fails, report each damaged chunk."""
        path, data_type = f"{self._split}/{name}", self._columns[name].data_type
        try:
            return self._container.read_column(path, data_type)
        except READ_ERRORS as error:
            if is_access_error(error, is_remote=self._is_remote):
                raise
            whole_error = error
        for message in self._chunk_errors(path, data_type) or [str(whole_error)]:
            self._findings.add(Problem(message, self._split))
        return None

    def _chunk_errors(self, path: str, data_type: str) -> list[str]:
        """Return the error of each chunk that cannot be read; none if all fail for one reason."""
        messages: list[str] = []
        try:
            self._container.describe_array(path)
            self._container.read_column(path, data_type, (0, 0))
        except READ_ERRORS:
            return messages  # the array itself is wrong, not a chunk
        for start in range(0, self._info.num_samples, COLUMN_CHUNK_ROWS):
            rows = start, start + COLUMN_CHUNK_ROWS
            try:
                n_rows = len(self._container.read_column(path, data_type, rows))
            except READ_ERRORS as error:
                if is_access_error(error, is_remote=self._is_remote):
                    raise
                messages.append(f"{error} (rows {rows[0]} to {rows[1]})")
                if len(messages) >= MAX_KEPT:
                    break
            else:
                if n_rows < COLUMN_CHUNK_ROWS:  # num_samples may be damaged, and huge
                    break
        return messages

    def _check_names(self, values: dict[str, NDArray[Any]]) -> None:
        if "file_name" not in values:
            return
        names = values["file_name"]
        for i, name in enumerate(names):
            if fault := file_name_fault(name):
                self._add(fault, "file_name", i)
        order = np.argsort(names, kind="stable")
        is_same = names[order][1:] == names[order][:-1]
        for i in np.flatnonzero(is_same).tolist():
            one, other = order[i], int(order[i + 1])
            message = f"{names[other]!r} must be unique, but position {one} has it as well"
            self._add(message, "file_name", other)

    def _check_labels(self, values: dict[str, NDArray[Any]]) -> None:
        """Compare the labels with the number of classes, and the index with the labels."""
        if "label" not in values:
            return
        label, n_classes = values["label"], self._n_classes
        if n_classes is None and "label_indptr" not in values:
            return
        if n_classes is None:
            n_classes = max(len(values["label_indptr"]) - 1, 0)
        outside = np.flatnonzero((label < UNLABELLED) | (label >= n_classes))
        for i in outside.tolist():
            self._add(f"must be -1 or in range({n_classes}), got {label[i]}", "label", i)
        if len(outside):
            return
        expected = dict(
            zip(("label_order", "label_indptr"), label_index(label, n_classes), strict=True)
        )
        for name, right in expected.items():
            if name not in values:
                continue
            if len(values[name]) != len(right):
                self._add(f"must have {len(right)} values, got {len(values[name])}", name)
                continue
            wrong = np.flatnonzero(values[name] != right)
            if len(wrong):
                k = int(wrong[0])
                self._add(
                    f"must be the index of the labels, but {len(wrong)} of {len(right)} values "
                    f"differ: for example, value {k} is {values[name][k]}, expected {right[k]}",
                    name,
                )

    def _check_content(self, values: dict[str, NDArray[Any]]) -> None:
        """Compare the order of the samples and the content digest with recomputed ones."""
        info = self._info
        if info.order not in ORDERS:
            self._add(f"attribute 'order' must be one of {', '.join(ORDERS)}, got {info.order!r}")
        elif info.seed not in _SEEDS:
            self._add(f"attribute 'seed' must be in range(2**64), got {brief(info.seed)}")
        elif info.seed and info.order != ORDERS[0]:
            self._add(f"attribute 'seed' must be 0 in the order {info.order!r}, got {info.seed}")
        elif {"file_name", "label"} <= values.keys():
            names, label = values["file_name"].tolist(), values["label"]
            moved = np.diff(sample_order(info.order, info.seed, names, label)) != 1
            if moved.any():
                self._add(
                    f"the samples must be in the order {info.order!r} of seed {info.seed}; "
                    f"{np.count_nonzero(moved)} are out of order"
                )
        prefix = UNCHECKED if info.is_referenced else ""
        if not _DIGEST.fullmatch(info.content_digest.removeprefix(prefix)):
            found = brief(info.content_digest)
            self._add(f"attribute 'content_digest' must have 64 hexadecimal digits, got {found}")
        elif {"file_name", "label", "image_nbytes", "image_crc32c"} <= values.keys():
            columns = (values[name] for name in ("label", "image_nbytes", "image_crc32c"))
            found = content_digest(values["file_name"].tolist(), *columns)
            if found != info.content_digest.removeprefix(prefix):
                self._add(
                    f"attribute 'content_digest' is {info.content_digest}, but the columns give "
                    f"{found}"
                )

    def _byte_ranges(self, values: dict[str, NDArray[Any]]) -> tuple[Ints, Ints]:
        """Return starts and sizes of the images, from both columns or from the plausible one."""
        start, nbytes = values.get("image_start"), values.get("image_nbytes")
        total, n = self._info.num_bytes, self._info.num_samples
        if self._info.is_referenced:
            if start is None or nbytes is None:
                self._add("no image was checked, because a column of their places is damaged")
                return np.empty(0, np.int64), np.empty(0, np.int64)
            return start, nbytes
        if start is not None and nbytes is not None:
            self._check_byte_ranges(start, nbytes)
        if nbytes is not None:
            # In floating point, because damaged values may overflow.
            if not (nbytes < 0).any() and np.sum(nbytes, dtype=np.float64) == total:
                return image_starts(nbytes), nbytes
            self._add(f"must be sizes that add up to {total} bytes", "image_nbytes")
        if start is not None and n and start[0] == 0:
            ends = np.append(start[1:], total)
            if not (ends < start).any():
                return start, ends - start
        if n:
            self._add("no image was checked, because no column gives the byte ranges")
        return np.empty(0, np.int64), np.empty(0, np.int64)

    def _check_byte_ranges(self, start: Ints, nbytes: Ints) -> None:
        """Report images outside the payload, or not directly behind the image before them."""
        total = self._info.num_bytes
        outside = (start < 0) | (nbytes < 0) | (start > total - nbytes)
        for i in np.flatnonzero(outside).tolist():
            self._add(
                f"{nbytes[i]} bytes at {start[i]} are outside the payload of {total} bytes",
                "image_start",
                i,
            )
        ends = np.zeros_like(start)
        ends[1:] = (start + nbytes)[:-1]
        for i in np.flatnonzero((start != ends) & ~outside).tolist():
            self._add(
                f"must begin at {ends[i]}, where the image before it ends, got {start[i]}",
                "image_start",
                i,
            )
