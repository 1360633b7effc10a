"""Data sets of PyTorch over a split; importing this module imports PyTorch."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from arraystore._arguments import as_count, as_seed
from arraystore.errors import brief, escaped
from arraystore.images.crops import LAYOUTS
from arraystore.indexing.selection import as_position, as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.batch import Batch
    from arraystore.dataset.batches import Batches
    from arraystore.dataset.split import Split
    from arraystore.images.crops import Framing

_FILE_NAME = "file_name"

_COPIED_BY_NUMPY = (torch.uint8, torch.float32)
"""Kinds of images, before and after usual transforms, that are joined without PyTorch's threads."""


class MapDataset(Dataset):  # type: ignore[misc] # Any where PyTorch is not installed
    """Samples as tensors; get one from `Split.torch`.

    Parameters
    ----------
    split : Split
    framing : Framing or None
        How images become tensors of one size.
    layout : {"NHWC", "NCHW"}
    columns : sequence of str
    transform : callable or None
        Applied to each image.
    """

    def __init__(
        self,
        split: Split,
        framing: Framing | None,
        layout: str,
        columns: Sequence[str],
        transform: Callable[[Any], Any] | None,
    ) -> None:
        self._split = split
        self._framing = framing
        self._layout = layout
        self._columns = tuple(columns)
        self._transform = transform
        # In shared memory, so that workers that persist see another epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not is_one(index):
            raise TypeError(f"a data set of PyTorch is indexed by an integer, got {brief(index)}")
        (sample,) = self.__getitems__([as_position(index, len(self))])
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the samples at some positions, which are read together."""
        positions = as_positions(indices, len(self))
        framing = self._framing
        if framing is not None:
            framing = replace(framing, epoch=int(self._epoch))
        batch = self._split._reader.batch(positions, framing)
        images = _tensors(batch.image, self._layout)
        if framing is not None and framing.views > 1:
            images = zip(*images, strict=True)
        values = (self._values(name, batch, positions) for name in self._columns)
        rows = zip(map(self._transformed, images), batch.label.tolist(), *values, strict=True)
        return list(rows)

    def _transformed(self, image: Any) -> Any:
        if isinstance(image, tuple):  # of several views
            return [*map(self._transformed, image)]
        return image if self._transform is None else self._transform(image)

    def _values(self, name: str, batch: Batch[Any], positions: Ints) -> Any:
        return _converted(batch.file_name if name == _FILE_NAME else self._takes[name](positions))

    @cached_property
    def _takes(self) -> dict[str, Callable[[Ints], Any]]:
        columns = self._split.columns
        names = [name for name in self._columns if name != _FILE_NAME]
        return {name: columns[name].loaded_if_small() for name in names}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs, without columns that were loaded."""
        return {name: value for name, value in vars(self).items() if name != "_takes"}

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops and flips of another epoch from now on."""
        self._epoch.fill_(as_seed(epoch, "epoch"))

    def collate(self, samples: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Join samples into a batch as PyTorch's ``default_collate`` does; a ``collate_fn``.

        Without workers, `default_collate` copies each image with all threads of PyTorch. They wait
        for one another in a loop that takes as much CPU time as decoding, if other threads keep the
        processors busy. This copies images in one thread.

        Parameters
        ----------
        samples : sequence of tuple
            Samples of this data set.

        Returns
        -------
        list
            ``[images, labels, *columns]``; ``images`` is a list if there are several views.
        """
        images, *others = zip(*samples, strict=True)
        return [_joined(images), *map(default_collate, others)]

    def __repr__(self) -> str:
        return escaped(f"<Samples of {self._split!r} as tensors>")


class BatchDataset(IterableDataset):  # type: ignore[misc] # Any where PyTorch is not installed
    """Batches as tensors; get one from `Split.torch_batches`.

    Of n workers, number i yields every n-th batch from number i on: a loader takes a batch from
    one worker after another, so that it returns them in order.

    Parameters
    ----------
    split : Split
    options : dict
        Of `Split.batches`.
    columns : sequence of str
    transform : callable or None
        Applied to the images of each batch.
    place : (int, int) or None
        Number of this process, and of processes; None where ``torch.distributed`` knows them.
    """

    def __init__(
        self,
        split: Split,
        options: Mapping[str, Any],
        columns: Sequence[str],
        transform: Callable[[Any], Any] | None,
        place: tuple[int, int] | None,
    ) -> None:
        self._layout = options.get("layout", "NCHW")
        self._options = dict(options)
        if options.get("size") is not None:
            self._options["layout"] = self._layout
        epoch = as_seed(self._options.pop("epoch", 0), "epoch")
        first = as_count(self._options.pop("start_batch", 0), "start_batch")
        self._split = split
        self._columns = tuple(columns)
        self._transform = transform
        self._place = place
        # The epoch, its first batch, and whether the latest loop is in workers. In shared memory,
        # so that workers that persist see another epoch.
        self._shared = torch.tensor([epoch, first, False]).share_memory_()
        self._resumed: int | None = None
        self._latest: Batches | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, wherever the loop begins.

        Lightning, progress bars and schedules of learning rates count from the start of the epoch.
        """
        return len(self._batches(0))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield the batches, of a worker its part of them."""
        worker = get_worker_info()
        self._shared[2] = worker is not None
        if worker is None:
            batches = self._batches()
        else:
            resumed, self._resumed = self._resumed, None
            if resumed is None:
                batches = self._batches().every(worker.num_workers, worker.id)
            else:
                batches = self._batches(resumed).every(worker.num_workers, 0)
        self._latest = batches
        return self._loop(batches)

    def _loop(self, batches: Batches) -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            images = _tensors(batch.image, self._layout)
            if self._transform is not None:
                images = self._transform(images)
            yield images, _converted(batch.label), *(self._values(n, batch) for n in self._columns)

    def _values(self, name: str, batch: Batch[Any]) -> Any:
        return _converted(batch.file_name if name == _FILE_NAME else batch.columns[name])

    def _batches(self, first: int | None = None) -> Batches:
        rank, world_size = self._ranks() or (0, 1)
        epoch, start, _ = self._shared.tolist()
        return self._split.batches(
            **self._options,
            epoch=epoch,
            start_batch=start if first is None else first,
            rank=rank,
            world_size=world_size,
        )

    def _ranks(self) -> tuple[int, int] | None:
        if self._place is None and distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return self._place

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: a spawned one cannot find out which rank it belongs to."""
        return {**vars(self), "_place": self._ranks(), "_latest": None}

    def set_epoch(self, epoch: int) -> None:
        """Loop over an epoch from now on; one that is not the present one begins at its start."""
        if int(self._shared[0]) != as_seed(epoch, "epoch"):
            self._begin_with(epoch, 0)

    def _begin_with(self, epoch: int, first: int) -> None:
        self._shared[:] = torch.tensor([epoch, first, False])
        self._latest = None

    @property
    def skipped(self) -> dict[int, str]:
        """Images that the latest loop of this process has left out, see `Batches.skipped`."""
        return {} if self._latest is None else self._latest.skipped

    def state_dict(self, num_batches: int | None = None) -> dict[str, Any]:
        """Return where the latest loop is in the epoch, see `Batches.state_dict`.

        Parameters
        ----------
        num_batches : int, optional
            Batches that this loop has taken. Needed with workers, which are ahead of the loop.

        Raises
        ------
        ValueError
            If a loop with workers needs `num_batches`.
        """
        batches = self._latest or self._batches()
        worker = get_worker_info()
        if worker is not None:  # StatefulDataLoader combines the states of its workers
            return {**batches.state_dict(), "num_workers": worker.num_workers}
        if num_batches is not None:
            state = self._batches().state_dict()
            return {**state, "batch": state["batch"] + as_count(num_batches, "num_batches")}
        if self._shared[2]:
            raise ValueError(
                "workers are ahead of the loop; pass state_dict(n) the number of batches that "
                "the loop has taken, or use StatefulDataLoader of torchdata"
            )
        return batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the epoch of a state, until `set_epoch` begins another.

        Raises
        ------
        ValueError
            If the state is of other samples or of other options; the message names them.
        """
        worker = get_worker_info()
        state = dict(state)
        found, here = state.pop("num_workers", None), worker and worker.num_workers
        if found != here:
            raise ValueError(
                f"cannot resume: num_workers={brief(here)}, but the state has "
                f"num_workers={brief(found)}; use as many workers, or none in both"
            )
        epoch = as_seed(state.get("epoch", 0), "epoch")
        self._split.batches(
            **self._options, epoch=epoch, world_size=(self._ranks() or (0, 1))[1]
        ).load_state_dict(state)
        if worker is None:
            self._begin_with(epoch, state["batch"])
        else:
            self._shared[0] = epoch
            self._resumed = state["batch"]

    def __repr__(self) -> str:
        return escaped(f"<{len(self):,} batches of {self._split!r} as tensors>")


def _joined(images: Sequence[Any]) -> Any:
    """Return images as one tensor, or their views as a list of tensors."""
    first = images[0]
    if isinstance(first, list):
        return [_joined(views) for views in zip(*images, strict=True)]
    # In a worker, PyTorch has one thread, and collates into memory that it shares.
    if get_worker_info() is None and _is_copied_by_numpy(first):
        return torch.from_numpy(np.stack([image.numpy() for image in images]))
    return default_collate(images)


def _is_copied_by_numpy(image: Any) -> bool:
    """Whether an image is a tensor that NumPy can read, not one on a GPU or with a gradient."""
    return (
        isinstance(image, torch.Tensor)
        and image.dtype in _COPIED_BY_NUMPY
        and image.device.type == "cpu"
        and not image.requires_grad
    )


def _tensors(images: NDArray[Any] | list[NDArray[Any]], layout: str) -> Any:
    """Return one array in its layout, or a list of images (height, width, 3) in that layout."""
    if not isinstance(images, list):
        return torch.from_numpy(images)
    tensors = map(_converted, images)
    return [*tensors] if layout == LAYOUTS[0] else [image.permute(2, 0, 1) for image in tensors]


def _converted(values: Any) -> Any:
    """Return an array as a tensor, text as a list, and lists with each value converted."""
    if isinstance(values, list):
        return [*map(_converted, values)]
    if isinstance(values.dtype, np.dtypes.StringDType):
        return values.tolist()
    # PyTorch warns of memory that it must not write to.
    return torch.from_numpy(values if values.flags.writeable else values.copy())
