"""``denoise-ext deblur INPUT... -o OUT --kernel K``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from denoise_ext.cli._restore_jobs import add_batch_arguments, fingerprint_of, run_work
from denoise_ext.cli.common import (
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
The blur must be known and the same everywhere. A network for white noise is the prior
(docs/restore.md). A bad file does not stop the others: it is listed at the end, and the exit code
is 3."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    parser.add_argument(
        "--kernel", required=True, metavar="K",
        help="the blur: a gray image file of odd sides, or gaussian:SIGMA, motion:LENGTH,ANGLE,"
        " disk:RADIUS in pixels and degrees; it is divided by its sum",
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

    blur: Blur
    model: str | None
    run: RunOptions
    sigma: float | None
    steps: int
    value_range: tuple[float, float] | None

    def load(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[Picture], Result]:
        """The function that restores a picture."""
        from denoise_ext.restore import Restorer
        from denoise_ext.tasks import Result

        restorer = Restorer(
            self.blur, self.model, sigma=self.sigma, steps=self.steps, **asdict(self.run)
        )

        def process(picture: Picture) -> Result:
            done = restorer.run(picture, value_range=self.value_range, progress=progress)
            how = f"{done.steps} steps, {self.blur.border} borders"
            return Result(
                done.image, done.sigma, done.sigma_estimated, done.seconds, 0, 0, treatment=how
            )

        return process

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input."""
        return fingerprint_of(
            "deblur", self.model, self.sigma, self.run.precision, self.run.backend,
            self.value_range, kernel=self.blur.kernel.tolist(), border=self.blur.border,
            steps=self.steps,
        )  # fmt: skip


def _work(args: argparse.Namespace) -> _Deblurring:
    options = run_options(args)
    from denoise_ext.restore import Blur
    from denoise_ext.runtime.model_names import check_name

    check_name(args.model)  # a wrong name is one error, not one for each file
    blur = Blur(args.kernel, args.border)
    return _Deblurring(blur, args.model, options, args.sigma, args.steps, args.value_range)
