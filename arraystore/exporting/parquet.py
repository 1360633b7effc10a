"""Parquet files as Hugging Face's ``datasets`` writes them: an image is a struct of bytes and path.

The metadata of the schema, under the key ``huggingface``, say that the struct is an image, and name
the classes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore._arguments import need
from arraystore.errors import FormatError, brief
from arraystore.exporting.arrow_rows import ArrowFormat
from arraystore.exporting.shard_format import Written
from arraystore.sources.parquet import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arraystore.exporting.contents import Contents, ExportedSplit, Group, Shard

SUFFIX: Final = ".parquet"

_MAX_NBYTES: Final = 2**31 - 1


class Parquet(ArrowFormat):
    """Shards are ``SPLIT-00000-of-0000N.parquet``; each group of samples is a row group.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    FormatError
        If an image has 2 GiB or more, which the type of the column does not allow.
    SourceError
        If pyarrow is not installed.
    """

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        for split in contents.splits:
            if split.nbytes.max(initial=0) > _MAX_NBYTES:
                index = int(split.nbytes.argmax())
                raise FormatError(
                    f"{contents.title}: {brief(split.names[index])} has "
                    f"{split.nbytes[index]:,} bytes; binary values in Parquet have at most "
                    f"{_MAX_NBYTES:,}; choose another format, or leave it out"
                )
        self._pq = need("pyarrow.parquet", "parquet", "an export to parquet")
        pa = self.pa
        self._image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
        self._schemas = {split.name: self._schema(split) for split in contents.splits}

    def _schema(self, split: ExportedSplit) -> Any:
        pa = self.pa
        classes = {"names": list(self.contents.label_names), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": classes}
        metadata = {METADATA: json.dumps({"info": {"features": features}}).encode()}
        fields = [pa.field("image", self._image), pa.field("label", pa.int64())]
        return pa.schema([*fields, *self.further_fields(split)], metadata)

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        name, schema = shard.file_name(SUFFIX), self._schemas[shard.split]
        (split,) = (s for s in self.contents.splits if s.name == shard.split)
        # Compressed images do not get smaller; dictionaries of them would only take memory.
        writer = self._pq.ParquetWriter(
            target / name,
            schema,
            compression={"image.bytes": "none"},
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        with writer:
            for group in groups:
                writer.write_table(self.pa.table(self._rows(group, split), schema=schema))
        return Written((name,))

    def _rows(self, group: Group, split: ExportedSplit) -> list[Any]:
        pa = self.pa
        parts = [self.images(group, pa.binary()), pa.array(group.names, pa.string())]
        image = pa.StructArray.from_arrays(parts, fields=list(self._image))
        return [image, pa.array(group.labels), *self.further_arrays(group, split)]
