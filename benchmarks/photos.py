"""Photographs without options: `python benchmarks/photos.py`.

Real noise with a clean partner, white noise that is not announced, clean pictures, and made-up
noise that is not white. For each set and network: PSNR, SSIM and the energy of fine detail of the
result beside that of the clean image (above half of Nyquist's frequency: below 1 detail was lost,
above 1 noise was left), the mean over the images, and the worst gain of any image. Real noise is
that of the files and clean partners differ in more than noise: their figures have a ceiling below
what white noise allows.

`default` is `denoise_ext.denoise` without model and sigma, with the kinds of noise it found.
`oracle` is `dxnet_s_color` at the true level of white noise. `polyu_first` is for choosing,
`polyu_second` for reporting. Images come from $DENOISE_EXT_DATA. Results go to
`results/photos.json` and `.md`, with the training steps of `dxnet_s_photo`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.cli._demo_picture import Result, compose
from denoise_ext.cli.demo import read_photograph
from denoise_ext.data.noise import add_gaussian_noise, add_jpeg_artefacts
from denoise_ext.data.noise.mosaic import demosaic_malvar
from denoise_ext.data.noise.photo import PhotoNoise, add_photo_noise
from denoise_ext.io import read_image, write_image
from denoise_ext.metrics import psnr, ssim
from denoise_ext.models import pretrained_info
from denoise_ext.runtime import load_model
from denoise_ext.tasks import Denoiser

HERE = Path(__file__).resolve().parent
SIDE = 240  # pixels: of the upper left corner of SIDD's pictures that is measured
WHITE = (15.0, 25.0, 50.0)
MADE_UP = 15.0  # sigma that the made-up kinds begin with
SEED_OF_PICTURE = 3
ORACLE, PHOTO = "dxnet_s_color", "dxnet_s_photo"


@dataclass(frozen=True)
class Picture:
    """A noisy image and its clean partner, (1, 3, H, W) in [0, 1]."""

    noisy: Tensor
    clean: Tensor
    sigma: float | None = None  # of white noise


def loaded(path: Path) -> Tensor:
    """(1, 3, H, W), float32."""
    pixels = torch.from_numpy(np.ascontiguousarray(read_image(path)))
    return pixels.permute(2, 0, 1)[None].float() / 255.0


def paired(folder: Path, noisy: str, clean: str) -> list[tuple[Path, Path]]:
    """Files of a folder whose names end in ``noisy``, with those that end in ``clean`` instead."""
    files = sorted(folder.glob(f"*{noisy}"))
    return [(file, file.with_name(file.name.removesuffix(noisy) + clean)) for file in files]


def sidd(data: Path) -> Iterator[Picture]:
    """Phones."""
    for noisy, clean in paired(data / "real/SIDD12", "_noisy.png", "_gt.png"):
        yield Picture(*(loaded(path)[..., :SIDE, :SIDE] for path in (noisy, clean)))


def polyu(data: Path, half: int) -> Iterator[Picture]:
    """Cameras; the first or the second half of the pairs, sorted by name."""
    pairs = paired(data / "real/PolyU100", "_real.JPG", "_mean.JPG")
    middle = len(pairs) // 2
    for noisy, clean in pairs[middle:] if half else pairs[:middle]:
        yield Picture(loaded(noisy), loaded(clean))


def kodak(
    data: Path, spoil: Callable[[Tensor, int], Tensor], sigma: float | None = None
) -> Iterator[Picture]:
    """Kodak24 with noise; ``spoil`` gets the clean image and its place in the list."""
    for place, path in enumerate(sorted((data / "test/Kodak24").iterdir())):
        clean = loaded(path)
        yield Picture(spoil(clean, place), clean, sigma)


def generator(place: int) -> torch.Generator:
    return torch.Generator().manual_seed(place)


def white(sigma: float) -> Callable[[Tensor, int], Tensor]:
    """White Gaussian noise, not clipped."""
    return lambda clean, place: add_gaussian_noise(clean, sigma, generator(place))


def stored(clean: Tensor, place: int) -> Tensor:
    """White noise, then JPEG of quality 75 with colour at half the resolution."""
    return add_jpeg_artefacts(white(MADE_UP)(clean, place), 75)


def luma_only(clean: Tensor, place: int) -> Tensor:
    """The same white noise in all three channels."""
    noise = torch.randn(clean[:, :1].shape, generator=generator(place))
    return eight_bits(clean + noise * MADE_UP / 255.0)


def enlarged(clean: Tensor, place: int) -> Tensor:
    """White noise of half the size, enlarged bicubically."""
    height, width = clean.shape[-2:]
    small = torch.randn(1, 3, (height + 1) // 2, (width + 1) // 2, generator=generator(place))
    noise = F.interpolate(small, scale_factor=2, mode="bicubic")[..., :height, :width]
    return eight_bits(clean + noise * MADE_UP / 255.0)


def bayer(clean: Tensor, place: int) -> Tensor:
    """White noise of a Bayer mosaic, demosaiced (Malvar, He, Cutler), without the picture."""
    sites = white(MADE_UP)(torch.zeros_like(clean[:, :1]), place)
    return eight_bits(clean + demosaic_malvar(sites))


def eight_bits(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255.0).round() / 255.0


SETS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "sidd": sidd,
    "polyu_first": lambda data: polyu(data, 0),
    "polyu_second": lambda data: polyu(data, 1),
    **{
        f"kodak_white_{sigma:g}": lambda data, sigma=sigma: kodak(data, white(sigma), sigma)
        for sigma in WHITE
    },
    "kodak_clean": lambda data: kodak(data, lambda clean, place: clean),
    "kodak_jpeg": lambda data: kodak(data, stored),
    "kodak_luma": lambda data: kodak(data, luma_only),
    "kodak_enlarged": lambda data: kodak(data, enlarged),
    "kodak_bayer": lambda data: kodak(data, bayer),
}
REPORTED = [name for name in SETS if name != "polyu_first"]


class Method:
    """A way to denoise, its time, and the kinds of noise that it found."""

    def __init__(self, denoiser: Denoiser, needs_level: bool = False) -> None:
        self._denoiser, self.needs_level = denoiser, needs_level
        self.kinds: Counter[str] = Counter()
        self.seconds = 0.0

    def __call__(self, noisy: Tensor, sigma: float | None) -> Tensor:
        start = time.process_time()
        result = self._denoiser.run(noisy, sigma if self.needs_level else None)
        self.seconds += time.process_time() - start
        self.kinds.update(profile.kind for profile in result.noise)
        return result.image


def contenders(models: Sequence[str]) -> dict[str, Method]:
    """Name -> method; ``oracle`` is left out for sets without a known level."""
    methods = {
        "default": Method(Denoiser(device="cpu")),
        "oracle": Method(Denoiser(ORACLE, device="cpu"), needs_level=True),
    }
    for name in models:
        base, _, scale = name.partition("@")
        network = load_model(base, "cpu")
        if scale:
            network.noise_scale = float(scale)
        methods[name] = Method(Denoiser(network))
    return methods


def detail_energy(image: Tensor) -> float:
    """Energy of luma at frequencies above half of Nyquist's (a quarter per pixel), radially."""
    luma = (image * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(dim=1)[0]
    spectrum = torch.fft.rfft2(luma - luma.mean()).abs().square()
    rows = torch.fft.fftfreq(luma.shape[0])[:, None]
    columns = torch.fft.rfftfreq(luma.shape[1])[None]
    return spectrum[(rows.square() + columns.square()).sqrt() > 0.25].sum().item()


def figures(output: Tensor, clean: Tensor) -> dict[str, float]:
    """Of one result, which is rounded to 8 bits first."""
    output = eight_bits(output)
    return {
        "psnr": min(99.0, psnr(output, clean).item()),
        "ssim": ssim(output, clean).item(),
        "detail": detail_energy(output) / max(detail_energy(clean), 1e-12),
    }


def measure(name: str, data: Path, methods: dict[str, Method], every: int) -> dict[str, dict]:
    """One set: for the input and every method the means, and the worst gain over the input."""
    values: dict[str, list[dict[str, float]]] = {}
    pixels = 0
    for method in methods.values():
        method.kinds.clear()
        method.seconds = 0.0
    for place, picture in enumerate(SETS[name](data)):
        if place % every:
            continue
        pixels += picture.clean[0, 0].numel()
        given = figures(picture.noisy, picture.clean)
        values.setdefault("input", []).append(given)
        for key, method in methods.items():
            if method.needs_level and picture.sigma is None:
                continue
            row = figures(method(picture.noisy, picture.sigma), picture.clean)
            values.setdefault(key, []).append(row | {"gain": row["psnr"] - given["psnr"]})
    results = {}
    for key, rows in values.items():
        results[key] = {
            figure: float(np.mean([row[figure] for row in rows]))
            for figure in ("psnr", "ssim", "detail")
        }
        results[key]["images"] = len(rows)
        if method := methods.get(key):
            results[key]["worst_gain"] = min(row["gain"] for row in rows)
            results[key]["cpu_seconds_per_megapixel"] = method.seconds / pixels * 1e6
            results[key]["kinds"] = dict(method.kinds)
    return results


HEADER = (
    "| set | method | PSNR, dB | SSIM | detail | worst gain, dB | CPU s/MP | found |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def rows_of(name: str, methods: dict[str, dict]) -> str:
    """Markdown: a row per method."""
    lines = []
    for method, row in methods.items():
        cells = [f"{name} ({row['images']})", method, f"{row['psnr']:.2f}", f"{row['ssim']:.4f}",
                 f"{row['detail']:.2f}"]  # fmt: skip
        if method == "input":
            cells += ["", "", ""]
        else:
            found = ", ".join(f"{count} {kind}" for kind, count in sorted(row["kinds"].items()))
            cells += [f"{row['worst_gain']:+.2f}", f"{row['cpu_seconds_per_megapixel']:.2f}", found]
        lines.append("| " + " | ".join(cells) + " |\n")
    return "".join(lines)


def known(folder: Path) -> dict[str, dict]:
    """Sets that were measured before with the same weights; they are kept."""
    file = folder / "photos.json"
    if not file.is_file():
        return {}
    before = json.loads(file.read_text())
    same = before["weights"]["sha256"] == pretrained_info(PHOTO).sha256
    return before["sets"] if same else {}


def write(results: dict[str, dict], folder: Path) -> None:
    """What there is so far, as JSON and as Markdown."""
    shipped = pretrained_info(PHOTO)
    facts = {"weights": {"name": PHOTO, "steps": shipped.steps, "sha256": shipped.sha256}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "photos.json").write_text(json.dumps(facts | {"sets": results}, indent=2) + "\n")
    weights = f"Weights of `{PHOTO}`: {shipped.steps} steps, sha256 {shipped.sha256[:12]}.\n\n"
    rows = "".join(rows_of(name, results[name]) for name in SETS if name in results)
    (folder / "photos.md").write_text("# Photographs\n\n" + weights + HEADER + rows)


def draw(file: Path) -> None:
    """The bundled photograph with made-up noise of a camera, denoised without options."""
    clean = read_photograph()
    batch = torch.from_numpy(clean).permute(2, 0, 1)[None].float() / 255.0
    noisy = add_photo_noise(batch, PhotoNoise(clean=0, white=0), generator(SEED_OF_PICTURE))
    noisy = (noisy.clamp(0, 1) * 255.0).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    result = Denoiser(device="cpu").run(noisy)
    print(result.treatment)
    panels = []
    for title, pixels in (("noise of a camera", noisy), ("denoise, no option", result.image)):
        x, y = (torch.from_numpy(v).permute(2, 0, 1)[None] / 255.0 for v in (pixels, clean))
        panels.append(Result(title, pixels, psnr(x, y).item(), ssim(x, y).item()))
    write_image(file, compose(panels, clean), overwrite=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME|FILE[@SCALE]",
        help="a blind network (repeatable); @1.4: its noise_scale",
    )  # fmt: skip
    parser.add_argument("--sets", nargs="+", default=REPORTED, choices=list(SETS), metavar="SET")
    parser.add_argument("--without", nargs="+", default=[], choices=["default", "oracle"])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth image alone")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the picture of docs/photos.md alone"
    )
    args = parser.parse_args(argv)
    if args.picture:
        draw(args.picture)
        return 0
    if args.every < 1:
        parser.error(f"--every must be >= 1, got {args.every}")
    data = Path(os.environ.get("DENOISE_EXT_DATA", ""))
    methods = {k: run for k, run in contenders(args.model).items() if k not in args.without}
    results = known(args.output)
    print(HEADER, end="")
    for name in args.sets:
        results[name] = measure(name, data, methods, args.every)
        print(rows_of(name, results[name]), end="", flush=True)
        write(results, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
