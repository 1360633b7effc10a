"""The command; see `benchmarks.suite`."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.suite import fresh, report
from benchmarks.suite.data import N_POOL, Source, make_source
from benchmarks.suite.machine import load, machine, versions
from benchmarks.suite.measures import BATCH, Figures, measure_warm, rotated
from benchmarks.suite.peers import LIMIT, PEERS
from benchmarks.suite.peers.base import Peer

SIZES: Final = {"small": 10**9, "full": 5 * 10**9}
_ALWAYS: Final = ("arraystore", "numpy", "h5py", "zarr", "simplejpeg", "pillow")
_MOST_CONVERSIONS: Final = 3
_WARM: Final = 3
"""Rounds in this process for each in new ones: many short turns see less of what else runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    wanted = chosen(options.peers)
    if not wanted:
        parser.error(f"no peer is called {' or '.join(options.peers)}")
    nbytes = SIZES.get(options.size) or int(options.size)
    try:
        result = measure(
            options.folder,
            wanted,
            nbytes=nbytes,
            n_pool=options.pool,
            rounds=options.rounds,
            seconds=options.seconds,
            seed=options.seed,
        )
    except FileExistsError as error:
        parser.error(str(error))
    report.show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.markdown:
        report.write_markdown(options.markdown, options.size, result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description="Read and convert the same images with arraystore, its peers and the limit.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="gets the images; kept")
    parser.add_argument("--size", default="small", help="small (1 GB), full (5 GB), or bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="WORD", help="those with a word in their names"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="of each measure, about")
    parser.add_argument("--seed", type=int, default=0, help="of images, positions and labels")
    parser.add_argument("--pool", type=int, default=N_POOL, help="pictures that are drawn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="write the tables between markers of a page"
    )
    return parser


def chosen(words: Sequence[str]) -> list[type[Peer]]:
    """Return the peers with one of the words in their names, and the limit; all without words."""
    found = [peer for peer in PEERS if any(word.lower() in peer.name.lower() for word in words)]
    if not words:
        return list(PEERS)
    return [peer for peer in PEERS if peer in found or peer is LIMIT] if found else []


def measure(
    folder: Path,
    wanted: Sequence[type[Peer]],
    *,
    nbytes: int,
    n_pool: int,
    rounds: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Do everything: convert, then read in new processes, then in this one.

    Parameters
    ----------
    folder : Path
        Gets the source and the formats.
    wanted : sequence of type of Peer
        Those that are not installed are passed over.
    nbytes, n_pool, seed : int
        See `make_source`.
    rounds : int
        In new processes; three times as many in this one, three conversions at the most.
    seconds : float
        See `measure_warm`.

    Returns
    -------
    dict
        Every figure, and what it depends on; fit for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in wanted if kind.is_installed()]
    load_at_begin = load()
    _say("images")
    source = make_source(folder / "source", nbytes=nbytes, n_pool=n_pool, seed=seed)
    peers = [kind(folder / (kind.shares or kind).__name__) for kind in kinds]
    makers: dict[Path, Peer] = {}
    for peer in sorted(peers, key=lambda peer: peer.shares is not None):
        makers.setdefault(peer.folder, peer)
    _need_room(folder, makers, source)
    figures: Figures = {peer.name: {} for peer in peers}
    turns = {"convert": min(rounds, _MOST_CONVERSIONS), "new": rounds, "warm": _WARM * rounds}
    _in_turns("convert", list(makers.values()), source, turns["convert"], figures, seed)
    for task in ("cold", "start"):
        _in_turns(task, peers, source, turns["new"], figures, seed)
    figures = {
        name: before | warm
        for (name, before), warm in zip(
            figures.items(),
            _warm(peers, source, turns["warm"], seconds, seed).values(),
            strict=True,
        )
    }
    packages = [package for kind in kinds for package in kind.packages or kind.modules]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(folder),
        "load": [load_at_begin, load()],
        "versions": versions((*_ALWAYS, *packages)),
        "seed": seed,
        "rounds": turns,
        "seconds": seconds,
        "source": {
            "n_images": len(source),
            "nbytes": source.total_nbytes,
            "n_classes": source.n_classes,
            "percentiles": dict(
                zip(
                    ("0", "25", "50", "75", "100"),
                    np.percentile(source.nbytes, (0, 25, 50, 75, 100)).tolist(),
                    strict=True,
                )
            ),
        },
        "limit": LIMIT.name,
        "not_installed": [kind.name for kind in wanted if kind not in kinds],
        "figures": figures,
    }


def _in_turns(
    task: str, peers: Sequence[Peer], source: Source, rounds: int, figures: Figures, seed: int
) -> None:
    """Give every peer a task once a round, each time in a new process."""
    for number in range(rounds):
        positions = np.random.default_rng((seed, number, 1)).permutation(len(source))[:BATCH]
        for peer in rotated(peers, number):
            _say(f"{task}, round {number + 1} of {rounds}: {peer.name}")
            found = fresh.run(task, peer, source, positions)
            if task != "start":
                del found["import"]
            for measure_name, value in found.items():
                figures[peer.name].setdefault(measure_name, []).append(value)


def _warm(peers: Sequence[Peer], source: Source, rounds: int, seconds: float, seed: int) -> Figures:
    for peer in peers:
        peer.open()
    try:
        return measure_warm(peers, source, rounds=rounds, seconds=seconds, seed=seed, say=_say)
    finally:
        for peer in peers:
            peer.close()


def _need_room(folder: Path, makers: dict[Path, Peer], source: Source) -> None:
    missing = [path for path in makers if not path.exists()]
    needed = int(1.1 * source.total_nbytes * (len(missing) + 1))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder}: {len(missing)} formats need {needed / 1e9:.0f} GB, {free / 1e9:.0f} are "
            "free; take fewer with --peers, or another folder"
        )


def _say(text: str) -> None:
    """Tell what is done now, in one line where a terminal can."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
