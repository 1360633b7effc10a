"""Hostile input of every kind, made by hypothesis, and what is done with it."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from hypothesis import strategies as st

import arraystore
from arraystore.dataset.saved_selection import SavedSelection
from arraystore.errors import ArrayStoreError
from arraystore.images.decode import decode
from arraystore.images.probe import probe
from arraystore.indexing.selection import as_positions, parse_split_string
from arraystore.integrations.export import export
from arraystore.writing.progress import Meter
from tests.images.encoded_images import EVERY, FRAME, JPEG, PNG
from tests.soak.judge import only_documented, scratch, use, whole_store
from tests.sources.test_tar import END, block, extended, tar_of, walk_bytes
from tests.support import write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Changes = list[tuple[int, int]]


class Fuzz(NamedTuple):
    """A kind of input, and what raises if it is not taken as it should be."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], object]


def damaged(data: bytes, changes: Changes, cut: float) -> bytes:
    """Change bytes at places, and cut the end."""
    some = bytearray(data)
    for place, value in changes:
        some[place % len(some)] = value
    return bytes(some[: int(len(some) * cut)])


changes = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4)
cuts = st.just(1.0) | st.floats(0, 1)

# Archives

headers = st.builds(
    block,
    st.binary(max_size=100),
    size=st.sampled_from([b"00000000000\0", b"00000000005\0", b"77777777777\0"])
    | st.binary(min_size=11, max_size=11).map(lambda number: b"\x80" + number)
    | st.binary(min_size=12, max_size=12),
    kind=st.sampled_from([b"0", b"\0", b"L", b"K", b"x", b"g", b"5", b"2", b"S"]),
    magic=st.sampled_from([b"ustar\x0000", b"ustar  \0", b""]),
    prefix=st.binary(max_size=167),
)
extensions = st.builds(
    extended,
    st.sampled_from([b"L", b"x", b"g"]),
    st.binary(max_size=600)
    | st.from_regex(rb"[0-9]{1,8} (path|size|GNU\.sparse\.x)=.{0,30}\n", fullmatch=True),
)
ARCHIVE = tar_of([("d/é" + "x" * 80, b"x" * 9), ("d/" * 75 + "f", b"y" * 600), ("e", b"")])
archives = (
    st.lists(headers | extensions | st.binary(max_size=512), max_size=6).map(b"".join)
    | st.builds(damaged, st.just(ARCHIVE), changes, cuts)
).flatmap(lambda data: st.sampled_from([data, data + END]))


def check_archive(data: bytes) -> None:
    with only_documented():
        members = walk_bytes(data)
        for name, offset, nbytes in zip(
            members.names, members.offsets, members.nbytes, strict=True
        ):
            assert name
            assert 0 <= offset <= offset + nbytes <= len(data), "outside of the archive"


# Images

encoded_images = st.builds(
    damaged, st.sampled_from(sorted(EVERY)).map(lambda name: EVERY[name]), changes, cuts
) | st.builds(
    bytes.__add__,
    st.sampled_from([b"", b"\xff\xd8\xff", JPEG[:FRAME], PNG[:8], PNG[:33], b"RIFF", b"GIF89a"]),
    st.binary(max_size=500),
)


def check_image(data: bytes) -> None:
    header = None
    with only_documented(2**30):
        header = probe(lambda start, stop: data[start:stop], len(data))
    with only_documented(2**30):
        pixels = decode(data)
        assert header is not None, "decoded, but refused by the probe"
        assert pixels.shape == (header.height, header.width, 3)


# Zarr documents and HDF5 attributes

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([0, -1, 1, 2**31, 2**62, 2**63, 2**64, 10**30, "", "..", "\0", "\x1b[2J"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
GONE = object()


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside of a JSON value."""
    found = [at] if at else []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += places(inner, (*at, key))
    return found


def edits(document: Any) -> st.SearchStrategy[Any]:
    """Return documents in which some values are others, or gone."""
    edit = st.tuples(st.sampled_from(places(document)), values | st.just(GONE))
    return st.lists(edit, min_size=1, max_size=3).map(lambda some: edited(document, some))


def edited(document: Any, some: list[tuple[tuple[Any, ...], Any]]) -> Any:
    changed = copy.deepcopy(document)
    for at, value in some:
        node = changed
        try:
            for key in at[:-1]:
                node = node[key]
            if value is GONE:
                del node[at[-1]]
            else:
                node[at[-1]] = value
        except (LookupError, TypeError):
            pass  # an earlier edit has taken the place away
    return changed


ZARR_NODES = ["", "train", "train/image_payload", "train/label", "train/file_name", "label_name"]


def zarr_document(node: str) -> Any:
    path = whole_store(".zarr") / node / "zarr.json"
    document = json.loads(path.read_text())
    document.pop("consolidated_metadata", None)
    return document


def fresh(suffix: str) -> Path:
    """Copy the whole store to where it may be changed."""
    target = scratch() / f"changed{suffix}"
    if suffix == ".zarr":
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole_store(suffix), target)
    else:
        shutil.copy(whole_store(suffix), target)
    return target


zarr_documents = st.sampled_from(ZARR_NODES).flatmap(
    lambda node: st.tuples(
        st.just(node),
        edits(zarr_document(node)).map(lambda document: json.dumps(document).encode())
        | st.builds(damaged, st.just(json.dumps(zarr_document(node)).encode()), changes, cuts),
    )
)


def check_zarr(case: tuple[str, bytes]) -> None:
    node, document = case
    path = fresh(".zarr")
    if node:  # then nothing else may speak for it
        (path / "zarr.json").write_text(json.dumps(zarr_document("")))
    (path / node / "zarr.json").write_bytes(document)
    with only_documented():
        use(path)


H5_VALUES = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
    | st.binary(min_size=1, max_size=300).map(np.bytes_)
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).map(
        lambda text: np.bytes_(text.encode())
    )
    | st.lists(st.binary(min_size=1, max_size=9), max_size=5).map(lambda some: np.array(some, "S9"))
    | st.lists(st.integers(0, 2**32), max_size=5).map(np.array)
    | values.map(lambda value: np.bytes_(json.dumps(value).encode()))
    | st.sampled_from([h5py.Empty("i4"), "of variable length", np.zeros((2, 3)), np.complex64(1j)])
)


def attribute_names(group: str) -> list[str]:
    with h5py.File(whole_store(".h5")) as file:
        return [*file[group or "/"].attrs, "other"]


h5_attributes = st.sampled_from(["", "train", "train/image_payload"]).flatmap(
    lambda group: st.tuples(
        st.just(group),
        st.dictionaries(st.sampled_from(attribute_names(group)), H5_VALUES, min_size=1, max_size=3),
    )
)


def check_h5_attributes(case: tuple[str, dict[str, Any]]) -> None:
    group, attributes = case
    path = fresh(".h5")
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            try:
                file[group or "/"].attrs.create(name, value)
            except (OSError, TypeError, ValueError):
                return  # what HDF5 cannot hold is no input
    with only_documented():
        use(path)


# Selections


def selection_document() -> Any:
    file = scratch() / "selection.json"
    arraystore.open(whole_store(".h5"))["train"].select([3, 1]).selection().save(file)
    return json.loads(file.read_text())


selection_files = st.deferred(
    lambda: (
        edits(selection_document()).map(lambda document: json.dumps(document).encode())
        | st.builds(damaged, st.just(json.dumps(selection_document()).encode()), changes, cuts)
        | st.binary(max_size=200)
    )
)


def check_selection(data: bytes) -> None:
    file = scratch() / "fuzzed.json"
    file.write_bytes(data)
    with only_documented():
        assert len(SavedSelection.load(file)) >= 0
        train = arraystore.open(whole_store(".h5"))["train"]
        assert set(train.select(file).positions.tolist()) <= set(range(6)), "out of range"


split_strings = st.text(st.sampled_from("train+valid[]:%_-. 0123456789"), max_size=60) | st.builds(
    "{}[{}:{}]{}".format,
    st.sampled_from(["train", "test", "all", " train ", ""]),
    st.from_regex(r"-?[0-9_.]{0,6}%?", fullmatch=True),
    st.from_regex(r"-?[0-9_.]{0,6} ?%?", fullmatch=True),
    st.text(max_size=5),
)


def check_split_string(text: str) -> None:
    lengths = {"train": 25, "test": 4}
    with only_documented():
        for name, start, stop in parse_split_string(text, lengths):
            assert 0 <= start <= stop <= lengths[name], "outside of the split"


# Names, in a store that is exported

names = (
    st.text(st.sampled_from("./ab\\~\n\x1b\u202e"), min_size=1, max_size=12)
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
    | st.sampled_from(["..", "../x", "/etc/passwd", "a" * 256, "é" * 5000])
).filter(lambda name: ("\0" not in name and name.isascii()) or _is_text(name))


def _is_text(name: str) -> bool:
    try:
        return "\0" not in name and bool(name.encode())
    except UnicodeEncodeError:
        return False


def check_names(case: tuple[list[str], list[str]]) -> None:
    files, classes = case
    inner = scratch() / "jail"
    shutil.rmtree(inner, ignore_errors=True)
    (inner / "a" / "b").mkdir(parents=True)
    path = inner / "a" / "b" / "s.zarr"
    labels = [i % (len(classes) + 1) - 1 for i in range(len(files))]
    write_store(path, files, labels, classes=classes)
    before = {p for p in scratch().rglob("*") if path not in p.parents}
    out = inner / "a" / "b" / "out"
    with only_documented():
        export(arraystore.open(path)["train"], out, meter=Meter())
    after = {p for p in scratch().rglob("*") if path not in p.parents}
    made = after - before
    assert all(p == out or out in p.parents for p in made), "outside of the folder"


# What a caller gives: text that is quoted, and selections

given_texts = st.text(st.characters(), max_size=40) | st.builds(
    "{}{}{}".format,
    st.sampled_from(["train", "train[", "n", "0", "*", "s3://b/", "memory://", ""]),
    st.text(st.sampled_from("\x1b\0\n\r\x9b\u202e\u2066\u2028\ud800\udcff[]:+%/é"), max_size=20),
    st.sampled_from(["", "]", ".json", ".zarr", "/"]),
)
QUOTING: tuple[Callable[[arraystore.Store, str], object], ...] = (
    lambda store, text: store[text],
    lambda store, text: store["train"].where(label=text),
    lambda store, text: store["train"].where(file_name=text),
    lambda store, text: store["train"].find(text),
    lambda store, text: store["train"].select(text),
    lambda store, text: store["train"].batches(1, shuffle=text),
    lambda _, text: arraystore.open(text),
    lambda _, text: arraystore.open("http://h/a", storage_options={text: text}),
)


def check_message(text: str) -> None:
    store = arraystore.open(whole_store(".h5"))
    for quoting in QUOTING:
        try:
            shown = repr(quoting(store, text))
        except (ArrayStoreError, LookupError, OSError, ValueError) as error:
            shown = str(error)
        assert shown.isprintable(), "shows what a terminal would obey"


selections = st.lists(
    st.integers(-8, 8)
    | st.booleans()
    | st.sampled_from([np.True_, np.False_, np.int8(2), np.uint64(3), 10**30, 1.0, np.array(1)]),
    max_size=6,
)


def check_selected(selection: list[Any]) -> None:
    is_bool = [isinstance(value, bool | np.bool_) for value in selection]
    try:
        expected = np.arange(6)[selection].tolist()
    except IndexError:
        expected = None
    if any(is_bool) and not all(is_bool):
        expected = None
    try:
        found = as_positions(selection, 6).tolist()
    except IndexError:
        found = None
    assert found == (expected if selection else []), "not what NumPy selects"


FUZZED = {
    "tar archives": Fuzz(archives, check_archive),
    "images": Fuzz(encoded_images, check_image),
    "Zarr documents": Fuzz(st.deferred(lambda: zarr_documents), check_zarr),
    "HDF5 attributes": Fuzz(st.deferred(lambda: h5_attributes), check_h5_attributes),
    "selection files": Fuzz(selection_files, check_selection),
    "split strings": Fuzz(split_strings, check_split_string),
    "names to export": Fuzz(
        st.tuples(
            st.lists(names, min_size=1, max_size=4, unique=True),
            st.lists(names, min_size=1, max_size=3, unique=True),
        ),
        check_names,
    ),
    "texts that messages quote": Fuzz(given_texts, check_message),
    "lists that select": Fuzz(selections, check_selected),
}
"""Every kind of input that is fuzzed, by the name that `make soak` counts it under."""
