"""The root of a store, which the store and its splits share."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING

from arraystore.dataset.class_names import ClassNames
from arraystore.dataset.kinds import Kinds
from arraystore.errors import FormatError, VersionError, brief, escaped
from arraystore.indexing.hierarchy import Hierarchy
from arraystore.schema import (
    HIERARCHY,
    HIERARCHY_COLUMNS,
    HIERARCHY_VERSION,
    NEWEST_VERSIONS,
    ROOT_COLUMNS,
    DatasetInfo,
    check_version,
)

if TYPE_CHECKING:
    from arraystore.reading.store_handle import StoreHandle


class StoreRoot:
    """The attributes and the classes of a store, each read when first used.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    """

    def __init__(self, handle: StoreHandle) -> None:
        self.handle = handle
        self._read: tuple[tuple[int, int], DatasetInfo] | None = None

    @property
    def address(self) -> str:
        """Location of the store, without a password."""
        return self.handle.address

    def read(self) -> tuple[tuple[int, int], DatasetInfo]:
        """Read the version of the format and the description of the data set, once.

        Warns
        -----
        UserWarning
            If the minor version is newer than this release.

        Raises
        ------
        FormatError
            If the root is not that of a store.
        VersionError
            If the format has another major version.
        """
        if self._read is None:
            attributes = self.handle.container.attributes()
            version = check_version(attributes, location=self.address)
            newest = dict(NEWEST_VERSIONS)[version[0]]
            if version[1] > newest:
                newer, known = (f"{version[0]}.{minor}" for minor in (version[1], newest))
                warnings.warn(
                    escaped(
                        f"{self.address}: has format version {newer}, newer than {known} of this "
                        "release; what it adds is ignored"
                    ),
                    stacklevel=3,
                )
            self._read = version, DatasetInfo.from_attributes(attributes, location=self.address)
        return self._read

    @property
    def dataset(self) -> DatasetInfo:
        """Description of the data set."""
        return self.read()[1]

    @cached_property
    def class_names(self) -> ClassNames:
        """Ids and words of the classes, read together."""
        types = {name: column.data_type for name, column in ROOT_COLUMNS.items()}
        columns = dict(zip(types, self.handle.container.read_columns(types), strict=True))
        return ClassNames(columns["label_name"].tolist(), columns["label_words"].tolist())

    @cached_property
    def hierarchy(self) -> Hierarchy | None:
        """Ancestors of the classes; None if the store has none.

        Raises
        ------
        FormatError
            If they are not as specified.
        VersionError
            If they have another major version than this release reads.
        """
        version = self.dataset.label_hierarchy
        if not version:
            return None
        location = f"{self.address}/{HIERARCHY}"
        known = HIERARCHY_VERSION.partition(".")[0]
        if version.partition(".")[0] != known:
            raise VersionError(
                f"{location}: version {brief(version)} cannot be read, this release reads "
                f"{known}.x; upgrade arraystore"
            )
        container = self.handle.container
        types = {
            f"{HIERARCHY}/{name}": column.data_type for name, column in HIERARCHY_COLUMNS.items()
        }
        names, parent, indptr, words = container.read_columns(types)
        notice = container.attributes(HIERARCHY).get("notice", "")
        hierarchy = Hierarchy(
            tuple(names.tolist()), tuple(words.tolist()), parent, indptr, str(notice)
        )
        for fault in hierarchy.faults(len(self.class_names.ids)):
            raise FormatError(f"{location}: {fault}")
        return hierarchy

    @cached_property
    def kinds(self) -> Kinds:
        """Classes by what they are a kind of; `ValueError` if the store has no hierarchy."""
        if self.hierarchy is None:
            raise ValueError(
                escaped(
                    f"{self.address}: the store has no hierarchy of its classes, which is_a needs; "
                    "if they are those of ImageNet, convert it again"
                )
            )
        return Kinds(self.class_names.ids, self.class_names.words, self.hierarchy)
