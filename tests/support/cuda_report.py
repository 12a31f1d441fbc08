"""What nvcc made of each CUDA kernel: registers, shared memory, instructions. ``make cuda-report``.

Every ``csrc/cuda/*.cu`` is compiled for two architectures and disassembled, and every kernel is
held against its row of ``cuda_budgets.toml``; test_cuda_compiled.py asserts the same.  No GPU is
needed.  What has not changed since the last run is taken from ``build/cuda_report``.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from machine_code import (
    bodies_of,
    fewest_instructions,
    inner_loops,
    instructions_each,
    loads_ahead,
    opcodes_of,
    properties_of,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "cuda"
BUDGETS = ROOT / "tests" / "cuda" / "cuda_budgets.toml"
OUTPUT = ROOT / "build" / "cuda_report"
ARCHITECTURES = ("80", "90")
FLAGS = ("-O3", "-std=c++17", "-Xptxas=-v")
JOBS = int(os.environ.get("MAX_JOBS", "2"))
# Registers are handed out to warps in steps of 8 per thread: a budget in between means nothing.
REGISTER_STEP = 8


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture, as compiled."""

    name: str  # without namespaces and parameters: gaussian_ring_kernel<float, 1>
    source: str
    architecture: str  # "90"
    registers: int
    shared: int  # bytes of static shared memory; what a launcher asks for comes on top
    stack: int  # bytes per thread, of the kernel's own frame
    spills: int  # bytes stored and loaded
    opcodes: Counter[str]  # LDG.E.128 -> how often
    loops: tuple[Counter[str], ...] = ()  # the same of each loop that has no other inside
    # Of each such loop that stores to shared memory: the loads of global memory before it does.
    loads_ahead: tuple[int, ...] = ()
    body: str = ""  # the disassembly

    def loop_of(self, opcode: str) -> Counter[str]:
        """The innermost loop with the most instructions of this kind ("HMMA": of any form)."""

        def number(loop: Counter[str]) -> int:
            return sum(n for name, n in loop.items() if f"{name}.".startswith(f"{opcode}."))

        return max(self.loops, key=number, default=Counter())

    def count(self, wanted: str) -> int:
        """How many instructions are of this kind: "LDG.128" counts LDG.E.128.CONSTANT."""
        first, *parts = wanted.split(".")
        return sum(
            number
            for opcode, number in self.opcodes.items()
            if opcode.split(".")[0] == first and set(parts) <= set(opcode.split("."))
        )


@dataclass(frozen=True)
class Budget:
    """A row of cuda_budgets.toml: what the kernels of one pattern may use and must contain."""

    pattern: str
    registers: int
    shared: int
    needs: tuple[str, ...]
    loop: tuple[str, float] | None = None  # an instruction, and its share of its loop at least
    # So many loads before the first store to shared memory, in at least so many loops.
    loads_ahead: tuple[int, int] | None = None
    # From an instruction until others have been executed so often: so many instructions at most.
    ways: tuple[tuple[str, dict[str, int], int], ...] = ()
    # In the innermost loop with the most of the second, the first's part of it at most.
    ratio: tuple[str, str, float] | None = None
    # With so many turns of that loop, instructions for each of this kind at most.
    each: tuple[str, int, float] | None = None


def budgets(path: Path = BUDGETS) -> list[Budget]:
    rows = tomllib.loads(path.read_text())["kernel"]
    return [
        Budget(
            r["name"], r["registers"], r["shared"], tuple(r["needs"]),
            tuple(r["loop"]) if "loop" in r else None,
            tuple(r["loads_ahead"]) if "loads_ahead" in r else None,
            tuple((start, needs, most) for start, needs, most in r.get("ways", [])),
            tuple(r["ratio"]) if "ratio" in r else None,
            tuple(r["each"]) if "each" in r else None,
        )
        for r in rows
    ]  # fmt: skip


def budget_of(name: str, rows: list[Budget]) -> Budget | None:
    """The first row whose pattern has the kernel's name."""
    return next((row for row in rows if fnmatch.fnmatchcase(name, row.pattern)), None)


def suggested_row(kernels: list[Kernel]) -> str:
    """The line to add for one kernel, given what it is on every architecture."""
    registers = max(k.registers for k in kernels)
    registers = -(-registers // REGISTER_STEP) * REGISTER_STEP
    kinds = ("HMMA", "LDSM", "LDGSTS.128", "LDG.128", "STG.128")
    needs = [kind for kind in kinds if all(kernel.count(kind) for kernel in kernels)]
    return (
        f'{{ name = "{kernels[0].name}", registers = {registers}, '
        f"shared = {max(k.shared for k in kernels)}, needs = {needs} }},".replace("'", '"')
    )


def faults(kernel: Kernel, row: Budget | None) -> list[str]:
    """Everything about the kernel that must not be, in words."""
    found = []
    if kernel.spills:
        found.append(f"{kernel.spills} bytes of spilled registers")
    if kernel.stack:
        found.append(f"a stack frame of {kernel.stack} bytes (an array indexed at run time?)")
    found += [
        f"{number} x {opcode}: local memory"
        for opcode, number in kernel.opcodes.items()
        if opcode.split(".")[0] in ("LDL", "STL")
    ]
    found += [
        f"{number} x {opcode}: the order of a floating-point atomic's additions is not fixed"
        for opcode, number in kernel.opcodes.items()
        if re.match(r"(ATOM|ATOMG|ATOMS|RED|REDG)\.(.*\.)?B?F(16|32|64)", opcode)
    ]
    if row is None:
        return found
    if kernel.registers > row.registers:
        found.append(f"{kernel.registers} registers, the budget is {row.registers}")
    if kernel.shared > row.shared:
        found.append(f"{kernel.shared} bytes of static shared memory, the budget is {row.shared}")
    found += [f"no {need} instruction" for need in row.needs if not kernel.count(need)]
    if row.loop is not None:
        found += _loop_faults(kernel, *row.loop)
    if row.loads_ahead is not None:
        least, loops = row.loads_ahead
        enough = sum(loads >= least for loads in kernel.loads_ahead)
        if enough < loops:
            found.append(f"{least} loads before the first STS in {enough} loops, not in {loops}")
    return found + _count_faults(kernel, row)


def _count_faults(kernel: Kernel, row: Budget) -> list[str]:
    """What is wrong with the numbers of instructions on a warp's way."""
    found = []
    # Counted on one architecture: others order and join the same code differently.
    ways = row.ways if kernel.architecture == ARCHITECTURES[-1] else ()
    for start, needs, most in ways:
        if fewest_instructions(kernel.body, start, needs, most) is None:
            text = ", ".join(f"{number} x {need}" for need, number in needs.items())
            found.append(f"more than {most} instructions from {start} until {text}")
    if row.ratio is not None:
        part, whole, most = row.ratio
        loop = kernel.loop_of(whole)
        kinds = Counter()
        for opcode, number in loop.items():
            kinds[opcode.split(".")[0]] += number
        ratio = kinds[part] / kinds[whole] if kinds[whole] else float("inf")
        if ratio > most:
            found.append(f"{ratio:.3f} {part} for each {whole} in its loop, the budget is {most}")
    if row.each is not None:
        kind, turns, most = row.each
        number = instructions_each(kernel.body, kind, turns)
        if number > most:
            found.append(f"{number:.1f} instructions for each {kind}, the budget is {most}")
    return found


def _loop_faults(kernel: Kernel, opcode: str, least: float) -> list[str]:
    """What is wrong with the loop that a kernel's time goes to; its reads of shared memory too."""
    loop = kernel.loop_of(opcode)
    share = loop[opcode] / max(1, loop.total())
    found = [
        f"{number} x {name} in the loop of {opcode}: not 16 bytes at a time"
        for name, number in loop.items()
        if name.split(".")[0] == "LDS" and "128" not in name.split(".")
    ]
    if share < least:
        found.append(f"{opcode} is {share:.2f} of its loop, the budget is {least}")
    return found


# --- tools ---------------------------------------------------------------------------------------


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, in CUDA_HOME, or from NVIDIA's package on PyPI."""
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [Path(folder, "bin") for folder in folders if folder]
    places += sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/bin"))
    found = (shutil.which(name, path=str(place)) for place in places)
    return shutil.which(name) or next(filter(None, found), None)


def missing() -> str | None:
    """Which tool is not here, or None when all are."""
    packages = {
        "nvcc": "the CUDA toolkit",
        "c++filt": "binutils",
        "nm": "binutils",
        "cuobjdump": "the package nvidia-cuda-cuobjdump",
        "nvdisasm": "the package nvidia-cuda-nvdisasm",
    }
    names = [f"{name} ({of})" for name, of in packages.items() if find_tool(name) is None]
    return f"not installed: {', '.join(names)}" if names else None


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


@cache
def toolkit_version() -> str:
    return re.search(r"release ([\d.]+)", run(find_tool("nvcc"), "--version"))[1]


# --- compiling and reading -----------------------------------------------------------------------


@cache
def _with_includes(path: Path) -> frozenset[Path]:
    """A file and everything of the repository that it includes."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)
    files = [(path.parent / name).resolve() for name in names]
    return frozenset({path}).union(*(_with_includes(file) for file in files if file.exists()))


def _key(source: Path, architecture: str) -> str:
    key = hashlib.sha256(f"{toolkit_version()} {FLAGS} {architecture}".encode())
    for path in sorted(_with_includes(source)):
        key.update(f"{path.name}\n{path.read_text()}".encode())
    return key.hexdigest()


def compile_source(source: Path, architecture: str) -> tuple[str, str]:
    """(ptxas' report, disassembly) of one source file for one architecture.

    Both come from one compilation: nvcc names what lies in an anonymous namespace anew each time.
    They are kept in one file that is replaced as a whole, as another process may write it too.
    """
    kept = OUTPUT / f"sm_{architecture}" / f"{source.stem}.json"
    key = _key(source, architecture)
    if kept.exists() and (known := json.loads(kept.read_text()))["key"] == key:
        return known["report"], known["code"]
    arch = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    # cuobjdump starts nvdisasm, and looks for it on PATH.
    path = f"{Path(find_tool('nvdisasm')).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, f"{source.stem}.cubin")
        report = run(find_tool("nvcc"), *FLAGS, arch, "-cubin", source, "-o", cubin)
        code = run(find_tool("cuobjdump"), "-sass", cubin, env=os.environ | {"PATH": path})
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"key": key, "report": report, "code": code}))
    part.replace(kept)
    return report, code


def readable_names(symbols: list[str]) -> dict[str, str]:
    """Mangled -> kernel name and template arguments alone."""
    lines = run(find_tool("c++filt"), input="\n".join(symbols)).splitlines()
    names = {}
    for symbol, line in zip(symbols, lines, strict=True):
        name = re.sub(r"\(anonymous namespace\)::|(\w+::)+", "", line.removeprefix("void "))
        name = re.sub(r"\((\w+)\)(\d+)", r"\2", name)  # a cast enumerator in a template argument
        depth, end = 0, len(name)
        for i, character in enumerate(name):
            depth += {"<": 1, ">": -1}.get(character, 0)
            if character == "(" and depth == 0:
                end = i
                break
        names[symbol] = name[:end]
    return names


def names_in(library: str) -> set[str]:
    """The kernels of a compiled library.  nvcc keeps a host function for each."""
    symbols = {line.split()[-1] for line in run(find_tool("nm"), library).splitlines()}
    symbols = {re.sub(r"^_Z\d+__device_stub_(?=_Z)", "", symbol) for symbol in symbols}
    return set(readable_names(sorted(s for s in symbols if "_kernel" in s)).values())


def read_kernels(source: Path, architecture: str) -> list[Kernel]:
    """Every kernel of one source file, compiled for one architecture."""
    report, code = compile_source(source, architecture)
    properties, opcodes, bodies = properties_of(report), opcodes_of(code), bodies_of(code)
    names = readable_names(sorted(properties))
    loops = {symbol: inner_loops(bodies[symbol]) for symbol in properties}
    return [
        Kernel(
            names[s],
            source.name,
            architecture,
            opcodes=opcodes[s],
            loops=tuple(map(Counter, loops[s])),
            loads_ahead=loads_ahead(loops[s]),
            body=bodies[s],
            **properties[s],
        )
        for s in sorted(properties)
    ]


def read(jobs: list[tuple[Path, str]]) -> list[Kernel]:
    """Every kernel of these files, each for an architecture."""
    with ThreadPoolExecutor(JOBS) as pool:
        parts = list(pool.map(lambda job: read_kernels(*job), jobs))
    return [kernel for part in parts for kernel in part]


# --- the table -----------------------------------------------------------------------------------

COLUMNS = ("HMMA", "LDSM", "LDGSTS.128", "LDG.128", "STG.128")


def table(kernels: list[Kernel], rows: list[Budget]) -> str:
    lines = [
        f"nvcc {toolkit_version()}; instructions as compiled, not as executed",
        f"{'kernel':58} {'sm':>3} {'regs':>4} {'of':>4} {'static':>7} {'code':>6} "
        + " ".join(f"{column:>10}" for column in COLUMNS),
    ]
    for kernel in sorted(kernels, key=lambda k: (k.source, k.name, k.architecture)):
        row = budget_of(kernel.name, rows)
        wrong = faults(kernel, row) if row else ["no row in cuda_budgets.toml"]
        lines.append(
            f"{kernel.name:58} {kernel.architecture:>3} {kernel.registers:4} "
            f"{row.registers if row else '-':>4} {kernel.shared:7} {kernel.opcodes.total():6} "
            + " ".join(f"{kernel.count(column) or '-':>10}" for column in COLUMNS)
        )
        lines += [f"    {text}" for text in wrong]
    return "\n".join(lines)


def main() -> int:
    if missing():
        print(f"cuda_report: {missing()}", file=sys.stderr)
        return 1
    files = sorted(SOURCES.glob("*.cu"))
    kernels = read([(path, arch) for path in files for arch in ARCHITECTURES])
    rows = budgets()
    print(table(kernels, rows))
    found = ((kernel, budget_of(kernel.name, rows)) for kernel in kernels)
    return int(any(row is None or faults(kernel, row) for kernel, row in found))


if __name__ == "__main__":
    sys.exit(main())
