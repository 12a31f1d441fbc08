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

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.mark.parametrize("wanted", [None, "auto", "0"])
def test_without_nvcc_the_build_has_no_cuda(no_cuda, monkeypatch, wanted):
    if wanted:
        monkeypatch.setenv("DENOISE_EXT_CUDA", wanted)
    names = load_setup(monkeypatch)
    assert names["NVCC"] is None
    assert "DENOISE_EXT_WITH_CUDA" not in dict(names["macros"])


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
    assert load_setup(monkeypatch)["ARCHS"] == ["7.5", "8.0", "8.6", "8.9", "9.0+PTX"]
    install_nvcc(no_cuda, "75 80 86 89 90 100 120 121")
    names = load_setup(monkeypatch)
    assert names["ARCHS"] == ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]
    macros = dict(names["macros"])
    assert macros["DENOISE_EXT_CUDA_ARCHS"] == "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"
    assert macros["DENOISE_EXT_CUDA_VERSION"] == "13.0"


@pytest.mark.parametrize("text", ["8.0;9.0a+PTX", "8.0 9.0a+PTX", "8.0, 9.0a+PTX"])
def test_architecture_list_is_honoured(no_cuda, monkeypatch, text):
    install_nvcc(no_cuda, "75 80 86 89 90")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
    names = load_setup(monkeypatch)
    assert names["ARCHS"] == ["8.0", "9.0a+PTX"]
    assert names["gencode_flags"](names["ARCHS"])[1::2] == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_90a,code=compute_90a",
    ]


def test_minor_versions_share_their_ptx(no_cuda, monkeypatch):
    install_nvcc(no_cuda, "75 80 86 89 90 100 120")
    names = load_setup(monkeypatch)
    assert names["gencode_flags"](names["ARCHS"])[1::2] == [
        "arch=compute_75,code=sm_75",
        "arch=compute_80,code=[sm_80,sm_86,sm_89]",
        "arch=compute_90,code=sm_90",
        "arch=compute_100,code=sm_100",
        "arch=compute_120,code=sm_120",
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
        load_setup(monkeypatch)


def test_build_is_for_every_processor(no_cuda, monkeypatch):
    # Instruction sets are chosen at run time; a flag for one would make the whole library need it.
    extension = load_setup(monkeypatch)["native"]
    flags = [*extension.extra_compile_args, *extension.extra_link_args]
    assert [flag for flag in flags if re.match("-(m|O[^3]|ffast-math)", flag)] == []
    files = [ROOT / name for name in ("setup.py", "pyproject.toml", "Makefile")]
    files += [path for path in ROOT.glob("csrc/**/*") if path.is_file()]
    own = re.compile("-march=|-mtune=|-mcpu=|-mavx")
    assert [
        str(path) for path in files if own.search(path.read_text()) and path.suffix != ".md"
    ] == []


def test_every_source_is_in_the_build(no_cuda, monkeypatch):
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cpp")}
    without_cuda = {path for path in sources if not path.startswith("csrc/cuda/")}
    extension = load_setup(monkeypatch)["native"]
    assert set(extension.sources) == without_cuda
    headers = {str(p.relative_to(ROOT)) for e in ("h", "inl") for p in ROOT.glob(f"csrc/**/*.{e}")}
    assert headers <= set(extension.depends)
    install_nvcc(no_cuda, "80 90")
    assert set(load_setup(monkeypatch)["native"].sources) == sources


def test_the_oldest_torch_is_the_same_everywhere(no_cuda, monkeypatch):
    names = load_setup(monkeypatch)
    major, minor = map(int, names["TORCH_MINIMUM"].split("."))
    assert int(names["TORCH_TARGET_VERSION"], 16) == (major << 56) + (minor << 48)
    assert (major, minor) == _loader._MINIMUM_TORCH
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = f"torch>={major}.{minor}"
    assert wanted in project["project"]["dependencies"]
    assert wanted in project["build-system"]["requires"]
