"""What docs/architecture.md promises of the package: its layers, and what is used where."""

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
ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FILES = sorted(PACKAGE.rglob("*.py"))

ONLY_IN = {
    "zarr": {
        "containers/protocol.py",  # only for type checkers
        "containers/zarr/plain_store.py",
        "containers/zarr/reader.py",
        "containers/zarr/writer.py",
        "exporting/zarr_arrays.py",  # writes arrays of variable length
        "integrations/icechunk_repository.py",  # Icechunk takes buffers of zarr-python
        "reader.py",  # only for type checkers
    },
    "numcodecs": {"containers/zarr/column_codec.py"},
    "h5py": {
        *("containers/hdf5/checks.py", "containers/hdf5/datasets.py", "containers/hdf5/links.py"),
        *("containers/hdf5/editor.py", "containers/hdf5/reader.py", "containers/hdf5/writer.py"),
        "exporting/hdf5_arrays.py",  # writes arrays of variable length
    },
    "obstore": {f"storage/objects/{name}.py" for name in ("aws_profile", "connection", "errors")},
    "botocore": {"storage/objects/aws_profile.py", "storage/objects/part_upload.py"},
    "simplejpeg": {"images/decode.py", "images/reencode.py"},
    "PIL": {
        *("images/decode.py", "images/encode.py", "images/pillow.py", "images/resize.py"),
        *("cli/synthetic_archives.py", "cli/contact_sheet.py"),
    },
    "xarray": {"integrations/xarray_backend.py", "integrations/xarray_view.py"},
    "rich": {"writing/progress.py", "cli/tables.py"},
    "click": {"cli/commands.py", "cli/executors.py", "cli/options.py"},
    "dask": {"integrations/dask_views.py"},
    "torch": {"integrations/torch_datasets.py"},
    "distributed": {"cli/executors.py", "parallel/executors.py"},
    "ctypes": {"storage/exchange.py"},  # for one system call that Python has no function for
}
"""Where each library may be imported."""

PLAIN_ERRORS = {
    *("ValueError", "KeyError", "IndexError", "TypeError", "LookupError", "RuntimeError"),
    *("OSError", "FileExistsError", "FileNotFoundError", "PermissionError", "MemoryError"),
    *("IsADirectoryError", "NotADirectoryError", "kind"),
}
"""Exceptions that do not escape their text themselves, as arraystore's own do."""

HARMLESS = {
    *("kind", "known", "name", "newer", "sign", "flag", "_KINDS", "index.dtype"),
    *("type(error).__name__", "type(file_name).__name__"),
    *(f"', '.join({names})" for names in ("SHUFFLES", "choices", "writers", "sorted(_RESERVED)")),
    "', '.join((f'{known}://' for known in KINDS))",
    *("count", "height", "label", "least", "length", "n", "n_scans", "n_values", "nbytes", "size"),
    *("start", "stop", "width", "components", "found", "offset", "position", "precision"),
    "max_gap",
    *("archive.nbytes", "index.ndim", "index.size", "index[outside][0]", "self._n_way"),
    *("memoryview(data).nbytes", "sum(sizes)", "total", "MAX_CHUNK_NBYTES", "_MAX_SCANS"),
}
"""Expressions that a message may hold unescaped: numbers, and names that arraystore defines."""

NAMES_A_CONTAINER = {
    "cli/commands.py": {".zarr", ".h5"},  # the help
    "cli/demo.py": {".zarr", ".h5"},  # the names of its two stores
    # Formats of exports, chosen by the suffix of the target.
    "exporting/formats.py": {".zarr", ".h5", ".hdf5"},
    "exporting/hdf5_arrays.py": {"HDF5Arrays", "h5py"},
    "exporting/zarr_arrays.py": {"ZarrArrays", "zarr"},
    # References are a Zarr group.
    "integrations/icechunk_repository.py": {"zarr"},
    "integrations/kerchunk.py": {"zarr"},
    "integrations/referenced_group.py": {"zarr", "zarr_objects"},
    # xarray asks for a guess before the store is opened.
    "integrations/xarray_backend.py": {".zarr", ".h5", ".hdf5"},
    # `Store.zarr` and `Store.h5py`, which containers raise TypeError for
    "reader.py": {"zarr", "h5py", "as_zarr", "as_h5py"},
    "schema.py": {"zarr.json"},  # a split cannot have this name
    "writing/bucket_part.py": {"zarr_bucket", "ZarrBucketWriter"},  # its base
    "writing/hdf5_bucket.py": {"HDF5BucketWriter", ".zarr"},  # its name; a remedy in a message
    "writing/zarr_bucket.py": {"ZarrBucketWriter"},
    # The suffix of the target chooses between them, by `ContainerWriter.root_key`.
    "writing/open_writer.py": {
        *("hdf5_bucket", "HDF5BucketWriter", "zarr_bucket", "ZarrBucketWriter"),
    },
}
"""Names of one container in code outside containers/, and why they are there."""

OPENS_FILES = {
    "containers/hdf5/overlay_file.py": {"open", "pread", "pwrite"},  # changes a finished file
    "containers/hdf5/redo.py": {"open", "pread", "pwrite", "read_bytes"},  # the same, and journals
    "containers/hdf5/writer.py": {"open"},  # tests the signature of what exists at the target
    "containers/open_container.py": {"LocalReader"},  # makes the reader of a local store
    "containers/zarr/editor.py": {"read_bytes", "read_text", "write_text"},  # documents
    "containers/zarr/references.py": {"read_bytes"},  # columns of exported references
    "containers/zarr/plain_store.py": {"read_bytes", "write_bytes"},  # documents of a new store
    "containers/zarr/writer.py": {"open", "read_text", "write_text"},  # writes a new store
    "dataset/saved_selection.py": {"open", "write_bytes"},  # files of saved selections
    "integrations/kerchunk.py": {"open"},  # writes files of references
    "integrations/references.py": {"read_bytes"},  # references to be sent to a bucket
}
"""What opens, reads or writes files outside `OPENING_FOLDERS`, and why."""

OPENING_FOLDERS = {
    "cli",  # drawn archives and contact sheets
    "exporting",  # images in other formats, and the journals of these exports
    "sources",  # archives and folders
    "storage",
    "writing",  # new stores, journals, and the files of a source
}
"""Folders whose modules open files."""

FILE_FUNCTIONS = {
    *("os.pread", "os.preadv", "os.pwrite", "os.pwritev", "os.read", "os.readv", "os.write"),
    *("os.copy_file_range", "os.sendfile", "mmap.mmap", "np.fromfile", "np.load", "np.memmap"),
    *("LocalReader", "open_file", "read_at", "read_into"),  # of storage/
}
FILE_METHODS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
"""Functions, and methods of any object, that open, read or write files."""

NOT_FILES = {"arraystore.open", "Image.open"}
"""Functions named like a method of these: they open a store, and bytes in memory."""


@cache
def layers() -> dict[str, int]:
    """Return the layer of each module and folder, from the table in docs/architecture.md."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    return {name: int(row) for row, names in rows for name in re.findall(r"`(\w+)/?`", names)}


def top_of(path: Path) -> str:
    """Return the name of the top-level module, or of the folder that the file is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def top_of_module(name: str) -> str:
    """Return the top of a module's name; ``arraystore`` and its public names are `__init__`."""
    top = name.partition(".")[2].partition(".")[0]
    return top if top in layers() else "__init__"


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the modules that the file imports, also inside functions."""
    nodes = list(ast.walk(tree(path)))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    pairs = {
        f"{n.module}.{a.name}"
        for n in nodes
        if isinstance(n, ast.ImportFrom) and n.module
        for a in n.names
    }
    return frozenset(plain | pairs)


def test_layers_table_lists_every_module() -> None:
    assert {top_of(path) for path in FILES} == layers().keys()


def test_imports_point_to_lower_layers() -> None:
    wrong = [
        f"{named(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        if module.split(".")[0] == "arraystore" and (other := top_of_module(module))
        if other != top_of(path) and layers()[other] >= layers()[top_of(path)]
    ]
    assert not wrong


def test_imports_form_no_circle() -> None:
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
    """Return the module of the package that an import reads from; empty if there is none."""
    while module and module not in files:
        module = module.rpartition(".")[0]
    return "" if module == "arraystore" else module


def test_libraries_are_imported_where_listed() -> None:
    found: dict[str, set[str]] = {library: set() for library in ONLY_IN}
    for path in FILES:
        for library in {module.split(".")[0] for module in imports(path)} & ONLY_IN.keys():
            found[library].add(named(path))
    assert found == ONLY_IN


def names_of_containers(path: Path) -> set[str]:
    """Return the names of Zarr or HDF5 that code uses, and texts that belong to one of them."""
    names, texts = [], []
    alone = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree(path)):
        match node:
            case ast.Constant(value=str() | bytes() as text) if id(node) not in alone:
                texts.append(text if isinstance(text, str) else text.decode("latin-1"))
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.append(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.Import() | ast.ImportFrom():
                names += [getattr(node, "module", None) or "", *(a.name for a in node.names)]
    found = re.findall(r"\w*(?:zarr|hdf5|h5py)\w*", "\n".join(names), re.IGNORECASE)
    found += re.findall(r"zarr\.json|\.zarr\b|\.h5\b|\.hdf5\b|(?<=\x89)HDF", "\n".join(texts))
    return set(found)


def test_containers_are_named_where_listed() -> None:
    outside = [path for path in FILES if top_of(path) != "containers"]
    found = {named(path): names for path in outside if (names := names_of_containers(path))}
    assert found == NAMES_A_CONTAINER


def file_functions(path: Path) -> set[str]:
    """Return the functions and methods that code opens, reads or writes files with."""
    nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Name | ast.Attribute))
    used = {(name, name.split(".")[-1]) for name in {*map(ast.unparse, nodes)} - NOT_FILES}
    return {last for name, last in used if name in FILE_FUNCTIONS or last in FILE_METHODS}


def test_files_are_opened_where_listed() -> None:
    outside = [path for path in FILES if top_of(path) not in OPENING_FOLDERS]
    found = {named(path): used for path in outside if (used := file_functions(path))}
    assert found == OPENS_FILES


def test_names_of_containers_are_found(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        '"""Opens an `a.zarr`."""\n'
        "from arraystore.containers.hdf5.reader import HDF5Reader\n"
        'is_zarr = "zarr.json" in names or data.startswith(b"\\x89HDF")\n'
        'raise ValueError(f"{name}.h5: must be an HDF5 file")\n'
    )
    assert names_of_containers(code) == {"hdf5", "HDF5Reader", "is_zarr", "zarr.json", "HDF", ".h5"}


def test_functions_that_open_files_are_found(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        "with path.open() as file: os.pread(file.fileno(), 1, 0)\n"
        "isinstance(reader, LocalReader)\n"
        "arraystore.open(path.read_bytes())\n"
    )
    assert file_functions(code) == {"open", "pread", "LocalReader", "read_bytes"}


def test_files_that_pages_name_exist() -> None:
    """A page names a file of the package, or one of the repository."""
    files = {path.relative_to(ROOT).as_posix() for path in (*FILES, *ROOT.glob("[tbs]*/**/*.py"))}
    missing = [
        f"{page.name}: {name}"
        for page in (*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "SECURITY.md")
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text())
        if not any(f"/{file}".endswith(f"/{name}") for file in files)
    ]
    assert not missing


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
    """Return messages of plain errors, notes and warnings with text that is not escaped."""
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
        and any(_is_unescaped(part) for part in message.values)
    ]


def _is_unescaped(part: ast.expr) -> bool:
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
    # The text of a Location is parsed again; messages that contain it are checked above.
    safe = (
        *("escaped(", "f'{self.count:,} images, first {self.first}'"),
        *("self.root + ", "str(self.location)"),
    )
    assert not [
        value for value in map(ast.unparse, filter(None, shown)) if not value.startswith(safe)
    ]


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_public_names_are_sorted_and_exist() -> None:
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
