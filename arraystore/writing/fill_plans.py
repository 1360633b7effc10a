"""Create the arrays of planned splits, and fill them with images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from arraystore._threads import alongside
from arraystore.writing.fingerprint import of_images
from arraystore.writing.plan import planned_images

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from arraystore._typing import Checksums
    from arraystore.sources.sample_table import Source
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.plan import SplitPlan
    from arraystore.writing.progress import Meter
    from arraystore.writing.references import SplitReferences
    from arraystore.writing.store_writer import StoreWriter


def fill_plans(
    writer: StoreWriter,
    source: Source,
    plans: Mapping[str, SplitPlan],
    references: Mapping[str, SplitReferences],
    known: Fingerprint,
    shown: Meter,
    *,
    n_spooled: int,
    checksums: bool,
    executor: Executor | None,
) -> dict[str, Checksums]:
    """Create the arrays of splits, and copy the images that the store itself holds.

    Parameters
    ----------
    writer : StoreWriter
    source : Source
        Its tables are not used.
    plans : mapping of str to SplitPlan
    references : mapping of str to SplitReferences
        Of the splits with images that stay in other files.
    known : mapping of str to mapping of str to str
        The part of the fingerprint that is known before images are planned.
    shown : Meter
    n_spooled : int
        Bytes of the spool that were there before the images were planned.
    checksums : bool
        Whether images that stay in other files are read for their checksums.
    executor : concurrent.futures.Executor or None
        See `StoreWriter.fill`.

    Returns
    -------
    dict of str to ndarray of uint32
        Checksums of the images of each split; of one with references empty if they are not known.
    """
    own = {
        name: plan if name not in references else _own_part(plan, references[name])
        for name, plan in plans.items()
    }
    writer.create_arrays(
        {name: int(plan.table.nbytes.sum()) for name, plan in own.items()},
        {
            **known,
            **of_images(source, plans, writer.spool, start=n_spooled),
            "library": writer.container_type.libraries(),
        },
    )
    # Filling mostly waits, or runs without the interpreter's lock; planning does not.
    with alongside(writer.container_type.import_libraries) as importing:
        if executor is not None:  # it may fork processes, which needs a single thread
            importing.join()
        filled = {
            name: writer.fill(
                name, planned_images(source, writer.spool, plan), shown, executor=executor
            )
            for name, plan in own.items()
        }
        for name in references:
            images = planned_images(source, writer.spool, plans[name])
            filled[name] = (
                writer.checksums(name, images, shown, executor=executor)
                if checksums
                else np.empty(0, np.uint32)
            )
    return filled


def _own_part(plan: SplitPlan, references: SplitReferences) -> SplitPlan:
    """Return the samples of a split whose images the store itself holds."""
    return replace(plan, table=plan.table.take(np.flatnonzero(references.is_own)))
