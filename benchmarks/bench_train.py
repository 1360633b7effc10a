"""Time the input of a training loop against other loaders of the same JPEGs, in one run.

::

    python -m benchmarks.bench_train DIR [--images N] [--rounds N] [--latency MS] [--json FILE]

Two stores of JPEGs of 500 x 375 pixels and about 104 KB are made in DIR and kept for the next run.
Each loader makes batches of 64 random crops of 224 x 224 pixels, mirrored or not, as uint8, from a
shuffled epoch. The loaders take turns, each in a new process, with the store in the page cache:

- ``decoding alone``: simplejpeg in a thread per processor, of bytes in memory, into memory that is
  used again. Nothing is cropped, scaled or kept. This is the limit of what decodes whole images;
- ``arraystore``: ``batches(size=224, crop="random", flip=True)``, with Pillow and with OpenCV;
- ``torch_batches``, and ``torch`` in a DataLoader without workers, with the ``collate`` of the data
  set and with PyTorch's: the same with OpenCV, as tensors of the layout NCHW;
- ``DataLoader``: a worker per processor that reads ``image_bytes`` and decodes with simplejpeg,
  Pillow, torchvision or TorchCodec; then torchvision's RandomResizedCrop, or OpenCV's ``resize`` of
  a crop that torchvision drew;
- ``FFCV``: its own file of the same JPEGs;
- ``tf.data``: a TFRecord file; decodes only the crop, and scales without antialiasing;
- ``grain``: a process per processor, otherwise as the first DataLoader.

Measured are the rate and the CPU time from the first batch to the last, the time to the first batch
without the imports, and the largest memory (PSS) of all processes of a loader. With ``--latency``,
three of the loaders also read from a bucket whose requests take so long. Loaders whose package is
missing are listed as such.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import local
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import psutil

import arraystore
from arraystore._threads import n_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCH: Final = 64
SIZE: Final = 224
N_PICTURES: Final = 128
NBYTES: Final = 104_000
SHAPE: Final = (375, 500)
_SAMPLING_SECONDS: Final = 0.2
_MAX_SECONDS: Final = 300

Loader = "Callable[[Place], Iterator[object]]"


class Place(NamedTuple):
    """Where the samples are.

    Attributes
    ----------
    folder : Path
        Local folder with the store and the files of others.
    endpoint : str
        Address of the bucket; empty for the local store.
    """

    folder: Path
    endpoint: str = ""

    def train(self) -> arraystore.Split:
        """Open the store."""
        if not self.endpoint:
            return arraystore.open(self.folder / "images.zarr")["train"]
        from benchmarks.bench_remote import train_at

        return train_at(self.endpoint, ".zarr")


# The samples


def make_files(folder: Path, n: int) -> None:
    """Write the store, and the files that other loaders read."""
    from benchmarks.photographs import encode, photograph

    if (folder / "images.zarr").exists() and len(Place(folder).train()) == n:
        return
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(N_PICTURES):
        pixels = photograph(rng, *(SHAPE if i % 3 else SHAPE[::-1]))
        best = bisect_left(range(99), NBYTES, lo=1, key=lambda q: len(encode(pixels, q)))
        pictures.append(encode(pixels, best))
    samples = (
        {"image": pictures[i % N_PICTURES], "label": i % 10, "file_name": f"{i:06}.jpg"}
        for i in range(n)
    )
    arraystore.write(
        folder / "images.zarr",
        {"train": samples},
        classes=list("abcdefghij"),
        overwrite=True,
        sync=False,
        progress=False,
    )
    for other in ("images.tfrecord", "images.beton"):
        (folder / other).unlink(missing_ok=True)


# The loaders: each yields batches of one epoch


def decoding_alone(place: Place) -> Iterator[object]:
    import simplejpeg

    encoded = place.train().image_bytes[:]
    scratch = local()

    def decode(data: bytes) -> None:
        if not hasattr(scratch, "buffer"):
            scratch.buffer = np.empty(2**22, np.uint8)
        simplejpeg.decode_jpeg(data, buffer=scratch.buffer)

    with ThreadPoolExecutor(n_cpus()) as pool:
        for start in range(0, len(encoded), BATCH):
            yield list(pool.map(decode, encoded[start : start + BATCH]))


def by_arraystore(place: Place, resize: str) -> Iterator[object]:
    batches = place.train().batches(BATCH, size=SIZE, crop="random", flip=True, resize=resize)
    return (batch.image for batch in batches)


OPTIONS: Final[dict[str, Any]] = {
    "size": SIZE,
    "crop": "random",
    "flip": True,
    "resize": "opencv",
}


def by_torch_batches(place: Place) -> Iterator[object]:
    return iter(place.train().torch_batches(BATCH, **OPTIONS))


def by_torch(place: Place, *, is_collated_by_pytorch: bool) -> Iterator[object]:
    import torch

    data = place.train().torch(**OPTIONS)
    collate = None if is_collated_by_pytorch else data.collate
    return iter(torch.utils.data.DataLoader(data, BATCH, shuffle=True, collate_fn=collate))


class Crops:
    """A dataset of torch, and a source of grain: random crops of the images of a store."""

    def __init__(self, place: Place, decoder: str, scaler: str = "torchvision") -> None:
        self._place, self._train = place, None if place.endpoint else place.train()
        self._n = len(place.train())
        self._decode, self._scale = DECODERS[decoder], SCALERS[scaler]

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if self._train is None:
            self._train = self._place.train()
        return [self._scale(self._decode(data)) for data in self._train.image_bytes[indices]]


def _simplejpeg(data: bytes) -> Any:
    import simplejpeg

    return simplejpeg.decode_jpeg(data)


def _pillow(data: bytes) -> Any:
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(data)).convert("RGB")


def _torchvision(data: bytes) -> Any:
    import torch
    from torchvision.io import decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def _torchcodec(data: bytes) -> Any:
    import torch
    from torchcodec.decoders import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def _scale_with_torchvision(image: Any) -> Any:
    import torch
    from torchvision.transforms import v2

    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image).permute(2, 0, 1)
    crop = v2.RandomResizedCrop(SIZE, antialias=True)
    found = v2.functional.horizontal_flip(crop(image)) if torch.rand(()) < 1 / 2 else crop(image)
    return found if isinstance(found, torch.Tensor) else v2.functional.pil_to_tensor(found)


def _scale_with_opencv(image: Any) -> Any:
    import cv2
    import torch
    from torchvision.transforms import RandomResizedCrop

    cv2.setNumThreads(1)
    whole = torch.from_numpy(image).permute(2, 0, 1)
    top, left, height, width = RandomResizedCrop.get_params(whole, [0.08, 1], [3 / 4, 4 / 3])
    found = cv2.resize(image[top : top + height, left : left + width], (SIZE, SIZE))
    return torch.from_numpy(cv2.flip(found, 1) if torch.rand(()) < 1 / 2 else found)


DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "simplejpeg": _simplejpeg,
    "Pillow": _pillow,
    "torchvision": _torchvision,
    "TorchCodec": _torchcodec,
}
SCALERS: Final[dict[str, Callable[[Any], Any]]] = {
    "torchvision": _scale_with_torchvision,
    "OpenCV": _scale_with_opencv,
}


def by_dataloader(place: Place, decoder: str, scaler: str = "torchvision") -> Iterator[object]:
    import torch

    data: Any = Crops(place, decoder, scaler)
    context = "forkserver" if place.endpoint else "fork"
    return iter(
        torch.utils.data.DataLoader(
            data, BATCH, shuffle=True, num_workers=n_cpus(), multiprocessing_context=context
        )
    )


def by_grain(place: Place) -> Iterator[object]:
    import grain

    source: Any = Crops(place, "simplejpeg")
    batches = grain.MapDataset.source(source).shuffle(seed=0).batch(BATCH)
    # By default a worker decodes up to 500 batches ahead: all of them before the first is taken.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    return iter(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=n_cpus())))


def by_tf_data(place: Place) -> Iterator[object]:
    import tensorflow as tf

    file = place.folder / "images.tfrecord"
    if not file.exists():
        with tf.io.TFRecordWriter(str(file)) as writer:
            for data in place.train().image_bytes[:]:
                writer.write(data)

    def crop(data: Any) -> Any:
        box, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            min_object_covered=0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([box[0], box[1], size[0], size[1]])
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8)
        return tf.image.random_flip_left_right(image)

    records = tf.data.TFRecordDataset(str(file)).shuffle(8 * BATCH)
    batches = records.map(crop, num_parallel_calls=n_cpus()).batch(BATCH).prefetch(2)
    return iter(batches.as_numpy_iterator())


def by_ffcv(place: Place) -> Iterator[object]:
    from ffcv.fields import BytesField, IntField, RGBImageField  # noqa: F401
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    file = place.folder / "images.beton"
    if not file.exists():
        from ffcv.writer import DatasetWriter

        train = place.train()
        writer = DatasetWriter(str(file), {"image": RGBImageField("jpg", jpeg_quality=90)})
        writer.from_indexed_dataset([(image,) for image in train.image[:]])
    pipeline = [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), ToTensor()]
    return iter(
        Loader(
            str(file),
            batch_size=BATCH,
            num_workers=n_cpus(),
            order=OrderOption.RANDOM,
            pipelines={"image": pipeline},
        )
    )


LIMIT: Final = "decoding alone"
OURS: Final = ("arraystore, Pillow", "arraystore, OpenCV")
TENSORS: Final = ("torch_batches", "torch", "torch, default_collate")
LOADERS: Final[dict[str, tuple[Callable[[Place], Iterator[object]], tuple[str, ...]]]] = {
    LIMIT: (decoding_alone, ()),
    OURS[0]: (lambda place: by_arraystore(place, "pillow"), ()),
    OURS[1]: (lambda place: by_arraystore(place, "opencv"), ("cv2",)),
    "torch_batches": (by_torch_batches, ("torch", "cv2")),
    "torch": (
        lambda place: by_torch(place, is_collated_by_pytorch=False),
        ("torch", "cv2"),
    ),
    "torch, default_collate": (
        lambda place: by_torch(place, is_collated_by_pytorch=True),
        ("torch", "cv2"),
    ),
    "DataLoader, simplejpeg, torchvision": (
        lambda place: by_dataloader(place, "simplejpeg"),
        ("torch", "torchvision"),
    ),
    "DataLoader, simplejpeg, OpenCV": (
        lambda place: by_dataloader(place, "simplejpeg", "OpenCV"),
        ("torch", "torchvision", "cv2"),
    ),
    "DataLoader, Pillow, torchvision": (
        lambda place: by_dataloader(place, "Pillow"),
        ("torch", "torchvision"),
    ),
    "DataLoader, torchvision": (
        lambda place: by_dataloader(place, "torchvision"),
        ("torch", "torchvision"),
    ),
    "DataLoader, TorchCodec, torchvision": (
        lambda place: by_dataloader(place, "TorchCodec"),
        ("torch", "torchvision", "torchcodec"),
    ),
    "tf.data": (by_tf_data, ("tensorflow",)),
    "grain, simplejpeg, torchvision": (by_grain, ("grain", "torch", "torchvision")),
    "FFCV": (by_ffcv, ("torch", "ffcv")),
}
"""Function and needed modules of each loader."""

REMOTE: Final = (*OURS, "DataLoader, simplejpeg, torchvision")
"""Loaders that read from a bucket."""


# Measuring


class Cost(NamedTuple):
    """What one epoch of a loader took.

    Attributes
    ----------
    rate : float
        Images per second, from the first batch to the last.
    cpu : float
        Seconds of CPU time per 1000 images, likewise.
    first : float
        Seconds to the first batch.
    memory : float
        Most memory of all its processes in MB.
    """

    rate: float
    cpu: float
    first: float
    memory: float


def run_epoch(name: str, place: Place) -> tuple[float, float, float]:
    """Return rate, CPU time per 1000 images, and time to the first batch; in a new process."""
    loader, modules = LOADERS[name]
    for module in modules:
        importlib.import_module(module)
    n = len(place.train())
    start = perf_counter()
    batches = loader(place)
    next(batches)  # FFCV compiles code, and FFCV and tf.data write their files once
    first, cpu = perf_counter(), _cpu_seconds()
    n_batches = 1
    for _ in batches:
        n_batches += 1
        # Processes that end take their times with them.
        last, last_cpu = perf_counter(), _cpu_seconds()
    if n_batches != -(-n // BATCH):
        raise SystemExit(f"{name}: {n_batches} batches")
    return (n - BATCH) / (last - first), (last_cpu - cpu) / (n - BATCH) * 1000, first - start


def _cpu_seconds() -> float:
    """Return the CPU time of this process and all below it."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(name: str, place: Place) -> Cost:
    """Run one epoch in a new process, and watch its memory."""
    command = [sys.executable, "-m", "benchmarks.bench_train", str(place.folder), "--act", name]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.Popen(
        [*command, "--endpoint", place.endpoint],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    peak, end = 0.0, perf_counter() + _MAX_SECONDS
    while child.poll() is None:
        peak = max(peak, _memory(child.pid))
        sleep(_SAMPLING_SECONDS)
        if perf_counter() > end:
            child.kill()
    lines = (child.stdout.read() if child.stdout else "").splitlines()
    if child.returncode or not lines:
        raise RuntimeError(f"{name} failed")
    rate, cpu, first = json.loads(lines[-1])
    return Cost(rate, cpu, first, peak)


def _memory(pid: int) -> float:
    """Return the memory of a process and all below it in MB; shared pages are counted once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total / 1e6


def missing(name: str) -> str:
    """Return the modules of a loader that are not installed."""
    return ", ".join(m for m in LOADERS[name][1] if importlib.util.find_spec(m) is None)


def run_rounds(names: Sequence[str], place: Place, n_rounds: int) -> dict[str, list[Cost]]:
    """Measure loaders in turns; a loader that fails is reported and left out."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(n_rounds):
        for name in list(costs):
            try:
                costs[name].append(measure(name, place))
            except RuntimeError as error:
                print(error, flush=True)
                del costs[name]
            else:
                print(name, *(f"{value:.2f}" for value in costs[name][-1]), file=sys.stderr)
    return costs


def show(title: str, costs: dict[str, list[Cost]]) -> None:
    print(f"\n{title}\n")
    print("| loader | images/s | all rounds | CPU s per 1000 | first batch, s | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name, runs in costs.items():
        rate, cpu, first, memory = (median(values) for values in zip(*runs, strict=True))
        rounds = " ".join(f"{run.rate:.0f}" for run in runs)
        print(f"| {name} | {rate:,.0f} | {rounds} | {cpu:.2f} | {first:.2f} | {memory:,.0f} |")
    rates = {name: median(run.rate for run in runs) for name, runs in costs.items()}
    cpus = {name: median(run.cpu for run in runs) for name, runs in costs.items()}
    others = [name for name in costs if name not in (LIMIT, *OURS, *TENSORS)]
    for ours in (*OURS, *TENSORS):
        if ours not in costs:
            continue
        print(f"\n{ours}:")
        if LIMIT in costs:
            print(f"  {rates[ours] / rates[LIMIT]:.2f} of the rate of {LIMIT}, ", end="")
            print(f"{cpus[ours] / cpus[LIMIT]:.2f} of its CPU time")
        if others:
            best, least = max(others, key=rates.__getitem__), min(others, key=cpus.__getitem__)
            print(f"  {rates[ours] / rates[best]:.2f} of the rate of {best}, the fastest other")
            print(f"  {cpus[ours] / cpus[least]:.2f} of the CPU time of {least}, the least other")


def run_remote(folder: Path, latency: float, n_rounds: int) -> dict[str, list[Cost]]:
    """Measure loaders of a bucket on loopback."""
    from benchmarks.bench_remote import running_proxy
    from tests.cloud.servers import SeaweedFS

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        server = stack.enter_context(SeaweedFS(scratch))
        server.upload(folder / "images.zarr", "images.zarr")
        proxy = stack.enter_context(running_proxy(server.endpoint, latency=latency / 1000))
        names = [name for name in REMOTE if not missing(name)]
        return run_rounds(names, Place(folder, proxy.endpoint), n_rounds)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_train", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--latency", type=float, metavar="MS", help="also from a bucket")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--act", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    place = Place(options.folder, options.endpoint)
    if options.act:
        print(json.dumps(run_epoch(options.act, place)))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    make_files(options.folder, options.images)
    for name in options.loaders:
        if missing(name):
            print(f"{name}: not installed: {missing(name)}")
    names = [name for name in options.loaders if not missing(name)]
    found = {"local": run_rounds(names, place, options.rounds)}
    show(f"local, {options.images} images", found["local"])
    if options.latency is not None:
        where = f"bucket, {options.latency:g} ms"
        found[where] = run_remote(options.folder, options.latency, options.rounds)
        show(where, found[where])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
