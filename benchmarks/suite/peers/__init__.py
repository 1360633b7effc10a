"""The formats, one class each. A new one needs `prepare`, `open`, `scan` and a line here."""

from typing import Final

from benchmarks.suite.peers.arrays import H5pyRagged, H5pyVlen, TensorStore, ZarrRagged, ZarrVlen
from benchmarks.suite.peers.base import Peer
from benchmarks.suite.peers.databases import LMDB, HFDatasets
from benchmarks.suite.peers.flat import BlobMap, BlobPread, Files
from benchmarks.suite.peers.ours import InHDF5, InZarr, InZarrUnmapped
from benchmarks.suite.peers.records import ArrayRecord, TFRecord, WebDataset

LIMIT: Final = BlobPread
"""The peer that all others are compared with."""

PEERS: Final[tuple[type[Peer], ...]] = (
    BlobPread,
    BlobMap,
    InZarr,
    InHDF5,
    InZarrUnmapped,
    LMDB,
    Files,
    HFDatasets,
    ArrayRecord,
    H5pyRagged,
    H5pyVlen,
    TensorStore,
    ZarrRagged,
    ZarrVlen,
    TFRecord,
    WebDataset,
)
"""All peers in the order of the tables."""
