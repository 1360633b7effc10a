"""The report of a conversion."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Report of one split.

    Attributes
    ----------
    num_samples, num_bytes : int
        Number of stored images, and their total size in bytes.
    content_digest : str
        Identifies the content, independently of container and order.
    skipped : tuple of (str, str)
        File name of each image left out, and the reason.
    reencoded : tuple of str
        File name of each re-encoded image.
    """

    num_samples: int
    num_bytes: int
    content_digest: str
    skipped: tuple[tuple[str, str], ...]
    reencoded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """Report of a conversion.

    Attributes
    ----------
    dataset : str
        Name, config and version of the data set.
    path : str
        The store.
    splits : dict of str to SplitReport
    partial : bool
        Whether samples that belong to the data set were missing in the source.
    notes : tuple of str
        Parts of the source that were left out, and whether a symbolic link was replaced.
    seconds : float
        Wall time.
    was_complete : bool
        Whether `resume` found a complete store, so nothing was converted.
    """

    dataset: str
    path: str
    splits: dict[str, SplitReport]
    partial: bool
    notes: tuple[str, ...]
    seconds: float
    was_complete: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)
