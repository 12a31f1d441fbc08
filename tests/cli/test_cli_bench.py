"""The command line: bench."""

from __future__ import annotations

import json
import sys

import pytest
from command_line import HAVE_NATIVE, run

from denoise_ext import _timing
from denoise_ext.cli import bench

needs_native = pytest.mark.skipif(not HAVE_NATIVE, reason="measures the native library")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "QUICK", (16, 0.0))
    monkeypatch.setattr(_timing, "SHORTEST_TURN", 1e-5)
    monkeypatch.setattr(_timing, "PAUSE", 0.0)


@needs_native
def test_bench_prints_a_table_and_writes_json(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "bench", "--quick", "--json", "figures.json")
    assert (code, err) == (0, "")
    for part in (
        "64->64",
        "dncnn_gray",
        "Gaussian",
        "bilateral",
        "torch channels_last",
        "x as fast",
    ):
        assert part in out
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["image"] == [16, 16]
    for case in document["cases"]:
        assert case["seconds"]["denoise_ext"]["median"] > 0 and len(case["seconds"]) >= 2
    code, _, err = run(capsys, "bench", "filters", "--quick", "--json", "figures.json")
    assert code == 2 and "figures.json" in err and "exists" in err


@needs_native
def test_bench_without_opencv(tiny, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, out, _ = run(capsys, "bench", "filters", "--quick")
    assert code == 0
    assert "plain torch operations" in out and "OpenCV" not in out


@needs_native
def test_bench_takes_the_threads_asked_for(tiny, capsys):
    import torch

    before = torch.get_num_threads()
    try:
        code, out, _ = run(capsys, "bench", "filters", "--quick", "--threads", "1")
        assert code == 0 and "1 threads" in out
    finally:
        torch.set_num_threads(before)
    assert run(capsys, "bench", "--threads", "0")[0] == 2


@needs_native
def test_bench_times_only_what_computes_the_same():
    import torch

    from denoise_ext.cli._bench_cases import BenchCase

    x = torch.rand(4)
    BenchCase("right", {"denoise_ext": lambda: x, "other": lambda: x + 1e-5}, 1e-3).check()
    with pytest.raises(RuntimeError, match="wrong: other computes something else"):
        BenchCase("wrong", {"denoise_ext": lambda: x, "other": lambda: x + 0.1}, 1e-3).check()


def test_bench_says_when_there_is_nothing_to_measure(monkeypatch, capsys):
    import denoise_ext

    facts = {"native": {"loaded": False, "error": "the library is not built"}}
    monkeypatch.setattr(denoise_ext, "info", lambda: facts, raising=False)
    code, _, err = run(capsys, "bench")
    assert code == 2 and "the library is not built" in err
