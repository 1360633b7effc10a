"""Compare, byte for byte, the stores that the package writes at two commits.

::

    python -m scripts.compare_commits 9151674 HEAD

Archives and a folder of images are drawn once. The package at each commit, checked out into a
temporary git worktree, converts them to both containers and copies each store to the other one.
The exit status is 1 if a file differs. The version in the attribute ``writer`` may differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from arraystore.cli.synthetic_archives import draw, encode, write_archives

ROOT: Final = Path(__file__).parent.parent

CODE: Final = """
import json, sys
from pathlib import Path
import arraystore
assert Path(arraystore.__file__).is_relative_to(Path.cwd())
archives, images, target = map(Path, sys.argv[1:])
partial = {"manual_dir": archives, "partial": True, "progress": False}
for suffix, other in ((".zarr", ".h5"), (".h5", ".zarr")):
    arraystore.convert("imagenet2012_subset/1pct", target / f"subset{suffix}", **partial)
    arraystore.convert("imagenet2012:5.1.0", target / f"whole{suffix}", **partial, order="source")
    arraystore.convert("imagenet2012:2.0.1", target / f"as-found{suffix}", **partial, seed=7)
    for order in ("shuffled", "label"):
        name = f"folder-{order}{suffix}"
        arraystore.convert(f"folder:{images}", target / name, order=order, progress=False)
    source = target / f"subset{suffix}"
    arraystore.copy(source, target / f"copy-of-{suffix[1:]}{other}", progress=False)
print(json.dumps(arraystore.__version__))
"""
"""What the package does at each commit; it prints its version."""


def make_sources(folder: Path) -> tuple[Path, Path]:
    """Draw archives and a folder of images; return both paths."""
    archives = write_archives(folder / "archives", n_classes=7, per_class=9, n_validation=40).folder
    images = folder / "images"
    for split, numbers in {"train": range(9), "test": range(9, 12)}.items():
        for label, name in enumerate(("three corners", "four corners", "fünf")):
            (images / split / name).mkdir(parents=True)
            for number in numbers:
                file = images / split / name / f"{number}.jpg"
                file.write_bytes(encode(draw(label, number)))
    return archives, images


def write_stores(commit: str, sources: tuple[Path, Path], folder: Path) -> str:
    """Write stores with the package at a commit; return its version."""
    checkout, target = folder / "checkout", folder / "stores"
    target.mkdir(parents=True)
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), commit], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *map(str, (*sources, target))],
            cwd=checkout,  # the first place where Python looks for modules
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        subprocess.run([*git, "remove", "--force", str(checkout)], check=True)
    return str(json.loads(done.stdout.splitlines()[-1]))


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def differences(old: Path, new: Path, versions: tuple[str, str] = ("", "")) -> list[str]:
    """Return the relative paths of files that differ, or exist in one folder only.

    Parameters
    ----------
    old, new : Path
        The folders.
    versions : (str, str), optional
        Versions of the package that wrote them, which do not count as a difference.
    """
    before, after = files_below(old), files_below(new)
    writers = [f"arraystore {version}".encode() for version in versions]
    return [
        path
        for path in sorted(before.keys() | after.keys())
        if path not in before
        or path not in after
        or before[path].replace(writers[0], writers[1]) != after[path]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the stores that two commits write.")
    parser.add_argument("old", help="commit of the expected stores")
    parser.add_argument("new", help="commit to compare")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        sources = make_sources(folder)
        places = {commit: folder / f"{i}" for i, commit in enumerate((options.old, options.new))}
        old, new = (write_stores(commit, sources, place) for commit, place in places.items())
        before, after = (place / "stores" for place in places.values())
        found = differences(before, after, (old, new))
        files = files_below(after)
    for path in found:
        print(f"differs: {path}")
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes; {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
