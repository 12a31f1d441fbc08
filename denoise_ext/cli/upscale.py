"""``denoise-ext upscale INPUT... -o OUT``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from denoise_ext.cli._restore_jobs import add_batch_arguments, fingerprint_of, run_work
from denoise_ext.cli.common import (
    add_file_arguments,
    add_guide_arguments,
    add_input_arguments,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    add_value_range_argument,
    check_guide,
    check_value_range,
    max_pixels,
    run_options,
    sigma_type,
    whole_number,
)

if TYPE_CHECKING:
    from denoise_ext.io import Picture
    from denoise_ext.restore import Upscaled
    from denoise_ext.tasks import Result

DESCRIPTION = """\
A network enlarges each image and removes its noise (docs/upscale.md). Pictures keep their physical
size: the resolution (DPI) grows with the pixels. A bad file does not stop the others: it is listed
at the end, and the exit code is 3."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    parser.add_argument(
        "--scale", type=whole_number(1), metavar="N",
        help="rows and columns of the result for one of the image: 2, 3 or 4, with a guide 2 to 16"
        " (default: that of the model or the guide; without either 2)",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale; 0: the images are clean (default:"
        " estimated for each image, 0 with a guide); blind models ignore it",
    )  # fmt: skip
    add_value_range_argument(parser)
    add_guide_arguments(parser, "2 to 16 times as large")
    add_model_arguments(parser, "dxnet_s_guided with a guide; else srnet_s of the scale")
    add_precision_argument(parser)
    add_memory_arguments(parser)
    add_file_arguments(parser)
    add_batch_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    check_value_range(args)
    check_guide(args)
    return run_work(args, _work(args), "upscaling", "upscaled")


@dataclass(frozen=True)
class _Upscaling:
    """What is done to each picture."""

    enlarge: Callable[[Picture], Upscaled]
    model: str
    sigma: float | None
    precision: str
    backend: str
    value_range: tuple[float, float] | None
    guide: dict[str, Any]

    def load(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[Picture], Result]:
        """The function that enlarges a picture; one pass has no steps to report."""
        from denoise_ext.tasks import Result

        def process(picture: Picture) -> Result:
            done = self.enlarge(picture)
            how = f"{done.scale} times the size"
            return Result(
                done.image, done.sigma, done.sigma_estimated, done.seconds, done.tiles, 0,
                treatment=how,
            )  # fmt: skip

        return process

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input."""
        return fingerprint_of(
            "upscale", self.model, self.sigma, self.precision, self.backend, self.value_range,
            **self.guide,
        )  # fmt: skip


def _work(args: argparse.Namespace) -> _Upscaling:
    options: dict[str, Any] = {
        **asdict(run_options(args)), "sigma": args.sigma, "max_pixels": max_pixels(args)
    }  # fmt: skip
    from denoise_ext.restore import GuidedUpscaler, Upscaler
    from denoise_ext.restore.upscaler import default_upscaler
    from denoise_ext.tasks.guide import GUIDED
    from denoise_ext.tasks.processor import guide_facts, read_guide

    enlarge: Callable[[Picture], Upscaled]
    if args.guide is None:
        upscaler = Upscaler(args.model, args.scale, **options)
        model = args.model or default_upscaler(upscaler.scale)
        enlarge = partial(upscaler.run, value_range=args.value_range)
    else:
        model = args.model or GUIDED
        guided = GuidedUpscaler(model, args.scale, holes=args.holes, **options)
        guide = read_guide(args.guide)
        enlarge = partial(guided.run, guide=guide, value_range=args.value_range)
    return _Upscaling(
        enlarge, model, args.sigma, args.precision, args.backend, args.value_range,
        guide_facts(args.guide, args.holes),
    )  # fmt: skip
