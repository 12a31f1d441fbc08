"""One 512x512 picture from the start of a process to the file, beside the obvious PyTorch script.

    python benchmarks/one_image.py                 # about 3 minutes; nothing else should run
    python benchmarks/one_image.py --rounds 5
    python benchmarks/one_image.py --dry-run       # 64x64, one round: does everything work?

`denoise-ext denoise IN -o OUT --sigma 25` and `baselines/torch_one_image.py` take turns, each a
process of its own, with the same network (dxnet_s_gray), weights, sigma and number of threads.  The
clock runs from before the process is made until it has ended: interpreter, imports, weights, plan,
computing, PNG.  "importing torch" is a process that does nothing else: what no such script is
without.  The results are compared first: both round the same numbers, so that few pixels differ,
and those by one level.  Target: at most 0.8 of the script's time.
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
from denoise_ext import models
from denoise_ext._timing import PAUSE, busy_seconds

HERE = Path(__file__).resolve().parent
PHOTOGRAPH = Path(denoise_ext.__file__).parent / "assets" / "kodim21.png"
MODEL, SIGMA = "dxnet_s_gray", "25"
OURS, PLAIN, IMPORT = "denoise-ext denoise", "PyTorch script", "importing torch"
TARGET = 0.8


def make_picture(path: Path, side: int) -> None:
    """The bundled photograph in gray, with noise."""
    clean = np.asarray(Image.open(PHOTOGRAPH).convert("L"))[:side, :side].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, float(SIGMA), clean.shape)
    Image.fromarray((clean + noise).clip(0, 255).round().astype(np.uint8)).save(path)


def make_weights(path: Path) -> None:
    """The shipped weights under the names of the script's layers."""
    state = models.create_model(MODEL, pretrained=True).state_dict()
    one_level = {
        key.replace("encoder.0.", "encoder.").replace("decoder.0.", "decoder.")
        .replace("down.0.", "down.").replace("up.0.", "up."): value
        for key, value in state.items()
    }  # fmt: skip
    torch.save(one_level, path)


def contenders(folder: Path) -> dict[str, list[str]]:
    """name -> command."""
    source, python = str(folder / "in.png"), sys.executable
    ours = [python, "-m", "denoise_ext.cli", "denoise", source, "-o", str(folder / "ours.png")]
    script = [python, str(HERE / "baselines" / "torch_one_image.py"), str(folder / "weights.pth")]
    return {
        OURS: [*ours, "--sigma", SIGMA, "--overwrite"],
        PLAIN: [*script, source, str(folder / "plain.png"), SIGMA],
        IMPORT: [python, "-c", "import torch"],
    }


def seconds(command: list[str], threads: int) -> float:
    """Wall clock of a whole process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    )
    start = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {process.stderr.strip()}")
    return taken


def check_results(folder: Path) -> int:
    """How many pixels differ; SystemExit if any does by more than one level."""
    ours, plain = (
        np.asarray(Image.open(folder / name)).astype(int) for name in ("ours.png", "plain.png")
    )
    if ours.shape != plain.shape or abs(ours - plain).max() > 1:
        raise SystemExit("the two results are not the same picture")
    return int((ours != plain).sum())


def run(args: argparse.Namespace) -> dict:
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_picture(folder / "in.png", 64 if args.dry_run else 512)
        make_weights(folder / "weights.pth")
        commands = contenders(folder)
        for command in commands.values():  # warm: files in memory, bytecode written
            seconds(command, args.threads)
        different = check_results(folder)
        names = list(commands)
        everyone, start = busy_seconds(), time.perf_counter()
        own = os.times()
        for turn in range(1 if args.dry_run else args.rounds):
            first = turn % len(names)
            for contender in names[first:] + names[:first]:
                time.sleep(PAUSE)
                times.setdefault(contender, []).append(seconds(commands[contender], args.threads))
        used = sum(b - a for a, b in zip(own[:4], os.times()[:4], strict=True))
        load = None
        if everyone is not None:
            load = max(busy_seconds() - everyone - used, 0) / (time.perf_counter() - start)
    medians = {contender: statistics.median(values) for contender, values in times.items()}
    return {
        "processor": denoise_ext.info()["cpu"]["processor"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": args.threads,
        "other_load_cores": load,
        "different_pixels": different,
        "seconds": times,
        "median": medians,
        "of_the_script": medians[OURS] / medians[PLAIN],
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "one_image.json")
    args = parser.parse_args()
    results = run(args)
    for name, median in results["median"].items():
        print(f"{name:<22}{median:6.2f} s")
    print(f"{results['of_the_script']:.2f} of the script's time (target: {TARGET} at most)")
    if not args.dry_run:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
