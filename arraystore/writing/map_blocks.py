"""Compute a column with a function, block by block.

`Split.map_blocks` is this function, so every program that imports arraystore imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from arraystore.dataset.split import Split
    from arraystore.writing.add_column import ColumnReport
    from arraystore.writing.computed_column import Function


def map_blocks(
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
    """Apply a function to batches of a split, and add what it returns to the store as a column.

    The split is cut into blocks of consecutive samples. Each block is computed by a task, which
    writes the values to a file beside the store, or to an object beside a store in a bucket. When
    all blocks are finished, `add_column` makes a column of them. A process that is killed leaves
    the finished blocks; with `resume` only the others are computed.

    Parameters
    ----------
    split : Split
        A whole split of a store on a disk or in a bucket, such as ``store["train"]``.
    function : callable
        Given a `Batch`, returns an array-like of numbers, bools or text whose first dimension is
        the batch. All its results must have one data type, and one shape behind the first
        dimension. It is called by several threads at the same time if there is no executor. For
        other processes it must pickle, and is unpickled once in each of them.
    name : str
        Name of the column.
    images : {"decoded", "encoded", "none"}
        What ``batch.image`` is: pixels as in `Split.batches`, a list of the encoded images as
        `bytes`, or None; then no image is read.
    size : int or (int, int), optional
        Height and width to resize decoded images to, see `Split.resized`.
    columns : sequence of str, optional
        Further columns that ``batch.columns`` has.
    batch_size : int, default 64
        Samples in a batch; only the last batch of the split may be shorter.
    description : str, optional
        For people.
    executor : concurrent.futures.Executor, optional
        Where blocks are computed, such as a `ProcessPoolExecutor` or
        ``distributed.Client.get_executor()``; by default in threads. Workers must reach the same
        files. It stays usable.
    overwrite : bool, default False
        Whether to delete finished blocks of an earlier call, and to replace a column of that name
        when all blocks are finished.
    resume : bool, default False
        Whether to continue an earlier call with the same function and options.
    sync : bool, default True
        Whether to wait until everything is on the disk.
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Returns
    -------
    ColumnReport

    Raises
    ------
    FileExistsError
        If the split has a column of that name, or there are finished blocks, and neither
        `overwrite` nor `resume` is true.
    TypeError
        If the function cannot be sent to processes, or returns neither numbers, bools nor text.
    ValueError
        If the split is not a whole split of a store; the function does not return one value per
        sample, or values of another type or shape than before; or if `resume` is true and the
        split, the function's name or an option has changed.
    StoreChangedError
        If the store was replaced meanwhile.
    StorageError
        If another process computes the same column, or the disk is full.
    WorkersLostError
        If the executor loses its workers.

    Notes
    -----
    What the function raises is raised here; a note names the samples.

    Examples
    --------
    >>> import arraystore
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> def mean_color(batch):
    ...     return batch.image.mean(axis=(1, 2), dtype="float32")
    >>> arraystore.map_blocks(train, mean_color, "color", size=32).values
    'float32 (160, 3)'
    >>> arraystore.open("1pct.zarr")["train"].columns["color"]
    <Column 'color': float32 (160, 3)>
    """
    from arraystore.writing.computed_column import compute_column

    return compute_column(
        split,
        function,
        name,
        images=images,
        size=size,
        columns=columns,
        batch_size=batch_size,
        description=description,
        executor=executor,
        overwrite=overwrite,
        resume=resume,
        sync=sync,
        progress=progress,
    )
