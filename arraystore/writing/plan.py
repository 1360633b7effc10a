"""Plan a split: probe or decode its images, re-encode those that need it, and decide their order.

Images that cannot be stored are found here, before the first byte is written.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._threads import n_cpus
from arraystore.errors import SourceError
from arraystore.images.decode import UNKNOWN_COLOURS, check_decodes, import_decoders
from arraystore.images.jpeg import (
    PIECE_NBYTES,
    SIGNATURE,
    Colours,
    plain_frame_sizes,
)
from arraystore.images.probe import ImageHeader, probe
from arraystore.images.reencode import needs_reencoding, reencode_as_jpeg
from arraystore.indexing.layout import sample_order
from arraystore.parallel.executors import Workers
from arraystore.schema import ORDERS
from arraystore.sources.sample_table import first_few
from arraystore.storage.file_bytes import FileBytes
from arraystore.storage.file_states import FileStates
from arraystore.storage.open_files import read_at
from arraystore.writing.image_source import FileRanges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.sources.sample_table import SampleTable, Source
    from arraystore.writing.progress import Meter

_MAX_PLAIN_PIXELS: Final = 2**26
"""Larger images are compared with Pillow's limit."""

_PROBERS: Final = 2
_REMOTE_PROBERS: Final = 4
_REMOTE_START_NBYTES: Final = 2**12  # of each image, requested for its header
_REMOTE_NBYTES: Final = 2**24  # of images that are requested whole at a time
_SAMPLE: Final = 8
_BATCH: Final = 512
_SENT_BATCH: Final = 2048  # to another process, which takes a millisecond or more
_DECODED_BATCH: Final = 32  # decoding takes longer than probing


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """A split as it will be stored.

    Attributes
    ----------
    table : SampleTable
        The samples in their order; `SampleTable.file` indexes the source's files
        and, one beyond them, the spool.
    height, width : ndarray of int32, shape (n,)
        From the images' headers.
    skipped : tuple of (str, str)
        File name of each image left out, and the reason.
    reencoded : tuple of str
        File name of each re-encoded image.
    selections : mapping of str to ndarray of int64
        Positions of the samples in each named subset, ascending.
    order : str
        One of `arraystore.schema.ORDERS`.
    seed : int
        Seed of the shuffled order; 0 in the others.
    notes : tuple of str
        What was assumed about images.
    descriptions : mapping of str to str
        Descriptions of further columns, by name.
    """

    table: SampleTable
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    skipped: tuple[tuple[str, str], ...]
    reencoded: tuple[str, ...]
    selections: Mapping[str, Ints]
    order: str
    seed: int
    notes: tuple[str, ...] = ()
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Probed:
    """What the headers of the images of a split state.

    Attributes
    ----------
    height, width : ndarray of int32, shape (n,)
    to_reencode : list of int
        Rows of images to re-encode.
    faults : dict of int to str
        What is wrong with the image of a row.
    unmarked : list of int
        Rows of images of four components without an Adobe marker.
    doubtful : list of int
        Rows of images that decode with warnings.
    """

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    to_reencode: list[int] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    unmarked: list[int] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, n: int) -> _Probed:
        """Return a record of `n` images that are to be probed."""
        return cls(np.zeros(n, np.int32), np.zeros(n, np.int32))

    def add(self, i: int, header: ImageHeader | str, is_sound: bool, is_reencoded: bool) -> None:
        """Add the header of the image of a row, or its fault."""
        if isinstance(header, str):
            self.faults[i] = header
            return
        self.height[i], self.width[i] = header.height, header.width
        if is_reencoded:
            self.to_reencode.append(i)
        elif header.colours is Colours.UNKNOWN:
            self.faults[i] = UNKNOWN_COLOURS
        if header.colours is not Colours.STATED:
            self.unmarked.append(i)
        if not is_sound:
            self.doubtful.append(i)

    def merge(self, rows: Ints, part: _Probed) -> None:
        """Add what was found of some rows."""
        self.height[rows], self.width[rows] = part.height, part.width
        self.to_reencode.extend(rows[part.to_reencode].tolist())
        self.unmarked.extend(rows[part.unmarked].tolist())
        self.doubtful.extend(rows[part.doubtful].tolist())
        self.faults.update((int(rows[i]), fault) for i, fault in part.faults.items())


def plan_splits(source: Source, spool: Path, meter: Meter, **how: Any) -> dict[str, SplitPlan]:
    """Plan all splits of a source.

    Parameters
    ----------
    source : Source
    spool : Path
        File of the source's images that are in none of its files; re-encoded ones follow.
    meter, **how
        See `plan_split`.
    """
    with spool.open("ab") as file:  # behind what the source has written
        return {name: plan_split(source, name, file, meter=meter, **how) for name in source.splits}


def planned_images(source: Source, spool: Path, plan: SplitPlan) -> FileRanges:
    """Return the images of a split as ranges of the source's files and of the spool."""
    table = plan.table
    states = source.states.first(len(source.files))
    if len(source.files) in table.file:
        states = states.joined(FileStates.of([str(spool)]))
    return FileRanges(states.paths, table.file, table.offset, table.nbytes, states)


def plan_split(
    source: Source,
    name: str,
    spool: BinaryIO,
    *,
    order: str,
    seed: int,
    on_error: str,
    meter: Meter,
    check_images: bool = False,
    executor: Executor | None = None,
) -> SplitPlan:
    """Probe all images of a split and decide their order.

    Parameters
    ----------
    source : Source
    name : str
        The split.
    spool : binary file
        That of the source, or an empty one. Re-encoded images are appended to it.
    order, seed
        See `arraystore.indexing.layout.sample_order`.
    on_error : {"raise", "skip"}
    meter : Meter
    check_images : bool, default False
        Whether to decode the images.
    executor : concurrent.futures.Executor, optional
        Reads the headers; threads by default.

    Returns
    -------
    SplitPlan

    Raises
    ------
    SourceError
        If images cannot be read, and `on_error` is ``"raise"``; the message has their number and
        the name, location and fault of the first.
    """
    table = source.splits[name]
    meter.start(f"{name}: {'decoding' if check_images else 'probing'} images", len(table))
    probed = _probe(source, table, meter, check_images=check_images, executor=executor)
    faults = {**probed.faults, **source.faults.get(name, {})}
    spooled = _reencode(source, table, probed.to_reencode, spool, faults)
    if faults and on_error == "raise":
        i, *others = sorted(faults)
        names = [table.file_name[j] for j in others]
        where = _location(source, name, i)
        split = "" if where.startswith(f"{name}: ") else f" (in {name})"
        raise SourceError(
            f"{where}: {faults[i]}"
            + (f"; {len(others)} more in {name}: {first_few(names)}" if others else split)
            + "; pass on_error='skip' (--on-error skip) to leave such images out"
        )
    keep = np.delete(np.arange(len(table)), sorted(faults))
    keep = keep[sample_order(order, seed, table.file_name.take(keep), table.label[keep])]
    stored = table.take(keep)
    for position in np.flatnonzero(np.isin(keep, np.array(list(spooled), np.int64))).tolist():
        stored.file[position] = len(source.files)
        stored.offset[position], stored.nbytes[position] = spooled[int(keep[position])]
    return SplitPlan(
        table=stored,
        height=probed.height[keep],
        width=probed.width[keep],
        skipped=tuple((table.file_name[i], faults[i]) for i in sorted(faults)),
        reencoded=tuple(table.file_name[i] for i in probed.to_reencode if i not in faults),
        selections={
            selection: _selected(splits[name], keep, len(table))
            for selection, splits in source.selections.items()
            if name in splits
        },
        order=order,
        seed=seed if order == ORDERS[0] else 0,
        notes=_notes(source, name, probed, faults),
    )


def _notes(
    source: Source, split: str, probed: _Probed, faults: Mapping[int, str]
) -> tuple[str, ...]:
    """Say what was assumed about images, and which may be damaged."""

    def names(rows: list[int]) -> str:
        return first_few([source.splits[split].file_name[i] for i in rows])

    notes = []
    if unmarked := [i for i in probed.unmarked if i not in faults]:
        how = (
            "they were re-encoded as TensorFlow decodes them: not inverted"
            if source.reencode
            else "they decode as Pillow decodes them: inverted"
        )
        notes.append(f"{split}: {names(unmarked)} CMYK without an Adobe marker; {how}")
    if probed.doubtful:
        notes.append(
            f"{split}: {names(probed.doubtful)} with warnings of the JPEG decoder; they decode, "
            "but parts of them may be missing or damaged"
        )
    return tuple(notes)


def _probe(
    source: Source,
    table: SampleTable,
    meter: Meter,
    *,
    check_images: bool,
    executor: Executor | None,
) -> _Probed:
    """Read the header of every image, and decode the images if they are to be checked."""
    probed = _Probed.empty(len(table))
    n_probers = n_cpus() if check_images else _n_probers(source, table)
    size = _DECODED_BATCH if check_images else _BATCH if executor is None else _SENT_BATCH
    here: Sequence[int] | Ints = range(len(table))
    others: Sequence[int] | Ints = range(0)
    if table.frames is not None and not check_images:
        is_plain = _are_plain(table.frames)
        probed.height[:], probed.width[:] = np.where(is_plain[:, None], table.frames, 0).T
        here = np.flatnonzero(~is_plain)
        meter.advance(len(table) - len(here))
    if executor is not None:
        is_spooled = table.file[here] == len(source.files)  # other machines may not have the spool
        here, others = np.asarray(here)[is_spooled], np.asarray(here)[~is_spooled]
    import_decoders()
    with Workers(executor, n_threads=n_probers, max_in_flight=2 * n_probers) as workers:
        for all_rows, is_here in ((others, False), (here, True)):
            starts = range(0, len(all_rows), size)
            batches = (np.asarray(all_rows[first : first + size]) for first in starts)
            tasks = (
                (rows, _ProbeTask.of(source, table, rows, check_images, is_here=is_here))
                for rows in batches
            )
            with closing(workers.run(_probe_rows, tasks, here=is_here)) as found:
                for rows, part in found:
                    probed.merge(rows, part)
                    meter.advance(len(rows))
    probed.to_reencode.sort()
    probed.unmarked.sort()
    probed.doubtful.sort()
    return probed


@dataclass(frozen=True, slots=True)
class _ProbeTask:
    """Images to probe.

    Attributes
    ----------
    states : FileStates
        The files.
    spool : str
        Path of one more file, whose number is `n_files`.
    n_files : int
    file, offset, nbytes : ndarray of integers, shape (n,)
        Place of each image.
    reencode : bool
        See `Source`.
    check_images : bool
        Whether to decode the images.
    """

    states: FileStates
    spool: str
    n_files: int
    file: NDArray[np.integer[Any]]
    offset: Ints
    nbytes: Ints
    reencode: bool
    check_images: bool

    @classmethod
    def of(
        cls, source: Source, table: SampleTable, rows: Ints, check_images: bool, *, is_here: bool
    ) -> _ProbeTask:
        """Return the task of probing some rows; it names only their files if it is sent away."""
        columns = table.file[rows], table.offset[rows], table.nbytes[rows]
        how = source.reencode, check_images
        if is_here:
            spool = "" if source.spool is None else str(source.spool)
            return cls(source.states, spool, len(source.files), *columns, *how)
        used, file = np.unique(columns[0].astype(np.int64), return_inverse=True)
        states = source.states.take(used).portable()
        return cls(states, "", len(states), file, *columns[1:], *how)


def _n_probers(source: Source, table: SampleTable) -> int:
    """Return the number of threads to probe with: one if the files are cached, else more.

    Threads that never wait for a disk or a network only compete for the interpreter.
    """
    rows = slice(None, None, max(1, len(table) // _SAMPLE))
    columns = (table.file[rows], table.offset[rows], table.nbytes[rows])
    files = source.reader()
    probers = 1
    for number, offset, nbytes in zip(*(column.tolist() for column in columns), strict=True):
        if nbytes and files.is_remote(number):
            return _REMOTE_PROBERS
        with suppress(PermissionError):  # a fault of the image
            if nbytes and not files.opened(number).is_cached(offset, unknown=False):
                probers = _PROBERS
    return probers


def _probe_rows(task: _ProbeTask) -> _Probed:
    """Return what the headers of some images state, with rows counted from the first of them."""
    file, offset, nbytes = task.file, task.offset, task.nbytes
    check_images = task.check_images
    files = FileBytes(task.states, task.spool, task.n_files)
    if not check_images:
        files.fetch(file, offset, np.minimum(nbytes, _REMOTE_START_NBYTES))
    probed = _Probed.empty(len(file))
    whole: list[int] = []
    has_remote = files.has_remote
    places = list(zip(file.tolist(), offset.tolist(), nbytes.tolist(), strict=True))
    is_plain = np.zeros(len(file), np.bool_)
    if not has_remote and not check_images:
        sizes = plain_frame_sizes([_first_bytes(files, *place) for place in places])
        is_plain = _are_plain(sizes)
        probed.height[is_plain], probed.width[is_plain] = sizes[is_plain].T
    for i in np.flatnonzero(~is_plain).tolist():
        place = places[i]
        is_remote = has_remote and place[2] and files.is_remote(place[0])
        if is_remote and (check_images or not _is_jpeg(files, *place)):
            whole.append(i)
        else:
            probed.add(i, *_header(task, files, *place))
    # Images that are read whole are requested together.
    for some in _groups(whole, nbytes):
        files.fetch(file[some], offset[some], nbytes[some])
        for i in some:
            probed.add(i, *_header(task, files, int(file[i]), int(offset[i]), int(nbytes[i])))
    return probed


def _are_plain(frames: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return which frame headers were found, and state fewer pixels than Pillow's limit."""
    height, width = frames.astype(np.int64).T
    is_plain: NDArray[np.bool_] = (height > 0) & (height * width <= _MAX_PLAIN_PIXELS)
    return is_plain


def _header(
    task: _ProbeTask, files: FileBytes, number: int, offset: int, nbytes: int
) -> tuple[ImageHeader | str, bool, bool]:
    """Return the header of an image or its fault, and whether it is sound and is re-encoded."""
    if not nbytes:
        return "is empty (0 bytes)", False, False
    is_sound = True
    try:
        header = probe(lambda start, stop: files.read(number, offset + start, stop - start), nbytes)
        is_reencoded = task.reencode and needs_reencoding(header)
        if task.check_images and not is_reencoded:  # re-encoding decodes the others
            is_sound = check_decodes(files.read(number, offset, nbytes))
    except PermissionError as error:
        return f"cannot be read: {error.strerror}", False, False
    except ValueError as error:
        if isinstance(error, SourceError):  # the file has changed: not a fault of the image
            raise
        return str(error), False, False
    return header, is_sound, is_reencoded


def _first_bytes(files: FileBytes, number: int, offset: int, nbytes: int) -> bytes:
    """Return the beginning of an image on the disk; nothing if it may not be read."""
    try:
        return read_at(files.opened(number), offset, min(nbytes, PIECE_NBYTES)) if nbytes else b""
    except PermissionError:  # a fault of the image, which is found when its header is read
        return b""


def _is_jpeg(files: FileBytes, number: int, offset: int, nbytes: int) -> bool:
    start = files.read(number, offset, min(nbytes, len(SIGNATURE)))
    return bytes(start) == SIGNATURE


def _groups(rows: list[int], nbytes: Ints) -> Iterator[list[int]]:
    """Divide rows so that the images of each group have some megabytes."""
    group: list[int] = []
    total = 0
    for i in rows:
        if group and total + int(nbytes[i]) > _REMOTE_NBYTES:
            yield group
            group, total = [], 0
        group.append(i)
        total += int(nbytes[i])
    if group:
        yield group


def _reencode(
    source: Source,
    table: SampleTable,
    rows: list[int],
    spool: BinaryIO,
    faults: dict[int, str],
) -> dict[int, tuple[int, int]]:
    """Append images as RGB JPEGs to the spool; return offset and size of each row there."""
    spooled = {}
    files = source.reader()
    for i in rows:
        place = (int(column[i]) for column in (table.file, table.offset, table.nbytes))
        data = bytes(files.read(*place))
        try:
            data = reencode_as_jpeg(data)
        except ValueError as error:
            faults[i] = str(error)
            continue
        spooled[i] = spool.tell(), len(data)
        spool.write(data)
    spool.flush()
    return spooled


def _selected(rows: Ints, keep: Ints, n: int) -> Ints:
    """Return the positions at which `keep` holds one of some rows of a table of `n` rows."""
    is_selected = np.zeros(n, dtype=np.bool_)
    is_selected[rows] = True
    return np.flatnonzero(is_selected[keep])


def _location(source: Source, split: str, i: int) -> str:
    table = source.splits[split]
    name = table.file_name[i]
    if table.file[i] == len(source.files):  # the spool, which is gone when this is read
        return f"{source.location(split, i)}: {name}"
    path, offset = source.place(int(table.file[i])), int(table.offset[i])
    return f"{path}" if offset == 0 else f"{path}: {name} (at byte {offset:,})"
