"""`Denoiser` in other processes and under asyncio; what the library logs."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from denoise_ext._loader import native_error
from denoise_ext.models import create_model
from denoise_ext.tasks import Denoiser

PAGE = Path(__file__).resolve().parents[2] / "docs/inference.md"
pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

GRAY = np.random.default_rng(1).integers(0, 256, (40, 44), dtype=np.uint8)


@pytest.fixture(scope="module")
def used() -> Denoiser:
    """One that has been used, so that it holds a plan."""
    torch.manual_seed(0)
    network = create_model("ffdnet_gray", width=8, depth=3, predicts="noise").eval()
    denoiser = Denoiser(network, sigma=20, strength=0.75, tile=32, precision="strict")
    denoiser(GRAY)
    return denoiser


class Cleaned(Dataset):
    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.denoiser(np.roll(GRAY, index, 0)))


def rolled(denoiser: Denoiser) -> list[np.ndarray]:
    return [denoiser(np.roll(GRAY, i, 0)) for i in range(4)]


@pytest.mark.rotates(turn=0)
@pytest.mark.slow
def test_process_pool(used):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results = list(pool.map(used, [np.roll(GRAY, i, 0) for i in range(4)]))
    np.testing.assert_array_equal(results, rolled(used))


@pytest.mark.slow
@pytest.mark.rotates()
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(used, start):
    loader = DataLoader(
        Cleaned(used), batch_size=2, num_workers=2, multiprocessing_context=start, timeout=120
    )
    results = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(results, rolled(used))


@pytest.mark.rotates(turn=2)
@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_example_of_the_docs(tmp_path):
    section = PAGE.read_text().split("## Other processes")[1]
    program = re.search(r"```python\n(.*?)```", section, re.S)[1]
    (tmp_path / "program.py").write_text(program)
    Image.fromarray(GRAY).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == ["0 (40, 44)", "1 (40, 44)"], done.stderr


def test_the_event_loop_goes_on_during_a_call(used):
    """A call waits for what only the loop can do: it would hang if it held up the loop."""
    turned = threading.Event()

    class Waits(torch.nn.Module):
        def forward(self, x):
            assert x.is_meta or turned.wait(60)  # without data: the analysis
            return x

    waiting = Denoiser(Waits().eval(), channels=1, backend="torch", tile=None)

    async def both() -> np.ndarray:
        call = asyncio.create_task(asyncio.to_thread(waiting, GRAY))
        await asyncio.sleep(0)
        turned.set()
        return await call

    np.testing.assert_array_equal(asyncio.run(both()), GRAY)


# --- logging ---


def test_logging_has_one_name_and_is_silent(used, caplog, capfd):
    root = logging.getLogger("denoise_ext")
    assert any(isinstance(handler, logging.NullHandler) for handler in root.handlers)
    with caplog.at_level(logging.DEBUG, "denoise_ext"):
        Denoiser("dxnet_s", sigma=5, backend="torch")(GRAY)
    names = {record.name for record in caplog.records}
    assert names == {"denoise_ext.tasks"}
    levels = [(r.levelno, r.getMessage()) for r in caplog.records]
    assert any(level == logging.INFO and "dxnet_s_gray" in text for level, text in levels)
    assert any(level == logging.DEBUG and "(1, 1, 40, 44)" in text for level, text in levels)
    caplog.clear()
    used(GRAY)
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_no_print_in_the_library():
    package = Path(__file__).resolve().parents[2] / "denoise_ext"
    found = [
        f"{path.relative_to(package)}:{number}"
        for path in sorted(package.rglob("*.py")) if path.parent.name != "cli"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r" {4,}print\(", line)
    ]  # fmt: skip
    assert [place for place in found if not place.startswith("jobs/ray.py")] == []
