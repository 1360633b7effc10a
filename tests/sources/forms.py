"""One set of images in the forms that people keep them in, written small."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arraystore.sources.tfrecord import masked_crc32c
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

CLASSES: Final = ("ant", "bee", "cat")


@dataclass(frozen=True)
class Drawn:
    """One sample: its file name, label and encoded image."""

    name: str
    label: int
    image: bytes


SAMPLES: Final = {
    split: [
        Drawn(f"{split[:1]}{i}.jpg", i % len(CLASSES), picture(10 + i, 16, seed=first + i))
        for i in range(n)
    ]
    for split, n, first in (("train", 7, 0), ("validation", 3, 100))
}


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload] # any mode
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def members_of(samples: Sequence[Drawn], *, label: str = "cls") -> Iterable[tuple[str, bytes]]:
    """The members of a WebDataset shard."""
    for sample in samples:
        key, _, extension = sample.name.partition(".")
        text = {"cls": str(sample.label), "json": f'{{"label": {sample.label}}}'}[label]
        yield f"{key}.{extension}", sample.image
        yield f"{key}.{label}", text.encode()


def varint(value: int) -> bytes:
    value %= 2**64
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def delimited(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def feature(value: Any, *, packed: bool = True) -> bytes:
    """A serialized Feature of bytes, texts, integers or floats, or lists of them."""
    values = value if isinstance(value, list) else [value]
    if not values:
        return b""
    if isinstance(values[0], int):
        numbers = [varint(number) for number in values]
        if packed:
            return delimited(3, delimited(1, b"".join(numbers)))
        return delimited(3, b"".join(b"\x08" + number for number in numbers))
    if isinstance(values[0], float):
        return delimited(2, delimited(1, struct.pack(f"<{len(values)}f", *values)))
    texts = [text.encode() if isinstance(text, str) else text for text in values]
    return delimited(1, b"".join(delimited(1, text) for text in texts))


def example(features: Mapping[str, Any], *, packed: bool = True) -> bytes:
    """A serialized tf.train.Example."""
    entries = (
        delimited(1, delimited(1, name.encode()) + delimited(2, feature(value, packed=packed)))
        for name, value in features.items()
    )
    return delimited(1, b"".join(entries))


def tfrecord(records: Iterable[bytes]) -> bytes:
    """The bytes of a TFRecord file."""
    out = bytearray()
    for record in records:
        length = struct.pack("<Q", len(record))
        out += length + struct.pack("<I", masked_crc32c(length))
        out += record + struct.pack("<I", masked_crc32c(record))
    return bytes(out)


def tfds_examples(samples: Sequence[Drawn]) -> list[bytes]:
    return [example({"file_name": s.name, "image": s.image, "label": s.label}) for s in samples]


def hugging_face_metadata(classes: Sequence[str]) -> bytes:
    import json

    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    return json.dumps({"info": {"features": features}}).encode()


def write_parquet(
    path: Path,
    samples: Sequence[Drawn],
    *,
    classes: Sequence[str] | None = CLASSES,
    **options: Any,
) -> Path:
    """A file as Hugging Face writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.int64()})
    if classes is not None:
        schema = schema.with_metadata({b"huggingface": hugging_face_metadata(list(classes))})
    rows = [{"image": {"bytes": s.image, "path": s.name}, "label": s.label} for s in samples]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return path


def wds(folder: Path) -> str:
    for split, samples in SAMPLES.items():
        for i, some in enumerate((samples[:2], samples[2:])):
            write_tar(folder / f"pets-{split}-{i:06}.tar", members_of(some))
    return f"wds:{folder}/pets-{{train,validation}}-{{000000..000001}}.tar"


def wds_gz(folder: Path) -> str:
    for split, samples in SAMPLES.items():
        for i, some in enumerate((samples[:2], samples[2:])):
            write_tar(folder / f"{split}-{i:06}.tar.gz", members_of(some, label="json"), "w:gz")
    return f"wds:{folder}"


def tfds(folder: Path) -> str:
    for split, samples in SAMPLES.items():
        for i, some in enumerate((samples[:2], samples[2:])):
            path = folder / f"pets-{split}.tfrecord-{i:05}-of-00002"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tfrecord(tfds_examples(some)))
    (folder / "label.labels.txt").write_text("\n".join(CLASSES) + "\n")
    return f"tfrecord:{folder}"


def tfrecord_gz(folder: Path) -> str:
    folder.mkdir(parents=True)
    for split, compress in (("train", gzip.compress), ("validation", zlib.compress)):
        records = [
            example(
                {
                    "image/encoded": s.image,
                    "image/class/label": [s.label],
                    "image/filename": s.name,
                    "image/height": 10,
                }
            )
            for s in SAMPLES[split]
        ]
        (folder / f"{split}.tfrecord").write_bytes(compress(tfrecord(records)))
    return f"tfrecord:{folder}"


def hugging_face(folder: Path) -> str:
    for split, samples in SAMPLES.items():
        for i, some in enumerate((samples[:2], samples[2:])):
            write_parquet(folder / f"{split}-{i:05}-of-00002.parquet", some, row_group_size=2)
    return f"parquet:{folder}"


def array_record(folder: Path) -> str:
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    for split, samples in SAMPLES.items():
        path = folder / f"pets-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in tfds_examples(samples):
            writer.write(record)
        writer.close()
    (folder / "label.labels.txt").write_text("\n".join(CLASSES))
    return f"array_record:{folder}"


def table(folder: Path, *, delimiter: str = ",", kind: str = "csv") -> str:
    rows = [("path", "label", "split")]
    for split, samples in SAMPLES.items():
        write_folder(folder, {sample.name: sample.image for sample in samples})
        rows += [(sample.name, CLASSES[sample.label], split) for sample in samples]
    with (folder / f"pets.{kind}").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return f"{kind}:{folder}/pets.{kind}"


def tab_table(folder: Path) -> str:
    return table(folder, delimiter="\t", kind="tsv")


FORMS: Final[dict[str, Callable[[Path], str]]] = {
    "wds": wds,
    "wds, gzip": wds_gz,
    "TFDS": tfds,
    "tfrecord, compressed": tfrecord_gz,
    "parquet": hugging_face,
    "array_record": array_record,
    "csv": table,
    "tsv": tab_table,
}
"""What writes each form into a new folder, and returns the name of the data set."""

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "wds": {"classes": CLASSES},
    "wds, gzip": {"classes": CLASSES},
    "tfrecord, compressed": {"classes": CLASSES},
}
"""What else must be stated to convert a form."""

SPOOLED: Final = {"wds, gzip", "tfrecord, compressed", "parquet", "array_record"}
"""Forms whose images are no byte range of a file."""
