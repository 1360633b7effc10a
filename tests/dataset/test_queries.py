"""Labels, names, masks, sets and saved selections, with NumPy and Python as the oracle."""

from __future__ import annotations

import fnmatch
import json
import pickle
from fractions import Fraction
from hashlib import blake2b
from itertools import pairwise
from math import floor
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arraystore
from arraystore import FormatError, SavedSelection, VersionError
from arraystore.indexing.layout import hash_numbers
from tests.support import (
    SUFFIXES,
    CountingReader,
    count_reads,
    picture,
    set_chunk_rows,
    write_folder,
    write_store,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Strategy = st.SearchStrategy[Any]

N = 200
CLASSES = [f"n{k:02}" for k in range(9)]
WORDS = [
    "crane",
    "goldfish, Carassius auratus",
    "Crane, lift",
    "",
    "ox",
    "cat",
    "dog",
    "ant",
    "bee",
]
EMPTY = 7
"""A class without samples."""

named = pytest.mark.parametrize
on_one_store = settings(
    deadline=None,
    max_examples=15,
    # The fixtures are never changed.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
STORES = [(".zarr", "shuffled"), (".zarr", "label"), (".h5", "shuffled"), (".h5", "source")]
RNG = np.random.default_rng(7)
LABELS = RNG.choice([-1, *(k for k in range(len(CLASSES)) if k != EMPTY)], N)
NAMES = [f"{'abcé'[i % 4]}{'xy'[i % 2]}/{i * 7919 % 1000:03}[{i}].jpg" for i in range(N)]
IMAGES = [bytes([i]) * (1 + i % 50) for i in range(N)]


@pytest.fixture(scope="module", params=STORES, ids=str)
def queried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 200 samples of 8 of 9 classes, some without a label, in several orders."""
    suffix, order = request.param
    target = tmp_path_factory.mktemp("query") / f"query{suffix}"
    return write_store(target, NAMES, LABELS, IMAGES, classes=CLASSES, words=WORDS, order=order)


@pytest.fixture
def train(queried: Path) -> arraystore.Split:
    return arraystore.open(queried)["train"]


@st.composite
def subsets(draw: st.DrawFn) -> tuple[str, Any]:
    """How to get a split, and its positions in the stored split."""
    kind = draw(st.sampled_from(["all", "slice", "positions"]))
    if kind == "all":
        return "train", None
    if kind == "slice":
        start, stop = sorted(draw(st.tuples(st.integers(0, N), st.integers(0, N))))
        return f"train[{start}:{stop}]", None
    return "train", np.array(draw(st.lists(st.integers(0, N - 1), max_size=30)), dtype=np.int64)


def taken(store: arraystore.Store, subset: tuple[str, Any]) -> arraystore.Split:
    name, positions = subset
    return store[name] if positions is None else store[name].select(positions)


keys: Strategy = st.integers(0, 8) | st.sampled_from([*CLASSES, "goldfish", "OX", "bee", "3"])
LABEL_OF = {name: k for k, name in enumerate(CLASSES)} | {"goldfish": 1, "OX": 4, "bee": 8, "3": 3}


# where


@on_one_store
@given(subset=subsets(), wanted=keys | st.lists(keys, max_size=4))
def test_where_label_keeps_order(queried: Path, subset: tuple[str, Any], wanted: Any) -> None:
    split = taken(arraystore.open(queried), subset)
    keys = wanted if isinstance(wanted, list) else [wanted]
    labels = {LABEL_OF[k] if isinstance(k, str) else k for k in keys}
    expected = split.positions[np.isin(split.label, list(labels))]
    found = split.where(label=wanted)
    assert found.positions.tolist() == expected.tolist()
    assert found.image_bytes[:] == [split_bytes(queried, i) for i in expected.tolist()]


def split_bytes(queried: Path, position: int) -> bytes:
    whole = arraystore.open(queried)["train"]
    return IMAGES[NAMES.index(whole.file_name[position])]


PATTERNS = ["*", "a*", "?x/0*", "[ab]*", "*.png", "é*", "*[[]1[0-9]].jpg", NAMES[3], NAMES[9]]


@on_one_store
@given(subset=subsets(), patterns=st.lists(st.sampled_from(PATTERNS), max_size=3))
def test_where_file_name_matches_any_pattern(
    queried: Path, subset: tuple[str, Any], patterns: list[str]
) -> None:
    split = taken(arraystore.open(queried), subset)
    expected = [
        name
        for name in split.file_name.tolist()
        if any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)
    ]
    assert split.where(file_name=patterns).file_name.tolist() == expected


@on_one_store
@given(subset=subsets(), label=st.integers(0, 8), pattern=st.sampled_from(PATTERNS))
def test_where_conditions_are_combined(
    queried: Path, subset: tuple[str, Any], label: int, pattern: str
) -> None:
    split = taken(arraystore.open(queried), subset)
    both = split.where(label=label, file_name=pattern).positions.tolist()
    assert both == split.where(label=label).where(file_name=pattern).positions.tolist()
    assert both == split.where(file_name=pattern).where(label=label).positions.tolist()


def test_where_on_joined_splits(queried: Path) -> None:
    store = arraystore.open(queried)
    joined = store["train[:50]+train[150:]+train[20:60]"]
    found = joined.where(label=1)
    assert found.file_name.tolist() == joined.file_name[joined.label == 1].tolist()
    shuffled = joined.sample(60, seed=1)
    again = shuffled.where(label=[1, 2, 5, 8], file_name="*x/*")
    is_meant = np.isin(shuffled.label, [1, 2, 5, 8]) & np.array(
        ["x/" in n for n in shuffled.file_name]
    )
    assert again.file_name.tolist() == shuffled.file_name[is_meant].tolist()
    assert again.image_bytes[:] == [IMAGES[NAMES.index(n)] for n in again.file_name.tolist()]
    assert len(again) > 3


def test_where_file_name_in_joined_splits(store: arraystore.Store) -> None:
    joined = store["train+validation"]
    name = store["validation"].file_name[2]
    assert joined.find(name) == len(store["train"]) + 2
    assert joined.where(file_name=name).label.tolist() == [store["validation"].label[2]]
    assert name in joined
    assert name not in store["train"]


@named(
    ("condition", "message"),
    [
        ({"label": "crane"}, r"means several classes: 0 n00 \(crane\), 2 n02 \(Crane, lift\)"),
        ({"label": "goldfsh"}, "no class 'goldfsh'; did you mean goldfish"),
        ({"label": 9}, r"label 9 is not in range\(9\)"),
        ({"label": -1}, r"label -1 is not in range\(9\)"),
        ({"label": ""}, "no class ''"),
        ({"file_name": "ax/000.jpg"}, r"no file name 'ax/000\.jpg'; did you mean ax/000\[0\]\.jpg"),
        ({"file_name": ["ax/000", "*"]}, "no file name 'ax/000'"),
    ],
)
def test_where_unknown_raises_with_close_matches(
    train: arraystore.Split, condition: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyError, match=message):
        train.where(**condition)


def test_where_unknown_in_joined_splits_raises(
    store: arraystore.Store,
) -> None:
    joined = store["train+validation"]
    with pytest.raises(KeyError, match=r"did you mean ILSVRC2012_val_000000"):
        joined.where(file_name=["*", "ILSVRC2012_val_0000001.JPEG"])


def test_where_many_file_names(train: arraystore.Split) -> None:
    many = train.file_name[::-1].tolist()
    assert train.where(file_name=[*many, *many]).positions.tolist() == list(range(N))
    with pytest.raises(KeyError, match="no file name 'no'"):
        train.where(file_name=[*many, *many, "no"])


def test_where_invalid_unicode_matches_nothing(train: arraystore.Split) -> None:
    assert len(train.where(file_name="\udcff*")) == 0


@named(
    "condition",
    [
        {},
        {"label": b"\x00\x01"},
        {"label": np.array([True, False])},
        {"label": np.array(1.0)},
        {"label": 1.0},
        {"label": True},
        {"label": [None]},
        {"file_name": 3},
        {"file_name": [b"a"]},
    ],
)
def test_where_wrong_type_raises(train: arraystore.Split, condition: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        train.where(**condition)


def test_find_unknown_raises_with_close_matches(train: arraystore.Split) -> None:
    with pytest.raises(KeyError, match="did you mean ") as error:
        train.find(f"{NAMES[5]}x")
    assert NAMES[5] in str(error.value)


def test_where_file_name_outside_split_is_empty(
    train: arraystore.Split,
) -> None:
    name = train.file_name[150]
    part = train.select(slice(0, 100))
    assert len(part.where(file_name=name)) == 0
    assert name not in part
    with pytest.raises(KeyError, match=r"is in train, but not in train\.select\(0:100\)"):
        part.find(name)


# What a query reads


def chunks_of(queried: Path, column: str) -> list[tuple[str, int, int]]:
    """Key, start and stop of each stored chunk of a column."""
    if queried.is_dir():
        files = sorted((queried / column / "c").iterdir(), key=lambda file: int(file.name))
        return [(f"{column}/c/{file.name}", 0, file.stat().st_size) for file in files]
    with h5py.File(queried) as file:
        dataset = file[column]
        infos = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    return [(queried.name, i.byte_offset, i.byte_offset + i.size) for i in infos]


@named("suffix", SUFFIXES)
def test_where_label_reads_only_needed_chunks(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_rows(monkeypatch, 512)
    n = 3 * 512
    label = np.random.default_rng(0).integers(0, 50, n)
    names = [f"{i:06}" for i in range(n)]
    queried = write_store(
        tmp_path / f"a{suffix}",
        names,
        label,
        classes=[f"c{k:02}" for k in range(50)],
        order="source",
    )
    store = arraystore.open(queried)
    reader, container = store.opened
    counting = CountingReader(reader)
    container._reader = counting  # type: ignore[attr-defined] # both containers have it
    answer = store["train"].where(label=49)
    assert answer.positions.tolist() == np.flatnonzero(label == 49).tolist()

    def touched(column: str) -> list[bool]:
        return [
            any(r.key == key and r.start < stop and r.stop > start for r in counting.ranges)
            for key, start, stop in chunks_of(queried, column)
        ]

    assert touched("train/label_order") == [False, False, True]
    assert touched("train/label_indptr") == [True]
    assert touched("train/label") == [False] * 3
    assert touched("train/file_name") == [False] * 3
    before = len(counting.ranges)
    store["train"].where(label=48)
    assert len(counting.ranges) == before  # the chunk is cached


def test_read_plan_is_what_reading_costs(train: arraystore.Split) -> None:
    reads = count_reads(train)
    positions = np.array([3, 4, 5, 20, 4])
    plan = train.read_plan(positions)
    assert reads.ranges == []
    assert plan.nbytes_wanted == int(train.image_nbytes[positions].sum())
    assert train.image_bytes[positions] == [split_bytes_of(train, i) for i in positions.tolist()]
    assert (plan.requests, plan.nbytes) == (len(reads.ranges), reads.nbytes) == (2, plan.nbytes)
    assert plan.nbytes == int(train.image_nbytes[[3, 4, 5, 20]].sum())
    assert plan.objects == 1
    assert train.select([]).read_plan() == (0, 0, 0, 0)


def split_bytes_of(train: arraystore.Split, position: int) -> bytes:
    return IMAGES[NAMES.index(train.file_name[position])]


# select


@on_one_store
@given(subset=subsets(), data=st.data())
def test_select_is_lazy_indexing(
    queried: Path, subset: tuple[str, Any], data: st.DataObject
) -> None:
    split = taken(arraystore.open(queried), subset)
    n = len(split)
    at = st.integers(-n, n - 1) if n else st.nothing()
    selection = data.draw(
        st.slices(n)
        | st.lists(at, max_size=9)
        | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
        if n
        else st.just([])
    )
    indices = np.empty(0, np.int64) if isinstance(selection, list) and not selection else selection
    assert split.select(selection).positions.tolist() == split.positions[indices].tolist()


def test_select_mask(train: arraystore.Split) -> None:
    tall = train.select((train.image_height >= 100) & (train.label != 1))
    assert (tall.image_height >= 100).all()
    assert len(tall) == ((train.image_height >= 100) & (train.label != 1)).sum()
    assert (
        tall.where(label=2).positions.tolist()
        == np.flatnonzero((train.image_height >= 100) & (train.label == 2)).tolist()
    )


@named(
    ("selection", "message"),
    [
        (np.ones(N - 1, dtype=bool), f"mask selects from {N - 1} samples, but there are {N}"),
        (np.array([0.0, 1.0]), "integers or bools, got dtype float64"),
        ([N], f"position {N} is out of bounds"),
        (3, r"select\(\) takes several positions, got 3; use split\[3\]"),
    ],
)
def test_select_invalid_raises(train: arraystore.Split, selection: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        train.select(selection)


def test_select_unknown_name_raises(train: arraystore.Split) -> None:
    with pytest.raises(KeyError, match="has no selection '1pct', it has none"):
        train.select("1pct")


@named("suffix", SUFFIXES)
def test_select_named(suffix: str, tmp_path: Path) -> None:
    kept = {"some": [7, 3, 150], "none": [], "1.json": [2]}
    target = tmp_path / f"a{suffix}"
    write_store(target, NAMES, LABELS, IMAGES, classes=CLASSES, selections=kept)
    store = arraystore.open(target)
    assert store.info.selections == dict.fromkeys(kept, ("train",))
    for name, positions in kept.items():
        assert store["train"].select(name).positions.tolist() == positions
    assert store["train[5:]"].select("some").positions.tolist() == [7, 150]
    again = pickle.loads(pickle.dumps(store["train"].select("some")))
    assert again.positions.tolist() == [7, 3, 150]
    assert store["train"].where(label=np.array(1)).label_counts()[1] > 0
    with pytest.raises(KeyError, match=r"has no selection 'som', it has some, none, 1\.json"):
        store["train"].select("som")


@named("suffix", SUFFIXES)
@named("position", [-1, N, 2**62])
def test_select_named_out_of_range_raises(suffix: str, position: int, tmp_path: Path) -> None:
    target = tmp_path / f"a{suffix}"
    write_store(target, NAMES, LABELS, IMAGES, classes=CLASSES, selections={"some": [0, position]})
    with pytest.raises(FormatError, match=rf"selections/some/train.*range\({N}\)"):
        arraystore.open(target)["train"].select("some")


# find, in, counts


@on_one_store
@given(subset=subsets(), name=st.sampled_from(NAMES))
def test_find_first_of_repeated(queried: Path, subset: tuple[str, Any], name: str) -> None:
    split = taken(arraystore.open(queried), subset)
    names = split.file_name.tolist()
    assert (name in split) == (name in names)
    if name in names:
        assert split.find(name) == names.index(name)


@given(st.lists(st.text(max_size=4), unique=True, max_size=20))
def test_names_sort_by_utf8(names: list[str]) -> None:
    names = [name for name in names if "\0" not in name and name.isprintable()]
    from arraystore.indexing.packed_names import NameIndex

    index = NameIndex(np.array(names, dtype=np.dtypes.StringDType()))
    assert [names[i] for i in index.order] == sorted(names, key=str.encode)
    assert [index.find(name) for name in names] == list(range(len(names)))
    assert index.ranks(index.order).tolist() == list(range(len(names)))


@on_one_store
@given(subset=subsets())
def test_label_counts_match_column(queried: Path, subset: tuple[str, Any]) -> None:
    split = taken(arraystore.open(queried), subset)
    expected = np.bincount(split.label[split.label >= 0], minlength=len(CLASSES))
    assert split.label_counts().tolist() == expected.tolist()


# Sets


@on_one_store
@given(one=subsets(), other=subsets())
def test_set_operations_match_sets(
    queried: Path, one: tuple[str, Any], other: tuple[str, Any]
) -> None:
    store = arraystore.open(queried)
    a, b = taken(store, one), taken(store, other)
    x, y = set(a.positions.tolist()), set(b.positions.tolist())
    assert (a & b).positions.tolist() == sorted(x & y)
    assert (a | b).positions.tolist() == sorted(x | y)
    assert (a - b).positions.tolist() == sorted(x - y)
    assert (~a).positions.tolist() == sorted(set(range(N)) - x)
    assert (a & b).file_name.tolist() == [store["train"].file_name[i] for i in sorted(x & y)]


def test_set_operations_on_joined_splits(store: arraystore.Store) -> None:
    joined, train = store["train+validation"], store["train"]
    assert (joined - train).file_name.tolist() == store["validation"].file_name.tolist()
    assert len(joined & train) == len(train)
    assert len(train & store["validation"]) == 0
    assert len(train | store["validation"]) == len(joined)
    assert len(~joined) == 0
    assert len(~store["train[:3]+validation"]) == len(train) - 3


def test_set_operations_with_other_store_raise(
    train: arraystore.Split, store: arraystore.Store
) -> None:
    with pytest.raises(ValueError, match="needs samples of one store"):
        _ = train & store["train"]
    with pytest.raises(TypeError):
        _ = train & np.ones(N, dtype=bool)


# Samples per label


def keyed(name: str, seed: int) -> bytes:
    return blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()


@on_one_store
@given(subset=subsets(), seed=st.integers(0, 3), k=st.integers(0, 3))
def test_per_label_takes_smallest_hashes(
    queried: Path, subset: tuple[str, Any], seed: int, k: int
) -> None:
    split = taken(arraystore.open(queried), subset)
    split = split.select(np.unique(split.positions, return_index=True)[1])  # without repeats
    names, labels = split.file_name.tolist(), split.label
    expected = []
    for label in sorted({x for x in labels.tolist() if x >= 0}):
        members = [names[i] for i in np.flatnonzero(labels == label)]
        if len(members) < k:
            with pytest.raises(ValueError, match=f"label {label} .* has {len(members)} samples"):
                split.per_label(k, seed=seed)
            return
        expected += sorted(members, key=lambda name: keyed(name, seed))[:k]
    assert split.per_label(k, seed=seed).file_name.tolist() == expected


@on_one_store
@given(
    subset=subsets(),
    seed=st.integers(0, 3),
    tenths=st.lists(st.integers(0, 10), max_size=4).filter(lambda some: sum(some) <= 10),
)
def test_stratified_splits_divide_each_label(
    queried: Path, subset: tuple[str, Any], seed: int, tenths: list[int]
) -> None:
    store = arraystore.open(queried)
    split = taken(store, subset)
    split = split.select(np.unique(split.positions, return_index=True)[1])  # without repeats
    parts = split.stratified_splits([n / 10 for n in tenths], seed=seed)
    names, labels = split.file_name.tolist(), split.label
    expected: list[list[str]] = [[] for _ in tenths]
    for label in sorted({x for x in labels.tolist() if x >= 0}):
        members = [names[i] for i in np.flatnonzero(labels == label)]
        members.sort(key=lambda name: keyed(name, seed))
        shift = Fraction(int.from_bytes(keyed(store.label_names[label], seed), "big"), 2**64)
        bounds = [0] + [
            floor(Fraction(sum(tenths[: i + 1]), 10) * len(members) + shift)
            for i in range(len(tenths))
        ]
        for part, (first, last) in zip(expected, pairwise(bounds), strict=True):
            part += members[first:last]
    assert [part.file_name.tolist() for part in parts] == expected
    if tenths:
        fraction = tenths[0] / 10
        drawn = split.per_label(fraction=fraction, balanced=False, seed=seed)
        assert drawn.file_name.tolist() == expected[0]


def test_stratified_splits_need_fractions_of_one(train: arraystore.Split) -> None:
    assert sum(map(len, train.stratified_splits([0.7, 0.2, 0.1]))) == (train.label >= 0).sum()
    with pytest.raises(ValueError, match=r"must add up to at most 1, got 1\.1"):
        train.stratified_splits([0.8, 0.3])
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got -0\.1"):
        train.stratified_splits([-0.1])
    with pytest.raises(TypeError, match="balanced=False"):
        train.per_label(2, balanced=False)


@named("suffix", SUFFIXES)
def test_where_takes_names_without_folders(suffix: str, tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "b/2.jpg", "2.jpg", "b/21.jpg"]
    path = tmp_path / f"a{suffix}"
    write_store(path, names, [0] * 5, classes=["x"], order="source")
    split = next(iter(arraystore.open(path).values()))
    assert split.where(file_name="1.jpg").file_name.tolist() == ["a/1.jpg", "b/1.jpg"]
    assert split.where(file_name="2.jpg").file_name.tolist() == ["2.jpg"]  # a whole name
    assert split.where(file_name=["21.jpg", "a/1.jpg"]).file_name.tolist() == [names[0], names[4]]
    for unknown in ("3.jpg", "c/1.jpg", ".jpg", "\ud800"):
        with pytest.raises(KeyError, match="there is no file name"):
            split.where(file_name=unknown)


def test_per_label_is_part_of_larger_draw(train: arraystore.Split) -> None:
    one, five = (set(train.per_label(k, seed=3).positions.tolist()) for k in (1, 5))
    assert one < five


def test_per_label_on_joined_splits(queried: Path) -> None:
    store = arraystore.open(queried)
    joined = store["train[100:]+train[:100]"]
    assert sorted(joined.per_label(2).file_name) == sorted(store["train"].per_label(2).file_name)


def test_per_label_fraction_is_balanced(train: arraystore.Split) -> None:
    labelled = int((train.label >= 0).sum())
    counts = train.per_label(fraction=0.25).label_counts()
    assert counts.sum() == labelled // 4
    assert sorted(set(counts.tolist())) in ([0, 5], [0, 5, 6])
    assert counts[EMPTY] == 0


def test_per_label_replace_allows_few_samples(train: arraystore.Split) -> None:
    with pytest.raises(ValueError, match=r"has \d+ samples, not 99 .*replace=True"):
        train.per_label(99)
    many = train.per_label(99, replace=True)
    assert many.label_counts().tolist() == [0 if k == EMPTY else 99 for k in range(len(CLASSES))]


def test_per_label_follows_seed(train: arraystore.Split) -> None:
    first = [train.per_label(2, seed=seed).file_name.tolist() for seed in (0, 1, 0, 5)]
    again = [arraystore.open(train._root.address)["train"].per_label(2, seed=s) for s in (0, 1)]
    assert first[0] == first[2] == again[0].file_name.tolist()
    assert first[1] == again[1].file_name.tolist()
    assert len({tuple(names) for names in first}) == 3


def test_per_label_is_independent_of_order(queried: Path) -> None:
    store = arraystore.open(queried)
    expected = store["train"].per_label(2, seed=0).file_name.tolist()
    for split in (store["train"].sample(N, seed=4), store["train"].select(slice(None, None, -1))):
        assert split.per_label(2, seed=0).file_name.tolist() == expected
        assert split.where(label=[1, 2]).per_label(2).label.tolist() == [1, 1, 2, 2]


def test_per_label_on_mixed_joined_splits(
    store: arraystore.Store,
) -> None:
    joined = store["train+validation"]
    mixed = joined.sample(len(joined), seed=3)
    for seed in (0, 8):
        expected = joined.per_label(1, seed=seed).file_name.tolist()
        assert mixed.per_label(1, seed=seed).file_name.tolist() == expected


def test_per_label_hashes_names_once(queried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def counted(names: list[str], seed: int) -> NDArray[np.uint64]:
        hashed.append(len(names))
        return hash_numbers(names, seed)

    monkeypatch.setattr("arraystore.reading.stored_split.hash_numbers", counted)
    store = arraystore.open(queried)
    is_hashed = store.info.splits["train"].order == "shuffled"
    few = store["train"].where(label=[1, 2])
    few.per_label(2, seed=0)
    assert hashed == ([] if is_hashed else [len(few)])
    hashed.clear()
    for _ in range(3):
        store["train"].per_label(2, seed=7)
    few.per_label(2, seed=7)
    assert hashed == [N]


@named("arguments", [{}, {"k": 1, "fraction": 0.1}, {"k": 1.5}])
def test_per_label_without_amount_raises(
    train: arraystore.Split, arguments: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        train.per_label(**arguments)


# sample, even_splits


def test_sample_is_start_of_permutation(train: arraystore.Split) -> None:
    assert sorted(train.sample(N, seed=5).positions.tolist()) == list(range(N))
    assert train.sample(7, seed=5).positions.tolist() == (
        train.sample(N, seed=5).positions[:7].tolist()
    )
    assert train.sample(N, seed=6).positions.tolist() != train.sample(N, seed=5).positions.tolist()


def test_sample_replace_may_be_longer(train: arraystore.Split) -> None:
    many = train.sample(3 * N, replace=True)
    assert len(many) == 3 * N
    assert len(set(many.positions.tolist())) < N


@named(
    ("arguments", "message"),
    [
        ((N + 1,), f"has {N} samples, not {N + 1}; draw fewer or pass replace"),
        ((-1,), "n must be 0 or more, got -1"),
    ],
)
def test_sample_invalid_raises(
    train: arraystore.Split, arguments: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train.sample(*arguments)


def test_draws_from_empty_split_are_empty(train: arraystore.Split) -> None:
    nothing = train.select([])
    assert len(nothing.sample(0, replace=True)) == len(nothing.per_label(3)) == 0
    with pytest.raises(ValueError, match="0 positions"):
        nothing.sample(1, replace=True)


@on_one_store
@given(n=st.integers(1, 20), start=st.integers(0, N), drop=st.booleans())
def test_even_splits_match_numpy(queried: Path, n: int, start: int, drop: bool) -> None:
    split = arraystore.open(queried)[f"train[{start}:]"]
    parts = [p.positions.tolist() for p in split.even_splits(n, drop_remainder=drop)]
    whole = split.positions[: len(split) - len(split) % n] if drop else split.positions
    assert parts == [part.tolist() for part in np.array_split(whole, n)]


# Saved selections


@on_one_store
@given(subset=subsets())
def test_saved_selection_fits_every_store_of_content(
    queried: Path,
    subset: tuple[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    others: list[Path],
) -> None:
    split = taken(arraystore.open(queried), subset)
    file = tmp_path_factory.mktemp("saved") / "some.json"
    split.selection().save(file)
    for other in others:
        again = arraystore.open(other)["train"].select(file)
        assert again.file_name.tolist() == split.file_name.tolist()
        assert again.image_bytes[:] == split.image_bytes[:]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of the same content, in both containers and other orders."""
    folder = tmp_path_factory.mktemp("others")
    options: dict[str, Any] = {"classes": CLASSES, "words": WORDS}
    return [
        write_store(folder / "a.h5", NAMES, LABELS, IMAGES, order="label", **options),
        write_store(folder / "b.zarr", NAMES, LABELS, IMAGES, order="shuffled", seed=9, **options),
    ]


def test_saved_selection_on_part_of_split(train: arraystore.Split) -> None:
    chosen = train.sample(50, seed=2)
    part = train.select(slice(0, 100))
    expected = [name for name in chosen.file_name.tolist() if name in part]
    assert part.select(chosen.selection()).file_name.tolist() == expected
    assert 0 < len(expected) < 50


def test_saved_selection_of_joined_splits(store: arraystore.Store, tmp_path: Path) -> None:
    joined = store["validation[:3]+train[:4]+validation[5:7]"]
    selection = joined.selection()
    assert {name: len(part.ranks) for name, part in selection.splits.items()} == {
        "validation": 5,
        "train": 4,
    }
    selection.save(tmp_path / "joined.json")
    assert len(selection) == 9
    again = store["train+validation"].select(str(tmp_path / "joined.json"))
    assert sorted(again.file_name) == sorted(joined.file_name)
    assert len(store["train"].select(selection)) == 4


def test_joined_terms_of_one_split(queried: Path) -> None:
    store = arraystore.open(queried)
    names = store["train"].file_name
    joined = store["train[150:]+train[:60]+train[40:45]"]
    assert joined.positions.tolist() == [*range(150, 200), *range(60), *range(40, 45)]
    assert joined.file_name.tolist() == names[joined.positions].tolist()
    assert joined.find(names[42]) == 50 + 42
    assert store["train[:10]+train[10:20]"].read_plan() == store["train[:20]"].read_plan()


def test_joined_crosswise_keeps_order(store: arraystore.Store) -> None:
    joined = store["train[:3]+validation[5:7]+train[1:4]"]
    expected = [
        *store["train"].file_name[:3],
        *store["validation"].file_name[5:7],
        *store["train"].file_name[1:4],
    ]
    assert joined.file_name.tolist() == expected
    assert joined[3:6].file_name.tolist() == expected[3:6]
    assert joined.label.tolist() == [
        store["train+validation"].label[i] for i in map(store["train+validation"].find, expected)
    ]
    again = pickle.loads(pickle.dumps(joined))
    assert again.file_name.tolist() == expected
    assert joined.read_plan().objects == (2 if "zarr" in store.address else 1)


def test_saved_selection_keeps_order_of_joined_terms(queried: Path) -> None:
    store = arraystore.open(queried)
    drawn = store["train[:80]+train[80:]"].sample(12, seed=3)
    saved_names = drawn.file_name.tolist()
    for name in ("train", "train[80:]+train[:80]", "train+train[50:]"):
        assert store[name].select(drawn.selection()).file_name.tolist() == saved_names


def test_saved_selection_of_mixed_joined_splits(store: arraystore.Store) -> None:
    mixed = store["train+validation"].sample(30, seed=1)
    again = store["validation+train"].sample(50, seed=9).select(mixed.selection())
    assert sorted(again.file_name) == sorted(mixed.file_name)
    assert len(store["validation[:1]+train[:1]"].sample(2).select(mixed.selection())) <= 2


def test_saved_selection_of_splits_with_same_content(tmp_path: Path) -> None:
    data = picture()
    files = {f"{split}/a/{i}.jpg": data for split in ("test", "train") for i in range(5)}
    source = write_folder(tmp_path / "in", files)
    arraystore.convert(f"folder:{source}", tmp_path / "a.h5", order="source", sync=False)
    store = arraystore.open(tmp_path / "a.h5")
    chosen = store["test[:2]+train[2:5]"]
    again = store["test+train"].select(chosen.selection())
    assert again.file_name.tolist() == chosen.file_name.tolist()
    assert [len(part.positions) for part in again._sample_set] == [2, 3] or len(again) == 5


def test_positions_are_read_only(train: arraystore.Split) -> None:
    few = train.select([5, 3, 9])
    with pytest.raises(ValueError, match="read-only"):
        few.positions.sort()
    assert few.positions.tolist() == [5, 3, 9]


def test_inverse_has_parenthesized_name(train: arraystore.Split) -> None:
    a = train.where(label=1)
    assert (~a).where(label=2).name != (~(a.where(label=2))).name
    for _ in range(20):
        a = a | train.where(label=2)
    assert len(a.name) <= 200


def test_save_replaces_only_selections(train: arraystore.Split, tmp_path: Path) -> None:
    selection = train.sample(3).selection()
    with pytest.raises(ValueError, match=r"must end in \.json"):
        selection.save(tmp_path / "few")
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(FileExistsError, match="exists and is not a saved selection"):
        selection.save(other)
    assert other.read_text() == "{}"
    for _ in range(2):
        selection.save(tmp_path / "few.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["few.json", "notes.json"]


def test_saved_selection_rank_out_of_range_raises(train: arraystore.Split, tmp_path: Path) -> None:
    last = train.select([int(np.argsort(train.file_name)[-1])])
    last.selection().save(tmp_path / "last.json")
    document = json.loads((tmp_path / "last.json").read_text())
    document["splits"]["train"]["num_samples"] = N - 1
    (tmp_path / "last.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=rf"ranks must be in range\({N - 1}\)"):
        train.select(tmp_path / "last.json")


def test_saved_selection_of_other_content_raises(
    train: arraystore.Split, store: arraystore.Store, tmp_path: Path
) -> None:
    file = tmp_path / "other.json"
    store["train"].sample(3).selection().save(file)
    with pytest.raises(ValueError, match=r"other\.json: was saved from different data, "):
        train.select(file)


def saved(train: arraystore.Split, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    file = tmp_path / "saved.json"
    train.sample(5).selection().save(file)
    return file, json.loads(file.read_text())


def test_saved_selection_shows_how_it_was_made(train: arraystore.Split, tmp_path: Path) -> None:
    file, document = saved(train.where(label="goldfish"), tmp_path)
    assert document["made"] == "train.where(label='goldfish').sample(5, seed=0)"
    assert repr(SavedSelection.load(file)).startswith("<SavedSelection train.where(label=")


@named(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a saved selection"),
        ({"made": 3}, "'made' must be str"),
        ({"splits": []}, "'splits' must be dict"),
        ({"splits": {"train": 1}}, "must be an object"),
        ({"type": "float64"}, "'type' must be one of"),
        ({"type": "int64"}, "must hold 5 ranks of type int64"),
        ({"rank_differences": "!"}, "must be base64"),
        ({"rank_differences": ""}, "do not match their checksum"),
        ({"num_selected": 4}, "must hold 4 ranks"),
        ({"crc32c": 1}, "do not match their checksum"),
        ({"crc32c": None}, "'crc32c' must be int"),
        ({"num_samples": 3}, r"ranks must be in range\(3\)"),
        ({"num_samples": N + 1}, f"states {N + 1} samples for the split"),
    ],
)
def test_damaged_selection_raises(
    train: arraystore.Split, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file, document = saved(train, tmp_path)
    part = document if change.keys() <= document.keys() else document["splits"]["train"]
    part |= change
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=f"^{file}.*{message}"):
        train.select(file)


@named("text", ["", "[", "[]", "null", '{"a": 1}', "[" * 100_000])
def test_load_of_other_file_raises(train: arraystore.Split, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FormatError, match=r"a\.json: is not a saved selection"):
        train.select(tmp_path / "a.json")


def test_load_of_newer_version_raises(train: arraystore.Split, tmp_path: Path) -> None:
    file, document = saved(train, tmp_path)
    file.write_text(json.dumps(document | {"format_version": "2.0"}))
    with pytest.raises(VersionError, match="upgrade"):
        train.select(file)


def test_load_of_missing_file_raises(train: arraystore.Split, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        train.select(tmp_path / "absent.json")


# Values


def test_query_pickles(queried: Path) -> None:
    joined = arraystore.open(queried)["train[:90]+train[95:]"]
    for split in (joined.where(label=1), joined.sample(9), joined.select([3, 1]) | joined):
        again = pickle.loads(pickle.dumps(split))
        assert again.name == split.name
        assert again.file_name.tolist() == split.file_name.tolist()
        assert type(again) is arraystore.Split


def test_split_has_torchvision_attributes(train: arraystore.Split) -> None:
    assert train.classes == CLASSES
    assert train.class_to_idx == {name: k for k, name in enumerate(CLASSES)}
    assert train.targets == train.label.tolist()
    assert type(train.targets) is list


def test_long_condition_is_shortened(train: arraystore.Split) -> None:
    name = train.where(label=list(range(7)) * 20).name
    assert name.startswith("train.where(label=[0, 1, 2")
    assert name.endswith("…)")
    assert len(name) < 90
    assert train.where(label=np.array([1, 2])).name == "train.where(label=[1, 2])"


def spoil(queried: Path, column: str, change: Any) -> None:
    """Change the values of a column of the train split."""
    import zarr

    if queried.suffix == ".zarr":
        array = zarr.open_array(queried / "train" / column)
        values: NDArray[Any] = np.asarray(array[:])
        array[:] = change(values)
    else:
        with h5py.File(queried, "a") as file:
            file[f"train/{column}"][:] = change(file[f"train/{column}"][:])


@named("suffix", SUFFIXES)
@named(
    ("column", "change", "message"),
    [
        ("label_indptr", lambda v: v + 10**9, "label_indptr"),
        ("label_indptr", lambda v: v[::-1], "label_indptr"),
        ("label_order", lambda v: v + N, "label_order.*range"),
        ("label_order", lambda v: v - N, "label_order.*range"),
        ("label_order", lambda v: v[::-1], "label_order.*ascend"),
    ],
)
def test_damaged_label_index_raises(
    suffix: str, column: str, change: Any, message: str, tmp_path: Path
) -> None:
    queried = write_store(tmp_path / f"a{suffix}", NAMES, LABELS, IMAGES, classes=CLASSES)
    spoil(queried, column, change)
    with pytest.raises(FormatError, match=message):
        arraystore.open(queried)["train"].where(label=2)
    with pytest.raises(FormatError, match=message):
        arraystore.open(queried)["train"].per_label(1)
