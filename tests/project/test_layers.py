"""The layers of csrc/README.md and CONTRIBUTING.md: who may include and import whom."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "denoise_ext"
TESTS = ROOT / "tests"
MAX_LINES = 600

CPP_FILES = sorted(
    path for end in ("h", "inl", "cuh", "cu", "cpp") for path in CSRC.rglob(f"*.{end}")
)
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- C++ -------------------------------------------------------------------------------------


def includes(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line number, what is included, whether in quotes) of every #include."""
    pattern = re.compile(r'\s*#\s*include\s*(["<])([^">]+)[">]')
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := pattern.match(line):
            yield number, match[2], match[1] == '"'


def layer(path: Path) -> str:
    """params, cpu, cuda or ops; "module" for the files directly in csrc."""
    folders = path.relative_to(CSRC).parts[:-1]
    return folders[0] if folders else "module"


def is_standard(header: str) -> bool:
    """Whether it is a header of the C++ standard library: no folder, no .h."""
    return "/" not in header and "." not in header


# layer -> (layers it may include, headers in <> it may include)
RULES = {
    "params": ({"params"}, lambda header: header in ("cstdint", "cstddef")),
    "cpu": ({"cpu", "params"}, is_standard),
    "cuda": (
        {"cuda", "params"},
        lambda header: (
            is_standard(header)
            or re.match(r"(cuda|mma|cooperative_groups)", header)
            or header == "emulated_primitives.h"  # tests/cuda_emulator: what stands in for PTX
        ),
    ),
    # Only the part of torch that stays binary compatible from release to release.
    "ops": (
        {"ops", "cpu", "cuda", "params"},
        lambda header: (
            is_standard(header)
            or header == "dlfcn.h"  # dlsym: what a later torch has and an earlier one lacks
            or header == "sys/mman.h"  # madvise: huge pages for large results
            or header.startswith(("torch/csrc/stable/", "torch/headeronly/"))
            or header == "torch/csrc/inductor/aoti_torch/c/shim.h"
        ),
    ),
    "module": (
        {"module", "cpu", "params", "ops"},
        lambda header: is_standard(header) or header.startswith("pybind11/"),
    ),
}


def test_cpp_files_include_only_what_their_layer_may():
    problems = []
    for path in CPP_FILES:
        assert layer(path) in RULES, f"{name_of(path)}: no layer of csrc/README.md"
        layers, headers = RULES[layer(path)]
        for number, included, quoted in includes(path):
            place = f"{name_of(path)}:{number}"
            target = (path.parent / included).resolve()
            if not quoted:
                if not headers(included):
                    problems.append(f"{place}: csrc/{layer(path)} must not include <{included}>")
            elif not target.is_file():
                problems.append(f"{place}: {included} is not there")
            elif (
                layer(path) == "module"
                and layer(target) == "ops"
                and target.name not in ("explain.h", "tf32.h")
            ):
                problems.append(f"{place}: only ops/explain.h and ops/tf32.h know no torch")
            elif layer(target) not in layers:
                problems.append(f"{place}: csrc/{layer(path)} must not use csrc/{layer(target)}")
    assert problems == []


def test_headers_are_guarded():
    headers = [path for path in CPP_FILES if path.suffix in (".h", ".cuh")]
    assert [name_of(path) for path in headers if "#pragma once" not in path.read_text()] == []


def test_kernel_bodies_open_no_header():
    # They are compiled inside a target region: a header opened there would have its inline
    # functions compiled for that instruction set, and the linker may keep those for everyone.
    problems = []
    for path in CPP_FILES:
        if path.suffix == ".inl":
            bodies = path.parent.name == "targets"  # targets/conv.inl lists conv's, in their order
            for number, included, _ in includes(path):
                if not (bodies and included.startswith("../kernels/")):
                    problems.append(f"{name_of(path)}:{number}: includes {included}")
    assert problems == []


def test_kernel_bodies_ask_for_no_instruction_set():
    pattern = re.compile(r"\b__(AVX|SSE|FMA__|F16C|x86_64|aarch64|ARM|i386)\w*|\b_mm\d*_|\bvld1")
    problems = []
    for path in sorted((CSRC / "cpu/kernels").glob("*.inl")):
        code = re.sub(r"//.*", "", path.read_text())
        problems += [f"{name_of(path)}: {match[0]}" for match in pattern.finditer(code)]
    assert problems == [], "instruction sets are told apart in csrc/cpu/targets only"


def test_targets_open_headers_before_their_region():
    folder = CSRC / "cpu/targets"
    text = (folder / "target.h").read_text()
    inside = re.findall(r"#\s*include\s*(\S+)", text[text.index("\nDENOISE_EXT_BEGIN_TARGET\n") :])
    assert inside == ["DENOISE_EXT_KERNELS"]
    assert text.count("\nDENOISE_EXT_END_TARGET\n") == 1
    region = (folder / "target_region.h").read_text()
    assert region.count("GCC push_options") == region.count("GCC pop_options") == 1
    assert region.count("attribute push") == region.count("attribute pop") == 1
    shared = ("target", "target_region", "vectors")
    sets = {path for path in folder.glob("*.h") if path.stem not in shared}
    assert len(sets) == 3
    for path in sets:
        opened = [included for _, included, _ in includes(path)]
        assert opened in (["target.h"], ["target_region.h", "target.h"]), name_of(path)


def test_every_target_compiles_every_group_of_kernels():
    folder = CSRC / "cpu/targets"
    sets = {path.stem for path in folder.glob("*.h")} - {"target", "target_region", "vectors"}
    groups = {path.stem for path in folder.glob("*.inl")}
    units = {path.stem for path in folder.glob("*.cpp")}
    assert units == {f"{group}_{instructions}" for group in groups for instructions in sets}


def test_product_code_asks_for_the_emulator_in_two_places():
    asking = {name_of(path) for path in CPP_FILES if "EMULATE_CUDA" in path.read_text()}
    assert asking == {"csrc/ops/register.h", "csrc/cuda/primitives.cuh"}


# --- Python ----------------------------------------------------------------------------------

COMMON = {
    "__version__", "_arguments", "_choices", "_log", "_precision", "_suggestions", "_tf32",
}  # fmt: skip
LEAVES = {
    "_activations",
    "_arguments",
    "_cache",
    "_choices",
    "_loader",
    "_log",
    "_modules",
    "_motion_arguments",
    "_norm_arguments",
    "_openmp",
    "_precision",
    "_suggestions",
    "_tf32",
    "_timing",
    "io",
    "metrics",
    "resampling",
}  # know nothing of the rest; all may use them
# What else each part of the package may import from it.
MAY_IMPORT = {
    **{leaf: set() for leaf in LEAVES},
    "data": set(),
    "ops": set(),
    "reference": set(),
    "nn": {"ops", "reference"},
    "engine": {"ops"},  # knows no model and no layer: it finds out what a module computes
    "models": {"nn", "ops"},
    "analysis": {"models", "nn"},
    "export": {"models", "nn", "analysis", "reference"},  # constants of the motion search
    "runtime": {"engine", "analysis", "models", "nn", "ops"},
    "tasks": {"runtime", "models", "nn", "data"},
    "restore": {"tasks", "runtime", "models", "nn"},
    "training": {"models", "nn", "ops", "data", "runtime", "tasks"},  # tasks: what noise there is
    "codec": {"tasks", "runtime", "models"},
    "jobs": {"tasks", "runtime"},  # ray.py alone: a cluster loads the network in its actors
    "integrations": {"restore", "tasks", "runtime", "ops"},
    "report": {"tasks", "runtime"},
    "service": {"tasks", "runtime", "models"},
    "_info": {"ops"},
    "cli": {
        "ops", "reference", "nn", "models", "data", "engine", "analysis", "export", "runtime",
        "tasks", "restore", "report", "codec", "jobs", "service", "training", "info",
    },
}  # fmt: skip
DECLARED = {"torch", "numpy", "PIL", "safetensors", "pydantic", "rich"}  # pyproject's dependencies
OPTIONAL = {
    ("denoise_ext/cli/_bench_cases.py", "cv2"),  # measured against where it is installed
    ("denoise_ext/jobs/ray.py", "ray"),
    ("denoise_ext/jobs/urls.py", "fsspec"),
    *(
        (f"denoise_ext/service/{name}.py", "starlette")
        for name in ("app", "guard", "page_files", "uploads")
    ),
    ("denoise_ext/service/server.py", "uvicorn"),
    ("denoise_ext/training/plots.py", "matplotlib"),
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, full dotted name) of everything imported, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part(path: Path) -> str:
    """ops, nn, ...; or the module's own name directly in the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_python_files_import_only_lower_layers():
    problems = []
    for path in PYTHON_FILES:
        own = part(path)
        if own == "__init__":  # names the subpackages, to import them when they are first used
            allowed = set()
        else:
            assert own in MAY_IMPORT, f"{name_of(path)}: no place among the layers yet"
            allowed = MAY_IMPORT[own] | (set() if own in LEAVES else LEAVES) | {own, *COMMON}
        for number, name in imports(path):
            top, *rest = name.split(".")
            if top == "denoise_ext" and rest[0] not in allowed:
                problems.append(f"{name_of(path)}:{number}: {own} must not import {rest[0]}")
    assert problems == []


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those that import nothing but what is gone are gone."""
    left = {module: set(used) for module, used in graph.items()}
    while free := [module for module, used in left.items() if not used & left.keys()]:
        for module in free:
            del left[module]
    # Of these, what no other one imports is not in a circle but above it.
    while top := left.keys() - set().union(*left.values()):
        for module in top:
            del left[module]
    return sorted(left)


def test_no_circle_between_modules():
    """Imports within functions and for type checkers count, too."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c"]
    modules = {module_of(path) for path in PYTHON_FILES}
    graph = {}
    for path in PYTHON_FILES:
        own = module_of(path)
        found = {name if name in modules else name.rpartition(".")[0] for _, name in imports(path)}
        graph[own] = found & modules - {own}
    assert circles(graph) == []


def test_no_package_imports_the_private_names_of_another():
    problems = []
    for path in PYTHON_FILES:
        for number, name in imports(path):
            top, *rest = name.split(".")
            if top != "denoise_ext" or rest[0] == part(path):
                continue
            # The leaves directly in the package are everybody's.
            private = [x for x in rest[1:] if x.startswith("_") and not x.startswith("__")]
            if private:
                problems.append(f"{name_of(path)}:{number}: {name}")
    assert problems == []


def test_python_files_need_only_declared_dependencies():
    known = DECLARED | sys.stdlib_module_names | {"denoise_ext"}
    used = {(name_of(p), name.split(".")[0]) for p in PYTHON_FILES for _, name in imports(p)}
    assert sorted((file, top) for file, top in used - OPTIONAL if top not in known) == []


def test_torch_load_takes_weights_only():
    problems = []
    for path in PYTHON_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if given.get("weights_only") != "True":
                    problems.append(f"{name_of(path)}:{node.lineno}")
    assert problems == []


# --- tests -----------------------------------------------------------------------------------

# What is no part of the package and has tests or tools of its own.
TOOLS = {"benchmarks", "cuda", "cuda_emulator", "fuzz", "native", "project", "sanitize", "support"}
# Folders whose modules are imported. In every other one each module is a file of tests.
SHARED = {"cuda_emulator", "fuzz", "sanitize", "support"}


def test_folders_of_tests_mirror_the_package():
    folders = {path.name for path in TESTS.iterdir() if any(path.glob("*.py"))}
    assert folders - TOOLS <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    modules = [path for path in TESTS.glob("*/*.py") if path.parent.name not in SHARED]
    assert [name_of(path) for path in modules if not path.name.startswith("test_")] == []
    # Pytest imports a file of tests by its name alone.
    names = [path.name for path in [*modules, *(TESTS / "support").glob("*.py")]]
    assert sorted(name for name in names if names.count(name) > 1) == []


def test_no_file_of_tests_is_imported():
    """What two files of tests share is a module of tests/support."""
    problems = []
    for path in [*TESTS.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for number, name in imports(path):
            if name.startswith("test_"):
                problems.append(f"{name_of(path)}:{number}: {name}")
    assert problems == []


# --- both ------------------------------------------------------------------------------------


def test_files_are_short_enough_to_read():
    others = [
        *TESTS.rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        ROOT / "setup.py",
    ]
    lengths = {
        name_of(path): len(path.read_text().splitlines())
        for path in [*CPP_FILES, *PYTHON_FILES, *others]
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    assert too_long == {}, "split them by subject"
