"""What speed costs in quality: PSNR of a trained DnCNN, accelerated and plain."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from denoise_ext import io, models
from denoise_ext import nn as dn
from denoise_ext.tasks import Protocol, evaluate_image
from harness.cases import OURS, Absent
from on_cpu.competitors import FAST
from on_cpu.network_cases import accelerated

SIGMA = 25.0  # of 255
PLAIN = "torch"
MOST_CHANGE = 0.001  # dB on any image, of our default precision
WEIGHTS, IMAGES = "published_weights/dncnn_25.pth", "test/Set12"


def data_file(name: str) -> Path:
    """Below $DENOISE_EXT_DATA or, where that is not set, ``../shared/data``; or Absent."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("DENOISE_EXT_DATA", beside)) / name
    if not path.exists():
        raise Absent(f"there is no {name} below $DENOISE_EXT_DATA")
    return path


def trained(tiny: bool) -> tuple[nn.Module, list[np.ndarray]]:
    """(the published DnCNN for this noise in plain torch.nn, clean images (H, W) uint8)."""
    if tiny:
        model = models.create_model("dncnn_gray", depth=3)
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (16, 16), dtype=np.uint8) for _ in range(2)]
        return dn.to_torch(model).eval(), images
    model = dn.to_torch(models.load_checkpoint(data_file(WEIGHTS)))
    return model, [io.read_image(file) for file in sorted(data_file(IMAGES).glob("*.png"))]


def psnr(network: Callable[[Tensor], Tensor], images: list[np.ndarray]) -> Tensor:
    """In dB, of every image; each has noise of its own seed."""

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        return network(noisy).float()

    protocols = (Protocol(seed, round_output=False) for seed in range(len(images)))
    scores = map(partial(evaluate_image, denoise), images, repeat(SIGMA), protocols)
    return torch.tensor([one.psnr for one in scores], dtype=torch.float64)


def quality(tiny: bool) -> dict[str, object]:
    """One record, as of a case: PSNR in dB and its largest change on any image."""
    record: dict[str, object] = {"case": f"DnCNN-17 on Set12, sigma {SIGMA:g}", "targets": []}
    try:
        model, images = trained(tiny)
    except Absent as reason:
        return record | {"status": "skipped", "note": str(reason), "contenders": {}}
    # Plans are verified on the example: it must look like an image.
    example = torch.from_numpy(images[0])[None, None].float() / 255
    ways: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        PLAIN: lambda: model,
        OURS: partial(accelerated, model, example),
        FAST: partial(accelerated, model, example, precision="fast"),
        f"{OURS} bfloat16": partial(accelerated, model, example, dtype=torch.bfloat16),
    }
    contenders: dict[str, dict] = {}
    expected: Tensor | None = None
    for name, make in ways.items():
        found = psnr(make(), images)
        expected = found if expected is None else expected
        change = float((found - expected).abs().max())
        contenders[name] = {"psnr": float(found.mean()), "largest_change": change}
    contenders[OURS]["allowed"] = MOST_CHANGE
    return record | {"status": "dry" if tiny else "measured", "contenders": contenders}
