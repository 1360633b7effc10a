"""A conversion or append that records some shards, and then waits until it is killed."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pytest

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.indexing.layout import blocks
from arraystore.writing import store_writer
from arraystore.writing.zarr_bucket import ZarrBucketWriter


def main(
    source: str, target: str, options: str, shard_nbytes: str, number: str, split: str = ""
) -> None:
    """Convert, or append to a split; print a line when the process is to be killed."""
    nbytes, record, left = int(shard_nbytes), ZarrBucketWriter.record, int(number)

    def record_and_wait(self: ZarrBucketWriter, *args: Any) -> None:
        nonlocal left
        record(self, *args)
        left -= 1
        if not left:
            print("kill me", flush=True)
            sys.stdin.read()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", nbytes)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", nbytes // 8)
        patch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=nbytes))
        patch.setattr(ZarrBucketWriter, "record", record_and_wait)
        known: Any = {"storage_options": json.loads(options)}
        if split:
            arraystore.append(target, f"folder:{source}", split, **known)
        else:
            arraystore.convert(f"folder:{source}", target, **known)


if __name__ == "__main__":
    main(*sys.argv[1:])
