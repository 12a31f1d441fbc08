"""A driver that is too old for the CUDA runtime in the build: what `info` and a call say of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import cuda_emulator
import pytest
import torch

from denoise_ext import _loader, ops

emulated = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
# A driver that can say its version and nothing else.
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
"""


def needs_cuda_build_and_gcc() -> str | None:
    if error := _loader.native_error():
        return f"the native library: {error}"
    if not _loader.native().build_info()["cuda"]:
        return "the build has no CUDA kernels"
    return None if shutil.which("gcc") else "there is no gcc"


def call() -> torch.Tensor:
    return ops.conv2d(torch.ones(1, 4, 5, 5), torch.ones(4, 4, 3, 3))


@emulated
@pytest.mark.parametrize("version, text", [(12080, "12.8"), (11040, "11.4")])
def test_the_first_call_names_both_versions(version, text):
    with (
        cuda_emulator.emulated_cuda(driver=version),
        pytest.raises(RuntimeError, match=rf"conv2d: .*CUDA 13\.0.*{re.escape(text)}"),
    ):
        call()


@emulated
@pytest.mark.parametrize("version", [13000, 13010, 14000])
def test_a_driver_of_the_same_or_a_later_cuda_serves(version):
    with cuda_emulator.emulated_cuda(driver=version):
        torch.testing.assert_close(call(), torch.full((1, 4, 3, 3), 36.0))


@pytest.mark.rotates()
@pytest.mark.skipif(needs_cuda_build_and_gcc() is not None, reason=str(needs_cuda_build_and_gcc()))
@pytest.mark.parametrize("major_too_old", [True, False])
def test_info_names_both_versions(tmp_path, major_too_old):
    """The runtime of the build itself asks this driver for its version."""
    built = _loader.native().build_info()["cuda_version"]
    major = int(built.split(".")[0]) - major_too_old
    source, driver = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER.replace("VERSION", str(1000 * major + 70)))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", driver, source], check=True)
    paths = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "denoise_ext.cli", "info", "--json"],
        env=os.environ | paths, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cuda = json.loads(done.stdout)["cuda"]
    assert cuda["driver_version"] == f"{major}.7"
    assert not cuda["usable"]
    both_named = built in cuda["error"] and f"{major}.7" in cuda["error"]
    assert both_named == major_too_old, cuda["error"]
