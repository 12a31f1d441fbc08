"""Bits and quality of compressed noisy pictures: `python benchmarks/codec.py`.

Pictures of Kodak with white noise, rounded to 8 bits, and clean ones. Each goes through JPEG, WebP,
AVIF and JPEG XL (where Pillow has them) as it is, and after `Denoiser` at the noise's level. The
codec that ships, or that of `--model FILE`, takes the noisy picture itself. Bits are those of
whole files. PSNR and SSIM are to the clean picture. The tables have the mean PSNR at a rate: each
picture's curve is interpolated over the logarithm of its bits.

Pictures come from $DENOISE_EXT_DATA/test/Kodak_full. Results go to `results/codec.json`,
`results/codec.md` and `results/codec_sigma*.png`.
"""

from __future__ import annotations

import argparse
import io as streams
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from denoise_ext import Denoiser
from denoise_ext.codec import CodedNetwork, load_codec
from denoise_ext.codec import decode as decode_dxc
from denoise_ext.codec import encode as encode_dxc
from denoise_ext.io import picture_of, read_image, read_picture, write_picture
from denoise_ext.metrics import psnr, ssim

HERE = Path(__file__).resolve().parent
SIGMAS = (0.0, 15.0, 25.0)
RATES = (0.3, 0.4, 0.5, 0.6, 0.8)  # bits per pixel that tables have
GAIN_RATES = RATES[:4]
QUALITIES = {
    "JPEG": (10, 20, 35, 50, 65, 80, 90),
    "WEBP": (1, 10, 25, 45, 65, 80, 90),
    "AVIF": (20, 30, 40, 50, 60, 70, 80),
    "JXL": (10, 25, 40, 55, 70, 80, 90),
    "DXC": (0, 15, 30, 45, 60, 80, 100),
}
Point = dict[str, float]
Method = Callable[[np.ndarray, float, int], tuple[bytes, np.ndarray]]


def by_file(format: str) -> Method:
    """A format that `denoise_ext.io` writes at a quality."""

    def method(image: np.ndarray, sigma: float, quality: int) -> tuple[bytes, np.ndarray]:
        stream = streams.BytesIO()
        write_picture(stream, picture_of(image), format=format, quality=quality)
        return stream.getvalue(), read_picture(stream.getvalue()).frames[0]

    return method


def by_pillow(image: np.ndarray, sigma: float, quality: int) -> tuple[bytes, np.ndarray]:
    """JPEG XL by a plugin of Pillow's."""
    stream = streams.BytesIO()
    Image.fromarray(image).save(stream, format="JXL", quality=quality)
    return stream.getvalue(), np.array(Image.open(streams.BytesIO(stream.getvalue())))


def by_codec(codec: CodedNetwork) -> Method:
    """A sealed codec, which is given the level."""

    def method(image: np.ndarray, sigma: float, quality: int) -> tuple[bytes, np.ndarray]:
        data = encode_dxc(image, quality, sigma, model=codec)
        return data, decode_dxc(data, model=codec)

    return method


def methods(codec: CodedNetwork) -> dict[str, Method]:
    """What is installed here."""
    found = {name: by_file(name) for name in ("JPEG", "WEBP")}
    if features.check("avif"):
        found["AVIF"] = by_file("AVIF")
    try:
        import pillow_jxl  # noqa: F401  it registers

        found["JXL"] = by_pillow
    except ImportError:
        print("JPEG XL is left out: pip install pillow-jxl-plugin")
    found["DXC"] = by_codec(codec)
    return found


def point(clean: np.ndarray, data: bytes, made: np.ndarray) -> Point:
    """Bits per pixel of a file, and PSNR and SSIM of what it holds."""
    one, other = (torch.from_numpy(x).permute(2, 0, 1)[None] / 255.0 for x in (clean, made))
    return {
        "bpp": 8 * len(data) / (clean.shape[0] * clean.shape[1]),
        "psnr": psnr(one, other).item(),
        "ssim": ssim(one, other).item(),
    }


def measured(
    files: Sequence[Path], found: dict[str, Method]
) -> Iterator[tuple[str, str, float, list[Point]]]:
    """Name of a picture, method, sigma, and its points."""
    for number, file in enumerate(files):
        clean = read_image(file)
        for sigma in SIGMAS:
            noise = np.random.default_rng(number).normal(0, sigma, clean.shape) if sigma else 0
            noisy = (clean + noise).clip(0, 255).round().astype(np.uint8)
            inputs = {"": noisy}
            if sigma:
                inputs["denoised, "] = Denoiser(sigma=sigma)(noisy)
            for name, method in found.items():
                for how, image in inputs.items():
                    if name == "DXC" and how:
                        continue  # it denoises itself
                    points = [
                        point(clean, *method(image, sigma, quality)) for quality in QUALITIES[name]
                    ]
                    yield file.stem, how + name, sigma, points
        print(f"{file.stem}: done", flush=True)


def psnr_at(points: Sequence[Point], rate: float) -> float:
    """PSNR of a curve at a rate; NaN outside of it."""
    ordered = sorted((item["bpp"], item["psnr"]) for item in points)
    bits, quality = zip(*ordered)
    if not bits[0] <= rate <= bits[-1]:
        return float("nan")
    return float(np.interp(np.log(rate), np.log(bits), quality))


def table(results: dict[str, dict[str, dict[str, list[Point]]]]) -> str:
    """Mean PSNR of all pictures at each rate, for each noise level."""
    lines = []
    for sigma, by_method in results.items():
        count = max(len(curves) for curves in by_method.values())
        noise = f"white noise of sigma {sigma}" if float(sigma) else "clean pictures"
        lines += [f"**{noise}**, {count} pictures, PSNR in dB to the clean one at bits per pixel",
                  "", "| method | " + " | ".join(f"{rate:g}" for rate in RATES) + " |",
                  "|---|" + "---:|" * len(RATES)]  # fmt: skip
        for method, curves in by_method.items():
            cells = []
            for rate in RATES:
                values = [psnr_at(points, rate) for points in curves.values()]
                known = not np.isnan(values).any()
                cells.append(f"{np.mean(values):.2f}" if known else "-")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append('"-": some picture has no file of that rate.')
    return "\n".join(lines) + "\n"


def gains(results: dict[str, dict[str, dict[str, list[Point]]]]) -> str:
    """dB of the codec over the other formats, of pictures that both have a file of at a rate."""
    lines = [
        "Gain of DXC in dB: the mean, the worst picture, and the number of pictures that both have",
        "a file of at that rate.",
        "",
        "| noise, over | " + " | ".join(map(str, GAIN_RATES)) + " |",
        "|---|" + "---:|" * len(GAIN_RATES),
    ]
    for sigma, by_method in results.items():
        ours = by_method["DXC"]
        rivals = [name for name in by_method if name.startswith("denoised") or not float(sigma)]
        for rival in rivals:
            if rival == "DXC":
                continue
            cells = []
            for rate in GAIN_RATES:
                pairs = [(ours[i], by_method[rival][i]) for i in ours]
                values = np.array([psnr_at(a, rate) - psnr_at(b, rate) for a, b in pairs])
                values = values[~np.isnan(values)]
                cells.append(
                    f"{values.mean():+.2f} ({values.min():+.2f}, {len(values)})"
                    if len(values)
                    else "-"
                )
            lines.append(f"| {sigma}, {rival} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, dict[str, dict[str, list[Point]]]], folder: Path) -> None:
    """A picture for each noise level: mean PSNR and SSIM over mean bits, quality by quality."""
    from matplotlib.figure import Figure

    for sigma, by_method in results.items():
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2), ("psnr", "ssim")):
            for method, curves in by_method.items():
                bits, quality = (
                    np.mean([[item[key] for item in points] for points in curves.values()], axis=0)
                    for key in ("bpp", metric)
                )
                style = "-" if method.startswith(("denoised", "DXC")) or not float(sigma) else ":"
                axes.plot(bits, quality, style, marker=".", label=method)
            axes.set_xlim(0, 2)
            axes.set_xlabel("bits per pixel")
            axes.set_ylabel({"psnr": "PSNR to the clean picture, dB", "ssim": "SSIM"}[metric])
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        figure.suptitle(f"Kodak, white noise of sigma {sigma}" if float(sigma) else "Kodak, clean")
        figure.savefig(folder / f"codec_sigma{sigma}.png", dpi=100)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="file of a sealed codec (default: the one that ships)")
    parser.add_argument("--images", type=int, default=24, help="pictures (default: all 24)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    args = parser.parse_args()
    folder = Path(os.environ.get("DENOISE_EXT_DATA", "")) / "test/Kodak_full"
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit(f"no pictures in {folder}: set DENOISE_EXT_DATA")
    files = files[:: max(1, len(files) // args.images)][: args.images]
    codec = load_codec(args.model)
    results: dict[str, dict[str, dict[str, list[Point]]]] = {}
    for name, method, sigma, points in measured(files, methods(codec)):
        results.setdefault(f"{sigma:g}", {}).setdefault(method, {})[name] = points
    args.output.mkdir(parents=True, exist_ok=True)
    facts = {"codec": codec.digest.hex(), "results": results}
    (args.output / "codec.json").write_text(json.dumps(facts, indent=1) + "\n")
    text = f"# Bits and quality\n\n{table(results)}\n{gains(results)}"
    (args.output / "codec.md").write_text(text)
    draw(results, args.output)
    print(text)


if __name__ == "__main__":
    main()
