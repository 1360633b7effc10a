"""The house keeps its shape: floors, sizes, names, and who may import what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import arraystore

PACKAGE = Path(arraystore.__file__).parent
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"
FILES = sorted(PACKAGE.rglob("*.py"))

ONLY_IN = {
    # base.py and reader.py name a type of it.
    "zarr": {"containers/base.py", "containers/zarr.py", "containers/zarr_writer.py", "reader.py"},
    "numcodecs": {"containers/frames.py"},
    "h5py": {"containers/hdf5.py", "containers/hdf5_guard.py", "containers/hdf5_writer.py"},
    "obstore": {"objects/stores.py"},
    "boto3": {"objects/stores.py"},
    "simplejpeg": {"image.py"},
    "PIL": {"image.py", "drawn.py", "show.py"},
    "xarray": {"xarray_backend.py"},
    "rich": {"progress.py", "tables.py"},
    "click": {"cli.py", "options.py"},
    "ctypes": {"exchange.py"},  # for one system call that Python has no function for
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
    *("start", "stop", "width", "components", "found", "position", "precision", "max_gap"),
    *("archive.nbytes", "index.ndim", "index.size", "index[outside][0]", "self._n_way"),
    *("memoryview(data).nbytes", "sum(sizes)", "MAX_CHUNK_NBYTES", "_MAX_SCANS"),
}
"""Numbers, and names of arraystore's own, that a message may hold as they are."""


@cache
def floors() -> dict[str, int]:
    """Floor of each room, as the table in docs/architecture.md has it."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)/?`", rooms)}


def room_of(path: Path) -> str:
    """Name of the module, or of the subpackage it is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Modules named in any import of the file, wherever it stands."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    pairs = {
        f"{n.module}.{a.name}"
        for n in nodes
        if isinstance(n, ast.ImportFrom) and n.module
        for a in n.names
    }
    return plain | pairs


def rooms_imported_by(path: Path) -> set[str]:
    """Rooms of this package that the file imports."""
    named = {m.split(".")[1] for m in imports(path) if m.startswith("arraystore.")}
    return {name for name in named if name in floors()}


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_room_has_a_floor(path: Path) -> None:
    assert room_of(path) in floors()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_down(path: Path) -> None:
    here = room_of(path)
    for room in rooms_imported_by(path) - {here}:
        assert floors()[room] < floors()[here], f"{here} imports {room}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_each_library_is_imported_in_its_room_alone(path: Path) -> None:
    libraries = {module.split(".")[0] for module in imports(path)}
    allowed = {library for library, places in ONLY_IN.items() if named(path) in places}
    assert libraries & ONLY_IN.keys() <= allowed


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_is_unpickled_or_run(path: Path) -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "subprocess", "runpy"}
    assert not {module.split(".")[0] for module in imports(path)} & forbidden
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    called = {ast.unparse(node.func) for node in nodes}
    assert not called & {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    loads = [ast.unparse(node) for node in nodes if ast.unparse(node.func) == "np.load"]
    assert all("allow_pickle=False" in load for load in loads)


def unsafe_messages(path: Path) -> list[ast.expr]:
    """Messages of plain errors, notes and warnings that hold text which may be anything."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
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


@pytest.mark.parametrize("path", FILES, ids=named)
def test_message_with_outside_text_is_escaped(path: Path) -> None:
    assert not [f"{path}:{message.lineno}" for message in unsafe_messages(path)]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_text_of_an_object_is_escaped(path: Path) -> None:
    shown = [
        returned.value
        for method in ast.walk(ast.parse(path.read_text()))
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
        for node in ast.walk(ast.parse(path.read_text())):
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
