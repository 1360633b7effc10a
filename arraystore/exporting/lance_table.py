"""Lance tables, one a split, with the images in a column of large binary values.

A shard is a fragment of the table. The fragments are written first; the table exists when all of
them are committed together.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

from typing_extensions import override

from arraystore._arguments import need
from arraystore.exporting.arrow_rows import ArrowFormat
from arraystore.exporting.shard_format import Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from arraystore.exporting.contents import Contents, ExportedSplit, Group, Shard

SUFFIX: Final = ".lance"

_DATA: Final = "data"
_CLASSES: Final = b"label_names"
"""Key of the metadata of the label field: the ids of the classes, as a JSON list."""

_ALL: Final = 2**62


class LanceTable(ArrowFormat):
    """A table is the folder ``SPLIT.lance``.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    SourceError
        If pylance is not installed.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of `lance.fragment.write_fragments`."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self._lance = need("lance", "lance", "an export to lance")
        self._fragment = need("lance.fragment", "lance", "an export to lance")
        self._schemas = {split.name: self._schema(split) for split in contents.splits}

    def _schema(self, split: ExportedSplit) -> Any:
        pa = self.pa
        classes = {_CLASSES: json.dumps(list(self.contents.label_names)).encode()}
        fields = [
            self.image_field(),
            pa.field("label", pa.int64(), metadata=classes),
            pa.field("file_name", pa.string()),
        ]
        return pa.schema([*fields, *self.further_fields(split)])

    def image_field(self) -> Any:
        """Return the field of the images in the schema."""
        return self.pa.field("image", self.pa.large_binary())

    def image_values(self, group: Group, split: ExportedSplit) -> Any:
        """Return the values of this field for some samples."""
        del split  # of use to a subclass
        return self.images(group, self.pa.large_binary())

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        if shard.start == shard.stop:
            return Written((), "[]")
        table, schema = target / f"{shard.split}{SUFFIX}", self._schemas[shard.split]
        (split,) = (s for s in self.contents.splits if s.name == shard.split)
        failures: list[BaseException] = []
        try:
            fragments = self._fragment.write_fragments(
                self.pa.RecordBatchReader.from_batches(
                    schema, self._batches(groups, split, schema, failures)
                ),
                str(table),
                schema,
                mode="create",
                max_rows_per_file=_ALL,
                max_bytes_per_file=_ALL,
                **self.options,
            )
        except OSError:
            if failures:  # of reading; Lance has only its text
                raise failures[0] from None
            raise
        documents = [fragment.to_json() for fragment in fragments]
        files = (file["path"] for document in documents for file in document["files"])
        names = tuple(f"{table.name}/{_DATA}/{file}" for file in files)
        return Written(names, json.dumps(documents))

    def _batches(
        self,
        groups: Iterator[Group],
        split: ExportedSplit,
        schema: Any,
        failures: list[BaseException],
    ) -> Iterator[Any]:
        """Yield the record batch of each group; an exception is kept and raised."""
        pa = self.pa
        try:
            for group in groups:
                fixed = [
                    self.image_values(group, split),
                    pa.array(group.labels),
                    pa.array(group.names, pa.string()),
                ]
                yield pa.record_batch([*fixed, *self.further_arrays(group, split)], schema=schema)
        except BaseException as error:
            failures.append(error)
            raise

    @override
    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        for name, schema in self._schemas.items():
            states = [json.loads(state) for shard, state in shards if shard.split == name]
            fragments = [
                self._fragment.FragmentMetadata.from_json(json.dumps(document))
                for state in states
                for document in state
            ]
            operation = self._lance.LanceOperation.Overwrite(schema, fragments)
            self._lance.LanceDataset.commit(str(target / f"{name}{SUFFIX}"), operation)
