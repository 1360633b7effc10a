"""Arguments of public functions are validated, and errors name them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS: dict[Callable[..., Any], tuple[object, ...]] = {
    arraystore.open: ("nothing.zarr",),
    arraystore.convert: ("folder:nothing", "a.zarr"),
    arraystore.copy: ("nothing.zarr", "a.zarr"),
    arraystore.verify: ("nothing.zarr",),
    arraystore.write: ("a.zarr", {"train": []}),
    arraystore.append: ("nothing.zarr", "folder:more", "train"),
    arraystore.add_column: ("nothing.zarr", "train", "score", [1]),
    arraystore.remove_column: ("nothing.zarr", "train", "score"),
    arraystore.relocate: ("nothing.zarr", "old", "new"),
    arraystore.Split.sample: (3,),
    arraystore.Split.per_label: (1,),
    arraystore.Split.even_splits: (2,),
    arraystore.Split.batches: (4,),
    arraystore.Split.to_arrow: (),
    arraystore.Split.to_pandas: (),
    arraystore.Split.torch: (),
    arraystore.map_blocks: (len, "x"),
    arraystore.export: ("a",),
}
"""Public functions with bool parameters, and their other arguments."""


def bools_of(call: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that take bools, or bools and None."""
    given = inspect.signature(call).parameters.values()
    return [p.name for p in given if p.annotation in ("bool", "bool | None")]


def public_calls() -> list[Callable[..., Any]]:
    public = [getattr(arraystore, name) for name in arraystore.__all__ if name[0] != "_"]
    methods = [
        method
        for thing in (arraystore.Store, arraystore.Split)
        for name, method in inspect.getmembers(thing, inspect.isfunction)
        if name[0] != "_"
    ]
    functions = [call for call in public + methods if inspect.isfunction(call)]
    internal = ("Internal.", "made for the")
    return [f for f in functions if not any(mark in (f.__doc__ or "") for mark in internal)]


def test_calls_cover_every_bool_parameter() -> None:
    assert {call for call in public_calls() if bools_of(call)} == CALLS.keys()


@pytest.mark.parametrize("value", ["no", "", 0, 1, [False]], ids=repr)
@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call in CALLS for name in bools_of(call)]
)
def test_other_value_for_a_bool_raises(
    call: Callable[..., Any],
    name: str,
    value: object,
    train: arraystore.Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    takes_split = next(iter(inspect.signature(call).parameters)) in ("self", "split", "samples")
    arguments = (train, *CALLS[call]) if takes_split else CALLS[call]
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got "):
        call(*arguments, **{name: value})
    assert not [*tmp_path.iterdir()]


def test_numpy_bools_are_accepted(train: arraystore.Split, path: Path) -> None:
    assert len(train.sample(50, replace=np.True_)) == 50  # type: ignore[arg-type] # as of a mask
    assert arraystore.open(path, mmap=np.bool_(False))["train"].image_bytes[0]  # type: ignore[arg-type] # the same
