"""PSNR and SSIM of a method on a test set, and interleaved timing of all methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from denoise_ext._timing import compare
from denoise_ext.data import add_gaussian_noise
from denoise_ext.io import read_image
from denoise_ext.tasks import Protocol, evaluate_image, to_unit
from quality.methods import NOTHING, Method
from quality.test_sets import TestSet

SIDE = 512  # pixels of the image that is timed
SECONDS = 5.0  # of timing, for each method


def measured_sigmas(method: Method, sigmas: Sequence[float]) -> list[float]:
    """The noise levels at which a method is measured."""
    return [s for s in sigmas if method.only_sigma in (None, s)]


def figures(
    method: Method,
    images: TestSet,
    sigmas: Sequence[float],
    protocol: Protocol,
    tick: Callable[[], object],
) -> list[dict[str, float]]:
    """sigma, psnr (dB) and ssim, means over the images; `tick` is called after each image."""
    found = []
    for sigma in measured_sigmas(method, sigmas):
        total = dict.fromkeys(("psnr", "ssim"), 0.0)
        for pixels in images.images:
            scores = evaluate_image(method.call, pixels, sigma, protocol)
            total = {name: value + getattr(scores, name) for name, value in total.items()}
            tick()
        means = {name: value / len(images.images) for name, value in total.items()}
        found.append({"sigma": sigma, **means})
    return found


def photograph(channels: int, sigma: float) -> Tensor:
    """The middle of the bundled photograph with noise: (1, C, SIDE, SIDE), channels_last."""
    with resources.as_file(resources.files("denoise_ext") / "assets" / "kodim21.png") as path:
        pixels = torch.from_numpy(read_image(path))  # (H, W, 3)
    top, left = ((size - SIDE) // 2 for size in pixels.shape[:2])
    image = to_unit(pixels[top : top + SIDE, left : left + SIDE].permute(2, 0, 1)[None])
    image = image if channels == 3 else image.mean(dim=1, keepdim=True)
    noisy = add_gaussian_noise(image, sigma, torch.Generator().manual_seed(0))
    return noisy.contiguous(memory_format=torch.channels_last)


def times(
    methods: Sequence[Method], sigma: float, seconds: float
) -> tuple[dict[str, dict[str, Any]], float | None]:
    """Interleaved seconds per megapixel on one image: median, 10th and 90th percentile.

    Args:
        methods: for images of one channel count.
        sigma: noise level of the image; the methods get it too.
        seconds: for each method.

    Returns:
        Name -> {"median", "low", "high", "rounds"}; cores that other processes kept busy, None
        where the system does not count them.
    """
    timed = [method for method in methods if method.kind != NOTHING]
    if not timed:
        return {}, 0.0
    noisy = photograph(timed[0].channels, sigma)
    # A filter has parameters for the levels of the table, a network takes any.
    calls = {m.name: partial(m.call, noisy, sigma) for m in timed}
    with torch.inference_mode():
        comparison = compare(calls, seconds * len(calls))
    megapixels = SIDE * SIDE / 1e6
    found = {}
    for name, timing in comparison.timings.items():
        facts = asdict(timing)
        found[name] = {key: facts[key] / megapixels for key in ("median", "low", "high")}
        found[name]["rounds"] = facts["rounds"]
    return found, comparison.other_load
