"""``denoise-ext deblur INPUT... -o OUT --kernel K``."""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from denoise_ext.cli._restore_jobs import add_batch_arguments, fingerprint_of, run_work
from denoise_ext.cli.common import (
    CliError,
    add_file_arguments,
    add_input_arguments,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    add_value_range_argument,
    check_value_range,
    log_on_stderr,
    run_options,
    sigma_type,
    whole_number,
)

if TYPE_CHECKING:
    from denoise_ext.io import Picture
    from denoise_ext.restore import Blur
    from denoise_ext.runtime import RunOptions
    from denoise_ext.tasks import Result

DESCRIPTION = """\
The blur must be the same everywhere. It is given, or estimated with --kernel blind:SIZE. A network
for white noise is the prior (docs/restore.md). A bad file does not stop the others: it is listed
at the end, and the exit code is 3."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    parser.add_argument(
        "--kernel", required=True, metavar="K",
        help="the blur: a gray image file of odd sides, or gaussian:SIGMA, motion:LENGTH,ANGLE,"
        " disk:RADIUS in pixels and degrees; it is divided by its sum; blind:SIZE estimates a"
        " kernel of SIZE x SIZE pixels from each image",
    )  # fmt: skip
    parser.add_argument(
        "--save-kernel", metavar="FILE",
        help="with blind:SIZE and one image: write the kernel as a gray image, white its maximum",
    )  # fmt: skip
    parser.add_argument(
        "--border", default="free", choices=("free", "circular"),
        help="beyond the edge: nothing is assumed, or the opposite edge (default: free)",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale; a larger one gives a smoother"
        " result (default: estimated for each image)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=whole_number(1), default=8, metavar="N",
        help="passes of the network, besides 6 more with free borders (default: 8)",
    )  # fmt: skip
    add_value_range_argument(parser)
    add_model_arguments(parser)
    add_precision_argument(parser)
    add_memory_arguments(parser)
    add_file_arguments(parser)
    add_batch_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    check_value_range(args)
    logs = log_on_stderr("denoise_ext.restore")
    with contextlib.nullcontext() if args.quiet else logs:
        work = _work(args)
    return run_work(args, work, "deblurring", "deblurred")


@dataclass(frozen=True)
class _Deblurring:
    """What is done to each picture."""

    blur: Blur | None
    """None: estimated for each picture."""
    blind: int
    """Side in pixels of kernels that are estimated."""
    border: str
    saved: str | None
    """File for the estimated kernel."""
    overwrite: bool
    model: str | None
    run: RunOptions
    sigma: float | None
    steps: int
    value_range: tuple[float, float] | None

    def load(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[Picture], Result]:
        """The function that restores a picture."""
        import numpy as np

        from denoise_ext.restore import Blur, Restorer
        from denoise_ext.tasks import Result

        blur = self.blur or Blur(np.ones((1, 1)), self.border)  # replaced for each picture
        restorer = Restorer(
            blur, self.model, sigma=self.sigma, steps=self.steps, **asdict(self.run)
        )

        def process(picture: Picture) -> Result:
            if self.blur is None:  # `run_batch` computes one picture at a time
                restorer.operator = self._estimated(picture)
            done = restorer.run(picture, value_range=self.value_range, progress=progress)
            how = f"{done.steps} steps, {self.border} borders"
            if self.blur is None:
                how += f", kernel of {self.blind} x {self.blind} pixels estimated"
            return Result(
                done.image, done.sigma, done.sigma_estimated, done.seconds, 0, 0, treatment=how
            )

        return process

    def _estimated(self, picture: Picture) -> Blur:
        import numpy as np

        from denoise_ext.io import write_image
        from denoise_ext.restore import Blur, estimate_kernel

        kernel = estimate_kernel(picture, self.blind, value_range=self.value_range)
        if self.saved is not None:
            shown = (kernel / kernel.max() * 65535).round().numpy().astype(np.uint16)
            write_image(self.saved, shown, overwrite=self.overwrite)
        return Blur(kernel, self.border)

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input."""
        kernel = f"blind:{self.blind}" if self.blur is None else self.blur.kernel.tolist()
        return fingerprint_of(
            "deblur", self.model, self.sigma, self.run.precision, self.run.backend,
            self.value_range, kernel=kernel, border=self.border, steps=self.steps,
        )  # fmt: skip


def _work(args: argparse.Namespace) -> _Deblurring:
    options = run_options(args)
    from denoise_ext.restore import Blur
    from denoise_ext.runtime.model_names import check_name

    check_name(args.model)  # a wrong name is one error, not one for each file
    blind = _blind_size(args.kernel)
    blur = Blur(args.kernel, args.border) if blind is None else None
    _check_saved_kernel(args, blur is None)
    return _Deblurring(
        blur, blind or 0, args.border, args.save_kernel, args.overwrite, args.model, options,
        args.sigma, args.steps, args.value_range,
    )  # fmt: skip


def _blind_size(kernel: str) -> int | None:
    """SIZE of blind:SIZE, or None for another kernel."""
    if not kernel.startswith("blind:"):
        return None
    from denoise_ext.restore.fit import check_fit_size

    size = kernel.removeprefix("blind:")
    if not (size.isascii() and size.isdecimal()):
        raise CliError(f"--kernel blind:SIZE takes an odd number of pixels, got {kernel!r}")
    check_fit_size(int(size))
    return int(size)


def _check_saved_kernel(args: argparse.Namespace, blind: bool) -> None:
    if args.save_kernel is None:
        return
    from denoise_ext.io import check_can_write

    if not blind:
        raise CliError("--save-kernel needs --kernel blind:SIZE")
    if len(args.inputs) != 1 or _names_several(args.inputs[0]):
        raise CliError("--save-kernel needs one image as input")
    [source] = args.inputs
    in_folder = os.path.join(args.output, os.path.basename(source))
    taken = {os.path.realpath(path) for path in (source, args.output, in_folder)}
    if os.path.realpath(args.save_kernel) in taken:
        raise CliError(
            f"--save-kernel must be another file than input and output, got {args.save_kernel!r}"
        )
    check_can_write(args.save_kernel, args.overwrite)


def _names_several(argument: str) -> bool:
    """Whether it is a folder, a pattern or a list of files."""
    several = argument.startswith("@") or glob.has_magic(argument)
    return os.path.isdir(argument) or (several and not os.path.exists(argument))
