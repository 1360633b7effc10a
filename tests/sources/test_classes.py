"""Labels as sources state them, and the classes that they become."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.errors import SourceError
from arraystore.sources.classes import Classes, LabelColumn, as_classes, resolve, resolve_names

if TYPE_CHECKING:
    from pathlib import Path


def column(labels: list[Any], *, is_text: bool = False) -> LabelColumn:
    found = LabelColumn(is_text=is_text)
    for label in labels:
        found.append(label)
    return found


def resolved(stated: list[Any], classes: Any = None, *, is_text: bool = False) -> list[int]:
    columns = {"train": column(stated, is_text=is_text)}
    labels = resolve("here", columns, as_classes(classes)).labels["train"]
    return [int(label) for label in labels]


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@given(st.lists(st.one_of(st.none(), names), max_size=30))
def test_names_become_sorted_classes(labels: list[str | None]) -> None:
    import unicodedata

    found = resolve("here", {"train": column(labels)}, None)
    normal = [None if name is None else unicodedata.normalize("NFC", name) for name in labels]
    expected = sorted({name for name in normal if name is not None})
    assert list(found.classes.names) == expected
    numbers = [-1 if name is None else expected.index(name) for name in normal]
    assert found.labels["train"].tolist() == numbers


@given(st.lists(st.integers(-1, 9), max_size=50), st.lists(st.integers(-1, 9), max_size=50))
def test_numbers_stay_numbers(first: list[int], second: list[int]) -> None:
    labels = LabelColumn()
    labels.extend(np.array(first, np.int64))
    labels.extend(np.array(second, np.int32))
    found = resolve("here", {"train": labels}, as_classes(10))
    assert found.labels["train"].tolist() == first + second


def test_splits_share_the_classes() -> None:
    columns = {"train": column(["b", "c"]), "test": column(["a", None])}
    found = resolve("here", columns, None)
    assert found.classes.names == ("a", "b", "c")
    assert [found.labels[split].tolist() for split in columns] == [[1, 2], [0, -1]]


@pytest.mark.parametrize("labels", [[0, 1], ["0", "10", "2"], [1, -1]], ids=str)
def test_numbers_without_classes_are_refused(labels: list[Any]) -> None:
    message = r"here: labels are numbers .* pass classes=\[…\] \(--classes FILE.* classes=N"
    with pytest.raises(SourceError, match=message):
        resolved(labels, is_text=isinstance(labels[0], str))


def test_numbers_and_names_without_classes_are_refused() -> None:
    with pytest.raises(SourceError, match=r"some labels are numbers \(3\), others are names"):
        resolved(["3", "cat"], is_text=True)


def test_minus_one_means_unlabelled() -> None:
    assert resolved([-1, -1]) == [-1, -1]
    assert resolved(["-1", "1"], ["a", "b"], is_text=True) == [-1, 1]


def test_text_may_be_a_number_or_a_name() -> None:
    assert resolved(["1", "0"], ["cat", "dog"], is_text=True) == [1, 0]
    assert resolved(["dog", "cat"], ["cat", "dog"], is_text=True) == [1, 0]
    found = resolve("here", {"a": column(["2", "1"], is_text=True)}, as_classes(["1", "2", "10"]))
    assert found.labels["a"].tolist() == [1, 0]
    assert found.notes == (
        "labels such as '2' are taken for names of classes, not for numbers: '2' is class 1",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "here: train, sample 1: label 2 must be less than the number of classes, 2"),
        ([-2], "label -2 must be less than"),
        (["cat", "dgo"], "train, sample 1: label 'dgo' is not among the 2 classes .*mean 'dog'"),
    ],
)
def test_label_outside_of_the_classes_is_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        resolved(labels, ["cat", "dog"])


def test_names_of_one_normal_form_are_one_class() -> None:
    found = resolve("here", {"a": column(["café", "cafe\u0301"])}, None)
    assert found.classes.names == ("café",)
    assert "differ from a class only in Unicode normalization" in found.notes[0]
    assert resolved(["cafe\u0301"], ["café"]) == [0]


def test_classes_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffn1\ttench, Tinca\nn2\n\n", "utf-8")
    assert as_classes(path) == Classes(("n1", "n2"), ("tench, Tinca", "n2"))
    assert as_classes(str(path)) == as_classes(path)
    path.write_text("a\n\nb\n")
    with pytest.raises(SourceError, match=r"names\.txt: class 1 has no name"):
        as_classes(path)
    with pytest.raises(FileNotFoundError):
        as_classes(tmp_path / "absent.txt")


TABLE: Final = """\
name\tparent\tlabel\twords
cat\tmammal\t0\tcat, feline
robin\tbird\t1
mammal\tanimal\t\tmammal, mammalian
"""


def test_table_of_classes_has_their_hierarchy(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text(TABLE)
    found = as_classes(path)
    assert found is not None
    assert (found.names, found.words) == (("cat", "robin"), ("cat, feline", "robin"))
    animals = found.hierarchy
    assert animals is not None
    assert animals.names == ("mammal", "bird", "animal")
    assert animals.words == ("mammal, mammalian", "bird", "animal")
    assert [animals.classes_below(node).tolist() for node in range(2, 5)] == [[0], [1], [0]]


def test_table_without_labels_lists_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text("Name\tParent\ndog\t\npoodle\tdog\n")
    found = as_classes(path)
    assert found is not None
    assert found.names == ("dog", "poodle")
    assert found.hierarchy is not None
    assert found.hierarchy.classes_below(0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name\tparent\na\tb\tc", "line 2 must have 2 columns, got 3"),
        ("name\tlabel\na\t1", "line 2: label must be 0, or empty for an ancestor, got '1'"),
        ("name\tparent\na\tb\na\tc", "line 3: expected a name that no other line has, got 'a'"),
        ("name\tparent\na\tb\n\tc", "line 3: expected a name that no other line has, got ''"),
        ("name\tparent\na\tb\nb\ta", "parents: a node is its own ancestor"),
        ("name\tlabel\na\t", "must have a class or more"),
    ],
)
def test_table_with_a_fault_is_refused(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text(lines)
    with pytest.raises(SourceError, match=rf"classes\.tsv: {re.escape(message)}"):
        as_classes(path)


def test_names_are_resolved_as_labels() -> None:
    found = {"cafe\u0301": "a", "café": "b", "bar": "c"}
    classes, labels, notes = resolve_names("here", found, None)
    assert (classes.names, labels) == (("bar", "café"), {"cafe\u0301": 1, "café": 1, "bar": 0})
    (note,) = notes
    assert note == (
        "1 name (cafe\u0301) differ from a class only in Unicode normalization (NFC) and were "
        "merged with it"
    )
    assert resolve_names("here", {"cafe\u0301": "a"}, as_classes(["x", "café"]))[1] == {
        "cafe\u0301": 1
    }
    assert resolve_names("here", {"010": "a", "9": "b"}, as_classes(20))[1] == {"010": 10, "9": 9}
    with pytest.raises(SourceError, match="here: a and b have the same label, 7; rename"):
        resolve_names("here", {"07": "a", "7": "b"}, as_classes(20))
    with pytest.raises(SourceError, match="here: b: label 'dgo' is not among the 2 classes"):
        resolve_names("here", {"cat": "a", "dgo": "b"}, as_classes(["cat", "dog"]))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["café", "cafe\u0301"], r"1 name \(café\) occur more than once"),
        (["a", "b", "a"], r"1 name \(a\) occur more than once"),
        ([], "must have a class or more"),
        (["a", 3], "class 1 must be a text, got 3"),
    ],
)
def test_classes_that_cannot_be_are_refused(classes: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        as_classes(classes)
