"""The same images in every form: the same store, resumed, verified and skipped alike."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceChangedError, SourceError
from arraystore.sources.registry import load_source
from arraystore.sources.source_options import SourceOptions
from benchmarks.kills import tree
from tests.sources.forms import CLASSES, FORMS, OPTIONS, SAMPLES, SPOOLED
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name

every_form = pytest.mark.parametrize("form", FORMS)


class StoppedError(Exception):
    """Stops a conversion."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("forms")
    return {form: write(folder / f"form{i}") for i, (form, write) in enumerate(FORMS.items())}


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content digests of the same samples, written from Python as bytes."""
    target = tmp_path_factory.mktemp("written") / "a.zarr"
    splits = {
        split: [{"image": s.image, "label": s.label, "file_name": s.name} for s in samples]
        for split, samples in SAMPLES.items()
    }
    report = arraystore.write(target, splits, classes=CLASSES, sync=False)
    return {split: info.content_digest for split, info in report.splits.items()}


@every_form
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_images_have_same_digest(
    form: str, suffix: str, datasets: dict[str, str], digests: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    report = arraystore.convert(datasets[form], target, sync=False, **OPTIONS.get(form, {}))
    assert {split: info.content_digest for split, info in report.splits.items()} == digests
    store = arraystore.open(target)
    assert store.label_names == CLASSES
    for split, samples in SAMPLES.items():
        part = store[split]
        rows = zip(part.file_name, part.label, part.image_bytes[:], strict=True)
        assert sorted(rows) == sorted((s.name, s.label, s.image) for s in samples)
    found = arraystore.verify(target, source=datasets[form], **OPTIONS.get(form, {}))
    assert (found.problems, found.source) == ((), datasets[form])
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@every_form
def test_spool_is_used_where_images_are_no_byte_range(
    form: str, datasets: dict[str, str], tmp_path: Path
) -> None:
    options = SourceOptions(**OPTIONS.get(form, {}))
    source = load_source(datasets[form], spool=tmp_path / "spool", options=options)
    assert (source.spool is not None) == (form in SPOOLED)
    for split, samples in SAMPLES.items():
        table = source.splits[split]
        for i, name in enumerate(table.file_name):
            path = source.place(int(table.file[i]))
            data = path.read_bytes()[table.offset[i] : table.offset[i] + table.nbytes[i]]
            assert data == next(sample.image for sample in samples if sample.name == name)


@every_form
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stopped_conversion_is_resumed(
    form: str,
    suffix: str,
    datasets: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise StoppedError

    stated = OPTIONS.get(form, {})
    arraystore.convert(datasets[form], tmp_path / f"whole{suffix}", **stated)
    target = tmp_path / f"a{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(StoppedError):
            arraystore.convert(datasets[form], target, **stated)
    assert (tmp_path / f".a{suffix}.partial").exists()
    with pytest.raises(ValueError, match="option field file_name is x, but was absent"):
        arraystore.convert(datasets[form], target, resume=True, fields={"file_name": "x"}, **stated)
    arraystore.convert(datasets[form], target, resume=True, **stated)
    assert tree(target) == tree(tmp_path / f"whole{suffix}")
    report = arraystore.convert(datasets[form], target, resume=True, **stated)
    assert report.was_complete


@pytest.mark.parametrize("form", sorted(SPOOLED))
def test_resumed_conversion_of_changed_files_is_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise StoppedError

    stated = OPTIONS.get(form, {})
    dataset = FORMS[form](tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(StoppedError):
            arraystore.convert(dataset, tmp_path / "a.zarr", **stated)
    path = next(path for path in sorted((tmp_path / "in").iterdir()) if path.suffix != ".txt")
    os.utime(path, (1, 1))
    with pytest.raises(SourceChangedError, match=r"source .* is .*1970-01-01T00:00:01"):
        arraystore.convert(dataset, tmp_path / "a.zarr", resume=True, **stated)


@every_form
def test_image_that_cannot_be_read_is_skipped(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *others = SAMPLES["train"]
    broken = type(bad)(bad.name, bad.label, b"no image at all")
    monkeypatch.setitem(SAMPLES, "train", [broken, *others])
    dataset, stated = FORMS[form](tmp_path / "in"), OPTIONS.get(form, {})
    with pytest.raises(SourceError, match=r"t0\.jpg.*(is not an image|signature).*on_error='skip'"):
        arraystore.convert(dataset, tmp_path / "a.zarr", sync=False, **stated)
    report = arraystore.convert(dataset, tmp_path / "a.zarr", sync=False, on_error="skip", **stated)
    assert [name for name, _ in report.splits["train"].skipped] == ["t0.jpg"]
    assert report.splits["train"].num_samples == len(others)
    found = arraystore.verify(tmp_path / "a.zarr", source=dataset, **stated)
    assert found.problems == ()


@every_form
def test_two_samples_of_one_name_are_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = SAMPLES["train"]
    monkeypatch.setitem(SAMPLES, "train", [*train, train[0]])
    dataset = FORMS[form](tmp_path / "in")
    with pytest.raises(SourceError, match=r"train: 1 name \(t0\.jpg\) found more than once"):
        arraystore.convert(dataset, tmp_path / "a.zarr", sync=False, **OPTIONS.get(form, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_changed_label_is_found_by_verify(datasets: dict[str, str], tmp_path: Path) -> None:
    arraystore.convert(datasets["parquet"], tmp_path / "a.zarr", sync=False)
    found = arraystore.verify(
        tmp_path / "a.zarr", source=datasets["parquet"], classes=["bee", "ant", "cat"]
    )
    assert "must be the classes of the source" in found.problems[0].message


def test_commands_take_options_of_sources(
    datasets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    target = str(tmp_path / "a.h5")
    options = ["--classes", str(names), "--field", "label=cls", "--split", "all"]
    dataset = datasets["wds"]
    assert main(["convert", dataset, target, "--no-sync", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["all"]["num_samples"] == 10
    assert main(["verify", target, "--source", dataset, *options]) == 0
    assert main(["convert", dataset, target, "--field", "colour=red"]) == 2
    assert "must be image=NAME, label=NAME or file_name=NAME" in capsys.readouterr().err
    assert main(["convert", dataset, str(tmp_path / "b.h5"), "--no-sync"]) == 1
    message = "labels are numbers (0, 1, 2) and their classes are not known; pass classes="
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"split": "train"}, {"classes": ["a"]}, {"fields": {"label": "x"}}], ids=str
)
def test_options_of_patterns_are_refused_for_others(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        SourceError, match=r"imagenet2012: does not take (split|classes|field label)"
    ):
        arraystore.convert("imagenet2012", tmp_path / "a.zarr", **options)
