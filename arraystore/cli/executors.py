"""The options that choose who does the work of a command: processes, or a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from arraystore.errors import StorageError, escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

_LOCAL: Final = "local"

_OPTIONS: Final = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Work in N processes of this machine.  [default: threads]",
    ),
    click.option(
        "--dask",
        metavar="ADDRESS",
        help="Work on the Dask cluster whose scheduler is at ADDRESS, such as tcp://HOST:8786; "
        "'local' starts one here with --workers processes. Its workers must reach the same files.",
    ),
)


def executing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets an `executor`, or None for threads."""

    @wraps(command)
    def run(*arguments: Any, workers: int | None, dask: str | None, **options: Any) -> Any:
        with opened_executor(workers, dask) as executor:
            return command(*arguments, executor=executor, **options)

    decorated: Callable[..., Any] = run
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextmanager
def opened_executor(workers: int | None, dask: str | None) -> Iterator[Executor | None]:
    """Return the executor that the options state, and end what was started for it.

    Raises
    ------
    StorageError
        If no scheduler answers.
    click.UsageError
        If distributed is not installed, or the options exclude each other.
    """
    if dask is None:
        if workers is None:
            yield None
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as processes:
            yield processes
        return
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"--dask needs {error.name}, which is not installed; install arraystore[dask]"
        ) from error
    if workers is not None and dask != _LOCAL:
        raise click.UsageError("--workers is for --dask local; a cluster has its own workers")
    started: Any = distributed  # its classes have annotations, but not all of their methods
    with ExitStack() as stack:
        place = dask
        if dask == _LOCAL:
            place = stack.enter_context(
                started.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.ERROR,
                )
            )
        try:
            client = stack.enter_context(started.Client(place))
        except (OSError, ValueError) as error:
            raise StorageError(
                escaped(f"--dask {dask}: no scheduler answers there ({error}); start it first")
            ) from error
        yield client.get_executor()
