"""Values of columns that the format forbids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import pytest
import zarr

import arraystore
from arraystore import FormatError
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("label", [-2, 1])
def test_label_outside_of_classes_raises_with_its_place(
    label: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "in", {"a/1.jpg": picture(), "a/2.jpg": picture(seed=1)})
    target = tmp_path / f"out{suffix}"
    arraystore.convert(f"folder:{folder}", target)
    if suffix == ".zarr":
        zarr.open_array(target / "train" / "label")[1] = label
    else:
        with h5py.File(target, "a") as file:
            file["train/label"][1] = label
    message = rf"train/label: must be -1 or in range\(1\), got {label} at 1"
    with pytest.raises(FormatError, match=message):
        _ = arraystore.open(target)["train"].label
