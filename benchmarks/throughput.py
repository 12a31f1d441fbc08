"""Images per second and peak memory of whole folders, from files to files.

    python benchmarks/throughput.py                 # about 10 minutes; nothing else should run
    python benchmarks/throughput.py --rounds 1 --images 8
    python benchmarks/throughput.py --dry-run       # tiny pictures: does everything work?

Contenders take turns, each in a process of its own: `denoise-ext denoise` with 1 and 2 workers and
on Ray, the same network without files (how long the computing alone takes), and the obvious
PyTorch script, `baselines/torch_folder.py`. Seconds are those from the first file to the last, with
the network loaded (and for Ray, the actors not yet started); memory is the largest resident size
of the process. Pictures are the bundled photograph, shifted; the network is a DnCNN of 17 layers,
64 wide, whose last layer is nearly zero, so that outputs are photographs too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import denoise_ext
from denoise_ext import io, models

HERE = Path(__file__).resolve().parent
PHOTOGRAPH = Path(denoise_ext.__file__).parent / "assets" / "kodim21.png"
FORMATS = ("png", "jpg", "tif")  # tif: 16 bits per channel
PLAIN, COMPUTE, RAY = "PyTorch script", "computing alone", "Ray, local"
WORKERS = {"denoise-ext, 1 worker": 1, "denoise-ext, 2 workers": 2}


# --- what is measured ------------------------------------------------------------------------


def make_folder(folder: Path, suffix: str, count: int, size: tuple[int, int]) -> None:
    """Pictures that differ: shifted by a prime number of columns."""
    folder.mkdir()
    width, height = size
    photograph = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))[:height, :width]
    for index in range(count):
        picture = np.ascontiguousarray(np.roll(photograph, 17 * index, 1))
        if suffix == "tif":
            picture = picture.astype(np.uint16) * 257
        io.write_image(folder / f"{index:04}.{suffix}", picture)


def make_weights(folder: Path, depth: int, width: int) -> tuple[Path, Path]:
    """The same network for the package and for the script."""
    torch.manual_seed(0)
    model = models.create_model("dncnn_color", depth=depth, width=width, batch_norm=False).eval()
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        convolutions[-1].weight.mul_(1e-3)
    ours, plain = folder / "dncnn.safetensors", folder / "dncnn.pth"
    models.save_model(model, ours)
    model = models.load_checkpoint(ours)  # a file has 16-bit weights: both get those
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    state = {}
    for index, convolution in enumerate(convolutions):
        for name, parameter in convolution.named_parameters():
            state[f"layers.{2 * index}.{name}"] = parameter.detach().clone()
    torch.save(state, plain)
    return ours, plain


def compute_alone(weights: str, source: str) -> None:
    """Pictures in memory through the same `Denoiser`, one after the other; planning is in it."""
    denoiser = denoise_ext.Denoiser(weights)
    pictures = [io.read_picture(path).frames[0] for path in sorted(Path(source).iterdir())]
    start = time.perf_counter()
    for picture in pictures:
        denoiser(picture)
    seconds = time.perf_counter() - start
    print(json.dumps({"images": len(pictures), "seconds": seconds}))


def measure(command: list[str], threads: int) -> dict[str, float]:
    """Run a contender: its own seconds and images, and its peak memory by the system."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    )
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
        said.seek(0)
        facts = json.loads(said.read().splitlines()[-1])
    images = facts.get("images", facts.get("written"))
    peak = usage.ru_maxrss / 1024  # KiB -> MiB
    return {"images_per_second": images / facts["seconds"], "peak_mib": peak}


def contenders(
    suffix: str, source: Path, out: Path, ours: Path, plain: Path, with_ray: bool
) -> dict[str, list[str]]:
    python = [sys.executable]
    command = [*python, "-m", "denoise_ext.cli", "denoise", str(source), "-o", str(out), "--json",
               "--model", str(ours)]  # fmt: skip
    found = {name: [*command, "--workers", str(n)] for name, n in WORKERS.items()}
    found[COMPUTE] = [*python, str(HERE / "throughput.py"), "--compute", str(ours), str(source)]
    if suffix == "png" and with_ray:
        cores = str(torch.get_num_threads())
        found[RAY] = [*command, "--engine", "ray", "--cpus-per-actor", cores]
    if suffix != "tif":  # Pillow does not read 16-bit colour
        script = str(HERE / "baselines" / "torch_folder.py")
        found[PLAIN] = [*python, script, str(plain), str(source), str(out)]
    return found


# --- running and reporting ---------------------------------------------------------------------


def run(args: argparse.Namespace) -> dict:
    size, depth, width = ((96, 64), 3, 8) if args.dry_run else ((768, 512), 17, 64)
    images, rounds = (3, 1) if args.dry_run else (args.images, args.rounds)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        ours, plain = make_weights(Path(folder), depth, width)
        for suffix in args.formats:
            make_folder(Path(folder) / suffix, suffix, images, size)
        for turn in range(rounds):
            for suffix in args.formats:
                out = Path(folder) / f"out-{turn}-{suffix}"
                source = Path(folder) / suffix
                found = contenders(suffix, source, out, ours, plain, not args.no_ray)
                for number, (name, command) in enumerate(found.items()):
                    command = [str(out) + f"-{number}" if c == str(out) else c for c in command]
                    result = measure(command, args.threads)
                    results.setdefault(suffix, {}).setdefault(name, []).append(result)
                    rate, peak = result["images_per_second"], result["peak_mib"]
                    line = f"{suffix} {name}: {rate:.2f} images/s, {peak:.0f} MiB"
                    print(line, file=sys.stderr, flush=True)
    return {
        "machine": platform.processor() or platform.machine(), "threads": args.threads,
        "torch": torch.__version__, "denoise_ext": denoise_ext.__version__, "images": images,
        "size": list(size), "network": f"DnCNN, {depth} layers, {width} wide, RGB",
        "results": results, "summary": summarised(results),
    }  # fmt: skip


def summarised(results: dict) -> dict[str, dict[str, float]]:
    """Medians; the share of the time that is not computing; times faster than the script."""
    found = {}
    for suffix, contender in results.items():
        rates = {
            name: statistics.median(r["images_per_second"] for r in rounds)
            for name, rounds in contender.items()
        }
        best = max(rates[name] for name in WORKERS)
        found[suffix] = {
            **{f"{name}: images/s": round(rate, 3) for name, rate in rates.items()},
            "share of reading and writing": round(1 - best / rates[COMPUTE], 4),
        }
        if PLAIN in rates:
            found[suffix]["times the script's images/s"] = round(best / rates[PLAIN], 2)
    return found


def draw(report: dict, target: Path) -> None:
    """A panel for each format, a bar for each contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    results = report["results"]
    figure, panels = plt.subplots(
        1, len(results), figsize=(11, 2.6), layout="constrained", squeeze=False
    )
    for panel, (suffix, contender) in zip(panels[0], results.items()):
        rates = {
            name: statistics.median(r["images_per_second"] for r in rounds)
            for name, rounds in contender.items()
        }
        colours = ["#1b6ca8" if name in WORKERS else "#b8c4ce" for name in rates]
        bars = panel.barh(list(rates), list(rates.values()), color=colours)
        panel.bar_label(bars, fmt="%.2f", padding=3)
        panel.invert_yaxis()
        panel.margins(x=0.2)
        bits = "16 bits per channel" if suffix == "tif" else "8 bits per channel"
        panel.set(title=f"{suffix}, {bits}", xlabel="images/s")
        panel.spines[["top", "right"]].set_visible(False)
    width, height = report["size"]
    figure.suptitle(f"{report['network']}, {width}x{height}, {report['threads']} threads")
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of whole folders.")
    parser.add_argument("--images", type=int, default=24, help="files in a folder (default: 24)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", help="where to put the pictures (default: the system's)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    parser.add_argument("--name", default="throughput", help="of the results' files")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    parser.add_argument("--dry-run", action="store_true", help="tiny pictures, no figures kept")
    parser.add_argument("--compute", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compute:
        compute_alone(*args.compute)
        return
    report = run(args)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{args.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(report, args.output / f"{args.name}.png")
    print(json.dumps(report["summary"], indent=1))


if __name__ == "__main__":
    main()
