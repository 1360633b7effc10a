"""Data sets in the label space of ImageNet 2012: V2, A, R, Sketch, C and ReaL.

Names, configs, versions, splits and file names are those of TFDS. Each is read from the archive
that its authors publish, or from the folder that it extracts to.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_path
from arraystore.errors import SourceError, brief, escaped
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.schema import UNLABELLED
from arraystore.sources import imagenet2012
from arraystore.sources.image_tree import read_tree
from arraystore.sources.imagenet2012_names import (
    SPLIT_SIZES,
    class_text,
    label_of_wnid,
    name_and_label,
)
from arraystore.sources.imagenet2012_tables import hierarchy, wnids, words
from arraystore.sources.junk import junk_note, others_note
from arraystore.sources.sample_table import SampleTable, Source, check_names, silent
from arraystore.sources.spool import SPOOL, Spool
from arraystore.storage.buckets import ObjectPath, state_of_path, states_of

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.image_tree import ImageTree
    from arraystore.sources.sample_table import Status
    from arraystore.storage.buckets import SourcePath
    from arraystore.storage.file_states import FileStates

_CORRUPTIONS: Final = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("gaussian_blur", "saturate", "spatter", "speckle_noise"),
}
"""The corruptions of ImageNet-C, by the archive that has them."""

V2: Final = "imagenet_v2"
A: Final = "imagenet_a"
R: Final = "imagenet_r"
SKETCH: Final = "imagenet_sketch"
CORRUPTED: Final = "imagenet2012_corrupted"
REAL: Final = "imagenet2012_real"

CONFIGS: Final[dict[str, tuple[str, ...]]] = {
    V2: ("matched-frequency", "threshold-0.7", "top-images"),
    A: ("",),
    R: ("",),
    SKETCH: ("",),
    CORRUPTED: tuple(
        f"{kind}_{severity}"
        for kinds in _CORRUPTIONS.values()
        for kind in kinds
        for severity in range(1, 6)
    ),
    REAL: ("",),
}
"""Configs of each data set; the first is the default."""

ALIASES: Final = {(V2, "topimages"): "top-images"}
"""Other names of configs: TFDS writes this one so."""

VERSIONS: Final[dict[str, tuple[str, ...]]] = {
    V2: ("3.0.0",),
    A: ("0.1.0",),
    R: ("0.2.0",),
    SKETCH: ("1.0.0",),
    CORRUPTED: ("3.1.0",),
    REAL: ("1.0.0",),
}

ORIGINAL_LABEL: Final = "original_label"
"""Column of `REAL` with the labels of ImageNet."""

REAL_LABELS: Final = "real_labels"
"""Column of `REAL` with all of ReaL's labels of each image."""

_REAL_LABELS: Final = "real.json"
_REAL_URL: Final = "https://github.com/google-research/reassessed-imagenet"
_REAL_SHA256: Final = "d83e9bff374c631aae8439eb064c7019acc56e1b3bc3f56b8380c2a710b0220b"


@dataclass(frozen=True, slots=True)
class Variant:
    """One config of a data set, and where it is looked for.

    Attributes
    ----------
    name, config, split : str
    paths : tuple of str
        Archives and folders that may hold it, below the folder of the user.
    depth : int
        Number of the last parts of a path that name an image: class and file, for instance.
    n_images : int
        Published number of images.
    title, homepage : str
    """

    name: str
    config: str
    split: str
    paths: tuple[str, ...]
    depth: int
    n_images: int
    title: str
    homepage: str


def variant_of(name: str, config: str) -> Variant:
    """Return a config of a data set; `name` and `config` are in `CONFIGS`, except `REAL`."""
    if name == V2:
        stem = f"imagenetv2-{config.replace('threshold-', 'threshold')}"
        paths: tuple[str, ...] = (f"{stem}.tar.gz", f"{stem}.tar", f"{stem}-format-val", "")
        title, homepage = f"ImageNet-V2, {config}", "https://github.com/modestyachts/ImageNetV2"
        return Variant(name, config, "test", paths, 2, 10_000, title, homepage)
    if name == CORRUPTED:
        kind, _, severity = config.rpartition("_")
        group = next(group for group, kinds in _CORRUPTIONS.items() if kind in kinds)
        below = f"{kind}/{severity}"
        roots = ("", f"{group}/", "imagenet-c/", "ImageNet-C/", "Imagenet-C/")
        folders = (f"{root}{below}" for root in roots)
        archives = (f"{root}{group}.tar" for root in roots)
        title = f"ImageNet-C, {kind} of severity {severity}"
        homepage = "https://github.com/hendrycks/robustness"
        paths = (*archives, *folders, f"ImageNet-C/{group}/{below}")
        return Variant(name, config, "validation", paths, 4, 50_000, title, homepage)
    paths, n_images, title, homepage = {
        A: (
            ("imagenet-a.tar", "imagenet-a", ""),
            7_500,
            "ImageNet-A",
            "https://github.com/hendrycks/natural-adv-examples",
        ),
        R: (
            ("imagenet-r.tar", "imagenet-r", ""),
            30_000,
            "ImageNet-R",
            "https://github.com/hendrycks/imagenet-r",
        ),
        SKETCH: (
            ("ImageNet-Sketch.zip", "imagenet-sketch.zip", "sketch", "ImageNet-Sketch", ""),
            50_889,
            "ImageNet-Sketch",
            "https://github.com/HaohanWang/ImageNet-Sketch",
        ),
    }[name]
    return Variant(name, config, "test", paths, 2, n_images, title, homepage)


def find_variant(variant: Variant, folder: SourcePath) -> SourcePath | None:
    """Return the archive or folder of a variant; None if there is none."""
    for name in variant.paths:
        path = folder / name if name else folder
        if path.is_file() or (path.is_dir() and _has_classes(variant, path)):
            return path
    return None


def _has_classes(variant: Variant, folder: SourcePath) -> bool:
    is_class = _is_number if variant.name == V2 else _is_wnid
    if isinstance(folder, ObjectPath):
        return any(is_class(name) for name in folder.entries()[0])
    return any(is_class(entry.name) and entry.is_dir() for entry in folder.iterdir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= 3


def _is_wnid(name: str) -> bool:
    return label_of_wnid(name) is not None


def load(
    name: str,
    config: str,
    version: str,
    *,
    manual_dir: SourcePath | None = None,
    partial: bool = False,
    spool: Path | None = None,
    status: Status = silent,
) -> Source:
    """List the samples of a data set in ImageNet's label space.

    Parameters
    ----------
    name, config, version : str
        Of `CONFIGS` and `VERSIONS`.
    manual_dir : Path or ObjectPath, optional
        Folder of the published archive, or of what it extracts to.
    partial : bool, default False
        Accept missing images.
    spool : Path, optional
        Takes images that are not byte ranges of files.
    status : callable, optional
        Shows what is being read.

    Returns
    -------
    Source
        Labels are in ImageNet's 1000 classes.

    Raises
    ------
    SourceError
        If nothing is found, it is damaged, holds other images, or is incomplete and `partial` is
        false.
    """
    folder = manual_dir or as_path(imagenet2012.MANUAL_DIR)
    if name == REAL:
        return _load_real(version, folder, partial=partial, spool=spool, status=status)
    variant = variant_of(name, config)
    path = find_variant(variant, folder)
    if path is None:
        wanted = " or ".join(dict.fromkeys(path for path in variant.paths[:3] if path))
        raise SourceError(
            f"{folder}: {wanted} not found; download it from {variant.homepage} into one folder, "
            "and pass it as manual_dir (--manual-dir)"
        )
    status(f"listing the images of {path.name}")
    below = _below(variant, path)
    is_wanted = _CorruptionFilter(config) if name == CORRUPTED and not below else _all
    with nullcontext() if spool is None else Spool(spool) as opened:
        tree = read_tree(path, is_wanted, opened, partial=partial)
    table = _table(variant, tree, below)
    lack = ""
    if len(table) != variant.n_images:
        lack = f"{path}: {len(table):,} images found, expected {variant.n_images:,}"
        if not partial:
            raise SourceError(f"{lack}; pass partial=True (--partial) to convert the images found")
    total = int(tree.states.values[:, 0].sum())
    return Source(
        name=name,
        config=config,
        version=version,
        description=f"{variant.title}, with the labels of ImageNet 2012.",
        homepage=variant.homepage,
        citation="",
        label_name=wnids(),
        label_words=words(),
        files=tuple(tree.files),
        splits={variant.split: table},
        origins=((path.name, total),),
        partial=bool(lack or tree.damage),
        notes=(
            *tree.damage,
            *filter(None, [lack]),
            *junk_note(tree.hidden),
            *others_note(tree.others),
        ),
        damage=tree.damage,
        hierarchy=hierarchy(),
        states=tree.states,
        spool=spool if opened is not None and opened.nbytes else None,
        parts={variant.split: ((0, path.name),)},
    )


def _below(variant: Variant, path: SourcePath) -> str:
    """Return the folders of the archive that a path is already in: of one corruption."""
    if variant.name == CORRUPTED and path.is_dir():
        return "/".join(path.parts[-2:]) + "/"
    return ""


def _all(name: str) -> bool:
    del name
    return True


@dataclass(frozen=True, slots=True)
class _CorruptionFilter:
    """Keeps the images of one corruption and severity."""

    config: str

    def __call__(self, name: str) -> bool:
        parts = name.split("/")
        return len(parts) >= 4 and f"{parts[-4]}_{parts[-3]}" == self.config


def _table(variant: Variant, tree: ImageTree, below: str) -> SampleTable:
    names, labels = [], []
    for path in tree.names:
        parts = f"{below}{path}".split("/")[-variant.depth :]
        if len(parts) < variant.depth:
            raise SourceError(
                f"{tree.path}: {brief(path)} must lie in the folder of its class; expected the "
                f"images of {variant.title}"
            )
        try:
            name, number = _name_and_label(variant, parts)
        except ValueError as error:
            raise SourceError(f"{tree.path}: {brief(path)} {error}") from None
        names.append(name)
        labels.append(number)
    check_names(str(tree.path), names)
    file, offset, nbytes = tree.places
    places = np.where(file == SPOOL, len(tree.files), file).astype(np.int32)
    label = np.array(labels, dtype=np.int64)
    return SampleTable(PackedNames(packed(names)), label, places, offset, nbytes)


def _name_and_label(variant: Variant, parts: list[str]) -> tuple[str, int]:
    """Return the file name that TFDS gives an image, and its label.

    Raises
    ------
    ValueError
        If its folder is not a class, or not the class of its name.
    """
    folder, base = parts[-2:]
    if variant.name == V2:
        # The folders are label numbers; 10 is the label 10, though it sorts before 2.
        if not _is_number(folder):
            raise ValueError(f"must lie in a folder 0 to 999, got {brief(folder)}")
        return f"{folder}/{base}", int(folder)
    label = label_of_wnid(folder)
    if label is None:
        raise ValueError(f"must lie in the folder of one of the 1000 classes, got {brief(folder)}")
    if variant.name == CORRUPTED:
        base, by_name = name_and_label("validation", base)
        if by_name != label:
            texts = class_text(by_name), class_text(label)
            raise ValueError(escaped(f"is of {texts[0]}, but its folder is {texts[1]}"))
    return (base if variant.name in (A, CORRUPTED) else f"{folder}/{base}"), label


def _load_real(
    version: str, folder: SourcePath, *, partial: bool, spool: Path | None, status: Status
) -> Source:
    """List the validation images with ReaL's labels: the first of each image."""
    path = folder / _REAL_LABELS
    real, states, note = _real_labels(path)
    found = imagenet2012.load(
        "",
        imagenet2012.VERSIONS[0],
        manual_dir=folder,
        partial=partial,
        spool=spool,
        splits=("validation",),
        status=status,
    )
    table = found.splits["validation"]
    numbers = [int(name[15:23]) - 1 for name in table.file_name]
    first = np.array([some[0] if some else UNLABELLED for some in real], dtype=np.int64)
    label = first[numbers]
    counts = np.array([len(some) for some in real])[numbers]
    n_several, n_none = int(np.count_nonzero(counts > 1)), int(np.count_nonzero(counts == 0))
    several = f"{n_several:,} images have several"
    notes = [
        f"labels are the first of ReaL's labels of each image; {several}; {n_none:,} have none",
        f"the column {REAL_LABELS} has all of them, {ORIGINAL_LABEL} ImageNet's own labels",
        *note,
    ]
    return replace(
        found,
        name=REAL,
        version=version,
        description="The validation images of ImageNet 2012 with reassessed labels (ReaL).",
        homepage=_REAL_URL,
        splits={
            "validation": replace(
                table,
                label=label,
                extra={
                    ORIGINAL_LABEL: table.label.astype(np.int64),
                    REAL_LABELS: [np.array(real[i], dtype=np.int64) for i in numbers],
                },
            )
        },
        origins=(*found.origins, (path.name, states[0].nbytes)),
        reencode=False,
        notes=(*found.notes, *notes),
        states=found.states.joined(states),
    )


def _real_labels(path: SourcePath) -> tuple[list[list[int]], FileStates, list[str]]:
    """Return the labels of each validation image, by its number, from ReaL's file."""
    try:
        state_of_path(path)  # raises if there is none
        states = states_of([path])
        data = path.read_bytes()
    except FileNotFoundError:
        raise SourceError(
            f"{path.parent}: {path.name} not found; download it from {_REAL_URL} into this folder"
        ) from None
    try:
        labels: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: must be JSON: {error}") from None
    n_images = SPLIT_SIZES["validation"]
    is_right = isinstance(labels, list) and all(
        isinstance(some, list) and all(type(k) is int and 0 <= k < len(wnids()) for k in some)
        for some in labels
    )
    if not is_right or len(labels) != n_images:
        raise SourceError(
            f"{path}: must be a list of {n_images:,} lists of labels 0 to 999, one list for each "
            "validation image"
        )
    is_published = hashlib.sha256(data).hexdigest() == _REAL_SHA256
    return labels, states, [] if is_published else [f"{path.name} is not the published file"]
