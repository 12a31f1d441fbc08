"""What ``denoise-ext compress`` and ``decompress`` share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from denoise_ext.cli._restore_jobs import add_batch_arguments
from denoise_ext.cli.common import add_max_pixels_argument

if TYPE_CHECKING:
    from denoise_ext.io import Picture
    from denoise_ext.tasks import Result


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --overwrite, --recursive, --max-pixels and those of a batch."""
    parser.add_argument(
        "--model", metavar="FILE",
        help="weights of a sealed codec (default: those that ship, where there are any)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--recursive", action="store_true", help="include sub-folders")
    add_max_pixels_argument(parser)
    add_batch_arguments(parser)


@dataclass(frozen=True)
class CodecWork:
    """Reads or writes DXC files: the codec itself runs where the file is read or written."""

    task: str
    """"compress" or "decompress"."""
    model: str | None
    options: dict[str, Any]

    def load(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[Picture], Result]:
        """The function that checks a picture; it raises ImageError for one of the wrong kind."""
        from denoise_ext.codec import DXC, load_codec, register_format
        from denoise_ext.io import ImageError
        from denoise_ext.tasks import Result

        load_codec(self.model)  # a wrong file is one error, not one for each picture
        register_format(self.model, **self.options)
        compresses = self.task == "compress"

        def process(picture: Picture) -> Result:
            began = time.perf_counter()
            if (picture.format == DXC) == compresses:
                raise ImageError(f"is {'already' if compresses else 'not'} a DXC file")
            return Result(
                picture, None, False, time.perf_counter() - began, 0, 0, treatment=f"{self.task}ed"
            )

        return process

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input."""
        from denoise_ext import __version__
        from denoise_ext.codec import load_codec

        weights = load_codec(self.model).digest.hex()
        return {"version": __version__, "task": self.task, "weights": weights, **self.options}
