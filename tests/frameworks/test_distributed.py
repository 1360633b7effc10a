"""Training in two processes with `DistributedDataParallel`, compared with one process."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from tests.support import picture, write_store

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
distributed = pytest.importorskip("torch.distributed", reason="PyTorch lacks torch.distributed")
if not (distributed.is_available() and distributed.is_gloo_available()):
    pytest.skip("PyTorch lacks gloo", allow_module_level=True)

N = 23
N_EPOCHS = 2
SIZE = 6
OPTIONS: dict[str, Any] = {"size": SIZE, "crop": "random", "flip": True, "seed": 1}
KINDS = ("torch", "torch_batches", "torch_batches in a worker", "batches")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [picture(8 + i % 3, 8 + i % 5, seed=i) for i in range(N)]
    names = [f"{i:02}.jpg" for i in range(N)]
    path = tmp_path_factory.mktemp("distributed") / "a.zarr"
    return write_store(path, names, [i % 3 for i in range(N)], images, classes=["a", "b", "c"])


def train(rank: int, store: Path, folder: Path) -> None:
    """Train in one of two processes, and save the images that it sees."""
    init = partial(distributed.init_process_group, "gloo", timeout=timedelta(minutes=1))
    init(init_method=f"file://{folder / 'group'}", rank=rank, world_size=2)
    split = arraystore.open(store)["train"]
    samples = split.torch(**OPTIONS, columns=["file_name"])
    sampler = torch.utils.data.DistributedSampler(samples)
    batches = split.torch_batches(4, **OPTIONS, columns=["file_name"])

    def as_tensors(epoch: int) -> Any:
        place = {"rank": distributed.get_rank(), "world_size": distributed.get_world_size()}
        for batch in split.batches(4, **OPTIONS, layout="NCHW", epoch=epoch, **place):
            yield torch.from_numpy(batch.image), torch.from_numpy(batch.label), batch.file_name

    loader = torch.utils.data.DataLoader
    loaders = {
        "torch": loader(samples, 4, sampler=sampler, collate_fn=samples.collate),
        "torch_batches": batches,
        "torch_batches in a worker": loader(
            batches,
            batch_size=None,
            num_workers=1,
            persistent_workers=True,
            multiprocessing_context="spawn",
        ),
    }
    # Every step waits for the other process, and fails if that one has fewer batches.
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3 * SIZE * SIZE, 3))
    for kind in KINDS:
        for epoch in range(N_EPOCHS):
            for of_epoch in (samples, sampler, batches):
                of_epoch.set_epoch(epoch)
            seen: list[Any] = []
            for images, labels, names in loaders.get(kind) or as_tensors(epoch):
                scores = model(images.flatten(1) / 255)
                torch.nn.functional.cross_entropy(scores, labels).backward()
                seen += zip(names, images.numpy(), strict=True)
            np.savez(
                folder / f"{kind} {epoch} {rank}.npz",
                names=np.array([str(name) for name, _ in seen]),
                images=np.stack([image for _, image in seen]),
            )
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def seen(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what two processes saw."""
    folder = tmp_path_factory.mktemp("seen")
    torch.multiprocessing.spawn(train, (store, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("epoch", range(N_EPOCHS))
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_an_epoch(store: Path, seen: Path, kind: str, epoch: int) -> None:
    (whole,) = arraystore.open(store)["train"].batches(N, **OPTIONS, layout="NCHW", epoch=epoch)
    images = dict(zip(whole.file_name.tolist(), whole.image, strict=True))
    times: Counter[str] = Counter()
    for rank in range(2):
        found = np.load(seen / f"{kind} {epoch} {rank}.npz")
        for name, image in zip(found["names"].tolist(), found["images"], strict=True):
            np.testing.assert_array_equal(image, images[name])
            times[name] += 1
    if kind == "torch":  # the sampler repeats samples until the parts are of equal length
        assert set(times) == set(images)
        assert sorted(times.values()) == [1] * (N - 1) + [2]
    else:  # what does not divide is left out
        assert set(times.values()) == {1}
        assert len(times) == N - 1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_epochs_leave_out_different_samples(store: Path, seen: Path, kind: str) -> None:
    names = set(arraystore.open(store)["train"].file_name.tolist())
    for epoch in range(N_EPOCHS):
        found = [np.load(seen / f"{kind} {epoch} {rank}.npz")["names"] for rank in range(2)]
        names &= {*np.concatenate(found).tolist()}
    assert len(names) == N - N_EPOCHS
