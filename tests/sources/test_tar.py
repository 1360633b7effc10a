"""Walking tar archives; the standard library's tarfile is the oracle."""

import io
import os
import re
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arraystore.errors import SourceError
from arraystore.images.jpeg import plain_frame_header
from arraystore.sources.tar import (
    MAX_EXTENSION_NBYTES,
    RECORD_NBYTES,
    Archive,
    TarMembers,
    TarStream,
    next_header,
    open_archive,
    walk,
)

FORMATS: Final = {
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
    "ustar": tarfile.USTAR_FORMAT,
}
END: Final = bytes(2 * RECORD_NBYTES)

every_format = pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
parts = st.text(st.sampled_from("abcé漢.-_ 0"), min_size=1, max_size=9).filter(
    lambda part: part not in {".", ".."}
)
names = st.builds(
    lambda dots, parts: "./" * dots + "/".join(parts),
    st.integers(0, 2),
    st.lists(parts, min_size=1, max_size=40),
)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.type = kind
    return info


def tar_of(files: Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, data in files:
            tar.addfile(member(name, data), io.BytesIO(data))
    return file.getvalue()


def block(
    name: bytes = b"a.jpg",
    *,
    size: bytes = b"00000000000\0",
    kind: bytes = b"0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    signed: bool = False,
) -> bytes:
    """Return a header that tarfile would not write."""
    fields = name.ljust(100, b"\0"), bytes(24), size, bytes(12), b" " * 8, kind, bytes(100)
    header = b"".join(fields) + magic.ljust(88, b"\0") + prefix.ljust(167, b"\0")
    assert len(header) == RECORD_NBYTES
    total = sum(byte - 256 * (signed and byte > 127) for byte in header)
    return header[:148] + b"%06o\0 " % total + header[156:]


def extended(kind: bytes, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % RECORD_NBYTES)
    return block(b"ext", kind=kind, size=b"%011o\0" % len(payload)) + payload + padding


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    return next(
        b"%d" % length + body
        for length in range(len(body), len(body) + 9)
        if len(b"%d" % length + body) == length
    )


def walk_bytes(
    data: bytes,
    *,
    start: int = 0,
    stop: int | None = None,
    partial: bool = False,
    keep: Callable[[str, int], int] | None = None,
) -> TarMembers:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        archive = Archive(file.fileno(), len(data), "a.tar")
        return walk(archive, start=start, stop=stop, partial=partial, keep=keep)


def stream_of(data: bytes, *, partial: bool = False) -> TarStream:
    return TarStream(io.BytesIO(data), "a.tar", partial=partial)


def rows(members: TarMembers) -> list[tuple[str, int, int]]:
    places = members.offsets.tolist(), members.nbytes.tolist()
    return list(zip(members.names, *places, strict=True))


def keep_nothing(name: str, nbytes: int) -> int:
    return 0


def rows_or_error(
    data: bytes, keep: Callable[[str, int], int] | None = None
) -> list[tuple[str, int, int]] | str:
    try:
        return rows(walk_bytes(data, keep=keep))
    except SourceError as error:
        return str(error)


def check_both_walks(data: bytes) -> None:
    """Compare the walk that takes plain headers together with the one header by header."""
    assert rows_or_error(data) == rows_or_error(data, keep_nothing)


def rows_of_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [
            (re.sub(r"^(\./)+", "", info.name), info.offset_data, info.size)
            for info in tar.getmembers()
            if info.isfile()
        ]


# Members


@every_format
@settings(deadline=None, max_examples=60)
@given(files=st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=8))
def test_offsets_match_tarfile(tar_format: int, files: list[tuple[str, bytes]]) -> None:
    if tar_format == tarfile.USTAR_FORMAT:
        files = [(name, data) for name, data in files if len(name.encode()) <= 100]
    data = tar_of(files, tar_format)
    assert rows(walk_bytes(data)) == rows_of_tarfile(data)


@every_format
def test_more_headers_than_one_checksum_batch(tar_format: int) -> None:
    data = tar_of(((f"{i}.jpg", b"x" * (i % 3)) for i in range(2500)), tar_format)
    assert rows(walk_bytes(data)) == rows_of_tarfile(data)


@pytest.mark.parametrize("step", [1, 2, 9, 100, 1000])
def test_other_headers_among_many_plain_ones(step: int) -> None:
    check_both_walks(tar_of([(f"{'é' * (i % step == step - 1)}{i}", b"x") for i in range(2300)]))


@every_format
def test_names_of_101_to_255_bytes(tar_format: int) -> None:
    files = [("d" * 90 + "/" + "f" * 60, b"1"), ("d" * 155 + "/" + "f" * 99, b"2")]
    data = tar_of(files, tar_format)
    assert walk_bytes(data).names == [name for name, _ in files]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["n" * 257, "é" * 300, "./" + "d/" * 600 + "f"])
def test_names_over_256_bytes(name: str, tar_format: int) -> None:
    data = tar_of([(name, b"1"), ("short", b"2")], tar_format)
    assert walk_bytes(data).names == [name.removeprefix("./"), "short"]


def test_long_directory_name_is_a_directory() -> None:
    cut_in_a_letter, cut_at_a_slash = "é" * 49 + "x" + "é" * 20, "d" * 99 + "/f.jpg"
    data = tar_of([(cut_in_a_letter, b""), (cut_at_a_slash, b"")])
    assert walk_bytes(data).names == [cut_in_a_letter, cut_at_a_slash]


@every_format
def test_directories_are_skipped(tar_format: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        tar.addfile(member("./", kind=tarfile.DIRTYPE))
        tar.addfile(member("./d", kind=tarfile.DIRTYPE))
        tar.addfile(member("./d/f", b"abc"), io.BytesIO(b"abc"))
    assert rows(walk_bytes(file.getvalue())) == rows_of_tarfile(file.getvalue())
    assert walk_bytes(file.getvalue()).names == ["d/f"]


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_every_file_type_is_found(kind: bytes) -> None:
    assert rows(walk_bytes(block(kind=kind) + END)) == [("a.jpg", 512, 0)]


@pytest.mark.parametrize("kind", [b"0", b"\0"])
@pytest.mark.parametrize("name", [b"d/", b"./"])
def test_trailing_slash_marks_v7_directory(name: bytes, kind: bytes) -> None:
    assert walk_bytes(block(name, kind=kind, magic=b"") + END).names == []


def test_prefix_is_used_in_posix_archives_only() -> None:
    posix = block(prefix=b"d/e")
    gnu = block(magic=b"ustar  \0", prefix=b"14712345670\0")
    v7 = block(magic=b"", prefix=b"junk")
    assert walk_bytes(posix + gnu + v7 + END).names == ["d/e/a.jpg", "a.jpg", "a.jpg"]


def test_archive_without_members() -> None:
    members = walk_bytes(END)
    assert members.names == []
    assert members.offsets.dtype == members.nbytes.dtype == np.int64


def test_nested_archive_is_walked_in_place() -> None:
    inner = {"x.tar": tar_of([("./1", b"one"), ("2", b"two")]), "y.tar": tar_of([("3", b"three")])}
    outer = tar_of(inner.items())
    for name, offset, nbytes in rows(walk_bytes(outer)):
        found = rows(walk_bytes(outer, start=offset, stop=offset + nbytes))
        expected = rows_of_tarfile(inner[name])
        assert found == [(name, offset + place, size) for name, place, size in expected]


def test_nested_archive_at_any_offset() -> None:
    inner = tar_of([("1", b"one"), ("2", b"two")])
    found = rows(walk_bytes(b"??" + inner + b"??", start=2, stop=2 + len(inner)))
    assert found == [("1", 514, 3), ("2", 1538, 3)]


def test_only_headers_and_end_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tar_of([(f"{i}.jpg", b"x" * 5000) for i in range(10)])
    real, lengths = os.pread, []

    def spy(fd: int, nbytes: int, offset: int) -> bytes:
        lengths.append(nbytes)
        return real(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", spy)
    walk_bytes(data)
    assert lengths == [*[RECORD_NBYTES] * 11, len(data) - 10 * (512 + 5120) - 512]


def jpeg(height: int, width: int, nbytes: int) -> bytes:
    """Return the beginning of a JPEG: metadata that takes some bytes, and the frame header."""
    metadata = b"\xff\xe1" + (nbytes + 2).to_bytes(2, "big") + bytes(nbytes)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + metadata + b"\xff\xc0\x00\x0b\x08" + size + b"\x01\x01\x11\x00"


@every_format
@settings(deadline=None, max_examples=60)
@given(
    images=st.lists(
        st.builds(jpeg, *[st.integers(0, 2**16 - 1)] * 2, st.integers(0, 1500)), max_size=9
    ),
    cut=st.integers(0, 1600),
)
def test_frames_are_those_of_the_files(tar_format: int, images: list[bytes], cut: int) -> None:
    images = [*images, *(image[:cut] for image in images)]
    data = tar_of([(f"{i}.jpg", image) for i, image in enumerate(images)], tar_format)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        members = walk(Archive(file.fileno(), len(data), "a.tar"), frames=True)
    assert rows(members) == rows_of_tarfile(data)
    assert members.frames is not None
    headers = map(plain_frame_header, images)
    expected = [(header.height, header.width) if header else (0, 0) for header in headers]
    found = list(map(tuple, members.frames.tolist()))
    pairs = zip(found, expected, strict=True)
    assert all(frame in {(0, 0), stated} for frame, stated in pairs)


def test_frames_of_most_files_are_found() -> None:
    data = tar_of([(f"{i}.jpg", jpeg(i + 1, 7, 300)) for i in range(3000)])
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        frames = walk(Archive(file.fileno(), len(data), "a.tar"), frames=True).frames
    assert frames is not None
    assert frames[:2990].tolist() == [[i + 1, 7] for i in range(2990)]


def test_verified_headers_are_freed() -> None:
    n_files = 20_000
    with tempfile.TemporaryFile() as file:
        file.write(block() * n_files + END)
        file.flush()
        tracemalloc.start()
        walk(Archive(file.fileno(), file.seek(0, os.SEEK_END), "a.tar"))
        _, peak_nbytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_nbytes < 0.8 * n_files * RECORD_NBYTES


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (block(size=b"00000000001\0") + bytes(5 * RECORD_NBYTES), 2 * RECORD_NBYTES),
        (block(size=b"\x80" + 11 * b"\xff"), RECORD_NBYTES),
        (b"\xff" * RECORD_NBYTES, 0),
        (b"", 0),
    ],
)
def test_next_header_is_after_data_and_inside_file(data: bytes, expected: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert next_header(Archive(file.fileno(), len(data), "a.tar"), 0) == expected


# Numbers


@pytest.mark.parametrize("size", [b"00000000003\0", b"         3 \0", b"3\0\0\0\0\0\0\0\0\0\0\0"])
def test_octal_size_paddings(size: bytes) -> None:
    assert rows(walk_bytes(block(size=size) + bytes(512) + END)) == [("a.jpg", 512, 3)]


def test_base_256_size() -> None:
    data = block(size=b"\x80" + (700).to_bytes(11, "big")) + bytes(1024) + block(b"b") + END
    assert rows(walk_bytes(data)) == [("a.jpg", 512, 700), ("b", 2048, 0)]


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 11 + b"\xfd",
        b"\xc0" + bytes(11),
        b"-0000000003\0",
        b"0o000000003\0",
        b"0000000_003\0",
        b"00000000008\0",
        b"00000000003x",
        b"\0" * 12,
        b" " * 12,
    ],
)
def test_invalid_size_raises(size: bytes) -> None:
    with pytest.raises(SourceError, match=r"header at byte 0: size must be octal or positive"):
        walk_bytes(block(size=size) + bytes(512) + END)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_member_over_8_gib_is_skipped(tar_format: Literal[1, 2], tmp_path: Path) -> None:
    big = member("big")
    big.size = 2**33 + 5
    header = big.tobuf(tar_format)
    small = tar_of([("small", b"x")])
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header)
        file.seek(big.size + -big.size % RECORD_NBYTES, os.SEEK_CUR)
        file.write(small)
    with open_archive(path) as archive:
        found = rows(walk(archive))
    assert found == [
        ("big", len(header), big.size),
        ("small", path.stat().st_size - len(small) + 512, 1),
    ]


def test_size_beyond_archive_raises() -> None:
    with pytest.raises(SourceError, match=r"member 'a.jpg' at byte 0 needs bytes 512 to \d{20}"):
        walk_bytes(block(size=b"\x80" + b"\xff" * 11) + END)


# Damage


def test_stream_has_the_members_of_the_walk() -> None:
    files = [(f"{i}/{'long' * 40}.jpg", bytes([i]) * (700 * i)) for i in range(9)]
    data = tar_of(files)
    stream = stream_of(data)
    assert [(name, stream.data()) for name in stream] == files
    stream = stream_of(data)
    read = [(name, stream.data()) for i, name in enumerate(stream) if i % 3 == 1]
    assert read == files[1::3]


def test_stream_cut_anywhere_raises() -> None:
    for nbytes in range(0, 3072, 64):
        with pytest.raises(SourceError, match=r"truncated"):
            list(stream_of(ENDED[:nbytes]))
        stream = stream_of(ENDED[:nbytes])
        with pytest.raises(SourceError, match=r"truncated"):
            [stream.data() for _ in stream]


def test_stream_of_damaged_header_raises() -> None:
    damaged = ENDED[:1540] + b"!" + ENDED[1541:]
    with pytest.raises(SourceError, match=r"header at byte 1536 must have the checksum"):
        list(stream_of(damaged))


def test_stream_reads_no_more_than_there_is() -> None:
    tracemalloc.start()
    try:
        stream = stream_of(block(size=b"77777777777\0") + b"x" * 5000)
        assert next(iter(stream)) == "a.jpg"
        with pytest.raises(SourceError, match=r"'a\.jpg' .* ends at 5512; it is truncated"):
            stream.data()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_archive_cut_anywhere_raises() -> None:
    data = tar_of([("1", b"x" * 600), ("n" * 150, b"y"), ("3", b"z" * 512)])
    _, last, nbytes = rows(walk_bytes(data))[-1]
    for stop in range(last + nbytes + RECORD_NBYTES):
        with pytest.raises(SourceError, match=rf"^a\.tar: .* ends at {stop}; it is truncated; "):
            walk_bytes(data[:stop])
    assert len(walk_bytes(data, stop=last + nbytes + RECORD_NBYTES).names) == 3


def test_nested_archive_ends_at_its_range() -> None:
    data = tar_of([("1", b"x" * 600)])
    with pytest.raises(
        SourceError, match=r"member '1' at byte 0 needs bytes 512 to 1112, but the "
    ):
        walk_bytes(data, stop=1024)
    with pytest.raises(SourceError, match=r"end-of-archive marker at byte 1536, but .* at 1536; "):
        walk_bytes(data, stop=1536)


def test_file_shrunk_after_opening_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of([("1", b"x" * 600), ("2", b"y")]))
    with open_archive(path) as archive:
        os.truncate(path, 1600)
        with pytest.raises(SourceError, match=r"at byte 1536, but the archive ends at 1600; "):
            walk(archive)


ENDED: Final = tar_of([("1", b"x" * 600), ("2", b"y" * 600)])
"""Members at bytes 0 and 1536, the end marker at 3072."""


def without(header: int) -> bytes:
    """Zero a header."""
    return ENDED[:header] + bytes(RECORD_NBYTES) + ENDED[header + RECORD_NBYTES :]


BEHIND_THE_END: Final = {
    "first header zeroed": (without(0), 0, 512, "data, so a header may be lost"),
    "last header zeroed": (without(1536), 1536, 2048, "data, so a header may be lost"),
    "lone zero block": (
        ENDED[:1536] + bytes(512) + ENDED[1536:],
        1536,
        2048,
        "another archive",
    ),
    "two archives": (ENDED + ENDED, 3072, len(ENDED), "another archive"),
    "one byte": (ENDED + bytes(2**17) + b"!", 3072, len(ENDED) + 2**17, "data, so"),
    "not whole blocks": (ENDED[:3584] + b"\0\0abc", 3072, 3586, "data, so"),
}


@pytest.mark.parametrize("case", BEHIND_THE_END)
def test_bytes_after_end_marker(case: str) -> None:
    data, end, first, what = BEHIND_THE_END[case]
    message = (
        f"a.tar: expected zeros up to the end at byte {len(data)} after the end-of-archive marker "
        f"at byte {end}, but byte {first} begins {what}"
    )
    remedy = r"; download the archive again, or pass partial=True \(--partial\) to convert "
    with pytest.raises(SourceError, match=f"^{re.escape(message)}.*{remedy}"):
        walk_bytes(data)
    members = walk_bytes(data, partial=True)
    assert len(members.names) == end // 1536
    (unread,) = members.unread
    assert unread.startswith(message)


@pytest.mark.parametrize("case", BEHIND_THE_END)
def test_bytes_after_end_marker_of_stream(case: str) -> None:
    data, end, first, what = BEHIND_THE_END[case]
    message = (
        "a.tar: expected zeros up to the end after the end-of-archive marker at byte "
        f"{end}, but byte {first} begins {what}"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        list(stream_of(data))
    stream = stream_of(data, partial=True)
    assert len(list(stream)) == end // 1536
    (unread,) = stream.unread
    assert unread.startswith(message)


@pytest.mark.parametrize("nbytes", [512, 1024, 10240, 2**17, 2**17 + 3])
def test_zeros_after_end_marker_are_padding(nbytes: int) -> None:
    members = walk_bytes(ENDED[:3072] + bytes(nbytes))
    assert (members.names, members.unread) == (["1", "2"], ())
    stream = stream_of(ENDED[:3072] + bytes(nbytes))
    assert (list(stream), stream.unread) == (["1", "2"], ())


def test_bytes_after_nested_archive_are_ignored() -> None:
    data = tar_of([("in.tar", ENDED), ("b", b"more")])
    (_, start, nbytes), _ = rows(walk_bytes(data))
    assert walk_bytes(data, start=start, stop=start + nbytes).unread == ()


THREE: Final = tar_of([("1", b"x"), ("ü.jpg", b"y"), ("3", b"z")])
CHECKSUM: Final = range(1024 + 148, 1024 + 156)


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bit_in_header_raises(bit: int) -> None:
    for place in set(range(1024, 1024 + RECORD_NBYTES)) - set(CHECKSUM):
        with pytest.raises(
            SourceError, match=r"a\.tar: header at byte 1024 must have the checksum"
        ):
            walk_bytes(flip(THREE, place, bit))


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bit_in_checksum_changes_no_member(bit: int) -> None:
    # The checksum may still be valid: a zero became a blank, or the sum that of signed bytes.
    found = [rows_or_error(flip(THREE, place, bit)) for place in CHECKSUM]
    assert all(isinstance(it, str) or it == rows(walk_bytes(THREE)) for it in found)
    assert any(isinstance(it, str) for it in found)


@pytest.mark.parametrize("size", [b"77777777777", b"00000000777", b"zzzzzzzzzzz"])
def test_damaged_header_is_reported_before_its_effects(size: bytes) -> None:
    data = bytearray(tar_of([(str(i), b"x" * 2000) for i in range(9)]))
    data[2560 + 124 : 2560 + 135] = size
    with pytest.raises(SourceError, match="header at byte 2560 must have the checksum"):
        walk_bytes(bytes(data))


def test_first_damaged_header_is_named() -> None:
    data = bytearray(tar_of([(str(i), b"") for i in range(3000)]))
    data[2700 * 512] ^= 1
    data[1500 * 512] ^= 1
    with pytest.raises(SourceError, match=f"header at byte {1500 * 512} must have the checksum"):
        walk_bytes(bytes(data))


def test_checksum_of_signed_bytes_is_valid() -> None:
    assert walk_bytes(block("é".encode(), signed=True) + END).names == ["é"]


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=2048))
def test_random_bytes(data: bytes) -> None:
    check_both_walks(data)


@every_format
@settings(deadline=None, max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 7000), st.integers(0, 255)), max_size=4))
def test_damaged_archives(tar_format: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(tar_of([("d/é" + "x" * 80, b"x" * 9), ("d/" * 75 + "f", b"y")], tar_format))
    for place, value in changes:
        data[place % len(data)] = value
    check_both_walks(bytes(data))


@settings(deadline=None, max_examples=300)
@given(
    headers=st.lists(
        st.builds(
            block,
            st.binary(max_size=100) | st.sampled_from([b"a.jpg", b"./b.jpg", b"c/", b"d" * 100]),
            size=st.just(b"00000000005\0") | st.binary(min_size=12, max_size=12),
            kind=st.sampled_from([b"0", b"L", b"x", b"5"]) | st.binary(min_size=1, max_size=1),
            magic=st.sampled_from([b"ustar\x0000", b"ustar  \0", b""]),
            prefix=st.just(b"") | st.binary(max_size=167),
        )
        | st.binary(min_size=5, max_size=5).map(lambda payload: payload.ljust(512, b"\0")),
        max_size=6,
    )
)
def test_hostile_headers(headers: list[bytes]) -> None:
    check_both_walks(b"".join(headers) + END)


@settings(deadline=None, max_examples=300)
@given(
    payload=st.binary(max_size=40) | st.from_regex(rb"[0-9]{1,8} (path|size)=.*\n", fullmatch=True)
)
@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_hostile_extended_headers(kind: bytes, payload: bytes) -> None:
    check_both_walks(extended(kind, payload) + block() + END)


# Unsupported members


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (b"1", "a hard link"),
        (b"2", "a symbolic link"),
        (b"3", "a character device"),
        (b"4", "a block device"),
        (b"6", "a FIFO"),
        (b"S", "a GNU sparse file"),
        (b"V", "unknown"),
    ],
)
def test_special_member_raises(kind: bytes, what: str) -> None:
    found = re.escape(f"but is {what} (type {kind!r})")
    with pytest.raises(SourceError, match=f"header at byte 512: member 'm' must be .*, {found}"):
        walk_bytes(block() + block(b"m", kind=kind) + END)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (block(b"\xff.jpg"), r"header at byte 0: name must be UTF-8, got b'\\xff.jpg'"),
        (block(b""), "header at byte 0: member must have a name, got none"),
        (
            block(b"d", kind=b"5", size=b"00000000003\0") + bytes(512),
            "directory 'd' must have size 0, got 3",
        ),
        (extended(b"L", b"name\0"), "expected the member of an extended header at byte 1024"),
    ],
)
def test_malformed_member_raises(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=rf"^a\.tar: .*{message}"):
        walk_bytes(data + END)


# Extended headers


def test_pax_records_override_header() -> None:
    records = record(b"mtime", b"1.5") + record(b"path", b"./b=c.jpg") + record(b"size", b"3")
    data = extended(b"x", records) + block(size=b"?" * 12) + bytes(512) + block() + END
    assert rows(walk_bytes(data)) == [("b=c.jpg", 1536, 3), ("a.jpg", 2560, 0)]


def test_global_headers_and_long_links_are_skipped() -> None:
    data = extended(b"g", record(b"path", b"no")) + extended(b"K", b"no\0") + block() + END
    assert walk_bytes(data).names == ["a.jpg"]


@pytest.mark.parametrize(
    "payload",
    [
        b"path=b.jpg\n",
        b"0 path=b.jpg\n",
        b"999 path=b.jpg\n",
        b"10 path=b.jpg\n",
        b"5 path=b.jpg\n",
        b"12 path=b.jp",
        b"9 path b\n",
        b"99999999999999999999 path=b\n",
        record(b"path", b"b") + b"\0\0",
    ],
)
def test_malformed_pax_record_raises(payload: bytes) -> None:
    with pytest.raises(SourceError, match="byte 0: pax record must be 'length key=value', got b'"):
        walk_bytes(extended(b"x", payload) + block() + END)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"path", b""),
        (b"path", b"a\0b"),
        (b"size", b""),
        (b"size", b"-1"),
        (b"size", b"1_0"),
        (b"size", b"9" * 5000),
    ],
)
def test_invalid_pax_value_raises(key: bytes, value: bytes) -> None:
    with pytest.raises(SourceError, match=f"pax record must hold a {key.decode()}, got b'"):
        walk_bytes(extended(b"x", record(key, value)) + block() + END)


def test_sparse_file_in_pax_archive_raises() -> None:
    with pytest.raises(SourceError, match="but is a GNU sparse file"):
        walk_bytes(extended(b"x", record(b"GNU.sparse.major", b"1")) + block() + END)


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_huge_extended_header_is_not_read(kind: bytes) -> None:
    payload = b"n" * (MAX_EXTENSION_NBYTES + 1)
    with pytest.raises(SourceError, match="must have at most 1048576 bytes, got 1048577"):
        walk_bytes(extended(kind, payload) + block() + END)


def test_extended_header_beyond_archive_raises() -> None:
    with pytest.raises(SourceError, match="extended header at byte 0 needs bytes 512 to 612, but"):
        walk_bytes(extended(b"L", b"n" * 100)[:600])


# Opening


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            b"\x1f\x8b\x08",
            "is gzip-compressed, not a plain tar archive; unpack it with gunzip first",
        ),
        (b"BZh9", "is bzip2-compressed, not a plain tar archive; unpack it with bunzip2 first"),
        (b"\xfd7zXZ\0", "is xz-compressed, not a plain tar archive; unpack it with unxz first"),
        (
            b"\x28\xb5\x2f\xfd",
            "is zstd-compressed, not a plain .*; unpack it with unzstd first",
        ),
        (
            b"PK\x03\x04",
            "is a zip archive, not a plain tar archive; unpack it with unzip first",
        ),
        (
            b"PK\x05\x06",
            "is a zip archive, not a plain tar archive; unpack it with unzip first",
        ),
        (b"\n <!DOCTYPE html>", "is an HTML page, perhaps a login .*; download it again"),
        (b"\xef\xbb\xbf<html>", "is an HTML page, perhaps a login .*; download it again"),
        (b"", "must be a tar archive, but is empty; download it again"),
    ],
)
@pytest.mark.parametrize("size", [0, 4096])
def test_other_format_is_named(start: bytes, message: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(start and start.ljust(size, b"?"))
    with (
        pytest.raises(SourceError, match=f"^{re.escape(str(path))}: {message}$"),
        open_archive(path),
    ):
        pass


def test_directory_instead_of_archive_raises(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceError, match="is a directory; replace it"),
        open_archive(tmp_path),
    ):
        pass


def test_pipe_raises_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with (
        pytest.raises(SourceError, match="but is a pipe or device"),
        open_archive(tmp_path / "a.tar"),
    ):
        pass


def test_missing_archive_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_archive(tmp_path / "a.tar"):
        pass


@pytest.mark.parametrize("name", ["BZh.jpg", "PK.jpg", "<html>.jpg"])
def test_first_member_name_may_look_like_another_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of([(name, b"x")]))
    with open_archive(path) as archive:
        assert walk(archive).names == [name]


def test_open_archive_has_name_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(END)
    with open_archive(path) as archive:
        assert (archive.name, archive.nbytes) == ("a.tar", 1024)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(archive.fd)


def test_error_names_nested_archive() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(SourceError, match=r"^out\.tar/in\.tar: "):
        walk(Archive(file.fileno(), 0, "out.tar"), location="out.tar/in.tar")


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 1025)])
def test_range_outside_file_raises(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"bytes {start} to {stop} are not a range of 1024 bytes"):
        walk_bytes(END, start=start, stop=stop)
