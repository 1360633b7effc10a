"""Damaged and foreign stores: an error that names the place, or correct data."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

import arraystore
from arraystore.containers.hdf5.chunks import ChunkedColumn
from arraystore.errors import (
    ArrayStoreError,
    FormatError,
    StorageError,
    VersionError,
)
from arraystore.schema import COLUMNS, ROOT_COLUMNS, DatasetInfo, SplitInfo
from tests.support import SUFFIXES, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

named = pytest.mark.parametrize
N_TRAIN = 30
PAYLOAD = "train/image_payload"
ROOT_ATTRIBUTES = DatasetInfo("", "", "", "", "", "", ()).attributes()
SPLIT_ATTRIBUTES = SplitInfo(0, 0, "", 0, "").attributes()
COLUMN_COMPRESSORS = (ZstdCodec(), Crc32cCodec())
NEVER_READ = {"features"}
"""Attributes that only other programs read."""

USE = {
    "image_start": lambda split: split.image_bytes[0],
    "image_nbytes": lambda split: split.image_nbytes,
    "image_height": lambda split: split.image_height,
    "image_width": lambda split: split.image_width,
    "image_crc32c": lambda split: split.image[0],
    "label": lambda split: split.label,
    "file_name": lambda split: split.file_name,
}
"""A use of each column of a split."""

every_column = named("column", USE)
only_zarr = named("path", [".zarr"], indirect=True, scope="session")
only_hdf5 = named("path", [".h5"], indirect=True, scope="session")
numeric_column = named("column", [name for name in USE if name != "file_name"])


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    """A copy of the store at `path`, to be damaged."""
    target = tmp_path / path.name
    copied(path, target)
    return target


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """Open the root group of either container for changes."""
    if path.suffix == ".zarr":
        drop_consolidated_metadata(path)
        yield zarr.open_group(path, mode="r+", use_consolidated=False)
    else:
        with h5py.File(path, "r+") as file:
            yield file


def drop_consolidated_metadata(path: Path) -> None:
    edit_json(path / "zarr.json", lambda root: root.pop("consolidated_metadata", None))


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def set_attribute(path: Path, group: str, name: str, value: Any) -> None:
    with edited(path) as root:
        node = root[group] if group else root
        # arraystore reads only text of fixed length from HDF5.
        is_text = path.suffix == ".h5" and isinstance(value, str)
        node.attrs[name] = np.bytes_(value.encode()) if is_text else value


def rewrite_column(
    path: Path,
    name: str,
    change: Callable[[NDArray[Any]], Any],
    *,
    serializer: Any = "auto",
    compressors: Any = COLUMN_COMPRESSORS,
) -> None:
    """Write a column again with other values, in Zarr with the right codecs."""
    with edited(path) as root:
        values = np.asarray(change(root[name][:]))
        del root[name]
        if path.suffix == ".h5":
            is_chunked = values.ndim == 1 and len(values)
            layout: dict[str, Any] = {"chunks": (min(2**16, len(values)),)} if is_chunked else {}
            filters: dict[str, Any] = {"shuffle": True, "compression": "gzip"} if is_chunked else {}
            root.create_dataset(name, data=values, **layout, **filters)
            return
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=str if values.dtype.kind == "T" else values.dtype,
            chunks=(2**16,) if values.ndim == 1 else values.shape,
            serializer=serializer,
            compressors=compressors,
            filters=None,
            fill_value="" if values.dtype.kind == "T" else 0,
            config={"write_empty_chunks": True},
        )
        array[...] = values


def rewrite_payload(
    path: Path,
    *,
    dtype: str = "uint8",
    compress: bool = False,
    shards: int | None = 2**26,
    fill_value: int = 0,
    dense: bool | None = None,
) -> None:
    """Write the payload of train again with zarr-python or h5py, as another program might."""
    with edited(path) as root:
        values = root[PAYLOAD][:].astype(dtype)
        del root[PAYLOAD]
        if path.suffix == ".h5":
            filters: dict[str, Any] = {"compression": "gzip"} if compress else {}
            root.create_dataset(PAYLOAD, data=values, chunks=(2**17,), **filters)
            return
        array = root.create_array(
            PAYLOAD,
            shape=values.shape,
            dtype=dtype,
            chunks=(2**17,),
            shards=None if shards is None else (shards,),
            compressors=GzipCodec() if compress else None,
            filters=None,
            fill_value=fill_value,
            attributes={} if dense is None else {"dense": dense},
        )
        array[:] = values


@contextmanager
def refused(*places: object, kind: type[Exception] = FormatError) -> Iterator[None]:
    """Expect an error of `kind` whose message contains all of `places`."""
    with pytest.raises(kind) as caught:
        yield
    missing = [str(place) for place in places if str(place) not in str(caught.value)]
    assert not missing, f"{caught.value} does not say {missing}"


def payload_file(path: Path) -> Path:
    return path / PAYLOAD / "c" / "0" if path.is_dir() else path


# Not a store


def test_missing_store_raises(tmp_path: Path) -> None:
    with refused(tmp_path / "gone.zarr", kind=FileNotFoundError):
        arraystore.open(tmp_path / "gone.zarr")


def test_dangling_link_raises(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "gone.h5")
    with refused(tmp_path / "link.h5", kind=FileNotFoundError):
        arraystore.open(tmp_path / "link.h5")


@named("suffix", SUFFIXES)
def test_empty_folder_raises(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / f"empty{suffix}"
    folder.mkdir()
    with refused(folder, "is not an arraystore store", "zarr.json"):
        arraystore.open(folder)


@named("suffix", SUFFIXES)
@named("data", [b"", b"hello\n", b"\x89HDF", b"PK\3\4" + bytes(100)], ids=repr)
def test_other_file_raises(suffix: str, data: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"text{suffix}"
    file.write_bytes(data)
    with refused(file, "is not an arraystore store", data[:8]):
        arraystore.open(file)


ARRAY: dict[str, Any] = {"shape": (3,), "dtype": "uint8"}


@named("make", [zarr.create_group, lambda path, **how: zarr.create_array(path, **how, **ARRAY)])
def test_zarr_v2_raises(make: Callable[..., object], tmp_path: Path) -> None:
    make(tmp_path / "old.zarr", zarr_format=2)
    with refused(tmp_path / "old.zarr", "a Zarr v2 hierarchy"):
        arraystore.open(tmp_path / "old.zarr")


def test_zarr_array_raises(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array.zarr", **ARRAY)
    with refused(tmp_path / "array.zarr", "must be group, got 'array'"):
        arraystore.open(tmp_path / "array.zarr")


@named(
    "text", ["", "{", "[]", "3", "null", "\x00", "{}", '{"zarr_format": 2}', '{"zarr_format": 4}']
)
def test_invalid_root_document_raises(text: str, tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with refused(tmp_path):
        arraystore.open(tmp_path)


@only_zarr
@named("value", [None, 5, [], {"metadata": 5}, {"metadata": {"train": 5, "label_name": []}}])
def test_unknown_consolidated_metadata(copy: Path, value: Any) -> None:
    edit_json(copy / "zarr.json", lambda root: root.update(consolidated_metadata=value))
    try:
        assert len(arraystore.open(copy).info.label_names) == 1000
    except FormatError as error:
        assert str(copy) in str(error)  # noqa: PT017 - either will do


@pytest.fixture(params=SUFFIXES)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A group that another program wrote."""
    path = tmp_path / f"foreign{request.param}"
    if request.param == ".zarr":
        zarr.create_group(path)
    else:
        h5py.File(path, "w").close()
    return path


def test_foreign_group_raises(foreign: Path) -> None:
    with refused(foreign, "is not an arraystore store: attribute 'format'", "got None"):
        arraystore.open(foreign)


# Versions


@named(
    ("version", "way_out"),
    [("3.0", "upgrade arraystore"), ("17.3", "upgrade arraystore"), ("0.9", "convert it again")],
)
def test_other_major_version_raises(copy: Path, version: str, way_out: str) -> None:
    set_attribute(copy, "", "format_version", version)
    with refused(copy, f"format version {version} ", "reads 1.x", way_out, kind=VersionError):
        arraystore.open(copy)


def test_newer_minor_version_warns_once(copy: Path) -> None:
    expected = arraystore.open(copy)["train"].image_bytes[:]
    set_attribute(copy, "", "format_version", "1.7")
    with pytest.warns(
        UserWarning, match=r"has format version 1\.7, newer than 1\.2 of this release"
    ) as w:
        store = arraystore.open(copy)
    assert [warning.filename for warning in w] == [__file__]
    assert store["train"].image_bytes[:] == expected
    assert len(store.info.splits) == 2


@named("version", ["1", "1.0.0", "one", "1.", ".0", "-1.0", " 1.0", ""])
def test_malformed_version_raises(copy: Path, version: str) -> None:
    set_attribute(copy, "", "format_version", version)
    with refused(copy, "'format_version' must look like '1.0'"):
        arraystore.open(copy)


@named(("name", "value"), [("encoding-type", "audio"), ("encoding-version", "2.0")])
def test_other_split_encoding_raises_when_used(copy: Path, name: str, value: str) -> None:
    set_attribute(copy, "train", name, value)
    store = arraystore.open(copy)
    assert len(store["validation"]) == 20
    with refused(f"{copy}/train", value):
        _ = store["train"]


# Attributes


@named("name", [name for name in ROOT_ATTRIBUTES if name not in NEVER_READ])
def test_missing_root_attribute_raises(copy: Path, name: str) -> None:
    with edited(copy) as root:
        del root.attrs[name]
    with refused(copy, f"attribute '{name}'"):
        arraystore.open(copy)


@named("name", SPLIT_ATTRIBUTES)
def test_missing_split_attribute_raises(copy: Path, name: str) -> None:
    with edited(copy) as root:
        del root["train"].attrs[name]
    store = arraystore.open(copy)
    with refused(f"{copy}/train", f"attribute '{name}'"):
        _ = store["train"]


@named(
    ("group", "name", "value"),
    [
        ("", "format", 3),
        ("", "dataset_name", 3),
        ("", "splits", "train"),
        ("", "partial", "yes"),
        ("", "sources", "{}"),
        ("", "sources", "[{}]"),
        ("", "sources", '[{"name": "a", "nbytes": "many"}]'),
        ("", "sources", '[{"name": "a", "nbytes": null}]'),
        ("", "skipped", "[3]"),
        ("", "skipped", "not JSON"),
        ("", "reencoded", "3"),
        ("", "selections", 3),
        ("", "selections", "[]"),
        ("", "selections", '{"1pct": "train"}'),
        ("", "selections", '{"1pct": [3]}'),
        ("", "selections", '{"a/b": ["train"]}'),
        ("train", "num_samples", "30"),
        ("train", "num_samples", -1),
        ("train", "num_bytes", -1),
        ("train", "seed", "x"),
        ("train", "order", 1),
    ],
)
def test_invalid_attribute_raises(copy: Path, group: str, name: str, value: object) -> None:
    set_attribute(copy, group, name, value)
    with refused(copy, f"'{name}'"):
        _ = arraystore.open(copy)["train"]


@named("name", ["", "a/b", "..", "label_name", "träin", "selections"])
def test_invalid_split_name_raises(copy: Path, name: str) -> None:
    with edited(copy) as root:
        is_zarr = copy.suffix == ".zarr"
        root.attrs["splits"] = [name] if is_zarr else np.array([name.encode()])
    with refused(copy, "'splits'"):
        arraystore.open(copy)


@named(("name", "value"), [("num_samples", 29), ("num_bytes", 1000), ("num_bytes", 10**8)])
def test_inconsistent_numbers_raise(copy: Path, name: str, value: int) -> None:
    set_attribute(copy, "train", name, value)
    with refused(f"{copy}/train", value):
        _ = arraystore.open(copy)["train"].image_bytes[0]


# Columns


def test_missing_listed_split_raises(copy: Path) -> None:
    with edited(copy) as root:
        del root["train"]
    store = arraystore.open(copy)
    with refused(f"{copy}/train", "missing"):
        _ = store["train"]


@named("key", ["number", "id"])
def test_more_class_names_than_labels_raise(copy: Path, key: str) -> None:
    rewrite_column(copy, "train/label_indptr", lambda indptr: indptr[:-1])
    store = arraystore.open(copy)
    n = len(store.label_names)
    label = store.label_names[-1] if key == "id" else n - 1
    with refused(f"{copy}/label_name", f"{n - 1} values, one a class of train, got {n}"):
        store["train"].where(label=label)


@every_column
def test_missing_column_raises_when_needed(copy: Path, column: str) -> None:
    with edited(copy) as root:
        del root[f"train/{column}"]
    train = arraystore.open(copy)["train"]
    with refused(f"{copy}/train/{column}", "missing"):
        USE[column](train)


@named("column", sorted({*COLUMNS} - {*USE}))
def test_missing_label_index_raises_when_needed(copy: Path, column: str) -> None:
    with edited(copy) as root:
        del root[f"train/{column}"]
    stored = arraystore.open(copy).stored("train")
    with refused(f"{copy}/train/{column}", "missing"):
        stored.columns[column]


@named("column", ["label", "label_order", "image_height", "image_crc32c"])
def test_missing_column_is_harmless_otherwise(copy: Path, column: str) -> None:
    expected = arraystore.open(copy)["train"].image_bytes[:]
    with edited(copy) as root:
        del root[f"train/{column}"]
    assert arraystore.open(copy)["train"].image_bytes[:] == expected


@named("column", ROOT_COLUMNS)
def test_missing_class_names_raise_when_needed(copy: Path, column: str) -> None:
    with edited(copy) as root:
        del root[column]
    store = arraystore.open(copy)
    assert len(store["train"].image_bytes[:]) == N_TRAIN
    with refused(f"{copy}/{column}", "missing"):
        _ = store.info


def test_missing_payload_raises(copy: Path) -> None:
    with edited(copy) as root:
        del root[PAYLOAD]
    train = arraystore.open(copy)["train"]
    with refused(f"{copy}/{PAYLOAD}", "missing"):
        _ = train.image_bytes[0]


@every_column
def test_group_instead_of_column_raises(copy: Path, column: str) -> None:
    with edited(copy) as root:
        del root[f"train/{column}"]
        root.create_group(f"train/{column}")
    with refused(f"{copy}/train/{column}", "must be"):
        USE[column](arraystore.open(copy)["train"])


@numeric_column
@named("change", ["int16", "float64", "flipped"])
def test_column_type_mismatch_raises(copy: Path, column: str, change: str) -> None:
    right = np.dtype(COLUMNS[column].data_type)
    wrong = right.newbyteorder(">") if change == "flipped" else np.dtype(change)
    serializer = BytesCodec(endian="big") if change == "flipped" else "auto"
    rewrite_column(
        copy, f"train/{column}", lambda values: values.astype(wrong), serializer=serializer
    )
    with refused(f"{copy}/train/{column}", "must"):
        USE[column](arraystore.open(copy)["train"])


def test_numeric_file_names_raise(copy: Path) -> None:
    rewrite_column(copy, "train/file_name", lambda values: np.arange(len(values)))
    with refused(f"{copy}/train/file_name", "must hold"):
        _ = arraystore.open(copy)["train"].file_name


def test_text_in_numeric_column_raises(copy: Path) -> None:
    with edited(copy) as root:
        names = root["train/file_name"][:]
    rewrite_column(copy, "train/label", lambda values: names)
    with refused(f"{copy}/train/label", "must hold int64"):
        _ = arraystore.open(copy)["train"].label


@only_hdf5
def test_file_names_not_utf8_raise(copy: Path) -> None:
    rewrite_column(copy, "train/file_name", lambda values: np.array([b"\xff"] * len(values)))
    with refused(f"{copy}/train/file_name", "must be UTF-8"):
        _ = arraystore.open(copy)["train"].file_name


@every_column
@named("change", [lambda values: values[:-1], lambda values: np.append(values, values[:1])])
def test_column_length_mismatch_raises(
    copy: Path, column: str, change: Callable[[NDArray[Any]], Any]
) -> None:
    rewrite_column(copy, f"train/{column}", change)
    with refused(f"{copy}/train/{column}", "must have 30 values"):
        USE[column](arraystore.open(copy)["train"])


@numeric_column
def test_two_dimensional_column_raises(copy: Path, column: str) -> None:
    rewrite_column(copy, f"train/{column}", lambda values: values.reshape(5, 6))
    with refused(f"{copy}/train/{column}", "1-d"):
        USE[column](arraystore.open(copy)["train"])


@only_zarr
@named(
    "compressors", [None, (ZstdCodec(),), (GzipCodec(), Crc32cCodec()), (Crc32cCodec(),)], ids=repr
)
def test_column_codec_mismatch_raises(copy: Path, compressors: Any) -> None:
    rewrite_column(copy, "train/label", lambda values: values, compressors=compressors)
    with refused(f"{copy}/train/label", "with codecs"):
        _ = arraystore.open(copy)["train"].label


@named(
    ("column", "position", "value"),
    [
        ("image_start", 0, -1),
        ("image_start", 7, 2**40),
        ("image_start", 29, "num_bytes"),
        ("image_start", 3, 2**63 - 1),
        ("image_start", 3, -(2**63)),
        ("image_nbytes", 0, -1),
        ("image_nbytes", 29, "num_bytes"),
        ("image_nbytes", 5, 2**63 - 1),
        ("image_nbytes", 5, -(2**63)),
    ],
)
def test_image_outside_payload_raises(
    copy: Path, column: str, position: int, value: int | str
) -> None:
    number = arraystore.open(copy).info.splits["train"].num_bytes if value == "num_bytes" else value

    def change(values: NDArray[np.int64]) -> NDArray[np.int64]:
        values[position] = number
        return values

    rewrite_column(copy, f"train/{column}", change)
    with refused(f"{copy}/train", f"image {position} is ", number, "outside the payload"):
        _ = arraystore.open(copy)["train"].image_bytes[1]


@named("label", [1000, -2, 2**63 - 1, -(2**63)])
def test_label_out_of_range_raises(copy: Path, label: int) -> None:
    def change(values: NDArray[np.int64]) -> NDArray[np.int64]:
        values[7] = label
        return values

    rewrite_column(copy, "train/label", change)
    with refused(f"{copy}/train/label", f"got {label} at 7", "range(1000)"):
        _ = arraystore.open(copy)["train"].label


@only_zarr
@every_column
def test_missing_column_chunk_raises(copy: Path, column: str) -> None:
    (copy / "train" / column / "c" / "0").unlink()
    with refused(f"{copy}/train/{column}/c/0", "the chunk is missing"):
        USE[column](arraystore.open(copy)["train"])


@only_zarr
@every_column
def test_deleted_listed_column_raises(copy: Path, column: str) -> None:
    shutil.rmtree(copy / "train" / column)
    with refused(f"{copy}/train/{column}", "missing"):
        USE[column](arraystore.open(copy)["train"])


@only_zarr
@every_column
@named("nbytes", [0, 1, 4, 5, -1])
def test_truncated_column_chunk_raises(copy: Path, column: str, nbytes: int) -> None:
    chunk = copy / "train" / column / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:nbytes])
    with refused(f"{copy}/train/{column}/c/0"):
        USE[column](arraystore.open(copy)["train"])


@only_zarr
def test_chunk_without_data_raises(copy: Path) -> None:
    (copy / "train/label/c/0").write_bytes(bytes(4))  # the CRC-32C of no bytes is 0
    with refused(f"{copy}/train/label/c/0", "cannot be decoded"):
        _ = arraystore.open(copy)["train"].label


@only_zarr
def test_short_chunk_raises(copy: Path) -> None:
    other = copy.parent / "other"
    zarr.create_array(
        other, data=np.arange(10), compressors=[ZstdCodec(), Crc32cCodec()], filters=None
    )
    shutil.copy(other / "c/0", copy / "train/label/c/0")
    with refused(f"{copy}/train/label/c/0", "must hold 65536 values, got 10"):
        _ = arraystore.open(copy)["train"].label


def place_of_chunk(path: Path, column: str) -> tuple[Path, int, int]:
    """Return the file, first byte and length of the only chunk of a column of train."""
    if path.suffix == ".zarr":
        file = path / "train" / column / "c" / "0"
        return file, 0, file.stat().st_size
    with h5py.File(path) as root:
        chunk = root[f"train/{column}"].id.get_chunk_info(0)
        return path, chunk.byte_offset, chunk.size


def is_missed_by_adler_32(chunk: bytes | bytearray) -> bool:
    """Whether zlib decompresses a complete stream without an error."""
    try:
        zlib.decompress(chunk)
    except zlib.error:
        return False
    return True


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(USE)), st.integers(0, 2**32))
def test_flipped_bit_in_column_is_detected(copy: Path, column: str, number: int) -> None:
    expected = arraystore.open(copy).stored("train").columns[column]
    file, offset, nbytes = place_of_chunk(copy, column)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[offset + number // 8 % nbytes] ^= 1 << number % 8
    file.write_bytes(damaged)
    try:
        found = arraystore.open(copy).stored("train").columns[column]
        if file.suffix != ".h5" or not is_missed_by_adler_32(damaged[offset : offset + nbytes]):
            np.testing.assert_array_equal(found, expected)
    except FormatError as error:
        assert f"{copy}/train/{column}" in str(error)  # noqa: PT017 - either will do
    finally:
        file.write_bytes(whole)


@only_hdf5
@numeric_column
def test_flipped_bits_that_adler32_misses(path: Path, column: str) -> None:
    file, offset, nbytes = place_of_chunk(path, column)
    chunk = file.read_bytes()[offset : offset + nbytes]
    with h5py.File(path) as root:
        chunked = ChunkedColumn.of(root[f"train/{column}"], 2**32)
    assert chunked is not None
    expected = chunked.values([chunk], None)
    n_refused = 0
    for number in range(8 * nbytes):
        damaged = bytearray(chunk)
        damaged[number // 8] ^= 1 << number % 8
        try:
            found = chunked.values([damaged], None)
        except ValueError:
            n_refused += 1
            continue
        assert np.array_equal(found, expected) or is_missed_by_adler_32(damaged), number
    assert n_refused > 7 * nbytes


@only_zarr
@every_column
def test_flipped_bit_in_checked_chunk_raises(copy: Path, column: str) -> None:
    chunk = copy / "train" / column / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with refused(f"{copy}/train/{column}/c/0", "does not match its checksum"):
        USE[column](arraystore.open(copy)["train"])


def everything(path: Path) -> tuple[object, ...]:
    """Read everything in train: encoded images and columns."""
    train = arraystore.open(path)["train"]
    columns = [train.label, train.file_name, train.image_nbytes, train.image_crc32c]
    return train.image_bytes[:], *(values.tolist() for values in columns)


@only_zarr
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["", "train", PAYLOAD, "train/label"]), st.integers(0, 2**32))
def test_flipped_bit_in_zarr_metadata(copy: Path, node: str, number: int) -> None:
    drop_consolidated_metadata(copy)
    expected = everything(copy)
    file = copy / node / "zarr.json"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[number // 8 % len(damaged)] ^= 1 << number % 8
    file.write_bytes(damaged)
    try:
        with warnings.catch_warnings(action="ignore"):  # a newer minor version
            assert everything(copy) == expected
    except (ArrayStoreError, KeyError) as error:
        assert "train" in str(error) or str(copy) in str(error)  # noqa: PT017 - either will do
    finally:
        file.write_bytes(whole)


# Payloads


@only_zarr
def test_consolidated_metadata_is_optional(copy: Path) -> None:
    expected = everything(copy)
    drop_consolidated_metadata(copy)
    assert everything(copy) == expected


@only_zarr
def test_missing_shard_raises(copy: Path) -> None:
    payload_file(copy).unlink()
    with refused(payload_file(copy), "the chunk is missing"):
        _ = arraystore.open(copy)["train"].image_bytes[0]


LENGTHS = {
    "nothing": lambda n: 0,
    "8 bytes": lambda n: 8,
    "a third": lambda n: n // 3,
    "all but 128 KiB": lambda n: n - 2**17,
    "all but one byte": lambda n: n - 1,
}


@named("nbytes", LENGTHS.values(), ids=LENGTHS)
@named("selection", [0, [29], slice(None)], ids=repr)
def test_truncated_payload_raises(copy: Path, nbytes: Callable[[int], int], selection: Any) -> None:
    file = payload_file(copy)
    with file.open("r+b") as opened:
        opened.truncate(nbytes(file.stat().st_size))
    with refused(file.relative_to(copy.parent), kind=ArrayStoreError):
        _ = arraystore.open(copy)["train"].image_bytes[selection]


@named("nbytes", LENGTHS.values(), ids=LENGTHS)
def test_payload_truncated_while_open_raises(copy: Path, nbytes: Callable[[int], int]) -> None:
    train = arraystore.open(copy)["train"]
    _ = train.image_bytes[0]
    file = payload_file(copy)
    with file.open("r+b") as opened:
        opened.truncate(nbytes(file.stat().st_size))
    with refused(file, kind=StorageError):
        _ = train.image_bytes[29]


@only_zarr
def test_grown_shard_raises(copy: Path) -> None:
    with payload_file(copy).open("ab") as file:
        file.write(b"more")
    with refused(payload_file(copy), "does not match its checksum"):
        _ = arraystore.open(copy)["train"].image_bytes[0]


def test_compressed_payload_raises(copy: Path) -> None:
    rewrite_payload(copy, compress=True)
    with refused(f"{copy}/{PAYLOAD}"):
        _ = arraystore.open(copy)["train"].image_bytes[0]


def test_payload_type_mismatch_raises(copy: Path) -> None:
    rewrite_payload(copy, dtype="int16")
    with refused(f"{copy}/{PAYLOAD}", "uint8", "int16"):
        _ = arraystore.open(copy)["train"].image_bytes[0]


@only_zarr
def test_unsharded_payload_raises(copy: Path) -> None:
    rewrite_payload(copy, shards=None)
    with refused(f"{copy}/{PAYLOAD}", "sharding_indexed"):
        _ = arraystore.open(copy)["train"].image_bytes[0]


def test_payload_in_other_chunks_is_read(copy: Path) -> None:
    expected = everything(copy)
    rewrite_payload(copy, shards=2**18)
    assert everything(copy) == expected


@pytest.fixture(scope="module", params=SUFFIXES)
def black(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[bytes]]:
    """A store of bitmaps, each of one colour and larger than several chunks; and the bitmaps."""
    folder = tmp_path_factory.mktemp("black")
    source = folder / "source" / "train" / "a"
    source.mkdir(parents=True)
    for i, colour in enumerate(["red", "black", "gray", "black", "white"]):
        Image.new("RGB", (600, 400), colour).save(source / f"{i}.bmp")
    target = folder / f"black{request.param}"
    arraystore.convert(f"folder:{folder}/source", target, order="source", sync=False)
    return target, [(source / f"{i}.bmp").read_bytes() for i in range(5)]


@pytest.fixture
def bitmaps(black: tuple[Path, list[bytes]], tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A copy of `black`, to be repacked."""
    path, images = black
    target = tmp_path / path.name
    copied(path, target)
    return target, images


def test_zeros_are_stored(black: tuple[Path, list[bytes]]) -> None:
    path, images = black
    assert arraystore.open(path, checksum="always")["train"].image_bytes[:] == images
    assert payload_file(path).stat().st_size > sum(map(len, images))


@named("dense", [None, False, True])
@named("options", [{}, {"mmap": False}, {"checksum": "always"}], ids=str)
@named("selection", [slice(None), 1, [4, 2, 0]], ids=repr)
def test_repacked_payload_is_read(
    bitmaps: tuple[Path, list[bytes]],
    dense: bool | None,
    options: dict[str, Any],
    selection: Any,
) -> None:
    path, _ = bitmaps
    expected = arraystore.open(path)["train"].image_bytes[selection]
    rewrite_payload(path, dense=dense)
    train = arraystore.open(path, **options)["train"]
    for _ in range(3):  # single images are read differently once columns are loaded
        assert train.image_bytes[selection] == expected


@named("black", [".zarr"], indirect=True)
def test_zarr_python_omits_zeros(bitmaps: tuple[Path, list[bytes]]) -> None:
    path, images = bitmaps
    rewrite_payload(path)
    assert payload_file(path).stat().st_size < sum(map(len, images)) - 2**19


@named("black", [".zarr"], indirect=True)
def test_omitted_chunks_not_zero_raise(
    bitmaps: tuple[Path, list[bytes]],
) -> None:
    path, _ = bitmaps
    rewrite_payload(path, fill_value=255)
    with refused(f"{path}/{PAYLOAD}", "fill_value"):
        _ = arraystore.open(path)["train"].image_bytes[:]


@named("black", [".zarr"], indirect=True)
@named("damage", [(0, 2**40), (1, 5), (0, 2**64 - 2)], ids=repr)
def test_shard_index_out_of_range_raises(
    bitmaps: tuple[Path, list[bytes]], damage: tuple[int, int]
) -> None:
    path, _ = bitmaps
    rewrite_payload(path)
    column, value = damage
    data = payload_file(path).read_bytes()
    index = np.frombuffer(data[-(2**9 * 16 + 4) : -4], "<u8").reshape(-1, 2).copy()
    index[3, column] = value
    body = index.tobytes()
    checksum = struct.pack("<I", google_crc32c.value(body))
    payload_file(path).write_bytes(data[: -len(body) - 4] + body + checksum)
    with refused(payload_file(path), "the shard's index points outside the shard"):
        _ = arraystore.open(path)["train"].image_bytes[0]


def codec_of_payload(document: dict[str, Any]) -> dict[str, Any]:
    codec: dict[str, Any] = document["codecs"][0]["configuration"]
    return codec


@only_zarr
@named(
    "change",
    [
        lambda node: codec_of_payload(node).update(index_location="start"),
        lambda node: codec_of_payload(node).update(index_codecs=[{"name": "bytes"}]),
        lambda node: codec_of_payload(node).update(chunk_shape=[2**17 + 1]),
        lambda node: codec_of_payload(node).update(chunk_shape=[0]),
        lambda node: codec_of_payload(node).update(chunk_shape=[2**17, 1]),
        lambda node: codec_of_payload(node).pop("codecs"),
        lambda node: node.update(codecs=[]),
        lambda node: node.update(chunk_grid={"name": "rectilinear"}),
        lambda node: node["chunk_grid"]["configuration"].update(chunk_shape=[0]),
        lambda node: node["chunk_key_encoding"]["configuration"].update(separator="."),
        lambda node: node["chunk_key_encoding"].update(name="v2"),
        lambda node: node.update(shape=[-1]),
        lambda node: node.update(shape=[]),
        lambda node: node.update(shape="many"),
        lambda node: node.update(node_type="group"),
        lambda node: node.pop("data_type"),
    ],
)
def test_unknown_payload_layout_raises(
    copy: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    drop_consolidated_metadata(copy)
    edit_json(copy / PAYLOAD / "zarr.json", change)
    with refused(f"{copy}/{PAYLOAD}"):
        _ = arraystore.open(copy)["train"].image_bytes[0]
