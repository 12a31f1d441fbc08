"""Large images: `python benchmarks/large_images.py` denoises 1 to 200 megapixels in tiles.

For each size, in a process of its own: seconds, seconds for each megapixel, and the most memory
that the process held beyond what it held with the image before it called `Denoiser` for the first
time. Of that, the result takes as much as the image. The image is noise on a gradient, 8-bit gray.
Written to `results/large_images_*.json`; with matplotlib, a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

SIZES = (1, 2, 5, 10, 20, 50, 100, 200)  # megapixels


def network(name: str):
    """A shipped model, or "tiny": an untrained FFDNet that leaves the work around it visible."""
    from denoise_ext.models import create_model
    from denoise_ext.runtime import load_model

    if name == "tiny":
        return create_model("ffdnet_gray", width=16, depth=3).eval()
    return load_model(name, "cpu")


def image(megapixels: float):
    """(H, W) uint8, 4:3, made row by row so that nothing larger was ever held."""
    import numpy as np

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    random = np.random.default_rng(0)
    pixels = np.empty((height, width), np.uint8)
    gradient = np.linspace(30, 220, width)
    for row in pixels:
        row[:] = np.clip(gradient + random.normal(0, 15, width), 0, 255)
    return pixels


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def measure(megapixels: float, model: str, max_memory: int | None) -> dict[str, object]:
    """One size, in this process."""
    from denoise_ext.tasks import Denoiser

    denoiser = Denoiser(network(model), sigma=15.0, max_memory=max_memory)
    pixels = image(megapixels)
    before = resident("VmRSS")
    start = time.perf_counter()
    result = denoiser.run(pixels)
    seconds = time.perf_counter() - start
    above = max(0, resident("VmHWM") - before)
    return {
        "megapixels": pixels.size / 1e6,
        "tiles": result.tiles,
        "seconds": seconds,
        "seconds_per_megapixel": seconds / (pixels.size / 1e6),
        "peak_above_image_mib": above / 2**20,
        "result_mib": result.image.nbytes / 2**20,
    }


def in_a_process(arguments: list[str]) -> dict[str, object]:
    """`measure` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--one"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def plot(rows: list[dict], target: Path, title: str) -> bool:
    """Time and memory over size; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    size = [row["megapixels"] for row in rows]
    for axis, key, label in zip(
        axes, ("seconds", "peak_above_image_mib"), ("seconds", "MiB above the image"), strict=True
    ):
        axis.plot(size, [row[key] for row in rows], "o-")
        axis.set(xlabel="megapixels", ylabel=label, xscale="log")
    axes[0].set_yscale("log")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, metavar="MPX")
    parser.add_argument("--model", default="dxnet_s_gray", help="a shipped model, or tiny")
    parser.add_argument("--max-memory", type=int, metavar="BYTES", help="as of Denoiser")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.sizes[0], args.model, args.max_memory)))
        return
    rows = []
    for size in args.sizes:
        limit = [] if args.max_memory is None else ["--max-memory", str(args.max_memory)]
        rows.append(in_a_process(["--sizes", str(size), "--model", args.model, *limit]))
        print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    from harness.provenance import commit, processor
    from on_cpu.machine import versions

    facts = {
        "model": args.model, "processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": versions(), "commit": commit(), "max_memory": args.max_memory,
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    target = args.output / f"large_images_{args.model}.json"
    target.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    if plot(rows, target.with_suffix(".png"), f"{args.model} on {facts['processor']}"):
        print(f"written: {target} and {target.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
