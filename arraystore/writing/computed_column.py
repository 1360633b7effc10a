"""Values of blocks, computed in threads, processes or a cluster, and the column made of them."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_count, check_bools, check_choice
from arraystore._threads import n_cpus
from arraystore.containers import check_changeable
from arraystore.dataset.batch import BatchWithColumns
from arraystore.errors import StoreChangedError, brief, escaped
from arraystore.indexing.selection import as_size
from arraystore.parallel.executors import Workers, packed
from arraystore.reader import open_store
from arraystore.reading.store_handle import StoreHandle
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import COLUMN_DIGEST, SHARD_NBYTES, check_column_name
from arraystore.writing.add_column import ColumnReport, add_column, remove_column
from arraystore.writing.block_files import Kind, Plan, block_files, encoded, kind_of
from arraystore.writing.new_column import as_new_column
from arraystore.writing.progress import meter
from arraystore.writing.resuming import check_fingerprint, how_to_resume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.batch import Batch
    from arraystore.dataset.sample_set import SampleSet
    from arraystore.dataset.split import Split
    from arraystore.reader import Store
    from arraystore.writing.block_files import BlockFiles
    from arraystore.writing.journal import Fingerprint

    AnyBatch = Batch[Any]
    Function = Callable[[AnyBatch], Any]

IMAGES: Final = ("decoded", "encoded", "none")
"""What a function gets of the images; the first is the default."""

_MOST_ROWS: Final = 4096
"""Samples of a block; fewer if their images take more than a shard."""

_MOST_THREADS: Final = 8
"""Threads that compute blocks: each holds some decoded batches."""


def compute_column(
    split: Split,
    function: Function,
    name: str,
    *,
    images: str = "decoded",
    size: int | tuple[int, int] | None = None,
    columns: Sequence[str] = (),
    batch_size: int = 64,
    description: str = "",
    executor: Executor | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: bool | None = None,
) -> ColumnReport:
    """Compute a column and add it to the store; see `arraystore.map_blocks`."""
    check_bools(overwrite=overwrite, resume=resume, sync=sync)
    check_bools(progress=False if progress is None else progress)
    check_column_name(name)
    check_choice(images, "images", IMAGES)
    batch_size = as_count(batch_size, "batch_size", least=1)
    if size is not None and images != IMAGES[0]:
        raise ValueError(f"size is for decoded images, but images={images!r}")
    if isinstance(columns, str):
        raise TypeError(escaped(f"columns must be a list of names, got {brief(columns)}"))
    _check_pickles(function, executor)
    began = time.perf_counter()
    location = split._root.handle.location
    store = open_store(location)
    if not location.is_local:
        check_changeable(store.opened[1], store.address)
    split_name = _name_of(split, store)
    exists = any(name in stored.user_columns for stored, _ in store[split_name]._sample_set)
    files = block_files(location, f"{split_name}.{name}", sync=sync)
    work = BlockWork(
        os.urandom(16).hex(), split, function, name, images,
        None if size is None else as_size(size), tuple(columns), batch_size,
        _rows_per_block(split, batch_size), files, Plan.new({}),
    )  # fmt: skip
    plan = Plan.new(work.fingerprint)
    if exists and not overwrite:
        if not (resume and _is_same(files.plan(), plan)):
            raise FileExistsError(
                escaped(
                    f"{store.address}/{split_name}: has a column {name!r}; pass overwrite=True "
                    "(--overwrite) to replace it, or choose another name"
                )
            )
        return _completed(files, store, split_name, name, began)
    with files.locked():
        plan = _begin(work, plan, overwrite=overwrite, resume=resume)
        work = replace(work, plan=plan)
        try:
            kind, notes = _compute(work, executor, progress)
            if exists:
                remove_column(location, split_name, name, sync=sync)
            values = _Values(work, kind, lambda: _check_same(split))
            report = add_column(
                location, split_name, name, values, description=description, sync=sync
            )
        except BaseException as error:
            with suppress(OSError):  # the first error is the one to report
                if files.finished(plan, work.n_blocks):
                    kept = escaped(f"{files.location} keeps the finished blocks")
                    error.add_note(how_to_resume(kept, error))
                else:
                    files.remove()
            raise
        files.remove()
    return replace(report, notes=(*report.notes, *notes), seconds=time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class BlockWork:
    """Computes blocks, and writes them; a process that receives it several times keeps the first.

    Attributes
    ----------
    call : str
        Identifies the call of `map_blocks`.
    split, function, name, images, size, columns, batch_size
        See `map_blocks`.
    rows : int
        Samples of a block.
    files : BlockFiles
        Where blocks are written.
    plan : Plan
    """

    call: str
    split: Split
    function: Function
    name: str
    images: str
    size: tuple[int, int] | None
    columns: tuple[str, ...]
    batch_size: int
    rows: int
    files: BlockFiles
    plan: Plan

    def __reduce__(self) -> tuple[Callable[..., BlockWork], tuple[Any, ...]]:
        return _received, tuple(getattr(self, name) for name in self.__slots__)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-len(self.split) // self.rows)

    @property
    def fingerprint(self) -> Fingerprint:
        """What the values depend on."""
        stored = [stored for stored, _ in self.split._sample_set]
        digests = [
            f"{column.name} {one.user_columns[column.name].attributes.get(COLUMN_DIGEST, '')}"
            for column in map(self.split.columns.__getitem__, self.columns)
            for one in stored
        ]
        return {
            "split": {
                "samples": str(len(self.split)),
                **{one.name: ", ".join(one.identity) for one in stored},
            },
            "option": {
                "function": getattr(
                    self.function, "__qualname__", type(self.function).__qualname__
                ),
                "images": self.images,
                "size": str(self.size),
                "columns": ", ".join(digests),
                "batch_size": str(self.batch_size),
                "rows": str(self.rows),
            },
        }

    def samples(self, number: int) -> range:
        """Return the positions of a block in the split."""
        return range(number * self.rows, min((number + 1) * self.rows, len(self.split)))

    def __call__(self, number: int) -> Kind:
        """Compute a block and write it; return the kind of its values."""
        found: list[NDArray[Any]] = []
        first = self.samples(number).start
        for batch in self._batches(number):
            samples = range(first, first + len(batch.label))
            first = samples.stop
            try:
                found.append(self._values(self.function(batch), len(samples)))
                _check_kind(kind_of(found[-1]), kind_of(found[0]), self.name)
            except Exception as error:
                error.add_note(
                    escaped(
                        f"while computing {self.name} of the samples {samples.start} to "
                        f"{samples[-1]} of {self.split.name} ({batch.file_name[0]} to "
                        f"{batch.file_name[-1]})"
                    )
                )
                raise
        values = np.concatenate(found)
        self.files.write(self.plan.key(number), encoded(values))
        return kind_of(values)

    def _batches(self, number: int) -> Iterator[AnyBatch]:
        samples = self.samples(number)
        part = self.split.select(slice(samples.start, samples.stop))
        if self.images == IMAGES[0]:
            yield from part.batches(
                self.batch_size, shuffle=False, size=self.size, columns=self.columns
            )
            return
        reader = part._reader
        read = reader.encoded_batch if self.images == "encoded" else reader.batch_without_images
        for start in range(0, len(part), self.batch_size):
            indices = np.arange(start, min(start + self.batch_size, len(part)))
            batch: AnyBatch = read(indices)
            more = {name: part.columns[name].take(indices) for name in self.columns}
            yield BatchWithColumns.of(batch, more) if more else batch

    def _values(self, result: Any, n: int) -> NDArray[Any]:
        """Check what the function returned for `n` samples."""
        column = as_new_column(
            result if isinstance(result, list | tuple) else np.asarray(result), self.name, n
        )
        if "" not in column.arrays:
            raise ValueError(
                escaped(
                    f"the column {self.name} needs values of one shape; pad them, or compute them "
                    "in a loop and pass a list to arraystore.add_column"
                )
            )
        spec, values = column.arrays[""]
        dtype = Kind(spec.data_type, spec.shape[1:]).dtype
        return np.asarray(values).astype(dtype, copy=False)


_kept: Final[dict[str, BlockWork]] = {}
"""The work that this process received last, with its function and open store."""


def _received(call: str, *rest: Any) -> BlockWork:
    kept = _kept.get(call)
    if kept is None:
        kept = BlockWork(call, *rest)
        _kept.clear()
        _kept[call] = kept
    return kept


class _Values:
    """The values of all finished blocks, one after another; read when they are sliced.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, work: BlockWork, kind: Kind, check: Callable[[], None]) -> None:
        self.shape = len(work.split), *kind.shape
        self.dtype = kind.dtype
        self._work, self._kind, self._check = work, kind, check
        self._number = -1
        self._block: NDArray[Any] = np.empty(0)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> NDArray[Any]:
        start, stop, _ = some.indices(len(self))
        rows = self._work.rows
        found = [np.empty((0, *self.shape[1:]), self.dtype)]
        while start < stop:
            number, first = divmod(start, rows)
            block = self._read(number)[first : first + stop - start]
            found.append(block)
            start += len(block)
        return np.concatenate(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _read(self, number: int) -> NDArray[Any]:
        if self._number < 0:  # the store is locked now
            self._check()
        if number != self._number:
            self._block = self._work.files.block(self._work.plan.key(number))
            _check_kind(kind_of(self._block), self._kind, self._work.name)
            self._number = number
        return self._block


def _check_pickles(function: Any, executor: Executor | None) -> None:
    """Raise if a function cannot be sent to the processes of the standard library's executor.

    Other executors use cloudpickle, or raise errors of their own.
    """
    if not callable(function):
        raise TypeError(escaped(f"map_blocks needs a function of a batch, got {brief(function)}"))
    if executor is None:
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.reduction import ForkingPickler

    if not isinstance(executor, ProcessPoolExecutor):
        return
    try:
        ForkingPickler.dumps(function)
    except Exception as error:
        raise TypeError(
            escaped(
                f"the function cannot be sent to processes: {error}; define it in a module, not in "
                "another function or as a lambda; or use threads (no executor), or Dask or loky, "
                "which send it with cloudpickle"
            )
        ) from error


def _name_of(split: Split, store: Store) -> str:
    """Return the name of a split of a store; raise `ValueError` if it has other samples."""
    samples = split._sample_set
    name = next(iter(samples)).stored.name
    if name not in store or not _has_same_samples(samples, store[name]._sample_set):
        raise ValueError(
            escaped(
                f"a column is computed of a whole split of a store, got {split.name}; use "
                f"arraystore.open({store.address!r})[{brief(name)}]"
            )
        )
    if not len(split):
        raise ValueError(escaped(f"{split.name}: has no samples"))
    return name


def _has_same_samples(one: SampleSet, other: SampleSet) -> bool:
    members, others = list(one), list(other)
    return (
        one.order is None
        and len(members) == len(others)
        and all(
            a.stored.location == b.stored.location and _are_equal(a.positions, b.positions)
            for a, b in zip(members, others, strict=True)
        )
    )


def _are_equal(one: range | Ints, other: range | Ints) -> bool:
    if isinstance(one, range) and isinstance(other, range):
        return one == other
    return np.array_equal(one, other)


def _check_same(split: Split) -> None:
    """Raise `StoreChangedError` if the store no longer has the samples of a split."""
    handle = split._root.handle
    for stored, _ in split._sample_set:
        fresh = StoreHandle(handle.location, handle.options)
        _ = StoredSplit(fresh, stored.name, stored.identity).info
    store = open_store(handle.location)
    try:
        _name_of(split, store)
    except ValueError:
        raise StoreChangedError(
            f"{store.address}: samples were appended or replaced while the column was computed; "
            "pass overwrite=True (--overwrite) to compute it again"
        ) from None


def _check_kind(found: Kind, expected: Kind, name: str) -> None:
    if found != expected:
        raise ValueError(
            f"the column {name} needs values of one data type and shape, but the function returned "
            f"{brief(str(expected))} and {brief(str(found))} for a sample"
        )


def _rows_per_block(split: Split, batch_size: int) -> int:
    """Return the samples of a block: whole batches, whose images take about a shard."""
    infos = [stored.info for stored, _ in split._sample_set]
    mean = sum(info.num_bytes for info in infos) / max(1, sum(info.num_samples for info in infos))
    rows = min(_MOST_ROWS, int(SHARD_NBYTES / max(mean, 1)))
    return max(1, rows // batch_size) * batch_size


def _is_same(found: Plan | None, plan: Plan) -> bool:
    return found is not None and found.fingerprint == plan.fingerprint


def _completed(
    files: BlockFiles, store: Store, split: str, name: str, began: float
) -> ColumnReport:
    """Delete the blocks of a call that was killed after it had added the column."""
    with files.locked():
        files.remove()
    return ColumnReport(
        store=store.address,
        split=split,
        name=name,
        values=store[split].columns[name].summary,
        notes=("the column had been added already; the blocks left over were deleted",),
        seconds=time.perf_counter() - began,
    )


def _begin(work: BlockWork, plan: Plan, *, overwrite: bool, resume: bool) -> Plan:
    """Return the plan to continue, or record a new one."""
    files = work.files
    found = None if overwrite and not resume else files.plan()
    if found is not None and files.is_exclusive and not files.finished(found, work.n_blocks):
        found = None  # the earlier call was killed early
    if found is not None and not resume:
        raise FileExistsError(
            escaped(
                f"{files.location}: has finished blocks of a call that was stopped, or another "
                "process computes the column; pass resume=True (--resume) to continue, or "
                "overwrite=True (--overwrite) to start again"
            )
        )
    if found is not None:
        check_fingerprint(files.location, found.fingerprint, plan.fingerprint)
        return found
    files.start(plan)
    return plan


def _compute(
    work: BlockWork, executor: Executor | None, progress: bool | None
) -> tuple[Kind, list[str]]:
    """Compute all blocks that are not finished; return the kind of the values, and notes."""
    finished = work.files.finished(work.plan, work.n_blocks)
    kinds = [kind_of(work.files.block(work.plan.key(number))) for number in sorted(finished)[:1]]
    n_done = sum(len(work.samples(number)) for number in finished)
    n_threads = min(n_cpus(), _MOST_THREADS)
    work.split._reader.import_libraries()
    tasks = ((number, number) for number in range(work.n_blocks) if number not in finished)
    with (
        meter(progress) as shown,
        Workers(executor, n_threads=n_threads, max_in_flight=n_threads) as workers,
        closing(workers.run(packed(work, executor), tasks)) as results,
    ):
        shown.start(f"computing {work.name}", len(work.split), done=(n_done, 0))
        for number, found in results:
            kinds.append(found)
            _check_kind(found, kinds[0], work.name)
            shown.advance(len(work.samples(number)))
    return kinds[0], workers.notes
