"""Recipes of docs/frameworks.md with grain, TensorFlow, JAX, Lightning, timm and TorchCodec."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N = 23


@pytest.fixture(scope="module", params=SUFFIXES)
def pictures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> arraystore.Split:
    path = tmp_path_factory.mktemp("frameworks") / f"a{request.param}"
    images = [picture(18 + i % 3, 18 + i % 5, seed=i) for i in range(N)]
    names = [f"{i:02}.jpg" for i in range(N)]
    write_store(path, names, [i % 4 for i in range(N)], images, classes=["a", "b", "c", "d"])
    return arraystore.open(path)["train"]


def as_features(sample: arraystore.Sample) -> dict[str, Any]:
    return {"image": sample.image[:8, :8], "label": sample.label}


def test_grain_reads_and_shuffles(pictures: arraystore.Split) -> None:
    grain = pytest.importorskip("grain", reason="grain is not installed")
    data = grain.MapDataset.source(pictures.map(as_features)).shuffle(seed=0).batch(4)
    batches = [data[i] for i in range(len(data))]
    assert batches[0]["image"].shape == (4, 8, 8, 3)
    labels = np.concatenate([batch["label"] for batch in batches])
    assert sorted(labels.tolist()) == sorted(pictures.label.tolist())


def test_tf_data_yields_batches(pictures: arraystore.Split) -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

    def batches() -> Iterator[Any]:
        for batch in pictures.batches(4, size=8, seed=1):
            yield batch.image, batch.label

    signature = tf.TensorSpec((None, 8, 8, 3), tf.uint8), tf.TensorSpec((None,), tf.int64)
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    for (images, labels), (right, label) in zip(data.prefetch(1), batches(), strict=True):
        np.testing.assert_array_equal(images.numpy(), right)
        np.testing.assert_array_equal(labels.numpy(), label)


def test_jax_takes_batches(pictures: arraystore.Split) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    batch = next(iter(pictures.batches(4, size=8)))
    images = jax.device_put(batch.image)
    assert (images.shape, images.dtype) == ((4, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(images), batch.image)


class StoppedError(Exception):
    """Ends a training amid an epoch."""


def fit_with_lightning(
    pictures: arraystore.Split,
    folder: Path,
    *,
    n_workers: int | None = None,
    stop_after: int | None = None,
    checkpoint: Path | None = None,
) -> list[tuple[int, tuple[str, ...], int]]:
    """Train for 3 epochs of 3 batches, and return what each step was given.

    `n_workers` are those of a StatefulDataLoader; without it Lightning takes the data set.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    seen: list[tuple[int, tuple[str, ...], int]] = []

    class Images(lightning.LightningDataModule):  # type: ignore[misc, name-defined] # may not be installed
        def train_dataloader(self) -> Any:
            data = pictures.torch_batches(
                8,
                size=8,
                crop="random",
                columns=["file_name"],
                epoch=self.trainer.current_epoch,
            )
            if n_workers is None:
                return data
            return stateful.StatefulDataLoader(data, batch_size=None, num_workers=n_workers)

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined] # may not be installed
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8 * 8 * 3, 4)

        def training_step(self, batch: Any) -> Any:
            if len(seen) == stop_after:
                raise StoppedError
            images, labels, names = batch
            seen.append((self.trainer.current_epoch, tuple(names), int(images.long().sum())))
            return torch.nn.functional.cross_entropy(self.layer(images.flatten(1) / 255), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    save = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    trainer = lightning.Trainer(
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        callbacks=[save],
        **dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False),
    )
    with suppress(StoppedError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own use of PyTorch
        trainer.fit(Model(), datamodule=Images(), ckpt_path=checkpoint)
    return seen


def test_lightning_takes_an_epoch_after_another(pictures: arraystore.Split, tmp_path: Path) -> None:
    seen = fit_with_lightning(pictures, tmp_path)
    epochs = [pictures.batches(8, size=8, crop="random", epoch=epoch) for epoch in range(3)]
    assert seen == [
        (i, tuple(batch.file_name.tolist()), int(batch.image.sum()))
        for i, batches in enumerate(epochs)
        for batch in batches
    ]


@pytest.mark.parametrize("n_workers", [None, 0, 2])
@pytest.mark.parametrize("taken", [2, 3, 5])
def test_lightning_continues_an_epoch(
    pictures: arraystore.Split, tmp_path: Path, n_workers: int | None, taken: int
) -> None:
    fit = partial(fit_with_lightning, pictures, tmp_path, n_workers=n_workers)
    whole = fit_with_lightning(pictures, tmp_path / "whole")
    assert fit(stop_after=taken) == whole[:taken]
    assert fit(checkpoint=tmp_path / f"step={taken}.ckpt") == whole[taken:]


def test_timm_reads_through_a_reader(pictures: arraystore.Split) -> None:
    timm = pytest.importorskip("timm.data", reason="timm is not installed")

    class StoreReader(timm.readers.reader.Reader):  # type: ignore[misc, name-defined] # may not be installed
        def __init__(self, split: arraystore.Split) -> None:
            super().__init__()
            self.split, self.class_to_idx = split, split.class_to_idx

        def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
            return io.BytesIO(self.split.image_bytes[index]), int(self.split.label[index])

        def __len__(self) -> int:
            return len(self.split)

        def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
            return str(self.split.file_name[index])

    data = timm.ImageDataset("", reader=StoreReader(pictures))
    assert data.filename(3) == pictures.file_name[3]
    loader = timm.create_loader(data, (3, 8, 8), 4, use_prefetcher=False, num_workers=0)
    images, labels = next(iter(loader))
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == pictures.label[:4].tolist()


def encoded(split: arraystore.Split, index: int) -> Any:
    """Return a tensor that shares the memory of an encoded image, which is never written to."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return torch.from_dlpack(np.frombuffer(split.image_views[index], np.uint8))


def test_tensor_of_a_view_shares_its_memory(pictures: arraystore.Split) -> None:
    tensor = encoded(pictures, 3)  # a warning would be an error
    assert tensor.numpy().tobytes() == pictures.image_bytes[3]
    view = np.frombuffer(pictures.image_views[3], np.uint8)
    assert tensor.data_ptr() == view.__array_interface__["data"][0]


def test_torchcodec_decodes_views(pictures: arraystore.Split) -> None:
    try:
        from torchcodec import decoders
    except (ImportError, OSError) as error:  # its wheel fits one build of PyTorch
        pytest.skip(f"TorchCodec does not load: {error}")
    image = decoders.decode_image(encoded(pictures, 3)).permute(1, 2, 0).numpy()
    assert image.shape == pictures.image[3].shape
    assert np.abs(image.astype(int) - pictures.image[3]).mean() < 2
