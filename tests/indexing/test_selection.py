"""Selections and split strings; NumPy and TFDS are the oracles."""

from __future__ import annotations

import array
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.indexing.selection import as_position, as_positions, is_one, parse_split_string

LENGTH = 12
INTEGERS = [np.dtype(code) for code in "bBhHiIlLqQ"] + [np.dtype(">i4"), np.dtype(">u8")]

named = pytest.mark.parametrize
bounds = st.none() | st.integers(-2 * LENGTH, 2 * LENGTH)
steps = st.none() | st.integers(-5, 5).filter(bool)
slices = st.builds(slice, bounds, bounds, steps)
positions = st.integers(-LENGTH, LENGTH - 1)


def integer_arrays(length: int) -> st.SearchStrategy[Any]:
    """Draw arrays of integers of any type, all in bounds."""
    return st.sampled_from(INTEGERS).flatmap(
        lambda dtype: st.lists(
            st.integers(-length if dtype.kind == "i" else 0, length - 1), max_size=2 * length
        ).map(lambda values: np.array(values, dtype=dtype))
    )


def selections(length: int) -> st.SearchStrategy[Any]:
    """Draw selections of several samples that NumPy accepts."""
    masks = st.lists(st.booleans(), min_size=length, max_size=length)
    lists = st.lists(st.integers(-length, length - 1), max_size=2 * length)
    return st.one_of(
        slices,
        st.just(...),
        lists,
        lists.map(lambda values: array.array("q", values)),
        integer_arrays(length),
        integer_arrays(length).map(lambda values: values[::-2]),
        masks,
        masks.map(np.array),
        st.builds(range, st.integers(0, length), st.integers(0, length), st.integers(1, 3)),
    )


class Tensor:
    """An array that is not an ndarray but converts to one, like those of torch and JAX.

    As theirs, it has an `__index__` for every shape, which fails for more than one element.
    """

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self._values, dtype=dtype)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self._values[index])

    def __index__(self) -> int:
        if self._values.size != 1:
            raise TypeError("only integer tensors of a single element can be an index")
        return int(self._values.item())


# One


@given(positions)
def test_negative_integer_counts_from_the_end(index: int) -> None:
    assert as_position(index, LENGTH) == np.arange(LENGTH)[index]


@given(positions, st.sampled_from(INTEGERS))
def test_numpy_integer_selects_one(index: int, dtype: np.dtype[Any]) -> None:
    index = index if dtype.kind == "i" else abs(index) % LENGTH
    for value in (dtype.type(index), np.array(index, dtype=dtype)):
        assert is_one(value)
        assert as_position(value, LENGTH) == np.arange(LENGTH)[index]


def test_object_with_index_method_selects_one() -> None:
    class Third:
        def __index__(self) -> int:
            return 3

    third = Third()
    assert is_one(third)
    assert as_position(third, LENGTH) == 3


@named("index", [LENGTH, -LENGTH - 1, 2**70, -(2**70), np.int8(LENGTH), np.uint64(2**64 - 1)])
def test_integer_out_of_bounds_raises(index: int) -> None:
    with pytest.raises(
        IndexError, match=f"^position {index} is out of bounds for {LENGTH} samples$"
    ):
        as_position(index, LENGTH)


def test_every_position_of_nothing_is_out_of_bounds() -> None:
    with pytest.raises(IndexError, match="position 0 is out of bounds for 0 samples"):
        as_position(0, 0)


@given(selections(LENGTH))
def test_is_one_is_false_for_several(selection: Any) -> None:
    assert not is_one(selection)


@named(
    "selection",
    [True, np.True_, 1.0, np.float64(1), np.array(1.0), np.array(True), "1", None, (1,), [1]],
    ids=repr,
)
def test_is_one_is_false_for_other_types(selection: object) -> None:
    assert not is_one(selection)


# Many


@given(selections(LENGTH))
def test_selection_equals_numpys(selection: Any) -> None:
    found = as_positions(selection, LENGTH)
    np.testing.assert_array_equal(found, np.arange(LENGTH)[selection])
    assert found.dtype == np.int64


@given(slices | st.just([]) | st.just(np.zeros(0, np.bool_)))
def test_selections_of_nothing_are_empty(selection: Any) -> None:
    assert as_positions(selection, 0).tolist() == np.arange(0)[selection].tolist() == []


@given(st.lists(positions))
def test_argument_is_not_changed(values: list[int]) -> None:
    selection = np.array(values, dtype=np.int64)
    as_positions(selection, LENGTH)
    assert selection.tolist() == values


@named("values", [[2, 0, -1], []], ids=repr)
def test_tensor_selects_several(values: list[int]) -> None:
    selection: Any = Tensor(np.array(values, dtype=np.int64))
    assert not is_one(selection)
    expected = np.arange(LENGTH)[selection]
    np.testing.assert_array_equal(as_positions(selection, LENGTH), expected)


def test_tensor_without_dimensions_selects_one() -> None:
    selection: Any = Tensor(7)
    assert is_one(selection)
    assert as_position(selection, LENGTH) == 7


REFUSED_BY_NUMPY: list[Any] = [
    [LENGTH],
    [0, -LENGTH - 1],
    [2**70],
    np.array([255], dtype=np.uint8),
    np.array([-128], dtype=np.int8),
    np.array([2**63], dtype=np.uint64),
    [True] * (LENGTH - 1),
    np.zeros(LENGTH + 1, dtype=np.bool_),
    np.array([False]),
    [1.0],
    np.array([1.0]),
    np.array([]),
    np.array([1], dtype=object),
    np.array([1], dtype="m8[s]"),
    np.array([1], dtype="M8[s]"),
    [1j],
    ["1"],
    np.array(["1"]),
    np.array(["1"], dtype=np.dtypes.StringDType()),
    [None],
    [None, 1],
    "train",
    b"1",
    1.0,
    np.float64(1),
    np.datetime64(1, "s"),
    {1},
    {1: 2},
]


@named("selection", REFUSED_BY_NUMPY, ids=repr)
def test_selection_that_numpy_refuses_raises_index_error(selection: Any) -> None:
    with pytest.raises(IndexError):
        np.arange(LENGTH)[selection]
    with pytest.raises(IndexError):
        as_positions(selection, LENGTH)


def test_time_span_raises() -> None:
    selection: Any = np.timedelta64(1, "s")
    with pytest.raises(IndexError):
        np.arange(LENGTH)[selection]
    assert not is_one(selection)
    with pytest.raises(IndexError):
        as_positions(selection, LENGTH)


NOT_ALONG_ONE_AXIS: list[Any] = [
    None,
    (),
    (1, 2),
    (slice(None),),
    [[0, 1]],
    [[]],
    np.zeros((2, 2), dtype=np.int64),
    np.zeros((LENGTH, 1), dtype=np.bool_),
    True,
    np.True_,
    np.array(True),
]


@named("selection", NOT_ALONG_ONE_AXIS, ids=repr)
def test_selection_of_several_axes_raises(selection: Any) -> None:
    with pytest.raises(IndexError, match="a selection must "):
        as_positions(selection, LENGTH)


def test_large_uint64_does_not_wrap_around() -> None:
    with pytest.raises(IndexError, match=f"^position {2**64 - 1} is out of bounds"):
        as_positions(np.array([2**64 - 1], dtype=np.uint64), LENGTH)


@named(
    ("selection", "message"),
    [
        ([1, 99, 98], "position 99 is out of bounds for 12 samples"),
        (np.array([3, -13], dtype=np.int8), "position -13 is out of bounds for 12 samples"),
        ([True, False], "mask selects from 2 samples, but there are 12"),
        (np.zeros(0, dtype=np.bool_), "mask selects from 0 samples, but there are 12"),
        ([1.5], "a selection must be an integer, a slice, .*, got dtype float64"),
        ("train", "a selection must be an integer, a slice, .*, got 'train'"),
        (None, "a selection must be an integer, a slice, .*, got None"),
        ([[1]], "a selection must have one dimension, got 2"),
    ],
)
def test_error_states_value_and_length(selection: Any, message: str) -> None:
    with pytest.raises(IndexError, match=f"^{message}$"):
        as_positions(selection, LENGTH)


def test_step_of_zero_raises_value_error() -> None:
    with pytest.raises(ValueError, match="step cannot be zero"):
        as_positions(slice(None, None, 0), LENGTH)


# Split strings


class Term(NamedTuple):
    """A term of a split string, and its bounds as positions."""

    text: str
    name: str
    start: int
    stop: int


def nearest(percent: int, length: int) -> int:
    """Return a percentage of a length, rounded half to even, counted from the first sample."""
    part = round(Fraction(percent * length, 100))
    return length + part if percent < 0 else part


@st.composite
def terms(draw: st.DrawFn, lengths: dict[str, int]) -> Term:
    name = draw(st.sampled_from(sorted(lengths)))
    length = lengths[name]
    is_percent = draw(st.booleans())
    limit = 100 if is_percent else length
    given_bounds = [draw(st.none() | st.integers(-limit, limit)) for _ in range(2)]
    space = st.sampled_from(["", "", " ", "  "])
    written = [
        "" if bound is None else f"{bound}{draw(space)}%" if is_percent else str(bound)
        for bound in given_bounds
    ]
    s = [draw(space) for _ in range(7)]
    text = f"{s[0]}{name}{s[1]}[{s[2]}{written[0]}{s[3]}:{s[4]}{written[1]}{s[5]}]{s[6]}"
    if given_bounds == [None, None] and draw(st.booleans()):
        text = f"{s[0]}{name}{s[1]}"
    start, stop = (
        None if bound is None else nearest(bound, length) if is_percent else bound
        for bound in given_bounds
    )
    rows = range(length)[start:stop]
    return Term(text, name, rows.start, rows.stop)


lengths_of_splits = st.fixed_dictionaries(
    {"train": st.integers(0, 1300), "validation": st.integers(0, 60), "a-b_c.2": st.integers(0, 3)}
)


@given(lengths_of_splits.flatmap(lambda n: st.tuples(st.just(n), st.lists(terms(n), min_size=1))))
def test_split_string_equals_slice_of_rounded_bounds(
    drawn: tuple[dict[str, int], list[Term]],
) -> None:
    lengths, expected = drawn
    found = parse_split_string("+".join(term.text for term in expected), lengths)
    assert [term.name for term in found] == [term.name for term in expected]
    for got, term in zip(found, expected, strict=True):
        assert 0 <= got.start <= got.stop <= lengths[term.name]
        assert list(range(got.start, got.stop)) == list(range(term.start, term.stop))


@given(st.integers(0, 5000), st.sets(st.integers(1, 99)))
def test_percentages_cover_every_sample_once(length: int, cuts: set[int]) -> None:
    edges = ["", *(f"{cut}%" for cut in sorted(cuts)), ""]
    text = "+".join(f"train[{a}:{b}]" for a, b in pairwise(edges))
    found = parse_split_string(text, {"train": length})
    covered = [position for term in found for position in range(term.start, term.stop)]
    assert covered == list(range(length))


@named(
    ("text", "start", "stop"),
    [
        # TFDS rounds to the nearest, and half to even: 4.5 is 4, 7.5 is 8.
        ("train[:30%]", 0, 4),
        ("train[50%:]", 8, 15),
        ("train[-10%:]", 13, 15),
        ("train[0%:100%]", 0, 15),
        ("train[-100%:-0%]", 0, 0),
        ("train[10:5]", 10, 10),
        ("train[-1:]", 14, 15),
        ("train[15:]", 15, 15),
        ("train[-15:1]", 0, 1),
    ],
)
def test_bounds_equal_tfds(text: str, start: int, stop: int) -> None:
    assert parse_split_string(text, {"train": 15}) == [("train", start, stop)]


@given(
    st.integers(0, 3000),
    st.sets(st.integers(0, 1000), max_size=6).map(lambda cuts: sorted({0, 1000, *cuts})),
)
def test_decimal_percentages_cover_every_sample_once(length: int, cuts: list[int]) -> None:
    terms = [f"a[{i / 10}%:{j / 10}%]" for i, j in pairwise(cuts)]
    slices = parse_split_string("+".join(terms), {"a": length})
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(length))


@named(
    ("text", "expected"),
    [
        ("a[1_0:2_5]", [("a", 10, 25)]),
        ("a[:1.5%]", [("a", 0, 2)]),
        ("a[-2.5%:]", [("a", 98, 100)]),
        ("all", [("a", 0, 100), ("b", 0, 7)]),
        ("b[:1]+all", [("b", 0, 1), ("a", 0, 100), ("b", 0, 7)]),
    ],
)
def test_split_string_syntax(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert parse_split_string(text, {"a": 100, "b": 7}) == expected


def test_split_named_all_takes_precedence() -> None:
    assert parse_split_string("all", {"a": 3, "all": 2}) == [("all", 0, 2)]


def test_all_of_no_splits_raises() -> None:
    with pytest.raises(ValueError, match="no splits"):
        parse_split_string("all", {})


def test_lengths_of_other_splits_are_not_read() -> None:
    class Lengths(dict[str, int]):
        def __missing__(self, name: str) -> int:
            pytest.fail(f"{name} was looked up")

    lengths = Lengths(train=4)
    assert parse_split_string("train", lengths) == [("train", 0, 4)]


MALFORMED = [
    "",
    " ",
    "+",
    "train+",
    "+train",
    "train++train",
    "train[",
    "train]",
    "train[]",
    "train[5]",
    "train[1:2:3]",
    "train[:2][:1]",
    "train[:10.5]",
    "train[:1e3]",
    "train[a:b]",
    "train[:%]",
    "train[--1:]",
    "train[- 1:]",
    "train[:+5]",
    "train[:5%%]",
    "train[:0x5]",
    "train test",
    "train(1)",
    "train/x",
    "träin",
    "train\0",
]


@named("text", MALFORMED, ids=repr)
def test_malformed_split_string_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a split: .*'train\[:10%\]'"):
        parse_split_string(text, {"train": 30, "test": 30})


@named("text", ["train[1:50%]", "train[10%:20]", "test+train[0:100%]"])
def test_percentage_and_number_in_one_slice_raise(text: str) -> None:
    with pytest.raises(ValueError, match=r"'train.*' mixes a percentage with a number of samples"):
        parse_split_string(text, {"train": 30, "test": 30})


@named(
    ("text", "bound"),
    [
        ("train[:31]", "31"),
        ("train[-31:]", "-31"),
        ("train[31:31]", "31"),
        ("train[:101%]", "101%"),
        ("train[-101%:]", "-101%"),
        ("test+ train[:31] ", "31"),
    ],
)
def test_bound_outside_split_raises(text: str, bound: str) -> None:
    message = rf"^'train\[.*\]': {bound} is outside the split, which has 30 samples$"
    with pytest.raises(ValueError, match=message):
        parse_split_string(text, {"train": 30, "test": 30})


@named("text", ["tran", "train+tran", "tran[:10%]", "Train"])
def test_unknown_split_raises_key_error(text: str) -> None:
    with pytest.raises(KeyError, match=r"there is no split '(tran|Train|all)'; there are train, v"):
        parse_split_string(text, {"train": 30, "validation": 20})


def test_store_without_splits_raises_key_error() -> None:
    with pytest.raises(KeyError, match="there is no split 'train'; there are none"):
        parse_split_string("train", {})
