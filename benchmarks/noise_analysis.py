"""What `analyse_noise` finds in noise of known kind: `python benchmarks/noise_analysis.py`.

Kodak24 and the 40 photographs that no recipe trains on, in 8 bits. For each kind of noise: how
often which kind was found, and the mean error of the level, with its standard deviation over the
images. The true level is the root mean square of the noise that was added, before clipping. Images
come from $DENOISE_EXT_DATA. Results go to `results/noise_analysis.md`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from denoise_ext.data.noise import add_poisson_gaussian_noise, add_salt_and_pepper_noise
from denoise_ext.tasks import NoiseProfile, analyse_noise
from photos import (
    HERE,
    MADE_UP,
    bayer,
    eight_bits,
    enlarged,
    generator,
    loaded,
    luma_only,
    stored,
    white,
)

HELD_OUT = HERE.parent / "recipes/photos_half_held_out.txt"


@dataclass(frozen=True)
class Kind:
    """Noise that is added: (clean image, its place in the list) -> noisy image."""

    add: Callable[[Tensor, int], Tensor]
    level: Callable[[Tensor], float] | None = None
    """The true level of a clean image's noise; None where no one number describes it."""
    slope: float | None = None
    """The true `variance_slope`."""


def poisson_gaussian(shot: float, read: float) -> Kind:
    def add(clean: Tensor, place: int) -> Tensor:
        return eight_bits(add_poisson_gaussian_noise(clean, shot, read / 255.0, generator(place)))

    return Kind(add, lambda x: 255 * float((shot * x + (read / 255) ** 2).mean().sqrt()), shot)


def impulses(share: float, sigma: float = 0.0) -> Kind:
    def add(clean: Tensor, place: int) -> Tensor:
        noisy = eight_bits(white(sigma)(clean, place)) if sigma else clean
        return add_salt_and_pepper_noise(noisy, share, generator=generator(place + 1000))

    return Kind(add, lambda x: sigma)


def flat(sigma: float) -> Kind:
    return Kind(lambda clean, place: eight_bits(white(sigma)(clean, place)), lambda x: sigma, 0.0)


def gray_as_rgb(clean: Tensor, place: int) -> Tensor:
    luma = (clean * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    return eight_bits(white(MADE_UP)(luma, place)).expand(-1, 3, -1, -1)


KINDS: dict[str, Kind] = {
    "clean": Kind(lambda clean, place: clean),
    **{f"white, {sigma:g}": flat(sigma) for sigma in (3.0, 5.0, 15.0, 25.0, 50.0)},
    "white, 15, gray stored as RGB": Kind(gray_as_rgb, lambda x: MADE_UP, 0.0),
    "variance 0.003 x + (2/255)^2": poisson_gaussian(0.003, 2.0),
    "variance 0.02 x + (4/255)^2": poisson_gaussian(0.02, 4.0),
    "impulses, 1 %": impulses(0.01),
    "impulses, 10 %": impulses(0.10),
    "impulses, 5 %, and white, 15": impulses(0.05, 15.0),
    "white, 15, the same in all channels": Kind(luma_only, lambda x: MADE_UP),
    "white, 15, then JPEG 75": Kind(stored),
    "enlarged": Kind(enlarged),
    "Bayer mosaic, demosaiced": Kind(bayer),
}


def images(data: Path) -> Iterator[Tensor]:
    names = [line for line in HELD_OUT.read_text().splitlines() if not line.startswith("#")]
    held_out = [data / "train/photos_half" / name for name in names]
    for path in [*sorted((data / "test/Kodak24").iterdir()), *held_out]:
        image = loaded(path)
        yield image[..., : image.shape[-2] // 2 * 2, : image.shape[-1] // 2 * 2]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    return f"{mean:.{digits}f}, {deviation:.{digits}f}"


def row(name: str, kind: Kind, clean: Sequence[Tensor]) -> str:
    profiles: list[NoiseProfile] = [
        analyse_noise((kind.add(x, place) * 255).round().to(torch.uint8)[0])
        for place, x in enumerate(clean)
    ]
    found = Counter(profile.kind for profile in profiles).most_common()
    gray = sum(profile.gray_stored_as_rgb for profile in profiles)
    cells = [name, ", ".join(f"{count} {what}" for what, count in found)]
    cells[1] += f" ({gray} gray)" if gray else ""
    levels = [profile.level for profile in profiles]
    if kind.level is None:
        cells += [f"{statistics.fmean(levels):.1f}", ""]
    else:
        true = [kind.level(x) for x in clean]
        errors = [level - t for level, t in zip(levels, true, strict=True)]
        cells += [f"{statistics.fmean(true):.1f}", spread(errors, 1)]
    slopes = [profile.variance_slope for profile in profiles]
    cells.append("" if kind.slope is None else f"{kind.slope:g}: {spread(slopes, 4)}")
    cells.append(spread([profile.scale_ratio for profile in profiles], 2))
    cells.append(spread([profile.channel_correlation for profile in profiles], 2))
    cells.append(spread([100 * profile.impulses for profile in profiles], 2))
    return "| " + " | ".join(cells) + " |\n"


HEADER = (
    "| noise | kinds found | true level (or level found) | error of the level | true slope: found"
    " | scale ratio | channel correlation | impulses found, % |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth image alone")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    if args.every < 1:
        parser.error(f"--every must be >= 1, got {args.every}")
    clean = list(images(Path(os.environ.get("DENOISE_EXT_DATA", ""))))[:: args.every]
    table = (
        f"{len(clean)} images. Pairs of numbers are a mean and a standard deviation.\n\n{HEADER}"
    )
    print(table, end="")
    for name, kind in KINDS.items():
        table += (line := row(name, kind, clean))
        print(line, end="", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "noise_analysis.md").write_text(f"# Analysis of the noise\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
