"""What speed costs in quality: PSNR of a trained DnCNN, accelerated and plain."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from denoise_ext import io, metrics, models
from denoise_ext import nn as dn
from denoise_ext.data.noise import add_gaussian_noise
from on_cpu.cases import FAST, OURS, Absent, uniform
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


def trained(tiny: bool) -> tuple[nn.Module, list[Tensor]]:
    """(the published DnCNN for this noise in plain torch.nn, clean images (1, 1, H, W))."""
    if tiny:
        model = models.create_model("dncnn_gray", depth=3)
        return dn.to_torch(model).eval(), [uniform(1, 1, 16, 16, seed=i) for i in range(2)]
    model = dn.to_torch(models.load_checkpoint(data_file(WEIGHTS)))
    files = sorted(data_file(IMAGES).glob("*.png"))
    images = [torch.from_numpy(io.read_image(file)) for file in files]
    return model, [image[None, None].float() / 255 for image in images]


def quality(tiny: bool) -> dict[str, object]:
    """One record, as of a case: PSNR in dB and its largest change on any image."""
    record: dict[str, object] = {"case": f"DnCNN-17 on Set12, sigma {SIGMA:g}", "targets": []}
    try:
        model, images = trained(tiny)
    except Absent as reason:
        return record | {"status": "skipped", "note": str(reason), "contenders": {}}
    noisy = [
        add_gaussian_noise(image, SIGMA, torch.Generator().manual_seed(number))
        for number, image in enumerate(images)
    ]
    ways: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        PLAIN: lambda: model,
        OURS: partial(accelerated, model, noisy[0]),
        FAST: partial(accelerated, model, noisy[0], precision="fast"),
        f"{OURS} bfloat16": partial(accelerated, model, noisy[0], dtype=torch.bfloat16),
    }
    said: dict[str, dict] = {}
    expected: Tensor | None = None
    for name, make in ways.items():
        denoise = make()
        scores = [
            metrics.psnr(denoise(x).float().clamp(0, 1), clean)
            for x, clean in zip(noisy, images, strict=True)
        ]
        psnr = torch.cat(scores)
        expected = psnr if expected is None else expected
        change = float((psnr - expected).abs().max())
        said[name] = {"psnr": float(psnr.mean()), "largest_change": change}
    said[OURS]["allowed"] = MOST_CHANGE
    return record | {"status": "dry" if tiny else "measured", "contenders": said}
