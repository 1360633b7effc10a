"""Libraries that only some sources need, imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from arraystore.errors import SourceError

if TYPE_CHECKING:
    from types import ModuleType


def need(module: str, extra: str, source: str) -> ModuleType:
    """Import a module of an optional library.

    Parameters
    ----------
    module : str
        Its name.
    extra : str
        Name of the extra of arraystore that installs it.
    source : str
        The source that needs it, for the message.

    Raises
    ------
    SourceError
        If it is not installed; the message names the extra.

    Examples
    --------
    >>> need("no_such_module", "parquet", "parquet:")
    Traceback (most recent call last):
    ...
    arraystore.errors.SourceError: parquet: needs no_such_module, which is not installed; install
    arraystore[parquet]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{source} needs {error.name}, which is not installed; install arraystore[{extra}]"
        ) from error
