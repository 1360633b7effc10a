"""The tables of ImageNet 2012 in the package."""

import hashlib

import numpy as np
import pytest

from arraystore.sources.imagenet2012_tables import validation_labels, wnids, words

VALIDATION_SHA256 = "313fc3f23c864dde9183c9a368809065765dd1b657a6904fded44e3e46d34604"


def test_wnids_are_1000_and_sorted() -> None:
    assert len(wnids()) == 1000
    assert list(wnids()) == sorted(set(wnids()))


def test_every_class_has_words() -> None:
    assert len(words()) == len(wnids())
    assert all(entry and entry == entry.strip() for entry in words())


@pytest.mark.parametrize(
    ("label", "wnid", "entry"),
    [
        (0, "n01440764", "tench, Tinca tinca"),
        (1, "n01443537", "goldfish, Carassius auratus"),
        (999, "n15075141", "toilet tissue, toilet paper, bathroom tissue"),
    ],
)
def test_known_classes_have_their_labels(label: int, wnid: str, entry: str) -> None:
    assert (wnids()[label], words()[label]) == (wnid, entry)


def test_classes_may_share_words() -> None:
    cranes = [label for label, entry in enumerate(words()) if "crane" in entry.split(", ")]
    assert [wnids()[label] for label in cranes] == ["n02012849", "n03126707"]


def test_validation_has_50_images_per_class() -> None:
    assert np.bincount(validation_labels()).tolist() == [50] * 1000


def test_first_validation_labels() -> None:
    first = [wnids()[label] for label in validation_labels()[:3]]
    assert first == ["n01751748", "n09193705", "n02105855"]


def test_validation_labels_match_published_list() -> None:
    lines = "".join(f"{wnids()[label]}\n" for label in validation_labels())
    assert hashlib.sha256(lines.encode()).hexdigest() == VALIDATION_SHA256


def test_validation_labels_are_read_only() -> None:
    assert validation_labels().dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        validation_labels()[0] = 0
