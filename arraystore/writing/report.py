"""What a conversion did, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What became of one split.

    Attributes
    ----------
    num_samples, num_bytes : int
        Images stored, and the size of all of them in bytes.
    content_digest : str
        Identifies the content, whatever the container and the order.
    skipped : tuple of (str, str)
        File name of each image left out, and why.
    reencoded : tuple of str
        File name of each image whose bytes are not those of the source.
    """

    num_samples: int
    num_bytes: int
    content_digest: str
    skipped: tuple[tuple[str, str], ...]
    reencoded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did.

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
        What else was left out, and that a symbolic link was replaced.
    seconds : float
        Wall time.
    was_complete : bool
        Whether the store was complete already, so that there was nothing to resume.
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
