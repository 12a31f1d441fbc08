"""Builds denoise_ext._native: the CPU kernels always, the CUDA kernels where nvcc is found.

DENOISE_EXT_CUDA=auto|1|0     auto (default): with CUDA if nvcc is there; 1: fail without; 0: none
TORCH_CUDA_ARCH_LIST          e.g. "8.0;9.0+PTX"; the default covers Turing to Blackwell
MAX_JOBS                      parallel compilations
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

TORCH_MINIMUM = "2.11"
TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11 as torch/headeronly/version.h encodes it
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


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


def arch_list(nvcc: str) -> list[str]:
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
    archs = [arch for arch in DEFAULT_ARCHS if arch.replace(".", "") in known]
    return [*archs[:-1], archs[-1] + "+PTX"]


def gencode_flags(archs: list[str]) -> list[str]:
    """nvcc's options. Minor versions of one major version share the lowest one's PTX: no kernel
    tells them apart, and nvcc's front end, half of the build, runs once for all of them."""
    families: dict[str, list[str]] = {}
    ptx = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
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
    folders = include_paths()
    if not any(Path(folder, "pybind11").is_dir() for folder in folders):
        import pybind11

        folders.append(pybind11.get_include())
    return folders


class BuildNative(BuildExtension):
    """BuildExtension, with the torch-free .cu files compiled by nvcc into objects first."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # setuptools gives a temporary folder: every build would start anew
            self.build_temp = "build/editable"

    def build_extension(self, extension: Extension) -> None:
        sources = sorted(glob("csrc/cuda/*.cu")) if NVCC else []
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            extension.extra_objects += pool.map(self.cuda_object, sources)
        super().build_extension(extension)

    def cuda_object(self, source: str) -> str:
        target = Path(self.build_temp, "cuda-" + "-".join(ARCHS), Path(source).stem + ".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        headers = [f for f in HEADERS if f.startswith(("csrc/cuda/", "csrc/params/"))]
        newest = max(Path(file).stat().st_mtime for file in [source, *headers])
        if not target.exists() or target.stat().st_mtime < newest:
            print(f"nvcc {source} for {' '.join(ARCHS)}", flush=True)
            flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC", *gencode_flags(ARCHS)]
            subprocess.run([NVCC, *flags, "-c", source, "-o", str(target)], check=True)
        return str(target)


HEADERS = [f for end in ("h", "inl", "cuh") for f in glob(f"csrc/**/*.{end}", recursive=True)]
NVCC = find_nvcc()
ARCHS = arch_list(NVCC) if NVCC else []

# Contraction to fused multiply-add is what the kernels are written for; ISO mode turns it off.
CXX_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wextra"]
CXX_FLAGS += ["-g0"]  # Python's own flags ask for debug information: five times the size
CXX_FLAGS += [f"-isystem{path}" for path in headers()]

macros = [
    ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
    ("DENOISE_EXT_TORCH_VERSION", torch.__version__.split("+")[0]),
    ("DENOISE_EXT_TORCH_MINIMUM", TORCH_MINIMUM),
]
cuda_link: list[str] = []
if NVCC:
    cuda_version = re.search(r"release ([\d.]+)", run(NVCC, "--version"))[1]
    cuda_root = Path(NVCC).resolve().parent.parent
    cuda_root = cuda_root if (cuda_root / "lib64").exists() else Path("/usr/local/cuda")
    macros += [("DENOISE_EXT_WITH_CUDA", "1"), ("DENOISE_EXT_CUDA_VERSION", cuda_version)]
    macros += [("DENOISE_EXT_CUDA_ARCHS", " ".join(ARCHS))]
    cuda_link = [f"-L{cuda_root / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]

native = Extension(
    "denoise_ext._native",
    # csrc/cuda/*.cpp chooses among the CUDA kernels and is part of builds that have them.
    sources=sorted(
        f for f in glob("csrc/**/*.cpp", recursive=True) if NVCC or not f.startswith("csrc/cuda/")
    ),
    depends=HEADERS,
    library_dirs=library_paths(),
    libraries=["c10", "torch", "torch_cpu"],
    define_macros=macros,
    extra_compile_args=CXX_FLAGS,
    extra_link_args=cuda_link,
    language="c++",
)
setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
