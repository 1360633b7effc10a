"""Arrays of the caller that receive the images of batches, in turn.

Images are decoded into memory of the batch, by several threads and ahead of the loop, and copied
when the loop requests the batch. So only the thread of the loop writes to the caller's arrays; a
loop that was left, whose threads may still be at work, does not. The copy takes about a hundredth
of the time of decoding.
"""

from __future__ import annotations

from contextlib import closing
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore.dataset.batch import Batch, BatchWithColumns
from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from arraystore._typing import Pixels
    from arraystore.images.crops import Framing


def as_outs(
    out: Pixels | Sequence[Pixels], framing: Framing | None, batch_size: int
) -> tuple[Pixels, ...]:
    """Return the arrays that receive batches.

    Parameters
    ----------
    out : ndarray of uint8, or sequence of several
        As the user gave it.
    framing : Framing or None
    batch_size : int

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If the images have no common size, or an array has another shape, another dtype, is
        read-only, or shares memory with another one.
    """
    if framing is None:
        raise ValueError("out needs a size")
    outs = (out,) if isinstance(out, np.ndarray) else tuple(out)
    if not outs or not all(isinstance(one, np.ndarray) for one in outs):
        kinds = sorted({type(one).__name__ for one in outs}) or ["nothing"]
        raise TypeError(escaped(f"out must be an array, or several, got {', '.join(kinds)}"))
    shape = framing.shape(batch_size)
    for one in outs:
        if one.shape != shape or one.dtype != np.uint8:
            found = f"{one.dtype} and {one.shape}"
            raise ValueError(escaped(f"out must be arrays of uint8 and shape {shape}, got {found}"))
        if not one.flags.writeable:
            raise ValueError("out must be writable arrays, got a read-only one")
    if any(np.shares_memory(a, b) for i, a in enumerate(outs) for b in outs[:i]):
        raise ValueError("out must be arrays without common memory")
    return outs


def received(
    batches: Generator[Batch[Any]], outs: Sequence[Pixels], axis: int
) -> Generator[Batch[Any]]:
    """Yield batches whose images are in arrays that take turns.

    Parameters
    ----------
    batches : generator of Batch
        Closed when this is.
    outs : sequence of ndarray of uint8
        See `as_outs`.
    axis : int
        The dimension of the samples.
    """
    with closing(batches):
        for batch, out in zip(batches, cycle(outs), strict=False):
            n = len(batch.label)
            images = out[:n] if axis == 0 else out[:, :n]
            images[...] = batch.image
            plain = Batch(images, batch.label, batch.file_name)
            yield BatchWithColumns.of(plain, batch.columns) if batch.columns else plain
