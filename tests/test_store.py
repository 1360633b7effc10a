"""Stores as objects: equality, hash and context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import arraystore

if TYPE_CHECKING:
    from pathlib import Path


def test_store_equals_only_itself_and_is_a_context(path: Path) -> None:
    with arraystore.open(path) as one, arraystore.open(path) as other:
        assert one == one
        assert one != other
        assert len({one, other}) == 2
