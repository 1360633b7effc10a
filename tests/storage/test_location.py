"""Forms of a location: which are equal, what is refused, and that text is parsed back."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

import arraystore
from arraystore.cli.commands import main
from arraystore.storage.location import KINDS, Location
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD: Final = "Tr0ub4dor"
STORE: Final = MemoryStore()


@pytest.mark.parametrize(
    ("text", "kind", "bucket", "key"),
    [
        ("s3://b/a/x.zarr", "s3", "b", "a/x.zarr"),
        ("S3://b/a b#c?d%20.h5", "s3", "b", "a b#c?d%20.h5"),
        ("s3a://b", "s3", "b", ""),
        ("gs://b/x.zarr/", "gs", "b", "x.zarr"),
        ("gcs://b//x.h5", "gs", "b", "x.h5"),
        ("az://c/x.h5", "az", "c", "x.h5"),
        ("abfs://c/x.h5", "az", "c", "x.h5"),
        ("azure://c/x.h5", "az", "c", "x.h5"),
        ("abfss://c@account.dfs.core.windows.net/x.h5", "az", "c", "x.h5"),
        ("http://h:80/a%20b/x.h5", "http", "http://h:80/", "a b/x.h5"),
        ("HTTPS://Host/x.zarr", "http", "https://host/", "x.zarr"),
        ("memory://a/x.zarr", "memory", "", "a/x.zarr"),
    ],
)
def test_url_is_parsed(text: str, kind: str, bucket: str, key: str) -> None:
    found = Location.parse(text)
    assert (found.kind, found.bucket, found.key) == (kind, bucket, key)
    assert not found.is_local


@pytest.mark.parametrize("text", ["a.zarr", "/a/b.h5", "c:a.h5", "s3:/a", "/a://b", "~/a", "."])
def test_other_text_is_a_path(text: str) -> None:
    found = Location.parse(text)
    assert found.is_local
    assert found.path == Path(text).expanduser().absolute()


@pytest.mark.parametrize(
    "url",
    [
        "file:///my%20data/%C3%A4.zarr",
        "FILE:///my data/ä.zarr",
        "file://localhost/my%20data/ä.zarr/",
        "File://LocalHost/my%20data/ä.zarr",
        "file:/my%20data/ä.zarr",
    ],
)
def test_file_url_is_an_absolute_path(url: str) -> None:
    assert Location.parse(url) == Location.parse("/my data/ä.zarr")
    assert Location.parse(url) == Location.parse(Path("/my data/ä.zarr"))


@pytest.mark.parametrize(
    "url", ["file://a.zarr", "file://host/a.zarr", "FILE:a.zarr", "file://~/a.zarr", "file://"]
)
def test_file_url_of_another_host_or_relative_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must have an absolute path and no host except localhost"):
        Location.parse(url)


def test_path_object_is_not_a_file_url() -> None:
    assert Location.parse(Path("file:/a")).path == Path("file:/a").absolute()


def test_azure_url_may_name_the_account() -> None:
    text = "abfss://c@account.dfs.core.windows.net/x.h5"
    assert Location.parse(text).account == "account"
    assert str(Location.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://me:Tr0ub4dor@h/a?sig=Tr0ub4dor", r"^ftp://h/a: must be a path or begin with s3://"),
        ("s3://me:Tr0ub4dor@b/a", r"^s3://b/a: must not contain a user or password"),
        ("az://me:Tr0ub4dor@b/a", r"^az://b/a: must not contain a user or password"),
        ("https://h/a.h5?sig=Tr0ub4dor", r"^https://h/a\.h5: must not have a query"),
        ("s3:///a", r"^s3:///a: names no bucket; expected s3://BUCKET/KEY"),
    ],
)
def test_unusable_url_is_refused_without_its_secrets(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Location.parse(text)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("place", [None, 5, b"a.zarr", (STORE,), (STORE, 5), ("a", "b"), object()])
def test_other_types_are_refused(place: Any) -> None:
    with pytest.raises(TypeError, match="must be a path, a URL or an obstore store, got"):
        Location.parse(place)


def test_secrets_are_not_shown() -> None:
    found = Location.parse(f"https://me:{PASSWORD}@h/a.h5", {"token": PASSWORD})
    assert PASSWORD not in repr(found) + str(found)
    assert found == Location.parse("https://h/a.h5")


def test_location_is_parsed_to_itself() -> None:
    found = Location.parse("s3://b/a", {"anon": True})
    assert Location.parse(found) is found


def test_options_are_copied() -> None:
    options = {"anon": True}
    found = Location.parse("s3://b/a", options)
    options.clear()
    assert found.options == {"anon": True}


# Properties

KEYS: Final = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=4,
).map("/".join)
BUCKETS: Final = st.text(string.ascii_lowercase + string.digits + "-", min_size=1)
HOST: Final = {"http": "host:8000", "https": "host", "memory": ""}


def cased(text: str, seed: int) -> str:
    """Return a text with some of its letters in upper case."""
    return "".join(c.upper() if seed >> i & 1 else c for i, c in enumerate(text))


@given(KEYS, st.integers(0, 15), st.integers(0, 511))
def test_forms_of_a_path_are_equal(key: str, scheme: int, host: int) -> None:
    path = Path("/") / key
    expected = Location.parse(path)
    quoted = path.as_uri().removeprefix("file://")
    forms = [str(path), f"{cased('file', scheme)}://{quoted}", f"{cased('file', scheme)}:{quoted}"]
    forms += [f"file://{cased('localhost', host)}{quoted}", os.path.relpath(path)]
    for form in forms:
        if form == os.path.relpath(path):
            found = Location.parse(Path(form))
            assert found.path.resolve() == expected.path.resolve()
            assert found.is_within(expected)
        else:
            assert Location.parse(form) == expected


@given(KEYS, BUCKETS, st.sampled_from(sorted(set(KINDS) - {"file"})), st.integers(0, 127))
def test_text_of_a_location_is_parsed_back(key: str, bucket: str, scheme: str, case: int) -> None:
    root = f"{cased(scheme, case)}://{HOST.get(scheme, bucket)}"
    found = Location.parse(f"{root}/{key}" if KINDS[scheme] != "http" else f"{root}/x")
    found = found.at(key.strip("/"))
    again = Location.parse(str(found))
    assert again == found
    assert str(again) == str(found)
    assert hash(again) == hash(found)


@given(KEYS)
def test_text_of_a_path_is_parsed_back(key: str) -> None:
    for place in (Path("/") / key, Path(key)):
        found = Location.parse(place)
        assert Location.parse(str(found)) == found


@pytest.mark.parametrize(
    ("place", "other", "expected"),
    [
        ("s3://b/a.zarr", "s3a://b/a.zarr/", True),
        ("s3://b/a.zarr/train", "s3://b/a.zarr", True),
        ("s3://b/a.zarr", "s3://b/a.zarr/train", False),
        ("s3://b/a.zarr", "gs://b/a.zarr", False),
        ("s3://b/a.zarr", "s3://b/a", False),
        ("memory://a", "memory://", True),
        ("file:///a/b", "/a", True),
        ("/a/../b/c", "/b", True),
        ("s3://b/a", "/a", False),
        ((STORE, "/a/"), (STORE, "a"), True),
        ((STORE, "a"), STORE, True),
        ((STORE, "a"), (MemoryStore(), "a"), False),
    ],
)
def test_is_within(place: Any, other: Any, expected: bool) -> None:
    assert Location.parse(place).is_within(Location.parse(other)) is expected


# The same forms everywhere


def xarray_root(place: Any) -> int:
    with xarray.open_dataset(place, engine="arraystore") as dataset:
        return dataset.sizes["class"]


READ: Final[dict[str, Callable[[Any, Path], Any]]] = {
    "open": lambda place, _: list(arraystore.open(place)),
    "copy": lambda place, folder: arraystore.copy(place, folder / "copy.h5", overwrite=True),
    "verify": lambda place, _: arraystore.verify(place).ok,
    "xarray": lambda place, _: xarray_root(place),
    "cli": lambda place, _: main(["info", os.fspath(place)]) == 0,
}
FORMS: Final[dict[str, Callable[[Path], Any]]] = {
    "path object": lambda path: path,
    "text": str,
    "relative": lambda path: os.path.relpath(path),
    "file URL": lambda path: path.as_uri(),
    "file URL in upper case": lambda path: path.as_uri().replace("file", "FILE"),
    "file URL of localhost": lambda path: path.as_uri().replace("file://", "file://localhost"),
    "file URL without //": lambda path: path.as_uri().replace("file://", "file:"),
}
forms: Final = pytest.mark.parametrize("form", FORMS)


@forms
def test_forms_are_read_alike(form: str, path: Path, tmp_path: Path) -> None:
    link = tmp_path / f"50% of my data{path.suffix}"  # with characters that URLs escape
    link.symlink_to(path)
    for entry, read in READ.items():
        assert read(FORMS[form](link), tmp_path), entry


@forms
@pytest.mark.parametrize("entry", ["convert", "copy", "cli"])
def test_forms_are_written_alike(
    entry: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = write_folder(tmp_path / "photos", {"cat/1.jpg": picture(), "dog/2.jpg": picture()})
    expected = tmp_path / "50% of my data.h5"
    target = FORMS[form](expected)
    if entry == "convert":
        assert arraystore.convert(f"folder:{photos}", target).path == str(expected)
    elif entry == "cli":
        assert main(["convert", f"folder:{photos}", os.fspath(target)]) == 0
    else:
        arraystore.convert(f"folder:{photos}", (STORE, "photos.zarr"), overwrite=True)
        assert arraystore.copy((STORE, "photos.zarr"), target).path == str(expected)
    assert sorted(tmp_path.iterdir()) == sorted([expected, photos])
    assert len(arraystore.open(expected)["train"]) == 2


@pytest.mark.parametrize("entry", READ)
def test_file_url_of_another_host_is_refused_everywhere(
    entry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "file://host/a.zarr"
    if entry == "cli":
        assert not READ[entry](url, tmp_path)
        assert f"{url}: a file URL must have" in capsys.readouterr().err
    else:
        with pytest.raises(ValueError, match=f"{url}: a file URL must have"):
            READ[entry](url, tmp_path)


def test_obstore_store_and_memory_are_read_and_written_alike(path: Path) -> None:
    bucket = MemoryStore()
    target: Any
    for target in ((bucket, f"/a{path.suffix}"), f"MEMORY://forms/a{path.suffix}"):
        arraystore.copy(path, target)
        train = arraystore.open(target)["train"]
        assert arraystore.verify(target).ok
        assert xarray_root(target)
        np.testing.assert_array_equal(train.label, arraystore.open(path)["train"].label)


def test_guess_of_xarray_accepts_a_file_url(path: Path) -> None:
    url = path.as_uri().replace("file", "FILE") + ("/" if path.suffix == ".zarr" else "")
    guess: Any = xarray.backends.list_engines()["arraystore"].guess_can_open
    assert guess(url)
    assert not guess(url.replace("FILE://", "file://host"))
    assert not guess(MemoryStore())
