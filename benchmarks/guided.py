"""Guided denoising and upscaling: depth and photograph, infrared and visible light, PET and MRI.

    python benchmarks/guided.py                                      # guided.md
    python benchmarks/guided.py --model NAME|CHECKPOINT --unguided CHECKPOINT
    python benchmarks/guided.py --every 5 --output out               # a part

Noise is white, not clipped, of generator seed 0 anew for every image, on the 0-255 scale.  PSNR is
that of the clipped result, RMSE in the files' own 0-255 levels.  Depth at a part of its size
follows the scripts of DCTNet (github.com/Zhaozixiang1228/GDSR-DCTNet): images are cut to multiples
of the scale and reduced by Pillow's bicubic filter, not rounded, and stretched by the true least
and largest value.

"wrong" is the guide of the next image of the set, "shifted" the guide moved by 2 pixels along both
axes, "black" no guide.  The joint bilateral filter has the settings that are best on pairs that the
network is trained on: of depth, or of infrared.  "unguided" is a network of the same shape that was
trained on black guides.  Gains are means over the images, in brackets that of the worst image.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from denoise_ext.data import add_gaussian_noise
from denoise_ext.io import find_pairs, read_image
from denoise_ext.io.channels import to_gray
from denoise_ext.metrics import psnr
from denoise_ext.models import Network, load_checkpoint, pretrained_info, read_metadata
from denoise_ext.models.registry import has_model
from denoise_ext.ops import joint_bilateral_blur
from denoise_ext.restore import GuidedUpscaler
from denoise_ext.runtime import load_model
from denoise_ext.tasks import Denoiser
from denoise_ext.tasks.guide import GUIDED
from harness.provenance import commit

HERE = Path(__file__).resolve().parent
HELD_OUT = HERE.parent / "recipes/roadscene_held_out.txt"
DEPTH = "multimodal/depth"
GRAY = "dxnet_s_gray"
GRID = tuple(itertools.product((0.02, 0.05, 0.1, 0.2), (1.0, 2.0, 4.0)))  # colour, space
KERNEL = 17
TUNED_ON = 10  # pairs of the training data
# What a table has of each image: how much better the first is than the second.
GAINS = (
    ("guided", "unguided"), ("guided", "joint bilateral"), ("guided", "dxnet_s_gray"),
    ("guided", "bicubic"), ("guided", "black"), ("wrong", "black"), ("shifted", "guided"),
)  # fmt: skip
Pair = tuple[np.ndarray, np.ndarray]  # image (H, W), guide (H, W, 3); 8 bits
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
Figures = dict[str, list[float]]  # of each method, image by image


@dataclass(frozen=True)
class Set:
    """Pairs below the data folder."""

    folder: str
    patterns: tuple[str, str]
    sigmas: tuple[float, ...]
    scales: tuple[int, ...] = ()
    held_out: Path | None = None
    """Names of the files that are measured; the others are for training."""


SETS = {
    "Middlebury": Set(
        f"{DEPTH}/middlebury", ("Depth/*_output_depth.png", "RGB/*_output_color.png"),
        (10.0, 25.0), (4, 8),
    ),
    "Lu": Set(f"{DEPTH}/lu", ("Depth/*_output_depth.png", "RGB/*_ouput_color.png"), (), (4, 8)),
    "RoadScene": Set(
        "multimodal/ir_vis", ("RoadScene_ir/*.jpg", "RoadScene_vis/*.jpg"), (25.0,),
        held_out=HELD_OUT,
    ),
    "TNO": Set("multimodal/ir_vis", ("TNO_ir/*.bmp", "TNO_vis/*.bmp"), (25.0,)),
    "PET": Set("multimodal/mri_pet", ("pet/*.png", "mri/*.png"), (25.0,)),
}  # fmt: skip
DEPTH_TRAINING = Set(f"{DEPTH}/rgbdd_100", ("Depth/*.png", "RGB/*.jpg"), ())


def pairs_of(data: Path, chosen: Set, trained: bool = False) -> list[Pair]:
    """The pairs of a set; with ``trained`` those that are not held out."""
    files = find_pairs(data / chosen.folder, *chosen.patterns)
    if chosen.held_out:
        names = {line for line in chosen.held_out.read_text().split("\n") if line[:1] not in "#"}
        files = [pair for pair in files if (pair[0].name in names) != trained]
    return [(_gray(read_image(image)), _colour(read_image(guide))) for image, guide in files]


def _colour(guide: np.ndarray) -> np.ndarray:
    """Three channels."""
    return np.repeat(guide[..., None], 3, axis=2) if guide.ndim == 2 else guide[..., :3]


def _gray(image: np.ndarray) -> np.ndarray:
    """8 bits; more are stretched."""
    image = image if image.ndim == 2 else to_gray(image)
    if image.dtype == np.uint8:
        return image
    low, high = int(image.min()), int(image.max())
    return ((image.astype(np.float64) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)


def with_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) float32, white 1."""
    clean = torch.from_numpy(image.astype(np.float32) / 255)[None, None]
    return add_gaussian_noise(clean, sigma, torch.Generator().manual_seed(0))[0, 0].numpy()


def decibels(made: np.ndarray, clean: np.ndarray) -> float:
    """PSNR of an image with white 1 to one of 8 bits."""
    a, b = (torch.from_numpy(x.astype(np.float32)) for x in (made.clip(0, 1), clean / 255))
    return psnr(a[None, None], b[None, None]).item()


def joint_bilateral(
    noisy: np.ndarray, guide: np.ndarray, colour: float, space: float
) -> np.ndarray:
    """The filter on an image with white 1."""
    x = torch.from_numpy(np.ascontiguousarray(noisy, np.float32))[None, None]
    g = torch.from_numpy(np.ascontiguousarray(guide)).permute(2, 0, 1)[None].float() / 255
    options = {"color_distance_type": "l2"}
    return joint_bilateral_blur(x, g, KERNEL, colour, (space, space), **options)[0, 0].numpy()


def tuned(pairs: Sequence[Pair], sigma: float) -> tuple[float, float]:
    """The settings of the filter that are best on these pairs."""
    step = max(1, len(pairs) // TUNED_ON)
    chosen = [(with_noise(image, sigma), image, guide) for image, guide in pairs[::step]]

    def quality(settings: tuple[float, float]) -> float:
        return sum(decibels(joint_bilateral(x, g, *settings), clean) for x, clean, g in chosen)

    return max(GRID, key=quality)


def guides(pairs: Sequence[Pair]) -> Iterator[dict[str, np.ndarray]]:
    """For each pair its guide, and what stands in for it."""
    for place, (image, guide) in enumerate(pairs):
        other = pairs[(place + 1) % len(pairs)][1]
        rows, columns = image.shape
        times = (-(-rows // other.shape[0]), -(-columns // other.shape[1]), 1)
        moved = np.pad(guide, ((2, 0), (2, 0), (0, 0)), mode="edge")[:rows, :columns]
        yield {
            "guided": guide,
            "shifted": moved,
            "wrong": np.tile(other, times)[:rows, :columns],
            "black": np.zeros_like(guide),
        }


def measure_noise(
    network: Network, others: dict[str, Method], pairs: Sequence[Pair], sigma: float
) -> Figures:
    """PSNR of each method at a level of noise."""
    denoiser = Denoiser(network, sigma=sigma)
    found: Figures = {}
    for (image, guide), kinds in zip(pairs, guides(pairs), strict=True):
        noisy = with_noise(image, sigma)
        made = {"noisy": noisy}
        made |= {name: method(noisy, guide) for name, method in others.items()}
        made |= {name: denoiser(noisy, guide=kind) for name, kind in kinds.items()}
        for name, result in made.items():
            found.setdefault(name, []).append(decibels(result, image))
    return found


def measure_scale(
    network: Network, unguided: Network | None, pairs: Sequence[Pair], scale: int
) -> Figures:
    """RMSE of each method for depth of a part of its size."""
    upscaler = GuidedUpscaler(network, scale)
    plain = GuidedUpscaler(unguided, scale) if unguided is not None else None
    found: Figures = {}
    for (image, _), kinds in zip(pairs, guides(pairs), strict=True):
        rows, columns = (side // scale * scale for side in image.shape)
        clean = image[:rows, :columns].astype(np.float32)
        low, high = float(clean.min()), float(clean.max())
        small = Image.fromarray(clean).resize((columns // scale, rows // scale), Image.BICUBIC)
        depth = np.asarray(small)
        made = {"bicubic": np.asarray(small.resize((columns, rows), Image.BICUBIC))}
        for name, kind in kinds.items():
            made[name] = upscaler(depth, kind[:rows, :columns], value_range=(low, high))
        if plain is not None:
            black = kinds["black"][:rows, :columns]
            made["unguided"] = plain(depth, black, value_range=(low, high))
        for name, result in made.items():
            error = (result.clip(low, high) - clean).astype(np.float64)
            found.setdefault(name, []).append(float(np.sqrt(np.mean(error**2))))
    return found


def table(facts: dict) -> str:
    """What there is, as Markdown."""
    names = (
        "noisy", "bicubic", "joint bilateral", "dxnet_s_gray", "unguided", "guided", "shifted",
        "wrong", "black",
    )  # fmt: skip
    lines = [
        "# With a guide",
        "",
        f"`{facts['model']}`, {facts['parameters'] / 1e6:.2f} M weights, {facts['steps']} steps,"
        f" sha256 {facts['sha256'][:12]}. PSNR in dB at a noise level, RMSE in levels for depth at"
        f" a part of its size. `{GRAY}`: sha256 {facts[GRAY]['sha256'][:12]}.",
        "",
        f"| set | images | task | {' | '.join(names)} |",
        "|---|---|---" + "|---" * len(names) + "|",
    ]
    for row in facts["rows"]:
        found = row["figures"]
        cells = [f"{np.mean(found[name]):.2f}" if name in found else "-" for name in names]
        lines.append(f"| {row['set']} | {row['images']} | {row['task']} | {' | '.join(cells)} |")
    titles = [f"{one} over {other}" for one, other in GAINS]
    lines += [
        "",
        "Gains: decibels of PSNR, or levels of RMSE. In brackets: the image with the least gain.",
        "",
        f"| set | task | {' | '.join(titles)} |",
        "|---|---" + "|---" * len(titles) + "|",
    ]
    for row in facts["rows"]:
        cells = [_gain(row, one, other) for one, other in GAINS]
        lines.append(f"| {row['set']} | {row['task']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gain(row: dict, one: str, other: str) -> str:
    """How much better one method is than another: mean, and least of all images."""
    found = row["figures"]
    if not {one, other} <= set(found):
        return "-"
    gains = np.subtract(found[one], found[other]) * (-1 if "bicubic" in found else 1)
    return f"{gains.mean():+.2f} ({gains.min():+.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="NAME|CHECKPOINT", help="default: dxnet_s_guided")
    parser.add_argument(
        "--unguided", type=Path, metavar="CHECKPOINT", help="one trained on black guides"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of each set")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    name = args.model or GUIDED
    network = load_model(name, "cpu")
    unguided = load_checkpoint(args.unguided).eval() if args.unguided else None
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    facts = {
        "model": Path(name).name, **_weights(name), "commit": commit(), "rows": [],
        "parameters": sum(p.numel() for p in network.parameters()),
        "unguided": _weights(str(args.unguided)) if args.unguided else None,
        GRAY: _weights(GRAY),
    }  # fmt: skip
    for key in args.sets:
        chosen = SETS[key]
        if not (data / chosen.folder).is_dir():
            print(f"skipped: needs {chosen.folder} in DENOISE_EXT_DATA ({data})")
            continue
        pairs = pairs_of(data, chosen)[:: args.every]
        for sigma in chosen.sigmas:
            others = _others(data, key, sigma, unguided)
            _add(
                facts, key, pairs, f"sigma {sigma:g}", measure_noise(network, others, pairs, sigma)
            )
        for scale in chosen.scales:
            _add(facts, key, pairs, f"x{scale}", measure_scale(network, unguided, pairs, scale))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "guided.json").write_text(json.dumps(facts, indent=1) + "\n")
    (args.output / "guided.md").write_text(table(facts))
    print(table(facts), end="")
    return 0


def _others(data: Path, key: str, sigma: float, unguided: Network | None) -> dict[str, Method]:
    """What the network is compared with at a level of noise."""
    plain = Denoiser(GRAY, sigma=sigma)
    others: dict[str, Method] = {GRAY: lambda x, _: plain(x)}
    training = DEPTH_TRAINING if DEPTH in SETS[key].folder else SETS["RoadScene"]
    if (data / training.folder).is_dir():
        settings = tuned(pairs_of(data, training, trained=True), sigma)
        print(f"{key}, sigma {sigma:g}: joint bilateral filter with {settings}", flush=True)
        others["joint bilateral"] = lambda x, g: joint_bilateral(x, g, *settings)
    if unguided is not None:
        without = Denoiser(unguided, sigma=sigma)
        others["unguided"] = lambda x, g: without(x, guide=np.zeros_like(g))
    return others


def _weights(name: str) -> dict:
    """Where a network comes from: a model's name, or a checkpoint file."""
    shipped = pretrained_info(name) if has_model(name) else None
    file = shipped.path if shipped else Path(name)
    training = read_metadata(file).get("training", {})
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"steps": training.get("steps", 0), "sha256": sha256}


def _add(facts: dict, key: str, pairs: Sequence[Pair], task: str, found: Figures) -> None:
    figures = {name: [round(value, 4) for value in values] for name, values in found.items()}
    facts["rows"].append({"set": key, "images": len(pairs), "task": task, "figures": figures})
    print(key, task, {name: round(float(np.mean(v)), 2) for name, v in found.items()}, flush=True)


if __name__ == "__main__":
    sys.exit(main())
