"""Checks of a split that samples were appended to: what the root states of all parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arraystore.indexing.layout import content_digest
from arraystore.indexing.packed_names import repeated
from arraystore.schema import UNCHECKED
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.dataset.split import Split
    from arraystore.schema import SplitParts


def part_faults(split: Split, parts: SplitParts) -> Iterator[str]:
    """Yield the faults of all parts together; each part was checked.

    Parameters
    ----------
    split : Split
        All samples.
    parts : SplitParts
        What the root states.
    """
    names = split.file_name.tolist()
    if twice := repeated(names):
        yield f"{first_few(twice)} occur more than once; file names must be unique in all parts"
    nbytes = split.image_nbytes
    if (found := int(nbytes.sum())) != parts.num_bytes:
        yield f"num_bytes of all parts must be {parts.num_bytes}, got {found}"
    digest = content_digest(names, split.label, nbytes, split._stored_checksums())
    if not split.has_checksums:
        digest = UNCHECKED + digest
    if digest != parts.content_digest:
        yield f"content_digest of all parts must be {parts.content_digest}, got {digest}"
