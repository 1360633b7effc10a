"""References in kerchunk's formats, which fsspec reads: a JSON file, or a folder of Parquet files.

Both name each object of a Zarr group, with its content or as a range of a file. fsspec loads all
of the JSON file, and of the Parquet files those that it needs.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import need
from arraystore.containers.zarr.references import chunk_keys, is_document
from arraystore.indexing.byte_range import ZEROS

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.integrations.referenced_group import Chunks, ReferencedGroup

RECORD_SIZE: Final = 10_000
"""References in a Parquet file."""


def write_json(path: Path, group: ReferencedGroup) -> None:
    """Write a JSON file of version 1."""
    with path.open("x", encoding="utf-8") as output:
        output.write('{"version": 1, "refs": {')
        before = ""
        for key, data in group.objects.items():
            output.write(f"{before}{json.dumps(key)}: {json.dumps(_inline(data))}")
            before = ",\n"
        for payload, chunks in group.payloads.items():
            places = zip(
                chunk_keys(payload, len(chunks)),
                *(column.tolist() for column in (chunks.file, chunks.start, chunks.nbytes)),
                strict=True,
            )
            for key, number, start, nbytes in places:
                if start != ZEROS:
                    reference = json.dumps([chunks.paths[number], start, nbytes])
                    output.write(f",\n{json.dumps(key)}: {reference}")
        output.write("}}\n")


def _inline(data: bytes) -> str:
    """Return content as kerchunk has it in JSON."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = "base64:"
    if text.startswith("base64:"):
        return "base64:" + base64.b64encode(data).decode()
    return text


def write_parquet(folder: Path, group: ReferencedGroup) -> None:
    """Write a folder of Parquet files, in the layout of fsspec's ``LazyReferenceMapper``.

    fsspec finds the row of a key ``FOLDER/I`` by the shape in ``FOLDER/.zarray``, a document of
    Zarr v2. In v3 the chunks of an array are below ``ARRAY/c``, so such a document is put there;
    Zarr v3 clients do not read it.

    Raises
    ------
    SourceError
        If pyarrow is not installed.
    """
    pa, pq = (
        need(name, "parquet", f"{folder.name}: Parquet") for name in ("pyarrow", "pyarrow.parquet")
    )
    documents = {key: json.loads(data) for key, data in group.objects.items() if is_document(key)}
    inline: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    for key in group.objects.keys() - documents.keys():
        name, _, number = key.rpartition("/")
        inline[name][int(number)] = group.objects[key]

    def write(name: str, n: int, rows: Any) -> None:
        documents[f"{name}/.zarray"] = {"shape": [n], "chunks": [1]}
        (folder / name).mkdir(parents=True)
        for record, first in enumerate(range(0, n, RECORD_SIZE)):
            table = pa.table(rows(slice(first, min(first + RECORD_SIZE, n))))
            file = folder / name / f"refs.{record}.parq"
            pq.write_table(table, file, compression="zstd")

    for name, found in inline.items():
        chunks = [found[i] for i in range(len(found))]
        write(name, len(chunks), lambda some, chunks=chunks: {"raw": chunks[some]})
    for payload, places in group.payloads.items():
        write(f"{payload}/c", len(places), lambda some, places=places: _rows(places, some))
    document = {"metadata": documents, "record_size": RECORD_SIZE}
    with (folder / ".zmetadata").open("x", encoding="utf-8") as output:
        json.dump(document, output)


def _rows(chunks: Chunks, some: slice) -> dict[str, Any]:
    """Return the columns of a Parquet file."""
    start, nbytes = chunks.start[some], chunks.nbytes[some]
    rows: dict[str, Any] = {
        "path": [chunks.paths[i] for i in chunks.file[some].tolist()],
        "offset": start,
        "size": nbytes,
    }
    if (start == ZEROS).any():  # fsspec has no other way to say so that all its engines read
        places = zip(start.tolist(), nbytes.tolist(), strict=True)
        rows["raw"] = [bytes(n) if first == ZEROS else None for first, n in places]
    return rows
