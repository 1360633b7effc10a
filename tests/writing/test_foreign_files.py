"""Files beside a target that arraystore did not create."""

from __future__ import annotations

from pathlib import Path

import pytest

from arraystore import StorageError
from arraystore.writing.workspace import workspace
from tests.support import write_folder

OLD = b"\x89HDF, and what the old store held"


@pytest.mark.parametrize("kind", ["a link", "a folder"])
def test_foreign_workspace_is_not_emptied(kind: str, tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "theirs", {"precious": b"1"})
    work = tmp_path / ".a.h5.partial"
    work.symlink_to(theirs) if kind == "a link" else theirs.rename(work)
    with (
        pytest.raises(StorageError, match="files that arraystore did not create"),
        workspace(tmp_path / "a.h5"),
    ):
        pass
    assert (work / "precious").read_bytes() == b"1"


def test_old_store_is_kept_if_its_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_folder(tmp_path / "a.h5", {"zarr.json": OLD})

    def taken(self: Path, source: Path) -> None:
        self.write_bytes(b"theirs")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr("arraystore.writing.workspace.exchange", lambda *_: False)
    monkeypatch.setattr(Path, "hardlink_to", taken)
    with workspace(target, overwrite=True) as work:
        work.store.write_bytes(b"new")
        with pytest.raises(FileExistsError) as caught:
            work.publish()
    kept = tmp_path / "a.replaced-1.h5"
    assert str(kept) in caught.value.__notes__[0]
    assert (kept / "zarr.json").read_bytes() == OLD
    assert target.read_bytes() == b"theirs"
