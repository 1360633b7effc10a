"""Read the images of the ImageNet archives with `tarfile` only, and compare a store with them."""

import io
import tarfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

TRAIN: Final = "ILSVRC2012_img_train.tar"
VALIDATION: Final = "ILSVRC2012_img_val.tar"
N_VALIDATION: Final = 50_000
BATCH_SIZE: Final = 256


class Count(NamedTuple):
    """Number of images, of bytes in them, and of those that conversion re-encoded."""

    n_images: int
    n_bytes: int
    n_reencoded: int


@dataclass(frozen=True, slots=True)
class Archives:
    """The two archives, and the images in them that a store must have.

    Attributes
    ----------
    folder : Path
        Folder of the archives.
    subset_list : Path
        Names of the training images, one per line. All validation images belong to the store.
    """

    folder: Path
    subset_list: Path

    @property
    def paths(self) -> tuple[Path, Path]:
        """Both archives."""
        return self.folder / TRAIN, self.folder / VALIDATION

    @property
    def names(self) -> frozenset[str]:
        """Names of the listed training images."""
        return frozenset(self.subset_list.read_text().split())

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of each image of ``train`` or ``validation``, in order."""
        return self._train() if split == "train" else self._validation()

    def _train(self) -> Iterator[tuple[str, bytes]]:
        names = self.names
        with tarfile.open(self.folder / TRAIN) as archive:
            for class_member in archive:
                with tarfile.open(fileobj=archive.extractfile(class_member)) as class_archive:
                    for member in class_archive:
                        if member.name in names:
                            yield member.name, _read(class_archive, member)

    def _validation(self) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(self.folder / VALIDATION) as archive:
            for member in archive:
                yield member.name, _read(archive, member)


def count(archives: Archives) -> Count:
    """Count the images and their bytes."""
    sizes = [len(data) for split in ("train", "validation") for _, data in archives.images(split)]
    return Count(len(sizes), sum(sizes), 0)


def label_of(name: str) -> int:
    """Return the label of the image with this name."""
    from arraystore.sources.imagenet2012_tables import validation_labels, wnids

    prefix, _, number = name.removesuffix(".JPEG").rpartition("_")
    if prefix == "ILSVRC2012_val":
        return int(validation_labels()[int(number) - 1])
    return bisect_left(wnids(), prefix)


def verify(archives: Archives, store: Path) -> Count:
    """Compare every image and label of a store with the archives.

    Parameters
    ----------
    archives : Archives
        Source of the store.
    store : Path
        The store.

    Returns
    -------
    Count
        Number of images and bytes compared.

    Raises
    ------
    ValueError
        If an image is missing, superfluous or different, or its label is wrong. An image that
        had to be re-encoded (CMYK, PNG) must be an RGB JPEG of the same size.
    """
    import arraystore

    n_images = n_bytes = n_reencoded = 0
    opened = arraystore.open(store)
    for split in ("train", "validation"):
        stored, source = opened[split], archives.images(split)
        left = {str(name): position for position, name in enumerate(stored.file_name[:])}
        if len(left) != len(stored):
            raise ValueError(f"{store}: {split} has {len(stored)} images of {len(left)} names")
        while batch := list(islice(source, BATCH_SIZE)):
            missing = [name for name, _ in batch if name not in left]
            if missing:
                raise ValueError(f"{store}: {split} must hold {missing[0]!r} once")
            positions = [left.pop(name) for name, _ in batch]
            found = zip(stored.image_bytes[positions], stored.label[positions], strict=True)
            for (name, data), (image, label) in zip(batch, found, strict=True):
                _check(f"{store}: {name}", (data, label_of(name)), (bytes(image), int(label)))
                n_reencoded += image != data
                n_bytes += len(data)
            n_images += len(batch)
        if left:
            raise ValueError(
                f"{store}: {split} holds {len(left)} images that the archive does not have"
            )
    return Count(n_images, n_bytes, n_reencoded)


def _check(name: str, expected: tuple[bytes, int], found: tuple[bytes, int]) -> None:
    (data, label), (image, found_label) = expected, found
    if label != found_label:
        raise ValueError(f"{name}: label must be {label}, got {found_label}")
    if image != data:
        _check_reencoded(name, data, image)


def _check_reencoded(name: str, data: bytes, image: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as source, Image.open(io.BytesIO(image)) as stored:
        if source.format != "PNG" and source.mode != "CMYK":
            raise ValueError(f"{name}: must be the {len(data)} bytes of the archive")
        kind = (stored.format, stored.mode, stored.size)
        if kind != ("JPEG", "RGB", source.size):
            raise ValueError(f"{name}: must be an RGB JPEG of {source.size}, got {kind}")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name}: must be a file")
    return file.read()
