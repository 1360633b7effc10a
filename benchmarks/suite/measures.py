"""Measures of open peers in this process, with the files in the page cache."""

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
"""Number of images in a decoded batch."""
_CHECKED: Final = 32
_LABELS: Final = 16
_MEMORY_SHARE: Final = 0.7
"""Share of the memory up to which all files stay in the page cache."""
_GETS: Final = 32
"""Number of single images between two readings of the clock."""

Figures = dict[str, dict[str, list[float]]]
"""One figure per round, by peer and measure; missing if the peer lacks the operation."""


class Draw(NamedTuple):
    """The positions and labels that all peers read in one round."""

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
    """Return single images per second."""
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
    """Return images per second; a batch is kept until the next exists, as loops keep it."""
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
    """Return images per second, read in batches."""
    return _rate(peer.batch, list(draw.batches), seconds)


def views(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return views per second, in batches; the bytes are not touched."""
    return _rate(peer.views, list(draw.batches), seconds)


def arenas(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return images per second, each batch in one buffer."""
    return _rate(peer.arena, list(draw.batches), seconds)


def scan(peer: Peer, _draw: Draw, seconds: float) -> float:
    """Return MB per second, reading in order from the first image."""
    images, done, begin = peer.scan(), 0, perf_counter()
    while group := list(islice(images, BATCH)):
        done += sum(map(len, group))
        if perf_counter() - begin > seconds:
            break
    return done / (perf_counter() - begin) / 1e6


def label(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return milliseconds for all images of a label."""
    begin = perf_counter()
    for done, value in enumerate(draw.labels, 1):  # noqa: B007 - used after the loop
        peer.label(value)
        if perf_counter() - begin > seconds:
            break
    return (perf_counter() - begin) / done * 1e3


def decode(peer: Peer, draw: Draw, seconds: float) -> float:
    """Return images per second, read and decoded in batches."""
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
"""Measures by the operation of a peer that they time."""


def measure_warm(
    peers: Sequence[Peer],
    source: Source,
    *,
    rounds: int,
    seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> Figures:
    """Measure all open peers in turns.

    Parameters
    ----------
    peers : sequence of Peer
        Open peers.
    source : Source
        Source of the peers.
    rounds : int
        Number of rounds. In each, all peers read the same draw; the first peer changes.
    seconds : float
        Approximate time of one measure; each does at least one unit.
    seed : int
        Determines the draws.
    say : callable
        Receives a description of each step.

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
            read_all(peer.folder)  # if the data exceed the memory, most were evicted
            figure = WARM[operation](peer, draw, seconds)
            figures[peer.name].setdefault(operation, []).append(figure)
    return figures


def turns(peers: Sequence[Peer], number: int, *, fits: bool) -> list[tuple[Peer, str]]:
    """Return the order of one round: measure by measure, or peer by peer.

    The first compares better. The second is used if the files of all peers do not fit into the
    memory, and reads the files of each peer only once per round.
    """
    found = [(peer, operation) for peer in rotated(peers, number) for operation in WARM]
    found = [(peer, operation) for peer, operation in found if peer.can(operation)]
    return sorted(found, key=lambda turn: [*WARM].index(turn[1])) if fits else found


def rotated(items: Sequence[T], number: int) -> Iterator[T]:
    """Yield the items, starting with a different one each round."""
    first = number % len(items)
    yield from items[first:]
    yield from items[:first]


def check(peer: Peer, source: Source, *, seed: int) -> None:
    """Compare the images that a peer returns with the source.

    Raises
    ------
    ValueError
        If an image differs from the source, or has another type than bytes.
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
