from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import arraystore
from arraystore.containers.hdf5.reader import HDF5Reader
from arraystore.containers.zarr.reader import ZarrReader
from arraystore.integrations import xarray_backend
from arraystore.integrations.xarray_backend import ArraystoreBackend
from arraystore.reading import column_reader
from arraystore.reading.image_reader import ImageReader
from arraystore.reading.stored_split import StoredSplit
from arraystore.storage.objects import connection
from tests.support import (
    SUFFIXES,
    Bucket,
    objects_on_disk,
    picture,
    set_chunk_rows,
    write_folder,
    write_store,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore.reading.stored_split import ImageRows


COLUMNS = ("label", "file_name", "image_height", "image_width", "image_nbytes")
VARIABLES = (*COLUMNS, "image_bytes")
SELECTIONS = {
    "slice": slice(3, 20, 4),
    "backwards": slice(20, 3, -4),
    "list": [7, -1, 7, 0],
    "mask": np.arange(30) % 7 == 2,
    "empty": [],
    "nothing": slice(0, 0),
}


@pytest.fixture
def dataset(path: Path) -> xr.Dataset:
    """The train split of `path`: 30 samples."""
    return xr.open_dataset(path, engine="arraystore", group="train")


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every read of an image fail."""

    def refuse(self: StoredSplit, positions: NDArray[np.int64]) -> list[memoryview]:
        raise AssertionError(f"images {positions} were read")

    monkeypatch.setattr(StoredSplit, "read", refuse)


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_those_of_the_split(
    name: str, dataset: xr.Dataset, train: arraystore.Split
) -> None:
    assert dataset[name].dims == ("sample",)
    assert dataset[name].values.tolist() == list(getattr(train, name)[:])


@pytest.mark.parametrize("name", VARIABLES)
def test_dtype_is_known_before_reading(name: str, dataset: xr.Dataset) -> None:
    assert dataset[name].dtype == dataset[name].values.dtype


def test_text_and_images_are_python_objects(dataset: xr.Dataset) -> None:
    assert {type(name) for name in dataset.file_name.values} == {str}
    assert {type(image) for image in dataset.image_bytes.values} == {bytes}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("name", VARIABLES)
def test_isel_follows_numpy(
    name: str, selection: Any, dataset: xr.Dataset, train: arraystore.Split
) -> None:
    expected = list(getattr(train, name)[selection])
    assert dataset.isel(sample=selection)[name].values.tolist() == expected


def test_isel_can_be_repeated(dataset: xr.Dataset, train: arraystore.Split) -> None:
    few = dataset.isel(sample=slice(10, None)).isel(sample=[3, 1])
    assert few.image_bytes.values.tolist() == train.image_bytes[[13, 11]]


def test_two_dimensional_index_gives_two_dimensions(
    dataset: xr.Dataset, train: arraystore.Split
) -> None:
    grid = xr.DataArray([[0, 5], [9, 0]], dims=("row", "column"))
    found = dataset.image_bytes.isel(sample=grid)
    assert found.dims == ("row", "column")
    assert found.values.ravel().tolist() == train.image_bytes[[0, 5, 9, 0]]


def test_one_image_is_bytes(dataset: xr.Dataset, train: arraystore.Split) -> None:
    assert dataset.isel(sample=5).image_bytes.item() == train.image_bytes[5]
    assert dataset.isel(sample=-1).file_name.item() == train.file_name[-1]


def test_mask_selects_samples(dataset: xr.Dataset, train: arraystore.Split) -> None:
    label = int(train.label[0])
    found = dataset.isel(sample=(dataset.label == label).values).image_bytes
    assert found.values.tolist() == train.image_bytes[train.label == label]


def test_where_drops_samples(dataset: xr.Dataset, train: arraystore.Split) -> None:
    label = int(train.label[0])
    found = dataset.where(dataset.label == label, drop=True)
    assert found.image_bytes.values.tolist() == train.image_bytes[train.label == label]
    assert found.file_name.values.tolist() == train.file_name[train.label == label].tolist()


@pytest.mark.parametrize("kind", ["whole", "part"])
def test_coordinates_are_label_and_names(kind: str, train: arraystore.Split) -> None:
    split = train if kind == "whole" else train.where(label=[0, 2])
    dataset = split.to_xarray()
    assert dataset.coords.keys() == {"label", "label_name", "file_name"}
    assert dataset.label_name.values.tolist() == [split.label_names[k] for k in split.label]
    assert dataset.label_name[1].item() == split.label_names[split.label[1]]


def test_label_name_is_empty_without_a_class(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store.zarr", ["1", "2"], [-1, 0], classes=["cat"])
    names = arraystore.open(path)["train"].to_xarray()[["label", "label_name"]].to_dataframe()
    assert dict(zip(names.label, names.label_name, strict=True)) == {-1: "", 0: "cat"}


def test_column_named_as_a_coordinate_is_renamed(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store.zarr", ["1", "2"], [0, 0], classes=["cat"])
    arraystore.add_column(path, "train", "label_name", np.array([5, 6]))
    dataset = arraystore.open(path)["train"].to_xarray()
    assert dataset.label_name.values.tolist() == ["cat", "cat"]
    assert dataset["columns.label_name"].values.tolist() == [5, 6]


def test_file_name_becomes_an_index(dataset: xr.Dataset, train: arraystore.Split) -> None:
    names = dataset.set_xindex("file_name")
    assert names.sel(file_name=train.file_name[7]).image_bytes.item() == train.image_bytes[7]
    some = names.sel(file_name=[train.file_name[7], train.file_name[2]])
    assert some.image_bytes.values.tolist() == train.image_bytes[[7, 2]]


@pytest.mark.parametrize("chunks", [None, {}, {"sample": 7}], ids=str)
def test_groupby_label(chunks: Any, train: arraystore.Split) -> None:
    dataset = train.to_xarray(chunks=chunks)
    dataset = dataset.assign_coords(label=dataset.label.load())  # xarray needs it if it is chunked
    labels = np.unique(train.label)
    means = dataset.image_nbytes.groupby("label").mean()
    assert means.label.values.tolist() == labels.tolist()
    expected = [train.image_nbytes[train.label == label].mean() for label in labels]
    assert np.allclose(means, expected)
    firsts = dataset.groupby("label").map(lambda group: group.isel(sample=slice(1)))
    positions = [int(np.flatnonzero(train.label == label)[0]) for label in labels]
    found = dict(zip(firsts.label.values.tolist(), firsts.image_bytes.values, strict=True))
    assert [found[label] for label in labels] == train.image_bytes[positions]


PIXELS: dict[str, dict[str, Any]] = {
    "whole": {},
    "one": {"sample": 5},
    "backwards": {"sample": slice(20, 3, -4), "height": slice(None, None, -1)},
    "list": {"sample": [7, -1, 7, 0], "channel": 0},
    "lists": {"sample": [3, 1], "height": [0, 5], "width": [4, 2, 2]},
    "one row": {"sample": 2, "height": 3, "width": slice(1, 4)},
    "pixel": {"sample": 2, "height": 3, "width": 1, "channel": 2},
    "empty": {"sample": [], "width": 3},
}


@pytest.mark.parametrize("chunks", [None, {}], ids=str)
@pytest.mark.parametrize("indexers", PIXELS.values(), ids=PIXELS)
def test_pixels_are_indexed_as_an_array(
    indexers: dict[str, Any], chunks: Any, path: Path, train: arraystore.Split
) -> None:
    size = (8, 6)
    lazy = xr.open_dataset(path, engine="arraystore", group="train", size=size, chunks=chunks)
    assert "image_bytes" not in lazy
    pixels = xr.DataArray(train.resized(size)[:], dims=("sample", "height", "width", "channel"))
    found = lazy.image.isel(indexers)
    assert (found.dtype, found.shape) == (np.uint8, pixels.isel(indexers).shape)
    assert found.drop_vars(found.coords).equals(pixels.isel(indexers))


def test_only_indexed_images_are_decoded(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = StoredSplit.read

    def read(self: StoredSplit, rows: ImageRows) -> list[memoryview]:
        seen.extend(rows.positions.tolist())
        return real(self, rows)

    monkeypatch.setattr(StoredSplit, "read", read)
    train.to_xarray(size=8).image.isel(sample=[9, 4], height=2).load()
    train.to_xarray(size=8, chunks={}).image.isel(sample=slice(12, 14)).load()
    # The first one is not needed: Dask gets chunks of 64 MiB without reading any.
    assert sorted(seen) == [4, 9, 12, 13]


@pytest.mark.parametrize("size", [None, 8])
def test_chunks_are_bounded_by_bytes(
    size: int | None, train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = int(train.image_nbytes.mean()) if size is None else 3 * size**2
    monkeypatch.setattr(xarray_backend, "_CHUNK_NBYTES", 7 * mean + 1)
    dataset = train.to_xarray(size=size, chunks={})
    assert dataset.chunks["sample"] == (7, 7, 7, 7, 2)  # raises if variables differ
    wide = train.to_xarray(size=(8, 80), chunks={"sample": 1})
    assert wide.chunks["sample"] == (1,) * 30


def test_automatic_chunks_need_variables_without_objects(path: Path) -> None:
    options: Any = {"engine": "arraystore", "group": "train", "chunks": "auto", "size": 8}
    names = ["file_name", "label_name"]
    dataset = xr.open_dataset(path, drop_variables=names, **options)
    assert dataset.image.chunks == ((30,), (8,), (8,), (3,))
    assert dataset.image[3].values.shape == (8, 8, 3)
    with pytest.raises(NotImplementedError, match="object dtype"):
        xr.open_dataset(path, **options)


def test_selection_of_the_store(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(9)]
    path = write_store(
        *(tmp_path / "store.zarr", names, [0] * 9), classes="a", selections={"some": [5, 2]}
    )
    train = arraystore.open(path)["train"]
    dataset = xr.open_dataset(path, engine="arraystore", group="train", selection="some")
    assert dataset.file_name.values.tolist() == train.select("some").file_name.tolist()
    saved = tmp_path / "saved.json"
    train.select([3, 8]).selection().save(saved)
    few = xr.open_dataset(path, engine="arraystore", group="train", selection=saved)
    assert few.file_name.values.tolist() == train.file_name[[3, 8]].tolist()
    with pytest.raises(KeyError, match="no selection 'other'") as caught:
        xr.open_dataset(path, engine="arraystore", group="train", selection="other")
    assert str(path) in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="is not a split"):
        xr.open_dataset(path, engine="arraystore", selection="some")


def test_split_to_xarray(train: arraystore.Split, dataset: xr.Dataset) -> None:
    assert train.to_xarray().identical(dataset)
    few = train.where(label=[0, 2]).sample(3)
    found = few.to_xarray(drop_variables="image_height")
    assert "image_height" not in found
    assert found.image_bytes.values.tolist() == few.image_bytes[:]
    assert found.attrs == {"split": few.name, "num_samples": 3}
    again = pickle.loads(pickle.dumps(few.to_xarray(size=8, chunks={})))
    assert np.array_equal(again.image, few.resized(8)[:])


def test_split_with_an_address_is_refused(train: Any) -> None:
    with pytest.raises(TypeError, match="has its samples already"):
        xr.open_dataset(train, engine="arraystore", group="train")


def test_load_reads_once(
    dataset: xr.Dataset, train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train.image_bytes[:]
    dataset.load()
    monkeypatch.setattr(StoredSplit, "read", None)
    assert dataset.image_bytes.values.tolist() == expected


def test_trailing_zeros_of_an_image_are_kept(tmp_path: Path) -> None:
    data = picture() + b"\0\0"
    source = write_folder(tmp_path / "source", {"train/a/1.jpg": data})
    arraystore.convert(f"folder:{source}", tmp_path / "store.zarr", sync=False)
    dataset = xr.open_dataset(tmp_path / "store.zarr", engine="arraystore", group="train")
    assert dataset.image_bytes.values.tolist() == [data]
    assert dataset.image_bytes[0].item() == data


def test_opening_printing_and_selecting_read_no_image(path: Path, no_images: None) -> None:
    tree = xr.open_datatree(path, engine="arraystore")
    dataset = xr.open_dataset(path, engine="arraystore", group="train[:50%]")
    few: Any = dataset.isel(sample=[1, 2])
    assert "image_bytes" in repr(tree) + repr(dataset) + repr(few.image_bytes)
    assert "image_bytes" in few._repr_html_()
    assert len(few.label.values) == 2


def test_only_indexed_images_are_read(
    dataset: xr.Dataset, train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.image_bytes[0].load()  # columns and the chunk manifest
    seen: list[int] = []
    real = ImageReader.copies

    def spy(self: ImageReader, start: NDArray[Any], nbytes: NDArray[Any]) -> list[bytes]:
        seen.extend(nbytes.tolist())
        return real(self, start, nbytes)

    wanted = [5, 3, 22, 3]
    expected = train.image_bytes[wanted]
    monkeypatch.setattr(ImageReader, "copies", spy)
    assert dataset.isel(sample=wanted).image_bytes.values.tolist() == expected
    assert sorted(seen) == sorted(train.image_nbytes[[3, 5, 22]].tolist())


def test_values_are_copies(train: arraystore.Split) -> None:
    dataset = train.to_xarray()
    for name in ("label", "image_height"):
        first = dataset[name][:5].values
        first[:] = -7
        assert getattr(train, name)[:5].min() >= 0
        assert train.to_xarray()[name][:5].values.min() >= 0


def test_pickle_is_small_and_reads_the_same(dataset: xr.Dataset, no_images: None) -> None:
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 4096
    assert pickle.loads(pickled)[["label", "file_name"]].identical(dataset[["label", "file_name"]])


def test_images_are_read_after_pickling(dataset: xr.Dataset) -> None:
    again = pickle.loads(pickle.dumps(dataset.isel(sample=slice(3, 6))))
    assert again.image_bytes.values.tolist() == dataset.image_bytes.values[3:6].tolist()


def test_many_threads_read_one_dataset(dataset: xr.Dataset, train: arraystore.Split) -> None:
    positions = list(range(len(train))) * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: dataset.image_bytes[i].item(), positions))
    assert found == train.image_bytes[positions]


@pytest.mark.parametrize("group", [None, "/", ""])
def test_root_has_the_classes(group: str | None, path: Path, store: arraystore.Store) -> None:
    root = xr.open_dataset(path, engine="arraystore", group=group)
    assert root.sizes == {"class": 1000}
    assert root.label_name.values.tolist() == list(store.info.label_names)
    assert root.label_words.values.tolist() == list(store.info.label_words)


def test_root_attributes_are_those_on_disk(path: Path, store: arraystore.Store) -> None:
    attributes = xr.open_dataset(path, engine="arraystore").attrs
    assert attributes["dataset_name"] == "imagenet2012_subset"
    assert attributes["dataset_version"] == "5.0.0"
    assert attributes["citation"] == store.info.citation
    engine = "zarr" if path.suffix == ".zarr" else "h5netcdf"
    with xr.open_dataset(path, engine=engine) as plain:
        assert attributes == {name: plain.attrs[name] for name in attributes}


def test_split_attributes_are_those_on_disk(dataset: xr.Dataset, path: Path) -> None:
    engine = "zarr" if path.suffix == ".zarr" else "h5netcdf"
    with xr.open_dataset(path, engine=engine, group="train") as plain:
        assert dataset.attrs == {name: plain.attrs[name] for name in dataset.attrs}
    assert dataset.attrs.keys() == {"num_samples", "num_bytes", "order", "seed", "content_digest"}


@pytest.mark.parametrize("group", ["train[:10%]", "train[5:9]", "validation+train[:3]", "/train"])
def test_group_is_read_like_a_split_string(group: str, path: Path, store: arraystore.Store) -> None:
    dataset = xr.open_dataset(path, engine="arraystore", group=group)
    split = store[group.strip("/")]
    assert dataset.attrs["num_samples"] == len(split)
    assert dataset.file_name.values.tolist() == split.file_name.tolist()
    assert dataset.image_bytes.values.tolist() == split.image_bytes[:]


def test_part_of_split_has_no_digest(path: Path) -> None:
    part = xr.open_dataset(path, engine="arraystore", group="train[:3]")
    assert part.attrs == {"split": "train[:3]", "num_samples": 3}


def test_unknown_group_raises_with_the_splits(path: Path) -> None:
    with pytest.raises(KeyError, match="'trian'; there are train, validation") as caught:
        xr.open_dataset(path, engine="arraystore", group="trian")
    assert str(path) in caught.value.__notes__[0]


def test_malformed_group_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="is not a split"):
        xr.open_dataset(path, engine="arraystore", group="train[")


@pytest.mark.parametrize("drop", ["image_bytes", ["image_bytes", "label", "unknown"]])
def test_variables_can_be_dropped(drop: str | list[str], path: Path) -> None:
    dropped = xr.open_dataset(path, engine="arraystore", group="train", drop_variables=drop)
    gone = {drop} if isinstance(drop, str) else set(drop)
    assert dropped.variables.keys() == {*VARIABLES, "label_name"} - gone


def test_variables_are_dropped_from_every_group(path: Path) -> None:
    groups = xr.open_groups(path, engine="arraystore", drop_variables=iter(["label"]))
    assert all("label" not in dataset for dataset in groups.values())


def test_groups_are_the_root_and_the_splits(path: Path, dataset: xr.Dataset) -> None:
    groups = xr.open_groups(path, engine="arraystore")
    assert list(groups) == ["/", "/train", "/validation"]
    assert groups["/train"].identical(dataset)


def test_tree_has_the_root_and_the_splits(path: Path, dataset: xr.Dataset) -> None:
    tree = xr.open_datatree(path, engine="arraystore")
    assert tree.sizes == {"class": 1000}
    assert list(tree.children) == ["train", "validation"]
    found = tree.children["train"].to_dataset(inherit=False)
    assert found.identical(dataset)
    assert found.image_bytes[3].item() == dataset.image_bytes[3].item()


def test_tree_can_be_pickled(path: Path) -> None:
    tree = xr.open_datatree(path, engine="arraystore")
    assert pickle.loads(pickle.dumps(tree)).identical(tree)


def test_zarr_store_is_opened_without_an_engine(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"train/a/1.jpg": picture()})
    arraystore.convert(f"folder:{source}", tmp_path / "store.zarr", sync=False)
    assert "image_bytes" in xr.open_dataset(tmp_path / "store.zarr", group="train")
    assert "image_bytes" in xr.open_datatree(tmp_path / "store.zarr")["train"]


def test_stores_are_recognized(path: Path) -> None:
    backend = ArraystoreBackend()
    assert backend.guess_can_open(path)
    assert backend.guess_can_open(str(path))


def test_trailing_slash_does_not_matter(path: Path) -> None:
    name = f"{path}/" if path.is_dir() else str(path)
    assert ArraystoreBackend().guess_can_open(name)


def test_store_of_later_format_is_guessed_and_refused(tmp_path: Path) -> None:
    attributes = {"format": "arraystore", "format_version": "3.0"}
    zarr.create_group(tmp_path / "later.zarr", attributes=attributes)
    with pytest.raises(arraystore.VersionError, match=r"format version 3\.0"):
        xr.open_dataset(tmp_path / "later.zarr")


def others(folder: Path) -> dict[str, Any]:
    """Write files of other people, and other things that are not stores."""
    group = zarr.create_group(folder / "group.zarr", attributes={"format": "other"})
    group.create_array("label", shape=(3,), dtype="int64")
    zarr.create_group(folder / "v2.zarr", zarr_format=2)
    zarr.create_array(folder / "array.zarr", shape=(3,), dtype="int64")
    (folder / "empty.zarr").mkdir()
    for name, text in (("list", "[1]"), ("broken", "{"), ("deep", "[" * 100_000)):
        (folder / f"{name}.zarr").mkdir()
        (folder / f"{name}.zarr" / "zarr.json").write_text(text)
    (folder / "text.h5").write_text("no HDF5")
    (folder / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    xr.Dataset({"label": ("sample", [1, 2])}).to_netcdf(folder / "netcdf.h5", engine="h5netcdf")
    with h5py.File(folder / "odd.h5", "w") as file:
        file.attrs["nothing"] = h5py.Empty("f4")
        file.attrs["place"] = file.ref
        file.attrs["pair"] = np.zeros((), dtype=[("a", "i4"), ("b", "S3")])
        file.attrs["text"] = "variable length"
        bits = h5py.h5t.STD_B8LE
        h5py.h5a.create(file.id, b"bits", bits, h5py.h5s.create(h5py.h5s.SCALAR))
    (folder / "store.nc").write_bytes((folder / "netcdf.h5").read_bytes())
    names = [path.name for path in folder.iterdir()]
    return {name: folder / name for name in names} | {
        "missing": folder / "missing.zarr",
        "nobody's home": "~nobody-of-that-name/store.zarr",
        "remote": "s3://bucket/store.zarr",
        "bytes": b"\x89HDF\r\n\x1a\n",
        "number": 5,
    }


def test_files_of_other_programs_are_not_guessed(tmp_path: Path) -> None:
    backend = ArraystoreBackend()
    found = {name: backend.guess_can_open(other) for name, other in others(tmp_path).items()}
    assert len(found) == 17
    assert not any(found.values()), found


def test_other_zarr_groups_are_opened_by_zarr(tmp_path: Path) -> None:
    path = tmp_path / "other.zarr"
    xr.Dataset({"label": ("sample", [1, 2])}).to_zarr(path, zarr_format=3, consolidated=False)
    assert xr.open_dataset(path, consolidated=False).label.values.tolist() == [1, 2]


def test_file_object_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a path, a URL or an obstore store"):
        xr.open_dataset(io.BytesIO(), engine="arraystore")


@pytest.mark.parametrize("group", ["/", "train"])
def test_dataset_can_be_written_as_netcdf(group: str, path: Path, tmp_path: Path) -> None:
    dataset = xr.open_dataset(path, engine="arraystore", group=group, drop_variables="image_bytes")
    dataset.to_netcdf(tmp_path / "copy.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "copy.nc", engine="h5netcdf") as copy:
        assert copy.equals(dataset)
        assert copy.attrs.keys() == dataset.attrs.keys()


@pytest.mark.parametrize("chunks", [{}, {"sample": 10}], ids=str)
@pytest.mark.parametrize("suffix", [*SUFFIXES, "bucket"])
def test_chunked_dataset_reads_what_it_needs(
    suffix: str, chunks: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_rows(monkeypatch, 8)
    monkeypatch.setattr(column_reader, "WHOLE_SAMPLES", 0)  # as in a split of many samples
    names, images = [f"{i}.jpg" for i in range(64)], [picture(seed=i) for i in range(64)]
    place: Any = tmp_path / f"a{suffix if suffix in SUFFIXES else '.zarr'}"
    write_store(place, names, [i % 4 for i in range(64)], images, classes="abcd")
    arraystore.add_column(place, "train", "score", np.arange(64.0))
    some, train = slice(17, 23), arraystore.open(place)["train"]
    expected = {name: np.asarray(getattr(train, name)[some]) for name in COLUMNS}
    expected["label_name"] = np.array(["abcd"[k] for k in train.label[some]])
    encoded, nbytes = train.image_bytes[some], int(train.image_nbytes[some].sum())
    bucket = Bucket()
    if suffix not in SUFFIXES:
        monkeypatch.setattr(connection, "connect_memory", lambda: bucket)
        for key, data in objects_on_disk(place).items():
            bucket.put(key, data)
        place = "memory://a.zarr"
    ds = xr.open_dataset(place, engine="arraystore", group="train", chunks=chunks)

    rows, positions = recorded(monkeypatch)
    bucket.calls.clear()
    for name, values in expected.items():
        assert ds[name].isel(sample=some).values.tolist() == values.tolist()
    assert ds.score.isel(sample=some).values.tolist() == [*range(17, 23)]
    rows.discard(("label_indptr", 0))
    assert rows == {(name, 16) for name in COLUMNS}
    assert positions == []
    assert ds.image_bytes.isel(sample=some).values.tolist() == encoded
    assert sorted(positions) == [*range(17, 23)]
    assert rows >= {("image_start", 16)}
    assert {start for name, start in rows if name != "label_indptr"} == {16}

    spans = [keys["options"]["range"] for _, key, keys in bucket.calls if "payload" in str(key)]
    assert sum(stop - start for start, stop in spans) == (nbytes if bucket.calls else 0)
    whole = "payload", "indptr", "a.zarr/label_"
    read = {key for key in bucket.keys_of("get") if not any(name in key for name in whole)}
    assert all(key.endswith("/c/2") for key in read)
    assert not bucket.calls or "a.zarr/train/columns/score/c/2" in read


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pixels_in_bucket_need_their_images_only(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"a{suffix}"
    names, images = [f"{i}.jpg" for i in range(64)], [picture(seed=i) for i in range(64)]
    train = arraystore.open(write_store(folder, names, [0] * 64, images, classes="a"))["train"]
    bucket = Bucket()
    for key, data in objects_on_disk(folder).items():
        bucket.put(key, data)
    monkeypatch.setattr(connection, "connect_memory", lambda: bucket)
    remote = arraystore.open(f"memory://{folder.name}", max_gap=0)["train"]
    ds = remote.to_xarray(size=8, chunks={})
    ds.image[:1].load()
    some = [40, 3, 21]
    for found, wanted in (
        (ds.image.isel(sample=slice(3, 41, 18)), slice(3, 41, 18)),
        (remote.select(some).to_xarray(size=8, chunks={}).image, some),
        (remote.to_xarray(size=8).image.isel(sample=some).chunk(), some),
    ):
        bucket.calls.clear()
        assert np.array_equal(found, train.resized(8)[wanted])
        spans = [keys["options"]["range"] for method, _, keys in bucket.calls if method == "get"]
        assert sorted(b - a for a, b in spans) == sorted(train.image_nbytes[wanted])


def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[set[tuple[str, int]], list[int]]:
    """Record the name and first row of the chunks of columns, and the positions of images, read."""
    rows: set[tuple[str, int]] = set()
    positions: list[int] = []
    for reader in (ZarrReader, HDF5Reader):

        def read_rows(self: Any, chunks: Any, real: Any = reader.read_rows) -> Any:
            named = ((path.partition("/")[2], bounds) for path, _, bounds in chunks)
            rows.update((name, bounds[0]) for name, bounds in named if bounds)  # not whole ones
            return real(self, chunks)

        monkeypatch.setattr(reader, "read_rows", read_rows)
    real_copies = StoredSplit.copies

    def copies(self: StoredSplit, some: ImageRows) -> list[bytes]:
        positions.extend(some.positions.tolist())
        return real_copies(self, some)

    monkeypatch.setattr(StoredSplit, "copies", copies)
    return rows, positions
