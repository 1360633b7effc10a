"""Lists of the training images of a subset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import arraystore
from arraystore import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives


def test_own_list_is_not_described_as_published(store: arraystore.Store) -> None:
    assert "SimCLR" not in store.info.description
    assert "the 30 that 1percent.txt lists" in store.info.description


def test_file_that_is_not_a_list_raises_with_partial_source(
    drawn: DrawnArchives, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("import os\n")
    with pytest.raises(SourceError, match=r"none of the 1 name .*; pass another subset_list"):
        arraystore.convert(
            "imagenet2012_subset/1pct",
            tmp_path / "a.h5",
            manual_dir=drawn.folder,
            subset_list=tmp_path / "list.txt",
            partial=True,
        )
