"""Public names with their parameters and defaults: a change of any of them fails here."""

from __future__ import annotations

import inspect
import pickle
import textwrap
from typing import TYPE_CHECKING, Any, Final

import click
import cloudpickle

import arraystore
from arraystore.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from arraystore import Split, Store

PUBLIC: Final = """\
class AppendReport(dataset, path, split, part, added, num_replaced, num_existing, num_samples,
    content_digest, notes, seconds, was_complete=False)
    as_dict()
class ArrayStoreError(Exception)
class Batch(image, label, file_name)
    columns: attribute
    num_samples: attribute
class Batches
    __iter__()
    __len__()
    load_state_dict(state)
    positions()
    skipped: attribute
    state_dict()
class ChecksumError(StorageError)
class Column
    __array__(dtype=None, copy=None)
    __getitem__(selection)
    __iter__()
    __len__()
    attributes: attribute
    ndim: attribute
    summary: attribute
    to_arrow()
class ColumnReport(store, split, name, values, notes, seconds)
    as_dict()
class Columns
    __contains__(key)
    __getitem__(name)
    __iter__()
    __len__()
    get(key, default=None)
    items()
    keys()
    values()
class ConvertReport(dataset, path, splits, partial, notes, seconds, was_complete=False)
    as_dict()
class CopyReport(dataset, source, path, splits, left_out, seconds, notes=())
    as_dict()
class Episode(support, query, labels, number)
class Episodes
    __iter__()
    __len__()
    positions(number)
class ExportReport(path, format, splits, has_checksums, left_out, num_resumed, seconds)
    as_dict()
    num_samples: attribute
class ExportedSplitReport(num_samples, num_bytes, content_digest, skipped)
class FormatError(ArrayStoreError, ValueError)
class Problem(message, split='', position=None, file_name='', key='')
    as_dict()
class ProblemGroup(first, count)
class ReadPlan(objects, requests, nbytes, nbytes_wanted)
class ReferencedFileError(StorageError)
class RelocateReport(store, files, num_files, num_compared, seconds)
    as_dict()
class Sample(image, label, file_name)
class SavedSelection(dataset, made, splits)
    __len__()
    load(path)
    save(path)
class ShortReadError(StorageError)
class SourceChangedError(SourceError)
class SourceError(ArrayStoreError, ValueError)
class Split
    __array__(*args, **kwargs)
    __contains__(file_name)
    __getitem__(selection)
    __getitems__(indices)
    __iter__()
    __len__()
    as_supervised()
    batches(batch_size, *, seed=0, epoch=0, shuffle='full', balanced=False, drop_last=False,
        start_batch=0, rank=0, world_size=1, buffer_size=1024, size=None, crop='center', flip=False,
        scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), views=1, layout='NHWC',
        resize='pillow', out=None, on_error='raise', columns=())
    class_to_idx: attribute
    classes: attribute
    columns: attribute
    episodes(n_way, k_shot, n_query, *, seed=0, n_episodes=None, start=0, size=None)
    even_splits(n, *, drop_remainder=False)
    file_name: attribute
    find(file_name)
    has_checksums: attribute
    image: attribute
    image_arena(selection)
    image_bytes: attribute
    image_crc32c: attribute
    image_height: attribute
    image_nbytes: attribute
    image_views: attribute
    image_width: attribute
    int2str(label)
    label: attribute
    label_counts()
    label_names: attribute
    label_words: attribute
    map(transform)
    map_blocks(function, name, *, images='decoded', size=None, columns=(), batch_size=64,
        description='', executor=None, overwrite=False, resume=False, sync=True, progress=None)
    name: attribute
    per_label(k=None, *, fraction=None, balanced=True, seed=0, replace=False)
    positions: attribute
    read_plan(selection=None)
    resized(size)
    sample(n, *, seed=0, replace=False)
    select(selection)
    selection()
    str2int(name)
    stratified_splits(fractions, *, seed=0)
    targets: attribute
    to_arrow(*, images=False)
    to_dask(kind='bag', *, size=None, columns=None)
    to_pandas(*, images=False)
    to_xarray(*, size=None, chunks=None, drop_variables=None)
    torch(*, size=None, crop='center', flip=False, scale=(0.08, 1.0), ratio=(0.75,
        1.3333333333333333), views=1, layout='NCHW', resize='pillow', seed=0, transform=None,
        columns=())
    torch_batches(batch_size, *, transform=None, columns=(), rank=None, world_size=None, **options)
    where(*, label=None, file_name=None, is_a=None, **columns)
class SplitInfo(num_samples, num_bytes, order, seed, content_digest, is_referenced=False)
    has_checksums: attribute
class SplitReport(num_samples, num_bytes, content_digest, skipped, reencoded)
class StorageError(ArrayStoreError, OSError)
class Store
    __contains__(name)
    __enter__()
    __exit__(*exception)
    __getitem__(name)
    __iter__()
    __len__()
    address: attribute
    dataset: attribute
    get(key, default=None)
    h5py()
    info: attribute
    int2str(label)
    is_a(key)
    items()
    keys()
    label_names: attribute
    label_words: attribute
    selections: attribute
    str2int(name)
    values()
    zarr()
class StoreChangedError(StorageError)
class StoreInfo(name, config, version, full_name, description, homepage, citation, splits,
    label_names, label_words, sources, partial, skipped, reencoded, selections, label_hierarchy,
    writer, format_version, columns=<factory>, references=(), parts=<factory>)
class VerifyReport(store, dataset, splits, decoded, source, problems, num_problems, groups, seconds,
    source_damage=(), not_in_source=<factory>)
    as_dict()
    ok: attribute
class VersionError(FormatError)
class WorkersLostError(StorageError)
__version__: attribute
add_column(store, split, name, values, *, description='', ragged=None, file_names=None, fill=None,
    key=None, fields=(), storage_options=None, sync=True)
append(store, source, split, *, on_existing='error', storage_options=None, source_options=None,
    manual_dir=None, subset_list=None, partial=False, classes=None, fields=None, columns=(),
    layout=None, encoding='png', quality=95, order='shuffled', seed=0, on_error='raise',
    check_images=False, copy_images=True, checksums=None, overwrite=False, resume=False, sync=True,
    executor=None, progress=None)
concat(splits)
convert(dataset, target, *, storage_options=None, source_options=None, manual_dir=None,
    subset_list=None, partial=False, split=None, classes=None, fields=None, columns=(), layout=None,
    label_space='auto', order='shuffled', seed=0, on_error='raise', check_images=False,
    copy_images=True, checksums=None, overwrite=False, resume=False, sync=True, executor=None,
    progress=None)
copy(source, target, *, source_options=None, target_options=None, classes='keep', order=None,
    seed=0, copy_images=True, allow_references=False, overwrite=False, sync=True, executor=None,
    progress=None)
export(samples, target, format='folders', *, columns=None, shard_nbytes=268435456, on_error='raise',
    resume=False, sync=True, progress=None)
map_blocks(split, function, name, *, images='decoded', size=None, columns=(), batch_size=64,
    description='', executor=None, overwrite=False, resume=False, sync=True, progress=None)
open(address, *, checksum='auto', storage_options=None, max_gap=None, max_in_flight=256, mmap=True,
    allow_references=False)
relocate(store, old, new, *, source_options=None, progress=None)
remove_column(store, split, name, *, storage_options=None, sync=True)
verify(address, *, decode=False, source=None, subset_list=None, split=None, classes=None,
    fields=None, layout=None, storage_options=None, source_options=None, allow_references=False,
    executor=None, progress=None)
write(target, splits, *, classes=None, fields=None, columns=(), label_space='auto', encoding='png',
    quality=95, storage_options=None, order='shuffled', seed=0, on_error='raise',
    check_images=False, overwrite=False, resume=False, sync=True, executor=None, progress=None)
"""
"""Everything in `arraystore.__all__`. Errors have their bases; collections get no constructor."""

RETURNED: Final = """\
Split.image
    __array__(*args, **kwargs)
    __getitem__(selection)
    __len__()
Split.image_arena
    data: attribute
    offsets: attribute
Split.map
    __getitem__(selection)
    __getitems__(indices)
    __iter__()
    __len__()
"""
"""What a split returns and `arraystore.__all__` does not name."""

COMMANDS: Final = """\
append STORE SOURCE --storage-option --split --on-existing=error --source-option --manual-dir
    --subset-list --partial --classes --field --layout --column --order=shuffled --seed=0
    --on-error=raise --check-images --copy-images/--no-copy-images --checksums/--no-checksums
    --overwrite --resume --sync/--no-sync --workers --dask --progress/--no-progress --json
column add STORE SPLIT NAME FILE --storage-option --key --field --fill --ragged --description=
    --sync/--no-sync --json
column ls STORE --storage-option --json
column map STORE SPLIT NAME FUNCTION --storage-option --images=decoded --size --column
    --batch-size=64 --description= --overwrite --resume --sync/--no-sync --workers --dask
    --progress/--no-progress --json
column remove STORE SPLIT NAME --storage-option
convert DATASET TARGET --storage-option --source-option --manual-dir --subset-list --partial --split
    --classes --field --layout --column --label-space=auto --order=shuffled --seed=0
    --on-error=raise --check-images --copy-images/--no-copy-images --checksums/--no-checksums
    --overwrite --resume --sync/--no-sync --workers --dask --progress/--no-progress --json
copy SOURCE TARGET --source-option --target-option --split --selection --label --is-a --file-name
    --per-label --sample --seed=0 --classes=keep --order --copy-images/--no-copy-images --overwrite
    --sync/--no-sync --workers --dask --progress/--no-progress --json
demo FOLDER
export STORE SPLIT --storage-option --selection --label --is-a --file-name --per-label --sample
    --seed=0 --save-selection -o/--output --format=folders --references --target-option --column
    --no-columns --shard-nbytes=268435456 --on-error=raise --resume --sync/--no-sync
    --progress/--no-progress --json
info STORE --storage-option --json
ls STORE SPLIT --storage-option --selection --label --is-a --file-name --per-label --sample --seed=0
    --save-selection --limit=20 --explain --json
relocate STORE OLD NEW --source-option --progress/--no-progress --json
show STORE SPLIT --storage-option --selection --label --is-a --file-name --per-label --sample
    --seed=0 --save-selection -o/--output --limit --size=144 --columns=8
verify STORE --storage-option --decode --source --source-option --subset-list --split --classes
    --field --layout --workers --dask --progress/--no-progress --json
"""
"""Arguments and options of each command."""

NOT_PUBLIC: Final = {
    "Batches.every",
    *("Column.is_any_of", "Column.loaded_if_small", "Column.take"),
    *("Split.batch", "Split.encoded", "Split.parts", "Split.views"),
    *("SplitInfo.attributes", "SplitInfo.from_attributes"),
    *("Store.hierarchy", "Store.opened", "Store.read_root", "Store.stored", "Store.vocabulary"),
    "Store.split_info",
    "Split.image_arena.of",
}
"""Members without an underscore that only the package calls, and that may change."""

SPECIAL: Final = {
    *("__array__", "__contains__", "__enter__", "__exit__", "__getitem__", "__getitems__"),
    *("__iter__", "__len__"),
}

COLLECTIONS: Final = {"Batches", "Column", "Columns", "Episodes", "Split", "Store"}
"""Classes whose instances come from a method: their constructors are not public."""


def parameters(function: Any, *, skip_first: bool = False) -> str:
    """Return names, kinds and defaults of a function's parameters, without annotations."""
    signature = inspect.signature(function)
    kept = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    bare = signature.replace(parameters=kept[skip_first:], return_annotation=signature.empty)
    return str(bare)


def public_member(owner: type, name: str) -> str:
    """Return the line of one member."""
    value = inspect.getattr_static(owner, name, None)
    if isinstance(value, classmethod):
        return f"{name}{parameters(value.__func__, skip_first=True)}"
    if inspect.isfunction(value):
        return f"{name}{parameters(value, skip_first=True)}"
    return f"{name}: attribute"


def public_members(title: str, instance: object, owner: type) -> Iterator[str]:
    """Yield the line of each member that users may rely on, but not what a tuple has anyway."""
    inherited = set(dir(tuple)) if issubclass(owner, tuple) else set()
    for name in sorted({*dir(instance)} - inherited):
        if name in SPECIAL if name.startswith("_") else f"{title}.{name}" not in NOT_PUBLIC:
            yield public_member(owner, name)


def public_class(name: str, instance: object) -> Iterator[str]:
    """Yield the line of a class in `arraystore.__all__`, and those of its members."""
    owner = getattr(arraystore, name)
    if issubclass(owner, Exception):
        yield f"class {name}({', '.join(base.__name__ for base in owner.__bases__)})"
        return
    fields = () if name in COLLECTIONS else tuple(inspect.signature(owner).parameters)
    yield f"class {name}{parameters(owner) if fields else ''}"
    for line in public_members(name, instance, owner):
        if line.partition(":")[0] not in fields:
            yield f"    {line}"


def wrapped(lines: Iterable[str]) -> list[str]:
    """Wrap long lines as the tables above have them."""
    return [
        piece
        for line in lines
        for piece in textwrap.wrap(
            line,
            100,
            subsequent_indent=line[: len(line) - len(line.lstrip())] + "    ",
            break_on_hyphens=False,
        )
    ]


def command_parameter(parameter: click.Parameter) -> str:
    """Return an argument of a command, or an option with its default."""
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    if isinstance(parameter, click.Argument):
        return names.upper()
    has_default = isinstance(parameter.default, str | int) and type(parameter.default) is not bool
    return f"{names}={parameter.default}" if has_default else names


def test_public_names_have_the_listed_signatures(store: Store, train: Split) -> None:
    instances = {"Split": train, "Store": store}
    lines: list[str] = []
    for name in arraystore.__all__:
        value = getattr(arraystore, name)
        if inspect.isclass(value):
            lines += public_class(name, instances.get(name, value))
        elif callable(value):
            lines.append(f"{name}{parameters(value)}")
        else:
            lines.append(f"{name}: attribute")
    assert wrapped(lines) == PUBLIC.splitlines()


def test_returned_objects_have_the_listed_members(train: Split) -> None:
    lines: list[str] = []
    for title, found in (
        ("Split.image", train.image),
        ("Split.image_arena", train.image_arena([0])),
        ("Split.map", train.map(str)),
    ):
        lines.append(title)
        lines += (f"    {line}" for line in public_members(title, found, type(found)))
    assert wrapped(lines) == RETURNED.splitlines()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands, those of groups with the name of the group, by name."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} ")
        else:
            yield f"{prefix}{name}", command


def test_commands_have_the_listed_options() -> None:
    lines = [
        " ".join([name, *map(command_parameter, command.params)]) for name, command in commands(cli)
    ]
    assert wrapped(lines) == COMMANDS.splitlines()


def test_functions_that_use_the_package_can_be_sent() -> None:
    function: dict[str, Any] = {"arraystore": arraystore, "__name__": "__main__"}
    exec("def version(): return arraystore.__version__, arraystore.convert", function)
    sent = pickle.loads(cloudpickle.dumps(function["version"]))
    assert sent() == (arraystore.__version__, arraystore.convert)
