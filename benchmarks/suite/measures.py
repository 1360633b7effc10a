"""What is measured of open peers, in this process, with the files in the page cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from time import perf_counter
from typing import Final, NamedTuple, TypeVar

import numpy as np
import simplejpeg

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.files import memory_nbytes, read_all, size_of
from benchmarks.suite.peers.base import Peer

T = TypeVar("T")

BATCH: Final = 256
_DECODED: Final = 64
"""Images in a batch that is decoded."""
_CHECKED: Final = 32
_LABELS: Final = 16
_MEMORY_SHARE: Final = 0.7
"""Of the memory: more than that is not all kept in the page cache."""
_GETS: Final = 32
"""Single images between two looks at the clock."""

Figures = dict[str, dict[str, list[float]]]
"""Of each peer, of each measure, one figure a round; none where it has no such operation."""


class Draw(NamedTuple):
    """What is asked of all peers in one round."""

    batches: Ints
    """Positions, shape (n_batches, size)."""
    labels: list[int]

    @classmethod
    def of(cls, source: Source, *, seed: int, number: int) -> "Draw":
        """Draw for one round: batches without repetition, and labels."""
        rng = np.random.default_rng((seed, number))
        size = min(BATCH, len(source))
        n_batches = max(1, min(64, len(source) // size))
        batches = rng.permutation(len(source))[: n_batches * size].reshape(n_batches, size)
        return cls(batches, rng.integers(source.n_classes, size=_LABELS).tolist())


def gets(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return single images a second."""
    positions, one = draw.batches.ravel().tolist(), peer.one
    done, begin = 0, perf_counter()
    for start in range(0, len(positions), _GETS):
        for position in positions[start : start + _GETS]:
            one(position)
            done += 1
        if perf_counter() - begin > seconds:
            break
    return done / (perf_counter() - begin)


def _rate(operation: Callable[[Ints], object], batches: Sequence[Ints], seconds: float) -> float:
    """Return images a second; a batch is kept until the next is there, as loops do."""
    done, begin = 0, perf_counter()
    for batch in batches:
        kept = operation(batch)
        done += len(batch)
        if perf_counter() - begin > seconds:
            break
    elapsed = perf_counter() - begin
    del kept
    return done / elapsed


def batches(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return images a second, read a batch at a time."""
    return _rate(peer.batch, list(draw.batches), seconds)


def views(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return views a second, taken a batch at a time; nobody looks at the bytes."""
    return _rate(peer.views, list(draw.batches), seconds)


def arenas(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return images a second, a batch in one buffer."""
    return _rate(peer.arena, list(draw.batches), seconds)


def scan(peer: Peer, _draw: Draw, seconds: float) -> float:
    """Return MB a second, reading from the first image on."""
    images, done, begin = peer.scan(), 0, perf_counter()
    while group := list(islice(images, BATCH)):
        done += sum(map(len, group))
        if perf_counter() - begin > seconds:
            break
    return done / (perf_counter() - begin) / 1e6


def label(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return milliseconds for all images of a label."""
    begin = perf_counter()
    for done, value in enumerate(draw.labels, 1):  # noqa: B007 - how many were done is wanted
        peer.label(value)
        if perf_counter() - begin > seconds:
            break
    return (perf_counter() - begin) / done * 1e3


def decode(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return images a second, read and decoded, a batch at a time."""
    return _rate(peer.decode, [batch[:_DECODED] for batch in draw.batches], seconds)


WARM: Final[Mapping[str, Callable[[Peer, Draw, float], float]]] = {
    "one": gets,
    "batch": batches,
    "views": views,
    "arena": arenas,
    "scan": scan,
    "label": label,
    "decode": decode,
}
"""Measures, by the operation of a peer that each needs."""


def measure_warm(
    peers: Sequence[Peer],
    source: Source,
    *,
    rounds: int,
    seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> Figures:
    """Let all open peers take turns at each measure.

    Parameters
    ----------
    peers : sequence of Peer
        All are open.
    source : Source
        What they were made from.
    rounds : int
        In each, every peer does everything, on the same draw; another begins each time.
    seconds : float
        How long one measure lasts, about; each does one unit at the least.
    seed : int
        Fixes what is drawn.
    say : callable
        Is told what is done now.

    Returns
    -------
    Figures
        By the names of the peers.
    """
    figures: Figures = {peer.name: {} for peer in peers}
    fits = sum(map(size_of, {peer.folder for peer in peers})) < _MEMORY_SHARE * memory_nbytes()
    for number in range(rounds):
        draw = Draw.of(source, seed=seed, number=number)
        for peer, operation in turns(peers, number, fits=fits):
            say(f"warm, round {number + 1} of {rounds}, {operation}: {peer.name}")
            read_all(peer.folder)  # of data larger than the memory all but a few are gone
            figure = WARM[operation](peer, draw, seconds)
            figures[peer.name].setdefault(operation, []).append(figure)
    return figures


def turns(peers: Sequence[Peer], number: int, *, fits: bool) -> list[tuple[Peer, str]]:
    """Return the order of one round: a measure after the other, or a peer after the other.

    The first compares better. The second reads each peer's files once a round, where not
    all of them fit into the memory.
    """
    found = [(peer, operation) for peer in rotated(peers, number) for operation in WARM]
    found = [(peer, operation) for peer, operation in found if peer.can(operation)]
    return sorted(found, key=lambda turn: [*WARM].index(turn[1])) if fits else found


def rotated(items: Sequence[T], number: int) -> Iterator[T]:
    """Yield the items, beginning with another each round."""
    first = number % len(items)
    yield from items[first:]
    yield from items[:first]


def check(peer: Peer, source: Source, *, seed: int) -> None:
    """Compare what a peer returns with the source.

    Raises
    ------
    ValueError
        If an image is not the one of the source, or is none of the type promised.
    """
    positions = np.random.default_rng(seed).permutation(len(source))[:_CHECKED]
    wanted = [source.read(position) for position in positions.tolist()]
    found: dict[str, Sequence[object]] = {"scan": list(islice(peer.scan(), _CHECKED))}
    expected = {"scan": [source.read(i) for i in range(min(_CHECKED, len(source)))]}
    if peer.can("one"):
        found["one"] = [peer.one(position) for position in positions.tolist()]
    if peer.can("batch"):
        found["batch"] = peer.batch(positions)
    if peer.can("views"):
        found["views"] = list(map(bytes, peer.views(positions)))
    if peer.can("arena"):
        buffer, offsets = peer.arena(positions)
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        found["arena"] = [bytes(buffer[start:stop]) for start, stop in bounds]
    if peer.can("label"):
        last = source.n_classes - 1
        found["label"] = peer.label(last)
        expected["label"] = [source.read(i) for i in np.flatnonzero(source.label == last).tolist()]
    for operation, images in found.items():
        if not all(type(image) is bytes for image in images):
            raise ValueError(f"{peer.name}: {operation} must return bytes")
        if list(images) != expected.get(operation, wanted):
            raise ValueError(f"{peer.name}: {operation} must return the bytes of the source")
    if peer.can("decode"):
        pixels = [simplejpeg.decode_jpeg(data).astype(np.int16) for data in wanted]
        pairs = list(zip(pixels, peer.decode(positions), strict=True))
        if not all(a.shape == b.shape and abs(a - b).max() <= 2 for a, b in pairs):
            raise ValueError(f"{peer.name}: decode must return the pixels of the source")
