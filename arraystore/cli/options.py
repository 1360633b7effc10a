"""Options that several commands share."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arraystore._arguments import ON_ERROR, as_path
from arraystore.errors import escaped
from arraystore.sources.source_options import FIELDS, as_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]

PATH: Final = click.Path(path_type=Path)

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
OVERWRITE: Final = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a store (or any Zarr group or HDF5 file) at TARGET.",
)
PROGRESS: Final = click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar; by default on a terminal only.",
)
SUBSET_LIST: Final = click.option(
    "--subset-list",
    help="File with the names of the subset's training images, one per line.",
)


def _imported(context: click.Context, parameter: click.Parameter, text: str) -> Any:
    """Import the function that ``MODULE:FUNCTION`` names, also from the current folder.

    This happens before processes are started: these get a copy of the path of modules.
    """
    module, _, name = text.partition(":")
    if not (module and name):
        raise click.BadParameter(f"must be MODULE:FUNCTION, got {text!r}", context, parameter)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise click.BadParameter(f"{text}: {error}", context, parameter) from error


FUNCTION: Final = click.argument("function", metavar="MODULE:FUNCTION", callback=_imported)


def storage_option(flag: str, argument: str) -> Callable[[Command], Command]:
    """Return an option NAME=VALUE that may be repeated."""

    def parsed(
        context: click.Context, option: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, Any]:
        pairs = [value.partition("=") for value in values]
        for name, mark, _ in pairs:
            if not name or not mark:
                raise click.BadParameter(
                    f"must be NAME=VALUE, got {name or mark!r}", context, option
                )
        return {name: _value(name, text) for name, _, text in pairs}

    return click.option(
        flag,
        metavar="NAME=VALUE",
        multiple=True,
        callback=parsed,
        help=f"Storage option for {argument} in a bucket, such as endpoint_url=https://…, "
        "region=… or anon=true; may be repeated. Keep keys in the environment or a profile: other "
        "users can see a command line.",
    )


def _value(name: str, text: str) -> Any:
    """Return truth values and numbers as such, and other text unchanged."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    kind = int if name == "max_retries" else float if name.endswith("timeout") else str
    try:
        return kind(text)
    except ValueError:
        return text  # such as "30s"


def new_file(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Check that an output file can be written, before anything is read for it."""
    if path is None:
        return None
    flag, path = max(option.opts, key=len), as_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            escaped(f"{flag}: the folder {path.parent} does not exist; create it first")
        )
    if path.is_dir():
        raise IsADirectoryError(escaped(f"{flag}: {path} is a folder; it must be a file"))
    return path


_NARROWING: Final = (
    click.option(
        "--selection",
        help="File of a saved selection, or the name of a selection stored in the store.",
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        help="Samples of a class, given by its id, number or words; may be repeated.",
    ),
    click.option(
        "--is-a",
        "kinds",
        multiple=True,
        help="Samples of all classes that are a kind of something, such as dog or n02084071. May "
        "be repeated.",
    ),
    click.option(
        "--file-name",
        "file_names",
        multiple=True,
        help="Samples with this file name or pattern (*, ?, [abc]); may be repeated.",
    ),
    click.option("--per-label", type=int, metavar="K", help="K random samples of every class."),
    click.option("--sample", type=int, metavar="N", help="N random samples."),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Seed of --per-label and --sample."
    ),
)


_PROBING: Final = (
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Seed of the shuffled order."
    ),
    click.option(
        "--on-error",
        type=click.Choice(ON_ERROR),
        default=ON_ERROR[0],
        show_default=True,
        help="Stop at images that cannot be read, or skip and record them.",
    ),
    click.option(
        "--check-images",
        is_flag=True,
        help="Decode every image first, so that truncated ones are found as well.",
    ),
    click.option(
        "--copy-images/--no-copy-images",
        default=True,
        help="Copy the images, or leave them in the files of the source and state where they are.  "
        "[default: copy]",
    ),
    click.option(
        "--checksums/--no-checksums",
        default=None,
        help="With --no-copy-images: read all images for their checksums.  [default: no]",
    ),
)


def narrowing(command: Command) -> Command:
    """Add the options that narrow a split down to a command."""
    for option in reversed(_NARROWING):
        command = option(command)
    return command


def probing(command: Command) -> Command:
    """Add the options that say how samples of a source are ordered, checked and stored."""
    for option in reversed(_PROBING):
        command = option(command)
    return command


def _named(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    del context, option
    plain = as_columns([value for value in values if "=" not in value])
    pairs = (value.partition("=") for value in values if "=" in value)
    return plain | {name: place for name, _, place in pairs}


COLUMN: Final = click.option(
    "--column",
    "columns",
    metavar="NAME[=PLACE]",
    multiple=True,
    callback=_named,
    help="A further column of parquet:, wds:, csv: or tsv:, kept as NAME; PLACE is a "
    "column, an extension or json.KEY. May be repeated.",
)


def selecting(command: Command) -> Command:
    """Add the arguments and options that select samples of a store to a command."""
    command = click.option(
        "--save-selection",
        type=PATH,
        callback=new_file,
        metavar="FILE",
        help="Save the selection to a .json file.",
    )(command)
    command = storage_option("--storage-option", "STORE")(narrowing(command))
    command = click.argument("split", default="")(command)
    return click.argument("store", type=str)(command)


def source_options(*, has_split: bool = True) -> Callable[[Command], Command]:
    """Return what adds the options that say how a folder, or the files of a pattern, are read.

    Parameters
    ----------
    has_split : bool, default True
        Whether the name of the one split of a source is such an option.
    """

    def parsed(
        context: click.Context, option: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, str]:
        pairs = [value.partition("=") for value in values]
        for name, mark, _ in pairs:
            if not mark or name not in FIELDS:
                raise click.BadParameter(
                    f"must be {', '.join(f'{field}=NAME' for field in FIELDS[:-1])} or "
                    f"{FIELDS[-1]}=NAME, got {name + mark!r}",
                    context,
                    option,
                )
        return {name: place for name, _, place in pairs}

    options = (
        click.option(
            "--split",
            help="Put the samples of all files of a pattern, or of a folder without splits, into "
            "one split.",
        ),
        click.option(
            "--classes",
            help="Of a folder or files of a pattern: a file with the names of the classes, one a "
            "line in the order of the labels; or their number, if they are numbers.",
        ),
        click.option(
            "--field",
            "fields",
            metavar="FIELD=NAME",
            multiple=True,
            callback=parsed,
            help="The column, feature or extension that holds image, label or file_name. An empty "
            "label: samples have none; an empty file_name: number them.",
        ),
        click.option(
            "--layout",
            help="Folders above each image of folder:PATH: split/class/file, class/file, "
            "split/file, file, or with ** or class repeated, such as class/**/file; or "
            "tiny-imagenet.",
        ),
    )
    chosen = options if has_split else options[1:]

    def decorated(command: Command) -> Command:
        for option in reversed(chosen):
            command = option(command)
        return command

    return decorated
