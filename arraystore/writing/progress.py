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

    def start(
        self, message: str, n_images: int, n_bytes: int = 0, *, done: tuple[int, int] = (0, 0)
    ) -> None:
        """Begin a step of so many images, and of so many bytes if it is them that take time.

        `done` is how many images and bytes an earlier process did, which took no time.
        """

    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        """Tell that so many more are done."""


class _TerminalMeter(Meter):
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, detail="")
        self._is_bytes = False
        self._before = self._done = self._total = 0
        self._began = time.monotonic()

    @override
    def status(self, message: str) -> None:
        # A step that is begun anew would keep its old total; one that is new has none.
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escaped(message), total=None, detail="")

    @override
    def start(
        self, message: str, n_images: int, n_bytes: int = 0, *, done: tuple[int, int] = (0, 0)
    ) -> None:
        self._is_bytes = n_bytes > 0
        self._total, self._before, self._done = n_bytes or n_images, done[self._is_bytes], 0
        self._began = time.monotonic()
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(
            escaped(message), total=self._total, completed=self._before, detail=self._told()
        )

    @override
    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        n = n_bytes if self._is_bytes else n_images
        self._done += n
        self._bar.update(self._task, advance=n, detail=self._told())

    def _told(self) -> str:
        """Say how much is done, and how fast: there is no room for more in 80 columns."""
        done, total = self._before + self._done, self._total
        percent = f"{100 * done // max(total, 1):3}%"
        if not self._is_bytes:
            return f"{percent} {done:,}/{total:,} images"
        unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
        rate = self._done / 1e6 / max(time.monotonic() - self._began, 1e-3)
        return f"{percent} {done / unit:.1f}/{total / unit:.1f} {name} {rate:,.0f} MB/s"


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
    from rich.text import Text

    class Description(progress.ProgressColumn):
        """Is cut where a line is too short for it, so that what follows is not."""

        @override
        def render(self, task: progress.Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    columns = (
        progress.SpinnerColumn(),
        Description(),
        progress.BarColumn(bar_width=10),
        progress.TextColumn("{task.fields[detail]}"),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Where it cannot be drawn over and over, what is left at the end is the one thing to see.
    with progress.Progress(*columns, console=console, transient=console.is_terminal) as bar:
        yield _TerminalMeter(bar)
