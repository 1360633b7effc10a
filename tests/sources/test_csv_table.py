"""Tables of paths and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.csv_table import load
from arraystore.sources.source_options import SourceOptions
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.sample_table import Source

PICTURE: Final = picture()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "in", {"a/1.jpg": PICTURE, "b, c/2.jpg": PICTURE})


def loaded(folder: Path, text: str, kind: str = "csv", **options: Any) -> Source:
    path = folder / f"pets.{kind}"
    path.write_text(text, "utf-8")
    return load(kind, str(path), SourceOptions(**options))


def rows(source: Source, split: str = "train") -> list[tuple[str, str | None]]:
    table = source.splits[split]
    names = (*source.label_name, None)
    return [(name, names[i]) for name, i in zip(table.file_name, table.label, strict=True)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("csv", 'path,label\na/1.jpg,cat\n"b, c/2.jpg",dog\n'),
        ("csv", '\ufeffLabel, Filename \r\ncat,./a/1.jpg\r\n\r\ndog,"b, c/2.jpg"\r\n'),
        ("tsv", "image\tclass\na/1.jpg\tcat\nb, c/2.jpg\tdog"),
    ],
)
def test_paths_are_relative_to_the_table(
    kind: str, text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = loaded(folder, text, kind)
    assert rows(source) == [("a/1.jpg", "cat"), ("b, c/2.jpg", "dog")]
    assert source.notes == (
        "no split in the names of files (pets." + kind + ", …); all are in train",
    )


def test_columns_may_be_numbers_without_a_line_of_names(folder: Path) -> None:
    source = loaded(folder, "cat,7,a/1.jpg\n", fields={"image": "3", "label": "1"})
    assert rows(source) == [("a/1.jpg", "cat")]
    assert source.notes[1:] == ("further columns are left out: 1 name (2)",)


def test_split_column_divides_the_samples(folder: Path) -> None:
    text = 'path,label,split\na/1.jpg,cat,test\n"b, c/2.jpg",,train\n'
    source = loaded(folder, text)
    assert rows(source, "test") == [("a/1.jpg", "cat")]
    assert rows(source, "train") == [("b, c/2.jpg", None)]
    assert source.notes == ()
    assert len(loaded(folder, text, split="all").splits["all"]) == 2
    with pytest.raises(SourceError, match="line 2: a split cannot be named 'a b'"):
        loaded(folder, "path,label,split\na/1.jpg,cat,a b\n")


def test_absolute_paths_are_named_below_the_table(folder: Path) -> None:
    source = loaded(folder, f"path,label\n{folder}/a/1.jpg,cat\n")
    assert rows(source) == [("a/1.jpg", "cat")]
    text = "path,label,id\n../in/a/1.jpg,cat,x.jpg\n"
    with pytest.raises(SourceError, match="lies outside the folder of the file"):
        loaded(folder, "path,label\n../other.jpg,cat\n")
    assert rows(loaded(folder, text, fields={"file_name": "id"})) == [("x.jpg", "cat")]
    assert rows(loaded(folder, text, fields={"file_name": ""})) == [("000000.jpg", "cat")]


def test_missing_images_are_named_and_may_be_skipped(folder: Path, tmp_path: Path) -> None:
    text = "path,label\nno/x.jpg,cat\na/1.jpg,cat\na,dog\nno/y.jpg,dog\n"
    loaded(folder, text)
    dataset = f"csv:{folder}/pets.csv"
    message = (
        r"pets\.csv: sample 0: no/x\.jpg: No such file or directory; "
        r"2 more in train: 2 names \(a, no/y\.jpg\)"
    )
    with pytest.raises(SourceError, match=message):
        arraystore.convert(dataset, tmp_path / "a.h5", sync=False)
    report = arraystore.convert(dataset, tmp_path / "a.h5", sync=False, on_error="skip")
    assert [name for name, _ in report.splits["train"].skipped] == ["no/x.jpg", "a", "no/y.jpg"]
    assert arraystore.open(tmp_path / "a.h5")["train"].file_name.tolist() == ["a/1.jpg"]
    (folder / "a" / "1.jpg").unlink()
    found = arraystore.verify(tmp_path / "a.h5", source=dataset)
    message = "its source cannot be read: No such file or directory"
    assert [problem.message for problem in found.problems] == [message]


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("", {}, r"pets\.csv: lists no images"),
        ("path,label\n", {}, "lists no images"),
        ("x,label\n1,2\n", {}, "expected a column with the image, found 'x', 'label'"),
        ("path,x\n1,2\n", {}, "expected a column with the label, found 'path', 'x'"),
        ("path,label\na/1.jpg\n", {}, "line 2: must have 2 columns, got 1"),
        ("path,label\na/1.jpg,b,c\n", {}, "line 2: must have 2 columns, got 3"),
        ("path,label\n,b\n", {}, "line 2: has no path of an image"),
        ('path,label\n"a,b\n', {}, "must be UTF-8 text with values separated"),
        ("path,path\na,b\n", {}, "names of columns must differ"),
        ("path,label\na/1.jpg,b\n", {"label": "y"}, "no column 'y'"),
        ("path,label\na/1.jpg,1\n", {}, "labels are numbers"),
        ("path,label\na/1.jpg,b\na/1.jpg,b\n", {}, r"1 name \(a/1\.jpg\) found more than once"),
    ],
)
def test_table_that_is_not_clear_is_refused(
    text: str, fields: dict[str, str], message: str, folder: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        loaded(folder, text, fields=fields)


def test_table_that_is_not_utf_8_is_refused(folder: Path) -> None:
    (folder / "pets.csv").write_bytes(b"path,label\na/1.jpg,caf\xe9\n")
    with pytest.raises(SourceError, match="must be UTF-8 text"):
        load("csv", str(folder / "pets.csv"), SourceOptions())


def test_label_may_be_stated_to_be_absent(folder: Path) -> None:
    source = loaded(folder, "path\na/1.jpg\n", fields={"label": ""})
    assert rows(source) == [("a/1.jpg", None)]
    assert source.label_name == ()
