"""Seal a store: write its columns and attributes, the format version last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore.errors import SourceError
from arraystore.indexing.layout import content_digest, image_starts, label_index
from arraystore.schema import (
    COLUMNS,
    HIERARCHY,
    HIERARCHY_COLUMNS,
    HIERARCHY_VERSION,
    MAX_NBYTES,
    REFERENCE_COLUMNS,
    ROOT_COLUMNS,
    SELECTIONS,
    UNCHECKED,
    USER_COLUMNS,
    USER_COLUMNS_VERSION,
    Column,
    DatasetInfo,
    SplitInfo,
)
from arraystore.writing.new_column import as_new_column
from arraystore.writing.report import SplitReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.sources.sample_table import Source
    from arraystore.writing.plan import SplitPlan
    from arraystore.writing.references import SplitReferences


def seal(
    container: ContainerWriter,
    source: Source,
    plans: Mapping[str, SplitPlan],
    checksums: Mapping[str, Checksums],
    references: Mapping[str, SplitReferences] | None = None,
) -> dict[str, SplitReport]:
    """Write columns and attributes of a store whose groups and payloads exist.

    Parameters
    ----------
    container : ContainerWriter
    source : Source
        Its tables are not used, and may be empty.
    plans : mapping of str to SplitPlan
        The plan of each split.
    checksums : mapping of str to ndarray of uint32, shape (n,)
        CRC-32C of the images of each split; of a split with references empty if not known.
    references : mapping of str to SplitReferences, optional
        The splits with images that stay in other files.

    Returns
    -------
    dict of str to SplitReport
    """
    for name, texts in (("label_name", source.label_name), ("label_words", source.label_words)):
        container.write_column(name, texts, ROOT_COLUMNS[name])
    reports, needs_newer = {}, False
    for split, plan in plans.items():
        table, crc = plan.table, checksums[split]
        referenced = None if references is None else references.get(split)
        prefix = ""
        if len(crc) < len(table):  # they are not known
            crc, prefix = np.zeros(len(table), np.uint32), UNCHECKED
        digest = prefix + content_digest(table.file_name, table.label, table.nbytes, crc)
        values: dict[str, Any] = {
            "image_start": (image_starts(table.nbytes) if referenced is None else referenced.start),
            "image_nbytes": table.nbytes,
            "image_height": plan.height,
            "image_width": plan.width,
            "image_crc32c": crc,
            "label": table.label,
            "file_name": table.file_name,
        }
        for name, column in COLUMNS.items():
            if name not in values:  # the index comes last and is computed late, to save memory
                order_and_bounds = label_index(table.label, len(source.label_name))
                values |= zip(("label_order", "label_indptr"), order_and_bounds, strict=True)
            container.write_column(f"{split}/{name}", values.pop(name), column)
        if referenced is not None:
            _write_references(container, split, referenced)
        if table.extra:
            container.create_group(f"{split}/{USER_COLUMNS}")
        for name, extra in table.extra.items():
            new = as_new_column(extra, name, len(table), ragged=isinstance(extra, list))
            description = plan.descriptions.get(name, "")
            new.write(container, f"{split}/{USER_COLUMNS}/{name}", description)
            needs_newer |= not new.is_simple
        if referenced is None:
            # CF conventions, contiguous ragged array: this is the count variable of `byte`.
            container.set_attributes(f"{split}/image_nbytes", {"sample_dimension": "byte"})
        total = int(table.nbytes.sum())
        is_referenced = referenced is not None
        info = SplitInfo(len(table), total, plan.order, plan.seed, digest, is_referenced)
        container.set_attributes(split, info.attributes())
        reports[split] = SplitReport(len(table), total, digest, plan.skipped, plan.reencoded)
    if source.hierarchy is not None:
        _write_hierarchy(container, source.hierarchy)
    _write_selections(container, source, plans)
    info_of_all = replace(dataset_info(source, plans), references=tuple(references or ()))
    attributes = info_of_all.attributes()
    if needs_newer:
        attributes["format_version"] = ".".join(map(str, USER_COLUMNS_VERSION))
    container.set_attributes("", attributes)
    return reports


def _write_references(container: ContainerWriter, split: str, references: SplitReferences) -> None:
    """Write the columns of images in other files."""
    for name, values in references.columns().items():
        container.write_column(f"{split}/{name}", values, REFERENCE_COLUMNS[name])


def _write_selections(
    container: ContainerWriter, source: Source, plans: Mapping[str, SplitPlan]
) -> None:
    """Write the positions of each named selection of the source."""
    if source.selections:
        container.create_group(SELECTIONS)
    for name, splits in source.selections.items():
        container.create_group(f"{SELECTIONS}/{name}")
        for split in splits:
            positions = plans[split].selections[name]
            column = Column("int64", f"selected_{split}")
            container.write_column(f"{SELECTIONS}/{name}/{split}", positions, column)


def _write_hierarchy(container: ContainerWriter, hierarchy: Hierarchy) -> None:
    """Write the ancestors of the classes."""
    container.create_group(HIERARCHY)
    if hierarchy.notice:
        container.set_attributes(HIERARCHY, {"notice": hierarchy.notice})
    for name, column in HIERARCHY_COLUMNS.items():
        values: Any = getattr(hierarchy, "names" if name == "name" else name)
        container.write_column(f"{HIERARCHY}/{name}", values, column)


def dataset_info(source: Source, plans: Mapping[str, SplitPlan]) -> DatasetInfo:
    """Return the attributes of the store of a source.

    Raises
    ------
    SourceError
        If more images are left out or re-encoded than the attributes of a store can list.
    """
    skipped = (
        {"split": split, "file_name": name, "reason": reason}
        for split, plan in plans.items()
        for name, reason in plan.skipped
    )
    info = DatasetInfo(
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
        label_hierarchy=HIERARCHY_VERSION if source.hierarchy is not None else "",
    )
    check_listed(info)
    return info


def check_listed(info: DatasetInfo) -> None:
    """Raise `SourceError` if the attributes of a root would be longer than is read of them."""
    nbytes = sum(len(str(value).encode()) for value in info.attributes().values())
    if nbytes > MAX_NBYTES // 2:  # escaped once more in a JSON document, they take more
        raise SourceError(
            f"{info.full_name}: {len(info.skipped):,} images cannot be read and "
            f"{len(info.reencoded):,} must be re-encoded, more than a store can list; repair the "
            "source"
        )
