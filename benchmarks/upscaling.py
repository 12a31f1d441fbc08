"""Quality and speed of upscaling: Set5, Set14, B100, clean and noisy; 1280 x 720 pixels out.

    python benchmarks/upscaling.py --model runs/srnet_s_x2/model.safetensors   # upscaling.md
    python benchmarks/upscaling.py --model net.pth --sets Set5 --output out    # a part
    python benchmarks/upscaling.py --model net.pth --time                      # times alone

PSNR is that of published tables.  Images are cut to multiples of the scale and reduced by
`resampling.imresize`, as MATLAB's imresize does, and rounded to 8 bits.  The luma of the clipped
and rounded result (ITU-R BT.601, 16 to 235) is compared, without a border of `scale` pixels.  Noise
is white, not clipped, of generator seed 0 anew for every image.  "first denoised" is
`dxnet_s_color` at that level, and then the same upscaler at level 0.  "Reduced again" is the PSNR
of the result at the size of the input, to the clean image at that size: what is left of the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from denoise_ext._timing import compare
from denoise_ext.data import add_gaussian_noise
from denoise_ext.io import list_images, read_image
from denoise_ext.metrics import luma, psnr, ssim
from denoise_ext.models import ImageUpscaler, create_model
from denoise_ext.nn import to_torch
from denoise_ext.resampling import imresize
from denoise_ext.restore.upscaler import default_upscaler
from denoise_ext.runtime import Session, load_model
from harness.cases import Absent
from harness.provenance import commit, processor
from on_cpu import competitors

HERE = Path(__file__).resolve().parent
SETS = {"Set5": "test/Set5", "Set14": "test/Set14", "B100": "train/BSDS500/val"}
SIZE = (720, 1280)  # rows, columns of the result that is timed
Method = Callable[[Tensor], Tensor]


def rounded(x: Tensor) -> Tensor:
    """As a file of 8 bits has it."""
    return (x.clamp(0, 1) * 255).round() / 255


def large_image(path: Path, scale: int) -> Tensor:
    """(1, 3, H, W), H and W multiples of the scale."""
    pixels = torch.from_numpy(read_image(path))
    if pixels.dim() == 2:
        pixels = pixels[..., None].expand(*pixels.shape, 3)
    rows, columns = (side // scale * scale for side in pixels.shape[:2])
    return pixels[:rows, :columns, :3].permute(2, 0, 1)[None].float() / 255


def figures(made: Tensor, clean: Tensor, scale: int) -> dict[str, float]:
    """PSNR in dB and SSIM of the luma, and the PSNR of what is reduced again."""
    inner = (..., slice(scale, -scale), slice(scale, -scale))
    a, b = luma(rounded(made)), luma(clean)
    small = [imresize(x, Fraction(1, scale)) for x in (a, b)]
    return {
        "psnr": psnr(a[inner], b[inner]).item(),
        "ssim": ssim(a[inner], b[inner]).item(),
        "reduced": psnr(*small).item(),
    }


def methods(model: ImageUpscaler, sigma: float) -> dict[str, Method]:
    """What is compared at a level of noise."""
    level = sigma if model.needs_sigma else None
    found: dict[str, Method] = {
        "bicubic": lambda x: imresize(x, model.scale),
        "model": lambda x: model(x, level),
    }
    if sigma:
        denoiser = create_model("dxnet_s_color", pretrained=True)
        clean_level = 0.0 if model.needs_sigma else None
        found["first denoised"] = lambda x: model(denoiser(x, sigma), clean_level)
    return found


def measure(model: ImageUpscaler, files: Sequence[Path], sigma: float) -> dict[str, dict]:
    """Mean figures of each method."""
    compared = methods(model, sigma)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    with torch.inference_mode():
        for path in files:
            clean = large_image(path, model.scale)
            small = rounded(imresize(clean, Fraction(1, model.scale)))
            if sigma:
                small = add_gaussian_noise(small, sigma, torch.Generator().manual_seed(0))
            for name, method in compared.items():
                found[name].append(figures(method(small), clean, model.scale))
    return {
        name: {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        for name, rows in found.items()
    }


class _At(nn.Module):
    """A network with a level of noise, as one input and one output."""

    def __init__(self, model: ImageUpscaler) -> None:
        super().__init__()
        self.model = to_torch(model).eval()

    def forward(self, x: Tensor) -> Tensor:
        inputs = {"image": x}
        if self.model.needs_sigma:
            inputs["noise_map"] = x.new_zeros(1, 1, 1, 1)
        return self.model.compute(inputs, {})[0]["image"]


def times(model: ImageUpscaler, seconds: float) -> dict[str, dict]:
    """Seconds for an image of `SIZE` by each runtime, interleaved."""
    shape = (1, model.in_channels, *(side // model.scale for side in SIZE))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    session, plain = Session(model, "default", True), _At(model)
    inputs = model.inputs_for(x, 0.0 if model.needs_sigma else None)
    threads = torch.get_num_threads()
    contenders = {"denoise_ext": lambda: session.run(inputs)}
    with torch.inference_mode():
        for name, make in (
            (
                competitors.CHANNELS_LAST,
                lambda: competitors.torch_eager(plain, x, torch.channels_last),
            ),
            (competitors.COMPILED, lambda: competitors.torch_compiled(plain, x, False)),
            (
                competitors.OPENVINO,
                lambda: competitors.openvino(competitors.OnnxModel(plain, x), threads),
            ),
        ):
            try:
                contenders[name] = make()
            except Absent as reason:
                print(f"{name}: {reason}", file=sys.stderr)
        compared = compare(contenders, seconds)
    if not compared.quiet:
        print(f"other processes kept {compared.other_load:.2f} cores busy", file=sys.stderr)
    return {
        name: {"seconds": timing.median, "low": timing.low, "high": timing.high}
        for name, timing in compared.timings.items()
    } | {"machine": {"threads": threads, "other_load": compared.other_load}}


def table(facts: dict) -> str:
    """What there is, as Markdown."""
    lines = [
        "# Upscaling",
        "",
        f"`{facts['model']}`, {facts['scale']} times the size, {facts['parameters'] / 1e6:.2f} M"
        " weights. PSNR in dB / SSIM of the luma, border cropped by the scale. In brackets, with"
        " noise: PSNR of the result reduced again.",
        "",
        "| set | images | sigma | bicubic | model | first denoised |",
        "|---|---|---|---|---|---|",
    ]
    for row in facts["quality"]:
        found = row["figures"]
        cells = [
            _cell(found[name], row["sigma"]) if name in found else "-"
            for name in ("bicubic", "model", "first denoised")
        ]
        lines.append(
            f"| {row['set']} | {row['images']} | {row['sigma']:g} | " + " | ".join(cells) + " |"
        )
    if facts["times"]:
        machine = facts["times"]["machine"]
        lines += [
            "",
            f"{SIZE[1]} x {SIZE[0]} pixels out, {machine['threads']} threads of"
            f" {facts['processor']}; other processes kept {machine['other_load'] or 0:.1f} cores"
            " busy:",
            "",
            "| runtime | seconds |",
            "|---|---|",
        ]
        lines += [
            f"| {name} | {found['seconds']:.3f} |"
            for name, found in facts["times"].items()
            if name != "machine"
        ]
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, float], sigma: float) -> str:
    reduced = f" ({found['reduced']:.2f})" if sigma else ""
    return f"{found['psnr']:.2f} / {found['ssim']:.4f}{reduced}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="NAME|CHECKPOINT", help="default: srnet_s of --scale")
    parser.add_argument("--scale", type=int, default=2, help="of the default model")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.0, 15.0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of each set")
    parser.add_argument("--time", action="store_true", help="measure times alone")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    name = args.model or default_upscaler(args.scale)
    model = load_model(name, "cpu")
    if not isinstance(model, ImageUpscaler):
        parser.error(f"--model {name} enlarges no images")
    facts = {
        "model": Path(name).name, "scale": model.scale, "commit": commit(),
        "parameters": sum(p.numel() for p in model.parameters()), "processor": processor(),
        "quality": [], "times": {},
    }  # fmt: skip
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    for chosen in [] if args.time else args.sets:
        folder = data / SETS[chosen]
        files = list_images(folder)[:: args.every] if folder.is_dir() else []
        if not files:
            print(f"skipped: needs {SETS[chosen]} in DENOISE_EXT_DATA ({data})")
            continue
        for sigma in args.sigmas:
            found = measure(model, files, sigma)
            row = {"set": chosen, "images": len(files), "sigma": sigma, "figures": found}
            facts["quality"].append(row)
            shown = {key: round(value["psnr"], 2) for key, value in found.items()}
            print(chosen, f"sigma {sigma:g}", shown, flush=True)
    if args.time:
        facts["times"] = times(model, args.seconds)
    args.output.mkdir(parents=True, exist_ok=True)
    stem = "upscaling_times" if args.time else f"upscaling_x{model.scale}"
    (args.output / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (args.output / f"{stem}.md").write_text(table(facts))
    print(table(facts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
