"""The benchmark suite, with few images: peers return the right bytes, all figures are reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg

import arraystore
from benchmarks.bench_convert import Steps
from benchmarks.suite.__main__ import chosen, main
from benchmarks.suite.data import Source, make_source
from benchmarks.suite.measures import WARM, check, measure_warm, rotated, turns
from benchmarks.suite.peers import LIMIT, PEERS
from benchmarks.suite.peers.arrays import H5pyRagged, H5pyVlen, ZarrRagged, ZarrVlen
from benchmarks.suite.peers.flat import BlobMap, BlobPread, Files
from benchmarks.suite.peers.ours import InHDF5, InZarr, InZarrUnmapped
from benchmarks.suite.report import LAYOUTS, Column, summary

if TYPE_CHECKING:
    from arraystore.cli.synthetic_archives import DrawnArchives
    from benchmarks.suite.peers.base import Peer

ALWAYS_THERE = {
    BlobMap, BlobPread, Files, H5pyRagged, H5pyVlen, InHDF5, InZarr, InZarrUnmapped,
    ZarrRagged, ZarrVlen,
}  # fmt: skip
"""Peers that need no more than `make test` installs."""

TINY: Any = {"nbytes": 1_200_000, "n_pool": 3}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return make_source(tmp_path_factory.mktemp("source"), **TINY)


def test_source_images_are_different_jpegs(source: Source) -> None:
    images = [sample.data for sample in source.samples()]
    assert len({*images}) == len(images) > 5
    assert [simplejpeg.decode_jpeg(data).ndim for data in images] == [3] * len(images)
    assert list(map(len, images)) == source.nbytes.tolist()


def test_source_depends_on_the_seed_alone(source: Source, tmp_path: Path) -> None:
    another = make_source(tmp_path, **TINY)
    assert list(another.samples()) == list(source.samples())


def test_existing_source_is_reused_only_if_equal(source: Source) -> None:
    assert make_source(source.folder, **TINY).names == source.names
    with pytest.raises(FileExistsError, match="holds another source"):
        make_source(source.folder, **TINY, seed=1)


# webdataset does not close its files.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: str(kind.name))
def test_peers_return_the_bytes_of_the_source(
    kind: type[Peer], source: Source, tmp_path: Path
) -> None:
    if kind not in ALWAYS_THERE and not kind.is_installed():
        pytest.skip("not installed")
    peer = kind(tmp_path)
    peer.prepare(source)
    peer.open()
    check(peer, source, seed=0)
    peer.close()


@pytest.mark.parametrize("operation", WARM)
def test_check_finds_a_peer_with_wrong_bytes(
    operation: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = BlobMap(tmp_path)
    peer.prepare(source)
    peer.open()
    real = getattr(peer, operation)

    def wrong(*positions: Any) -> Any:
        if operation == "arena":
            buffer, offsets = real(*positions)
            return buffer + 1, offsets
        if operation == "one":
            return real(*positions)[:-1]
        found = list(real(*positions))
        return [*found[:-1], found[-1][:-1]]

    check(peer, source, seed=0)
    monkeypatch.setattr(peer, operation, wrong)
    with pytest.raises(ValueError, match=f"{peer.name}: {operation} must return"):
        check(peer, source, seed=0)
    peer.close()


def test_peers_take_turns_at_each_measure(source: Source, tmp_path: Path) -> None:
    peers = [BlobPread(tmp_path), BlobMap(tmp_path)]
    peers[0].prepare(source)
    for peer in peers:
        peer.open()
    figures = measure_warm(peers, source, rounds=2, seconds=0, seed=0, say=lambda _: None)
    for peer in peers:
        peer.close()
    assert figures[BlobMap.name].keys() == WARM.keys()
    assert figures[BlobPread.name].keys() == WARM.keys() - {"views"}
    values = [value for found in figures.values() for value in found.values()]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in values)
    assert [list(rotated("abc", number)) for number in (0, 1, 5)] == [[*"abc"], [*"bca"], [*"cab"]]


def test_peers_alternate_only_if_the_data_fits_into_memory() -> None:
    map_, pread = BlobMap(Path()), BlobPread(Path())
    order = turns([pread, map_], 1, fits=True)
    assert order[:3] == [(map_, "one"), (pread, "one"), (map_, "batch")]
    order = turns([pread, map_], 1, fits=False)
    assert order == [*((map_, name) for name in WARM), *((pread, n) for n in WARM if n != "views")]


def test_ratio_is_the_median_of_the_rounds() -> None:
    rate, cost = Column("one", ""), Column("cold", "", is_cost=True)
    assert summary([100, 30, 10], [50, 10, 10], rate) == (30, 2, 0.75)
    assert summary([100, 30, 10], [50, 10, 10], cost)[1] == 0.5


def test_steps_of_a_conversion_are_timed(
    drawn: DrawnArchives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    monkeypatch.setattr(sys.modules["arraystore.convert"], "meter", steps.meter)
    arraystore.convert(
        "imagenet2012_subset/1pct", tmp_path / "a.h5", manual_dir=drawn.folder, partial=True
    )
    steps.status("")
    expected = ["import", "reading the headers", "probing images", "copying images"]
    expected += ["comparing the source with its earlier state", "sealing"]
    assert [*steps.found] == expected


def test_chosen_peers_include_the_limit() -> None:
    assert chosen(["ARRAYSTORE"]) == [LIMIT, InZarr, InHDF5, InZarrUnmapped]
    assert chosen([]) == list(PEERS)
    assert chosen(["nonesuch"]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_suite_reports_every_figure_and_missing_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BlobMap, "modules", ("nonesuch",))
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("above\n<!-- begin of benchmarks.suite 300000 -->\nOLD FIGURES\n"
                    "<!-- end of benchmarks.suite 300000 -->\nbelow\n")  # fmt: skip
    words = f"{tmp_path / 'data'} --peers blob --size 300000 --pool 2 --rounds 1 --seconds 0"
    assert main([*words.split(), "--json", str(figures), "--markdown", str(page)]) == 0
    result = json.loads(figures.read_text())
    assert result["not_installed"] == [BlobMap.name]
    measures = {column.measure for layout in LAYOUTS for column in layout.columns}
    assert result["figures"][BlobPread.name].keys() == measures - {"views"}
    assert result["versions"]["numpy"] == np.__version__
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "OLD" not in text
    for layout in LAYOUTS:
        assert layout.title in text
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    assert all(layout.columns[-1].heading.split()[-1] in printed for layout in LAYOUTS)
