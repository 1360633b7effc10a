"""`Split.torch` and `Split.torch_batches` without PyTorch; tests/frameworks has the others."""

from __future__ import annotations

import sys

import pytest

import arraystore


def test_missing_torch_is_named_with_its_extra(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "arraystore.integrations.torch_datasets", raising=False)
    for method, options in (("torch", {}), ("torch_batches", {"batch_size": 4})):
        message = rf"Split.{method} needs torch, .*; install arraystore\[torch\]"
        with pytest.raises(arraystore.SourceError, match=message):
            getattr(train, method)(**options)
