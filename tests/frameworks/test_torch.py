"""PyTorch's loader over splits, and the data sets of `Split.torch` and `Split.torch_batches`."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from tests.support import SUFFIXES, picture, write_store
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
data = torch.utils.data

pytestmark = [
    # Python 3.12 and later warn when a process that has threads forks, as the loader does.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # JAX does so too, once another test has imported it.
    pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning"),
]

N = 23
OPTIONS: dict[str, Any] = {"size": 6, "crop": "random", "flip": True, "seed": 1}


@pytest.fixture(scope="module", params=SUFFIXES)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 23 small pictures, with a column of vectors, one of text and a ragged one."""
    path = tmp_path_factory.mktemp("torch") / f"a{request.param}"
    images = [picture(8 + i % 3, 8 + i % 5, seed=i) for i in range(N)]
    names = [f"{i:02}.jpg" for i in range(N)]
    write_store(path, names, [i % 4 - 1 for i in range(N)], images, classes=["a", "b", "c"])
    vectors = np.arange(2 * N, dtype=np.float32).reshape(N, 2)
    add = partial(arraystore.add_column, path, "train", sync=False)
    add("vector", vectors)
    add("note", [f"note {i}" for i in range(N)])
    add("boxes", [np.arange(i % 3, dtype=np.int64) for i in range(N)])
    return path


@pytest.fixture
def pictures(small: Path) -> arraystore.Split:
    return arraystore.open(small)["train"]


def brighter(images: Any) -> Any:
    return images + 1


def in_halves(images: Any) -> Any:
    return images.to(torch.bfloat16) / 2


def assert_same_structure(found: Any, expected: Any) -> None:
    """Compare collated batches: nested lists of tensors and text."""
    assert type(found) is type(expected)
    if isinstance(found, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(found, str):
        assert found == expected
    else:
        for one, other in zip(found, expected, strict=True):
            assert_same_structure(one, other)


def as_tensors(batch: arraystore.Batch[Any]) -> tuple[Any, Any]:
    return torch.from_numpy(batch.image), torch.from_numpy(batch.label)


def assert_equal(found: Any, expected: Any) -> None:
    """Compare images and labels of batches."""
    pairs = list(zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


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


# Split.torch


def test_default_collate_takes_samples(pictures: arraystore.Split) -> None:
    samples = pictures.torch(**OPTIONS, columns=["file_name", "vector", "note"])
    assert len(samples) == N
    images, labels, names, vectors, notes = next(iter(data.DataLoader(samples, batch_size=5)))
    batch = next(
        iter(
            pictures.batches(5, **OPTIONS, shuffle=False, layout="NCHW", columns=["vector", "note"])
        )
    )
    np.testing.assert_array_equal(images.numpy(), batch.image)
    np.testing.assert_array_equal(labels.numpy(), batch.label)
    np.testing.assert_array_equal(vectors.numpy(), batch.columns["vector"])
    assert list(names) == batch.file_name.tolist()
    assert list(notes) == batch.columns["note"].tolist()


def test_map_sample_has_python_types(pictures: arraystore.Split) -> None:
    image, label, boxes = pictures.torch(columns=["boxes"], layout="NHWC")[-1]
    np.testing.assert_array_equal(image.numpy(), pictures[-1].image)
    assert (type(label), label) == (int, pictures[-1].label)
    np.testing.assert_array_equal(boxes.numpy(), pictures.columns["boxes"][-1])
    with pytest.raises(IndexError):
        pictures.torch()[N]
    with pytest.raises(TypeError, match="indexed by an integer"):
        pictures.torch()[:3]


def test_map_images_without_size_are_transformed(pictures: arraystore.Split) -> None:
    samples = pictures.torch(transform=brighter)
    for (image, _), sample in zip(samples.__getitems__(range(4)), pictures[:4].image, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), sample + np.uint8(1))


def test_map_views_are_collated_apart(pictures: arraystore.Split) -> None:
    samples = pictures.torch(**OPTIONS, views=2, transform=brighter)
    (first, second), labels = next(iter(data.DataLoader(samples, batch_size=N)))
    (batch,) = pictures.batches(N, **OPTIONS, views=2, layout="NCHW", shuffle=False)
    np.testing.assert_array_equal(torch.stack([first, second]).numpy(), batch.image + np.uint8(1))
    assert labels.tolist() == batch.label.tolist()


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize("options", [{}, {"views": 2}, {"transform": in_halves}])
def test_collate_equals_that_of_pytorch(
    pictures: arraystore.Split, options: dict[str, Any], n_workers: int
) -> None:
    samples = pictures.torch(**OPTIONS, **options, columns=["file_name", "vector"])
    loader = partial(data.DataLoader, samples, 5, num_workers=n_workers)
    for found, expected in zip(loader(collate_fn=samples.collate), loader(), strict=True):
        assert_same_structure(found, expected)


def test_collate_copies_without_threads_of_pytorch(
    pictures: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = pictures.torch(size=6)
    rows = samples.__getitems__(range(3))
    monkeypatch.setattr(torch, "stack", None)
    images, labels = samples.collate(rows)
    np.testing.assert_array_equal(images.numpy()[2], rows[2][0].numpy())
    assert labels.tolist() == [label for _, label in rows]


@pytest.mark.parametrize("options", [{"device": "meta"}, {"requires_grad": True}], ids=str)
def test_collate_takes_tensors_that_numpy_cannot_read(
    pictures: arraystore.Split, options: dict[str, Any]
) -> None:
    samples = pictures.torch(size=6, transform=lambda image: torch.zeros(image.shape, **options))
    images, _ = samples.collate(samples.__getitems__(range(3)))
    assert images.shape == (3, 3, 6, 6)
    assert (images.device.type == "meta", images.requires_grad) == (
        "device" in options,
        "requires_grad" in options,
    )


def test_epoch_reaches_workers_that_persist(pictures: arraystore.Split) -> None:
    samples = pictures.torch(**OPTIONS)
    loader = data.DataLoader(samples, batch_size=N, num_workers=1, persistent_workers=True)
    for epoch in (0, 3, 3):
        samples.set_epoch(epoch)
        (found,) = loader
        (batch,) = pictures.batches(N, **OPTIONS, epoch=epoch, layout="NCHW", shuffle=False)
        assert_equal([found], [as_tensors(batch)])


def test_distributed_samplers_share_samples(pictures: arraystore.Split) -> None:
    samples = pictures.torch(size=6, columns=["file_name"])
    names: list[str] = []
    for rank in range(3):
        sampler = data.DistributedSampler(samples, num_replicas=3, rank=rank, drop_last=True)
        sampler.set_epoch(2)
        names += [n for *_, some in data.DataLoader(samples, 4, sampler=sampler) for n in some]
    assert len(names) == len(set(names)) == N - N % 3


# Split.torch_batches


@pytest.mark.parametrize("n_workers", [0, 1, 2])
@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_loader_yields_batches_in_order(
    pictures: arraystore.Split, n_workers: int, shuffle: str
) -> None:
    options = OPTIONS | {"shuffle": shuffle, "buffer_size": 16, "drop_last": True}
    batches = pictures.torch_batches(3, **options)
    loader = data.DataLoader(batches, batch_size=None, num_workers=n_workers)
    expected = pictures.batches(3, **options, layout="NCHW")
    assert len(loader) == len(batches) == len(expected)
    assert_equal(loader, map(as_tensors, expected))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_get_epoch_and_state(pictures: arraystore.Split, method: str) -> None:
    batches = pictures.torch_batches(3, **OPTIONS, transform=brighter)
    batches.set_epoch(4)
    batches.load_state_dict(batches.state_dict(5))
    loader = data.DataLoader(
        batches, batch_size=None, num_workers=1, multiprocessing_context=method
    )
    expected = pictures.batches(3, **OPTIONS, epoch=4, start_batch=5, layout="NCHW")
    assert (len(loader), len(expected)) == (8, 3)
    assert_equal(
        loader, ((brighter(images), labels) for images, labels in map(as_tensors, expected))
    )


def test_batches_have_columns_as_tensors_and_lists(pictures: arraystore.Split) -> None:
    names = ["file_name", "vector", "note", "boxes"]
    (batch,) = pictures.batches(N, size=6, columns=names[1:])
    ((_, _, *values),) = pictures.torch_batches(N, size=6, columns=names)
    assert values[0] == batch.file_name.tolist()
    np.testing.assert_array_equal(values[1].numpy(), batch.columns["vector"])
    assert values[2] == batch.columns["note"].tolist()
    for boxes, right in zip(values[3], batch.columns["boxes"], strict=True):
        np.testing.assert_array_equal(boxes.numpy(), right)


def test_batches_without_size_are_lists(pictures: arraystore.Split) -> None:
    images, _ = next(iter(pictures.torch_batches(4, shuffle=False)))
    for image, right in zip(images, pictures[:4].image, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), right)


def test_tensors_share_memory_of_arrays(
    pictures: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    loop = arraystore.Batches.__iter__

    def kept(self: arraystore.Batches) -> Iterator[Any]:
        for batch in loop(self):
            made.append(batch)
            yield batch

    monkeypatch.setattr(arraystore.Batches, "__iter__", kept)
    for images, labels in pictures.torch_batches(5, size=6):
        assert np.shares_memory(images.numpy(), made[-1].image)
        assert np.shares_memory(labels.numpy(), made[-1].label)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_epochs_differ_and_workers_persist(pictures: arraystore.Split, n_workers: int) -> None:
    batches = pictures.torch_batches(4, **OPTIONS)
    loader = data.DataLoader(
        batches, batch_size=None, num_workers=n_workers, persistent_workers=n_workers > 0
    )
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        expected = pictures.batches(4, **OPTIONS, epoch=epoch, layout="NCHW")
        assert_equal(loader, map(as_tensors, expected))


def test_state_without_workers_counts_batches(pictures: arraystore.Split) -> None:
    batches = pictures.torch_batches(4, **OPTIONS, epoch=3)
    expected = list(batches)
    for (images, _), right in zip(batches, expected[:2], strict=False):
        assert torch.equal(images, right[0])
        state = batches.state_dict()
    resumed = pictures.torch_batches(4, **OPTIONS)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(3)  # the epoch of the state: nothing changes
    assert len(resumed) == 6
    assert_equal(resumed, expected[2:])
    resumed.set_epoch(4)
    assert len(list(resumed)) == len(resumed) == 6


def test_state_with_workers_needs_a_number(pictures: arraystore.Split) -> None:
    batches = pictures.torch_batches(4, **OPTIONS)
    loop = iter(data.DataLoader(batches, batch_size=None, num_workers=2))
    next(loop)
    with pytest.raises(ValueError, match=r"pass state_dict\(n\) the number of batches"):
        batches.state_dict()
    assert batches.state_dict(1)["batch"] == 1
    batches.set_epoch(1)
    assert batches.state_dict()["batch"] == 0


def test_state_of_other_options_raises(pictures: arraystore.Split) -> None:
    state = pictures.torch_batches(4, **OPTIONS).state_dict()
    with pytest.raises(ValueError, match="batch_size=5, but the state has batch_size=4"):
        pictures.torch_batches(5, **OPTIONS).load_state_dict(state)
    with pytest.raises(ValueError, match="num_workers=None, but the state has num_workers=2"):
        pictures.torch_batches(4, **OPTIONS).load_state_dict({**state, "num_workers": 2})


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4])
def test_stateful_loader_continues_epoch(
    pictures: arraystore.Split, n_workers: int, taken: int
) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    whole = list(pictures.torch_batches(4, **OPTIONS, epoch=2))

    def loader() -> Any:
        batches = pictures.torch_batches(4, **OPTIONS, epoch=2)
        return stateful.StatefulDataLoader(batches, batch_size=None, num_workers=n_workers)

    stopped = loader()
    loop = iter(stopped)
    for _ in range(taken):
        next(loop)
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert_equal(resumed, whole[taken:])
    resumed.dataset.set_epoch(3)
    assert_equal(resumed, pictures.torch_batches(4, **OPTIONS, epoch=3))


def test_ranks_get_disjoint_batches(pictures: arraystore.Split) -> None:
    names = [
        name
        for rank in range(2)
        for *_, some in pictures.torch_batches(
            4, size=6, columns=["file_name"], rank=rank, world_size=2
        )
        for name in some
    ]
    assert len(names) == len(set(names)) == N - 1


def test_rank_is_that_of_the_process_group(
    pictures: arraystore.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pictures.torch_batches(4, size=6)
    assert len(batches) == 6
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:  # a single process with the numbers of one of two
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        expected = pictures.batches(4, size=6, layout="NCHW", rank=1, world_size=2)
        assert len(batches) == 3
        assert_equal(batches, map(as_tensors, expected))
        there = pickle.loads(pickle.dumps(batches))  # as to a worker that is spawned
    finally:
        torch.distributed.destroy_process_group()
    assert_equal(there, map(as_tensors, expected))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be 1 or more"),
        ({"columns": ["no"]}, KeyError, "has no column 'no'"),
        ({"columns": "vector"}, TypeError, "columns must be a list of names"),
        ({"size": 4, "layout": "HWC"}, ValueError, "layout must be one of"),
    ],
)
def test_wrong_option_raises_at_once(
    pictures: arraystore.Split, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pictures.torch(**options)
    with pytest.raises(error, match=message):
        pictures.torch_batches(4, **options)


def test_unknown_batch_option_raises(pictures: arraystore.Split) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        pictures.torch_batches(4, colour=True)
    with pytest.raises(ValueError, match="rank and world_size belong together, got 1 and None"):
        pictures.torch_batches(4, rank=1)


def test_skipped_images_are_recorded(tmp_path: Path) -> None:
    images = [picture(8, 8, seed=i) for i in range(6)]
    images[2] = images[2][:-40]
    names = [f"{i}.jpg" for i in range(6)]
    path = write_store(tmp_path / "a.zarr", names, [0] * 6, images, classes=["a"], order="source")
    batches = arraystore.open(path)["train"].torch_batches(
        3, size=4, shuffle=False, on_error="skip"
    )
    assert [len(labels) for _, labels in batches] == [2, 3]
    assert list(batches.skipped) == [2]
