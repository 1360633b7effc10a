"""Exports of stores in a bucket: the same as those of local copies, with few requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from arraystore import StorageError
from arraystore.dataset import columns as columns_module
from arraystore.exporting import folders
from arraystore.storage.workspace_folder import work_folder
from tests.exporting.test_formats import COPIES
from tests.exporting.test_resume import contents_of, read_folders
from tests.reading.test_remote import KEYS
from tests.storage.test_request_errors import QUICK
from tests.support import SUFFIXES, picture, set_chunk_rows, write_once, write_store
from tests.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web import Asked

N_SAMPLES = 40
OPTIONS: dict[str, Any] = {"shard_nbytes": 5000, "sync": False}
"""A few images a shard."""

FORMS = {("folders", "out"): read_folders, **COPIES}


def store_with_columns(path: Path) -> None:
    images = [picture(seed=i) for i in range(N_SAMPLES)]
    names, labels = zip(*((f"{i}.jpg", i % 2) for i in range(N_SAMPLES)), strict=True)
    write_store(path, names, labels, images, classes="ab")
    arraystore.add_column(path, "train", "score", np.arange(N_SAMPLES) * 10)
    arraystore.add_column(path, "train", "boxes", [np.arange(i % 3) for i in range(N_SAMPLES)])


def ranges_of_images(asked: list[Asked]) -> set[str]:
    """Return the requested ranges of images; columns are at the end of an HDF5 file."""
    return {
        one.range
        for one in asked
        if "image_payload/c/" in one.path
        or (one.path.endswith(".h5") and not one.range.startswith(("bytes=-", "bytes=0-")))
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("form", "name"), FORMS)
def test_export_of_bucket_equals_export_of_local_copy(
    suffix: str, form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_rows(monkeypatch, 16)
    monkeypatch.setattr(columns_module, "_FEW", 0)  # columns are not loaded as a whole
    monkeypatch.setattr(columns_module, "_MOST_LOADED", 0)
    monkeypatch.setattr(folders, "_ROWS", 4)
    path = tmp_path / f"a{suffix}"
    write_once(store_with_columns, path)
    whole, partly = tmp_path / "whole" / name, tmp_path / "partly" / name
    expected = arraystore.export(
        arraystore.open(path)["train"], tmp_path / "local" / name, form, **OPTIONS
    )
    with WebServer() as web:
        web.put(path, f"bucket/{path.name}")
        settings = QUICK | KEYS | {"endpoint_url": web.url}

        def opened() -> arraystore.Split:
            web.asked.clear()
            return arraystore.open(f"s3://bucket/{path.name}", storage_options=settings)["train"]

        report = arraystore.export(opened(), whole, form, **OPTIONS)
        requests = [(asked.path, asked.range) for asked in web.asked if asked.method == "GET"]
        assert len({*requests}) == len(requests)  # nothing is read twice
        wanted = ranges_of_images(web.asked)
        assert len(wanted) < N_SAMPLES / 3
        bounds = [range_.removeprefix("bytes=").split("-") for range_ in wanted]
        n_bytes = sum(int(last) + 1 - int(first) for first, last in bounds)
        assert n_bytes == report.splits["train"].num_bytes

        def answer(asked: Asked) -> str | None:
            return "reset" if len(ranges_of_images(web.asked)) > len(wanted) // 2 else None

        train = opened()
        web.answer = answer
        with pytest.raises(StorageError, match=r"s3://bucket/a\..*: the connection was lost") as at:
            arraystore.export(train, partly, form, **OPTIONS)
        is_one_file = name == "out.h5"
        assert work_folder(partly).exists() == (not is_one_file)
        assert is_one_file or "export again with resume=True" in at.value.__notes__[0]
        web.answer = lambda asked: None
        resumed = arraystore.export(opened(), partly, form, resume=True, **OPTIONS)
        again = ranges_of_images(web.asked)
        assert again < wanted or is_one_file
        assert len(again) == len(wanted) - resumed.num_resumed
    assert resumed.num_resumed > 0 or is_one_file
    assert report.splits == resumed.splits == expected.splits
    for target in (whole, partly):
        assert FORMS[form, name](target) == FORMS[form, name](tmp_path / "local" / name)
        if form != "lance":  # which gives its files random names
            assert contents_of(target) == contents_of(tmp_path / "local" / name)
