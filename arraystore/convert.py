"""From a source to a store: plan, lay out, fill, seal.

::

    source ──▶ sample table ──plan──▶ layout ──fill──▶ payload ──seal──▶ STORE

Every byte's place is known before the first is written, so that blocks of the
payload can be filled in any order and at the same time. The attribute that makes a
store of it comes last, and then one rename gives it its name.
"""

from __future__ import annotations

import operator
import os
import time
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.containers import open_local, writer_for
from arraystore.fill import FillTask, fill
from arraystore.layout import (
    Block,
    blocks,
    content_digest,
    image_starts,
    label_index,
    selected,
)
from arraystore.plan import ON_ERROR, SplitPlan, plan_split
from arraystore.progress import Meter, meter
from arraystore.report import ConvertReport, SplitReport
from arraystore.schema import (
    COLUMNS,
    ORDERS,
    PAYLOAD,
    ROOT_COLUMNS,
    SELECTIONS,
    Column,
    DatasetInfo,
    SplitInfo,
)
from arraystore.sources.registry import load_source
from arraystore.storage import close_idle_files, full_disk_is_told
from arraystore.target import Workspace, sync_tree, workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from arraystore.byterange import ChunkManifest
    from arraystore.containers.base import ContainerWriter
    from arraystore.sources.base import Source

MAX_BLOCKS_IN_FLIGHT: Final = 8
"""Blocks being filled at a time, so that memory does not grow with the number of cores."""

_SEED_LIMIT: Final = 2**63


def convert(
    dataset: str,
    target: str | os.PathLike[str],
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    partial: bool = False,
    order: str = "shuffled",
    seed: int = 0,
    on_error: str = "raise",
    overwrite: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> ConvertReport:
    """Convert a data set to a store.

    The bytes of every image are copied as they are, but for those of ``imagenet2012``
    from version 3.0.0 on that are no RGB or gray JPEGs. A conversion that fails or
    is interrupted leaves nothing at `target`.

    Parameters
    ----------
    dataset : str
        ``imagenet2012_subset/1pct``, ``imagenet2012_subset/10pct`` or
        ``imagenet2012``, with ``:version`` or without; or ``folder:PATH`` for images in
        folders split/class/file or class/file.
    target : path-like
        The store to create. Its suffix chooses the container: ``.zarr``; ``.h5`` or
        ``.hdf5``.
    manual_dir : path-like, optional
        Folder of the ImageNet archives; by default where TFDS looks for them.
    subset_list : path-like, optional
        The training images of the subset, one file name a line. By default the
        published list in `manual_dir`, else downloaded once.
    partial : bool, default False
        Convert what there is of an incomplete source; the store records it.
    order : {"shuffled", "label", "source"}
        Order of the samples in each split.
    seed : int, default 0
        Seed of the shuffled order, in ``range(2**63)``.
    on_error : {"raise", "skip"}
        What to do about images that cannot be read: stop, or leave them out and
        record it.
    overwrite : bool, default False
        Replace a store that is at `target`.
    sync : bool, default True
        Wait until all is on the disk. Without, a loss of power soon after may
        leave a damaged store.
    executor : concurrent.futures.Executor, optional
        Runs the copying; threads by default. Processes, or machines that see the
        same files, do as well.
    progress : bool, optional
        Show a bar; by default on a terminal.

    Returns
    -------
    ConvertReport

    Raises
    ------
    SourceError
        If the data set is unknown, or its source missing, incomplete or damaged.
    FileExistsError
        If there is something at `target`.
    StorageError
        If the disk is full, or another process is converting to `target`.
    ValueError
        If an option is not one of those above.

    Examples
    --------
    >>> import arraystore
    >>> report = arraystore.convert(
    ...     "imagenet2012_subset/1pct", "again.h5", manual_dir="imagenet", partial=True
    ... )
    >>> report.splits["train"].num_samples
    160
    >>> arraystore.open("1pct.zarr").info.splits["train"].content_digest == (
    ...     report.splits["train"].content_digest
    ... )
    True
    """
    _check_choice("order", order, ORDERS)
    _check_choice("on_error", on_error, ON_ERROR)
    seed = operator.index(seed)
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"seed must be 0 or more and below 2**63, got {seed}")
    began = time.perf_counter()
    path = Path(target).expanduser().absolute()
    open_writer = writer_for(path)
    with (
        workspace(path, overwrite=overwrite) as work,
        full_disk_is_told(work.folder),
        meter(progress) as shown,
    ):
        source = load_source(
            os.fspath(dataset),
            manual_dir=_path(manual_dir),
            subset_list=_path(subset_list),
            partial=partial,
            status=shown.status,
        )
        plans = {}
        with work.spool.open("wb") as spool:
            for name in source.splits:
                plans[name] = plan_split(
                    source, name, spool, order=order, seed=seed, on_error=on_error, meter=shown
                )
        _lay_out(open_writer, work, plans)
        checksums = _fill(work, source, plans, executor=executor, shown=shown)
        shown.status("sealing")
        seed = seed if order == "shuffled" else 0
        splits = _seal(open_writer, work, source, plans, checksums, order=order, seed=seed)
        if sync:
            sync_tree(work.store)
        work.publish()
        close_idle_files()  # else the space of what was deleted would be kept
    return ConvertReport(
        dataset=_info(source, plans).full_name,
        path=str(target),
        splits=splits,
        partial=source.partial,
        notes=source.notes,
        seconds=time.perf_counter() - began,
    )


def _lay_out(
    open_writer: Callable[[Path], ContainerWriter], work: Workspace, plans: dict[str, SplitPlan]
) -> None:
    """Create all groups and payloads, and reserve their space."""
    writer = open_writer(work.store)
    for name, plan in plans.items():
        writer.create_group(name)
        writer.create_payload(f"{name}/{PAYLOAD}", int(plan.table.nbytes.sum()))
    writer.close()


def _fill(
    work: Workspace,
    source: Source,
    plans: dict[str, SplitPlan],
    *,
    executor: Executor | None,
    shown: Meter,
) -> dict[str, NDArray[np.uint32]]:
    """Copy the images to their places; return their checksums, split by split."""
    _, container = open_local(work.store)
    root = work.store if work.store.is_dir() else work.folder
    files = (*map(str, source.files), str(work.spool))
    checksums = {}
    pool = executor or ThreadPoolExecutor(min(MAX_BLOCKS_IN_FLIGHT, os.cpu_count() or 1))
    try:
        for name, plan in plans.items():
            manifest = container.manifest(f"{name}/{PAYLOAD}")
            total = int(plan.table.nbytes.sum())
            shown.start(f"{name}: copying images", len(plan.table), total)
            parts = [np.empty(0, dtype=np.uint32)]
            tasks = _tasks(plan, files, manifest, root)
            for block, part in _run(pool, tasks):
                parts.append(part)
                shown.advance(len(part), block.stop - block.start)
            checksums[name] = np.concatenate(parts)
    finally:
        if executor is None:
            pool.shutdown(cancel_futures=True)
    return checksums


def _tasks(
    plan: SplitPlan, files: tuple[str, ...], manifest: ChunkManifest, root: Path
) -> Iterator[tuple[Block, FillTask]]:
    for block in blocks(plan.table.nbytes):
        rows = slice(block.first, block.last)
        used, file = np.unique(plan.table.file[rows], return_inverse=True)
        pieces = manifest.locate(np.array([block.start]), np.array([block.stop - block.start]))
        places = zip(
            (str(root / manifest.keys[key]) for key in pieces.object),
            pieces.start.tolist(),
            pieces.nbytes.tolist(),
            strict=True,
        )
        yield (
            block,
            FillTask(
                files=tuple(files[i] for i in used),
                file=file,
                offset=plan.table.offset[rows],
                nbytes=plan.table.nbytes[rows],
                skip=block.skip,
                places=tuple(places),
            ),
        )


def _run(
    pool: Executor, tasks: Iterator[tuple[Block, FillTask]]
) -> Iterator[tuple[Block, NDArray[np.uint32]]]:
    """Fill blocks, a bounded number at a time; yield their checksums in order."""
    running: deque[tuple[Block, Future[NDArray[np.uint32]]]] = deque()
    try:
        for block, task in tasks:
            if len(running) == MAX_BLOCKS_IN_FLIGHT:
                first, future = running.popleft()
                yield first, future.result()
            running.append((block, pool.submit(fill, task)))
        while running:
            first, future = running.popleft()
            yield first, future.result()
    finally:
        # What runs already writes to a folder that is about to be removed.
        wait([future for _, future in running if not future.cancel()])


def _seal(
    open_writer: Callable[[Path], ContainerWriter],
    work: Workspace,
    source: Source,
    plans: dict[str, SplitPlan],
    checksums: dict[str, NDArray[np.uint32]],
    *,
    order: str,
    seed: int,
) -> dict[str, SplitReport]:
    """Write columns and attributes, the version last."""
    writer = open_writer(work.store)
    for name, texts in (("label_name", source.label_name), ("label_words", source.label_words)):
        writer.write_column(name, texts, ROOT_COLUMNS[name])
    reports = {}
    for split, plan in plans.items():
        table, crc = plan.table, checksums[split]
        label_order, label_indptr = label_index(table.label, len(source.label_name))
        values: dict[str, Any] = {
            "image_start": image_starts(table.nbytes),
            "image_nbytes": table.nbytes,
            "image_height": plan.height,
            "image_width": plan.width,
            "image_crc32c": crc,
            "label": table.label,
            "file_name": table.file_name,
            "label_order": label_order,
            "label_indptr": label_indptr,
        }
        for name, column in COLUMNS.items():
            writer.write_column(f"{split}/{name}", values[name], column)
        # CF conventions, contiguous ragged array: this is the count variable of `byte`.
        writer.set_attributes(f"{split}/image_nbytes", {"sample_dimension": "byte"})
        digest = content_digest(table.file_name, table.label, table.nbytes, crc)
        total = int(table.nbytes.sum())
        writer.set_attributes(split, SplitInfo(len(table), total, order, seed, digest).attributes())
        reports[split] = SplitReport(len(table), total, digest, plan.skipped, plan.reencoded)
    _write_selections(writer, source, plans)
    writer.set_attributes("", _info(source, plans).attributes())
    writer.close()
    return reports


def _write_selections(writer: ContainerWriter, source: Source, plans: dict[str, SplitPlan]) -> None:
    """Write which samples are in each named selection of the source."""
    if source.selections:
        writer.create_group(SELECTIONS)
    for name, splits in source.selections.items():
        writer.create_group(f"{SELECTIONS}/{name}")
        for split, names in splits.items():
            positions = selected(plans[split].table.file_name, names)
            column = Column("int64", f"selected_{split}")
            writer.write_column(f"{SELECTIONS}/{name}/{split}", positions, column)


def _info(source: Source, plans: dict[str, SplitPlan]) -> DatasetInfo:
    skipped = (
        {"split": split, "file_name": name, "reason": reason}
        for split, plan in plans.items()
        for name, reason in plan.skipped
    )
    return DatasetInfo(
        name=source.name,
        config=source.config,
        version=source.version,
        description=source.description,
        homepage=source.homepage,
        citation=source.citation,
        splits=tuple(plans),
        sources=source.origins,
        partial=source.partial,
        skipped=tuple(skipped),
        reencoded=tuple(name for plan in plans.values() for name in plan.reencoded),
        selections={name: tuple(splits) for name, splits in source.selections.items()},
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value).expanduser()
