"""benchmarks/throughput.py: the contenders compute the same, and everything runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from denoise_ext._loader import native_error
from denoise_ext.models import load_checkpoint
from denoise_ext.nn import to_torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the source tree")


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_script_and_package_have_the_same_network(tmp_path):
    ours, plain = module(BENCHMARKS / "throughput.py").make_weights(tmp_path, 4, 8)
    state = torch.load(plain, weights_only=True)
    script = module(BENCHMARKS / "baselines" / "torch_folder.py").DnCNN(3, 8, 4).eval()
    script.load_state_dict(state)
    package, script = to_torch(load_checkpoint(ours)).double().eval(), script.double()
    x = torch.rand(1, 3, 21, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        for network in (package, script):  # whose last layers were made small
            [*_, last] = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
            last.weight.mul_(1e3)
        expected = script(x)
        assert (expected - x).abs().max() > 0.01
        torch.testing.assert_close(package(x), expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.rotates(turn=5, turns=8)
@pytest.mark.skipif(native_error() is not None, reason="needs the native library")
def test_dry_run(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, BENCHMARKS / "throughput.py", "--dry-run", "--no-ray",
               "--formats", "png", "--output", tmp_path]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "throughput.json").read_text())
    assert set(report["results"]) == {"png"}
    assert "PyTorch script" in report["results"]["png"]
    assert (tmp_path / "throughput.png").stat().st_size > 1000
