"""What a folder has of ImageNet, and what is missing, without reading any image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from arraystore.sources.imagenet2012_forms import (
    ARCHIVE,
    KINDS,
    SPLITS,
    archive_missing,
    count_images,
    expected_forms,
    find_forms,
)
from arraystore.sources.imagenet2012_names import SPLIT_SIZES
from arraystore.sources.subset_list import SUBSETS, cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.imagenet2012_forms import Form


@dataclass(frozen=True, slots=True)
class FoundForm:
    """A form of one split.

    Attributes
    ----------
    split : str
    form : str
        What it is; empty if the split was not found.
    path : str
        Where it is.
    missing : str
        What is missing, as far as names and sizes of files show it; empty if nothing.
    is_read : bool
        Whether a conversion reads this form, and not another of the split.
    """

    split: str
    form: str
    path: str
    missing: str
    is_read: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a folder has of ImageNet.

    Attributes
    ----------
    folder : str
    forms : tuple of FoundForm
        Of each split one or more.
    lists : dict of str to str
        Where the list of each subset is taken from.
    """

    folder: str
    forms: tuple[FoundForm, ...]
    lists: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the inventory as plain values, for JSON."""
        return asdict(self)


def take_inventory(folder: Path) -> Inventory | None:
    """Return what a folder has of ImageNet; None if it has nothing of it."""
    forms = find_forms(folder)
    if not any(forms.values()):
        return None
    found = []
    for split in SPLITS:
        for i, form in enumerate(forms[split]):
            path = str(form.path)
            found.append(FoundForm(split, KINDS[form.kind], path, _missing(form), i == 0))
        if not forms[split]:
            found.append(FoundForm(split, "", "", f"expected {expected_forms(split)}", False))
    return Inventory(str(folder), tuple(found), {name: _list(name, folder) for name in SUBSETS})


def _missing(form: Form) -> str:
    if form.kind == ARCHIVE:
        return archive_missing(form.split, form.path)
    n, expected = count_images(form), SPLIT_SIZES[form.split]
    count = f"has {n:,} of {expected:,} images" if n not in (None, expected) else ""
    return "; ".join(filter(None, dict.fromkeys((form.missing, count))))


def _list(name: str, folder: Path) -> str:
    file_name = SUBSETS[name].file_name
    if (folder / file_name).is_file():
        return f"{file_name} in the folder"
    if (cache_dir() / file_name).is_file():
        return f"{file_name} in the cache"
    return f"{file_name} is downloaded when it is needed"
