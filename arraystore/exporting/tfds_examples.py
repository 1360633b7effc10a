"""Samples as ``tf.train.Example``, and the files with which TensorFlow Datasets describes them.

`FILES` are those that ``tfds.builder_from_directory`` reads. Features are ``file_name``, ``image``
and ``label``, as those of TFDS' ``imagenet2012``, and further columns as tensors.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.errors import FormatError, brief
from arraystore.exporting.shard_format import ShardFormat, Written
from arraystore.sources.image_suffix import N_BYTES, suffix_of
from arraystore.sources.train_example import encode_example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import ClassVar

    from arraystore.dataset.columns import Column
    from arraystore.exporting.contents import Contents, Group, Shard

FILES: Final = ("dataset_info.json", "features.json", "label.labels.txt")
"""What is written beside the shards."""

_PACKAGE: Final = "tensorflow_datasets.core.features"
_VERSION: Final = "1.0.0"
_KINDS: Final = "biufT"
"""Kinds of data types that features have: bool, numbers except complex ones, and text."""

_ENCODINGS: Final = {".png": "png"}


class TFDSExamples(ShardFormat):
    """Shards of examples; a subclass writes records to files.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    FormatError
        If the id of a class contains a line feed: TFDS lists the ids one a line.
    """

    file_format: ClassVar[str]
    """Name of TFDS for the format of the files, which is their suffix."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        for name in contents.label_names:
            if "\n" in name:
                raise FormatError(f"{contents.title}: the class {brief(name)} has a line feed")
        columns = contents.splits[0].columns
        self._further = [name for name in columns if columns[name].dtype.kind in _KINDS]

    @property
    @override
    def left_out(self) -> tuple[str, ...]:
        return tuple(name for name in self.contents.columns if name not in self._further)

    def shard_name(self, shard: Shard) -> str:
        """Return the name that TFDS gives the shard of a data set."""
        count = f"{shard.number:05d}-of-{shard.count:05d}"
        return f"{self._dataset}-{shard.split}.{self.file_format}-{count}"

    @property
    def _dataset(self) -> str:
        """Name of the data set, in the characters that TFDS allows."""
        name = re.sub(r"\W", "_", self.contents.dataset, flags=re.ASCII).lower()
        return name if name[:1].isalpha() else f"images_{name}"

    @abstractmethod
    def writer(self, path: Path) -> AbstractContextManager[Callable[[bytes], object]]:
        """Return a context that creates a file, and gives a function that appends a record."""

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        name = self.shard_name(shard)
        encoding, n_records, n_bytes = "", 0, 0
        with self.writer(target / name) as append:
            for group in groups:
                encoding = encoding or _encoding_of(group.images[0])
                n_records += len(group)
                n_bytes += sum(map(len, group.images))
                for example in self._examples(group):
                    append(example)
        return Written((name,), json.dumps([encoding, n_records, n_bytes]))

    def _examples(self, group: Group) -> Iterator[bytes]:
        """Yield the serialized example of each sample."""
        for i, (name, label) in enumerate(zip(group.names, group.labels.tolist(), strict=True)):
            features: dict[str, Any] = {
                "file_name": [name.encode()],
                "image": [group.images[i]],
                "label": np.array([label], dtype=np.int64),
            }
            for column in self._further:
                features[column] = _flat(group.values[column][i])
            yield encode_example(features)

    @override
    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        splits = []
        written = [(shard.split, *json.loads(state)) for shard, state in shards]
        for split in self.contents.splits:
            mine = [(n, n_bytes) for name, _, n, n_bytes in written if name == split.name]
            splits.append(
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split.name,
                    "numBytes": str(sum(n_bytes for _, n_bytes in mine)),
                    "shardLengths": [str(n) for n, _ in mine],
                }
            )
        info = {
            "description": f"Exported by arraystore: {self.contents.splits[0].samples.name}.",
            "fileFormat": self.file_format,
            "name": self._dataset,
            "splits": splits,
            "version": _VERSION,
        }
        encoding = next((found for _, found, *_ in written if found), "jpeg")
        documents = (json.dumps(info, indent=2), json.dumps(self._features(encoding), indent=2))
        labels = "".join(f"{name}\n" for name in self.contents.label_names)
        for name, text in zip(FILES, (*documents, labels), strict=True):
            (target / name).write_text(text, encoding="utf-8")

    def _features(self, encoding: str) -> dict[str, Any]:
        """Return what ``features.json`` says of the features; the encoding is the first image's."""
        image = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}
        found = {
            "file_name": {"pythonClassName": f"{_PACKAGE}.text_feature.Text", "text": {}},
            "image": {
                "pythonClassName": f"{_PACKAGE}.image_feature.Image",
                "image": image | {"encodingFormat": encoding},
            },
            "label": {
                "pythonClassName": f"{_PACKAGE}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": str(len(self.contents.label_names))},
            },
        }
        columns = self.contents.splits[0].columns
        for column in self._further:
            found[column] = _tensor(columns[column])
        return {
            "pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict",
            "featuresDict": {"features": found},
        }


def _encoding_of(image: memoryview) -> str:
    return _ENCODINGS.get(suffix_of(bytes(image[:N_BYTES])), "jpeg")


def _flat(value: Any) -> Any:
    """Return the value of a column as `encode_example` takes it."""
    if isinstance(value, str):
        return [value.encode()]
    found = np.asarray(value).reshape(-1)
    if found.dtype.kind == "T":
        return [text.encode() for text in found.tolist()]
    return found


def _tensor(column: Column) -> dict[str, Any]:
    """Return what ``features.json`` says of a column."""
    is_text = column.dtype.kind == "T"
    sizes = [str(-1 if n is None else n) for n in column.row_shape]
    if is_text and not sizes:
        return {"pythonClassName": f"{_PACKAGE}.text_feature.Text", "text": {}}
    tensor = {
        "dtype": "string" if is_text else column.dtype.name,
        "encoding": "none",
        "shape": {"dimensions": sizes} if sizes else {},
    }
    return {"pythonClassName": f"{_PACKAGE}.tensor_feature.Tensor", "tensor": tensor}
