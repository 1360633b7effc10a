"""Copies from disk or bucket to disk or bucket, Zarr or HDF5, without loss."""

from __future__ import annotations

import importlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from obstore.store import MemoryStore
from zarr.codecs import Crc32cCodec, ZstdCodec

import arraystore
from arraystore.cli import commands as cli
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import ChecksumError, FormatError
from arraystore.indexing.layout import blocks
from arraystore.schema import Column
from arraystore.storage.objects import connection as stores
from arraystore.writing import store_writer
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives

# In the package, the function has the name of the module.
copy_module = importlib.import_module("arraystore.writing.copy")

SHARD: Final = 4096
OTHER: Final = {".zarr": ".h5", ".h5": ".zarr"}

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
every_target = pytest.mark.parametrize("target", SUFFIXES)
every_place = pytest.mark.parametrize("place", ["disk", "bucket"])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be small, and windows smaller than an image."""
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
    monkeypatch.setattr(copy_module, "_WINDOW_NBYTES", 700)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(stores, "connect_memory", lambda: store)
    return store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(20, 24, seed=i) for i in range(20)}
    return write_folder(tmp_path / "photos", files | {"val/a/v.jpg": picture(seed=77)})


@pytest.fixture
def at(tmp_path: Path, bucket: MemoryStore) -> Callable[[str, str], str]:
    """Return the address of a store on the disk, or in a bucket."""
    return lambda place, name: {
        "disk": str(tmp_path / name),
        "bucket": f"memory://folder/{name}",
    }[place]


def convert(photos: Path, target: str | Path, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, sync=False, **options)


def copy(source: Any, target: Any, **options: Any) -> arraystore.CopyReport:
    return arraystore.copy(source, target, sync=False, **options)


def objects_in(bucket: MemoryStore) -> dict[str, bytes]:
    keys = sorted(meta["path"] for page in bucket.list() for meta in page)
    return {key: bytes(bucket.get(key).bytes()) for key in keys}


def tree(store: Path) -> dict[str, bytes]:
    if store.is_file():
        return {"": store.read_bytes()}
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


# Contents of a copy


@every_suffix
@every_target
@every_place
@pytest.mark.parametrize("to", ["disk", "bucket"])
def test_copy_has_the_bytes_of_a_conversion(
    suffix: str,
    target: str,
    place: str,
    to: str,
    photos: Path,
    tmp_path: Path,
    at: Callable[[str, str], str],
) -> None:
    convert(photos, at(place, f"from{suffix}"), order="label")
    report = copy(at(place, f"from{suffix}"), at(to, f"to{target}"))
    # Copied back to the disk to be compared.
    copy(at(to, f"to{target}"), tmp_path / f"back{target}")
    convert(photos, tmp_path / f"expected{target}", order="label")
    assert tree(tmp_path / f"back{target}") == tree(tmp_path / f"expected{target}")
    assert report.left_out == ()
    assert report.splits == arraystore.open(tmp_path / f"expected{target}").info.splits


@pytest.mark.parametrize(("suffix", "target"), OTHER.items())
def test_selections_are_copied(
    suffix: str, target: str, drawn: DrawnArchives, tmp_path: Path
) -> None:
    def convert_all(path: Path) -> None:
        arraystore.convert("imagenet2012", path, manual_dir=drawn.folder, partial=True, sync=False)

    convert_all(tmp_path / f"a{suffix}")
    copy(tmp_path / f"a{suffix}", tmp_path / f"b{target}")
    convert_all(tmp_path / f"expected{target}")
    assert arraystore.open(tmp_path / f"a{suffix}").info.selections
    assert tree(tmp_path / f"b{target}") == tree(tmp_path / f"expected{target}")


@every_suffix
@pytest.mark.parametrize(
    "options", [{"order": "label"}, {"order": "source"}, {"order": "shuffled", "seed": 7}]
)
def test_order_and_seed_are_copied(
    suffix: str, options: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    convert(photos, tmp_path / f"a{suffix}", **options)
    copy(tmp_path / f"a{suffix}", tmp_path / f"b{OTHER[suffix]}")
    a, b = arraystore.open(tmp_path / f"a{suffix}"), arraystore.open(tmp_path / f"b{OTHER[suffix]}")
    assert b.info == a.info
    assert b["train"].file_name.tolist() == a["train"].file_name.tolist()


@every_suffix
def test_split_without_samples_is_copied(suffix: str, photos: Path, tmp_path: Path) -> None:
    (photos / "val" / "a" / "v.jpg").write_bytes(b"no image")
    convert(photos, tmp_path / f"a{suffix}", on_error="skip")
    copy(tmp_path / f"a{suffix}", tmp_path / f"b{OTHER[suffix]}")
    copied = arraystore.open(tmp_path / f"b{OTHER[suffix]}")
    assert len(copied["val"]) == 0
    assert copied.info.skipped == arraystore.open(tmp_path / f"a{suffix}").info.skipped != ()


EXTRA: Final = {
    "note": "written by another program",
    "answer": 42,
    "is_good": True,
    "share": 0.25,
    "words": ["ä", "b"],
    "numbers": [1, 2, 3],
}


def add_more(store: Path) -> None:
    """Add a group with a group, columns and attributes, as a later version may."""
    from arraystore.containers import writer_for

    writer = writer_for(store)(store)
    writer.create_group("selections")
    writer.create_group("selections/few")
    column = Column("int64", "selected_train")
    writer.write_column("selections/few/train", np.arange(5, dtype=np.int64), column)
    writer.write_column(
        "train/score", np.linspace(0, 1, 20, dtype=np.float32), Column("float32", "sample")
    )
    writer.write_column(
        "train/comment", [f"ü{i}" for i in range(20)], Column("string", "sample", "")
    )
    for path in ("", "train", "selections", "selections/few/train"):
        writer.set_attributes(path, EXTRA)
    writer.close()


@every_suffix
@every_target
def test_unknown_nodes_are_copied(suffix: str, target: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}")
    add_more(tmp_path / f"a{suffix}")
    report = copy(tmp_path / f"a{suffix}", tmp_path / f"b{target}")
    assert report.left_out == ()
    _, container = arraystore.open(tmp_path / f"b{target}").opened
    assert container.read_column("selections/few/train", "int64").tolist() == [0, 1, 2, 3, 4]
    assert container.read_column("train/score", "float32").dtype == np.float32
    assert container.read_column("train/comment", "string")[19] == "ü19"
    assert container.tree().columns["selections/few/train"] == Column("int64", "selected_train", 0)
    for path in ("", "train", "selections", "selections/few/train"):
        found = container.attributes(path)
        assert {name: found[name] for name in EXTRA} == EXTRA
        assert [type(found[name]) for name in EXTRA] == [type(value) for value in EXTRA.values()]


def test_report_lists_nodes_left_out(photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / "a.zarr")
    convert(photos, tmp_path / "a.h5")
    root = zarr.open_group(tmp_path / "a.zarr", mode="a", use_consolidated=False)
    root.create_array("train/vector", shape=(20, 3), dtype="float32")
    root.attrs["nested"] = {"a": 1}
    zarr_writer.ZarrWriter(tmp_path / "a.zarr").close()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["train/vector"] = np.zeros((20, 3), np.float32)
    report = copy(tmp_path / "a.zarr", tmp_path / "b.h5")
    assert report.left_out == ("train/vector", "@nested")
    assert copy(tmp_path / "a.h5", tmp_path / "b.zarr").left_out == ("train/vector",)


NUMBERS: Final[dict[str, tuple[str, Any]]] = {
    "float": ("float32", "NaN"),
    "half": ("float16", 0.5),
    "flag": ("bool", True),
}


def add_numbers(store: Path) -> None:
    """Add arrays as columns are stored: some that can be copied, others that cannot."""
    codecs: Any = [ZstdCodec(level=3), Crc32cCodec()]
    root = zarr.open_group(store, mode="a", use_consolidated=False)
    more = {"complex": ("complex64", 1j), "hex": ("float32", 0.0), "odd": ("int32", 0)}
    for name, (data_type, fill) in {**NUMBERS, **more}.items():
        array = root.create_array(
            f"train/{name}",
            shape=(3,),
            dtype=data_type,
            chunks=(100,),
            compressors=codecs,
            filters=None,
            fill_value=float("nan") if fill == "NaN" else fill,
            dimension_names=["few"],
            config={"write_empty_chunks": True},
        )
        array[:] = [0, 1, 0]
    for name, fill in (("hex", "0x7fc00001"), ("odd", {"a": 1}), ("flag", True)):
        document = store / "train" / name / "zarr.json"
        document.write_text(json.dumps(json.loads(document.read_text()) | {"fill_value": fill}))
    zarr_writer.ZarrWriter(store).close()


@every_target
def test_foreign_array_of_common_type_is_copied(target: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / "a.zarr")
    add_numbers(tmp_path / "a.zarr")
    report = copy(tmp_path / "a.zarr", tmp_path / f"b{target}")
    assert report.left_out == ("train/complex", "train/hex", "train/odd")
    store = arraystore.open(tmp_path / f"b{target}")
    group: Any = store.zarr() if target == ".zarr" else store.h5py()
    for name, (data_type, fill) in NUMBERS.items():
        array = group[f"train/{name}"]
        assert array.dtype == data_type
        assert array[:].tolist() == [0, 1, 0]
        found = array.fill_value if target == ".zarr" else array.fillvalue
        assert np.array_equal(found, float("nan") if fill == "NaN" else fill, equal_nan=True)
    if target == ".h5":
        group.close()


# Failures


def damage(store: Path, photos: Path, name: str) -> None:
    """Flip a bit of an image."""
    data = (photos / name).read_bytes()[-40:-5]
    for path in [store] if store.is_file() else store.glob("train/image_payload/c/*"):
        raw = path.read_bytes()
        if data in raw:
            at = raw.index(data)
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            return
    raise AssertionError


@every_suffix
@every_target
@every_place
def test_damaged_image_leaves_no_copy(
    suffix: str,
    target: str,
    place: str,
    photos: Path,
    tmp_path: Path,
    at: Callable[[str, str], str],
    bucket: MemoryStore,
) -> None:
    convert(photos, tmp_path / f"a{suffix}")
    damage(tmp_path / f"a{suffix}", photos, "train/b/7.jpg")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ChecksumError, match=r"train: b/7\.jpg: the image does not match its check"):
        copy(tmp_path / f"a{suffix}", at(place, f"b{target}"))
    assert {path.name for path in tmp_path.iterdir()} == before
    assert objects_in(bucket) == {}


@every_suffix
def test_wrong_image_start_raises(suffix: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}")
    if suffix == ".h5":
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["train/image_start"][3] = 0
    else:
        root: Any = zarr.open_group(tmp_path / "a.zarr", mode="a")
        root["train/image_start"][3] = 0
    with pytest.raises(FormatError, match="train/image_start: must be the running sum"):
        copy(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")


@every_place
@every_suffix
def test_existing_target_needs_overwrite(
    suffix: str, place: str, photos: Path, at: Callable[[str, str], str], tmp_path: Path
) -> None:
    convert(photos, tmp_path / "a.zarr")
    target = at(place, f"b{suffix}")
    copy(tmp_path / "a.zarr", target)
    with pytest.raises(FileExistsError, match="exists"):
        copy(tmp_path / "a.zarr", target)
    copy(tmp_path / "a.zarr", target, overwrite=True)
    assert arraystore.open(target).info == arraystore.open(tmp_path / "a.zarr").info


@every_place
@pytest.mark.parametrize("overwrite", [False, True])
def test_copy_into_source_raises(
    place: str,
    overwrite: bool,
    photos: Path,
    at: Callable[[str, str], str],
    tmp_path: Path,
    bucket: MemoryStore,
) -> None:
    outer, inner, beside = (at(place, name) for name in ("a.zarr", "a.zarr/b.zarr", "a.zarr.h5"))
    convert(photos, outer)
    before = objects_in(bucket), sorted(tmp_path.rglob("*"))
    for source, target in ((outer, inner), (inner, outer)):
        with pytest.raises(
            ValueError, match=r"one of source and target lies in the other; choose another target$"
        ):
            copy(source, target, overwrite=overwrite)
    assert (objects_in(bucket), sorted(tmp_path.rglob("*"))) == before
    copy(outer, beside, overwrite=overwrite)


@every_place
@every_suffix
def test_copy_onto_itself_raises(
    suffix: str, place: str, photos: Path, at: Callable[[str, str], str], bucket: MemoryStore
) -> None:
    convert(photos, at(place, f"a{suffix}"))
    before = objects_in(bucket)
    with pytest.raises(ValueError, match="is the source itself; choose another target"):
        copy(at(place, f"a{suffix}"), at(place, f"a{suffix}"), overwrite=True)
    with pytest.raises(ValueError, match="is the source itself; choose another target"):
        copy(at(place, f"a{suffix}"), at(place, f"a{suffix}/"), overwrite=True)
    # Without overwrite it may be the bucket of that name on another service.
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        copy(at(place, f"a{suffix}"), at(place, f"a{suffix}"))
    assert objects_in(bucket) == before
    assert len(arraystore.open(at(place, f"a{suffix}"))["train"]) == 20


def test_missing_source_raises(tmp_path: Path, bucket: MemoryStore) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.zarr"):
        copy(tmp_path / "nothing.zarr", tmp_path / "b.h5")
    with pytest.raises(FileNotFoundError, match=r"memory://nothing\.zarr"):
        copy("memory://nothing.zarr", tmp_path / "b.h5")


# The command


def test_command_copies(photos: Path, tmp_path: Path, bucket: MemoryStore) -> None:
    convert(photos, tmp_path / "a.zarr")
    arguments = ["copy", str(tmp_path / "a.zarr"), "memory://b.h5", "--json"]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["path"] == "memory://b.h5"
    assert report["splits"]["train"]["num_samples"] == 20
    assert list(objects_in(bucket)) == ["b.h5"]


def test_command_converts_to_bucket(photos: Path, bucket: MemoryStore) -> None:
    arguments = ["convert", f"folder:{photos}", "memory://folder/a.h5"]
    assert CliRunner().invoke(cli.cli, [*arguments, "--storage-option", "timeout=9"]).exit_code == 0
    assert list(objects_in(bucket)) == ["folder/a.h5"]


@pytest.mark.parametrize("pair", ["anon", "=true"])
def test_malformed_storage_option_exits_2(pair: str, tmp_path: Path) -> None:
    arguments = ["copy", "a.zarr", "s3://b/a.zarr", "--target-option", pair]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 2
    assert "must be NAME=VALUE" in result.output


def test_command_passes_storage_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def spy(source: str, target: str, **options: Any) -> None:
        seen.update(options)
        raise FileNotFoundError("seen")

    monkeypatch.setattr(arraystore, "copy", spy)
    pairs = ["--source-option", "anon=true", "--target-option", "region=eu-west-1"]
    pairs += ["--target-option", "timeout=5", "--target-option", "key=a=b"]
    CliRunner().invoke(cli.cli, ["copy", "s3://a/a.h5", "s3://b/b.h5", *pairs])
    assert seen["source_options"] == {"anon": True}
    assert seen["target_options"] == {"region": "eu-west-1", "timeout": 5.0, "key": "a=b"}
