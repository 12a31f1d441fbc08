"""``denoise-ext demo``: noise, two ways to remove it, the figures, the time, a picture."""

from __future__ import annotations

import argparse
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from denoise_ext.cli.common import CliError, add_model_arguments, output_console, whole_number

if TYPE_CHECKING:
    import numpy as np
    import torch

    from denoise_ext.cli._demo_picture import Result
    from denoise_ext.models import ImageDenoiser

PHOTOGRAPH = "kodim21.png"
SIGMA, SEED = 25.0, 0

# Of windows of 5 to 9 pixels, sigma_color 0.25 to 0.8 and sigma_space 1 to 3 the choice with the
# highest mean PSNR (27.39 dB) on 192 x 192 pieces of eight other Kodak images with the same kind of
# noise (20.41 dB).
BILATERAL: dict[str, Any] = {"kernel_size": 9, "sigma_color": 0.4, "sigma_space": (1.7, 1.7)}

OUTPUTS = ("noisy.png", "bilateral.png", "denoised.png", "before_after.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "-o", "--output", default="denoise-ext-demo", metavar="DIR",
        help="folder for the pictures (default: denoise-ext-demo)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo's files")
    parser.add_argument(
        "--repeats", type=whole_number(1), default=7, metavar="N",
        help="timed runs of each network (default: 7)",
    )  # fmt: skip
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext.cli import _demo_picture
    from denoise_ext.io import write_image

    folder = _prepare(Path(args.output), args.overwrite)
    clean = read_photograph()
    noisy = add_noise(clean)
    name, model = _model(args)
    results = [
        _result(f"noisy, sigma {SIGMA:g}", noisy, clean),
        _result("bilateral filter", filter_bilateral(noisy, args.backend), clean),
        _result(name, _denoise(noisy, model), clean),
    ]
    for output, result in zip(OUTPUTS, results, strict=False):
        write_image(folder / output, result.pixels, args.overwrite)
    write_image(folder / OUTPUTS[3], _demo_picture.compose(results, clean), args.overwrite)
    _print_quality(results)
    _print_times(model, noisy, args)
    console = output_console()
    console.print(f"\nbefore and after: {folder / OUTPUTS[3]}")
    console.print(f"also in {folder}/: {', '.join(OUTPUTS[:3])}")
    return 0


def _prepare(folder: Path, overwrite: bool) -> Path:
    from denoise_ext.io import check_can_write

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
    for name in OUTPUTS:
        if (folder / name).exists() and not overwrite:
            raise CliError(
                f"{str(folder / name)!r} exists: name another folder with -o, or use --overwrite"
            )
        check_can_write(folder / name, overwrite)
    return folder


def read_photograph() -> np.ndarray:
    """The bundled photograph, (512, 768, 3) uint8."""
    from denoise_ext.io import read_image

    with resources.as_file(resources.files("denoise_ext") / "assets" / PHOTOGRAPH) as path:
        return read_image(path)


def add_noise(clean: np.ndarray) -> np.ndarray:
    """White Gaussian noise, then clipped and rounded to 8 bits: an image file as a camera's is."""
    import torch

    from denoise_ext.data.noise import add_gaussian_noise
    from denoise_ext.tasks import from_unit, to_unit

    generator = torch.Generator().manual_seed(SEED)
    noisy = add_gaussian_noise(to_unit(torch.from_numpy(clean)), SIGMA, generator)
    return from_unit(noisy, torch.uint8).numpy()


def _model(args: argparse.Namespace) -> tuple[str, ImageDenoiser]:
    from denoise_ext.runtime import open_network
    from denoise_ext.runtime.model_names import member

    name = member(args.model, 3)
    network = open_network(name, args.device, None, args.backend, channels=3)
    return Path(name).name, cast("ImageDenoiser", network)


def _denoise(noisy: np.ndarray, model: ImageDenoiser) -> np.ndarray:
    from denoise_ext.tasks import denoise

    return denoise(noisy, model, SIGMA if model.needs_sigma else None)


def filter_bilateral(noisy: np.ndarray, backend: str) -> np.ndarray:
    """The bilateral filter with the parameters above, on the CPU."""
    import torch

    from denoise_ext import ops, reference
    from denoise_ext.tasks import from_unit

    blur = (ops if backend == "native" else reference).bilateral_blur
    with torch.inference_mode():
        filtered = blur(_unit_batch(noisy), **BILATERAL)  # (1, 3, H, W)
        return from_unit(filtered, torch.uint8)[0].permute(1, 2, 0).numpy()


def _unit_batch(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1], channels last."""
    import torch

    from denoise_ext.tasks import to_unit

    return to_unit(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])


def _result(title: str, pixels: np.ndarray, clean: np.ndarray) -> Result:
    from denoise_ext.cli._demo_picture import Result
    from denoise_ext.metrics import psnr, ssim

    a, b = _unit_batch(pixels), _unit_batch(clean)
    return Result(title, pixels, float(psnr(a, b)[0]), float(ssim(a, b)[0]))


def _print_quality(results: list[Result]) -> None:
    from rich.table import Table

    console = output_console()
    console.print(
        f"{PHOTOGRAPH} (Kodak, 768 x 512) with Gaussian noise of sigma {SIGMA:g} (seed {SEED},"
        " clipped and rounded to 8 bits); outputs measured as 8-bit images\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("PSNR, dB", "gain", "SSIM"):
        table.add_column(heading, justify="right")
    for result in results:
        gain = result.psnr - results[0].psnr
        table.add_row(
            result.title,
            f"{result.psnr:.2f}",
            f"{gain:+.2f}" if result is not results[0] else "",
            f"{result.ssim:.4f}",
        )
    console.print(table)
    space = BILATERAL["sigma_space"][0]
    console.print(
        f"\nbilateral filter: {BILATERAL['kernel_size']} x {BILATERAL['kernel_size']} window,"
        f" sigma_color {BILATERAL['sigma_color']:g}, sigma_space {space:g} pixels"
    )


def _print_times(model: ImageDenoiser, noisy: np.ndarray, args: argparse.Namespace) -> None:
    """The network as it runs here against the same weights in plain PyTorch."""
    import torch

    from denoise_ext._timing import compare
    from denoise_ext.nn import to_torch

    console = output_console()
    if args.backend == "torch":
        console.print("\ntime: not compared with --backend torch")
        return
    device = next(model.parameters()).device
    x = _unit_batch(noisy).to(device)
    sigma = SIGMA if model.needs_sigma else None

    def run(network: torch.nn.Module) -> None:
        network(x, sigma)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    networks = {"denoise_ext": model, "plain PyTorch": to_torch(model)}
    calls = {name: partial(run, network) for name, network in networks.items()}
    with torch.inference_mode():
        times = compare(calls, 0.0, rounds=(args.repeats, args.repeats)).timings
    console.print(
        f"\ntime of the network for this image ({device.type}, {torch.get_num_threads()} threads,"
        f" float32, channels_last; median of {args.repeats} interleaved runs, 10th to 90th"
        " percentile):"
    )
    for name, one in times.items():
        median, low, high = (1e3 * seconds for seconds in (one.median, one.low, one.high))
        console.print(f"  {name:<14}{median:8.1f} ms   ({low:.1f} to {high:.1f})")
    ratio = times["plain PyTorch"].median / times["denoise_ext"].median
    console.print(f"  plain PyTorch takes {ratio:.2f} times as long as denoise_ext here")
