"""Files that a conversion keeps open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import arraystore
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from arraystore.cli.synthetic_archives import DrawnArchives


def test_more_images_than_open_files_are_converted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {f"a/{i}.jpg": picture(seed=i) for i in range(200)})
    code = (
        "import resource, sys, arraystore\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "arraystore.convert(f'folder:{sys.argv[1]}', sys.argv[2], sync=False)\n"
    )
    target = tmp_path / "out.h5"
    subprocess.run([sys.executable, "-c", code, str(folder), str(target)], check=True)
    assert len(arraystore.open(target)["train"]) == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_conversion_closes_deleted_files(suffix: str, drawn: DrawnArchives, tmp_path: Path) -> None:
    arraystore.convert(
        "imagenet2012", tmp_path / f"a{suffix}", manual_dir=drawn.folder, partial=True
    )
    links = list(Path("/proc/self/fd").iterdir())
    held = [str(link.readlink()) for link in links if link.is_symlink()]
    assert not [path for path in held if str(tmp_path) in path]
