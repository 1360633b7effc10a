"""The `Source` of samples that were collected from shards, tables or Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arraystore.sources.classes import resolve
from arraystore.sources.sample_table import Source
from arraystore.storage.file_states import NO_FILES, FileStates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arraystore.sources.classes import Classes
    from arraystore.sources.sample_collector import SampleCollector
    from arraystore.sources.spool import Spool
    from arraystore.storage.buckets import SourcePath


def assemble(
    where: str,
    name: str,
    description: str,
    collectors: Mapping[str, SampleCollector],
    *,
    classes: Classes | None,
    files: Sequence[SourcePath],
    states: FileStates = NO_FILES,
    origins: Sequence[tuple[str, int]],
    spool: Spool | None,
    content: str = "",
    notes: Sequence[str] = (),
    damage: Sequence[str] = (),
    partial: bool = False,
) -> Source:
    """Resolve the labels of all splits, and build a source.

    Parameters
    ----------
    where : str
        What to call the source in messages.
    name, description : str
    collectors : mapping of str to SampleCollector
        The samples of each split.
    classes : Classes, optional
        As the caller or the data set states them; otherwise labels must be names.
    files, states, origins, spool, content, notes, damage, partial
        See `Source`.

    Raises
    ------
    SourceError
        If a label is not among the classes, a file name occurs twice in a split, or cannot be
        stored.
    """
    resolved = resolve(where, {split: c.labels for split, c in collectors.items()}, classes)
    tables = {
        split: collector.table(resolved.labels[split], len(files), where)
        for split, collector in collectors.items()
    }
    generated = [note for collector in collectors.values() for note in collector.note]
    return Source(
        name=name,
        config="",
        version="",
        description=description,
        homepage="",
        citation="",
        label_name=resolved.classes.names,
        label_words=resolved.classes.words,
        files=tuple(files),
        splits=tables,
        origins=tuple(origins),
        partial=partial,
        notes=(*damage, *notes, *resolved.notes, *generated),
        damage=tuple(damage),
        hierarchy=resolved.classes.hierarchy,
        states=states,
        spool=spool.path if spool is not None and spool.nbytes else None,
        content=content,
        faults={split: c.faults for split, c in collectors.items() if c.faults},
        parts={split: tuple(c.parts) for split, c in collectors.items()},
    )
