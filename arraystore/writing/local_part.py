"""Write a part of a store on the local disk: in a workspace, as a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from arraystore.containers import open_local
from arraystore.errors import escaped
from arraystore.storage.fsync import sync_tree
from arraystore.storage.open_files import close_idle_files
from arraystore.writing.local import LocalStoreWriter
from arraystore.writing.publish_part import finish_part
from arraystore.writing.store_writer import PartWriter

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.writing.progress import Meter
    from arraystore.writing.publish_part import PartRecord


class LocalPartWriter(LocalStoreWriter, PartWriter):
    """Write a part of a store on the local disk; see `PartWriter`.

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
    """

    _appends: ClassVar[bool] = True
    new_part: PartRecord

    def __init__(self, target: Path, *, overwrite: bool, sync: bool, resume: bool = False) -> None:
        super().__init__(target.resolve(), overwrite=overwrite, sync=sync, resume=resume)

    @override
    def is_free(self, group: str) -> bool:
        tree = open_local(self._target)[1].tree()
        is_listed = group in {*tree.groups, *tree.columns, *tree.others}
        return not is_listed and not (self._target / group).exists()

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
