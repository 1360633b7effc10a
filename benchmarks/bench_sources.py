"""Convert the same images from each form of source: time, and memory with many samples.

::

    python -m benchmarks.bench_sources [speed] [DIR] [--nbytes 1e9] [--rounds 2] [--check-images]
    python -m benchmarks.bench_sources memory [DIR] [--records 1281167]

``speed`` writes the same drawn photographs in every form into DIR, by default a temporary folder,
with the libraries that define the forms, and converts each to Zarr without a sync, in a new process
each time, whose start and imports are part of its time. With ``--check-images`` each image is
decoded as well.

``memory`` converts as many tiny records as ImageNet has images, from files, from Parquet, from
TFRecord, from WebDataset and from a generator, and prints the peak resident memory of each process.
"""

import argparse
import csv
import gzip
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")
Samples = Iterable[tuple[str, int, bytes]]

N_IMAGENET: Final = 1_281_167
N_CLASSES: Final = 100
TINY: Final = bytes.fromhex("FFD8 FFC0 000B 08 0020 0030 01 011100 FFD9")
"""The header of a gray JPEG, which is all that a conversion examines."""

_SHARD_SAMPLES: Final = 1000
_ROW_GROUP: Final = 100


class Form(NamedTuple):
    """A form of source: how it is written, and how it is converted."""

    name: str
    write: Callable[[Path, Samples], None]
    dataset: str
    options: dict[str, Any]


class Run(NamedTuple):
    """One conversion."""

    seconds: float
    cpu_seconds: float
    peak_nbytes: int
    content_digest: str


def photographs(nbytes: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, label and bytes of images that together have a number of bytes."""
    from benchmarks.imagenet_archives import ImageMaker

    maker = ImageMaker(["a", "b", "c"], seed=0)
    done = i = 0
    while done < nbytes:
        name = f"n{i % N_CLASSES:08}_{i}.JPEG"
        data = maker.image(name)
        yield name, i % N_CLASSES, data
        done += len(data)
        i += 1


def tiny_records(n: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, label and bytes of images that are as small as can be."""
    for i in range(n):
        yield f"n{i % N_CLASSES:08}_{i}.JPEG", i % N_CLASSES, TINY


def write_folder(folder: Path, samples: Samples) -> None:
    for name, _, data in samples:
        path = folder / "train" / name.partition("_")[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_extracted(folder: Path, samples: Samples) -> None:
    """Write the images as training images of ImageNet, extracted."""
    from arraystore.sources.imagenet2012_tables import wnids

    (folder / "val").mkdir()
    for wnid in wnids():
        (folder / "train" / wnid).mkdir(parents=True)
    for i, (_, _, data) in enumerate(samples):
        wnid = wnids()[i % len(wnids())]
        (folder / "train" / wnid / f"{wnid}_{i}.JPEG").write_bytes(data)


def write_table(folder: Path, samples: Samples) -> None:
    rows = [("path", "label")]
    for name, label, data in samples:
        (folder / name).write_bytes(data)
        rows.append((name, str(label)))
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_wds(folder: Path, samples: Samples, *, mode: str = "w", suffix: str = "") -> None:
    for i, some in enumerate(_batches(samples, _SHARD_SAMPLES)):
        with tarfile.open(folder / f"photos-train-{i:06}.tar{suffix}", mode) as tar:  # type: ignore[call-overload] # any mode
            for name, label, data in some:
                key = name.partition(".")[0]
                for member, content in ((name, data), (f"{key}.cls", str(label).encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def _examples(samples: Samples) -> Iterator[dict[str, tuple[Any, str]]]:
    for name, label, data in samples:
        yield {
            "file_name": (name.encode(), "byte"),
            "image": (data, "byte"),
            "label": (label, "int"),
        }


def write_tfrecord(folder: Path, samples: Samples) -> None:
    from tfrecord.writer import TFRecordWriter

    for i, some in enumerate(_batches(samples, _SHARD_SAMPLES)):
        writer = TFRecordWriter(str(folder / f"photos-train-{i:06}.tfrecord"))
        for example in _examples(some):
            writer.write(example)
        writer.close()


def write_tfrecord_gz(folder: Path, samples: Samples) -> None:
    write_tfrecord(folder, samples)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb", 6) as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()


def write_array_record(folder: Path, samples: Samples) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter
    from tfrecord.writer import TFRecordWriter

    for i, some in enumerate(_batches(samples, _SHARD_SAMPLES)):
        writer = ArrayRecordWriter(
            str(folder / f"photos-train-{i:06}.array_record"), "group_size:1"
        )
        for example in _examples(some):
            writer.write(TFRecordWriter.serialize_tf_example(example))
        writer.close()


def write_parquet(folder: Path, samples: Samples, *, per_file: int = 5000) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.int64()})
    for i, some in enumerate(_batches(samples, per_file)):
        with pq.ParquetWriter(folder / f"train-{i:06}.parquet", schema) as writer:
            for rows in _batches(some, _ROW_GROUP if per_file <= 5000 else per_file // 10):
                images = [{"bytes": data, "path": name} for name, _, data in rows]
                labels = [label for _, label, _ in rows]
                writer.write_table(pa.table([images, labels], schema=schema))


def write_records(folder: Path, samples: Samples) -> None:
    """Write nothing: the samples come from a generator."""
    del folder, samples


def _batches(items: Iterable[T], n: int) -> Iterator[list[T]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


COUNTED: Final = {"classes": N_CLASSES}
FORMS: Final = (
    Form("folder", write_folder, "folder:{}", {}),
    Form("csv", write_table, "csv:{}/train.csv", COUNTED),
    Form("WebDataset", write_wds, "wds:{}", COUNTED),
    Form("WebDataset, gzip", partial(write_wds, mode="w:gz", suffix=".gz"), "wds:{}", COUNTED),
    Form("TFRecord", write_tfrecord, "tfrecord:{}", COUNTED),
    Form("TFRecord, gzip", write_tfrecord_gz, "tfrecord:{}", COUNTED),
    Form("Parquet", write_parquet, "parquet:{}", COUNTED),
    Form("ArrayRecord", write_array_record, "array_record:{}", COUNTED),
    Form("Python records", write_records, "", COUNTED),
)
EXTRACTED: Final = Form("extracted ImageNet", write_extracted, "imagenet2012", {"partial": True})
BOUNDED: Final[dict[str, Callable[[Path, Samples], None]]] = {
    EXTRACTED.name: write_extracted,
    "Parquet": partial(write_parquet, per_file=100_000),
    "TFRecord": write_tfrecord,
    "WebDataset": write_wds,
    "Python records": write_records,
}
"""The forms whose memory is measured."""


def convert(form: Form, folder: Path, samples: Callable[[], Samples], target: Path) -> Run:
    """Convert a form in this process."""
    began, cpu = perf_counter(), process_time()
    import arraystore

    if form.dataset:
        dataset = form.dataset.format(folder)
        options = {**form.options, "manual_dir": folder} if form == EXTRACTED else form.options
        report = arraystore.convert(dataset, target, sync=False, **options)
    else:
        records = ({"image": d, "label": k, "file_name": n} for n, k, d in samples())
        report = arraystore.write(target, {"train": records}, sync=False, **form.options)
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return Run(seconds, cpu_seconds, peak, report.splits["train"].content_digest)


def _in_new_process(function: Callable[[], T]) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function).result()


def _is_written(form: Form, folder: Path, samples: Callable[[], Samples]) -> bool:
    """Write a form; return whether the library that it needs is installed."""
    try:
        _in_new_process(partial(_write, form, folder, samples))
    except ModuleNotFoundError as error:
        print(f"{form.name}: left out, {error.name} is not installed (arraystore[bench])")
        return False
    return True


def _write(form: Form, folder: Path, samples: Callable[[], Samples]) -> None:
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        form.write(unfinished, samples())
        unfinished.rename(folder)


def measure_speed(
    folder: Path, nbytes: int, n_rounds: int, names: Sequence[str], *, check_images: bool
) -> None:
    """Print the time of converting each form."""
    samples = partial(photographs, nbytes)
    checked = {"check_images": True} if check_images else {}
    forms = [
        form._replace(options={**form.options, **checked}) for form in FORMS if form.name in names
    ]
    folders = {form.name: folder / f"form-{i}" for i, form in enumerate(FORMS)}
    forms = [form for form in forms if _is_written(form, folders[form.name], samples)]
    runs: dict[str, list[Run]] = {form.name: [] for form in forms}
    for _ in range(n_rounds):
        for form in forms:
            _read(folders[form.name])
            with TemporaryDirectory(dir=folder) as made:
                target = Path(made) / "photos.zarr"
                call = partial(convert, form, folders[form.name], samples, target)
                runs[form.name].append(_in_new_process(call))
    print(f"{'form':18} {'best s':>7} {'median s':>9} {'CPU s':>7} {'MB/s':>6} {'peak MB':>8}")
    for name, some in runs.items():
        best = min(run.seconds for run in some)
        middle = median(run.seconds for run in some)
        cpu = median(run.cpu_seconds for run in some)
        peak = max(run.peak_nbytes for run in some)
        print(
            f"{name:18} {best:7.2f} {middle:9.2f} {cpu:7.2f} {nbytes / best / 1e6:6.0f} "
            f"{peak / 1e6:8.0f}"
        )
    digests = {
        run.content_digest for name, some in runs.items() if name != "folder" for run in some
    }
    assert len(digests) <= 1, "the forms hold different images"


def measure_memory(folder: Path, n_records: int, names: Sequence[str]) -> None:
    """Print the peak memory of converting many tiny records."""
    samples = partial(tiny_records, n_records)
    print(f"{n_records:,} records of {len(TINY)} bytes")
    for form in (EXTRACTED, *FORMS):
        if form.name in BOUNDED and form.name in names:
            place = folder / f"tiny-{form.name.replace(' ', '-')}"
            written = form._replace(write=BOUNDED[form.name])
            if not _is_written(written, place, samples):
                continue
            with TemporaryDirectory(dir=folder) as made:
                target = Path(made) / "tiny.zarr"
                run = _in_new_process(partial(convert, form, place, samples, target))
            print(
                f"{form.name:18} {run.peak_nbytes / 1e6:6.0f} MB {run.seconds:7.1f} s", flush=True
            )


def _read(folder: Path) -> None:
    """Read all files of a folder into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_sources",
        description="Time conversion from each form of source, or measure its memory.",
    )
    parser.add_argument("what", nargs="?", choices=("speed", "memory"), default="speed")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--nbytes", type=float, default=1e9, help="of all images (speed)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--check-images", action="store_true", help="decode each image (speed)")
    parser.add_argument("--records", type=int, default=N_IMAGENET, help="number (memory)")
    names = [form.name for form in (EXTRACTED, *FORMS)]
    parser.add_argument("--form", action="append", choices=names, help="only this one; repeatable")
    options = parser.parse_args()
    names = options.form or names
    with TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.what == "memory":
            measure_memory(folder, options.records, names)
        else:
            measure_speed(
                folder,
                int(options.nbytes),
                options.rounds,
                names,
                check_images=options.check_images,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
