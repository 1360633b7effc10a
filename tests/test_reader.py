"""Stores and splits: content, selections, iteration, pickling, threads and forks."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import arraystore
from arraystore._checksum import crc32c
from arraystore._threads import Task
from arraystore.errors import ChecksumError, FormatError, StorageError, StoreChangedError
from arraystore.indexing.byte_range import ByteRange
from arraystore.indexing.layout import content_digest
from arraystore.schema import COLUMNS, STRING
from arraystore.storage import open_files
from arraystore.storage.range_reader import LocalReader
from tests.indexing.test_selection import selections
from tests.support import SUFFIXES, copied, count_reads, no_threads_are_left, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from arraystore.cli.synthetic_archives import DrawnArchives

N_TRAIN = 30
SIZE = (20, 30)
PATIENCE = 60
"""Seconds to wait for the result of a child process."""

named = pytest.mark.parametrize
on_one_store = settings(
    deadline=None,
    max_examples=20,
    # The fixtures are never changed.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORMS: dict[str, Callable[[arraystore.Split], Any]] = {
    "image": lambda split: split.image,
    "image_bytes": lambda split: split.image_bytes,
    "resized": lambda split: split.resized(SIZE),
    "samples": lambda split: split,
}
every_form = named("form", FORMS.values(), ids=FORMS)


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    """A copy of the store at `path`, to be changed."""
    target = tmp_path / path.name
    copied(path, target)
    return target


def pillow(data: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def stored_files(store: Path) -> list[Path]:
    return [file for file in (store, *store.rglob("*")) if file.is_file()]


def flip_bit(store: Path, encoded: bytes, position: int) -> None:
    """Flip a bit of the byte at `position` of an encoded image, in the file that has it."""
    (file,) = (file for file in stored_files(store) if encoded in file.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.index(encoded) + position % len(encoded)] ^= 0x10
    file.write_bytes(data)


def converted_folder(folder: Path, suffix: str, files: dict[str, bytes]) -> Path:
    """Convert files, by their paths split/class/name, in the order of the paths."""
    source = write_folder(folder / "source", files)
    target = folder / f"store{suffix}"
    arraystore.convert(f"folder:{source}", target, order="source", sync=False)
    return target


# Content


@named("split", ["train", "validation"])
def test_image_bytes_match_source(
    store: arraystore.Store, drawn: DrawnArchives, split: str
) -> None:
    source = drawn.train | drawn.validation
    stored = dict(zip(store[split].file_name, store[split].image_bytes[:], strict=True))
    assert set(stored) == set(drawn.train if split == "train" else drawn.validation)
    differing = {name for name, data in stored.items() if data != source[name]}
    assert differing == ({drawn.cmyk, drawn.png} if split == "train" else set())


def test_pixels_match_pillow(train: arraystore.Split) -> None:
    expected = list(map(pillow, train.image_bytes[:]))
    for found, wanted in zip(train.image[:], expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_resized_scales_largest_centred_region(train: arraystore.Split) -> None:
    height, width = 150, 200  # large enough to be decoded in full
    for pixels, whole in zip(train.resized((height, width))[:], train.image[:], strict=True):
        wanted = ImageOps.fit(Image.fromarray(whole), (width, height), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pixels, np.asarray(wanted))


def test_labels_match_file_names(train: arraystore.Split) -> None:
    names = [name.split("_")[0] for name in train.file_name]
    assert [train.label_names[label] for label in train.label] == names


def test_sizes_and_checksums_match_images(train: arraystore.Split) -> None:
    encoded, pixels = train.image_bytes[:], train.image[:]
    assert train.image_nbytes.tolist() == list(map(len, encoded))
    assert train.image_height.tolist() == [image.shape[0] for image in pixels]
    assert train.image_width.tolist() == [image.shape[1] for image in pixels]
    assert train.image_crc32c.tolist() == list(map(crc32c, encoded))


@pytest.fixture(scope="module", params=SUFFIXES)
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[bytes]]]:
    """A store of several chunks and two shards, and its images: some far larger than a chunk."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0)
    tails = [noise.bytes(n * 2**20) for n in (0, 33, 32, 3, 0)]
    images = [picture(seed=i) + tail for i, tail in enumerate(tails)]
    files = {f"train/a/{i}.jpg": data for i, data in enumerate(images)}
    yield converted_folder(folder, request.param, files), images
    shutil.rmtree(folder)


@named("selection", [slice(None), [3, 1], [2], [4, 2, 4], slice(None, None, -1)], ids=repr)
def test_images_across_chunks_and_shards(large: tuple[Path, list[bytes]], selection: Any) -> None:
    path, images = large
    expected = [images[i] for i in np.arange(len(images))[selection]]
    assert arraystore.open(path, checksum="always")["train"].image_bytes[selection] == expected


@named("selection", [[1], [3, 0], slice(1, 3), [4]], ids=repr)
def test_only_needed_bytes_across_chunks_and_shards(
    large: tuple[Path, list[bytes]], selection: Any
) -> None:
    path, _ = large
    train = arraystore.open(path)["train"]
    reads = count_reads(train)
    assert sum(map(len, train.image_bytes[selection])) == reads.nbytes


# Selections


@every_form
@on_one_store
@given(selection=selections(N_TRAIN))
def test_image_selection_matches_numpy(
    train: arraystore.Split, form: Callable[[arraystore.Split], Any], selection: Any
) -> None:
    found = form(train)[selection]
    numbers = np.arange(N_TRAIN)[selection].tolist()
    if isinstance(found, arraystore.Batch):
        assert found.label.tolist() == [train.label[i] for i in numbers]
        assert found.file_name.tolist() == [train.file_name[i] for i in numbers]
        found, form = found.image, FORMS["image"]
    assert len(found) == len(numbers)
    for one, number in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(one, form(train)[number])


@on_one_store
@given(selection=selections(N_TRAIN))
def test_image_bytes_keep_order(
    train: arraystore.Split, drawn: DrawnArchives, selection: Any
) -> None:
    names = train.file_name[np.arange(N_TRAIN)[selection]]
    kept = [drawn.train[name] for name in names if name not in (drawn.cmyk, drawn.png)]
    found = zip(names, train.image_bytes[selection], strict=True)
    assert [data for name, data in found if name not in (drawn.cmyk, drawn.png)] == kept


@every_form
@named("index", [0, N_TRAIN - 1, -1, -N_TRAIN, np.int8(-3), np.uint64(7), np.array(5)], ids=repr)
def test_integer_selects_one_and_list_several(
    train: arraystore.Split, form: Callable[[arraystore.Split], Any], index: Any
) -> None:
    one, many = form(train)[index], form(train)[[int(index)]]
    if isinstance(one, arraystore.Sample):
        assert one.file_name == many.file_name[0] == train.file_name[index]
        assert one.label == many.label[0] == train.label[index]
        one, many = one.image, many.image
    assert len(many) == 1
    np.testing.assert_array_equal(one, many[0])


REFUSED = [N_TRAIN, -N_TRAIN - 1, [0, N_TRAIN], [True] * (N_TRAIN + 1), [1.0], "1", None, (1, 2)]


@every_form
@named("selection", REFUSED, ids=repr)
def test_invalid_selection_raises(
    train: arraystore.Split, form: Callable[[arraystore.Split], Any], selection: Any
) -> None:
    with pytest.raises(IndexError):
        form(train)[selection]


# Types


def test_sample_types(train: arraystore.Split) -> None:
    image, label, file_name = train[5]
    assert image.dtype == np.uint8
    assert image.shape == (train.image_height[5], train.image_width[5], 3)
    assert (type(label), type(file_name)) == (int, str)
    assert train[5]._fields == ("image", "label", "file_name")


def test_batch_types(train: arraystore.Split) -> None:
    batch = train[3:7]
    assert type(batch.image) is list
    assert [image.dtype for image in batch.image] == [np.uint8] * 4
    assert [image.shape[2:] for image in batch.image] == [(3,)] * 4
    assert batch.label.dtype == np.int64
    assert batch.file_name.dtype == np.dtypes.StringDType()
    assert batch.label.shape == batch.file_name.shape == (4,)


@named("size", [24, (24, 32), np.int64(24), (np.int64(24), np.int64(32))], ids=repr)
def test_resized_is_one_array(train: arraystore.Split, size: Any) -> None:
    width = 24 if np.ndim(size) == 0 else 32
    many, one = train.resized(size)[:3], train.resized(size)[0]
    assert many.dtype == one.dtype == np.uint8
    assert many.shape == (3, 24, width, 3)
    assert many.base is None
    assert one.shape == (24, width, 3)


@named("size", [0, -1, (0, 5), (5, 0)], ids=repr)
def test_resized_invalid_size_raises(train: arraystore.Split, size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size must be 1 or more, got "):
        train.resized(size)


def test_batch_states_its_number_of_samples(train: arraystore.Split) -> None:
    assert train[:5].num_samples == 5
    assert train[[]].num_samples == 0
    assert [batch.num_samples for batch in train.batches(7, size=8)] == [7, 7, 7, 7, 2]


def test_empty_selection_is_empty_batch(train: arraystore.Split) -> None:
    batch = train[0:0]
    assert batch.image == train.image[[]] == train.image_bytes[0:0] == []
    assert batch.label.dtype == np.int64
    assert batch.label.shape == batch.file_name.shape == (0,)
    assert train.resized(SIZE)[0:0].shape == (0, *SIZE, 3)


@named("split", ["train", "train[:10%]", "train[3:4]+validation"])
@named("column", [name for name, column in COLUMNS.items() if column.dimension == "sample"][1:])
def test_column_is_read_only_and_typed(store: arraystore.Store, split: str, column: str) -> None:
    values = getattr(store[split], column)
    is_text = COLUMNS[column].data_type == STRING
    assert values.dtype == (np.dtypes.StringDType() if is_text else COLUMNS[column].data_type)
    assert values.shape == (len(store[split]),)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = values[1]


@named("column", COLUMNS)
def test_shared_columns_are_read_only(store: arraystore.Store, column: str) -> None:
    assert not store.stored("train").columns[column].flags.writeable


@named("form", [lambda split: split, lambda split: split.image, lambda split: split.resized(8)])
def test_split_is_not_converted_to_array(
    train: arraystore.Split, form: Callable[[arraystore.Split], Any]
) -> None:
    with pytest.raises(TypeError, match="not converted to an array"):
        np.asarray(form(train))


# Cost


NEAR = [[5, 3, 4], [3, 3, 1], [0, 2], [7, 9, 7, 9], slice(4, 9), slice(20, 10, -3), 7, -1, []]


@every_form
@named("selection", NEAR, ids=repr)
def test_only_needed_bytes_are_read_once(
    train: arraystore.Split, form: Callable[[arraystore.Split], Any], selection: Any
) -> None:
    reads = count_reads(train)
    form(train)[selection]
    wanted = np.unique(np.arange(N_TRAIN)[selection])
    assert reads.nbytes == train.image_nbytes[wanted].sum()


def test_touching_images_are_one_read(train: arraystore.Split) -> None:
    reads = count_reads(train)
    _ = train.image_bytes[[5, 3, 4, 8]]
    assert len(reads.ranges) == 2


def test_columns_are_read_without_images(train: arraystore.Split) -> None:
    reads = count_reads(train)
    _ = train.label, train.image_height, train.file_name, "x.jpg" in train, repr(train)
    assert reads.ranges == []


# Split strings


JOINED = {
    "train": (range(N_TRAIN), range(0)),
    "train[:10%]+validation": (range(3), range(20)),
    "train[20:]+validation[-2:]": (range(20, 30), range(18, 20)),
    "train[:0]+validation": (range(0), range(20)),
    "train[25%:75%]+validation[:0]": (range(8, 22), range(0)),
}
every_split = named("text", JOINED)


@every_split
def test_split_string_joins_columns(store: arraystore.Store, text: str) -> None:
    first, second = JOINED[text]
    split, train, validation = store[text], store["train"], store["validation"]
    assert len(split) == len(first) + len(second)
    for column in ("label", "file_name", "image_nbytes"):
        parts = getattr(train, column)[first], getattr(validation, column)[second]
        np.testing.assert_array_equal(getattr(split, column), np.concatenate(parts))


@every_split
@on_one_store
@given(data=st.data())
def test_split_string_joins_images(store: arraystore.Store, text: str, data: st.DataObject) -> None:
    first, second = JOINED[text]
    selection = data.draw(selections(len(first) + len(second)))
    whole = store["train"].image_bytes[first] + store["validation"].image_bytes[second]
    numbers = np.arange(len(whole))[selection]
    assert store[text].image_bytes[selection] == [whole[i] for i in numbers]


def test_joined_splits_may_repeat_and_interleave(store: arraystore.Store) -> None:
    train, validation = store["train"].file_name, store["validation"].file_name
    split = store["validation[1:2]+train[5:7]+validation[:2]+train[5:6]"]
    expected = [validation[1], train[5], train[6], validation[0], validation[1], train[5]]
    assert [sample.file_name for sample in split] == expected
    assert split[[5, 1, 0]].file_name.tolist() == [train[5], train[5], validation[1]]


def test_positions_are_of_stored_split(store: arraystore.Store) -> None:
    found = store["train[10:20]"].positions
    np.testing.assert_array_equal(found, np.arange(10, 20))
    assert found.dtype == np.int64


def test_positions_of_joined_splits_raise(store: arraystore.Store) -> None:
    with pytest.raises(ValueError, match="joins several stored splits"):
        _ = store["train[:10%]+validation"].positions


def test_empty_split(store: arraystore.Store) -> None:
    split = store["train[:0]"]
    assert (len(split), list(split), split[:].image) == (0, [], [])
    with pytest.raises(IndexError, match="position 0 is out of bounds for 0 samples"):
        _ = split[0]


# The store


def test_store_is_mapping(store: arraystore.Store) -> None:
    assert list(store) == ["train", "validation"]
    assert (len(store), "train" in store, "test" in store) == (2, True, False)
    assert {name: len(split) for name, split in store.items()} == {"train": 30, "validation": 20}
    assert store.get("test") is None


def test_unknown_split_raises(store: arraystore.Store) -> None:
    with pytest.raises(KeyError, match="there is no split 'test'; there are train, validation"):
        _ = store["test"]


@named("index", [0, slice(3), ["train"], None], ids=repr)
def test_store_contains_no_samples(store: arraystore.Store, index: Any) -> None:
    with pytest.raises(TypeError, match=r"a store has splits, got .* store\['train'\]"):
        _ = store[index]


def test_info_matches_store(store: arraystore.Store, drawn: DrawnArchives) -> None:
    info = store.info
    assert info.full_name == "imagenet2012_subset/1pct:5.0.0"
    assert (info.name, info.config, info.version) == ("imagenet2012_subset", "1pct", "5.0.0")
    assert info.partial is True
    assert set(info.reencoded) == {drawn.cmyk, drawn.png}
    assert len(info.label_names) == len(info.label_words) == 1000
    assert info.citation.lstrip().startswith("@")
    assert (info.format_version, info.writer) == ("1.1", f"arraystore {arraystore.__version__}")


@named("split", ["train", "validation"])
def test_split_info_matches_columns(store: arraystore.Store, split: str) -> None:
    info, samples = store.info.splits[split], store[split]
    assert info.num_samples == len(samples)
    assert info.num_bytes == samples.image_nbytes.sum()
    digest = content_digest(
        samples.file_name.tolist(), samples.label, samples.image_nbytes, samples.image_crc32c
    )
    assert info.content_digest == digest


def test_repr_has_address_and_counts(store: arraystore.Store, path: Path) -> None:
    assert all(text in repr(store) for text in (str(path), "train (30", "validation (20"))
    assert all(text in repr(store["train[:10%]"]) for text in (str(path), "train[:10%]", "3 s"))
    assert "train: 30, validation: 20" in repr(store.info)


def test_repr_of_samples_and_batches_has_shapes_and_no_pixels(train: arraystore.Split) -> None:
    sample, batch = train[5], train.batches(8, size=32, crop="random", views=2)
    assert repr(sample) == (
        f"<Sample: image uint8 {sample.image.shape}, label {sample.label}, "
        f"file_name {sample.file_name!r}>"
    )
    assert repr(train[:4]) == "<Batch of 4 samples: image list, label, file_name>"
    assert repr(next(iter(batch))) == (
        "<Batch of 8 samples: image uint8 (2, 8, 32, 32, 3), label, file_name>"
    )


def test_open_accepts_text_url_and_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    stores = [arraystore.open(text) for text in (str(path), f"file://{path}", f"~/{path.name}")]
    assert {store.address for store in stores} == {str(path)}


def test_unknown_checksum_option_raises(path: Path) -> None:
    with pytest.raises(ValueError, match="checksum must be one of auto, always, got 'never'"):
        arraystore.open(path, checksum="never")


# Classes and file names


def test_int2str_and_str2int(train: arraystore.Split) -> None:
    for label in {*train.label.tolist(), 0, 999}:
        assert train.str2int(train.int2str(label)) == label
    assert train.int2str(int(train.label[3])) == train.file_name[3].split("_")[0]


@named("label", [-1, 1000])
def test_int2str_out_of_range_raises(store: arraystore.Store, label: int) -> None:
    with pytest.raises(ValueError, match=rf"label {label} is not in range\(1000\)"):
        store.int2str(label)


def test_str2int_unknown_raises(
    store: arraystore.Store,
) -> None:
    with pytest.raises(KeyError, match=r"there is no class 'n0144076'; did you mean .*n01440764"):
        store.str2int("n0144076")


def test_split_contains_file_names(train: arraystore.Split) -> None:
    assert train.file_name[3] in train
    assert "ILSVRC2012_val_00000001.JPEG" not in train
    assert str(train.file_name[3])[:-1] not in train


@named("name", ["", "\0", "n01440764_1.JPEG\0", "\ud800.jpg"], ids=ascii)
def test_split_does_not_contain_invalid_name(train: arraystore.Split, name: str) -> None:
    assert name not in train


@named("thing", [5, None, b"n01440764_1.JPEG"], ids=repr)
def test_split_contains_wrong_type_raises(train: arraystore.Split, thing: object) -> None:
    with pytest.raises(TypeError, match="a split contains file names, got "):
        _ = thing in train


# Iteration


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make iteration read four samples at a time, so that a small split has many groups."""
    monkeypatch.setattr("arraystore.dataset.sample_reader._READ_AHEAD", 4)


@named("text", ["train", "train[3:9]", "train[:5]+validation[-6:]"])
def test_iteration_keeps_order(store: arraystore.Store, small_groups: None, text: str) -> None:
    split = store[text]
    samples = list(split)
    assert [sample.file_name for sample in samples] == split.file_name.tolist()
    assert [sample.label for sample in samples] == split.label.tolist()
    for sample, image in zip(samples, split.image[:], strict=True):
        np.testing.assert_array_equal(sample.image, image)


def test_two_iterations_are_independent(train: arraystore.Split, small_groups: None) -> None:
    pairs = [(one.file_name, other.file_name) for one, other in zip(train, train, strict=True)]
    assert pairs == [(name, name) for name in train.file_name]


@named("n", [1, 4, 5, N_TRAIN])
def test_iteration_leaves_no_thread(train: arraystore.Split, small_groups: None, n: int) -> None:
    for number, _ in enumerate(train, 1):
        if number == n:
            break
    assert no_threads_are_left()


def test_error_in_loop_leaves_no_thread(train: arraystore.Split, small_groups: None) -> None:
    def fail() -> None:
        for _ in train:
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert no_threads_are_left()


def test_abandoned_iteration_has_limited_lead(train: arraystore.Split, small_groups: None) -> None:
    reads = count_reads(train)
    for _ in train:
        break
    assert reads.nbytes <= train.image_nbytes[:12].sum()


def test_iteration_reads_two_groups_ahead(
    train: arraystore.Split, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[object] = []

    class Noted(Task[Any]):
        def __init__(self, *arguments: Any) -> None:
            tasks.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr("arraystore.reading.read_ahead.Task", Noted)
    ahead = [len(tasks) - number // 4 - 1 for number, _ in enumerate(train)]
    assert max(ahead) == 2


def test_damaged_image_ends_iteration(copy: Path, small_groups: None) -> None:
    train = arraystore.open(copy)["train"]
    expected = train.file_name[:18].tolist()
    flip_bit(copy, train.image_bytes[17], 300)
    iteration = iter(arraystore.open(copy)["train"])
    names = [next(iteration).file_name for _ in range(16)]
    assert names == expected[:16]
    with pytest.raises(ChecksumError, match=expected[17]):
        next(iteration)


@named("indices", [[3, 1, 3], [], range(2, 9, 3), [-1], [np.int64(4)]], ids=repr)
def test_getitems_keeps_order(train: arraystore.Split, indices: Any) -> None:
    samples = train.__getitems__(indices)
    assert [type(sample) for sample in samples] == [arraystore.Sample] * len(indices)
    assert [sample.file_name for sample in samples] == [train.file_name[i] for i in indices]


# Pickles


@every_split
def test_pickled_split_is_small(store: arraystore.Store, text: str) -> None:
    split = store[text]
    _ = split.label, split.image_bytes[:3]
    data = pickle.dumps(split)
    assert len(data) < 1000
    back = pickle.loads(data)
    assert (back.name, len(back)) == (split.name, len(split))
    assert back.image_bytes[::3] == split.image_bytes[::3]


def test_relative_path_is_resolved(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    store = arraystore.open(path.name)
    data = pickle.dumps(store["train"])
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).image_bytes[2] == store["train"].image_bytes[2]


def test_pickled_store_keeps_checksum_option(copy: Path) -> None:
    train = arraystore.open(copy)["train"]
    flip_bit(copy, train.image_bytes[2], 300)
    strict = pickle.loads(pickle.dumps(arraystore.open(copy, checksum="always")))
    with pytest.raises(ChecksumError):
        _ = strict["train"].image_bytes[2]


# Forks and threads


# Python 3.12 and later warn when a process that has threads forks: a child may wait for a lock
# that a thread held. These tests show that it does not.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_forked_child(act: Callable[[], bytes]) -> bytes:
    """Return what `act` returns in a forked child."""

    def answer(connection: Connection) -> None:
        connection.send_bytes(act())

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(sender,))
    child.start()
    sender.close()
    try:
        assert receiver.poll(PATIENCE), "the child hangs"
        return receiver.recv_bytes()
    finally:
        child.kill()
        child.join(PATIENCE)


def digest(images: list[NDArray[np.uint8]]) -> bytes:
    return sha256(b"".join(image.tobytes() for image in images)).digest()


@forks
@named("text", ["train", "validation"])
def test_forked_child_reads(store: arraystore.Store, text: str) -> None:
    expected = digest(arraystore.open(store.address)[text].image[:])
    _ = store["train"].image[:]  # validation stays untouched
    assert in_forked_child(lambda: digest(store[text].image[:])) == expected
    assert digest(store[text].image[:]) == expected


@forks
def test_forked_child_iterates(train: arraystore.Split) -> None:
    expected = digest([sample.image for sample in train])
    assert in_forked_child(lambda: digest([sample.image for sample in train])) == expected


@forks
def test_fork_while_opening_a_file(train: arraystore.Split) -> None:
    expected = digest(train.image[:5])
    with open_files._open_files._lock:
        found = in_forked_child(lambda: digest(train.image[:5]))
    assert found == expected


@every_form
def test_threads_share_new_store(path: Path, form: Callable[[arraystore.Split], Any]) -> None:
    known = form(arraystore.open(path)["train"])
    rng = np.random.default_rng(0)
    wanted = [rng.integers(0, N_TRAIN, 6) for _ in range(16)]
    expected = [pickle.dumps(known[positions]) for positions in wanted]
    store, barrier = arraystore.open(path), threading.Barrier(16, timeout=PATIENCE)

    def read(positions: NDArray[np.int64]) -> bytes:
        barrier.wait()
        return pickle.dumps(form(store["train"])[positions])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, wanted)) == expected


# Descriptors


def open_descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/dev/fd").iterdir()]


@pytest.fixture
def n_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Limit the files that this process may open; the value is the limit."""
    monkeypatch.setattr(open_files, "_open_files", open_files._OpenFiles())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 2 * max(open_descriptors()) + 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def many_ranges(n_descriptors: int, tmp_path: Path) -> list[ByteRange]:
    """Ranges of files in `tmp_path`, each with its name in it, more than may be open."""
    names = [f"{i:05d}" for i in range(n_descriptors + 50)]
    for name in names:
        (tmp_path / name).write_text(f"is {name}")
    return [ByteRange(name, 3, 8) for name in names]


def test_many_files_are_read_one_by_one(many_ranges: list[ByteRange], tmp_path: Path) -> None:
    reader = LocalReader(tmp_path)
    found = [bytes(data) for wanted in many_ranges for data in reader.read_ranges([wanted])]
    assert found == [wanted.key.encode() for wanted in many_ranges]


def test_many_files_are_read_at_once(many_ranges: list[ByteRange], tmp_path: Path) -> None:
    found = LocalReader(tmp_path).read_ranges(many_ranges)
    assert list(map(bytes, found)) == [wanted.key.encode() for wanted in many_ranges]


def test_half_of_descriptors_stay_free(
    many_ranges: list[ByteRange], tmp_path: Path, n_descriptors: int
) -> None:
    before = len(open_descriptors())
    reader = LocalReader(tmp_path)
    for wanted in many_ranges:
        reader.read_ranges([wanted])
    assert len(open_descriptors()) - before <= n_descriptors // 2


# Stores that change


@named("used", ["label", "image_bytes"])
def test_replaced_store_raises(copy: Path, drawn: DrawnArchives, used: str) -> None:
    train = arraystore.open(copy)["train"]
    _ = getattr(train, used)[0]
    arraystore.convert(
        "imagenet2012_subset/1pct",
        copy,
        manual_dir=drawn.folder,
        partial=True,
        order="source",
        overwrite=True,
        sync=False,
    )
    with pytest.raises(StorageError, match="has changed since the store was opened"):
        _ = train[3]


def test_deleted_store_raises(copy: Path) -> None:
    train = arraystore.open(copy)["train"]
    _ = train.image_bytes[0]
    shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    with pytest.raises(StoreChangedError, match=rf"{copy.name}.*: no longer exists"):
        _ = train.image_bytes[1]


def test_missing_root_of_open_store_raises(copy: Path) -> None:
    train = arraystore.open(copy)["train"]
    _ = train.image_bytes[0]
    (copy / "zarr.json" if copy.is_dir() else copy).unlink()
    with pytest.raises(StoreChangedError, match=copy.name):
        _ = train.label
    with pytest.raises(StoreChangedError, match=copy.name):
        list(train.batches(4))


@pytest.fixture(params=[0, 1000, -1], ids=["first byte", "byte 1000", "last byte"])
def damaged(request: pytest.FixtureRequest, copy: Path) -> tuple[Path, int]:
    """A store with a bit of one image flipped, and the position of that image."""
    flip_bit(copy, arraystore.open(copy)["train"].image_bytes[11], request.param)
    return copy, 11


@named("form", [FORMS["samples"], FORMS["image"], FORMS["resized"]], ids=["[]", "image", "resized"])
@named("selection", [lambda i: i, lambda i: [i - 1, i], lambda i: slice(None)])
def test_flipped_bit_raises_when_decoded(
    damaged: tuple[Path, int],
    form: Callable[[arraystore.Split], Any],
    selection: Callable[[int], Any],
) -> None:
    path, position = damaged
    train = arraystore.open(path)["train"]
    place = rf"{path}/train: '{train.file_name[position]}' \(position {position}\): crc32c must be"
    with pytest.raises(ChecksumError, match=place):
        form(train)[selection(position)]


def test_flipped_bit_passes_in_unchecked_bytes(
    damaged: tuple[Path, int],
) -> None:
    path, position = damaged
    train = arraystore.open(path)["train"]
    assert crc32c(train.image_bytes[position]) != train.image_crc32c[position]


def test_flipped_bit_raises_with_checksum_always(
    damaged: tuple[Path, int],
) -> None:
    path, position = damaged
    train = arraystore.open(path, checksum="always")["train"]
    with pytest.raises(ChecksumError, match=str(train.file_name[position])):
        _ = train.image_bytes[position - 3 : position + 3]


def test_other_images_of_damaged_store_are_read(damaged: tuple[Path, int]) -> None:
    path, position = damaged
    train = arraystore.open(path, checksum="always")["train"]
    others = np.delete(np.arange(N_TRAIN), position)
    assert list(map(len, train.image[others])) == train.image_height[others].tolist()


@named("suffix", SUFFIXES)
def test_undecodable_image_raises_with_name(suffix: str, tmp_path: Path) -> None:
    files = {"train/a/cut.jpg": picture(200, 300)[:-4000], "train/a/whole.jpg": picture()}
    path = converted_folder(tmp_path, suffix, files)
    train = arraystore.open(path)["train"]
    assert train.image_bytes[0] == files["train/a/cut.jpg"]
    with pytest.raises(FormatError, match=rf"{path}/train: 'a/cut.jpg' .*: cannot be decoded"):
        _ = train[:]


@named("nbytes", [0, 100])
def test_truncated_document_raises(copy: Path, nbytes: int) -> None:
    if copy.is_file():
        pytest.skip("has no documents")
    document = copy / "zarr.json"
    document.write_bytes(document.read_bytes()[:nbytes])
    message = f"zarr.json: must be JSON, but ends after {nbytes} bytes; the file is"
    with pytest.raises(FormatError, match=message):
        arraystore.open(copy)
