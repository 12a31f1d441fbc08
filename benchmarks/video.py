"""Video denoisers on clips: `python benchmarks/video.py`.

PSNR, SSIM and flicker of luma with white Gaussian noise, the mean over clips. Networks get the
noise as it is, filters get it rounded and clipped to 8 bits. Results are clipped. `settled` is the
PSNR from the ninth frame on. Clips for the figures lie in video/clips/test of $DENOISE_EXT_DATA.
The parameters of filters are those with the best PSNR on video/clips/train, for each noise level.

Rows: the recurrent network of --weights as for a film in a file, with a lead-in; the same as for a
live film, without one, and with a fresh state for every frame; networks on single frames; FFmpeg's
filters. `worst gain` is over the network on single frames that is made
for the noise, in the clip where it is least. `--times ROUNDS` measures seconds per megapixel,
interleaved, on a quiet machine. Results go to `results/video.json` and `.md`, with the hash of the
weights.

`--color` measures RGB together, with white noise and also with the noise of cameras
(`video_noise.py`), whose level is not given. It has no filters. Results go to
`video_color.*`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.clips import SUFFIXES
from denoise_ext.io import write_atomically
from denoise_ext.io.digest import file_sha256
from denoise_ext.io.video import VideoFrame, read_video
from denoise_ext.metrics import flicker, psnr, ssim
from denoise_ext.models import list_models, pretrained_info
from denoise_ext.tasks import Denoiser, VideoDenoiser
from denoise_ext.tasks.video_denoiser import LEAD_IN
from harness.provenance import commit
from video_filters import FILTERS, Filter, run_filter, where
from video_noise import SEED, Noise, cameras, noisy, white

HERE = Path(__file__).resolve().parent
# Networks on single frames, by channels; the last one is compared with where noise is white.
STILL = {1: ("ffdnet_gray_small", "dxnet_s_gray"), 3: ("dxnet_s_photo", "dxnet_s_color")}
PHOTO = "dxnet_s_photo"  # compared with on the noise of cameras
SETTLED = 8
TUNING_FRAMES, TUNING_SIDE = 12, 192  # the middle of each training clip
TIMED = (12, 480, 848)  # frames, rows, columns of the film that is timed
FIGURES = ("psnr", "settled", "ssim", "flicker")
NOISY = "noisy"  # the row of what methods are given

# noisy (T, C, H, W) float32, sigma on the 0-255 scale or None -> denoised
Run = Callable[[Tensor, float | None], Tensor]


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    run: Run
    identity: str
    """Weights or parameters."""


def luma_of(frame: VideoFrame) -> np.ndarray:
    """(1, H, W), black 0 and white 1."""
    black, span = frame.colour.black_and_span
    return (frame.planes[0][None].astype(np.float32) - black) / span


def rgb_of(frame: VideoFrame) -> np.ndarray:
    """(3, H, W), black 0 and white 1; of a gray film three equal channels."""
    picture = frame.picture()
    return np.stack([picture] * 3) if picture.ndim == 2 else picture.transpose(2, 0, 1)


def clip_of(path: Path, frames: int, channels: int) -> Tensor:
    """(T, C, H, W) float32 in [0, 1]: the first frames of a clip."""
    pixels_of = luma_of if channels == 1 else rgb_of
    with read_video(path) as video:
        made = [pixels_of(frame) for frame in itertools.islice(video, frames)]
    return torch.from_numpy(np.stack(made)).clamp(0, 1)


def clips(folder: Path, frames: int, channels: int = 1) -> dict[str, Tensor]:
    """Every clip of a folder by its name."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder} holds no clip")
    return {file.stem: clip_of(file, frames, channels) for file in files}


def cropped(clip: Tensor, rows: int, columns: int) -> Tensor:
    """The middle of all frames, as large as they are at most."""
    y, x = (max(0, have - want) // 2 for have, want in zip(clip.shape[2:], (rows, columns)))
    return clip[:, :, y : y + rows, x : x + columns].contiguous()


def middle(clip: Tensor) -> Tensor:
    """The part of a training clip that filters are tuned on."""
    first = (len(clip) - min(len(clip), TUNING_FRAMES)) // 2
    y, x = ((side - min(side, TUNING_SIDE)) // 2 for side in clip.shape[2:])
    return clip[first : first + TUNING_FRAMES, :, y : y + TUNING_SIDE, x : x + TUNING_SIDE]


def filtered(setting: Callable[[float | None], str]) -> Run:
    def run(frames: Tensor, sigma: float | None) -> Tensor:
        bits = (frames[:, 0].clamp(0, 1) * 255.0).round().byte().numpy()
        return torch.from_numpy(run_filter(bits, setting(sigma))).float()[:, None] / 255.0

    return run


def tuned(wanted: Filter, training: Sequence[Tensor], sigmas: Sequence[float]) -> Method:
    """A filter with its best setting for each noise level."""
    best: dict[float | None, str] = {}
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


def recurrent(model: str, name: str, lead_in: int = 0, afresh: bool = False) -> Method:
    """A recurrent network; ``afresh``: with a new state for every frame."""

    kept: dict[float | None, VideoDenoiser] = {}  # with their plans

    def run(frames: Tensor, sigma: float | None) -> Tensor:
        if sigma not in kept:
            kept[sigma] = VideoDenoiser(model, sigma=sigma, lead_in=lead_in)
        denoiser, made = kept[sigma], []
        denoiser.reset()
        for frame in frames:
            made.append(denoiser.push(frame, value_range=(0, 1)))
            if afresh:
                made += denoiser.flush()
        made += denoiser.flush()
        return torch.stack([result for result in made if result is not None])

    return Method(name, run, identity_of(model))


def still(model: str) -> Method:
    """A network on single frames; without a level, that of the first frame is kept for all."""
    denoiser = Denoiser(model)

    def run(frames: Tensor, sigma: float | None) -> Tensor:
        made = []
        for frame in frames:
            result = denoiser.run(frame, sigma=sigma)
            sigma = result.sigma if sigma is None else sigma
            made.append(result.image)
        return torch.stack(made)

    return Method(frame_by_frame(model), run, identity_of(model))


def frame_by_frame(model: str) -> str:
    """The name of a row."""
    return f"{model}, frame by frame"


def identity_of(model: str) -> str:
    """The hash of weights."""
    shipped = pretrained_info(model) if model in list_models(pretrained=True) else None
    return f"sha256 {(shipped.sha256 if shipped else file_sha256(model))[:16]}"


def methods(args: argparse.Namespace, data: Path) -> Iterator[Method]:
    yield Method(NOISY, lambda frames, _: frames, "as it is given, clipped")
    for model in args.weights:
        name = Path(model).stem
        yield recurrent(model, name, LEAD_IN)
        yield recurrent(model, f"{name}, live")
        yield recurrent(model, f"{name}, each frame anew", afresh=True)
    for model in STILL[3 if args.color else 1] if args.still is None else args.still:
        yield still(model)
    names = () if args.color else args.filters
    wanted = [entry for entry in FILTERS if entry.name in names]
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


def worst_gain(row: dict, rival: dict) -> tuple[float, str]:
    """PSNR over that of another row, and the clip, where it is least."""
    return min((row["clips"][c]["psnr"] - rival["clips"][c]["psnr"], c) for c in row["clips"])


def times(found: Sequence[Method], channels: int, sigma: float, rounds: int) -> dict[str, float]:
    """Seconds per megapixel: the median over rounds in which every method has its turn."""
    count, height, width = TIMED
    generator = torch.Generator().manual_seed(SEED)
    small = torch.rand(count, channels, height // 8, width // 8, generator=generator)
    film = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    film = noisy(film.clamp(0, 1), sigma, 0)
    taken: dict[str, list[float]] = {method.name: [] for method in found}
    for turn in range(rounds + 1):  # the first one warms up
        for method in found:
            start = time.perf_counter()
            method.run(film, sigma)
            if turn:
                taken[method.name].append(time.perf_counter() - start)
    megapixels = count * height * width / 1e6
    return {name: statistics.median(t) / megapixels for name, t in taken.items()}


def table(results: dict) -> str:
    """Markdown."""
    lines = ["# Video", "", f"{len(results['clips'])} clips, at most {results['frames']} frames,"]
    lines[-1] += f" {results['pixels']}."
    lines += ["PSNR in dB, flicker in levels (less is better).", ""]
    timed = "seconds_per_megapixel" in results
    for kind, entry in results["figures"].items():
        rows, rival = entry["rows"], entry["rows"].get(entry["rival"])
        given = "The level is given." if entry["sigma"] is not None else "No level is given."
        heads = ["method", "PSNR", "from frame 8 on", "SSIM", "flicker", "worst clip"]
        heads += ["worst gain"] if rival else []
        heads += ["s/MP"] if timed else []
        against = f" The worst gain is over {entry['rival']}." if rival else ""
        lines += [f"## {kind}", "", given + against, "", "| " + " | ".join(heads) + " |"]
        lines += ["|" + "---|" * len(heads)]
        for name, row in rows.items():
            mean, clips_ = row["mean"], row["clips"]
            worst = min(clips_, key=lambda c: clips_[c]["psnr"])
            cells = [name, f"{mean['psnr']:.2f}", f"{mean['settled']:.2f}", f"{mean['ssim']:.4f}"]
            cells += [f"{mean['flicker']:.2f}", f"{clips_[worst]['psnr']:.2f} ({worst})"]
            if rival:
                gain, worst = worst_gain(row, rival)
                cells += ["" if row is rival else f"{gain:+.2f} ({worst})"]
            cells += [f"{results['seconds_per_megapixel'][name]:.3f}"] if timed else []
            lines += ["| " + " | ".join(cells) + " |"]
        lines += [""]
    lines += ["## What was run", ""]
    lines += [f"- {name}: {text}" for name, text in results["methods"].items()]
    return "\n".join([*lines, f"- commit {results['commit']}"]) + "\n"


def measured(found: Sequence[Method], noise: Noise, test: Mapping[str, Tensor]) -> dict[str, dict]:
    """Rows by name: figures of each clip, and their mean."""
    rows: dict[str, dict] = {method.name: {"mean": {}, "clips": {}} for method in found}
    for place, (clip, clean) in enumerate(test.items()):
        spoiled = noise.add(clean, place)
        for method in found:
            made = method.run(spoiled, noise.sigma)
            rows[method.name]["clips"][clip] = figures(made, clean)
    for row in rows.values():
        row["mean"] = means(list(row["clips"].values()))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", action="append", default=[], metavar="FILE|NAME",
                        help="a recurrent network; repeatable")  # fmt: skip
    parser.add_argument("--color", action="store_true", help="RGB, also with noise of cameras")
    parser.add_argument("--still", nargs="*", metavar="NAME",
                        help="networks on single frames")  # fmt: skip
    names = [entry.name for entry in FILTERS]
    parser.add_argument("--filters", nargs="*", default=names, choices=names)
    parser.add_argument("--sigma", nargs="+", type=float, default=[20.0, 40.0])
    parser.add_argument("--frames", type=int, default=40, help="of each clip at most")
    parser.add_argument("--crop", nargs=2, type=int, metavar=("ROWS", "COLUMNS"),
                        help="the middle of each clip alone")  # fmt: skip
    parser.add_argument("--times", type=int, default=0, metavar="ROUNDS",
                        help="measure seconds per megapixel, on a quiet machine")  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", "../shared/data")) / "video/clips"
    channels = 3 if args.color else 1
    test = clips(data / "test", args.frames, channels)
    if args.crop:
        test = {name: cropped(clip, *args.crop) for name, clip in test.items()}
    rival = frame_by_frame(STILL[channels][-1])
    noises = [white(sigma, rival) for sigma in args.sigma]
    noises += cameras(frame_by_frame(PHOTO)) if args.color else []
    found = list(methods(args, data))
    results: dict = {"commit": commit(), "clips": sorted(test), "frames": args.frames}
    part = f" of the middle {args.crop[1]} x {args.crop[0]} pixels" if args.crop else ""
    results["pixels"] = ("RGB" if args.color else "luma") + part
    results["methods"] = {method.name: method.identity for method in found}
    results["figures"] = {}
    for noise in noises:
        rows = measured(found, noise, test)
        for name, row in rows.items():
            print(f"{noise.name}, {name}: {row['mean']}", file=sys.stderr)
        entry = {"sigma": noise.sigma, "rival": noise.rival, "rows": rows}
        results["figures"][noise.name] = entry
    if args.times:
        results["seconds_per_megapixel"] = times(found, channels, args.sigma[0], args.times)
    args.output.mkdir(parents=True, exist_ok=True)
    stem = "video_color" if args.color else "video"
    document = json.dumps(without_nan(results), indent=1) + "\n"
    write_atomically(args.output / f"{stem}.json", document.encode(), overwrite=True)
    write_atomically(args.output / f"{stem}.md", table(results).encode(), overwrite=True)
    return 0


def without_nan(value: object) -> object:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
