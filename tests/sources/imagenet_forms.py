"""One small ImageNet in every form that people keep it in."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from typing import TYPE_CHECKING, Final

from arraystore.cli.synthetic_archives import draw, encode
from arraystore.sources.imagenet2012_forms import ARCHIVES
from arraystore.sources.imagenet2012_tables import validation_labels, wnids, words
from tests.sources.forms import example, hugging_face_metadata, tfrecord, write_tar
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LABELS: Final = (0, 7, 500, 999)
CMYK: Final = f"{wnids()[7]}_12.JPEG"
PNG: Final = f"{wnids()[500]}_3.JPEG"

TRAIN: Final = {
    f"{wnids()[label]}_{number}.JPEG": picture(16, 20, seed=100 * label + number)
    for label in LABELS
    for number in (3, 12, 10026)
} | {CMYK: encode(draw(7, 1).convert("CMYK")), PNG: encode(draw(500, 1), "PNG")}
VALIDATION: Final = {
    f"ILSVRC2012_val_{number:08d}.JPEG": picture(14, 18, seed=number)
    for number in (1, 2, 293, 25_000, 50_000)
}
TEST: Final = {
    f"ILSVRC2012_test_{number:08d}.JPEG": picture(10, 10, seed=10**6 + number)
    for number in (1, 99_999)
}
IMAGES: Final = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def label_of(split: str, name: str) -> int:
    """The true label of an official name."""
    if split == "train":
        return wnids().index(name[:9])
    return int(validation_labels()[int(name[15:23]) - 1]) if split == "validation" else -1


def wnid_of(split: str, name: str) -> str:
    return wnids()[label_of(split, name)]


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def class_tars(images: Mapping[str, bytes]) -> dict[str, bytes]:
    names = sorted({name[:9] for name in images})
    return {
        f"{wnid}.tar": tar_bytes({n: d for n, d in images.items() if n.startswith(wnid)})
        for wnid in names
    }


def archives(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    members = class_tars(images) if split == "train" else images
    write_folder(folder, {ARCHIVES[split]: tar_bytes(members)})


def class_archives(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """The outer archive extracted beside it; other splits as they are."""
    if split == "train":
        write_folder(folder, class_tars(images))
    else:
        archives(folder, split, images)


def class_archives_below(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    class_archives(folder / "train" if split == "train" else folder, split, images)


def class_folders(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """As torchvision extracts it, with validation sorted into classes."""
    root = folder / {"train": "train", "validation": "val", "test": "test"}[split]
    for name, data in images.items():
        below = "" if split == "test" else f"{wnid_of(split, name)}/"
        write_folder(root, {f"{below}{name}": data})


def flat_validation(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    if split == "train":
        class_folders(folder, split, images)
    else:
        write_folder(folder / split, dict(images))


def extracted_in_place(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """Class folders and validation images in the folder itself."""
    for name, data in images.items():
        below = f"{wnid_of(split, name)}/" if split == "train" else ""
        write_folder(folder, {f"{below}{name}": data})


def kaggle(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    root = folder / "ILSVRC/Data/CLS-LOC"
    names = {"train": "train", "validation": "val", "test": "test"}
    for name, data in images.items():
        below = f"{wnid_of(split, name)}/" if split == "train" else ""
        write_folder(root / names[split], {f"{below}{name}": data})
    write_folder(folder / "ILSVRC/Annotations/CLS-LOC", {"val/x.xml": b"<annotation/>"})
    if split == "validation":
        rows = [f"{name[:-5]},{wnid_of(split, name)} 1 2 300 400 \n" for name in images]
        text = "ImageId,PredictionString\n" + "".join(rows)
        write_folder(folder, {"LOC_val_solution.csv": text.encode()})


def kaggle_inner(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """Kaggle's tree without the two folders around it."""
    kaggle(folder / "x", split, images)
    shutil.copytree(folder / "x/ILSVRC/Data/CLS-LOC", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "x")


def hub_name(split: str, name: str) -> str:
    return name if split == "test" else f"{name[:-5]}_{wnid_of(split, name)}.JPEG"


def parquet(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.int64()})
    schema = schema.with_metadata({b"huggingface": hugging_face_metadata(list(words()))})
    rows = [
        {"image": {"bytes": data, "path": hub_name(split, name)}, "label": label_of(split, name)}
        for name, data in images.items()
    ]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for i, some in enumerate((rows[::2], rows[1::2])):
        path = folder / f"data/{split}-{i:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(some, schema=schema), path, row_group_size=2)


def tar_gz(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """The older files of Hugging Face."""
    members = [(hub_name(split, name), data) for name, data in images.items()]
    word = {"train": "train", "validation": "val", "test": "test"}[split]
    parts = [members] if split != "train" else [members[i::5] for i in range(5)]
    for i, some in enumerate(parts):
        number = f"_{i}" if split == "train" else ""
        write_tar(folder / f"data/{word}_images{number}.tar.gz", some, "w:gz")


def webdataset(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    """As timm's shards are."""
    if split == "test":
        archives(folder, split, images)
        return
    width = 4 if split == "train" else 2
    names = list(images)
    for i, some in enumerate((names[:3], names[3:])):
        path = folder / f"imagenet1k-{split}-{i:0{width}}.tar"
        write_tar(path, (member for name in some for member in _wds_members(split, name, images)))


def _wds_members(split: str, name: str, images: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
    label = label_of(split, name)
    file_name = f"{wnids()[label]}/{name}"
    document = {"filename": file_name, "label": label, "height": 1, "width": 2}
    yield f"{name[:-5]}.cls", str(label).encode()
    yield f"{name[:-5]}.jpg", images[name]
    yield f"{name[:-5]}.json", json.dumps(document).encode()


def tfds(folder: Path, split: str, images: Mapping[str, bytes]) -> None:
    names = list(images)
    for i, some in enumerate((names[:1], names[1:])):
        records = [
            example({"file_name": n, "image": images[n], "label": label_of(split, n)}) for n in some
        ]
        path = f"imagenet2012/5.1.0/imagenet2012-{split}.tfrecord-{i:05}-of-00002"
        write_folder(folder, {path: tfrecord(records)})


FORMS: Final = {
    "class archives": class_archives,
    "class archives below train": class_archives_below,
    "class folders": class_folders,
    "flat validation": flat_validation,
    "extracted in place": extracted_in_place,
    "kaggle": kaggle,
    "kaggle inner": kaggle_inner,
    "parquet": parquet,
    "tar.gz": tar_gz,
    "webdataset": webdataset,
    "tfds": tfds,
}
"""What draws each form."""


def draw_form(
    folder: Path, form: str, *, images: Mapping[str, Mapping[str, bytes]] = IMAGES
) -> Path:
    """Write all splits in one form, and the list of a subset beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in images.items():
        (archives if form == "archives" else FORMS[form])(folder, split, some)
    write_lists(folder)
    return folder


def write_lists(folder: Path) -> None:
    listed = {"1percent.txt": list(TRAIN)[1:6], "10percent.txt": list(TRAIN)[:8]}
    for name, names in listed.items():
        (folder / name).write_text("".join(f"{line}\n" for line in names))
