"""Tables and lines that the command prints; `_print_line` and `_row` escape all text."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import escaped
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from arraystore.dataset.split import Split
    from arraystore.exporting.export import ExportReport
    from arraystore.reader import StoreInfo
    from arraystore.reading.image_reader import ReadPlan
    from arraystore.sources.imagenet2012_inventory import Inventory
    from arraystore.verifying.problems import ProblemGroup
    from arraystore.verifying.verify import VerifyReport
    from arraystore.writing.append import AppendReport
    from arraystore.writing.copy import CopyReport
    from arraystore.writing.report import ConvertReport


_DIGEST_DIGITS: Final = 12
_WIDTH_OF_A_FILE: Final = 10_000
"""Columns where the output is not a terminal: enough for any line."""
_MAX_NAMES: Final = 25
_MAX_LINES: Final = 20
"""Most notes, and most problems of one stored object or of the source, that are printed."""


def print_report(report: ConvertReport, *, resumed: bool = False) -> None:
    """Print the report of a conversion, without a speed if it may have been resumed."""
    console = _console()
    _print_splits(console, f"{report.dataset} → {report.path}", report, with_speed=not resumed)
    for name, split in report.splits.items():
        if split.reencoded:
            _print_line(
                console,
                f"{name}: {first_few(split.reencoded, _MAX_NAMES)} re-encoded as RGB JPEG",
            )
        _print_skipped(console, name, split.skipped)
    if report.was_complete:
        _print_line(console, "The store was already complete; nothing was converted.")
    _print_notes(console, report.notes)
    if report.partial:
        _print_line(console, "The source was incomplete; the store is marked as partial.")


def _print_skipped(console: Console, split: str, skipped: Sequence[tuple[str, str]]) -> None:
    """Print the first images that were left out, and why."""
    if skipped:
        n = len(skipped)
        _print_line(console, f"{split}: {n:,} image{'s' if n > 1 else ''} skipped:")
        for file_name, reason in skipped[:10]:
            _print_line(console, f"  {file_name}: {reason}")


def print_append(report: AppendReport) -> None:
    """Print the report of appended samples."""
    console = _console()
    added = report.added
    what = f"{added.num_samples:,} samples" if report.part else "no samples"
    part = f" as {report.part}" if report.part else ""
    _print_line(console, f"{what} → {report.path}{part}  ({report.seconds:.1f} s)")
    _print_line(
        console,
        f"{report.split}: {report.num_samples:,} samples, digest "
        f"{report.content_digest[:_DIGEST_DIGITS]}",
    )
    if n := report.num_replaced:
        _print_line(console, f"{n:,} sample{'s were' if n > 1 else ' was'} replaced")
    if n := report.num_existing:
        what = "s were left out: their names exist" if n > 1 else " was left out: its name exists"
        _print_line(console, f"{n:,} sample{what}")
    if added.reencoded:
        _print_line(console, f"{first_few(added.reencoded, _MAX_NAMES)} re-encoded as RGB JPEG")
    for file_name, reason in added.skipped[:10]:
        _print_line(console, f"skipped {file_name}: {reason}")
    if report.was_complete:
        _print_line(console, "The samples had been appended before; nothing was written.")
    _print_notes(console, report.notes)


def print_copy(report: CopyReport) -> None:
    """Print the report of a copy."""
    console = _console()
    _print_splits(console, f"{report.source} → {report.path}", report)
    if report.left_out:
        _print_line(console, f"Not copied: {', '.join(report.left_out)}")
    _print_notes(console, report.notes)


def print_export(report: ExportReport, selection: str, output: str) -> None:
    """Print the report of an export of a selection."""
    console = _console()
    _print_line(
        console,
        f"{output}: {report.num_samples:,} images of {selection} as {report.format}  "
        f"({report.seconds:.1f} s)",
    )
    for name, split in report.splits.items():
        digest = split.content_digest[:_DIGEST_DIGITS]
        line = f"{name}: {split.num_samples:,} images, {split.num_bytes:,} bytes, digest {digest}"
        _print_line(console, f"  {line}")
        _print_skipped(console, f"  {name}", split.skipped)
    if report.num_resumed:
        _print_line(console, f"  {report.num_resumed:,} shards were written before")
    if not report.has_checksums:
        _print_line(console, "  images were not compared with checksums")
    if report.left_out:
        _print_line(console, f"  columns that were not written: {', '.join(report.left_out)}")


def print_verification(report: VerifyReport) -> None:
    """Print the report of a verification."""
    console = _console()
    if report.splits:
        _print_splits(console, f"{report.store}: {report.dataset}", report)
    shown = _first_of_each_place(report.groups)
    for group in shown:
        console.print(str(group), soft_wrap=True)
    n = report.num_problems
    n_shown = sum(group.count for group in shown)
    if n > n_shown:
        console.print(f"… and {n - n_shown:,} more")
    done = ["read", *(["decoded"] if report.decoded else [])]
    done += [f"compared with {report.source}"] if report.source else []
    found = f"{n:,} problem{'s' if n > 1 else ''}" if n else "no problems"
    found += " (--json lists each)" if n > len(shown) else ""
    if report.splits:
        _print_line(console, f"Images {_listed(done)}: {found}.")
    for split, number in report.not_in_source.items():
        if number:
            _print_line(console, f"{split}: the source does not have {number:,} of its samples.")


def _first_of_each_place(groups: Sequence[ProblemGroup]) -> list[ProblemGroup]:
    """Return the first groups of each stored object, and of problems without an object."""
    found: Counter[tuple[str, str]] = Counter()
    shown = []
    for group in groups:
        place = group.first.split, group.first.key
        found[place] += 1
        if found[place] <= _MAX_LINES:
            shown.append(group)
    return shown


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes[:_MAX_LINES]:
        _print_line(console, note)
    if len(notes) > _MAX_LINES:
        _print_line(console, f"… and {len(notes) - _MAX_LINES:,} more notes (--json lists each)")


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _print_splits(
    console: Console,
    title: str,
    report: ConvertReport | CopyReport | VerifyReport,
    *,
    with_speed: bool = True,
) -> None:
    """Print a title with time and speed, and a row for each split."""
    table = _table("split", ">images", ">bytes", "digest")
    for name, split in report.splits.items():
        counts = f"{split.num_samples:,}", f"{split.num_bytes:,}"
        _row(table, name, *counts, split.content_digest[:_DIGEST_DIGITS])
    n_bytes = sum(split.num_bytes for split in report.splits.values())
    speed = f", {n_bytes / 1e6 / report.seconds:,.0f} MB/s" if with_speed else ""
    _print_line(console, f"{title}  ({report.seconds:.1f} s{speed})")
    console.print(table)


def print_info(address: str, info: StoreInfo) -> None:
    """Print the metadata of a store."""
    console = _console()
    facts = _table("", "", header=False)
    for name, value in {
        "data set": info.full_name,
        "description": info.description,
        "homepage": info.homepage,
        "classes": f"{len(info.label_names):,}"
        + (", with a hierarchy (ls --is-a)" if info.label_hierarchy else ""),
        "sources": "\n".join(f"{escaped(name)} ({size:,} bytes)" for name, size in info.sources),
        "re-encoded": first_few(info.reencoded, _MAX_NAMES) if info.reencoded else "",
        "skipped": first_few([row.get("file_name", "") for row in info.skipped])
        if info.skipped
        else "",
        "selections": ", ".join(
            f"{name} (of {', '.join(splits)})" for name, splits in info.selections.items()
        ),
        "columns": "\n".join(
            escaped(f"{split}/{name}: {summary}")
            for split, columns in info.columns.items()
            for name, summary in columns.items()
        ),
        "in other files": f"images of {', '.join(info.references)}" if info.references else "",
        "parts": "\n".join(f"{split}: {', '.join(groups)}" for split, groups in info.parts.items()),
        "complete": "no; samples were missing in the sources" if info.partial else "yes",
        "format": f"{info.format_version}, written by {info.writer}",
    }.items():
        if value:
            _row(facts, name, value, keep="\n")
    splits = _table("split", ">images", ">bytes", ">mean bytes", "order", ">seed", "digest")
    for name, split in info.splits.items():
        mean = split.num_bytes // split.num_samples if split.num_samples else 0
        counts = f"{split.num_samples:,}", f"{split.num_bytes:,}", f"{mean:,}"
        digest = split.content_digest[:_DIGEST_DIGITS] if split.has_checksums else "unchecked"
        _row(splits, name, *counts, split.order, str(split.seed), digest)
    _print_line(console, address)
    console.print(facts)
    console.print(splits)
    if info.citation:
        _print_line(console, "Cite as:\n" + info.citation.rstrip(), keep="\n\t")


def print_inventory(inventory: Inventory) -> None:
    """Print what a folder has of ImageNet."""
    console = _console()
    table = _table("split", "read", "form", "path", "missing")
    for found in inventory.forms:
        form = found.form or "not found"
        missing = found.missing or "nothing, by names and sizes"
        _row(table, found.split, "yes" if found.is_read else "", form, found.path, missing)
    _print_line(console, f"{inventory.folder}: ImageNet (ILSVRC 2012)")
    console.print(table)
    for name, place in inventory.lists.items():
        _print_line(console, f"list of {name}: {place}")
    _print_line(console, "The test split is needed for version 5.1.0 alone.")
    _print_line(
        console,
        f"Convert it with: arraystore convert imagenet2012 TARGET --manual-dir {inventory.folder}",
    )


def rows(split: Split, limit: int) -> Iterator[dict[str, Any]]:
    """Yield the first samples of a split as mappings; positions count in the stored split."""
    first = slice(limit)
    places: dict[int, tuple[str, int]] = {}
    for stored, positions, which in split._sample_set.locate(np.arange(limit, dtype=np.int64)):
        places |= zip(which, ((stored.name, at) for at in positions.tolist()), strict=True)
    for i, label, name, height, width, nbytes in zip(
        range(limit),
        split.label[first].tolist(),
        split.file_name[first].tolist(),
        split.image_height[first].tolist(),
        split.image_width[first].tolist(),
        split.image_nbytes[first].tolist(),
        strict=True,
    ):
        has_label = label >= 0
        yield {
            "split": places[i][0],
            "position": places[i][1],
            "file_name": name,
            "label": label,
            "label_name": split.label_names[label] if has_label else None,
            "label_words": split.label_words[label] if has_label else None,
            "height": height,
            "width": width,
            "nbytes": nbytes,
        }


def print_rows(split: Split, limit: int) -> None:
    """Print the first samples of a split."""
    console = _console()
    shown = list(rows(split, limit))
    first = ("split",) if len({row["split"] for row in shown}) > 1 else ()
    table = _table(*first, ">position", "file name", ">label", "class", ">pixels", ">bytes")
    for row in shown:
        _row(
            table,
            *(row[name] for name in first),
            str(row["position"]),
            row["file_name"],
            str(row["label"]),
            (row["label_words"] or "").split(", ")[0] or row["label_name"] or "",
            f"{row['width']} x {row['height']}",
            f"{row['nbytes']:,}",
        )
    console.print(table)
    if limit < len(split):
        _print_line(console, f"{limit:,} of {len(split):,} samples of {split.name}")


def print_plan(split: Split, plan: ReadPlan) -> None:
    """Print how much reading all encoded images of a split requests."""
    console, table = _console(), _table(">samples", ">objects", ">requests", ">bytes", ">wanted")
    _row(table, *(f"{number:,}" for number in (len(split), *plan)))
    _print_line(console, f"Reading the encoded images of {split.name} takes")
    console.print(table)


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    # File names may contain text that rich would read as markup or as the name of an emoji.
    return Console(markup=False, emoji=False, highlight=False, width=width)


def _print_line(console: Console, text: str, *, keep: str = "") -> None:
    """Print a line, or several if `keep` contains the line feed."""
    console.print(escaped(text, keep=keep), soft_wrap=bool(keep))


def _row(table: Table, *cells: str, keep: str = "") -> None:
    """Add a row; its cells may have several lines if `keep` contains the line feed."""
    table.add_row(*(escaped(cell, keep=keep) for cell in cells))


def _table(*columns: str, header: bool = True) -> Table:
    """Return a table; a column whose title begins with ``>`` is right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
    for title in columns:
        right = title.startswith(">")
        # Text that is too long wraps; numbers are never shortened.
        table.add_column(
            title.lstrip(">"),
            justify="right" if right else "left",
            no_wrap=right or title == "digest",
            overflow="fold",
        )
    return table
