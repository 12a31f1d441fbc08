"""Does a second task help the first?  One trunk with two heads against networks for one task.

    python benchmarks/several_tasks.py noise_level            # several_tasks_noise_level.md
    python benchmarks/several_tasks.py normals --steps 400 --seeds 1 2 3

noise_level: the blind network of `dxnet_s_photo`, with and without the loss on its noise level; the
arithmetic is the same.  Photographs with the noise of cameras, held-out photographs.

normals: depth without noise and surface normals by one guided network, against two networks of one
task each with half of its arithmetic together.  Made-up scenes (`data/layers.py`) of photographs;
held-out photographs make the scenes that are measured.

Each network is trained from random weights for the same steps, crops and rates, once for each seed.
The table has the mean over the seeds and the spread, least to largest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from denoise_ext.analysis import gflop_per_megapixel
from denoise_ext.data import list_image_files
from denoise_ext.data.layers import LayeredScenes
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.io import read_image
from denoise_ext.metrics import angle, psnr, surface_normals
from denoise_ext.models import Network, create_model, load_checkpoint
from denoise_ext.training import TrainConfig, train
from denoise_ext.training.config import parse_config
from harness.provenance import commit

HERE = Path(__file__).resolve().parent
HELD_OUT = HERE.parent / "recipes/photos_half_held_out.txt"
PHOTOS = "train/photos_half"
SIDE = 128  # of what is measured
WHOLE = {"widths": [32, 48], "blocks": [1, 2]}  # of the network with two heads
HALF = {"widths": [24, 32], "blocks": [1, 1]}  # of those with one
Figures = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """What is trained: the keys of a configuration that differ."""

    name: str
    model: str
    options: dict[str, object]
    heads: tuple[dict[str, object], ...] = ()


LEVEL = {"output": "noise_level", "loss": "log", "weight": 0.5}
NORMALS = {"output": "normals", "loss": "angle", "weight": 0.02}
VARIANTS = {
    "noise_level": (
        Variant("image alone", "dxnet_s_photo", {**WHOLE, "estimator_width": 24}),
        Variant(
            "image and noise level", "dxnet_s_photo", {**WHOLE, "estimator_width": 24}, (LEVEL,)
        ),
    ),
    "normals": (
        Variant("one network, both", "dxnet_s_normals", {**WHOLE, "guide_width": 16}, (NORMALS,)),
        Variant("half the size, depth", "dxnet_s_guided", {**HALF, "guide_width": 16}),
        Variant(
            "half the size, normals", "dxnet_s_normals",
            {**HALF, "guide_width": 16, "image": False}, (NORMALS,),
        ),
    ),
}  # fmt: skip
CHAIN = [{"kind": "photo"}]


def configuration(task: str, variant: Variant, seed: int, steps: int, out: Path) -> TrainConfig:
    """That of one run."""
    leave_out = str(HELD_OUT)
    tree: dict = {
        "model": {"name": variant.model, "options": variant.options},
        "heads": list(variant.heads),
        "optimiser": {"name": "muon", "beta1": 0.95, "beta2": 0.95},
        "schedule": {"peak": 8e-3, "final": 1e-5, "warmup_steps": max(1, steps // 20)},
        "validation": {"images": 0},
        "run": {
            "out": str(out), "steps": steps, "batch_size": 8, "seed": seed, "threads": 1,
            "tensorboard": "off", "checkpoint_every": steps, "device": "cpu",
        },
    }  # fmt: skip
    if task == "noise_level":
        tree["data"] = {
            "channels": 3, "crop": 64,
            "sources": [{"train": PHOTOS, "leave_out": leave_out, "scales": [0.7, 0.5]}],
        }  # fmt: skip
        tree["noise"] = {"chain": CHAIN}
        tree["loss"] = {"name": "psnr"}
    else:
        tree["task"] = {"name": "guided_denoising"}
        source = {"train": PHOTOS, "leave_out": leave_out, "layered": True}
        tree["data"] = {"crop": 64, "sources": [source]}
        tree["guide"] = {"factors": [2]}
        tree["noise"] = {"sigma_min": 5.0, "sigma_max": 50.0}
        tree["loss"] = {"name": "rmse"}
    return parse_config(tree)


def held_out_photos(data: Path) -> list[np.ndarray]:
    """Those that no recipe trains on."""
    names = {line for line in HELD_OUT.read_text().split("\n") if line[:1] not in "#"}
    files = [file for file in list_image_files(data / PHOTOS) if file.name in names]
    return [read_image(file) for file in files]


def measure_levels(network: Network, photos: Sequence[np.ndarray]) -> Figures:
    """PSNR of photographs with the noise of cameras, and the error of the estimated level."""
    chain = parse_config({
        "model": {"name": "dxnet_s_photo"}, "data": {"train": PHOTOS, "channels": 3},
        "noise": {"chain": CHAIN}, "run": {"out": "-", "steps": 1000},
    }).noise.chain  # fmt: skip
    found = []
    for place, photo in enumerate(photos):
        cut = torch.from_numpy(photo[:SIDE, :SIDE].copy())
        clean = cut.permute(2, 0, 1)[None].float() / 255
        noisy, sigma = add_noise_chain(clean, chain, 0, place)
        outputs, _ = network({"image": noisy})
        quality = psnr(outputs["image"].clamp(0, 1), clean).item()
        level = outputs["noise_level"].mean().item() * 255
        found.append((quality, abs(np.log((level + 0.25) / (sigma.item() + 0.25)))))
    quality, error = np.mean(found, axis=0)
    return {"PSNR, dB": float(quality), "error of the level, factor": float(np.exp(error))}


def measure_normals(network: Network, photos: Sequence[np.ndarray]) -> Figures:
    """PSNR of depth at sigma 25, and the angle between normals, of 40 made-up scenes."""
    scenes = LayeredScenes([photo for photo in photos if min(photo.shape[:2]) >= SIDE])
    found: dict[str, list[float]] = {}
    for place in range(40):
        depth, guide = scenes.draw(np.random.default_rng(place), SIDE)
        clean = torch.from_numpy(depth)[None, None]
        generator = torch.Generator().manual_seed(place)
        noise = torch.randn(clean.shape, generator=generator) * (25 / 255)
        outputs, _ = network({
            "image": clean + noise,
            "noise_map": torch.full((1, 1, 1, 1), 25 / 255),
            "guide": torch.from_numpy(guide).permute(2, 0, 1)[None],
        })  # fmt: skip
        true = surface_normals(clean)
        if "image" in outputs:
            made = outputs["image"].clamp(0, 1)
            found.setdefault("PSNR of depth, dB", []).append(psnr(made, clean).item())
            own = angle(surface_normals(made), true).item()
            found.setdefault("normals of that depth, degrees", []).append(own)
        if "normals" in outputs:
            degrees = angle(outputs["normals"], true).item()
            found.setdefault("normals, degrees", []).append(degrees)
    return {name: float(np.mean(values)) for name, values in found.items()}


MEASURES: dict[str, Callable[[Network, Sequence[np.ndarray]], Figures]] = {
    "noise_level": measure_levels, "normals": measure_normals,
}  # fmt: skip


def table(facts: dict) -> str:
    """What there is, as Markdown."""
    names = list(dict.fromkeys(name for row in facts["rows"] for name in row["figures"][0]))
    lines = [
        f"# Several tasks: {facts['task'].replace('_', ' ')}",
        "",
        f"Each {facts['steps']} steps of 8 crops of 64 x 64 pixels, seeds"
        f" {', '.join(map(str, facts['seeds']))}. Mean over the seeds (least to largest).",
        "",
        f"| trained for | GFLOP per megapixel | {' | '.join(names)} |",
        "|---|---" + "|---" * len(names) + "|",
    ]
    for row in facts["rows"]:
        cells = []
        for name in names:
            values = [figures[name] for figures in row["figures"] if name in figures]
            spread = f"{min(values):.2f} to {max(values):.2f}" if values else ""
            cells.append(f"{np.mean(values):.2f} ({spread})" if values else "-")
        lines.append(f"| {row['name']} | {row['gflop']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, help="folder of the runs, so that they continue")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.setdefault("DENOISE_EXT_DATA", str(HERE.parents[1] / "shared/data")))
    if not (data / PHOTOS).is_dir():
        print(f"skipped: needs {PHOTOS} in DENOISE_EXT_DATA ({data})")
        return 0
    photos = held_out_photos(data)
    facts = {
        "task": args.task, "steps": args.steps, "seeds": args.seeds, "commit": commit(), "rows": []
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS[args.task]:
            figures = []
            for seed in args.seeds:
                out = (args.runs or Path(folder)) / f"{variant.name.replace(' ', '_')}_{seed}"
                trained = train(configuration(args.task, variant, seed, args.steps, out))
                network = load_checkpoint(trained.model_path).eval()
                with torch.inference_mode():
                    figures.append(MEASURES[args.task](network, photos))
                print(variant.name, seed, figures[-1], flush=True)
            gflop = gflop_per_megapixel(create_model(variant.model, **variant.options))
            facts["rows"].append({"name": variant.name, "gflop": gflop, "figures": figures})
    args.output.mkdir(parents=True, exist_ok=True)
    stem = f"several_tasks_{args.task}"
    (args.output / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (args.output / f"{stem}.md").write_text(table(facts))
    print(table(facts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
