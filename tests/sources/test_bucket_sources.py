"""Sources in buckets: the stores that a disk gives, by few requests, and no changed object."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image

import arraystore
from arraystore.cli.commands import main
from arraystore.cli.synthetic_archives import encode
from arraystore.errors import SourceChangedError, SourceError, StorageError
from arraystore.sources import folder, imagenet2012
from arraystore.sources.registry import load_source
from arraystore.sources.shards import find_shards
from arraystore.sources.source_options import SourceOptions
from arraystore.sources.tar import open_archive, walk
from arraystore.storage.buckets import Buckets
from arraystore.writing import fill, image_source
from arraystore.writing.image_source import FileRanges
from benchmarks.kills import tree
from tests.sources import imagenet_forms
from tests.sources.forms import CLASSES, FORMS, OPTIONS, write_tar
from tests.support import SUFFIXES, picture, write_folder
from tests.web import Answer, WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.web import Asked

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name


def png(seed: int) -> bytes:
    """A picture with lines, of more bytes than are read for a header."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


PHOTOS: Final = {
    **{f"train/{'ab'[i % 2]}/é {i}#.jpg": picture(10 + i, 16, seed=i) for i in range(8)},
    "val/a/v.png": png(77),
    "val/b/.hidden.jpg": b"x",
    "val/b/notes.txt": b"x",
}


class StoppedError(Exception):
    """Stops a conversion."""


def stop(*args: Any, **options: Any) -> None:
    raise StoppedError


@pytest.fixture
def web() -> Iterator[WebServer]:
    """An empty bucket, ``s3://bucket``."""
    with WebServer() as server:
        yield server


@pytest.fixture
def bucket(web: WebServer, photos: Path) -> WebServer:
    """A bucket with the photos below ``data/photos``."""
    web.put(photos, "bucket/data/photos")
    return web


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("in") / "photos", PHOTOS)


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of the photos on the disk."""
    folder = tmp_path_factory.mktemp("local")
    for suffix in SUFFIXES:
        arraystore.convert(f"folder:{photos}", folder / f"a{suffix}", sync=False)
    return {suffix: folder / f"a{suffix}" for suffix in SUFFIXES}


ADDRESS: Final = "folder:s3://bucket/data/photos"


def requests_of(web: WebServer) -> Counter[str]:
    """How many objects were listed, looked up and read, and forget them."""

    def kind(asked: Asked) -> str:
        return "list" if "list-type" in asked.query else asked.method

    found = Counter(map(kind, web.asked))
    web.asked.clear()
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_in_bucket_gives_the_store_of_the_folder(
    suffix: str, bucket: WebServer, local: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(ADDRESS, target, source_options=bucket.s3)
    assert tree(target) == tree(local[suffix])
    assert any("(val/b/notes.txt)" in note for note in report.notes)
    # Each image is read once for its header and once whole, the PNG twice for its header; the
    # states are compared at the end, and that of one object after it was listed.
    assert requests_of(bucket) == {"list": 1, "GET": 2 * 9 + 1, "HEAD": 1 + 9}
    found = arraystore.verify(target, source=ADDRESS, source_options=bucket.s3)
    assert (found.problems, found.source) == ((), ADDRESS)
    assert requests_of(bucket) == {"list": 2, "GET": 9, "HEAD": 1 + 9}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_is_converted_from_bucket_to_bucket(
    suffix: str, bucket: WebServer, local: dict[str, Path], tmp_path: Path
) -> None:
    arraystore.convert(
        ADDRESS,
        f"s3://bucket/out/a{suffix}",
        source_options=bucket.s3,
        storage_options=bucket.s3,
    )
    arraystore.copy(f"s3://bucket/out/a{suffix}", tmp_path / "b.h5", source_options=bucket.s3)
    assert tree(tmp_path / "b.h5") == tree(local[".h5"])


def test_listing_takes_all_pages(bucket: WebServer, tmp_path: Path) -> None:
    bucket.keys_per_page = 3
    for name in ("", "train/", "train/a/"):
        bucket.objects[f"bucket/data/photos/{name}"] = b""  # as consoles make folders
    bucket.objects["bucket/data/photos2/train/c/1.jpg"] = picture(9, 9)
    report = arraystore.convert(ADDRESS, tmp_path / "a.h5", source_options=bucket.s3, sync=False)
    store = arraystore.open(tmp_path / "a.h5")
    assert (len(store["train"]), store.label_names) == (8, ("a", "b"))
    assert not any("train" in note for note in report.notes)


@pytest.mark.parametrize(
    ("time", "etag"),
    [("00:00:00.987", ""), ("00:00:00.000", "-2"), ("00:00:01.000", "")],
    ids=["fractions", "other ETags", "other times"],
)
def test_listing_may_differ_from_responses(
    time: str, etag: str, bucket: WebServer, tmp_path: Path
) -> None:
    """As those of some services do; what is left is compared."""
    bucket.listed_time, bucket.listed_etag = f"2026-01-01T{time}Z", etag
    arraystore.convert(ADDRESS, tmp_path / "a.h5", source_options=bucket.s3, sync=False)
    name = "bucket/data/photos/train/a/é 4#.jpg"
    after(bucket, 9, lambda: bucket.objects.update({name: bucket.objects[name] + b"x"}))
    with pytest.raises(SourceChangedError, match=r"é 4#\.jpg: changed .* size was"):
        arraystore.convert(ADDRESS, tmp_path / "b.h5", source_options=bucket.s3, sync=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stopped_conversion_from_bucket_is_resumed(
    suffix: str,
    bucket: WebServer,
    local: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / f"a{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(StoppedError):
            arraystore.convert(ADDRESS, target, source_options=bucket.s3)
    arraystore.convert(ADDRESS, target, source_options=bucket.s3, resume=True)
    assert tree(target) == tree(local[suffix])
    report = arraystore.convert(ADDRESS, target, source_options=bucket.s3, resume=True)
    assert report.was_complete


def test_resumed_conversion_of_changed_objects_raises(
    bucket: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(StoppedError):
            arraystore.convert(ADDRESS, tmp_path / "a.zarr", source_options=bucket.s3)
    name = "bucket/data/photos/val/a/v.png"
    bucket.objects[name] = png(78)
    with pytest.raises(SourceChangedError, match=r"v\.png.*1 of the 1 images from here"):
        arraystore.convert(ADDRESS, tmp_path / "a.zarr", source_options=bucket.s3, resume=True)


def after(web: WebServer, n: int, act: Any) -> None:
    """Run `act` when the images have been requested `n` times."""
    left = [n]

    def answer(asked: Asked) -> None:
        if asked.method == "GET" and not asked.query:
            left[0] -= 1
            if left[0] == -1:
                act()

    web.answer = answer


@pytest.mark.parametrize(
    ("n", "change", "found"),
    [
        (0, "append", "size was"),
        (9, "replace", "ETag differs"),
        (9, "delete", "no longer exists"),
        (17, "delete", "no longer exists"),
    ],
    ids=["listed", "probed", "deleted", "copied"],
)
def test_object_that_changes_raises(
    n: int, change: str, found: str, bucket: WebServer, tmp_path: Path
) -> None:
    name = "bucket/data/photos/train/a/é 4#.jpg"
    data = bucket.objects[name]

    def act() -> None:
        if change == "delete":
            del bucket.objects[name]
        else:
            bucket.objects[name] = data[::-1] if change == "replace" else data + b"x"

    after(bucket, n, act)
    with pytest.raises(SourceChangedError, match=rf"s3://bucket/.*/é 4#\.jpg: .*{found}"):
        arraystore.convert(ADDRESS, tmp_path / "a.zarr", source_options=bucket.s3)
    assert not (tmp_path / "a.zarr").exists()


def test_object_of_another_size_than_listed_is_not_stored(
    bucket: WebServer, tmp_path: Path
) -> None:
    """Servers without ETags have sizes and times only."""
    name = "bucket/data/photos/val/a/v.png"
    bucket.etags = dict.fromkeys(bucket.objects, "")
    after(bucket, 9, lambda: bucket.objects.update({name: bucket.objects[name] + b"x"}))
    with pytest.raises(SourceChangedError, match=r"v\.png: changed since reading began: size was"):
        arraystore.convert(ADDRESS, tmp_path / "a.zarr", source_options=bucket.s3)


def test_image_that_differs_is_found_by_verify(bucket: WebServer, local: dict[str, Path]) -> None:
    bucket.objects["bucket/data/photos/val/a/v.png"] = png(78)
    report = arraystore.verify(local[".h5"], source=ADDRESS, source_options=bucket.s3)
    assert [p.message for p in report.problems] == ["its bytes differ from the source"]


def test_failed_requests_are_retried(
    bucket: WebServer, local: dict[str, Path], tmp_path: Path
) -> None:
    left = dict.fromkeys(bucket.objects, "reset")

    def answer(asked: Asked) -> str | None:
        return left.pop(asked.path, None) if asked.method == "GET" else None

    bucket.answer = answer
    arraystore.convert(
        ADDRESS, tmp_path / "a.h5", source_options=bucket.s3 | {"init_backoff": 0.001}
    )
    assert tree(tmp_path / "a.h5") == tree(local[".h5"])


def test_empty_folder_in_bucket_raises(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="s3://bucket/data/photos: is empty"):
        arraystore.convert(ADDRESS, tmp_path / "a.h5", source_options=web.s3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (404, "NoSuchBucket", FileNotFoundError, "there is no such bucket"),
        (403, "AccessDenied", StorageError, "access denied"),
    ],
)
def test_bucket_that_cannot_be_read_raises(
    status: int,
    code: str,
    error: type[Exception],
    message: str,
    web: WebServer,
    tmp_path: Path,
) -> None:
    web.answer = lambda asked: Answer(status, f"<Error><Code>{code}</Code></Error>")
    with pytest.raises(error, match=message):
        arraystore.convert(ADDRESS, tmp_path / "a.h5", source_options=web.s3)


def test_folder_behind_web_server_raises(web: WebServer, tmp_path: Path) -> None:
    message = "a web server does not list its files; name them"
    with pytest.raises(SourceError, match=message):
        arraystore.convert(f"folder:{web.url}/photos", tmp_path / "a.h5")
    with pytest.raises(SourceError, match=message):
        arraystore.convert("imagenet2012", tmp_path / "a.h5", manual_dir=f"{web.url}/imagenet")


def test_target_within_source_raises(bucket: WebServer) -> None:
    options: dict[str, Any] = {"source_options": bucket.s3, "storage_options": bucket.s3}
    with pytest.raises(ValueError, match="lies in the source s3://bucket/data/photos"):
        arraystore.convert(ADDRESS, "s3a://bucket/data/photos/a.zarr", **options)
    with pytest.raises(ValueError, match="contains the source"):
        arraystore.convert("folder:s3://bucket/a.zarr/b", "s3://bucket/a.zarr", **options)


def test_options_without_address_raise(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source_options need an address as the source"):
        arraystore.convert(f"folder:{photos}", tmp_path / "a.h5", source_options={"anon": True})
    with pytest.raises(ValueError, match="storage_options need an address"):
        arraystore.convert(ADDRESS, tmp_path / "a.h5", storage_options={"anon": True})


def test_commands_take_addresses_and_options(
    bucket: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--source-option={name}={value}" for name, value in bucket.s3.items()]
    target = str(tmp_path / "a.h5")
    assert main(["convert", ADDRESS, target, "--no-sync", *options]) == 0
    assert main(["verify", target, "--source", ADDRESS, *options]) == 0
    assert f"compared with {ADDRESS}: no problems" in capsys.readouterr().out


IN_BUCKETS: Final = [form for form in FORMS if form not in ("array_record", "tsv")]
every_form = pytest.mark.parametrize("form", IN_BUCKETS)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The folder of each form, and the name of its data set."""
    folder = tmp_path_factory.mktemp("forms")
    folders = {form: folder / f"form{i}" for i, form in enumerate(IN_BUCKETS)}
    return {form: (path, FORMS[form](path)) for form, path in folders.items()}


def in_bucket(web: WebServer, folder: Path, dataset: str) -> str:
    """Put a folder into the bucket; return the name of the data set there."""
    web.put(folder, "bucket/in")
    return dataset.replace(str(folder), "s3://bucket/in")


@every_form
def test_form_in_bucket_gives_the_store_of_the_files(
    form: str, forms: dict[str, tuple[Path, str]], web: WebServer, tmp_path: Path
) -> None:
    folder, dataset = forms[form]
    stated = OPTIONS.get(form, {})
    arraystore.convert(dataset, tmp_path / "a.h5", sync=False, **stated)
    remote = in_bucket(web, folder, dataset)
    report = arraystore.convert(
        remote, tmp_path / "b.h5", source_options=web.s3, sync=False, **stated
    )
    stores = [arraystore.open(tmp_path / name) for name in ("a.h5", "b.h5")]
    infos = [
        {split: info.content_digest for split, info in store.info.splits.items()}
        for store in stores
    ]
    assert infos[0] == infos[1] == {s: i.content_digest for s, i in report.splits.items()}
    assert stores[0].label_names == stores[1].label_names
    if form in ("wds", "csv"):  # others read the same file, or the spool
        found = arraystore.verify(tmp_path / "b.h5", source=remote, source_options=web.s3, **stated)
        assert found.problems == ()
    assert not [
        asked
        for asked in web.asked
        if asked.method == "GET" and not asked.query and not asked.range
    ]  # no object is requested whole


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content digests of ImageNet's archives on the disk."""
    folder = imagenet_forms.draw_form(tmp_path_factory.mktemp("archives"), "archives")
    return digests(
        arraystore.convert(
            "imagenet2012:5.1.0", folder / "a.h5", manual_dir=folder, partial=True, sync=False
        )
    )


def digests(report: arraystore.ConvertReport) -> dict[str, str]:
    return {split: info.content_digest for split, info in report.splits.items()}


@pytest.mark.parametrize(
    "form",
    [
        *("archives", "class archives", "class folders", "kaggle", "parquet", "tar.gz"),
        *("webdataset", "tfds"),
    ],
)
def test_imagenet_in_bucket_has_the_digests_of_the_archives(
    form: str, expected: dict[str, str], web: WebServer, tmp_path: Path
) -> None:
    web.put(imagenet_forms.draw_form(tmp_path / "in", form), "bucket/imagenet")
    options: dict[str, Any] = {"source_options": web.s3}
    report = arraystore.convert(
        "imagenet2012:5.1.0",
        tmp_path / "a.h5",
        manual_dir="s3://bucket/imagenet",
        partial=True,
        sync=False,
        **options,
    )
    assert digests(report) == expected
    if form in ("archives", "class folders"):
        found = arraystore.verify(tmp_path / "a.h5", source="s3://bucket/imagenet", **options)
        assert found.problems == ()
    assert arraystore.open(tmp_path / "a.h5")["train"].select("1pct").file_name[:].size == 5


def test_headers_of_large_members_are_requested_alone(web: WebServer, tmp_path: Path) -> None:
    """Of a training archive one request a member, not the archive."""
    images = {f"n01440764_{i}.JPEG": picture() + bytes(2**17) for i in range(20)}
    inner = imagenet_forms.class_tars(images)
    web.objects["bucket/in/ILSVRC2012_img_train.tar"] = imagenet_forms.tar_bytes(inner)
    path = Buckets(web.s3).path("s3://bucket/in")
    web.asked.clear()
    source = imagenet2012.load("", "5.0.0", manual_dir=path, partial=True)
    assert len(source.splits["train"]) == 20
    gets = [asked for asked in web.asked if asked.range]
    assert len(gets) <= 20 + 6  # the list of classes, and the ends of both archives
    assert sum(map(_nbytes, gets)) <= 30 * 2**12 < 20 * 2**17


def test_small_members_are_read_in_long_ranges(web: WebServer, tmp_path: Path) -> None:
    members = [(f"{i:05}.jpg", picture()) for i in range(1500)]
    path = write_tar(tmp_path / "a.tar", members)
    web.put(path, "bucket/a.tar")
    with open_archive(Buckets(web.s3).path("s3://bucket/a.tar")) as archive:
        assert len(walk(archive).names) == len(members)
    assert len([asked for asked in web.asked if asked.range]) <= 16
    assert sum(map(_nbytes, web.asked)) <= 1.1 * path.stat().st_size + 2**16


def test_labels_are_read_with_the_headers(web: WebServer, tmp_path: Path) -> None:
    """A sample with a large image takes one request for its header and its label."""
    for shard in range(8):
        members = [
            member
            for i in range(5)
            for member in ((f"{i}.jpg", picture() + bytes(2**17)), (f"{i}.cls", b"1"))
        ]
        path = write_tar(tmp_path / f"train-{shard:03}.tar", members)
        web.put(path, f"bucket/shards/{path.name}")
    options = SourceOptions(classes=2, buckets=Buckets(web.s3), fields={"file_name": ""})
    pattern = "wds:s3://bucket/shards/train-*.tar"
    source = load_source(pattern, spool=tmp_path / "spool", options=options)
    assert len(source.splits["train"]) == 40
    # Of each shard also its beginning and its end, and 6 bytes to see if it is compressed.
    assert len([asked for asked in web.asked if asked.range]) <= 8 * (5 + 3)


def test_adjacent_images_share_requests(web: WebServer, tmp_path: Path) -> None:
    members = [(f"{i:03}.jpg", picture(seed=i)) for i in range(300)]
    path = write_tar(tmp_path / "train.tar", members)
    web.put(path, "bucket/train.tar")
    arraystore.convert(
        "wds:s3://bucket/train.tar",
        tmp_path / "a.h5",
        source_options=web.s3,
        fields={"label": ""},
        classes=1,
        order="source",
        sync=False,
    )
    assert requests_of(web)["GET"] <= 14


def _nbytes(asked: Asked) -> int:
    first, _, last = asked.range.removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1 if last else 0


NAMES: Final = (
    *("shards/pets-train-000000.tar", "shards/pets-train-000001.tar", "shards/pets-val-000000.tar"),
    *("shards/.hidden.tar", "shards/deep/train/x.tar", "shards/deep/.git/train.tar"),
    *("shards/notes.txt", "shards2/pets-train-000009.tar", "[odd]/train.tar"),
)


@pytest.fixture(scope="module")
def names() -> Iterator[WebServer]:
    """A bucket of empty objects."""
    with WebServer() as server:
        server.objects = {f"bucket/{name}": b"x" for name in NAMES}
        yield server


@pytest.mark.parametrize(
    "pattern",
    [
        "shards/pets-train-*.tar",
        "shards/pets-{train,val}-00000[0-9].tar",
        "shards/pets-train-{000000..000001}.tar",
        "shards",
        "shards/",
        "shards*/pets-train-*.tar",
        "shards/**/*.tar",
        "shards/pets-val-??????.tar",
        "shards/deep/train/x.tar",
        "train=shards/pets-train-*.tar,val=shards/pets-val-000000.tar",
    ],
)
def test_pattern_means_the_files_that_it_means_on_a_disk(
    pattern: str, names: WebServer, tmp_path: Path
) -> None:
    write_folder(tmp_path, dict.fromkeys(NAMES, b"x"))

    def found(root: str, options: SourceOptions) -> list[tuple[str, str]]:
        placed = re.sub(r"(^|=|,(?=\w+=)\w+=)(?=s)", rf"\g<1>{root}/", pattern)
        shards = find_shards(placed, (".tar",), options)
        assert list(shards.states.paths) == [*map(str, shards.files)]
        files = [str(path).removeprefix(f"{root}/") for path in shards.files]
        return list(zip(files, shards.splits, strict=True))

    options = SourceOptions(split=None if "=" in pattern else "all", buckets=Buckets(names.s3))
    remote = found("s3://bucket", options)
    assert remote == found(str(tmp_path), options)
    assert len(remote) > 0


def test_missing_shards_in_bucket_are_named(names: WebServer) -> None:
    options = SourceOptions(buckets=Buckets(names.s3))
    with pytest.raises(SourceError, match=r"1 name \(s3://bucket/shards/pets-train-000002\.tar\)"):
        find_shards("s3://bucket/shards/pets-train-{000000..000002}.tar", (".tar",), options)
    with pytest.raises(SourceError, match="no such object, and no object matches"):
        find_shards("s3://bucket/shards/nothing-*.tar", (".tar",), options)
    with pytest.raises(SourceError, match=r"no files \*\.tfrecord in this folder"):
        find_shards("s3://bucket/shards", (".tfrecord",), options)


def test_shards_behind_web_server_are_named_one_by_one(
    forms: dict[str, tuple[Path, str]], web: WebServer, tmp_path: Path
) -> None:
    web.put(forms["wds"][0], "in")
    pattern = f"{web.url}/in/pets-train-{{000000..000001}}.tar"
    report = arraystore.convert(f"wds:{pattern}", tmp_path / "a.h5", classes=CLASSES, sync=False)
    assert report.splits["train"].num_samples == 7
    with pytest.raises(SourceError, match="a web server does not list its files"):
        arraystore.convert(f"wds:{web.url}/in/*.tar", tmp_path / "b.h5", classes=CLASSES)


@pytest.mark.parametrize("form", ["wds", "TFDS", "wds, gzip", "parquet"])
@pytest.mark.parametrize("n", [0, 1])
def test_shard_that_changes_raises(
    form: str, n: int, forms: dict[str, tuple[Path, str]], web: WebServer, tmp_path: Path
) -> None:
    """While its samples are listed, and afterwards."""
    dataset = in_bucket(web, *forms[form])
    name = next(name for name in web.objects if "train" in name)
    left = [n]

    def answer(asked: Asked) -> None:
        if asked.path == name and asked.method == "GET":
            left[0] -= 1
            if left[0] == -1:
                web.objects[name] += b"x"

    web.answer = answer
    with pytest.raises(SourceChangedError, match=r"s3://bucket/in/.*train.*: .*size was"):
        arraystore.convert(
            dataset, tmp_path / "a.h5", source_options=web.s3, **OPTIONS.get(form, {})
        )
    assert not (tmp_path / "a.h5").exists()


def test_damaged_shard_in_bucket_is_reported(web: WebServer, tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", [("a.jpg", picture()), ("b.jpg", picture())]).read_bytes()
    for name, damaged in {"cut": data[:1100], "html": b"<html>", "zip": b"PK\x03\x04"}.items():
        web.objects[f"bucket/{name}/train.tar"] = damaged
        message = {"cut": "is truncated", "html": "an HTML page", "zip": "a zip archive"}[name]
        with pytest.raises(SourceError, match=f"train.tar: .*{message}"):
            arraystore.convert(
                f"wds:s3://bucket/{name}/train.tar", tmp_path / "a.h5", source_options=web.s3
            )


def test_table_in_bucket_names_what_is_missing(web: WebServer, tmp_path: Path) -> None:
    web.objects["bucket/in/a.jpg"] = web.objects["bucket/b.jpg"] = picture()
    lines = ["path,label", "a.jpg,x", "./gone.jpg,y"]
    web.objects["bucket/in/labels.csv"] = "\n".join(lines).encode()
    options: dict[str, Any] = {"source_options": web.s3, "sync": False}
    with pytest.raises(SourceError, match="No such file"):
        arraystore.convert("csv:s3://bucket/in/labels.csv", tmp_path / "a.h5", **options)
    web.objects["bucket/in/labels.csv"] = b"path,label\n../b.jpg,x\n"
    with pytest.raises(SourceError, match="lies outside the folder of the file"):
        arraystore.convert("csv:s3://bucket/in/labels.csv", tmp_path / "a.h5", **options)


def test_table_on_a_disk_may_name_objects(web: WebServer, tmp_path: Path) -> None:
    web.objects["bucket/in/a.jpg"] = picture(seed=1)
    lines = "path,label,name\ns3://bucket/in/a.jpg,x,a\nb.jpg,y,b\n"
    write_folder(tmp_path, {"labels.csv": lines.encode(), "b.jpg": picture(seed=2)})
    report = arraystore.convert(
        f"csv:{tmp_path}/labels.csv",
        tmp_path / "a.h5",
        source_options=web.s3,
        fields={"file_name": "name"},
        order="source",
    )
    assert report.splits["train"].num_samples == 2
    images = arraystore.open(tmp_path / "a.h5")["train"].image_bytes[:]
    assert list(images) == [picture(seed=1), picture(seed=2)]


@pytest.mark.parametrize(
    "image", ["https://example.org/a.jpg", "file:///etc/a.jpg", "abfss://c@other.host/a.jpg"]
)
def test_table_may_not_send_options_elsewhere(image: str, web: WebServer, tmp_path: Path) -> None:
    """A table may come from a stranger; options may be secret."""
    web.objects["bucket/in/labels.csv"] = f"path,label,name\n{image},x,a\n".encode()
    with pytest.raises(SourceError, match="tables may name paths, and objects in buckets"):
        arraystore.convert(
            "csv:s3://bucket/in/labels.csv",
            tmp_path / "a.h5",
            source_options=web.s3,
            fields={"file_name": "name"},
        )


def test_few_bytes_are_requested_at_a_time(
    bucket: WebServer, local: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an image that is longer."""
    monkeypatch.setattr(image_source, "_WINDOW_NBYTES", 2500)
    monkeypatch.setattr(fill, "BUFFER_NBYTES", 1000)
    arraystore.convert(ADDRESS, tmp_path / "a.h5", source_options=bucket.s3)
    assert tree(tmp_path / "a.h5") == tree(local[".h5"])
    n_png = len(PHOTOS["val/a/v.png"])
    assert requests_of(bucket)["GET"] == 2 * 8 + 2 + 1 + -(-(n_png - 2500) // 2000)


def test_tasks_can_be_sent_to_other_processes(bucket: WebServer) -> None:
    source = folder.load(Buckets(bucket.s3).path("s3://bucket/data/photos"))
    table = source.splits["train"]
    images = FileRanges(source.states.paths, table.file, table.offset, table.nbytes, source.states)
    received = pickle.loads(pickle.dumps(images.rows(3, 5)))
    buffer = bytearray(table.nbytes[3])
    received.read(0, 0, memoryview(buffer))
    assert bytes(buffer) == bucket.objects[str(source.files[3]).removeprefix("s3://")]


def test_images_in_bucket_are_checked_whole(bucket: WebServer, tmp_path: Path) -> None:
    name = "bucket/data/photos/train/a/é 4#.jpg"
    bucket.objects[name] = bucket.objects[name][:-300]
    options: dict[str, Any] = {"source_options": bucket.s3, "check_images": True}
    with pytest.raises(SourceError, match=r"s3://bucket/.*/é 4#\.jpg: cannot be decoded"):
        arraystore.convert(ADDRESS, tmp_path / "a.h5", **options)
    assert requests_of(bucket)["GET"] == 8  # of train
    report = arraystore.convert(ADDRESS, tmp_path / "a.h5", on_error="skip", **options)
    assert [name for name, _ in report.splits["train"].skipped] == ["a/é 4#.jpg"]
    assert requests_of(bucket)["GET"] == 9 + 8
