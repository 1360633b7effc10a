"""Figures as tables, on the terminal and between the markers of a Markdown page."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.suite.measures import Figures

_PAGE_WIDTH: Final = 100
"""Maximum length of a line of prose on a page."""


class Column(NamedTuple):
    """One measure in a table."""

    measure: str
    heading: str
    digits: int = 0
    compared: bool = True
    """Whether the ratio to the limit is shown as well."""
    is_cost: bool = False
    """Whether lower is better."""


class Layout(NamedTuple):
    """One table."""

    title: str
    columns: tuple[Column, ...]


LAYOUTS: Final = (
    Layout(
        "Random images, warm page cache",
        (
            Column("one", "one by one, /s"),
            Column("batch", "batch of 256, images/s"),
            Column("views", "views, images/s", compared=False),
            Column("arena", "one arena, images/s"),
        ),
    ),
    Layout(
        "In order, by label, and decoded, warm page cache",
        (
            Column("scan", "scan, MB/s"),
            Column("label", "all images of a label, ms", 2, is_cost=True),
            Column("decode", "batch decoded, images/s"),
        ),
    ),
    Layout(
        "In a new process",
        (
            Column("cold", "cold: open + batch of 256, ms", 1, is_cost=True),
            Column("cold_read", "read / wanted", 2, compared=False, is_cost=True),
            Column("new_one", "first 256, one by one, /s"),
            Column("new_batch", "first batch, images/s"),
        ),
    ),
    Layout(
        "Import over NumPy, open, convert (the same folder of images, warm)",
        (
            Column("import", "import, ms", compared=False, is_cost=True),
            Column("first", "open + one, ms", 1, compared=False, is_cost=True),
            Column("convert", "convert, s", 2, is_cost=True),
            Column("convert_and_sync", "and sync, s", 2, is_cost=True),
            Column("peak", "peak, MB", compared=False, is_cost=True),
            Column("size", "disk / data", 2, compared=False, is_cost=True),
        ),
    ),
)
"""The tables, in order."""


class Summary(NamedTuple):
    """Summary of many rounds."""

    value: float
    """Median."""
    speed: float | None
    """Median ratio to the limit's figure of the same round; 2 is twice as fast."""
    spread: float
    """Half the interquartile range, divided by the median."""


def summary(own: Sequence[float], limit: Sequence[float], column: Column) -> Summary:
    """Summarize one measure of one peer.

    Parameters
    ----------
    own, limit : sequence of float
        Figures of the peer and of the limit, one per round.
    column : Column
        The column that shows them.
    """
    value = median(own)
    speeds = [
        (b / a if column.is_cost else a / b) for a, b in zip(own, limit, strict=False) if a and b
    ]
    low, high = np.percentile(own, (25, 75)).tolist()
    spread = (high - low) / 2 / value if value else 0.0
    return Summary(value, median(speeds) if column.compared and speeds else None, spread)


def rows(figures: Figures, layout: Layout, limit: str) -> dict[str, list[str]]:
    """Return the cells of a table by peer, without peers that have no cell."""
    of_limit = figures.get(limit, {})
    found = {}
    for peer, measures in figures.items():
        cells = [
            _cell(
                summary(measures[column.measure], of_limit.get(column.measure, ()), column), column
            )
            if column.measure in measures
            else ""
            for column in layout.columns
        ]
        if any(cells):
            found[peer] = cells
    return found


def _cell(found: Summary, column: Column) -> str:
    speed = "" if found.speed is None else f" ({found.speed:.2f})"
    spread = f" ±{found.spread:.0%}" if column.compared else ""
    return f"{found.value:,.{column.digits}f}{speed}{spread}"


def show(result: Mapping[str, Any]) -> None:
    """Print all tables, at most 120 characters wide."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    for layout in LAYOUTS:
        table = Table(title=layout.title, title_justify="left")
        table.add_column("", no_wrap=True)
        found = rows(result["figures"], layout, result["limit"])
        widths = [max(map(len, cells)) for cells in zip(*found.values(), strict=True)]
        for column, width in zip(layout.columns, widths, strict=True):
            table.add_column(column.heading, justify="right", min_width=width)
        for peer, cells in found.items():
            table.add_row(peer, *cells)
        console.print(table)
    console.print(note(result), highlight=False)


def note(result: Mapping[str, Any]) -> str:
    """Return a paragraph with the date, the machine and how to read the tables."""
    machine, source, load = result["machine"], result["source"], result["load"]
    rounds = result["rounds"]
    missing = ", ".join(result["not_installed"])
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    return (
        f"{result['date']}. {source['n_images']:,} images, {source['nbytes'] / 1e9:.2f} GB, "
        f"{source['n_classes']} classes, seed {result['seed']}. Medians of {rounds['warm']} "
        f"rounds warm, {rounds['new']} in new processes, {rounds['convert']} of converting. In "
        f"parentheses: speed relative to {result['limit']}, the median of the ratios within a "
        "round; ±: half the interquartile range, as a share of the median. "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:g} GB, "
        f"{machine['kernel']}, disk: {machine['disk']}; load {load[0]:g} at the "
        f"beginning, {load[1]:g} at the end. Python {machine['python']}, {versions}."
        + (f" Not installed: {missing}." if missing else "")
    )


def markdown(result: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    parts = []
    for layout in LAYOUTS:
        headings = ["", *(column.heading for column in layout.columns)]
        lines = [headings, ["---", *["---:"] * len(layout.columns)]]
        found = rows(result["figures"], layout, result["limit"])
        lines += [[peer, *cells] for peer, cells in found.items()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**{layout.title}**\n\n{table}")
    below = textwrap.fill(note(result), _PAGE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join([*parts, below])


def write_markdown(page: Path, name: str, result: Mapping[str, Any]) -> None:
    """Replace the text between the markers of a name.

    Raises
    ------
    ValueError
        If the page does not have both.
    """
    begin, end = (f"<!-- {word} of benchmarks.suite {name} -->" for word in ("begin", "end"))
    before, found, rest = page.read_text().partition(begin)
    _, also, after = rest.partition(end)
    if not found or not also:
        raise ValueError(f"{page}: must have the lines {begin!r} and {end!r}")
    page.write_text(f"{before}{begin}\n\n{markdown(result)}\n\n{end}{after}")
