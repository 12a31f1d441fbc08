"""The command line: ``denoise-ext COMMAND ...``.

Each command has one module with ``add_arguments(parser)`` and ``run(args) -> exit code``, and a
line in ``COMMANDS``. Only the module of the chosen command is loaded. It imports torch in ``run``,
so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from denoise_ext import __version__
from denoise_ext.cli._parser import Parser
from denoise_ext.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    CliError,
    import_modules,
    in_options,
    one_line,
)

# command -> (summary, the examples at the end of its --help)
COMMANDS = {
    "denoise": (
        "denoise image files",
        "denoise-ext denoise photo.png scans/ -o cleaned/ --sigma 15\n"
        "  denoise-ext denoise map.tif -o map_clean.tif --max-memory 1.5GB\n"
        "  denoise-ext denoise - -o - --tile 512 --alpha denoise < sprite.png > clean.png\n"
        "  denoise-ext denoise scans/ -o cleaned/ --recursive --resume\n"
        "  denoise-ext denoise depth.png -o clean.png --guide photo.png --model joint_bilateral",
    ),
    "video": (
        "denoise a video file, or y4m in a pipe",
        "denoise-ext video night.mp4 clean.mkv --sigma 15\n"
        "  denoise-ext video - - < night.y4m | ffplay -",
    ),
    "deblur": (
        "undo blur in image files",
        "denoise-ext deblur shaken.png -o sharp.png --kernel motion:15,30\n"
        "  denoise-ext deblur scans/ -o sharp/ --kernel psf.png --sigma 5 --resume\n"
        "  denoise-ext deblur shaken.png -o sharp.png --kernel blind:25 --save-kernel psf.png",
    ),
    "upscale": (
        "enlarge image files, noisy ones too",
        "denoise-ext upscale small.png -o large.png --scale 4\n"
        "  denoise-ext upscale scans/ -o large/ --model realesr-general-x4v3.pth --resume",
    ),
    "compress": (
        "compress image files and remove their noise: DXC",
        "denoise-ext compress noisy.png -o clean.dxc\n"
        "  denoise-ext compress photos/ -o small/ --quality 60",
    ),
    "decompress": (
        "write the images of DXC files",
        "denoise-ext decompress clean.dxc -o clean.png\n"
        "  denoise-ext decompress small/ -o photos/ --format tif",
    ),
    "explain": (
        "write a report about one denoised image: HTML",
        "denoise-ext explain noisy.png -o report.html\n"
        "  denoise-ext explain scan.tif -o report.html --sigma 15 --part 200,100,800,600",
    ),
    "serve": (
        "serve a page and an HTTP API for images",
        "denoise-ext serve\n"
        "  denoise-ext serve --host 0.0.0.0 --port 8080 --token 7f3a --model dxnet_s",
    ),
    "evaluate": (
        "measure PSNR and SSIM of a model on your own images",
        "denoise-ext evaluate photos/ --sigma 15 25 50 --json photos.json\n"
        "  denoise-ext evaluate photos/ --sigma 25 --model my_net.safetensors",
    ),
    "train": (
        "train a model from a configuration file",
        "denoise-ext train recipe.toml --set run.steps=1000",
    ),
    "export": (
        "write a model as an ONNX file, checked in ONNX Runtime",
        "denoise-ext export ffdnet_color_small -o ffdnet.onnx",
    ),
    "finetune": (
        "fine-tune a trained model on your own images",
        "denoise-ext finetune recipe.toml --start ffdnet_color_small --freeze 'body.0.*'",
    ),
    "adapt": (
        "adapt a network to your own noisy images, and keep it if it is better",
        "denoise-ext adapt photos/ -o my_net.safetensors --minutes 10\n"
        "  denoise-ext adapt my_pairs --pairs 'noisy/*.png' 'clean/*.png' -o my_net.safetensors",
    ),
    "models": ("list the models and their trained weights", "denoise-ext models --trained"),
    "demo": (
        "denoise the bundled photograph, print PSNR and times, write pictures",
        "denoise-ext demo -o demo/",
    ),
    "bench": (
        "compare the speed of this package with PyTorch and OpenCV on your machine",
        "denoise-ext bench nets --quick",
    ),
    "info": (
        "print versions, instruction sets and GPU: what is used, and why",
        "denoise-ext info --json",
    ),
}

_EXIT_CODES = """\
exit codes:
  0  everything worked
  1  a problem of the machine or the installation
  2  wrong usage or input
  3  some files failed (they are listed)
  4  adapt: the adapted network is not better, no file was written

Set DENOISE_EXT_DEBUG=1 to print the traceback of an error."""
_EXAMPLE = "example:\n  denoise-ext denoise photo.png -o clean.png --sigma 25"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (and never shows a traceback for a user's error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stderr is None:  # print() would write to stdout instead, into an image
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            return main(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note  # type: ignore[assignment]  # it takes whatever Python gives
            return _run(arguments)
    except KeyboardInterrupt:
        print("denoise-ext: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `denoise-ext models | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (CliError, ValueError, RuntimeError, OSError, MemoryError) as error:
        if os.environ.get("DENOISE_EXT_DEBUG") == "1":
            raise
        print(f"denoise-ext: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, (CliError, ValueError)) else EXIT_FAILED


def _note(message: Warning | str, *_: object) -> None:
    """A warning of a library as one line of ours."""
    print(f"denoise-ext: note: {in_options(str(message))}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    parser, subparsers = _parser()
    if not arguments:
        parser.print_help()
        return EXIT_USAGE
    command = next((a for a in arguments if not a.startswith("-")), None)
    if command in subparsers:
        module = importlib.import_module(f"denoise_ext.cli.{command}")
        module.add_arguments(subparsers[command])
    try:
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            subparsers[args.command].refuse(unknown)
    except SystemExit as end:  # argparse's way out: --help, --version, a usage error
        return int(end.code or 0)
    if getattr(args, "quiet", False):
        warnings.simplefilter("ignore")
    import_modules(getattr(args, "imports", []))
    return importlib.import_module(f"denoise_ext.cli.{args.command}").run(args)


def _parser() -> tuple[Parser, dict[str, Parser]]:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="denoise-ext",
        description="Image denoising: trained networks and filters on the command line.",
        epilog=f"{_EXIT_CODES}\n\n{_EXAMPLE}",
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"denoise-ext {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    made = {}
    for name, (summary, example) in COMMANDS.items():
        made[name] = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=("examples" if "\n" in example else "example") + f":\n  {example}",
            formatter_class=raw,
        )
    return parser, made
