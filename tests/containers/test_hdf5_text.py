"""Text in HDF5 as other programs write it: null-terminated, padded with spaces, not UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
from h5py import h5a, h5d, h5p, h5s, h5t

import arraystore
from arraystore.errors import FormatError
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NAMES: Final = ["a.jpg", "b c.jpg", "ä.jpg", "sixteen bytes.jp"]
WIDTH: Final = 16
DESCRIPTION: Final = "Für alle"

PADDED: Final[dict[str, tuple[int, Callable[[bytes], bytes]]]] = {
    "zeros": (h5t.STR_NULLPAD, lambda text: text.ljust(WIDTH, b"\0")),
    "ended": (h5t.STR_NULLTERM, lambda text: (text + b"\0")[:WIDTH].ljust(WIDTH, b"?")),
    "spaces": (h5t.STR_SPACEPAD, lambda text: text.ljust(WIDTH, b" ")),
}
"""HDF5's three ways to store text shorter than its type, and the bytes of a text."""

padded = pytest.mark.parametrize("padding", PADDED)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    images = [picture(seed=i) for i in range(len(NAMES))]
    labels = [0] * len(NAMES)
    return write_store(tmp_path / "a.h5", NAMES, labels, images, classes=["x"], order="source")


def text_type(padding: str) -> Any:
    data_type = h5t.TypeID.copy(h5t.C_S1)
    data_type.set_size(WIDTH)
    data_type.set_strpad(PADDED[padding][0])
    data_type.set_cset(h5t.CSET_UTF8)
    return data_type


def raw(texts: Sequence[str], padding: str) -> NDArray[np.void]:
    _, pad = PADDED[padding]
    return np.array([pad(text.encode()) for text in texts], f"V{WIDTH}")


def rewrite(store: Path, padding: str) -> None:
    """Write the file names and an attribute like a program that pads text in one way."""
    data_type = text_type(padding)
    with h5py.File(store, "r+") as file:
        scale = file["train/file_name"].dims[0][0]
        del file["train/file_name"], file.attrs["description"]
        layout = h5p.create(h5p.DATASET_CREATE)
        layout.set_chunk((len(NAMES),))
        layout.set_shuffle()
        layout.set_deflate(4)
        space = h5s.create_simple((len(NAMES),))
        column = h5d.create(file["train"].id, b"file_name", data_type, space, layout)
        column.write(h5s.ALL, h5s.ALL, raw(NAMES, padding), mtype=data_type)
        file["train/file_name"].dims[0].attach_scale(scale)
        attribute = h5a.create(file.id, b"description", data_type, h5s.create(h5s.SCALAR))
        attribute.write(raw([DESCRIPTION], padding).reshape(()), mtype=data_type)


@padded
def test_padding_of_text_is_removed(store: Path, padding: str) -> None:
    rewrite(store, padding)
    opened = arraystore.open(store, checksum="always")
    train = opened["train"]
    assert train.file_name.tolist() == NAMES
    assert train[1].file_name == NAMES[1]
    assert train.where(file_name=NAMES[2]).positions.tolist() == [2]
    assert opened.info.description == DESCRIPTION


@padded
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_copied_text_has_no_padding(store: Path, padding: str, suffix: str, tmp_path: Path) -> None:
    rewrite(store, padding)
    copied = tmp_path / f"b{suffix}"
    assert arraystore.copy(store, copied).left_out == ()
    assert arraystore.open(copied)["train"].file_name.tolist() == NAMES
    assert arraystore.open(copied).info.description == DESCRIPTION
    assert arraystore.verify(copied).ok


@padded
def test_verify_reports_wrong_padding(store: Path, padding: str) -> None:
    rewrite(store, padding)
    found = [str(problem) for problem in arraystore.verify(store).problems]
    expected = ["train/file_name: text must be padded with zero bytes (H5T_STR_NULLPAD)"]
    assert found == (expected if padding != "zeros" else [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_copy_omits_attribute_that_is_not_utf8(store: Path, suffix: str, tmp_path: Path) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs["by"] = np.bytes_(b"caf\xe9")
        file["train"].attrs["by"] = np.array([b"tea", b"caf\xe9"])
    copied = tmp_path / f"b{suffix}"
    assert sorted(arraystore.copy(store, copied).left_out) == ["@by", "train@by"]
    assert arraystore.verify(copied).ok


def test_required_attribute_that_is_not_utf8_raises(store: Path) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs["description"] = np.bytes_(b"caf\xe9")
    with pytest.raises(FormatError, match=r"'description' must be str, got text that is not UTF-8"):
        _ = arraystore.open(store).info
