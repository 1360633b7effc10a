"""Write the small stores below ``tests/data`` that later releases must still read.

Run it once for each new version of the format::

    python -m scripts.make_reference_stores
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import arraystore
from arraystore.cli.synthetic_archives import draw, encode
from arraystore.schema import FORMAT_VERSION

DATA = Path(__file__).parent.parent / "tests" / "data"


def main() -> None:
    folder = DATA / f"v{'.'.join(map(str, FORMAT_VERSION))}"
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "polygons"
        for split, numbers in {"train": range(3), "test": range(3, 4)}.items():
            # Classes of ImageNet, so that the stores have its hierarchy.
            for label, name in enumerate(("n01443537", "n02012849")):
                (source / split / name).mkdir(parents=True)
                for number in numbers:
                    picture = draw(label, number).resize((40, 30))
                    file = source / split / name / f"{number}.jpg"
                    file.write_bytes(encode(picture))
        for suffix in (".zarr", ".h5"):
            store = folder / f"polygons{suffix}"
            arraystore.convert(f"folder:{source}", store)
            corners = [[[1.0, 2.0]] * (3 + i % 2) for i in range(6)]
            arraystore.add_column(store, "train", "corners", corners)
            arraystore.add_column(store, "train", "features", np.arange(24).reshape(6, 4) / 8)
            arraystore.add_column(store, "train", "caption", [f"é{i}" for i in range(6)])


if __name__ == "__main__":
    main()
