"""Make the ImageNet tables of the package from two downloaded files.

::

    python scripts/make_tables.py tensorflow_datasets-*.whl wordnet-base_*.deb

The wheel of `tensorflow-datasets` lists the class ids (wnids) and the class of each
validation image. A wnid is ``n`` and the offset of a noun synset in WordNet 3.0. Its words and
hypernyms (wider concepts) are in ``data.noun`` of Debian's package `wordnet-base`. Nothing is
downloaded. The same two files always give the same bytes.
"""

import argparse
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import numpy as np

FOLDER: Final = Path(__file__).parents[1] / "arraystore" / "sources"
"""Folder of the tables in the package."""

WHEEL_FOLDER: Final = "tensorflow_datasets/datasets/imagenet2012"
"""Folder of both lists in the wheel, one wnid per line."""

VALIDATION_SHA256: Final = "313fc3f23c864dde9183c9a368809065765dd1b657a6904fded44e3e46d34604"
"""SHA-256 of ``validation_labels.txt``: line i is the wnid of ``ILSVRC2012_val_{i:08d}.JPEG``."""

NOUNS: Final = "./usr/share/wordnet/data.noun"
"""Member of the Debian package with the noun synsets."""

PROVENANCE: Final = """\
The 1000 classes of ILSVRC2012: wnid, TAB, words. Label k is the k-th line, counted from 0.
Made by scripts/make_tables.py. The wnids are those of labels.txt in the tensorflow-datasets
wheel (Apache-2.0); the words are from WordNet 3.0 as packaged in Debian's wordnet-base, whose
license follows.
"""

HYPERNYMS: Final = """\
What the 1000 classes of ILSVRC2012 are kinds of: wnid, TAB, wnids of its direct hypernyms with
blanks between them, TAB, words; of the classes and of all their ancestors, sorted by wnid. The
words of the classes are left out; imagenet2012_classes.tsv has them. Made by
scripts/make_tables.py from WordNet 3.0 as packaged in Debian's wordnet-base, whose license
follows.
"""

HYPERNYM_POINTERS: Final = ("@", "@i")
"""Marks of a pointer to a wider concept in ``data.noun``: of a kind, and of an instance."""


def read_wheel(path: Path) -> tuple[list[str], list[str]]:
    """Return the sorted wnids, and the wnid of each validation image, from the TFDS wheel."""
    with zipfile.ZipFile(path) as wheel:
        wnids = wheel.read(f"{WHEEL_FOLDER}/labels.txt").decode().split()
        validation = wheel.read(f"{WHEEL_FOLDER}/validation_labels.txt")
    found = hashlib.sha256(validation).hexdigest()
    if found != VALIDATION_SHA256:
        raise ValueError(
            f"{path}: sha256 of validation_labels.txt must be {VALIDATION_SHA256}, got {found}"
        )
    return sorted(wnids), validation.decode().split()


def read_nouns(path: Path) -> list[str]:
    """Return the lines of ``data.noun`` in the Debian package, an ``ar`` archive of tars."""
    with path.open("rb") as deb:
        if deb.read(8) != b"!<arch>\n":
            raise ValueError(f"{path}: must begin as an ar archive")
        while header := deb.read(60):
            name, nbytes = header[:16].decode().rstrip(" /"), int(header[48:58])
            if name == "data.tar.xz":
                with tarfile.open(fileobj=io.BytesIO(deb.read(nbytes)), mode="r:xz") as data:
                    nouns = data.extractfile(NOUNS)
                    if nouns is not None:
                        return nouns.read().decode().splitlines()
            deb.seek(nbytes + nbytes % 2, 1)
    raise ValueError(f"{path}: must hold {NOUNS} in data.tar.xz")


def license_text(nouns: list[str]) -> str:
    """Return the license of WordNet: the numbered, indented first lines of ``data.noun``."""
    lines = (line for line in nouns if line.startswith("  "))
    return "\n".join(line.strip().partition(" ")[2].strip() for line in lines)


def synset_words(nouns: list[str]) -> dict[str, str]:
    """Return the words of each noun synset, by wnid.

    Examples
    --------
    >>> synset_words(["02012849 05 n 01 crane 0 005 @ 02000954 n 0000 | large long-necked bird"])
    {'n02012849': 'crane'}
    """
    words = {}
    for line in nouns:
        if not line.startswith("  "):
            offset, _, _, n_words, *rest = line.split(" ")
            # A number that distinguishes its senses follows each word.
            synset = rest[: 2 * int(n_words, base=16) : 2]
            words[f"n{offset}"] = ", ".join(synset).replace("_", " ")
    return words


def synset_hypernyms(nouns: list[str]) -> dict[str, list[str]]:
    """Return the direct hypernyms of each noun synset, by wnid.

    Examples
    --------
    >>> synset_hypernyms(["02012849 05 n 01 crane 0 002 @ 02000954 n 0000 #m 02 n 0000 | bird"])
    {'n02012849': ['n02000954']}
    """
    hypernyms = {}
    for line in nouns:
        if not line.startswith("  "):
            offset, _, _, n_words, *rest = line.split(" ")
            n_pointers, *rest = rest[2 * int(n_words, base=16) :]
            pointers = (rest[4 * i : 4 * i + 2] for i in range(int(n_pointers)))
            hypernyms[f"n{offset}"] = [
                f"n{to}" for mark, to in pointers if mark in HYPERNYM_POINTERS
            ]
    return hypernyms


def with_ancestors(wnids: list[str], hypernyms: dict[str, list[str]]) -> list[str]:
    """Return some synsets and all that is above them, sorted."""
    found, todo = set(wnids), list(wnids)
    while todo:
        new = set(hypernyms[todo.pop()]) - found
        found |= new
        todo += new
    return sorted(found)


def write_table(name: str, provenance: str, nouns: list[str], rows: list[str]) -> None:
    """Write rows below where they are from, and WordNet's license."""
    header = [f"# {line}".rstrip() for line in f"{provenance}\n{license_text(nouns)}".splitlines()]
    (FOLDER / name).write_bytes("\n".join([*header, *rows, ""]).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the ImageNet tables of the package.")
    parser.add_argument("wheel", type=Path, help="tensorflow_datasets-*.whl")
    parser.add_argument("deb", type=Path, help="wordnet-base_*.deb, WordNet 3.0")
    options = parser.parse_args()

    wnids, validation = read_wheel(options.wheel)
    nouns = read_nouns(options.deb)
    words = synset_words(nouns)
    rows = [f"{wnid}\t{words[wnid]}" for wnid in wnids]
    write_table("imagenet2012_classes.tsv", PROVENANCE, nouns, rows)
    hypernyms, classes = synset_hypernyms(nouns), set(wnids)
    rows = [
        f"{wnid}\t{' '.join(hypernyms[wnid])}\t{'' if wnid in classes else words[wnid]}"
        for wnid in with_ancestors(wnids, hypernyms)
    ]
    write_table("imagenet2012_hypernyms.tsv", HYPERNYMS, nouns, rows)
    labels = np.searchsorted(wnids, validation).astype("<u2")
    np.save(FOLDER / "imagenet2012_validation_label.npy", labels)


if __name__ == "__main__":
    main()
