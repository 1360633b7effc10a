"""Command line of `benchmarks.suite`."""

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
"""Rounds in this process per round in new ones: many short turns average out other load."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    wanted = chosen(options.peers)
    if not wanted:
        parser.error(f"no peer has {' or '.join(options.peers)} in its name")
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
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder for images and formats; it is kept"
    )
    parser.add_argument("--size", default="small", help="small (1 GB), full (5 GB), or bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only peers with one of these words in their names",
    )
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="approximate time of each measure"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of images, positions and labels")
    parser.add_argument(
        "--pool", type=int, default=N_POOL, help="number of pictures that are drawn"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="write the tables between the markers of PAGE"
    )
    return parser


def chosen(words: Sequence[str]) -> list[type[Peer]]:
    """Return the peers with one of the words in their names, and the limit; without words, all."""
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
    """Convert, then read in new processes, then read in this one.

    Parameters
    ----------
    folder : Path
        Folder for the source and the formats.
    wanted : sequence of type of Peer
        Peers to measure; those that are not installed are skipped.
    nbytes, n_pool, seed : int
        See `make_source`.
    rounds : int
        Rounds in new processes; in this process three times as many, and at most three conversions.
    seconds : float
        See `measure_warm`.

    Returns
    -------
    dict
        All figures and their conditions, as values for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in wanted if kind.is_installed()]
    load_before = load()
    _say("images")
    source = make_source(folder / "source", nbytes=nbytes, n_pool=n_pool, seed=seed)
    peers = [kind(folder / (kind.shares or kind).__name__) for kind in kinds]
    makers: dict[Path, Peer] = {}
    for peer in sorted(peers, key=lambda peer: peer.shares is not None):
        makers.setdefault(peer.folder, peer)
    _check_free_space(folder, makers, source)
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
        "load": [load_before, load()],
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
    """Run a task for every peer once per round, each time in a new process."""
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


def _check_free_space(folder: Path, makers: dict[Path, Peer], source: Source) -> None:
    missing = [path for path in makers if not path.exists()]
    needed = int(1.1 * source.total_nbytes * (len(missing) + 1))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder}: {len(missing)} formats need {needed / 1e9:.0f} GB, but {free / 1e9:.0f} "
            "are free; choose fewer with --peers, or another folder"
        )


def _say(text: str) -> None:
    """Print the current step; on a terminal, replace the line of the previous one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
