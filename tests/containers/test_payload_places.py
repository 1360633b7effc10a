"""The places that a writer gives to its payloads are those that a reader finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from arraystore.containers import open_local, writer_for
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import label_index
from arraystore.schema import COLUMNS
from benchmarks.kills import tree
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.byte_range import ChunkManifest

PATIENCE: Final = 60
SHARD: Final = 64
PAYLOADS: Final = {"a/image_payload": 3 * SHARD + 5, "b/image_payload": 0, "c/image_payload": SHARD}

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)


def places(manifest: ChunkManifest, nbytes: int) -> list[tuple[str, int, int]]:
    """Return object, offset and length of each piece of a payload."""
    pieces = manifest.locate(np.array([0]), np.array([nbytes]))
    keys = [manifest.keys[i] for i in pieces.object]
    return list(zip(keys, pieces.start.tolist(), pieces.nbytes.tolist(), strict=True))


def write_columns(container: ContainerWriter) -> None:
    for path in PAYLOADS:
        order, _ = label_index(np.arange(3), 3)
        container.write_column(path.replace("image_payload", "label"), order, COLUMNS["label"])
        container.set_attributes(path.partition("/")[0], {"n": 3})


@every_suffix
def test_create_payload_returns_the_places_that_a_reader_finds(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    with writer_for(path)(path) as writer:
        manifests = writer.create_payloads(PAYLOADS)
        write_columns(writer)
        writer.close()
    _, container = open_local(path)
    root = path if path.is_dir() else path.parent
    for (name, nbytes), manifest in zip(PAYLOADS.items(), manifests, strict=True):
        assert manifest.nbytes == nbytes
        found = places(container.manifest(name), nbytes)
        assert places(manifest, nbytes) == [(str(root / key), *piece) for key, *piece in found]


@every_suffix
def test_skeleton_has_the_same_places(suffix: str, tmp_path: Path) -> None:
    whole, skeleton = tmp_path / f"whole{suffix}", tmp_path / f"skeleton{suffix}"
    with writer_for(whole)(whole) as writer, writer_for(skeleton)(skeleton, is_skeleton=True) as s:
        for one, other in zip(
            writer.create_payloads(PAYLOADS), s.create_payloads(PAYLOADS), strict=True
        ):
            assert [(Path(key).name, *piece) for key, *piece in places(one, one.nbytes)] == [
                (Path(key).name.replace("skeleton", "whole"), *piece)
                for key, *piece in places(other, one.nbytes)
            ]


@every_suffix
def test_reset_layout_keeps_only_the_payloads(suffix: str, tmp_path: Path) -> None:
    fresh, path = tmp_path / f"fresh{suffix}", tmp_path / f"x{suffix}"
    for target in (fresh, path):
        with writer_for(target)(target) as writer:
            manifests = writer.create_payloads(PAYLOADS)
            for key, start, nbytes in places(manifests[0], PAYLOADS["a/image_payload"]):
                with Path(key).open("r+b") as file:
                    file.seek(start)
                    file.write(b"x" * nbytes)
            write_columns(writer)
            if target == path:
                writer.set_attributes("", {"wrong": "wrong"})
            writer.close()
    with writer_for(path)(path) as writer:
        again = writer.reset_layout(PAYLOADS, tmp_path / "scratch")
        assert list(map(places, again, PAYLOADS.values())) == list(
            map(places, manifests, PAYLOADS.values())
        )
        write_columns(writer)
        writer.close()
    assert tree(path) == tree(fresh)
    assert not (tmp_path / "scratch").exists()


def test_zarr_is_not_imported_before_sealing(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "in", {f"{of}/0.jpg": picture() for of in "ab"})
    code = (
        "import sys, arraystore\n"
        "from arraystore.containers.zarr.writer import ZarrWriter\n"
        "from arraystore.writing.local import LocalStoreWriter\n"
        "ZarrWriter.import_libraries = staticmethod(lambda: None)\n"
        "sealing, found = LocalStoreWriter.sealing, []\n"
        "def note(self):\n"
        "    found.append('zarr' in sys.modules)\n"
        "    return sealing(self)\n"
        "LocalStoreWriter.sealing = note\n"
        "arraystore.convert(f'folder:{sys.argv[1]}', sys.argv[2])\n"
        "assert found == [False] and 'zarr' in sys.modules, found"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(images), str(tmp_path / "a.zarr")]
    subprocess.run(command, check=True, timeout=PATIENCE)
