"""What would a perfect guide give?  `python benchmarks/guide_edges.py` trains three networks.

Each starts as `dxnet_s_gray`, which it equals as long as the guide counts nothing, and is trained
on the same crops of RGB-D-D depth maps with noise.  One has black guides, one the photographs, one
the edges of the clean depth: what no photograph can show better.  PSNR is that of pairs that are
held out.  The runs are short: they show the order of the gains, not their limits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from denoise_ext.io import list_images, read_image
from denoise_ext.models import create_model, save_model
from denoise_ext.training import TrainConfig, train
from denoise_ext.training.config import parse_config
from guided import DEPTH_TRAINING
from harness.provenance import commit

HERE = Path(__file__).resolve().parent
GRAY, GUIDED = "dxnet_s_gray", "dxnet_s_guided"
EDGES = (1.5, 4.0, 12.0)  # least differences between neighbours, of 255: one for each channel
SIGMAS = (10.0, 25.0)
CROP, HELD_OUT = 64, 8
GUIDES = ("black", "photograph", "edges of the clean depth")


def edges(depth: np.ndarray) -> np.ndarray:
    """(H, W) to (H, W, 3), 0 and 255: where the next pixel right or below differs by `EDGES`."""
    low, high = float(depth.min()), float(depth.max())
    stretched = (depth - low) / max(high - low, 1e-6) * 255
    right = np.abs(np.diff(stretched, axis=1, append=stretched[:, -1:]))
    below = np.abs(np.diff(stretched, axis=0, append=stretched[-1:]))
    steps = np.maximum(right, below)
    return np.stack([(steps > least) * np.uint8(255) for least in EDGES], axis=-1)


def write_edges(depths: Path, folder: Path) -> None:
    """Pairs of depth maps and their edges."""
    (folder / "Edges").mkdir(parents=True, exist_ok=True)
    if not (folder / "Depth").exists():
        (folder / "Depth").symlink_to(depths.resolve())
    for file in list_images(depths):
        Image.fromarray(edges(read_image(file).astype(np.float64))).save(
            folder / "Edges" / f"{file.stem}.png"
        )


def write_start(file: Path) -> None:
    """The guided network that gives what `GRAY` gives, whatever the guide."""
    network = create_model(GUIDED)
    network.initialise(torch.Generator().manual_seed(0))
    own, gray = network.state_dict(), create_model(GRAY, pretrained=True).state_dict()
    head = torch.zeros_like(own["head.weight"])  # inputs: image, noise level, features of the guide
    head[:, : gray["head.weight"].shape[1]] = gray["head.weight"]
    network.load_state_dict({**own, **gray, "head.weight": head})
    save_model(network, file)


def configuration(guide: str, folder: Path, steps: int, seed: int) -> TrainConfig:
    """That of one run."""
    source = {"train": DEPTH_TRAINING.folder, "pairs": list(DEPTH_TRAINING.patterns)}
    if guide == GUIDES[2]:
        source = {"train": str(folder / "edges"), "pairs": ["Depth/*.png", "Edges/*.png"]}
    return parse_config({
        "task": {"name": "guided_denoising"},
        "data": {"crop": CROP, "sources": [source]},
        "noise": {"sigma_min": 5.0, "sigma_max": 35.0},
        "guide": {
            "factors": [4], "wrong": 0.0, "missing": float(guide == GUIDES[0]), "shifted": 0.0,
            "shift": 0,
        },
        "model": {"name": GUIDED, "start": str(folder / "start.safetensors")},
        "loss": {"name": "psnr", "weight_decay": 0.0},
        "optimiser": {"name": "muon", "beta1": 0.95, "beta2": 0.95, "ema": 0.99},
        "schedule": {"peak": 3e-3, "final": 1e-5, "warmup_steps": max(1, steps // 14)},
        "validation": {
            "images": HELD_OUT, "crop": 256, "sigmas": list(SIGMAS), "every": steps // 2,
        },
        "run": {
            "out": str(folder / f"{guide.split()[0]}_{seed}"), "steps": steps, "batch_size": 8,
            "seed": seed, "threads": 1, "tensorboard": "off", "checkpoint_every": steps // 2,
        },
    })  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    parser.add_argument("--runs", type=Path, help="folder of the runs, so that they continue")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.setdefault("DENOISE_EXT_DATA", str(HERE.parents[1] / "shared/data")))
    if not (data / DEPTH_TRAINING.folder).is_dir():
        print(f"skipped: needs {DEPTH_TRAINING.folder} in DENOISE_EXT_DATA ({data})")
        return 0
    lines = [
        "# What a perfect guide would give",
        "",
        f"Commit {commit()}. Each {args.steps} steps from `{GRAY}` on RGB-D-D depth, seeds"
        f" {', '.join(map(str, args.seeds))}. PSNR in dB of {HELD_OUT} held-out pairs.",
        "",
        f"| guide | {' | '.join(f'sigma {sigma:g}' for sigma in SIGMAS)} |",
        "|---" * (1 + len(SIGMAS)) + "|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.runs or Path(temporary)).resolve()
        write_edges(data / DEPTH_TRAINING.folder / "Depth", folder / "edges")
        write_start(folder / "start.safetensors")
        before = {}
        for guide in GUIDES:
            results = [train(configuration(guide, folder, args.steps, s)) for s in args.seeds]
            before = before or results[0].before
            means = [np.mean([r.validation[sigma] for r in results]) for sigma in SIGMAS]
            lines.append(f"| {guide} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
            print(lines[-1], flush=True)
    start = " | ".join(f"{before[sigma]:.2f}" for sigma in SIGMAS)
    lines.insert(6, f"| none, before training | {start} |")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "guide_edges.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
