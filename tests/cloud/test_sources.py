"""Sources on real servers: the stores that a disk gives, by as many requests as docs/ says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from arraystore.errors import SourceChangedError, SourceError
from tests.sources import imagenet_forms
from tests.sources.forms import CLASSES, FORMS, OPTIONS
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cloud.servers import Server

PICTURES = {
    **{f"train/{'ab'[i % 2]}/é {i}#%.jpg": picture(60, 80, seed=i) for i in range(30)},
    "val/a/v.jpg": picture(seed=77),
}


def digests(report: arraystore.ConvertReport) -> dict[str, str]:
    return {split: info.content_digest for split, info in report.splits.items()}


def test_folder_has_the_digests_of_a_disk(server: Server, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", PICTURES)
    server.upload(photos, "sources/photos")
    address, options = server.at("sources/photos")
    if server.kind == "http":
        with pytest.raises(SourceError, match="a web server does not list its files"):
            arraystore.convert(f"folder:{address}", tmp_path / "a.zarr", source_options=options)
        return
    report = arraystore.convert(f"folder:{address}", tmp_path / "a.zarr", source_options=options)
    expected = arraystore.convert(f"folder:{photos}", tmp_path / "b.zarr")
    assert digests(report) == digests(expected)
    found = arraystore.verify(
        tmp_path / "a.zarr", source=f"folder:{address}", source_options=options
    )
    assert found.problems == ()


@pytest.mark.parametrize("form", ["wds", "wds, gzip", "TFDS", "parquet", "csv"])
def test_form_has_the_digests_of_a_disk(form: str, server: Server, tmp_path: Path) -> None:
    if server.kind == "http" and form != "csv":
        pytest.skip("needs a listing")
    dataset, stated = FORMS[form](tmp_path / "in"), OPTIONS.get(form, {})
    server.upload(tmp_path / "in", f"sources/{form}")
    address, options = server.at(f"sources/{form}")
    report = arraystore.convert(
        dataset.replace(str(tmp_path / "in"), address),
        tmp_path / "a.h5",
        source_options=options,
        **stated,
    )
    assert digests(report) == digests(arraystore.convert(dataset, tmp_path / "b.h5", **stated))


def test_archive_is_listed_by_few_bytes(server: Server, tmp_path: Path) -> None:
    if server.kind == "http":
        pytest.skip("needs a listing")
    rng = np.random.default_rng(0)
    images = {f"n01440764_{i}.JPEG": picture() + rng.bytes(100_000) for i in range(60)}
    folder = tmp_path / "in"
    imagenet_forms.archives(folder, "train", images)
    server.upload(folder, "sources/imagenet")
    with server.behind(latency=0.01) as proxy:
        address, options = server.at("sources/imagenet", proxy.endpoint)
        report = arraystore.convert(
            "imagenet2012",
            tmp_path / "a.h5",
            manual_dir=address,
            partial=True,
            source_options=options,
        )
        # Each image once whole, 4 KiB of it with its tar header, and 4 KiB for its own header.
        total = sum(map(len, images.values()))
        assert proxy.nbytes < total + len(images) * 2 * 4096 + 2**17
    assert report.splits["train"].num_samples == 60


def test_replaced_object_raises(writable: Server, tmp_path: Path) -> None:
    writable.upload(write_folder(tmp_path / "in", PICTURES), "sources/replaced")
    address, options = writable.at("sources/replaced")
    from arraystore.sources import folder
    from arraystore.storage.buckets import Buckets

    source = folder.load(Buckets(options).path(address))
    writable.put("sources/replaced/val/a/v.jpg", picture(seed=78))
    with pytest.raises(SourceChangedError, match=r"v\.jpg: changed since reading began"):
        source.states.check()
    with pytest.raises(SourceChangedError, match=r"v\.jpg: changed since reading began"):
        source.reader().read(len(source.files) - 1, 0, 10)


def test_requests_that_fail_are_retried(writable: Server, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "in", PICTURES)
    writable.upload(photos, "sources/faults")
    expected = digests(arraystore.convert(f"folder:{photos}", tmp_path / "b.h5"))
    with writable.behind(rate=0.1, seed=1) as proxy:
        address, options = writable.at("sources/faults", proxy.endpoint)
        quick = {"read_timeout": 0.5, "init_backoff": 0.01, "max_backoff": 0.1}
        report = arraystore.convert(
            f"folder:{address}", tmp_path / "a.h5", source_options=options | quick
        )
        assert proxy.n_faults.total() > 0
    assert digests(report) == expected


def test_conversion_from_bucket_to_bucket(writable: Server, tmp_path: Path) -> None:
    dataset = FORMS["wds"](tmp_path / "in")
    writable.upload(tmp_path / "in", "sources/shards")
    address, options = writable.at("sources/shards")
    target, _ = writable.at("stores/pets.zarr")
    report = arraystore.convert(
        dataset.replace(str(tmp_path / "in"), address),
        target,
        classes=CLASSES,
        source_options=options,
        storage_options=options,
    )
    local = arraystore.convert(dataset, tmp_path / "b.zarr", classes=CLASSES)
    assert digests(report) == digests(local)


@pytest.mark.parametrize("is_remote", [False, True])
def test_columns_of_images_that_stay_in_a_bucket(
    is_remote: bool, writable: Server, tmp_path: Path
) -> None:
    writable.upload(write_folder(tmp_path / "in", PICTURES), "sources/kept")
    source, options = writable.at("sources/kept")
    target = writable.at("sources/kept.zarr")[0] if is_remote else tmp_path / "kept.h5"
    where = options if is_remote else {}
    arraystore.convert(
        f"folder:{source}",
        target,
        source_options=options,
        storage_options=where,
        copy_images=False,
        overwrite=True,
    )
    features = np.arange(30 * 4).reshape(30, 4)
    tags = [[f"é{i}"] * (i % 3) for i in range(30)]
    for name, values in (("features", features), ("tags", tags)):
        arraystore.add_column(target, "train", name, values, storage_options=where)
    store = arraystore.open(target, storage_options=options, allow_references=source)
    train = store["train"]
    assert [names.tolist() for names in train.columns["tags"][:]] == tags
    assert train.where(tags="é4").image_bytes[:] == [train.image_bytes[4]]
    (batch,) = train.batches(30, columns=["features"], seed=1, size=8)
    at = [train.find(name) for name in batch.file_name]
    assert batch.columns["features"].tolist() == features[at].tolist()
    copy = tmp_path / "copy.zarr"
    arraystore.copy(target, copy, source_options=options, allow_references=source)
    assert arraystore.open(copy)["train"].columns["features"][:].tolist() == features.tolist()
    assert arraystore.open(copy)["train"].image_bytes[:] == train.image_bytes[:]
    for name in ("features", "tags"):
        arraystore.remove_column(target, "train", name, storage_options=where)
    assert not arraystore.open(target, storage_options=options)["train"].columns


def test_columns_of_a_split_with_parts_in_a_bucket(writable: Server, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    records = [
        {"image": picture(seed=i), "label": "ab"[i % 2], "file_name": f"{i}.jpg"} for i in range(8)
    ]
    arraystore.write(store, {"train": records[:5]}, classes=["a", "b"])
    arraystore.append(store, records[4:], split="train", on_existing="replace")
    writable.upload(store, "stores/parts.zarr")
    address, options = writable.at("stores/parts.zarr")
    values = np.arange(1.0, 9)
    for place, how in ((store, {}), (address, options)):
        arraystore.add_column(place, "train", "score", values, storage_options=how)
        train = arraystore.open(place, storage_options=how)["train"]
        assert train.columns["score"][:].tolist() == values.tolist()
        assert arraystore.verify(place, storage_options=how).problems == ()
        arraystore.remove_column(place, "train", "score", storage_options=how)
        assert not arraystore.open(place, storage_options=how)["train"].columns
