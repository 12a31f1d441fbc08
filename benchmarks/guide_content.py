"""What a guide can tell about the noise that is left: `python benchmarks/guide_content.py`.

`dxnet_s_gray` denoises images of the training data without their guides.  What is left of the noise
is cut into squares of 12 x 12 pixels.  A combination of the guide's channels and a constant is
fitted to each square by least squares, with the truth in hand.  What the fit takes off is more than
a filter that is linear in the guide there, such as the guided filter (He, Sun, Tang, 2013), can.

Any picture takes off something: the fit has four numbers for each square.  So the same is done with
the guide mirrored, and the gain of a guide is what it takes off beyond that.  A guide that
is the clean image itself shows how much such fits can see at all.

He, Sun, Tang: "Guided Image Filtering", IEEE Transactions on Pattern Analysis and Machine
Intelligence 35 (6), 2013.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from denoise_ext.tasks import Denoiser
from guided import DEPTH_TRAINING, SETS, Pair, Set, decibels, pairs_of, with_noise
from harness.provenance import commit

HERE = Path(__file__).resolve().parent
SIDE = 12  # of a square
RIDGE = 1e-6  # in the normal equations: squares where the guide is flat
NETWORK = "dxnet_s_gray"


def rows() -> list[tuple[str, Set, float]]:
    """What is measured: name, set and noise level."""
    depth = [("RGB-D-D depth", DEPTH_TRAINING, sigma) for sigma in (10.0, 25.0)]
    return [*depth, ("RoadScene infrared", SETS["RoadScene"], 25.0)]


def squares(image: np.ndarray) -> np.ndarray:
    """(H, W, C) to (n, SIDE * SIDE, C): the whole squares of an image."""
    rows, columns = (side // SIDE for side in image.shape[:2])
    cut = image[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, -1)
    return cut.swapaxes(1, 2).reshape(rows * columns, SIDE * SIDE, -1)


def explained(error: np.ndarray, guide: np.ndarray) -> float:
    """Part of the squared error (H, W) that is a combination of the guide (H, W, C), in [0, 1]."""
    target = squares(error.astype(np.float64)[..., None])
    known = squares(guide.astype(np.float64) / 255)
    known = np.concatenate([np.ones_like(known[..., :1]), known], axis=2)
    products = known.swapaxes(1, 2) @ known + RIDGE * np.eye(known.shape[2])
    fitted = known @ np.linalg.solve(products, known.swapaxes(1, 2) @ target)
    return 1.0 - float(np.sum((target - fitted) ** 2) / np.sum(target**2))


def gain(error: np.ndarray, guide: np.ndarray) -> float:
    """Decibels that the guide takes off the error, beyond what it takes off mirrored."""
    mirrored = (explained(error, guide[:, ::-1]) + explained(error, guide[::-1])) / 2
    return 10.0 * float(np.log10((1.0 - mirrored) / (1.0 - explained(error, guide))))


def measure(pairs: Sequence[Pair], sigma: float) -> dict[str, float]:
    """PSNR without a guide, and the decibels that guides take off; means over the pairs."""
    denoiser = Denoiser(NETWORK, sigma=sigma)
    found: dict[str, list[float]] = {"psnr": [], "guide": [], "clean": []}
    for image, guide in pairs:
        made = denoiser(with_noise(image, sigma))
        error = made.clip(0.0, 1.0) - image / 255
        found["psnr"].append(decibels(made, image))
        found["guide"].append(gain(error, guide))
        found["clean"].append(gain(error, image[..., None]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of each set")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    lines = [
        "# What a guide can tell about the noise that is left",
        "",
        f"Commit {commit()}, `{NETWORK}`, every {args.every}. pair of the training data. Gains in"
        f" dB, of fits in squares of {SIDE} x {SIDE} pixels that know the truth, beyond those with"
        " the guide mirrored.",
        "",
        f"| images | sigma | pairs | PSNR of `{NETWORK}` | the guide | the clean image as guide |",
        "|---|---|---|---|---|---|",
    ]
    for name, chosen, sigma in rows():
        pairs = pairs_of(data, chosen, trained=True)[:: args.every]
        found = measure(pairs, sigma)
        lines.append(
            f"| {name} | {sigma:g} | {len(pairs)} | {found['psnr']:.2f} | {found['guide']:+.2f} |"
            f" {found['clean']:+.2f} |"
        )
        print(lines[-1], flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "guide_content.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
