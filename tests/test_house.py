"""The layers of the package, and which libraries and functions may be used where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import arraystore

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = Path(arraystore.__file__).parent
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"
FILES = sorted(PACKAGE.rglob("*.py"))

ONLY_IN = {
    # base.py and reader.py name a type of it.
    "zarr": {
        "containers/protocol.py",
        "containers/zarr/reader.py",
        "containers/zarr/writer.py",
        "reader.py",
    },
    "numcodecs": {"containers/zarr/column_codec.py"},
    "h5py": {
        *("containers/hdf5/checks.py", "containers/hdf5/datasets.py", "containers/hdf5/links.py"),
        *("containers/hdf5/reader.py", "containers/hdf5/writer.py"),
    },
    "obstore": {"storage/objects/connection.py"},
    "boto3": {"storage/objects/connection.py"},
    "simplejpeg": {"images/decode.py", "images/reencode.py"},
    "PIL": {
        *("images/decode.py", "images/encode.py", "images/pillow.py", "images/resize.py"),
        *("cli/synthetic_archives.py", "cli/contact_sheet.py"),
    },
    "xarray": {"integrations/xarray_backend.py"},
    "rich": {"writing/progress.py", "cli/tables.py"},
    "click": {"cli/commands.py", "cli/options.py"},
    "ctypes": {"storage/exchange.py"},  # for one system call that Python has no function for
}
"""Where each library may be imported."""

PLAIN_ERRORS = {
    *("ValueError", "KeyError", "IndexError", "TypeError", "LookupError", "RuntimeError"),
    *("OSError", "FileExistsError", "FileNotFoundError", "PermissionError", "MemoryError"),
    *("IsADirectoryError", "NotADirectoryError", "kind"),
}
"""What is raised and does not escape its message itself, as arraystore's own errors do."""

HARMLESS = {
    *("kind", "known", "name", "newer", "sign", "flag", "_KINDS", "index.dtype"),
    *("type(error).__name__", "type(file_name).__name__"),
    *(f"', '.join({names})" for names in ("SHUFFLES", "_WRITERS", "choices", "sorted(_RESERVED)")),
    "', '.join((f'{known}://' for known in KINDS))",
    *("count", "height", "label", "least", "length", "n", "n_scans", "n_values", "nbytes", "size"),
    *("start", "stop", "width", "components", "found", "offset", "position", "precision"),
    "max_gap",
    *("archive.nbytes", "index.ndim", "index.size", "index[outside][0]", "self._n_way"),
    *("memoryview(data).nbytes", "sum(sizes)", "MAX_CHUNK_NBYTES", "_MAX_SCANS"),
}
"""Numbers, and names of arraystore's own, that a message may hold as they are."""


@cache
def layers() -> dict[str, int]:
    """Layer of each module and folder, as the table in docs/architecture.md has it."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    return {name: int(row) for row, names in rows for name in re.findall(r"`(\w+)/?`", names)}


def top_of(path: Path) -> str:
    """Name of the top-level module, or of the folder that the file is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules named in any import of the file, also inside functions."""
    nodes = list(ast.walk(tree(path)))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    pairs = {
        f"{n.module}.{a.name}"
        for n in nodes
        if isinstance(n, ast.ImportFrom) and n.module
        for a in n.names
    }
    return frozenset(plain | pairs)


def test_layers_table_names_all() -> None:
    assert {top_of(path) for path in FILES} == layers().keys()
    assert len(set(layers().values())) == 12


def test_imports_point_to_lower_layers() -> None:
    wrong = [
        f"{named(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        if module.startswith("arraystore.") and (other := module.split(".")[1]) in layers()
        if other != top_of(path) and layers()[other] >= layers()[top_of(path)]
    ]
    assert not wrong


def test_folders_import_no_module_in_a_circle() -> None:
    """No module imports one that imports it, by whatever way."""
    files = {module_of(path): path for path in FILES}
    below = {
        name: {part for module in imports(path) if (part := _longest(module, files)) != name}
        for name, path in files.items()
    }
    below = {name: set(filter(None, names)) for name, names in below.items()}
    while leaves := {name for name, names in below.items() if not names}:
        below = {name: names - leaves for name, names in below.items() if name not in leaves}
    assert not below


def module_of(path: Path) -> str:
    parts = ("arraystore", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def _longest(module: str, files: Mapping[str, Path]) -> str:
    """Module of the package that an import names, perhaps with a name in it; empty if none."""
    while module and module not in files:
        module = module.rpartition(".")[0]
    return "" if module == "arraystore" else module


def test_libraries_are_imported_where_listed() -> None:
    found: dict[str, set[str]] = {library: set() for library in ONLY_IN}
    for path in FILES:
        for library in {module.split(".")[0] for module in imports(path)} & ONLY_IN.keys():
            found[library].add(named(path))
    assert found == ONLY_IN


def test_nothing_is_unpickled_or_executed() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "subprocess", "runpy"}
    for path in FILES:
        assert not {module.split(".")[0] for module in imports(path)} & forbidden, path
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        called = {ast.unparse(node.func) for node in nodes}
        assert not called & {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}, path
        loads = [ast.unparse(node) for node in nodes if ast.unparse(node.func) == "np.load"]
        assert all("allow_pickle=False" in load for load in loads), path


def unsafe_messages(path: Path) -> list[ast.expr]:
    """Messages of plain errors, notes and warnings that hold text which may be anything."""
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    showing = [
        call
        for call in calls
        if ast.unparse(call.func).split(".")[-1] in PLAIN_ERRORS | {"add_note", "warn"}
    ]
    return [
        message
        for call in showing
        for message in call.args
        if isinstance(message, ast.JoinedStr)
        and any(_may_be_anything(part) for part in message.values)
    ]


def _may_be_anything(part: ast.expr) -> bool:
    if not isinstance(part, ast.FormattedValue) or part.conversion == ord("r") or part.format_spec:
        return False
    text = ast.unparse(part.value)
    return text not in HARMLESS and not text.startswith(("brief(", "escaped(", "len("))


def test_message_with_outside_text_is_escaped() -> None:
    found = [f"{named(path)}:{m.lineno}" for path in FILES for m in unsafe_messages(path)]
    assert not found


def test_text_of_an_object_is_escaped() -> None:
    shown = [
        returned.value
        for path in FILES
        for method in ast.walk(tree(path))
        if isinstance(method, ast.FunctionDef) and method.name in ("__repr__", "__str__")
        for returned in ast.walk(method)
        if isinstance(returned, ast.Return)
    ]
    safe = ("escaped(", "f'{self.count:,} images, first {self.first}'")
    assert not [
        value for value in map(ast.unparse, filter(None, shown)) if not value.startswith(safe)
    ]


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_public_names_are_sorted_and_real() -> None:
    assert arraystore.__all__ == sorted(arraystore.__all__)
    assert all(hasattr(arraystore, name) for name in arraystore.__all__)


def test_every_public_name_is_documented() -> None:
    for name in arraystore.__all__:
        if name != "__version__":
            assert getattr(arraystore, name).__doc__, name


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = (
        "zarr",
        "h5py",
        "PIL",
        "simplejpeg",
        "xarray",
        "rich",
        "click",
        "obstore",
        "numcodecs",
        "asyncio",
        "importlib.metadata",
        "importlib.resources",
        "tempfile",
        "fractions",
    )
    code = (
        "import sys, arraystore\n"
        f"found = [name for name in {(*heavy, 'urllib.request')!r} if name in sys.modules]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
