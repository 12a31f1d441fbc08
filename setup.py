"""Builds denoise_ext._native: the CPU kernels always, the CUDA kernels where nvcc is found.

DENOISE_EXT_CUDA=auto|1|0     auto (default): with CUDA if nvcc is there; 1: fail without; 0: none
TORCH_CUDA_ARCH_LIST          e.g. "8.0;9.0+PTX". Default of a wheel: Turing to Blackwell. Default
                              of an editable build: the GPUs of this machine, else the PTX of 8.0
CXX, CXXFLAGS                 the C++ compiler (GCC or clang) and further options
MAX_JOBS                      parallel compilations; default: one per processor
"""

import copy
import os
import re
import shlex
import shutil
import subprocess
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TORCH_MINIMUM = "2.11"
TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11 as torch/headeronly/version.h encodes it
# The PTX of 8.0 is for GPUs above it that no machine code of the others serves, such as 11.0.
WHEEL_ARCHS = ("7.5", "8.0+PTX", "8.6", "8.9", "9.0", "10.0", "12.0")
# PTX alone, which the driver compiles for a GPU: ptxas is a third of nvcc's work.
EDITABLE_ARCHS = ("8.0-virtual",)
# What the files of a folder start with, compiled once.
PRECOMPILED = {"cxx": "csrc/cpu/precompiled.h", "cxx-operator": "csrc/ops/precompiled.h"}
LOOPS = ("csrc/ops/cpu/entropy.cpp",)  # files of csrc/ops with loops over data: all optimisations
# What takes longest to compile, longest first: ninja starts in this order.
SLOWEST = (
    "cuda/conv_rowring.cu",
    "cpu/targets/conv_avx512.cpp",
    "cpu/targets/conv_avx2.cpp",
    "cpu/targets/winograd_avx512.cpp",
    "cpu/targets/conv_baseline.cpp",
    "cpu/targets/winograd_baseline.cpp",
    "cpu/targets/winograd_avx2.cpp",
    "cuda/conv_tiled.cu",
    "cuda/bilateral_tile.cu",
    "cuda/conv_gemm_mma.cu",
    "cuda/conv_transpose_phases.cu",
    "cpu/targets/bilateral_avx512.cpp",
    "module.cpp",
    "cuda/conv_depthwise.cu",
    "cuda/conv_first.cu",
)


def find_nvcc() -> str | None:
    """Path of nvcc, or None where the build is to have no CUDA."""
    wanted = os.environ.get("DENOISE_EXT_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"DENOISE_EXT_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if nvcc is None and wanted == "1":
        raise SystemExit(
            f"DENOISE_EXT_CUDA=1, but there is no nvcc on PATH nor in {home}/bin; install the CUDA "
            "toolkit, set CUDA_HOME, or build with DENOISE_EXT_CUDA=0"
        )
    return nvcc


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def gpu_archs() -> list[str]:
    """Compute capabilities of this machine's GPUs, such as ["9.0"]; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = (
        set(re.findall(r"^\d+\.\d+$", done.stdout, re.MULTILINE)) if done.returncode == 0 else ()
    )
    return sorted(found, key=float)


def arch_list(nvcc: str, editable: bool) -> list[str]:
    """Architectures to compile for, such as ["8.0", "9.0", "12.0+PTX"]."""
    known = set(re.findall(r"compute_(\d+)", run(nvcc, "--list-gpu-arch")))
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        archs = re.split(r"[;, ]+", named.strip())
        for arch in archs:
            number = re.fullmatch(r"(\d+)\.(\d+)a?(\+PTX)?", arch)
            if number is None or number[1] + number[2] not in known:
                raise SystemExit(f"TORCH_CUDA_ARCH_LIST: {nvcc} does not know {arch!r}")
        return archs
    here = gpu_archs() if editable else []
    if here and all(arch.replace(".", "") in known for arch in here):
        return here
    if editable:
        return list(EDITABLE_ARCHS)
    archs = [a for a in WHEEL_ARCHS if a.removesuffix("+PTX").replace(".", "") in known]
    return [*archs[:-1], archs[-1].removesuffix("+PTX") + "+PTX"]


def gencode_flags(archs: list[str]) -> list[str]:
    """nvcc's options. Minor versions of one major version share the lowest one's PTX: no kernel
    differs between them, and nvcc's front end, half of the build, runs once for all of them."""
    families: dict[str, list[str]] = {}
    ptx = []
    for arch in archs:
        number = arch.removesuffix("+PTX").removesuffix("-virtual").replace(".", "")
        if arch.endswith("-virtual"):
            ptx.append(number)
            continue
        own = number.endswith("a")  # what only this very architecture runs
        families.setdefault(number if own else number[:-1], []).append(number)
        ptx += [number] if arch.endswith("+PTX") else []
    flags = []
    for numbers in families.values():
        lowest = min(numbers, key=lambda number: int(number.removesuffix("a")))
        codes = [f"sm_{number}" for number in numbers]
        code = codes[0] if len(codes) == 1 else f"[{','.join(codes)}]"
        flags += ["-gencode", f"arch=compute_{lowest},code={code}"]
    for number in ptx:
        flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def headers() -> list[str]:
    """Folders with torch's headers and pybind11's, which most builds of torch have among theirs."""
    from torch.utils.cpp_extension import include_paths

    folders = include_paths()
    if not any(Path(folder, "pybind11").is_dir() for folder in folders):
        import pybind11

        folders.append(pybind11.get_include())
    return folders


def macros() -> list[tuple[str, str]]:
    """What csrc/ops and csrc/module.cpp see of this build."""
    import torch

    found = [
        ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
        ("DENOISE_EXT_TORCH_VERSION", torch.__version__.split("+")[0]),
        ("DENOISE_EXT_TORCH_MINIMUM", TORCH_MINIMUM),
    ]
    if NVCC:
        version = re.search(r"release ([\d.]+)", run(NVCC, "--version"))[1]
        found += [("DENOISE_EXT_WITH_CUDA", "1"), ("DENOISE_EXT_CUDA_VERSION", version)]
    return found


def ninja() -> str:
    """Path of ninja: the package's, which need not be on PATH, else the system's."""
    try:
        import ninja as package
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise SystemExit("the build needs ninja: pip install ninja") from None
        return found
    return str(Path(package.BIN_DIR, "ninja"))


def processors() -> int:
    """How many this process may use; of the machine where the system has no such limit (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rule(name: str, command: list[str]) -> str:
    """A rule of build.ninja. The compiler lists what a file includes: only edits of that count.

    A header that comes compiled is not in that list. It includes no file of the repository.
    """
    line = " ".join(shlex.quote(part).replace("$", "$$") for part in command)
    return (
        f"rule {name}\n"
        f"  command = {line} -MMD -MF $out.d -c $in -o $out\n"
        f"  description = {name} $in\n  depfile = $out.d\n  deps = gcc\n"
    )


def start_order(source: str) -> tuple[int, str]:
    """Longest first, so that no long compilation is left for one processor at the end."""
    name = source.removeprefix("csrc/")
    return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST), name


class BuildNative(build_ext):
    """build_ext whose compilations, of nvcc and of the C++ compiler, ninja runs in one pool."""

    def finalize_options(self) -> None:
        super().finalize_options()
        editable = self.editable_mode or bool(self.inplace)
        self.archs = arch_list(NVCC, editable) if NVCC else []
        self.archs_of = "an editable build" if editable else "a wheel"
        if os.environ.get("TORCH_CUDA_ARCH_LIST"):
            self.archs_of = "TORCH_CUDA_ARCH_LIST"
        if self.editable_mode:  # setuptools gives a temporary folder: every build would start anew
            self.build_temp = "build/editable"

    def build_extension(self, extension: Extension) -> None:
        # Not above: pip runs this file for the package's name, too, and torch takes seconds.
        from torch.utils.cpp_extension import library_paths

        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        objects = {source: self.object_of(source) for source in sources()}
        file = folder / "build.ninja"
        file.write_text(self.build_file(objects))
        jobs = os.environ.get("MAX_JOBS") or str(processors())
        command = [ninja(), "-f", str(file), "-j", jobs, *objects.values()]
        if subprocess.run(command).returncode != 0:
            raise SystemExit("a file did not compile: the compiler's message is above")
        linked = copy.copy(extension)
        linked.sources, linked.extra_objects = [], list(objects.values())
        linked.library_dirs = library_paths()
        self.force = True
        super().build_extension(linked)

    def object_of(self, source: str) -> str:
        """Where a source's object is; those for other architectures stay where they are."""
        folder = "cuda-" + "-".join(self.archs) if source.endswith(".cu") else ""
        return str(Path(self.build_temp, folder, source).with_suffix(".o"))

    def build_file(self, objects: dict[str, str]) -> str:
        """The text of build.ninja."""
        cxx = [*self.compiler.compiler_so_cxx, *CXX_FLAGS]
        torch_flags = [f"-isystem{path}" for path in headers()]
        torch_flags += [f"-D{name}={value}" for name, value in macros()]
        python = [f"-I{path}" for path in self.include_dirs]
        archs = [f"-DDENOISE_EXT_CUDA_ARCHS={' '.join(self.archs)}"]
        archs += [f"-DDENOISE_EXT_CUDA_ARCHS_OF={self.archs_of}"]
        with_torch = [*cxx, *torch_flags, "-std=c++20"]
        # An operator checks, allocates and calls a kernel. Its time is torch's and the kernel's.
        commands = {"cxx": [*cxx, "-std=c++17"], "cxx-operator": [*with_torch, "-O1"]}
        compiled = {name: str(Path(self.build_temp, file)) for name, file in PRECOMPILED.items()}
        # GCC takes the compiled form that lies beside what -include names, where the options agree.
        rules = [
            rule(name, [*commands[name], "-Winvalid-pch", "-include", header])
            for name, header in compiled.items()
        ]
        # -w: GCC warns of "#pragma once" in the file that is compiled.
        rules += [
            rule(f"{name}-header", [*commands[name], "-w", "-x", "c++-header"]) for name in compiled
        ]
        # Of another optimisation, so without a compiled header.
        rules += [rule("cxx-loops", with_torch)]
        # No kernel calls what binds to Python, which is a lot of code.
        rules += [rule("cxx-python", [*cxx, *torch_flags, *python, *archs, "-std=c++17", "-O0"])]
        rules += [rule("nvcc", [NVCC, *NVCC_FLAGS, *gencode_flags(self.archs)])] if NVCC else []
        rules += ["rule copy\n  command = cp $in $out\n"]
        edges = []
        for name, header in compiled.items():
            edges += [f"build {header}: copy {PRECOMPILED[name]}"]
            edges += [f"build {header}.gch: {name}-header {header}"]
        for source in sorted(objects, key=start_order):
            name = rule_of(source)
            waits = f" | {compiled[name]}.gch" if name in compiled else ""
            edges.append(f"build {objects[source]}: {name} {source}{waits}")
        return "\n".join([f"builddir = {self.build_temp}", *rules, *edges, ""])


def rule_of(source: str) -> str:
    """The rule that compiles a source: kernels know neither torch nor Python.

    The kernels of the CPU are C++17, as those of CUDA are: the standard library's headers take a
    quarter of a second longer in C++20.
    """
    if source.endswith(".cu"):
        return "nvcc"
    if source.startswith(("csrc/cpu/", "csrc/cuda/")):
        return "cxx"
    if source in LOOPS:
        return "cxx-loops"
    return "cxx-operator" if source.startswith("csrc/ops/") else "cxx-python"


def sources() -> list[str]:
    """Every source of csrc; without nvcc, none of the folders named cuda."""
    found = [f for end in ("cpp", "cu") for f in glob(f"csrc/**/*.{end}", recursive=True)]
    return sorted(f for f in found if NVCC or "cuda" not in Path(f).parts)


NVCC = find_nvcc()
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler=-fPIC"]

# Contraction to fused multiply-add is what the kernels are written for; ISO mode turns it off.
CXX_FLAGS = ["-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wextra"]
CXX_FLAGS += ["-g0"]  # Python's own flags ask for debug information: five times the size

cuda_link: list[str] = []
if NVCC:
    cuda_root = Path(NVCC).resolve().parent.parent
    cuda_root = cuda_root if (cuda_root / "lib64").exists() else Path("/usr/local/cuda")
    cuda_link = [f"-L{cuda_root / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]

native = Extension(
    "denoise_ext._native",
    sources=sources(),
    libraries=["c10", "torch", "torch_cpu"],
    extra_link_args=cuda_link,
    language="c++",
)
setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
