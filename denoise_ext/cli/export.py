"""``denoise-ext export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from denoise_ext.cli.common import add_import_argument, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "model", metavar="NAME|CHECKPOINT",
        help="a model with trained weights (see `denoise-ext models --trained`) or a checkpoint"
        " file",
    )  # fmt: skip
    add_import_argument(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .onnx file")
    parser.add_argument(
        "--opset", type=whole_number(18), default=18, help="version of the operators (default: 18)"
    )
    parser.add_argument(
        "--no-check", action="store_true",
        help="skip the comparison with PyTorch in ONNX Runtime",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext.export import export_onnx
    from denoise_ext.export.onnx import tensors_of
    from denoise_ext.io import check_target
    from denoise_ext.runtime import load_model

    check_target(args.output, args.overwrite)
    model = load_model(args.model, "cpu", "torch")
    difference = export_onnx(
        model, args.output, opset=args.opset, check=not args.no_check, overwrite=args.overwrite
    )
    size = Path(args.output).stat().st_size / 2**20
    print(f"{args.output}: {size:.2f} MiB, ONNX opset {args.opset}")
    for what, tensors in zip(("input", "output"), tensors_of(model), strict=True):
        for name, text in tensors.items():
            print(f"{what}: {name} {text}")
    if difference is None:
        print("not checked in ONNX Runtime")
    else:
        print(f"largest difference from PyTorch in ONNX Runtime: {difference:.1e} of the range")
    return 0
