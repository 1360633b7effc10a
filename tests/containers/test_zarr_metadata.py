"""Metadata documents of Zarr arrays, parsed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from arraystore.containers.zarr.metadata import ArrayMetadata, consolidated_documents
from arraystore.containers.zarr.writer import ZarrWriter
from arraystore.errors import FormatError
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    INNER_CHUNK_NBYTES,
    SHARD_NBYTES,
    Column,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Document = dict[str, Any]

named = pytest.mark.parametrize


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """Return the documents of a column of numbers, of one of text, and of a payload."""
    path = tmp_path_factory.mktemp("metadata") / "a.zarr"
    writer = ZarrWriter(path)
    writer.write_column("label", np.array([1, 2, 3]), COLUMNS["label"])
    writer.write_column("file_name", ["a", "b", "c"], COLUMNS["file_name"])
    writer.create_payload("image_payload", 10)
    writer.close()
    root: Document = json.loads((path / "zarr.json").read_text())
    found = consolidated_documents(root)
    assert found is not None
    return found


def test_column_is_parsed(documents: dict[str, Document]) -> None:
    for name in ("label", "file_name"):
        array = ArrayMetadata.parse(documents[name], name)
        assert array.column == COLUMNS[name]
        assert array.is_column
        assert (array.length, array.chunk_length) == (3, COLUMN_CHUNK_ROWS)
        array.check_column(COLUMNS[name].data_type)
        with pytest.raises(FormatError, match=f"^{name}: must hold int32 with codecs"):
            array.check_column("int32")


def test_payload_is_parsed(documents: dict[str, Document]) -> None:
    array = ArrayMetadata.parse(documents["image_payload"], "image_payload")
    assert not array.is_column
    assert array.column == Column("uint8", "byte", 0)
    assert array.chunk_length == SHARD_NBYTES
    assert array.inner_chunk_length() == INNER_CHUNK_NBYTES


@named("field", ["shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"])
def test_missing_field_raises(documents: dict[str, Document], field: str) -> None:
    document = {name: value for name, value in documents["label"].items() if name != field}
    with pytest.raises(FormatError, match=f"^at: is not the metadata of a 1-d array: .*{field}"):
        ArrayMetadata.parse(document, "at")


@named(
    "change",
    [
        lambda document: document.update(shape=[1, 2]),
        lambda document: document.update(shape="no numbers"),
        lambda document: document.update(dimension_names=["a", "b"]),
        lambda document: document.update(dimension_names=[5]),
        lambda document: document.update(chunk_grid=["regular"]),
        lambda document: document.update(codecs=["bytes"]),
    ],
)
def test_field_of_wrong_type_raises(
    documents: dict[str, Document], change: Callable[[Document], object]
) -> None:
    document = dict(documents["label"])
    change(document)
    with pytest.raises(FormatError, match=r"^at: is not the metadata of a 1-d array: "):
        ArrayMetadata.parse(document, "at")


@named(
    ("data_type", "fill_value", "is_column"),
    [
        ("int8", -128, True),
        ("int8", 128, False),
        ("int8", True, False),
        ("float32", "NaN", True),
        ("float32", "0x7fc00001", False),
        ("float64", 10**400, False),
        ("bool", True, True),
        ("bool", 1, False),
        ("complex64", [0, 0], False),
        ("no type", 0, False),
    ],
)
def test_fill_value_decides_what_is_a_column(
    documents: dict[str, Document], data_type: str, fill_value: Any, is_column: bool
) -> None:
    document = documents["label"] | {"data_type": data_type, "fill_value": fill_value}
    assert ArrayMetadata.parse(document, "at").is_column is is_column


@named(
    ("change", "message"),
    [
        ({"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}}, "layout"),
        ({"shape": [-1]}, "layout"),
        ({"shape": [2**63]}, "layout"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]}, "little-endian"),
    ],
)
def test_column_that_cannot_be_decoded_raises(
    documents: dict[str, Document], change: Document, message: str
) -> None:
    document = documents["label"] | change
    if "codecs" in change:
        document["codecs"] = [*change["codecs"], *documents["label"]["codecs"][1:]]
    with pytest.raises(FormatError, match=message):
        ArrayMetadata.parse(document, "at").check_column("int64")


@named("root", [{}, {"consolidated_metadata": None}, {"consolidated_metadata": {"metadata": []}}])
def test_root_without_consolidated_metadata(root: Document) -> None:
    assert consolidated_documents(root) is None
