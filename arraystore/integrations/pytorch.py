"""`Split.torch` and `Split.torch_batches`: data sets of PyTorch, which is imported when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraystore._arguments import check_choice, need
from arraystore.errors import brief, escaped
from arraystore.images.crops import CROPS, LAYOUTS, RATIO, RESIZES, SCALE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arraystore.dataset.split import Split


def torch(
    split: Split,
    *,
    size: int | tuple[int, int] | None = None,
    crop: str = CROPS[0],
    flip: bool = False,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    views: int = 1,
    layout: str = "NCHW",
    resize: str = RESIZES[0],
    seed: int = 0,
    transform: Callable[[Any], Any] | None = None,
    columns: Sequence[str] = (),
) -> Any:
    """Return a map-style data set for PyTorch's ``DataLoader``, samplers and collate functions.

    A sample is a tuple ``(image, label, *columns)``, as of torchvision's ``ImageFolder``. The
    loader reads the samples of a batch together. The data set pickles.

    Parameters
    ----------
    split : Split
        The samples.
    size : int or (int, int), optional
        Height and width of the images; without it each image has its own size, and `transform` or
        a ``collate_fn`` must make them equal.
    crop, flip, scale, ratio, resize : optional
        See `Split.batches`. What is drawn follows from the seed, the epoch and the position of the
        sample in the split.
    views : int, default 1
        Crops of each image; with 2 or more, ``image`` is a list of them, and collated images unpack
        as ``first, second = images``.
    layout : {"NCHW", "NHWC"}, default "NCHW"
        Whether an image has the shape (3, height, width) or (height, width, 3).
    seed : int, default 0
    transform : callable, optional
        Given each image, such as a transform of ``torchvision.transforms.v2``. It must pickle if
        workers are spawned.
    columns : sequence of str, optional
        ``"file_name"``, or further columns, whose values follow the label: text as str, everything
        else as tensors.

    Returns
    -------
    torch.utils.data.Dataset
        ``image`` is a tensor of uint8, ``label`` an int, -1 if there is none. ``set_epoch(epoch)``
        chooses what is drawn, also in workers that persist. ``collate`` joins samples as PyTorch's
        ``default_collate`` does. Pass it to a loader without workers: it takes less CPU time.

    Raises
    ------
    SourceError
        If PyTorch is not installed.
    KeyError, ValueError
        If there is no such column, or an argument is out of range.

    Examples
    --------
    ::

        data = train.torch(size=224, crop="random", flip=True)
        for images, labels in torch.utils.data.DataLoader(data, 64, shuffle=True, num_workers=4):
            ...
    """
    check_choice(layout, "layout", LAYOUTS)
    batches = split.batches(
        1,
        shuffle=False,
        seed=seed,
        size=size,
        crop=crop,
        flip=flip,
        scale=scale,
        ratio=ratio,
        views=views,
        layout=LAYOUTS[0] if size is None else layout,
        resize=resize,
        columns=_further(columns),
    )
    datasets = _datasets("torch")
    return datasets.MapDataset(split, batches._framing, layout, columns, transform)


def torch_batches(
    split: Split,
    batch_size: int,
    *,
    transform: Callable[[Any], Any] | None = None,
    columns: Sequence[str] = (),
    rank: int | None = None,
    world_size: int | None = None,
    **options: Any,
) -> Any:
    """Return an iterable data set for PyTorch that yields the batches of `Split.batches`.

    A batch is a tuple ``(images, labels, *columns)`` of tensors that share the memory of NumPy's
    arrays. ``DataLoader(train.torch_batches(64, size=224), batch_size=None)`` loops over it, and so
    does ``for images, labels in train.torch_batches(64, size=224)``. The order is that of `batches`
    for any number of workers. The data set pickles.

    Parameters
    ----------
    split : Split
        The samples.
    batch_size : int
        Samples in a batch; a ``DataLoader`` gets ``batch_size=None``.
    transform : callable, optional
        Given the images of each batch. It must pickle if workers are spawned.
    columns : sequence of str, optional
        ``"file_name"``, or further columns, whose values follow the labels: text as a list of str,
        ragged columns as a list of tensors, others as a tensor.
    rank, world_size : int, optional
        Number of this process, and of processes; by default those of ``torch.distributed`` if it is
        initialized when the loop begins, else 0 and 1.
    **options
        Those of `batches`: `size`, `seed`, `epoch`, `shuffle`, `crop`, … `layout` is ``"NCHW"`` by
        default.

    Returns
    -------
    torch.utils.data.IterableDataset
        Images are a tensor of uint8 (n, 3, height, width), or without `size` a list of tensors.
        ``len`` is the number of batches of an epoch, also of one that continues.
        ``set_epoch(epoch)`` begins another epoch, also in workers that persist. ``state_dict`` and
        ``load_state_dict`` continue an epoch, see `Batches`: with workers either pass
        ``state_dict(n)`` the number of batches that the loop has taken, or use
        ``torchdata.stateful_dataloader.StatefulDataLoader``.

    Raises
    ------
    SourceError
        If PyTorch is not installed.
    KeyError, TypeError, ValueError
        If there is no such column or option, or an argument is out of range.

    Examples
    --------
    ::

        data = train.torch_batches(64, size=224, crop="random", flip=True)
        for epoch in range(90):
            data.set_epoch(epoch)
            for images, labels in data:
                ...
    """
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"rank and world_size belong together, got {brief(rank)} and {brief(world_size)}"
        )
    further = _further(columns)
    options = {"batch_size": batch_size, "columns": further, **options}
    place = None if rank is None else (rank, world_size)
    datasets = _datasets("torch_batches")
    dataset = datasets.BatchDataset(split, options, columns, transform, place)
    len(dataset)  # raises if an option is wrong
    return dataset


def _datasets(method: str) -> Any:
    return need("arraystore.integrations.torch_datasets", "torch", f"Split.{method}")


def _further(columns: Sequence[str]) -> list[str]:
    """Return the names of further columns."""
    if isinstance(columns, str):
        raise TypeError(escaped(f"columns must be a list of names, got {brief(columns)}"))
    return [name for name in columns if name != "file_name"]
