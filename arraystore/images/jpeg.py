"""Structure of a JPEG: its segments, and the fields of its frame header. Nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
from typing_extensions import Buffer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints

    Segment = tuple[int, int, tuple[int, int, int, int]]

ReadBytes: TypeAlias = Callable[[int, int], Buffer]
"""``read(start, stop)`` returns the bytes ``[start, stop)`` of an image."""

SIGNATURE: Final = b"\xff\xd8\xff"
END: Final = b"\xff\xd9"
_SCAN: Final = b"\xff\xda"
_SCAN_MARKER: Final = 0xDA
_ADOBE_MARKER: Final = 0xEE
PIECE_NBYTES: Final = 2048  # most photographs have their frame header in the first 1 KiB

# Flag 0xFF, marker, length; in a frame header then precision, height, width, components.
_SEGMENT: Final = Struct(">BBHBHHB")
_SEGMENT_FIELDS: Final = np.dtype(
    {
        "names": ["flag", "marker", "length", "precision", "height", "width", "components"],
        "formats": ["u1", "u1", ">u2", "u1", ">u2", ">u2", "u1"],
    }
)
_HEIGHT_OFFSET: Final = 5
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_HUFFMAN: Final = frozenset({0xC0, 0xC1})
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_UNDECODABLE_FRAMES: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
_SEGMENT_MARKERS: Final = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_IS_FRAME: Final = np.isin(np.arange(256), [*_FRAMES])
_IS_SEGMENT: Final = np.isin(np.arange(256), [*_SEGMENT_MARKERS])
_METADATA: Final = frozenset({0xE1, 0xE2})  # EXIF, XMP; colour profile, index of further images
_ADOBE_NBYTES: Final = 12  # libjpeg ignores a shorter marker
_INKS: Final = b"CMYK"
_MAX_SIDE: Final = 65_500  # libjpeg's limit
_MAX_SCANS: Final = 500  # of a progressive JPEG; each may take as long as a whole image


class FrameHeader(NamedTuple):
    """The frame header of a JPEG.

    Attributes
    ----------
    marker : int
        Kind of JPEG: baseline, progressive, arithmetic, …
    offset : int
        First byte of the header.
    height, width, components : int
    """

    marker: int
    offset: int
    height: int
    width: int
    components: int


class Colours(Enum):
    """Whether a JPEG says what its components mean."""

    STATED = "stated"
    """By their number, or by an Adobe marker."""

    ASSUMED = "assumed"
    """Four components named C, M, Y, K without the marker; inverted, as Adobe's programs write."""

    UNKNOWN = "unknown"
    """Four components that could be CMYK, YCCK, or YCbCr with alpha."""


def plain_frame_header(piece: bytes) -> FrameHeader | None:
    """Return the frame header of a JPEG of one or three components from its first bytes.

    Nearly all JPEGs have one there. For any other this returns None, and `find_frame_header` finds
    the header or the fault.

    Examples
    --------
    >>> data = bytes.fromhex("FFD8 FFC0 000B 08 0020 0030 01 011100")
    >>> plain_frame_header(data)[2:], plain_frame_header(data[:9])
    ((32, 48, 1), None)
    """
    offset, last = 2, len(piece) - _SEGMENT.size
    unpack = _SEGMENT.unpack_from
    while offset <= last:
        flag, marker, length, precision, height, width, components = unpack(piece, offset)
        if flag != 0xFF or marker not in _SEGMENT_MARKERS or length < 2:
            return None
        if marker in _FRAMES:
            is_plain = precision == 8 and components in {1, 3}
            if is_plain and 1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE:
                return FrameHeader(marker, offset, height, width, components)
            return None
        offset += 2 + length
    return None


def plain_frame_sizes(pieces: Sequence[bytes]) -> Ints:
    """Return the sizes in the frame headers of many JPEGs, as `plain_frame_header` finds them.

    The segments of all JPEGs are walked together, the first of each, then the second, …

    Parameters
    ----------
    pieces : sequence of bytes
        First bytes of each image, some kilobytes.

    Returns
    -------
    ndarray of int64, shape (n, 2)
        Height and width; zeros for what is not a JPEG, or has no plain header in these bytes.

    Examples
    --------
    >>> data = bytes.fromhex("FFD8 FFC0 000B 08 0020 0030 01 011100")
    >>> plain_frame_sizes([data, data[:9], b"GIF89a"]).tolist()
    [[32, 48], [0, 0], [0, 0]]
    """
    data = np.frombuffer(b"".join(pieces), np.uint8)
    nbytes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    stop = np.cumsum(nbytes)
    return frame_sizes(data, stop - nbytes, stop)


def frame_sizes(data: NDArray[np.uint8], start: Ints, stop: Ints) -> Ints:
    """Return what `plain_frame_sizes` does of the pieces ``data[start[i] : stop[i]]``."""
    sizes = np.zeros((len(start), 2), np.int64)
    row = np.flatnonzero(stop - start >= len(SIGNATURE))
    begin = data[start[row, None] + np.arange(len(SIGNATURE))]
    row = row[(begin == np.frombuffer(SIGNATURE, np.uint8)).all(axis=1)]
    offset, last = start[row] + 2, stop[row] - _SEGMENT.size
    n_places = max(0, len(data) - _SEGMENT.size + 1)
    segments_at = np.ndarray(n_places, _SEGMENT_FIELDS, data, strides=1)  # at every byte
    while True:
        inside = offset <= last
        row, offset, last = row[inside], offset[inside], last[inside]
        if not len(row):
            return sizes
        found = segments_at[offset]
        length = found["length"].astype(np.int64)
        is_segment = (found["flag"] == 0xFF) & _IS_SEGMENT[found["marker"]] & (length >= 2)
        is_frame = is_segment & _IS_FRAME[found["marker"]]
        if is_frame.any():
            height, width = (found[name].astype(np.int64) for name in ("height", "width"))
            is_gray, is_colour = (found["components"] == n for n in (1, 3))
            is_plain = is_frame & (found["precision"] == 8) & (is_gray | is_colour)
            is_plain &= (np.minimum(height, width) >= 1) & (np.maximum(height, width) <= _MAX_SIDE)
            sizes[row[is_plain], 0], sizes[row[is_plain], 1] = height[is_plain], width[is_plain]
        goes_on = is_segment & ~is_frame
        row, offset, last = row[goes_on], (offset + 2 + length)[goes_on], last[goes_on]


def find_frame_header(read: ReadBytes, nbytes: int, piece: bytes = b"") -> FrameHeader:
    """Find the frame header of a JPEG.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns the bytes ``[start, stop)`` of the image.
    nbytes : int
        Size of the whole image.
    piece : bytes, optional
        First bytes of the image, if they were read already.

    Raises
    ------
    ValueError
        If there is none, or one that cannot be decoded.
    """
    *_, (marker, offset, fields) = segments(read, nbytes, piece)
    precision, height, width, components = fields
    if precision != 8:
        raise ValueError(f"cannot be decoded: a JPEG of {precision} bits, expected 8")
    if height == 0:
        raise ValueError("cannot be decoded: a JPEG whose height comes later, in a DNL marker")
    if height > _MAX_SIDE or not 1 <= width <= _MAX_SIDE:
        raise ValueError(f"cannot be decoded: a JPEG of height {height} and width {width}")
    if components not in {1, 3, 4}:
        raise ValueError(f"cannot be decoded: a JPEG of {components} components, not 1, 3 or 4")
    return FrameHeader(marker, offset, height, width, components)


def colours_of(read: ReadBytes, nbytes: int, header: FrameHeader) -> Colours:
    """Return whether a JPEG says what its components mean.

    libjpeg takes four components without an Adobe marker for CMYK. It names the components of its
    own CMYK by these letters, and those of YCCK by numbers. Java writes YCbCr with alpha as
    components 1 to 4 without a marker.

    Parameters
    ----------
    read, nbytes
        See `find_frame_header`.
    header : FrameHeader
        That of the image.
    """
    if header.components != len(_INKS):
        return Colours.STATED
    for marker, offset, _ in segments(read, nbytes, b"", to_scan=True):
        if marker == _ADOBE_MARKER:
            start = bytes(read(offset, min(offset + 9, nbytes)))
            length = int.from_bytes(start[2:4], "big") - 2
            if length >= _ADOBE_NBYTES and start[4:] == b"Adobe":
                return Colours.STATED
    first = header.offset + _SEGMENT.size
    components = bytes(read(first, min(first + 3 * len(_INKS), nbytes)))
    return Colours.ASSUMED if components[::3] == _INKS else Colours.UNKNOWN


def segments(
    read: ReadBytes, nbytes: int, piece: bytes, *, to_scan: bool = False
) -> Iterator[Segment]:
    """Yield marker, offset and fields of the segments of a JPEG; the frame header is the last.

    With `to_scan`, the segments between the frame header and the first scan follow. Only the fields
    of a frame header have a meaning. Parameters are those of `find_frame_header`.
    """
    start, offset = 0, 2
    while offset + _SEGMENT.size <= nbytes:
        if offset + _SEGMENT.size > start + len(piece):
            start = offset
            piece = bytes(read(start, min(start + PIECE_NBYTES, nbytes)))
        at = offset - start
        flag, marker, length, *fields = _SEGMENT.unpack_from(piece, at)
        if flag == marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if to_scan and flag == 0xFF and marker == _SCAN_MARKER:
            return
        if flag == 0xFF and marker in _UNDECODABLE_FRAMES:
            raise ValueError(f"cannot be decoded: a lossless or hierarchical JPEG (0x{marker:02X})")
        if flag != 0xFF or marker not in _SEGMENT_MARKERS or length < 2:
            found = piece[at : at + 4].hex(" ").upper()
            raise ValueError(f"is a damaged JPEG: {found} at byte {offset} begins no segment")
        yield marker, offset, tuple(fields)
        if marker in _FRAMES and not to_scan:
            return
        offset += 2 + length
    if to_scan:
        raise ValueError(f"is a truncated JPEG: no scan in its {nbytes} bytes")
    raise ValueError(f"is a truncated JPEG: no frame header in its {nbytes} bytes")


def check_scans(view: memoryview, header: FrameHeader) -> None:
    """Raise `ValueError` for a progressive JPEG that decodes the same pixels hundreds of times."""
    if header.marker not in _PROGRESSIVE:
        return
    n_scans = bytes(view[header.offset :]).count(_SCAN)
    if n_scans > _MAX_SCANS:
        raise ValueError(f"cannot be decoded: a JPEG of {n_scans} scans, at most {_MAX_SCANS}")


def lacks_only_end_marker(view: memoryview, header: FrameHeader) -> bool:
    """Return whether a JPEG has no end marker, and a decoder notices if anything else is missing.

    A decoder does not notice that one of several scans is missing, nor the end of the only scan
    in arithmetic coding.
    """
    if header.marker not in _HUFFMAN or bytes(view[-2:]) == END:
        return False
    body = bytes(view[header.offset :])
    scan = body.find(_SCAN)
    is_whole = 0 <= scan < len(body) - 4 and body.count(_SCAN) == 1
    return is_whole and body[scan + 4] == header.components


def can_be_cut(view: memoryview, header: FrameHeader) -> bool:
    """Return whether the first rows of a JPEG can be decoded alone: see `with_height`.

    A progressive JPEG has all rows in each of its scans. A JPEG without its end may be truncated,
    which is to be found however few rows are needed.
    """
    return header.marker in _HUFFMAN and bytes(view[-2:]) == END


def with_height(view: memoryview, header: FrameHeader, height: int) -> bytearray:
    """Return a copy of a JPEG that states fewer rows; libjpeg skips the data of the others."""
    changed = bytearray(view)
    start = header.offset + _HEIGHT_OFFSET
    changed[start : start + 2] = height.to_bytes(2, "big")
    return changed


def without_metadata(view: memoryview) -> bytes:
    """Return a JPEG without metadata, which Pillow would read in vain and warn about if damaged."""
    found = list(segments(lambda start, stop: view[start:stop], view.nbytes, b""))
    kept = [
        view[start:stop]
        for (marker, start, _), (_, stop, _) in pairwise(found)
        if marker not in _METADATA
    ]
    _, header, _ = found[-1]
    return b"".join([view[:2], *kept, view[header:]])
