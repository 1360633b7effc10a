"""Batches of one epoch, read and decoded ahead."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np

from arraystore._arguments import as_count
from arraystore.dataset.batch import Batch, BatchWithColumns, Encoded
from arraystore.dataset.batch_buffers import received
from arraystore.errors import brief, escaped
from arraystore.images.resize import import_resizer
from arraystore.indexing.sampling import Groups, balanced, block_buffers, permutation, share
from arraystore.reading.read_ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from arraystore._typing import Ints, Pixels
    from arraystore.dataset.columns import Column
    from arraystore.dataset.sample_reader import SampleReader
    from arraystore.images.crops import Framing

    AnyBatch = Batch[Any]


T = TypeVar("T")
Done = TypeVar("Done")

SHUFFLES: Final = ("full", "block")
"""Kinds of shuffle; the first is the default."""

_DRAWN: Final = ("size", "crop", "flip", "scale", "ratio", "views", "resize")
"""Attributes of `Framing` that the pixels depend on, besides seed and epoch."""

N_LOADERS: Final = 2
"""Batches that are loaded at the same time: while one is decoded, the next is read."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Order of the samples of one epoch, in one of several processes.

    Attributes
    ----------
    shuffle : {"full", "block"} or None
        See `Split.batches`.
    seed, epoch : int
    groups : Groups or None
        Positions by label, if labels are balanced.
    rank, world_size : int
        Number of this process, and of processes.
    buffer_size : int
        Samples in a buffer of the shuffle by blocks.
    """

    shuffle: str | None
    seed: int
    epoch: int
    groups: Groups | None
    rank: int
    world_size: int
    buffer_size: int

    def __post_init__(self) -> None:
        if self.shuffle not in (*SHUFFLES, None):
            raise ValueError(
                f"shuffle must be one of {', '.join(SHUFFLES)} or False, got {brief(self.shuffle)}"
            )
        if self.groups is not None and self.shuffle != SHUFFLES[0]:
            raise ValueError(
                f"balanced batches need shuffle='full', got shuffle={self.shuffle or False!r}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in range(world_size), got {brief(self.rank)} of "
                f"{brief(self.world_size)}"
            )

    def positions(self, n: int) -> range | Ints:
        """Return this process's part of the order of n samples, unless shuffled by blocks."""
        order: range | Ints
        if self.groups is not None:
            order = balanced(self.groups, self.seed, self.epoch)
        elif self.shuffle is None:
            order = range(n)
        else:
            order = permutation(n, self.seed, self.epoch)
        mine = share(len(order), self.rank, self.world_size)
        return order[mine.start : mine.stop]

    def buffers(self, n: int) -> Iterator[Ints]:
        """Yield this process's part of the order of n samples, one buffer at a time."""
        return block_buffers(
            n,
            self.seed,
            self.epoch,
            buffer_size=self.buffer_size,
            rank=self.rank,
            world_size=self.world_size,
        )


class Batches:
    """Batches of one epoch; get them from `Split.batches`.

    It has a length, and can be iterated any number of times.

    Parameters
    ----------
    reader : SampleReader
        The samples.
    batch_size : int
    epoch : Epoch
    first : int
        Number of batches to leave out at the beginning.
    drop_last : bool
        Whether to leave out a last batch that is shorter.
    framing : Framing, optional
        How images become one array.
    skips : bool, default False
        Whether to leave out images that cannot be decoded.
    columns : sequence of Column, optional
        Further columns of the batches.
    outs : sequence of ndarray, optional
        Arrays that receive the images, in turn.
    """

    def __init__(
        self,
        reader: SampleReader,
        batch_size: int,
        epoch: Epoch,
        *,
        first: int,
        drop_last: bool,
        framing: Framing | None,
        skips: bool = False,
        columns: Sequence[Column] = (),
        outs: Sequence[Pixels] = (),
    ) -> None:
        self._columns = columns
        self._outs = outs
        self._skipped: dict[int, str] = {}
        self._skips = skips
        self._reader = reader
        self._batch_size = batch_size
        self._epoch = epoch
        self._framing = framing
        n = len(reader) if epoch.groups is None else len(epoch.groups.order)
        n //= epoch.world_size
        self._stop = n - n % batch_size if drop_last else n
        self._step = 1
        self._begin_with(first)

    def _begin_with(self, number: int) -> None:
        self._first = self._next = number
        self._start = number * self._batch_size

    def every(self, n: int, start: int) -> Self:
        """Return every n-th of these batches, from number `start` on. Internal."""
        some = copy(self)
        some._skipped = {}
        some._step = self._step * n
        some._begin_with(self._first + self._step * start)
        return some

    def __len__(self) -> int:
        """Return the number of batches that a loop yields."""
        return max(0, -(-(self._stop - self._start) // (self._batch_size * self._step)))

    def __iter__(self) -> Iterator[AnyBatch]:
        """Yield the batches in order, and read and decode the next ones meanwhile."""
        self._next = self._first
        if not len(self):
            return iter(())
        if self._epoch.shuffle == "block":
            batches = self._counted(self._loop(self._cut(), self._reader.decode))
        else:
            batches = self._counted(self._loop(self._whole(), self._reader.batch))
        if self._framing is None or not self._outs:
            return batches
        return received(batches, self._outs, self._framing.axis)

    def _counted(self, loop: Generator[AnyBatch]) -> Generator[AnyBatch]:
        """Yield the batches, and note which one is next."""
        number = self._first
        with closing(loop):
            for batch in loop:
                number = self._next = number + self._step
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the latest loop is in the epoch, to continue it in another process.

        Returns
        -------
        dict
            ``batch``, the number of the next batch, with `epoch`, `seed` and everything else that
            the samples and pixels follow from. Numbers, texts and lists only, so it can be
            written as JSON. The state of one process fits all of them, which have taken
            equally many batches.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> batches = train.batches(64, seed=0, epoch=3, size=32)
        >>> _ = next(iter(batches))
        >>> state = batches.state_dict()
        >>> state["epoch"], state["batch"]
        (3, 1)
        """
        return {"batch": self._next, **self._origin()}

    def load_state_dict(self, state: Any) -> None:
        """Continue an epoch: every loop begins with the batch that was next in the state.

        The batches of the rest of the epoch are those of the first run, with the same pixels. The
        number of threads, `drop_last`, `on_error` and `columns` may differ.

        Parameters
        ----------
        state : dict
            From `state_dict`.

        Raises
        ------
        ValueError
            If it is of other samples or of other options; the message names them.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> batches = train.batches(64, seed=0, size=32)
        >>> whole = [batch.file_name[0] for batch in batches]
        >>> batches.load_state_dict({**batches.state_dict(), "batch": 2})
        >>> [batch.file_name[0] for batch in batches] == whole[2:]
        True
        """
        if not isinstance(state, Mapping) or "batch" not in state:
            raise ValueError(
                escaped(f"cannot resume: not a result of state_dict, got {brief(state)}")
            )
        differing = [
            f"{name}={brief(value)}, but the state has {name}={brief(state.get(name))}"
            for name, value in self._origin().items()
            if name not in state or state[name] != value
        ]
        if differing:
            raise ValueError(
                escaped(
                    f"{self._reader.title}: cannot resume: {'; '.join(differing)}; use the samples "
                    "and options of the run that made the state, or begin the epoch again"
                )
            )
        self._begin_with(as_count(state["batch"], "batch"))

    def _origin(self) -> dict[str, Any]:
        """Return what samples and pixels of a batch follow from, as JSON has it."""
        epoch = self._epoch
        values = {
            "samples": self._reader.fingerprint,
            "batch_size": self._batch_size,
            "epoch": epoch.epoch,
            "seed": epoch.seed,
            "shuffle": epoch.shuffle,
            "buffer_size": epoch.buffer_size if epoch.shuffle == "block" else None,
            "balanced": epoch.groups is not None,
            "world_size": epoch.world_size,
            **{name: getattr(self._framing, name, None) for name in _DRAWN},
        }
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def skipped(self) -> dict[int, str]:
        """Images that loops have left out so far: position in the split, and why.

        Empty unless ``on_error="skip"`` was passed. The text names the image.
        """
        return dict(self._skipped)

    def positions(self) -> Iterator[Ints]:
        """Yield the positions in the split of each batch, without reading anything.

        They include those of images that are skipped.
        """
        if self._epoch.shuffle != "block":
            yield from self._whole()
            return
        none = np.empty(0, dtype=np.int64)
        crc = np.empty(0, dtype=np.uint32)
        buffers = (Encoded(buffer, [], crc, none, none) for buffer in self._buffers())
        for piece in self._pieces(buffers):
            yield piece.indices

    def _whole(self) -> Generator[Ints]:
        order = self._epoch.positions(len(self._reader))
        for start in range(self._start, self._stop, self._batch_size * self._step):
            piece = order[start : min(start + self._batch_size, self._stop)]
            yield np.asarray(piece, dtype=np.int64)

    def _buffers(self) -> Generator[Ints]:
        """Yield the buffers, without the samples of batches that are left out."""
        first = 0
        for buffer in self._epoch.buffers(len(self._reader)):
            needed = buffer[max(0, self._start - first) : max(0, self._stop - first)]
            if self._step > 1:
                places = max(first, self._start) - self._start + np.arange(len(needed))
                needed = needed[places // self._batch_size % self._step == 0]
            if len(needed):
                yield needed
            first += len(buffer)

    def _cut(self) -> Generator[Encoded]:
        """Read one buffer after another, the next one ahead, and cut them into batches."""
        read = ahead(self._buffers(), self._reader.read, n_ahead=1)
        with closing(read):
            yield from self._pieces(read)

    def _pieces(self, buffers: Iterator[Encoded]) -> Generator[Encoded]:
        """Cut buffers into batches, which may extend over two of them."""
        size, rest = self._batch_size, None
        for more in buffers:
            read = more if rest is None else rest.joined(more)
            full = len(read.indices) - len(read.indices) % size
            for start in range(0, full, size):
                yield read.part(start, start + size)
            rest = read.part(full)
        if rest is not None and len(rest.indices):
            yield rest

    def _loop(
        self,
        items: Generator[T],
        load: Callable[[T, Framing | None, dict[int, str] | None], AnyBatch],
    ) -> Generator[AnyBatch]:
        if self._columns:
            return self._skipping(items, self._with_columns(load))
        if not self._skips:
            return self._ahead(items, lambda item: load(item, self._framing, None))
        return self._skipping(items, load)

    def _with_columns(
        self, load: Callable[[T, Framing | None, dict[int, str] | None], AnyBatch]
    ) -> Callable[[T, Framing | None, dict[int, str] | None], AnyBatch]:
        """Return `load` with further columns, of the samples that are not left out."""
        columns = [(column.name, column.loaded_if_small()) for column in self._columns]

        def loaded(item: T, framing: Framing | None, faults: dict[int, str] | None) -> AnyBatch:
            batch = load(item, framing, faults)
            indices = item.indices if isinstance(item, Encoded) else np.asarray(item)
            if faults:
                indices = indices[~np.isin(indices, list(faults))]
            return BatchWithColumns.of(batch, {name: take(indices) for name, take in columns})

        return loaded

    def _skipping(
        self,
        items: Generator[T],
        load: Callable[[T, Framing | None, dict[int, str] | None], AnyBatch],
    ) -> Generator[AnyBatch]:
        """Yield batches without the images that cannot be decoded, and record these."""

        def work(item: T) -> tuple[AnyBatch, dict[int, str]]:
            faults: dict[int, str] = {}
            return load(item, self._framing, faults if self._skips else None), faults

        with closing(self._ahead(items, work)) as loaded:
            for batch, faults in loaded:
                self._skipped |= faults
                yield batch

    def _ahead(self, items: Generator[T], work: Callable[[T], Done]) -> Generator[Done]:
        def prepare() -> None:
            self._reader.import_libraries()
            if self._framing is not None:
                import_resizer(self._framing.resize)

        return ahead(items, work, n_ahead=N_LOADERS, n_threads=N_LOADERS, prepare=prepare)

    def __repr__(self) -> str:
        return escaped(f"<{len(self):,} batches of {self._reader.title}>")
