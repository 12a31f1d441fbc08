"""How much of a training step goes into waiting for data.

    python benchmarks/data_wait.py RECIPE.toml

Trains the recipe for some steps in a folder that is thrown away and reads the log's ``waited`` and
``seconds``. The first run also decodes the images into the cache, before the first step.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import torch

from denoise_ext.training import load_config, train


def measure(recipe: str, steps: int, overrides: list[str]) -> tuple[float, float]:
    """Seconds in all steps, and seconds of them spent waiting for batches."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            *overrides, f"run.out={folder}", f"run.steps={steps}", f"run.log_every={steps}",
            f"run.checkpoint_every={steps}", "schedule.warmup_steps=0", "validation.images=0",
            "run.tensorboard=off",
        ]  # fmt: skip
        train(load_config(recipe, settings))
        with open(Path(folder) / "log.csv", newline="") as file:
            (row,) = csv.DictReader(file)
    return float(row["seconds"]), float(row["waited"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE.toml")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    args = parser.parse_args()
    for workers in (0, 1):
        overrides = [*args.overrides, f"data.workers={workers}"]
        seconds, waited = measure(args.recipe, args.steps, overrides)
        print(
            f"data.workers={workers}: {seconds / args.steps * 1000:.1f} ms a step, "
            f"{100 * waited / seconds:.1f} % of it waiting ({torch.get_num_threads()} threads)"
        )


if __name__ == "__main__":
    main()
