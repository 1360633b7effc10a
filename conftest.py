"""Stores and archives for the examples in documents and docstrings."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import arraystore
from arraystore.cli.synthetic_archives import write_archives

if TYPE_CHECKING:
    from pathlib import Path


collect_ignore = ["docs/tutorial.md"]  # tests/frameworks/test_tutorial.py runs it
if find_spec("torch") is None:
    collect_ignore.append("arraystore/integrations/torch_datasets.py")
"""Modules that are not searched for examples, because they import what is not installed."""


@pytest.fixture(scope="session")
def doctest_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw archives in a folder ``imagenet`` and convert them to ``1pct.zarr`` and ``1pct.h5``."""
    folder = tmp_path_factory.mktemp("documents")
    archives = write_archives(folder / "imagenet", n_classes=20, per_class=8, n_validation=60)
    for name in ("1pct.zarr", "1pct.h5"):
        arraystore.convert(
            "imagenet2012_subset/1pct",
            folder / name,
            manual_dir=archives.folder,
            partial=True,
            sync=False,
            progress=False,
        )
    return folder


@pytest.fixture(autouse=True)
def doctest_folder(request: pytest.FixtureRequest) -> None:
    """Run examples that name a store in their own folder, with a copy of the stores."""
    if isinstance(request.node, pytest.DoctestItem) and any(
        name in example.source
        for example in request.node.dtest.examples
        for name in ("1pct.", "mine.zarr")
    ):
        stores = request.getfixturevalue("doctest_stores")
        folder = request.getfixturevalue("tmp_path")
        shutil.copytree(stores, folder, dirs_exist_ok=True)
        request.getfixturevalue("monkeypatch").chdir(folder)
