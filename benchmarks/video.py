"""Video denoisers on clips: `python benchmarks/video.py`.

PSNR, SSIM and flicker of luma with white Gaussian noise, the mean over clips. Networks get the
noise as it is, filters get it rounded and clipped to 8 bits. Results are clipped. `settled` is the
PSNR from the ninth frame on. Clips for the figures lie in video/clips/test of $DENOISE_EXT_DATA.
The parameters of filters are those with the best PSNR on video/clips/train, for each noise level.

Rows: the recurrent network of --weights, the same with a fresh state for every frame, networks on
single frames, and FFmpeg's filters. `--times ROUNDS` measures seconds per megapixel, interleaved,
on a quiet machine. Results go to `results/video.json` and `.md`, with the hash of the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.clips import SUFFIXES
from denoise_ext.io import write_atomically
from denoise_ext.io.digest import file_sha256
from denoise_ext.io.video import read_video
from denoise_ext.metrics import flicker, psnr, ssim
from denoise_ext.models import list_models, pretrained_info
from denoise_ext.tasks import Denoiser, VideoDenoiser
from harness.provenance import commit
from video_filters import FILTERS, Filter, run_filter, where

HERE = Path(__file__).resolve().parent
STILL = ("ffdnet_gray_small", "dxnet_s_gray")  # networks on single frames
SETTLED = 8
TUNING_FRAMES, TUNING_SIDE = 12, 192  # the middle of each training clip
TIMED = (12, 480, 848)  # frames, rows, columns of the film that is timed
FIGURES = ("psnr", "settled", "ssim", "flicker")
SEED = 17

# noisy (T, 1, H, W) float32, sigma on the 0-255 scale -> denoised
Run = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    run: Run
    identity: str
    """Weights or parameters."""


def luma_of(path: Path, frames: int) -> Tensor:
    """(T, 1, H, W) float32 in [0, 1]: the first frames of a clip."""
    made = []
    with read_video(path) as video:
        for frame in video:
            black, span = frame.colour.black_and_span
            made.append((frame.planes[0].astype(np.float32) - black) / span)
            if len(made) == frames:
                break
    return torch.from_numpy(np.stack(made))[:, None].clamp(0, 1)


def clips(folder: Path, frames: int) -> dict[str, Tensor]:
    """Every clip of a folder by its name."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder} holds no clip")
    return {file.stem: luma_of(file, frames) for file in files}


def middle(clip: Tensor) -> Tensor:
    """The part of a training clip that filters are tuned on."""
    first = (len(clip) - min(len(clip), TUNING_FRAMES)) // 2
    y, x = ((side - min(side, TUNING_SIDE)) // 2 for side in clip.shape[2:])
    return clip[first : first + TUNING_FRAMES, :, y : y + TUNING_SIDE, x : x + TUNING_SIDE]


def noisy(clip: Tensor, sigma: float, place: int) -> Tensor:
    """White Gaussian noise, the same for every method."""
    generator = torch.Generator().manual_seed(SEED * 1000 + place)
    return clip + sigma / 255.0 * torch.randn(clip.shape, generator=generator)


def filtered(setting: Callable[[float], str]) -> Run:
    def run(frames: Tensor, sigma: float) -> Tensor:
        bits = (frames[:, 0].clamp(0, 1) * 255.0).round().byte().numpy()
        return torch.from_numpy(run_filter(bits, setting(sigma))).float()[:, None] / 255.0

    return run


def tuned(wanted: Filter, training: Sequence[Tensor], sigmas: Sequence[float]) -> Method:
    """A filter with its best setting for each noise level."""
    best = {}
    for sigma in sigmas:
        tried = {}
        for setting in wanted.settings(sigma):
            run = filtered(lambda _, setting=setting: setting)
            cut = [(middle(clip), place) for place, clip in enumerate(training)]
            scores = [psnr(run(noisy(c, sigma, i), sigma), c).mean().item() for c, i in cut]
            tried[setting] = statistics.mean(scores)
        best[sigma] = max(tried, key=tried.__getitem__)
        print(f"{wanted.name}, sigma {sigma:g}: {best[sigma]}", file=sys.stderr)
    identity = f"{where(wanted.name)}: " + "; ".join(best.values())
    return Method(wanted.name, filtered(best.__getitem__), identity)


def recurrent(model: str, name: str, afresh: bool = False) -> Method:
    """A recurrent network; ``afresh``: with a new state for every frame."""

    def run(frames: Tensor, sigma: float) -> Tensor:
        denoiser, made = VideoDenoiser(model, sigma=sigma), []
        for frame in frames:
            made.append(denoiser.push(frame, value_range=(0, 1)))
            if afresh:
                made += denoiser.flush()
        made += denoiser.flush()
        return torch.stack([result for result in made if result is not None])

    return Method(name, run, identity_of(model))


def still(model: str) -> Method:
    """A network on single frames."""
    denoiser = Denoiser(model)

    def run(frames: Tensor, sigma: float) -> Tensor:
        return torch.stack([denoiser(frame, sigma=sigma) for frame in frames])

    return Method(f"{model}, frame by frame", run, identity_of(model))


def identity_of(model: str) -> str:
    """The hash of weights."""
    shipped = pretrained_info(model) if model in list_models(pretrained=True) else None
    return f"sha256 {(shipped.sha256 if shipped else file_sha256(model))[:16]}"


def methods(args: argparse.Namespace, data: Path) -> Iterator[Method]:
    for model in args.weights:
        name = Path(model).stem
        yield recurrent(model, name)
        yield recurrent(model, f"{name}, each frame anew", afresh=True)
    for model in args.still:
        yield still(model)
    wanted = [entry for entry in FILTERS if entry.name in args.filters]
    training = list(clips(data / "train", 10**6).values()) if wanted else []
    for entry in wanted:
        if where(entry.name):
            yield tuned(entry, training, args.sigma)
        else:
            print(f"left out: neither ffmpeg nor PyAV has {entry.name} here", file=sys.stderr)


def figures(made: Tensor, clean: Tensor) -> dict[str, float]:
    made = made.clamp(0, 1)
    each = psnr(made, clean)
    return {
        "psnr": each.mean().item(),
        "settled": each[SETTLED:].mean().item() if len(each) > SETTLED else math.nan,
        "ssim": ssim(made, clean).mean().item(),
        "flicker": flicker(made, clean),
    }


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Over the clips that have the figure."""
    result = {}
    for name in FIGURES:
        known = [row[name] for row in rows if not math.isnan(row[name])]
        result[name] = statistics.mean(known) if known else math.nan
    return result


def times(found: Sequence[Method], sigma: float, rounds: int) -> dict[str, float]:
    """Seconds per megapixel: the median over rounds in which every method has its turn."""
    count, height, width = TIMED
    generator = torch.Generator().manual_seed(SEED)
    small = torch.rand(count, 1, height // 8, width // 8, generator=generator)
    film = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    film = noisy(film.clamp(0, 1), sigma, 0)
    taken: dict[str, list[float]] = {method.name: [] for method in found}
    for turn in range(rounds + 1):  # the first one warms up
        for method in found:
            start = time.perf_counter()
            method.run(film, sigma)
            if turn:
                taken[method.name].append(time.perf_counter() - start)
    return {name: statistics.median(t) / (film.numel() / 1e6) for name, t in taken.items()}


def table(results: dict) -> str:
    """Markdown."""
    lines = ["# Video", "", f"{len(results['clips'])} clips, at most {results['frames']} frames."]
    lines += ["PSNR in dB, flicker in levels (less is better).", ""]
    timed = "seconds_per_megapixel" in results
    for sigma, rows in results["figures"].items():
        heads = ["method", "PSNR", "from frame 8 on", "SSIM", "flicker", "worst clip"]
        heads += ["s/MP"] if timed else []
        lines += [f"## sigma {sigma}", "", "| " + " | ".join(heads) + " |"]
        lines += ["|" + "---|" * len(heads)]
        for name, row in rows.items():
            mean, clips_ = row["mean"], row["clips"]
            worst = min(clips_, key=lambda c: clips_[c]["psnr"])
            cells = [name, f"{mean['psnr']:.2f}", f"{mean['settled']:.2f}", f"{mean['ssim']:.4f}"]
            cells += [f"{mean['flicker']:.2f}", f"{clips_[worst]['psnr']:.2f} ({worst})"]
            cells += [f"{results['seconds_per_megapixel'][name]:.3f}"] if timed else []
            lines += ["| " + " | ".join(cells) + " |"]
        lines += [""]
    lines += ["## What was run", ""]
    lines += [f"- {name}: {text}" for name, text in results["methods"].items()]
    return "\n".join([*lines, f"- commit {results['commit']}"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", action="append", default=[], metavar="FILE|NAME",
                        help="a recurrent network for gray video; repeatable")  # fmt: skip
    parser.add_argument("--still", nargs="*", default=STILL, metavar="NAME",
                        help="networks on single frames")  # fmt: skip
    names = [entry.name for entry in FILTERS]
    parser.add_argument("--filters", nargs="*", default=names, choices=names)
    parser.add_argument("--sigma", nargs="+", type=float, default=[20.0, 40.0])
    parser.add_argument("--frames", type=int, default=40, help="of each clip at most")
    parser.add_argument("--times", type=int, default=0, metavar="ROUNDS",
                        help="measure seconds per megapixel, on a quiet machine")  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", "../shared/data")) / "video/clips"
    test = clips(data / "test", args.frames)
    found = list(methods(args, data))
    results: dict = {"commit": commit(), "clips": sorted(test), "frames": args.frames}
    results["methods"] = {method.name: method.identity for method in found}
    results["figures"] = {}
    for sigma in args.sigma:
        rows = results["figures"][f"{sigma:g}"] = {}
        for method in found:
            each = {}
            for place, (name, clean) in enumerate(test.items()):
                each[name] = figures(method.run(noisy(clean, sigma, place), sigma), clean)
            rows[method.name] = {"mean": means(list(each.values())), "clips": each}
            print(f"sigma {sigma:g}, {method.name}: {rows[method.name]['mean']}", file=sys.stderr)
    if args.times:
        results["seconds_per_megapixel"] = times(found, args.sigma[0], args.times)
    args.output.mkdir(parents=True, exist_ok=True)
    document = json.dumps(without_nan(results), indent=1) + "\n"
    write_atomically(args.output / "video.json", document.encode(), overwrite=True)
    write_atomically(args.output / "video.md", table(results).encode(), overwrite=True)
    return 0


def without_nan(value: object) -> object:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
