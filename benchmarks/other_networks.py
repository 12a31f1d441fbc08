"""Other people's networks: `accelerate` beside the model as given and beside channels_last.

    pip install spandrel timm torchvision segmentation-models-pytorch monai
    pip install diffusers compressai deepinv
    python benchmarks/other_networks.py                        # what is installed, a quiet machine
    python benchmarks/other_networks.py --only nafnet swinir   # names that contain one of these
    python benchmarks/other_networks.py --output FOLDER        # not benchmarks/results
    python benchmarks/other_networks.py --dry-run              # one round: does everything work?

Networks have random weights: times do not depend on them. The packages are no dependencies of
denoise_ext, and a network whose package is missing is listed as such. The three contenders take
turns. The last columns are what is planned and how many of the convolutions are replaced.
Targets: both ratios at least 0.98 for every network, and those of `TARGETS`. Results are written
as other_networks.json and other_networks.md, unless `--only` names some.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import denoise_ext
from denoise_ext._timing import compare
from harness.provenance import commit, processor

TARGET = 0.98
# Against the better of the two, beyond that.
TARGETS = {
    "spandrel NAFNet": 1.5, "deepinv Restormer": 1.25, "spandrel SCUNet": 1.15,
    "spandrel SwinIR": 1.05, "monai BasicUNet": 1.6, "monai DynUNet": 1.6,
    "timm convnext_tiny": 1.1, "compressai MeanScaleHyperprior": 1.3, "spandrel SPAN": 1.5,
    "spandrel PLKSR": 1.5,
}  # fmt: skip
MOST = 0.8  # of the convolutions replaced: the median of such networks is a target, too
MEDIAN = 2.0
PACKAGES = (
    "spandrel", "timm", "torchvision", "segmentation-models-pytorch", "monai", "diffusers",
    "compressai", "deepinv",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network: where its class or function is, its arguments, and the shape of its input."""

    name: str
    where: str  # "package.module:name"
    arguments: tuple = ()
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (1, 3, 256, 256)
    more: tuple = ()  # further arguments of the call

    def build(self) -> nn.Module:
        """The network in eval mode; ImportError if its package is missing."""
        module, name = self.where.split(":")
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        torch.manual_seed(0)
        return found(*self.arguments, **self.options).eval()


def _spandrel(name: str, folder: str, cls: str, /, shape=(1, 3, 256, 256), **options) -> Case:
    return Case(f"spandrel {name}", f"spandrel.architectures.{folder}:{cls}", (), options, shape)


def _timm(name: str) -> Case:
    return Case(f"timm {name}", "timm:create_model", (name,), {}, (1, 3, 224, 224))


def _torchvision(name: str) -> Case:
    return Case(f"torchvision {name}", f"torchvision.models:{name}", (), {}, (1, 3, 224, 224))


def _segmentation(name: str) -> Case:
    options = {"encoder_name": "resnet18", "encoder_weights": None}
    return Case(f"smp {name}", f"segmentation_models_pytorch:{name}", (), options)


def _compression(name: str, *arguments) -> Case:
    return Case(f"compressai {name}", f"compressai.models:{name}", arguments)


_SMALL = (1, 3, 64, 64)
CASES = [
    _spandrel("NAFNet", "NAFNet", "NAFNet", width=32, middle_blk_num=2,
              enc_blk_nums=[1, 1, 2], dec_blk_nums=[1, 1, 1]),
    _spandrel("SwinIR", "SwinIR", "SwinIR", _SMALL, depths=[4, 4], num_heads=[6, 6], embed_dim=60,
              window_size=8, upsampler="pixelshuffledirect", upscale=2),
    _spandrel("Swin2SR", "Swin2SR", "Swin2SR", _SMALL, window_size=8),
    _spandrel("SCUNet", "SCUNet", "SCUNet", config=[1, 1, 1, 1, 1, 1, 1]),
    _spandrel("SPAN", "SPAN", "SPAN", _SMALL, num_in_ch=3, num_out_ch=3),
    _spandrel("PLKSR", "PLKSR", "PLKSR", _SMALL, n_blocks=8),
    _spandrel("RealPLKSR", "PLKSR", "RealPLKSR", _SMALL, n_blocks=8),
    _spandrel("ESRGAN", "ESRGAN", "ESRGAN", _SMALL, num_blocks=4),
    _spandrel("Compact", "Compact", "Compact"),
    _spandrel("RealCUGAN 2x", "RealCUGAN", "UpCunet2x", (1, 3, 128, 128)),
    _spandrel("DRUNet", "DRUNet", "DRUNet", (1, 4, 256, 256), in_nc=4, out_nc=3),
    _spandrel("DnCNN", "DnCNN", "DnCNN", in_nc=3, out_nc=3),
    _spandrel("FBCNN", "FBCNN", "FBCNN", (1, 3, 128, 128)),
    _spandrel("KBNet s", "KBNet", "KBNet_s", (1, 3, 128, 128)),
    _spandrel("SAFMN", "SAFMN", "SAFMN", _SMALL, dim=36),
    _spandrel("SeemoRe", "SeemoRe", "SeemoRe", _SMALL),
    _spandrel("MoSR", "MoSR", "MoSR", _SMALL),
    _spandrel("OmniSR", "OmniSR", "OmniSR", _SMALL),
    _spandrel("RCAN", "RCAN", "RCAN", _SMALL),
    _spandrel("DAT", "DAT", "DAT", _SMALL),
    _spandrel("HAT", "HAT", "HAT", _SMALL, window_size=16, overlap_ratio=0.5),
    _spandrel("Uformer", "Uformer", "Uformer", (1, 3, 128, 128), img_size=128),
    _spandrel("RetinexFormer", "RetinexFormer", "RetinexFormer", (1, 3, 128, 128)),
    _spandrel("SwiftSRGAN", "SwiftSRGAN", "SwiftSRGAN", _SMALL),
    _spandrel("DITN", "DITN", "DITN", _SMALL),
    _spandrel("DCTLSA", "DCTLSA", "DCTLSA", _SMALL),
    _spandrel("MixDehazeNet", "MixDehazeNet", "MixDehazeNet", (1, 3, 128, 128)),
    *map(_timm, ["convnext_tiny", "resnet50", "efficientnet_b0", "mobilenetv3_large_100",
                 "regnety_016", "repvgg_a2", "vit_small_patch16_224",
                 "swin_tiny_patch4_window7_224",
                 "edgenext_small", "mobileone_s1"]),
    *map(_torchvision, ["resnet18", "vgg16", "mobilenet_v2", "densenet121", "squeezenet1_1",
                        "shufflenet_v2_x1_0", "googlenet", "regnet_y_400mf", "convnext_tiny"]),
    *map(_segmentation, ["Unet", "UnetPlusPlus", "FPN", "Linknet", "MAnet", "PSPNet",
                         "DeepLabV3Plus"]),
    _compression("FactorizedPrior", 128, 192),
    _compression("ScaleHyperprior", 128, 192),
    _compression("MeanScaleHyperprior", 128, 192),
    Case("monai BasicUNet", "monai.networks.nets:BasicUNet", (),
         {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, (1, 1, 256, 256)),
    Case("monai DynUNet", "monai.networks.nets:DynUNet", (2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3),
         {}, (1, 1, 256, 256)),
    Case("monai UNet", "monai.networks.nets:UNet", (2, 1, 2, (16, 32, 64, 128), (2, 2, 2)), {},
         (1, 1, 256, 256)),
    Case("monai SegResNet", "monai.networks.nets:SegResNet", (2, 8, 1, 2), {}, (1, 1, 256, 256)),
    Case("monai DynUNet 3-D", "monai.networks.nets:DynUNet",
         (3, 1, 2, [3] * 3, [1, 2, 2], [2] * 2), {}, (1, 1, 32, 64, 64)),
    Case("diffusers UNet2DModel", "diffusers:UNet2DModel", (),
         {"sample_size": 64, "block_out_channels": (32, 64, 64), "norm_num_groups": 8,
          "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3},
         _SMALL, (10,)),
    Case("diffusers AutoencoderKL", "diffusers:AutoencoderKL", (),
         {"block_out_channels": (32, 64), "norm_num_groups": 8,
          "down_block_types": ("DownEncoderBlock2D",) * 2,
          "up_block_types": ("UpDecoderBlock2D",) * 2}, (1, 3, 128, 128)),
    Case("deepinv DRUNet", "deepinv.models:DRUNet", (), {"pretrained": None}, (1, 3, 128, 128),
         (0.1,)),
    Case("deepinv DnCNN", "deepinv.models:DnCNN", (), {"pretrained": None}),
    Case("deepinv Restormer", "deepinv.models:Restormer", (),
         {"pretrained": None, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
         (1, 3, 128, 128)),
    Case("deepinv UNet", "deepinv.models:UNet", (), {"in_channels": 3, "out_channels": 3}),
]  # fmt: skip


@dataclass
class Result:
    """What was measured; times in milliseconds."""

    name: str
    given: float
    channels_last: float
    ours: float
    planned: str
    replaced: int
    convolutions: int
    error: float | None
    quiet: bool

    @property
    def ratios(self) -> tuple[float, float]:
        """Against the model as given, and against it in channels_last."""
        return self.given / self.ours, self.channels_last / self.ours

    @property
    def target(self) -> float:
        """What the smaller of the ratios should be at least."""
        return TARGETS.get(self.name, TARGET)


def contenders(case: Case) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """The network as given, in channels_last and accelerated, each with its image."""
    model = case.build()
    x = torch.rand(case.shape)
    # A copy as it is: `accelerate` shares the model's state.
    last, y = copy.deepcopy(model), x
    if x.dim() == 4:
        last = last.to(memory_format=torch.channels_last)
        y = x.contiguous(memory_format=torch.channels_last)
    given = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model, (x.clone(), *case.more))
    return {"given": (given, x), "channels_last": (last, y), "ours": (fast, x)}


def called(network: nn.Module, image: torch.Tensor, case: Case) -> object:
    """The result for a copy of the image: RCAN writes to its argument."""
    return network(image.clone(), *case.more)


def measure(case: Case, seconds: float) -> Result:
    """Time the three contenders in turn."""
    networks = contenders(case)

    def call(network: nn.Module, image: torch.Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return called(network, image, case)

        return run

    found = compare(
        {name: call(*contender) for name, contender in networks.items()},
        seconds, rounds=(3, 51) if seconds else (1, 1),
    )  # fmt: skip
    times = {name: 1e3 * timing.median for name, timing in found.timings.items()}
    rows = networks["ours"][0].report().rows
    plans = [row for row in rows if row.variant == "plan"]
    planned = "whole" if any(not row.module for row in plans) else f"{len(plans)} parts"
    convolutions = [row for row in rows if "conv" in row.site]
    replaced = sum(row.variant not in ("original", "left out") for row in convolutions)
    errors = [row.error for row in plans if row.error is not None]
    return Result(
        case.name, **times, planned=planned if plans else "original",
        replaced=replaced, convolutions=len(convolutions), error=max(errors, default=None),
        quiet=found.quiet,
    )  # fmt: skip


def show(result: Result) -> None:
    """One line of the table."""
    given, last = result.ratios
    print(
        f"{result.name:32} {result.given:9.2f} {result.channels_last:9.2f} {result.ours:9.2f}"
        f" {given:7.2f} {last:7.2f}  {result.planned:10}"
        f" {f'{result.replaced}/{result.convolutions}':9}"
        f" {'' if min(given, last) >= result.target else f'below {result.target:g}'}"
        f"{'' if result.quiet else ' (busy)'}",
        flush=True,
    )


def summary(results: list[Result]) -> dict[str, Any]:
    """What the targets ask for."""
    smaller = {r.name: min(r.ratios) for r in results}
    most = [
        smaller[r.name] for r in results if r.convolutions and r.replaced >= MOST * r.convolutions
    ]  # fmt: skip
    return {
        "networks": len(results),
        "planned whole": sum(r.planned == "whole" for r in results),
        f"below {TARGET}": sorted(name for name, ratio in smaller.items() if ratio < TARGET),
        "below their targets": {
            r.name: r.target for r in results if r.target > TARGET and smaller[r.name] < r.target
        },
        f"median where {100 * MOST:.0f} % of the convolutions are replaced": median(most)
        if most
        else None,
        "target of that median": MEDIAN,
        "measured while other processes ran": sorted(r.name for r in results if not r.quiet),
    }


def in_words(found: Any) -> str:
    """A value of the summary for a reader."""
    if isinstance(found, dict):
        return ", ".join(f"{name} ({target:g})" for name, target in found.items()) or "none"
    if isinstance(found, list):
        return ", ".join(found) or "none"
    return f"{found:.2f}" if isinstance(found, float) else str(found)


def facts() -> dict[str, Any]:
    """Where the results come from."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": commit(), "processor": processor(), "python": platform.python_version(),
        "torch": torch.__version__, "threads": torch.get_num_threads(), "packages": versions,
    }  # fmt: skip


def page(origin: dict[str, Any], results: list[Result], missing: dict[str, str]) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in origin["packages"].items() if v)
    lines = [
        "# Networks of other people",
        "",
        f"Commit {origin['commit']}, {origin['processor']}, {origin['threads']} threads,"
        f" Python {origin['python']}, torch {origin['torch']}, {versions}.",
        "",
        "Milliseconds, medians of calls in turn. The ratios are those of the model as given and in",
        "channels_last to `accelerate`.",
        "",
        "| network | given | channels_last | ours | given / ours | channels_last / ours | planned |"
        " convolutions replaced | target |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for r in results:
        given, last = r.ratios
        met = "" if min(given, last) >= r.target else ", missed"
        lines.append(
            f"| {r.name} | {r.given:.1f} | {r.channels_last:.1f} | {r.ours:.1f} | {given:.2f} |"
            f" {last:.2f} | {r.planned} | {r.replaced} of {r.convolutions} | {r.target:g}{met} |"
        )
    lines += ["", *(f"- {name}: {in_words(found)}" for name, found in summary(results).items())]
    lines += [f"- {name} was not measured: {reason}" for name, reason in missing.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="names that contain one of these")
    parser.add_argument("--seconds", type=float, default=2.5, help="per network")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--output", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    os.environ["DENOISE_EXT_CACHE"] = "off"  # decisions are part of what is measured
    parts = [part.lower() for part in options.only] or [""]
    wanted = [case for case in CASES if any(part in case.name.lower() for part in parts)]
    origin = facts()  # of the files as they were when it began
    print(f"{'network':32} {'given ms':>9} {'last ms':>9} {'ours ms':>9}   given    last  plan")
    results, missing = [], {}
    for case in wanted:
        try:
            results.append(measure(case, 0.0 if options.dry_run else options.seconds))
        except Exception as error:  # a package that is missing, or of another version
            missing[case.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{case.name:32} {missing[case.name]}", flush=True)
        else:
            show(results[-1])
    for name, found in summary(results).items():
        print(f"{name}: {found}")
    folder = options.output
    if folder is None and not options.only and not options.dry_run and results:
        folder = Path(__file__).parent / "results"
    if folder is not None:
        rows = [{**asdict(r), "ratios": r.ratios, "target": r.target} for r in results]
        whole = {**origin, "summary": summary(results), "networks": rows, "missing": missing}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "other_networks.json").write_text(json.dumps(whole, indent=1) + "\n")
        (folder / "other_networks.md").write_text(page(origin, results, missing))
    return 0 if options.dry_run or all(min(r.ratios) >= TARGET for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
