"""Write a part of a store on the local disk: in a workspace, as a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from arraystore.errors import escaped
from arraystore.storage.fsync import sync_tree
from arraystore.storage.open_files import close_idle_files
from arraystore.writing.local import LocalStoreWriter
from arraystore.writing.publish_part import PartRecord, finish_part

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.writing.progress import Meter


class LocalPartWriter(LocalStoreWriter):
    """Write a part of a store on the local disk.

    Its workspace is that of a conversion to the same target, so its lock excludes conversions and
    other parts. The part is a store of one split until `publish` adds that to the target.

    Parameters
    ----------
    target : Path
        The store; it exists.
    overwrite : bool
        Whether an unfinished store or part beside it may be deleted.
    sync, resume
        See `LocalStoreWriter`.

    Attributes
    ----------
    new_part : PartRecord
        What `publish` adds; to be set before.
    """

    _appends: ClassVar[bool] = True
    new_part: PartRecord

    def __init__(self, target: Path, *, overwrite: bool, sync: bool, resume: bool = False) -> None:
        super().__init__(target.resolve(), overwrite=overwrite, sync=sync, resume=resume)

    def is_free(self, group: str) -> bool:
        """Whether nothing in the folder of the store has the name of a group."""
        return not (self._target / group).exists()

    @override
    def publish(self, meter: Meter) -> None:
        self._close_journal()
        if self._sync:
            sync_tree(self._work.store)
        self.new_part.write(self._work.folder)
        try:
            finish_part(self._work.folder, self._target, sync=self._sync)
        except BaseException as error:
            error.add_note(
                escaped(
                    f"{self._work.folder} keeps the new samples, which are complete; the next "
                    "append to the store, or change of its columns, publishes them"
                )
            )
            raise
        close_idle_files()  # or deleted files would keep their disk space
