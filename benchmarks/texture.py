"""Fine detail of results: the least squared error, adversarial training, samples, a code.

    python benchmarks/texture.py --output benchmarks/results      # CBSD68 and BSD68: texture.md
    python benchmarks/texture.py --every 8 --texture runs/dxnet_s_texture/model.safetensors
    python benchmarks/texture.py --sets BSD68 --vae runs/dxnet_vae/model.safetensors --output out

Sets that are not measured keep their rows in OUT.

Noise is white, of a known level, not clipped (NumPy, seed 0 anew for every image); results are
clipped.  Distance: `metrics.patch_wasserstein`.  Energy: `metrics.high_frequency_energy`.  Spread:
standard deviation of 4 samples over the root mean square error of the best estimate, on the middle
of the image; 1 is right.  Posterior samples take 40 steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.io import read_image
from denoise_ext.metrics import high_frequency_energy, lpips, patch_wasserstein, psnr
from denoise_ext.models import Network, create_model, interpolate, load_checkpoint
from denoise_ext.models.dxnet_vae import DXNetVAE
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.network_run import NetworkRun
from denoise_ext.tasks.uncertainty import sample

HERE = Path(__file__).resolve().parent
LEVELS = (15.0, 25.0, 50.0)
SHARES = (0.25, 0.5, 0.75, 1.0)
PART = 192  # side of the middle of an image, of which samples are drawn
DRAWS, STEPS = 4, 40
HEADER = (
    "| set, method | sigma | images | PSNR | distance | distance, % of the best estimate's | energy"
    " | spread | LPIPS |\n|---|---|---|---|---|---|---|---|---|\n"
)

Draw = Callable[[Tensor, float, int], Tensor]
"""Noisy image, level, seed, to a result."""


def planned(network: Network, channels: int) -> NetworkRun:
    options = RunOptions("cpu")
    return NetworkRun(Session(network.eval(), "default", True), channels, options)


def of(run: NetworkRun) -> Draw:
    return lambda y, sigma, seed: run(y, sigma)


def drawn_from(run: NetworkRun) -> Draw:
    return lambda y, sigma, seed: sample(run, y, sigma, STEPS, seed)


def coded(network: DXNetVAE) -> Draw:
    def draw(y: Tensor, sigma: float, seed: int) -> Tensor:
        return network.sample(y, sigma, torch.Generator().manual_seed(seed))

    return draw


def methods(gray: bool, args: argparse.Namespace) -> dict[str, tuple[Draw, bool]]:
    """What is measured on a set, the best estimate first; whether its results are random."""
    channels = 1 if gray else 3
    name = "dxnet_s_gray" if gray else "dxnet_s_color"
    plain = create_model(name, pretrained=True)
    best = planned(plain, channels)
    found: dict[str, tuple[Draw, bool]] = {name: (of(best), False)}
    if not gray and (textured := opened(args.texture, "dxnet_s_texture")):
        for share in args.shares:
            between = planned(interpolate(plain, textured, share), channels)
            found[f"texture {share:g}"] = of(between), False
    if not args.without_samples:
        found["posterior sample"] = drawn_from(best), True
    if gray and (coder := opened(args.vae, "dxnet_vae")):
        assert isinstance(coder, DXNetVAE)
        found["dxnet_vae, code 0"] = of(planned(coder, channels)), False
        found["dxnet_vae, sample"] = coded(coder), True
    return found


def opened(file: str | None, name: str) -> Network | None:
    """The network of a file, or the shipped one; None where there is neither."""
    if file is not None:
        return load_checkpoint(file)
    try:
        return create_model(name, pretrained=True)
    except ValueError:
        return None


def images(folder: Path, every: int, middle: bool) -> list[Tensor]:
    """Clean images (1, C, H, W) in [0, 1]."""
    found = []
    for file in sorted(folder.glob("*.png"))[::every]:
        pixels = read_image(file) / 255.0
        if middle:
            top, left = ((n - PART) // 2 for n in pixels.shape[:2])
            pixels = pixels[top : top + PART, left : left + PART]
        x = torch.from_numpy(np.atleast_3d(pixels)).float()
        found.append(x.permute(2, 0, 1)[None].contiguous())
    return found


def noisy(clean: Tensor, sigma: float) -> Tensor:
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return (clean + torch.from_numpy(noise)).float()


def measure(draw: Draw, random: bool, clean: list[Tensor], sigma: float) -> dict[str, float]:
    """Mean figures over images."""
    rows = []
    for x in clean:
        y = noisy(x, sigma)
        made = draw(y, sigma, 0).clamp(0, 1)
        row = {
            "psnr": psnr(made, x).item(),
            "distance": patch_wasserstein(made, x).item(),
            "energy": high_frequency_energy(made, x).item(),
        }
        if random:
            others = torch.cat([made, *(draw(y, sigma, i).clamp(0, 1) for i in range(1, DRAWS))])
            row["deviation"] = others.var(dim=0).mean().item()
        if importlib.util.find_spec("lpips"):
            row["lpips"] = lpips(made, x).item()
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def table(figures: dict[str, dict]) -> str:
    """Rows of every set, level and method; the first method of a set is its best estimate."""
    text = HEADER
    for name, methods_found in figures.items():
        best = next(iter(methods_found.values()))
        for method, levels in methods_found.items():
            for sigma, found in levels.items():
                text += line(f"{name}, {method}", sigma, found, best[sigma])
    return text


def line(where: str, sigma: str, found: dict[str, float], best: dict[str, float]) -> str:
    error = 10 ** (-best["psnr"] / 20)
    spread = f"{found['deviation'] ** 0.5 / error:.2f}" if "deviation" in found else ""
    share = f"{100 * found['distance'] / best['distance']:.0f}"
    perceived = f"{found['lpips']:.3f}" if "lpips" in found else ""
    return (
        f"| {where} | {sigma} | {found['images']:g} | {found['psnr']:.2f} | {found['distance']:.3f}"
        f" | {share} | {found['energy']:.2f} | {spread} | {perceived} |\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["CBSD68", "BSD68"], metavar="SET")
    parser.add_argument("--sigmas", nargs="+", type=float, default=list(LEVELS))
    parser.add_argument("--every", type=int, default=4, metavar="N", help="every Nth image")
    parser.add_argument("--texture", metavar="FILE", help="a checkpoint in place of the shipped")
    parser.add_argument("--vae", metavar="FILE", help="a checkpoint in place of the shipped")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--without-samples", action="store_true")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where texture.md goes")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data")) / "test"
    if missing := [name for name in args.sets if not (data / name).is_dir()]:
        print(f"skipped: needs test/{', test/'.join(missing)} in DENOISE_EXT_DATA ({data.parent})")
        return 0
    known = args.output / "texture.json" if args.output else None
    figures = json.loads(known.read_text()) if known and known.is_file() else {}
    for name in args.sets:
        clean = images(data / name, args.every, middle=True)
        figures[name] = {}
        for method, (draw, random) in methods(clean[0].shape[1] == 1, args).items():
            levels = figures[name][method] = {}
            for sigma in args.sigmas:
                levels[f"{sigma:g}"] = {"images": len(clean)} | measure(draw, random, clean, sigma)
                best = next(iter(figures[name].values()))[f"{sigma:g}"]
                row = line(f"{name}, {method}", f"{sigma:g}", levels[f"{sigma:g}"], best)
                print(row, end="", flush=True)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        about = f"The middle {PART} x {PART} pixels of images at equal distances in each set."
        text = f"# Fine detail\n\n{about}\n\n{table(figures)}"
        (args.output / "texture.md").write_text(text)
        (args.output / "texture.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
