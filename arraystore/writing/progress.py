"""Show the progress of a long task: a bar on a terminal, nothing elsewhere."""

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
    """Receive the progress of a task; this class shows nothing."""

    def status(self, message: str) -> None:
        """Begin a step of unknown length."""

    def start(
        self, message: str, n_images: int, n_bytes: int = 0, *, done: tuple[int, int] = (0, 0)
    ) -> None:
        """Begin a step of `n_images` images.

        Parameters
        ----------
        message : str
        n_images : int
        n_bytes : int, default 0
            Size of the images, if the duration of the step depends on it.
        done : (int, int)
            Images and bytes that an earlier process completed, which takes no time now.
        """

    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        """Count further images and bytes as done."""


class _TerminalMeter(Meter):
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, detail="")
        self._is_bytes = False
        self._before = self._done = self._total = 0
        self._began = time.monotonic()

    @override
    def status(self, message: str) -> None:
        # A task that is reset would keep its old total; a new one has none.
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
            escaped(message), total=self._total, completed=self._before, detail=self._detail()
        )

    @override
    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        n = n_bytes if self._is_bytes else n_images
        self._done += n
        self._bar.update(self._task, advance=n, detail=self._detail())

    def _detail(self) -> str:
        """Return amount and speed, in a text that fits into a line of 80 columns."""
        done, total = self._before + self._done, self._total
        percent = f"{100 * done // max(total, 1):3}%"
        if not self._is_bytes:
            return f"{percent} {done:,}/{total:,} images"
        unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
        rate = self._done / 1e6 / max(time.monotonic() - self._began, 1e-3)
        return f"{percent} {done / unit:.1f}/{total / unit:.1f} {name} {rate:,.0f} MB/s"


@contextmanager
def meter(show: bool | None) -> Iterator[Meter]:
    """Return a meter for as long as the context lasts.

    Parameters
    ----------
    show : bool or None
        Whether to draw a bar on standard error. None draws one if it is a terminal.

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
        """Cut the description in a short line, so that the other columns are shown whole."""

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
    # If the bar cannot be redrawn in place, its final state is all that is shown.
    with progress.Progress(*columns, console=console, transient=console.is_terminal) as bar:
        yield _TerminalMeter(bar)
