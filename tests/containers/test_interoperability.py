"""Stores as other clients read them, see `tests.plain_clients`, compared with the source."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import xarray
import zarr

import arraystore
from arraystore._checksum import crc32c
from arraystore.cli.synthetic_archives import draw, encode, write_archives
from arraystore.containers.zarr import writer as zarr_container
from arraystore.indexing import layout
from arraystore.sources.imagenet2012_tables import validation_labels, wnids
from tests.plain_clients import CLIENTS, ZARR_CLIENTS, PlainSplit, content_digest
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.cli.synthetic_archives import DrawnArchives

WITHOUT_TEXT = {"tensorstore"}
WITH_TEXT = [name for name in CLIENTS if name not in WITHOUT_TEXT]
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def stores(drawn: DrawnArchives, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the drawn archives in both containers, by suffix."""
    return convert_to_both(tmp_path_factory, "imagenet2012_subset/1pct", drawn.folder)


@pytest.fixture(scope="module")
def seen(stores: dict[str, Path]) -> Seen:
    return Seen(stores)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Yield stores of many shards, with a test split that has no labels."""
    folder = tmp_path_factory.mktemp("archives")
    write_archives(folder, n_classes=3, per_class=4, n_validation=2)
    with tarfile.open(folder / "ILSVRC2012_img_test.tar", "w") as archive:
        for number in range(4):
            data = encode(draw(number, 1))
            member = tarfile.TarInfo(f"ILSVRC2012_test_{number + 1:08d}.JPEG")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.MonkeyPatch.context() as patch:
        # Shards of the format's size would need hundreds of megabytes of images.
        patch.setattr(zarr_container, "SHARD_NBYTES", 2**16)
        patch.setattr(zarr_container, "INNER_CHUNK_NBYTES", 2**12)
        patch.setattr(layout.blocks, "__kwdefaults__", {"block_nbytes": 2**16, "before": 0})
        yield convert_to_both(tmp_path_factory, "imagenet2012_subset/1pct:5.1.0", folder)


def convert_to_both(
    tmp_path_factory: pytest.TempPathFactory, dataset: str, folder: Path | None = None
) -> dict[str, Path]:
    target = tmp_path_factory.mktemp("stores")
    stores = {suffix: target / f"store{suffix}" for suffix in SUFFIXES}
    for path in stores.values():
        arraystore.convert(dataset, path, manual_dir=folder, partial=True, sync=False)
    return stores


class Seen:
    """Data that each client reads of each split, read when it is first used."""

    def __init__(self, stores: dict[str, Path]) -> None:
        self._stores = stores
        self._splits: dict[tuple[str, str], PlainSplit] = {}

    def __call__(self, client: str, split: str) -> PlainSplit:
        if (client, split) not in self._splits:
            suffix, read = CLIENTS[client]
            self._splits[client, split] = read(self._stores[suffix], split)
        return self._splits[client, split]


def same(one: PlainSplit, other: PlainSplit) -> bool:
    columns = [
        np.array_equal(values, other.columns[name]) and values.dtype == other.columns[name].dtype
        for name, values in one.columns.items()
    ]
    return all(columns) and one._replace(columns={}) == other._replace(columns={})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("client", CLIENTS)
def test_images_equal_those_of_the_source(
    client: str, split: str, seen: Seen, drawn: DrawnArchives
) -> None:
    source: dict[str, bytes] = getattr(drawn, split)
    # Clients that cannot read the names use those that another client read.
    names = seen(client, split).file_name or seen("zarr", split).file_name
    found = dict(zip(names, seen(client, split).images, strict=True))
    assert found.keys() == source.keys()
    reencoded = json.loads(seen("zarr", split).root["reencoded"])
    assert set(reencoded) == {drawn.cmyk, drawn.png}
    assert all(found[name] == source[name] for name in source if name not in reencoded)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("client", CLIENTS)
def test_images_match_their_checksums(client: str, split: str, seen: Seen) -> None:
    plain = seen(client, split)
    assert [crc32c(image) for image in plain.images] == plain.columns["image_crc32c"].tolist()


@pytest.mark.parametrize("client", CLIENTS)
def test_start_and_nbytes_cover_the_payload(client: str, seen: Seen) -> None:
    columns = seen(client, "train").columns
    stops = np.cumsum(columns["image_nbytes"])
    assert columns["image_start"].tolist() == [0, *stops[:-1].tolist()]


@pytest.mark.parametrize("client", WITH_TEXT)
def test_labels_of_train_match_names(client: str, seen: Seen) -> None:
    plain = seen(client, "train")
    assert plain.label_name == list(wnids())
    found = [plain.label_name[label] for label in plain.columns["label"].tolist()]
    assert found == [name.partition("_")[0] for name in plain.file_name]


@pytest.mark.parametrize("client", WITH_TEXT)
def test_labels_of_validation_match_published_ones(client: str, seen: Seen) -> None:
    plain = seen(client, "validation")
    numbers = [int(name.removesuffix(".JPEG")[-8:]) for name in plain.file_name]
    assert plain.columns["label"].tolist() == [validation_labels()[i - 1] for i in numbers]


@pytest.mark.parametrize("client", CLIENTS)
def test_label_index_lists_samples_of_each_label(client: str, seen: Seen) -> None:
    columns = seen(client, "train").columns
    order, indptr = columns["label_order"], columns["label_indptr"]
    assert len(indptr) == len(wnids()) + 1
    for label in range(len(wnids())):
        positions = order[indptr[label] : indptr[label + 1]]
        assert positions.tolist() == np.flatnonzero(columns["label"] == label).tolist()


@pytest.mark.parametrize("client", CLIENTS)
def test_all_clients_read_the_same_numbers(client: str, seen: Seen) -> None:
    columns = seen("zarr", "train").columns
    for name, values in seen(client, "train").columns.items():
        assert values.dtype == columns[name].dtype
        assert np.array_equal(values, columns[name])


@pytest.mark.parametrize("client", CLIENTS)
def test_dimensions_are_named(client: str, seen: Seen) -> None:
    dimensions = seen(client, "train").dimensions
    text = set() if client in WITHOUT_TEXT else {"file_name"}
    of_samples = {"image_start", "image_nbytes", "image_height", "image_width", "image_crc32c"}
    assert dimensions == {
        "image_payload": "byte",
        "label_order": "labelled",
        "label_indptr": "class_bound",
        **dict.fromkeys(of_samples | {"label"} | text, "sample"),
    }


@pytest.mark.parametrize("client", WITH_TEXT)
def test_attributes_describe_the_data_set(client: str, seen: Seen, stores: dict[str, Path]) -> None:
    root, info = seen(client, "train").root, arraystore.open(stores[".zarr"]).info
    assert root["format"] == "arraystore"
    assert root["format_version"] == info.format_version
    assert root["dataset_name"] == "imagenet2012_subset"
    assert root["dataset_config"] == "1pct"
    assert root["dataset_version"] == "5.0.0"
    assert root["citation"] == info.citation
    assert root["description"] == info.description
    assert root["splits"] == ["train", "validation"]
    assert root["partial"] == 1
    assert json.loads(root["sources"])[0]["name"] == "ILSVRC2012_img_train.tar"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("client", WITH_TEXT)
def test_content_digest_can_be_recomputed(client: str, split: str, seen: Seen) -> None:
    plain = seen(client, split)
    assert plain.attributes["num_samples"] == len(plain.images)
    assert plain.attributes["content_digest"] == content_digest(plain)


@pytest.mark.parametrize("client", WITH_TEXT)
def test_names_beyond_ascii_are_read(
    client: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {f"train/{name}": picture(seed=i) for i, name in enumerate(("ä/图 1.jpg", "b/ñ.jpg"))}
    suffix, read = CLIENTS[client]
    target = tmp_path / f"store{suffix}"
    arraystore.convert(f"folder:{write_folder(tmp_path / 'source', files)}", target, sync=False)
    plain = read(target, "train")
    assert plain.label_name == ["b", "ä"]
    assert {f"train/{k}": v for k, v in zip(plain.file_name, plain.images, strict=True)} == files


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("client", CLIENTS)
def test_images_across_shards_are_whole(client: str, split: str, pieces: dict[str, Path]) -> None:
    suffix, read = CLIENTS[client]
    assert len(list((pieces[".zarr"] / split / "image_payload/c").iterdir())) > 1
    plain = read(pieces[suffix], split)
    assert [crc32c(image) for image in plain.images] == plain.columns["image_crc32c"].tolist()


@pytest.mark.parametrize("client", CLIENTS)
def test_unlabelled_samples_have_minus_one(client: str, pieces: dict[str, Path]) -> None:
    suffix, read = CLIENTS[client]
    plain = read(pieces[suffix], "test")
    assert plain.columns["label"].tolist() == [-1] * 4
    assert len(plain.columns["label_order"]) == 0


# xarray warns that opening is slower without consolidated metadata.
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated:RuntimeWarning")
@pytest.mark.parametrize("client", ZARR_CLIENTS)
def test_store_is_read_without_consolidated_metadata(
    client: str, seen: Seen, stores: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(stores[".zarr"], tmp_path / "plain.zarr"))
    document = json.loads((path / "zarr.json").read_text())
    del document["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(document))
    assert same(ZARR_CLIENTS[client](path, "train"), seen(client, "train"))


def test_zarr_lists_the_tree(stores: dict[str, Path]) -> None:
    import zarr

    root: Any = zarr.open(stores[".zarr"], mode="r")
    listing = str(root.tree())
    assert "image_payload" in listing
    assert "validation" in listing


def test_tensorstore_has_no_data_type_for_text(stores: dict[str, Path]) -> None:
    import tensorstore

    kvstore = {"driver": "file", "path": f"{stores['.zarr']}/train/file_name/"}
    with pytest.raises(ValueError, match="string data type is not one of the supported"):
        tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()


def test_store_is_read_without_arraystore(stores: dict[str, Path], seen: Seen) -> None:
    paths = {client: str(stores[CLIENTS[client][0]]) for client in WITH_TEXT}
    program = f"""
import sys
sys.modules["arraystore"] = None  # an import of it fails from here on
from pathlib import Path
from tests.plain_clients import CLIENTS, content_digest
for client, path in {paths!r}.items():
    print(content_digest(CLIENTS[client][1](Path(path), "train")), client)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    digest = seen("zarr", "train").attributes["content_digest"]
    assert result.stdout.splitlines() == [f"{digest} {client}" for client in WITH_TEXT]


class CountingFile(io.FileIO):
    """A file that counts the bytes read from it."""

    nbytes = 0

    def readinto(self, buffer: Any) -> int:
        nbytes = super().readinto(buffer) or 0
        self.nbytes += nbytes
        return nbytes


def test_h5py_reads_only_the_bytes_of_an_image(stores: dict[str, Path]) -> None:
    with CountingFile(stores[".h5"]) as counting, h5py.File(counting) as file:
        payload = file["train/image_payload"]
        start, nbytes = int(file["train/image_start"][3]), int(file["train/image_nbytes"][3])
        before = counting.nbytes
        assert len(payload[start : start + nbytes]) == nbytes
        assert counting.nbytes - before == nbytes


def test_plain_clients_read_named_selections(drawn: DrawnArchives, tmp_path: Path) -> None:
    few = drawn.folder / "1percent.txt"
    expected = sorted(few.read_text().split())
    found = {}
    for suffix in (".zarr", ".h5"):
        path = tmp_path / f"all{suffix}"
        arraystore.convert("imagenet2012", path, manual_dir=drawn.folder, partial=True, sync=False)
        names = arraystore.open(path)["train"].file_name
        engine = "zarr" if suffix == ".zarr" else "netcdf4"
        with xarray.open_dataset(path, engine=engine, group="selections/1pct") as dataset:
            assert dataset["train"].dims == ("selected_train",)
            found[engine] = dataset["train"].values
        with xarray.open_datatree(path, engine=engine, chunks=None) as tree:
            assert tree["selections/1pct/train"].size == len(expected)
        assert sorted(names[found[engine]]) == expected
    plain = zarr.open_array(tmp_path / "all.zarr/selections/1pct/train")[:]
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["selections/1pct/train"][:].tolist() == np.asarray(plain).tolist()
