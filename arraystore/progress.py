"""How far a long task is: a bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meter:
    """Told how far a task is; this one keeps it to itself."""

    def status(self, message: str) -> None:
        """Begin a step whose length is not known."""

    def start(self, message: str, n_images: int, n_bytes: int = 0) -> None:
        """Begin a step of so many images, and of so many bytes if it is them that take time."""

    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        """Tell that so many more are done."""


class _TerminalMeter(Meter):
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._began = time.monotonic()
        self._images = self._bytes = (0, 0)
        self._task = bar.add_task("", total=None, detail="")

    @override
    def status(self, message: str) -> None:
        # A step that is begun anew would keep its old total; one that is new has none.
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escaped(message), total=None, detail="")

    @override
    def start(self, message: str, n_images: int, n_bytes: int = 0) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escaped(message), total=n_bytes or n_images, detail="")
        self._began = time.monotonic()
        self._images, self._bytes = (0, n_images), (0, n_bytes)

    @override
    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        self._images = self._images[0] + n_images, self._images[1]
        self._bytes = self._bytes[0] + n_bytes, self._bytes[1]
        detail = f"{self._images[0]:,}/{self._images[1]:,} images"
        if self._bytes[1]:
            rate = self._bytes[0] / 1e6 / max(time.monotonic() - self._began, 1e-3)
            done, total = (n / 1e9 for n in self._bytes)
            detail += f", {done:.2f}/{total:.2f} GB, {rate:,.0f} MB/s"
        self._bar.update(self._task, advance=n_bytes or n_images, detail=detail)


@contextmanager
def meter(show: bool | None) -> Iterator[Meter]:
    """Give a meter for as long as the context lasts.

    Parameters
    ----------
    show : bool or None
        Whether to draw a bar on standard error; by default if it is a terminal.

    Yields
    ------
    Meter
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield Meter()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TextColumn("{task.fields[detail]}"),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Where it cannot be drawn over and over, what is left at the end is the one thing to see.
    with progress.Progress(*columns, console=console, transient=console.is_terminal) as bar:
        yield _TerminalMeter(bar)
