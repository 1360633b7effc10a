"""PyTorch's loader over local and remote splits, where PyTorch is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 and later warn when a process that has threads forks, as the loader does.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def name_and_size(sample: arraystore.Sample) -> tuple[str, int]:
    return sample.file_name, sample.image.size


def as_list(samples: list[Any]) -> list[Any]:
    return samples


def loaded(split: arraystore.Split, **options: Any) -> list[tuple[str, int]]:
    """Return the samples that a loader with 2 workers yields."""
    loader = data.DataLoader(
        split.map(name_and_size), batch_size=8, num_workers=2, collate_fn=as_list, **options
    )
    return [pair for batch in loader for pair in batch]


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loader_reads_local_split(train: arraystore.Split, method: str) -> None:
    expected = [name_and_size(sample) for sample in train]
    assert loaded(train, multiprocessing_context=method) == expected


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_loader_reads_remote_split(path: Path, web: WebServer, method: str) -> None:
    web.put(path, f"remote/{path.name}")
    remote = arraystore.open(f"{web.url}/remote/{path.name}")["train"]
    local = arraystore.open(path)["train"]
    assert loaded(remote, multiprocessing_context=method) == [name_and_size(s) for s in local]


def test_forking_loader_of_remote_split_raises(path: Path, web: WebServer) -> None:
    web.put(path, f"remote/{path.name}")
    remote = arraystore.open(f"{web.url}/remote/{path.name}")["train"]
    _ = remote.image_bytes[0]
    with pytest.raises(arraystore.StorageError, match='multiprocessing_context="forkserver"'):
        loaded(remote, multiprocessing_context="fork")


def test_loader_reads_batches(train: arraystore.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[int] = []
    read = arraystore.Split.__getitems__

    def counted(self: arraystore.Split, indices: Any) -> Any:
        requested.append(len(indices))
        return read(self, indices)

    monkeypatch.setattr(arraystore.Split, "__getitems__", counted)
    loader = data.DataLoader(train, batch_size=7, collate_fn=as_list, shuffle=True)
    names = [sample.file_name for batch in loader for sample in batch]
    assert sorted(names) == sorted(train.file_name.tolist())
    assert requested == [7, 7, 7, 7, 2]


def test_loader_makes_tensors(train: arraystore.Split) -> None:
    same = train.select((train.image_height == 375) & (train.image_width == 500))
    (images, labels), *_ = data.DataLoader(same.as_supervised(), batch_size=len(same))
    assert images.shape == (len(same), 375, 500, 3)
    assert labels.tolist() == same.label.tolist()
    np.testing.assert_array_equal(images.numpy()[0], same.image[0])
