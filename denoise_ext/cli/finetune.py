"""``denoise-ext finetune CONFIG.toml --start MODEL``."""

from __future__ import annotations

import argparse

from denoise_ext.cli import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    train.add_arguments(parser)
    parser.add_argument(
        "--start", metavar="NAME|CHECKPOINT",
        help="start from these weights: a model with shipped weights or a checkpoint file; instead"
        " of the configuration's model.start",
    )  # fmt: skip
    parser.add_argument(
        "--freeze", action="append", default=[], metavar="PATTERN",
        help="parameters that stay fixed, e.g. 'body.0.*' (repeatable); instead of model.freeze",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext.training.config import override

    more = []
    if args.start is not None:
        more.append(override("model.start", args.start))
    if args.freeze:
        more.append(override("model.freeze", args.freeze))
    return train.train_from(args, more, start_required=True)
