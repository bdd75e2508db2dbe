"""The rules of the code base as tests: who may import whom, what agrees with what, what never appears."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

import cellrt

RUNTIME = ROOT / "runtime" / "cellrt"
EXPORT = ROOT / "export" / "cellrt_export"
CSRC = ROOT / "csrc"
HEADER = CSRC / "include" / "cellrt.h"

# The rooms in the order of the data (README: one room, one door): a room imports only from rooms above it.
ROOMS = [
    ["errors"],
    ["manifest", "kernels", "tile", "readers", "safe_pickle"],
    ["instances", "image", "resize", "session", "models", "seg_file", "overlaps", "memory"],
    ["normalize", "normalize99", "stitch", "write", "selftest", "metrics"],
    ["heads", "pool"],
    ["planes"],
    ["stream", "large"],
    ["model"],
    ["star_work", "flow_volume"],
    ["flow_work", "star_base"],
    ["flow_decoding"],
    ["flow_large"],
    ["star_model", "flow_model", "star_model_3d"],
    ["catalogue", "zoo"],
    ["cli_evaluate"],
    ["cli_arguments"],
    ["cli"],
    ["__main__"],
]


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module (and every name that may be one) that a file imports, and whether importing the file does so."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_import = node not in inside
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            # import_module("..."), __import__("...") and the like import as well
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "require"):
                yield str(node.args[0].value), at_import
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            yield node.module or "", at_import
            for alias in node.names:
                yield f"{node.module}.{alias.name}", at_import


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def importers(folder: Path, module: str) -> set[str]:
    """The files of a folder that import a module or anything in it."""
    return {
        name_of(path)
        for path in sources(folder)
        for imported, _ in imports(path)
        if imported == module or imported.startswith(f"{module}.")
    }


def kernel_doors() -> list[ast.FunctionDef]:
    """The public functions of the kernels' package, without the help that they share."""
    return [
        node
        for path in sources(RUNTIME / "kernels")
        if path.name != "native.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


# ---- Rooms and doors ----------------------------------------------------------------------------------------------


def test_onnxruntime_is_imported_only_by_the_session():
    assert importers(RUNTIME, "onnxruntime") == {"runtime/cellrt/session.py"}


@pytest.mark.parametrize("module", ["cellrt._kernels", "cellrt._engine"])
def test_native_modules_are_imported_only_by_the_door(module):
    everywhere = {name for folder in ("runtime", "export", "tests") for name in importers(ROOT / folder, module)}
    assert everywhere == {"runtime/cellrt/kernels/native.py"}


def test_the_runtime_never_imports_the_exporter():
    # The command line finds it by its entry point.
    assert importers(RUNTIME, "cellrt_export") == set()


def test_the_runtime_imports_only_numpy_and_the_standard_library():
    allowed = set(sys.stdlib_module_names) | {"numpy", "cellrt"}
    for path in sources(RUNTIME):
        outside = {name.split(".")[0] for name, at_import in imports(path) if at_import} - allowed
        assert not outside, f"{name_of(path)} imports {outside} when it is imported"


def room_of(module: str) -> str:
    """cellrt.heads.star -> heads."""
    return module.split(".")[1]


def test_arrows_between_rooms_run_one_way():
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    for path in sources(RUNTIME):
        room = path.relative_to(RUNTIME).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in level, f"{name_of(path)} is a new room: give it a place in ROOMS"
        for module, _ in imports(path):
            if not module.startswith("cellrt.") or room_of(module) not in level:
                continue
            other = room_of(module)
            assert other == room or level[other] < level[room], f"{name_of(path)} imports cellrt.{other}"


def test_kernels_have_no_defaults():
    for function in kernel_doors():
        assert not function.args.defaults, f"kernels.{function.name} has defaults"
        assert not any(function.args.kw_defaults), f"kernels.{function.name} has defaults"


@pytest.mark.parametrize("folder", [RUNTIME, EXPORT], ids=["cellrt", "cellrt_export"])
def test_every_module_says_what_it_does(folder):
    for path in sources(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and path.name not in ("__main__.py",):
            assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
        assert path.stem not in ("utils", "helpers", "misc", "common"), f"{name_of(path)}: name it by what it does"


def test_only_the_command_line_prints():
    for path in sources(RUNTIME):
        if path.name == "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{name_of(path)}:{node.lineno} prints"


def test_importing_cellrt_loads_nothing_else():
    optional = [
        "numpy",
        "onnxruntime",
        "onnx",
        "torch",
        "h5py",
        "scipy",
        "skimage",
        "PIL",
        "tifffile",
        "roifile",
        "cellrt_export",
    ]
    script = f"import sys, cellrt; print([name for name in {optional} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_importing_cellrt_is_fast():
    """What cellrt adds to numpy at the first use of a name: 30 ms; the limit leaves room for a loaded machine."""
    script = (  # processor time; the best of five counts
        "import numpy, time; begin = time.process_time(); import cellrt; cellrt.load; "
        "print(time.process_time() - begin)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.1


def test_the_sdist_holds_what_gates_a_wheel():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    assert "{package}/tests/test_minimal.py" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "include tests/test_minimal.py" in manifest
    assert "prune tests" not in manifest


# ---- Header, bindings and versions --------------------------------------------------------------------------------


def without_comments(text: str) -> str:
    """C code less its comments and preprocessor lines, on one line."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", " ", text, flags=re.MULTILINE)
    return " ".join(text.split())


def header_declarations() -> dict[str, tuple[str, ...]]:
    """Function name -> return type, then the types and names of the parameters, from cellrt.h."""
    text = without_comments(HEADER.read_text(encoding="utf-8"))
    return declarations(re.findall(r"CELLRT_API ([^;]*);", text))


def declarations(texts: list[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for text in texts:
        match = re.fullmatch(r"(.*?)\s*(\w+)\((.*)\)", text.replace(" *", "* "))
        assert match, text
        result, name, parameters = match.groups()
        parts = [" ".join(part.split()) for part in parameters.split(",")]
        found[name] = (result.strip(), *[part for part in parts if part not in ("", "void")])
    return found


def test_the_pxd_mirrors_the_header():
    text = (CSRC / "bindings" / "cellrt.pxd").read_text(encoding="utf-8")
    body = text.split('cdef extern from "cellrt.h" nogil:')[1]
    functions = re.findall(r"^    ((?:const )?\w+[ *]+\w+\([^)]*\))$", body, flags=re.MULTILINE)
    mirrored = declarations([" ".join(function.split()) for function in functions])
    assert mirrored == header_declarations()
    constants = set(re.findall(r"^    const int32_t (\w+)$", body, flags=re.MULTILINE))
    defined = re.findall(
        r"^#define (CELLRT_(?:OK|VERSION|(?:ERROR|DYNAMICS|POLYHEDRON|STAR)_\w+)) ",
        HEADER.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert constants == set(defined)


def test_every_function_of_the_header_is_bound_and_has_a_door():
    bound = set(re.findall(r"c\.(cellrt_\w+)\(", (CSRC / "bindings" / "_kernels.pyx").read_text(encoding="utf-8")))
    assert bound == set(header_declarations())
    doors = [function.name for function in kernel_doors()]
    assert len(doors) == len(set(doors))
    without_dtype = {re.sub(r"_(u8|u16|f32)$", "", name.removeprefix("cellrt_")) for name in header_declarations()}
    assert set(doors) == without_dtype - {"status_text"}


def test_the_stub_names_what_the_module_has():
    from cellrt import kernels

    tree = ast.parse((RUNTIME / "_kernels.pyi").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    constants = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    native = {name for name in vars(kernels._kernels) if not name.startswith("_")}
    assert functions | constants == native


def test_the_interface_uses_only_what_every_language_can_call():
    allowed = {"int32_t", "int64_t", "float", "double", "uint8_t", "uint16_t", "char"}
    for name, (result, *parameters) in header_declarations().items():
        assert name.startswith("cellrt_")
        assert result in ("int32_t", "const char*"), name
        for parameter in parameters:
            kind, _ = parameter.rsplit(" ", 1)
            assert kind.replace("const ", "").replace("*", "").strip() in allowed, f"{name}: {parameter}"


def test_versions_agree():
    from cellrt import kernels

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    major, minor, patch = (int(part) for part in pyproject.split("."))
    header = re.search(r"#define CELLRT_VERSION (\d+)", HEADER.read_text(encoding="utf-8"))
    cmake = re.search(r"VERSION (\d+\.\d+\.\d+)", (CSRC / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert header is not None
    assert cmake is not None
    assert cellrt.__version__ == pyproject == cmake[1]
    assert int(header[1]) == 10000 * major + 100 * minor + patch == kernels.version()


# ---- C and C++ ------------------------------------------------------------------------------------------------------


def test_the_header_is_strict_c99():
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here")
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c"]
    subprocess.run([compiler, *flags, str(HEADER)], check=True, timeout=60)


def test_kernels_never_print_or_exit():
    for path in sorted((CSRC / "src").iterdir()):
        code = re.sub(r"//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found = re.findall(
            r"\b(?:f?printf|puts|putchar|perror|std::(?:cout|cerr|clog)|exit|abort|assert)\b\s*[(<]", code
        )
        assert not found, f"{path.name} has {found}"


def test_only_the_interface_is_extern_c():
    for path in sorted((CSRC / "src").iterdir()):
        if path.name != "capi.cpp":
            assert 'extern "C"' not in path.read_text(encoding="utf-8"), path.name


def test_kernels_include_only_the_standard_library_and_each_other():
    ours = {path.name for folder in ("src", "include") for path in (CSRC / folder).iterdir()}
    for path in sorted((CSRC / "src").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r'#include "([^"]+)"', text)) <= ours, path.name
        for name in re.findall(r"#include <([^>]+)>", text):
            is_system = path.name == "cores.cpp" and name in ("windows.h", "sched.h")
            is_vectors = name == "immintrin.h" and "CELLRT_HAS_AVX2" in text  # beside a portable path
            assert re.fullmatch(r"[a-z_0-9]+", name) or is_system or is_vectors, f"{path.name} includes <{name}>"


def test_every_header_begins_by_saying_what_it_does():
    for path in sorted((CSRC / "src").glob("*.hpp")):
        assert path.read_text(encoding="utf-8").startswith("// "), f"{path.name} does not begin with a comment"


def test_the_shared_library_exports_exactly_the_header():
    libraries = sorted((ROOT / "build").rglob("libcellrt.so"))
    nm = shutil.which("nm")
    if not libraries or nm is None:
        pytest.skip("libcellrt.so is not built, or there is no nm here")
    for library in libraries:
        listing = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        exported = {line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] in "TDBR"}
        assert {name.split("@")[0] for name in exported} == set(header_declarations()), library


def test_no_file_names_a_place_of_somebody_elses_machine():
    folders = [ROOT / name for name in ("runtime", "export", "csrc", "tests", "benchmarks", "examples")]
    suffixes = {".py", ".pyi", ".pyx", ".pxd", ".h", ".hpp", ".cpp", ".c", ".md", ".txt", ".toml", ".json"}
    files = [path for folder in folders if folder.exists() for path in folder.rglob("*") if path.suffix in suffixes]
    for path in [*files, *ROOT.glob("*.*")]:
        if path.is_file() and path.suffix in suffixes and path.name != "_kernels.cpp":
            found = re.search(r"(?<![\w.])/(?:work|home|Users|root)/\w+", path.read_text(encoding="utf-8"))
            assert found is None, f"{name_of(path)} mentions {found[0] if found else ''}"
