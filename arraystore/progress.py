"""How far a long task is: a bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meter:
    """Told how far a task is; this one keeps it to itself."""

    def status(self, message: str) -> None:
        """Begin a step whose length is not known."""

    def start(self, message: str, n_images: int, n_bytes: int) -> None:
        """Begin a step of so many images and bytes."""

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Tell that so many more are done."""


class _TerminalMeter(Meter):
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, images="")
        self._n_images = self._total = 0

    @override
    def status(self, message: str) -> None:
        self._bar.reset(self._task, description=message, total=None, images="")

    @override
    def start(self, message: str, n_images: int, n_bytes: int) -> None:
        self._n_images, self._total = 0, n_images
        self._bar.reset(self._task, description=message, total=n_bytes, images="")

    @override
    def advance(self, n_images: int, n_bytes: int) -> None:
        self._n_images += n_images
        images = f"{self._n_images:,}/{self._total:,} images"
        self._bar.update(self._task, advance=n_bytes, images=images)


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
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TextColumn("{task.fields[images]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _TerminalMeter(bar)
