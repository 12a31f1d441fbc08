"""setup.py: what the environment variables make of the build."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setuptools

from denoise_ext import _loader

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_cuda(tmp_path, monkeypatch) -> Path:
    """No nvcc anywhere; gives the folder in which a test may put one (it is PATH)."""
    for name in ("DENOISE_EXT_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no-cuda"))
    monkeypatch.chdir(ROOT)
    return tmp_path / "bin"


def install_nvcc(folder: Path, archs: str) -> None:
    """An nvcc that answers the two questions setup.py asks."""
    lines = "\n".join(f"echo compute_{arch}" for arch in archs.split())
    nvcc = folder / "nvcc"
    nvcc.write_text(
        f"#!/bin/sh\nif [ $1 = --list-gpu-arch ]; then\n{lines}\n"
        "else echo 'Cuda compilation tools, release 13.0, V13.0.88'; fi\n"
    )
    nvcc.chmod(0o755)


def load_setup(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The names setup.py defines, without building anything."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    return runpy.run_path(str(ROOT / "setup.py"))


def archs_of(names: dict, editable: bool = False) -> list[str]:
    return names["arch_list"](names["NVCC"], editable)


@pytest.mark.parametrize("wanted", [None, "auto", "0"])
def test_without_nvcc_the_build_has_no_cuda(no_cuda, monkeypatch, wanted):
    if wanted:
        monkeypatch.setenv("DENOISE_EXT_CUDA", wanted)
    names = load_setup(monkeypatch)
    assert names["NVCC"] is None
    assert "DENOISE_EXT_WITH_CUDA" not in dict(names["macros"]())


def test_cuda_0_leaves_nvcc_alone(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "80 90")
    monkeypatch.setenv("DENOISE_EXT_CUDA", "0")
    assert load_setup(monkeypatch)["NVCC"] is None


def test_cuda_1_without_nvcc_fails_and_says_why(no_cuda):
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        env=os.environ | {"DENOISE_EXT_CUDA": "1"}, cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "DENOISE_EXT_CUDA=1" in done.stderr
    assert str(no_cuda.parent / "no-cuda") in done.stderr  # where it looked


def test_unknown_cuda_setting_is_refused(no_cuda, monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"DENOISE_EXT_CUDA must be auto, 0 or 1, got 'yes'"):
        load_setup(monkeypatch)


def test_default_architectures_are_those_nvcc_knows(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "50 75 80 86 87 89 90")
    assert archs_of(load_setup(monkeypatch)) == ["7.5", "8.0+PTX", "8.6", "8.9", "9.0+PTX"]
    install_nvcc(no_cuda, "75 80 86 89 90 100 120 121")
    names = load_setup(monkeypatch)
    assert archs_of(names) == ["7.5", "8.0+PTX", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]
    assert dict(names["macros"]())["DENOISE_EXT_CUDA_VERSION"] == "13.0"


def install_gpus(folder: Path, answer: str) -> None:
    """An nvidia-smi with these GPUs' compute capabilities, or one that fails."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)


def test_an_editable_build_is_for_fewer_architectures(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "75 80 86 89 90 100 120")
    names = load_setup(monkeypatch)
    assert archs_of(names, editable=True) == ["8.0-virtual"]
    assert names["gencode_flags"](["8.0-virtual"])[1::2] == ["arch=compute_80,code=compute_80"]
    install_gpus(no_cuda, "exit 9")  # a driver that does not match
    assert archs_of(names, editable=True) == ["8.0-virtual"]
    install_gpus(no_cuda, "printf '8.6\\n7.5\\n8.6\\n'")
    assert archs_of(names, editable=True) == ["7.5", "8.6"]
    assert len(archs_of(names)) == 7  # a wheel is for all, whatever is here
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert archs_of(names, editable=True) == ["9.0"]


def test_an_editable_build_leaves_out_a_gpu_that_nvcc_does_not_know(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "75 80 86 89 90 100 120")
    install_gpus(no_cuda, "echo 5.2")
    assert archs_of(load_setup(monkeypatch), editable=True) == ["8.0-virtual"]


@pytest.mark.parametrize("text", ["8.0;9.0a+PTX", "8.0 9.0a+PTX", "8.0, 9.0a+PTX"])
def test_architecture_list_is_honoured(no_cuda, monkeypatch, text):
    install_nvcc(no_cuda, "75 80 86 89 90")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
    names = load_setup(monkeypatch)
    assert archs_of(names) == ["8.0", "9.0a+PTX"]
    assert names["gencode_flags"](archs_of(names))[1::2] == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_90a,code=compute_90a",
    ]


def test_minor_versions_share_their_ptx(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "75 80 86 89 90 100 120")
    names = load_setup(monkeypatch)
    assert names["gencode_flags"](archs_of(names))[1::2] == [
        "arch=compute_75,code=sm_75",
        "arch=compute_80,code=[sm_80,sm_86,sm_89]",
        "arch=compute_90,code=sm_90",
        "arch=compute_100,code=sm_100",
        "arch=compute_120,code=sm_120",
        "arch=compute_80,code=compute_80",
        "arch=compute_120,code=compute_120",
    ]
    assert names["gencode_flags"](["8.9", "8.6", "9.0a"])[1::2] == [
        "arch=compute_86,code=[sm_89,sm_86]",
        "arch=compute_90a,code=sm_90a",
    ]


@pytest.mark.parametrize("unknown", ["13.7", "Hopper", "9", "sm_90"])
def test_architecture_nvcc_does_not_know_is_refused(no_cuda, monkeypatch, unknown):
    install_nvcc(no_cuda, "75 80 86 89 90")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", f"8.0;{unknown}")
    with pytest.raises(SystemExit, match=f"TORCH_CUDA_ARCH_LIST: .*'{re.escape(unknown)}'"):
        archs_of(load_setup(monkeypatch))


def test_build_is_for_every_processor(no_cuda, monkeypatch):
    # Instruction sets are chosen at run time; a flag for one would make the whole library need it.
    names = load_setup(monkeypatch)
    flags = [*names["CXX_FLAGS"], *names["NVCC_FLAGS"], *names["native"].extra_link_args]
    assert [flag for flag in flags if re.match("-(m|O[^3]|ffast-math)", flag)] == []
    files = [ROOT / name for name in ("setup.py", "pyproject.toml", "Makefile")]
    files += [path for path in ROOT.glob("csrc/**/*") if path.is_file()]
    own = re.compile("-march=|-mtune=|-mcpu=|-mavx")
    assert [
        str(path) for path in files if own.search(path.read_text()) and path.suffix != ".md"
    ] == []


def test_every_source_is_in_the_build(no_cuda, monkeypatch):
    found = [path for end in ("cpp", "cu") for path in ROOT.glob(f"csrc/**/*.{end}")]
    sources = {str(path.relative_to(ROOT)) for path in found}
    without_cuda = {path for path in sources if "cuda" not in Path(path).parts}
    assert set(load_setup(monkeypatch)["native"].sources) == without_cuda
    install_nvcc(no_cuda, "80 90")
    names = load_setup(monkeypatch)
    assert set(names["native"].sources) == sources
    assert {f"csrc/{name}" for name in names["SLOWEST"]} <= sources


def test_the_oldest_torch_is_the_same_everywhere(no_cuda, monkeypatch):
    names = load_setup(monkeypatch)
    major, minor = map(int, names["TORCH_MINIMUM"].split("."))
    assert int(names["TORCH_TARGET_VERSION"], 16) == (major << 56) + (minor << 48)
    assert (major, minor) == _loader._MINIMUM_TORCH
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = f"torch>={major}.{minor}"
    assert wanted in project["project"]["dependencies"]
    assert wanted in project["build-system"]["requires"]


def test_an_edit_compiles_what_includes_it_and_nothing_else(no_cuda, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{no_cuda}:/usr/bin:/bin")
    names = load_setup(monkeypatch)
    (tmp_path / "a.h").write_text("#pragma once\n")
    (tmp_path / "one.cpp").write_text('#include "a.h"\n')
    (tmp_path / "other.cpp").write_text("int other;\n")
    edges = [f"build {name}.o: cxx {name}.cpp" for name in ("one", "other")]

    def compiled(command: list[str]) -> set[str]:
        file = tmp_path / "build.ninja"
        file.write_text("\n".join([names["rule"]("cxx", command), *edges, ""]))
        done = subprocess.run(
            [names["ninja"](), "-C", str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True
        )
        return set(re.findall(r"cxx (\w+)\.cpp", done.stdout))

    assert compiled(["g++"]) == {"one", "other"}
    assert compiled(["g++"]) == set()
    (tmp_path / "a.h").write_text("#pragma once\nconstexpr int kA = 1;\n")
    assert compiled(["g++"]) == {"one"}
    assert compiled(["g++", "-DA=$X 'quoted text'"]) == {"one", "other"}  # other settings
    assert compiled(["g++", "-DA=$X 'quoted text'"]) == set()
