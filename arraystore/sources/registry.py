"""The names of the data sets that can be converted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, brief, escaped
from arraystore.sources import (
    array_record,
    csv_table,
    folder,
    imagenet2012,
    imagenet_variants,
    parquet,
    shards,
    tfrecord,
    webdataset,
)
from arraystore.sources.label_space import OWN
from arraystore.sources.sample_table import Source, Status, silent
from arraystore.sources.source_options import SourceOptions
from arraystore.storage.buckets import Buckets

if TYPE_CHECKING:
    import os

    from arraystore.storage.buckets import SourcePath

CONFIGS: Final[dict[str, tuple[str, ...]]] = {
    "imagenet2012_subset": ("1pct", "10pct"),
    "imagenet2012": ("",),
    **imagenet_variants.CONFIGS,
}
"""Configs of each data set; the first is the default."""

VERSIONS: Final[dict[str, tuple[str, ...]]] = {
    "imagenet2012_subset": imagenet2012.VERSIONS,
    "imagenet2012": imagenet2012.VERSIONS,
    **imagenet_variants.VERSIONS,
}
"""Versions of each data set; the first is the default."""

PATTERNS: Final = {
    "wds": webdataset.load,
    "tfrecord": tfrecord.load,
    "parquet": parquet.load,
    "array_record": array_record.load,
}
"""What reads the files of a pattern such as ``wds:train-*.tar``, by the word before the colon."""

_FOLDER: Final = "folder:"
_MANY: Final = 10  # configs that are not listed one by one
_NAME = re.compile(r"(?P<name>[^/:]+)(/(?P<config>[^/:]+))?(:(?P<version>[^/:]+))?")


WITH_COLUMNS: Final = ("parquet", "wds", *csv_table.DELIMITERS)
"""Kinds of files that further columns can be read of."""


def load_source(
    dataset: str,
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    partial: bool = False,
    spool: Path | None = None,
    options: SourceOptions | None = None,
    status: Status = silent,
) -> Source:
    """List the samples of a data set.

    Parameters
    ----------
    dataset : str
        ``name/config:version``, where config and version may be left out; ``folder:PATH``; or a
        pattern of files, such as ``wds:PATTERN``.
    manual_dir, subset_list : path-like, optional
        Paths, or addresses in buckets; see `arraystore.sources.imagenet2012.load`.
    partial, status
        See there.
    spool : Path, optional
        Takes images that are not byte ranges of files; see `arraystore.sources.spool`.
    options : SourceOptions, optional
        For folders and patterns of files; `buckets` and `executor` for all.

    Raises
    ------
    SourceError
        If the data set, config or version is unknown; the message lists the known ones. If the
        source is missing, incomplete or damaged.
    """
    options = options or SourceOptions(partial=partial)
    kind, pattern = pattern_of(dataset)
    if kind:
        _refuse(
            f"{kind}:PATTERN",
            manual_dir=manual_dir,
            subset_list=subset_list,
            layout=options.layout,
        )
        status(f"listing files of {dataset}")
        if options.columns and kind not in WITH_COLUMNS:
            raise ValueError(
                escaped(
                    f"{dataset}: columns (--column) can be read of {', '.join(WITH_COLUMNS)} and "
                    "Python records; add others afterwards with arraystore.add_column"
                )
            )
        if kind in csv_table.DELIMITERS:
            return csv_table.load(kind, pattern, options, status=status)
        if spool is None:
            raise ValueError(f"{brief(dataset)} needs a spool")
        return PATTERNS[kind](pattern, options, spool, status=status)
    root = folder_of(dataset, options.buckets)
    if root is not None:
        _refuse(
            "folder:PATH",
            manual_dir=manual_dir,
            subset_list=subset_list,
            partial=partial,
            fields=options.fields,
            columns=options.columns,
        )
        status("listing files")
        return folder.load(root, options)
    _refuse(dataset, **dict.fromkeys(options.stated(), True))
    name, config, version = names_of(dataset)
    folder_path = options.buckets.path(manual_dir or imagenet2012.MANUAL_DIR)
    list_path = None if subset_list is None else options.buckets.path(subset_list)
    if name not in ("imagenet2012", "imagenet2012_subset"):
        _refuse(name, subset_list=subset_list)
        return imagenet_variants.load(
            name,
            config,
            version,
            manual_dir=folder_path,
            partial=partial,
            spool=spool,
            status=status,
        )
    if not config:
        _refuse(name, subset_list=subset_list)
    return imagenet2012.load(
        config,
        version,
        manual_dir=folder_path,
        subset_list=list_path,
        partial=partial,
        spool=spool,
        executor=options.executor,
        status=status,
    )


def names_of(dataset: str, buckets: Buckets | None = None) -> tuple[str, str, str]:
    """Return name, config and version of a data set, as a store records them.

    Parameters
    ----------
    dataset : str
    buckets : Buckets, optional
        What addresses are looked up in.

    Raises
    ------
    SourceError
        If the data set, config or version is unknown.

    Examples
    --------
    >>> names_of("imagenet2012_subset")
    ('imagenet2012_subset', '1pct', '5.0.0')
    >>> names_of("folder:some/photos")
    ('photos', '', '')
    """
    kind, pattern = pattern_of(dataset)
    if kind:
        return shards.name_of(pattern, buckets or Buckets()), "", ""
    root = folder_of(dataset, buckets)
    if root is not None:
        return folder.name_of(root), "", ""
    match = _NAME.fullmatch(dataset)
    if match is None or match["name"] not in CONFIGS:
        is_folder = bool(dataset) and Path(dataset).is_dir()
        hint = f" (to convert the folder, give folder:{dataset})" if is_folder else ""
        raise SourceError(f"unknown data set {dataset!r}{hint}; known are {_known()}")
    configs = CONFIGS[match["name"]]
    config = match["config"] or configs[0]
    config = imagenet_variants.ALIASES.get((match["name"], config), config)
    if config not in configs:
        raise SourceError(
            f"{match['name']}: unknown config {config!r}; known are "
            f"{', '.join(filter(None, configs))}"
            if configs[0]
            else f"{match['name']}: has no configs, got {config!r}"
        )
    versions = VERSIONS[match["name"]]
    version = match["version"] or versions[0]
    if version not in versions:
        raise SourceError(
            f"{match['name']}: unknown version {version!r}; known are "
            f"{', '.join(sorted(versions))} (default {versions[0]})"
        )
    return match["name"], config, version


def folder_of(dataset: str, buckets: Buckets | None = None) -> SourcePath | None:
    """Return the path of a ``folder:PATH``, or None for another data set.

    Parameters
    ----------
    dataset : str
    buckets : Buckets, optional
        What an address is looked up in.

    Raises
    ------
    SourceError
        If the path is empty.

    Examples
    --------
    >>> folder_of("folder:photos").name, folder_of("imagenet2012")
    ('photos', None)
    """
    if not dataset.startswith(_FOLDER):
        return None
    if dataset == _FOLDER:
        raise SourceError("folder: needs a path, such as folder:photos")
    return (buckets or Buckets()).path(dataset.removeprefix(_FOLDER))


def check_source_options(buckets: Buckets, dataset: str, *places: object) -> None:
    """Refuse options of buckets if nothing lies in one; tables may name objects.

    Raises
    ------
    ValueError
        If neither the data set nor one of `places` is or has an address.
    """
    if pattern_of(dataset)[0] not in csv_table.DELIMITERS:
        buckets.check_needed(dataset, *places)


def check_label_space(dataset: str, label_space: str) -> None:
    """Refuse the own classes of a data set of ImageNet, which has none but ImageNet's.

    Raises
    ------
    SourceError
        If `label_space` is ``"own"`` for such a data set.
    """
    if _NAME.fullmatch(dataset) and label_space == OWN:
        _refuse(dataset, **{f"label_space={label_space!r}": True})


def pattern_of(dataset: str) -> tuple[str, str]:
    """Return kind and pattern of a data set such as ``wds:PATTERN``; two empty texts of others.

    Examples
    --------
    >>> pattern_of("wds:train-*.tar"), pattern_of("imagenet2012")
    (('wds', 'train-*.tar'), ('', ''))
    """
    kind, _, pattern = dataset.partition(":")
    return (kind, pattern) if kind in PATTERNS or kind in csv_table.DELIMITERS else ("", "")


def _refuse(dataset: str, **options: object) -> None:
    """Raise `SourceError` for options that a data set does not have."""
    given = [name for name, value in options.items() if value]
    if given:
        raise SourceError(f"{dataset}: does not take {' and '.join(given)}")


def _known() -> str:
    names = [
        "/".join(filter(None, (name, config)))
        for name, configs in CONFIGS.items()
        for config in (configs if len(configs) < _MANY else ("TYPE_SEVERITY",))
    ]
    patterns = [f"{kind}:PATTERN" for kind in PATTERNS]
    tables = [f"{kind}:FILE" for kind in csv_table.DELIMITERS]
    return ", ".join([*names, "folder:PATH", *patterns, *tables])
