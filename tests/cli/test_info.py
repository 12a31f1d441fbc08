"""denoise_ext.info(): the facts, and the reasons where something is off."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

import denoise_ext
from denoise_ext import _info, _loader
from denoise_ext.cli import main
from denoise_ext.cli.info import format_info

needs_native = pytest.mark.skipif(
    _loader.native_error() is not None, reason=f"native library: {_loader.native_error()}"
)


def test_it_is_a_function_every_time():
    assert callable(denoise_ext.info)
    denoise_ext.info()
    assert callable(denoise_ext.info)  # a module of that name would have taken its place


def test_facts_are_those_of_this_process():
    facts = denoise_ext.info()
    assert facts["versions"]["denoise_ext"] == denoise_ext.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["cpu"]["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(facts)) == facts


@needs_native
def test_native_facts(monkeypatch):
    facts = denoise_ext.info()
    cpu, native = facts["cpu"], facts["native"]
    assert native["loaded"] and native["error"] is None and native["compiler"]
    assert cpu["isa_in_use"] in cpu["isa_available"]
    assert "baseline" in cpu["isa_available"]
    before = _loader.native().isa_in_use()
    try:
        _loader.native().force_isa("baseline")
        assert denoise_ext.info()["cpu"]["isa_in_use"] == "baseline"
    finally:
        _loader.native().force_isa(before)
    assert facts["cuda"]["usable"] == (facts["cuda"]["error"] is None)
    assert "cpu" in facts["operators"]["conv2d"]


def test_command(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for fact in (denoise_ext.__version__, torch.__version__, "native library", "GPU usable"):
        assert fact in out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(denoise_ext.info()))


def test_missing_native_library_is_explained(monkeypatch):
    reason = "the compiled library denoise_ext._native is not there"
    monkeypatch.setattr(_info, "native_error", lambda: reason)
    monkeypatch.setattr(_info, "kernel_devices", lambda name: frozenset())
    monkeypatch.setattr(_info, "native", lambda: pytest.fail("must not be asked for"))
    facts = denoise_ext.info()
    assert facts["native"] == dict.fromkeys(facts["native"]) | {"loaded": False, "error": reason}
    assert facts["cpu"]["isa_in_use"] is None
    assert not facts["cuda"]["usable"] and facts["cuda"]["error"]
    text = format_info(facts)
    assert f"NOT LOADED: {reason}" in text
    assert "reference" in text


@needs_native
def test_wrong_isa_is_explained():
    script = "import json, denoise_ext; print(json.dumps(denoise_ext.info()['cpu']))"
    environment = os.environ | {"DENOISE_EXT_CPU_ISA": "mmx", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    cpu = json.loads(done.stdout)
    assert cpu["isa_in_use"] is None
    assert cpu["isa_forced_by"] == "mmx"
    assert "'mmx'" in cpu["error"] and "baseline" in cpu["error"]


class _Native:
    """A library with CUDA kernels and one GPU, as far as info() can see."""

    __file__ = "_native.so"

    def __init__(self, devices, error=None, cuda=True):
        self._cuda = cuda
        self._status = {"devices": devices, "error": error, "driver_version": "13.1"}

    def build_info(self):
        archs = "7.5 9.0+PTX" if self._cuda else None
        return {"compiler": "13", "torch_built_with": "2.13", "torch_minimum": "2.11",
                "cuda": self._cuda, "cuda_version": "13.0", "cuda_archs": archs}  # fmt: skip

    def cuda_status(self):
        return self._status

    def isa_available(self):
        return ["baseline"]

    def isa_in_use(self):
        return "baseline"


H200, PASCAL = {"name": "H200", "capability": "9.0"}, {"name": "GTX", "capability": "6.1"}


@pytest.mark.parametrize("native, kernels, torch_cuda, available, reason", [
    (_Native([H200]), {"cpu", "cuda"}, "13.0", True, None),
    (_Native([H200]), {"cpu"}, "13.0", True, "no operator has a CUDA kernel"),
    (_Native([H200]), {"cpu", "cuda"}, None, False, "built without CUDA"),
    (_Native([H200]), {"cpu", "cuda"}, "13.0", False, "cannot use the GPU"),
    (_Native([PASCAL]), {"cpu", "cuda"}, "13.0", True, "code for 7.5 9.0+PTX, the GPU is GTX"),
    (_Native([], "driver too old"), {"cpu", "cuda"}, "13.0", True, "driver too old"),
    (_Native([], "built without nvcc", cuda=False), {"cpu"}, "13.0", True, "without nvcc"),
])  # fmt: skip
def test_why_a_gpu_is_not_used(monkeypatch, native, kernels, torch_cuda, available, reason):
    monkeypatch.setattr(_info, "native_error", lambda: None)
    monkeypatch.setattr(_info, "native", lambda: native)
    monkeypatch.setattr(_info, "_has_driver", lambda: True)
    monkeypatch.setattr(_info, "kernel_devices", lambda name: frozenset(kernels))
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    cuda = denoise_ext.info()["cuda"]
    assert cuda["usable"] == (reason is None)
    assert reason is None or reason in cuda["error"]
    shown = format_info(denoise_ext.info())
    assert f"GPU usable {'yes' if reason is None else 'no'}" in " ".join(shown.split())
    assert "for CUDA 13.1" in shown


@pytest.mark.parametrize("cuda", [True, False])
def test_a_machine_without_a_driver(monkeypatch, cuda):
    """CUDA's own words for it, "driver version is insufficient", send people to update it."""
    monkeypatch.setattr(_info, "native_error", lambda: None)
    monkeypatch.setattr(_info, "native", lambda: _Native([], "CUDA driver is insufficient", cuda))
    monkeypatch.setattr(_info, "_has_driver", lambda: False)
    monkeypatch.setattr(_info, "kernel_devices", lambda name: frozenset({"cpu", "cuda"}))
    shown = format_info(denoise_ext.info())
    assert "no NVIDIA driver found" in shown
    assert ("insufficient" in shown) != cuda  # a build for the CPU alone has a reason of its own


def test_a_build_of_ptx_alone_is_named():
    cuda = {**denoise_ext.info()["cuda"], "in_build": True, "version": "13.0"}
    cuda |= {"architectures": "8.0-virtual", "architectures_of": "an editable build"}
    shown = " ".join(format_info({**denoise_ext.info(), "cuda": cuda}).split())
    assert "8.0-virtual (an editable build: PTX alone" in shown


@pytest.mark.parametrize("archs, capability, expected", [
    ("7.5 8.0 9.0+PTX", "9.0", True),
    ("7.5 8.0 9.0+PTX", "8.6", True),  # 8.0 code runs on every 8.x
    ("7.5 8.6", "8.0", False),
    ("7.5 8.0", "12.0", False),
    ("7.5;8.0+PTX", "12.0", True),
    ("8.0-virtual", "8.0", True),
    ("8.0-virtual", "12.0", True),
    ("8.0-virtual", "7.5", False),
    ("9.0a", "9.0", True),
    ("10.0a", "10.3", False),
    ("7.5", "7.0", False),
    ("", "9.0", False),
])  # fmt: skip
def test_which_gpu_runs_which_code(archs, capability, expected):
    assert _info.runs_on(archs, capability) == expected


def test_the_cache_is_named(monkeypatch, tmp_path, capsys):
    from denoise_ext import _cache

    monkeypatch.setenv("DENOISE_EXT_CACHE", str(tmp_path))
    _cache.write("a" * 64, [1, 2, 3])
    assert denoise_ext.info()["cache"]["entries"] == 1
    assert main(["info"]) == 0
    assert f"{tmp_path / 'decisions'}: 1 decisions" in capsys.readouterr().out
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")
    assert denoise_ext.info()["cache"] == {"folder": None, "entries": 0, "bytes": 0}
