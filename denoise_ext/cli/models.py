"""``denoise-ext models``."""

from __future__ import annotations

import argparse
import json

from denoise_ext.cli.common import CliError, output_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("pattern", nargs="?", help="only names that match, e.g. 'ffdnet*'")
    parser.add_argument("--trained", action="store_true", help="only models with trained weights")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext.models import list_models

    names = list_models(args.pattern, pretrained=args.trained)
    if not names and args.pattern is not None:
        raise CliError(f"no model matches {args.pattern!r}")
    facts = [describe(name) for name in names]
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_table(facts)
    return 0


def describe(name: str) -> dict[str, object]:
    """Facts about a model and, where it ships with weights, about those."""
    import torch

    from denoise_ext.models import create_model, pretrained_info

    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        model = create_model(name)
    weights = pretrained_info(name)
    facts: dict[str, object] = {
        "name": name,
        "channels": model.in_channels,
        "needs_sigma": model.needs_sigma,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": weights is not None,
    }
    if weights is not None:
        facts |= {
            "noise": weights.noise,
            "psnr": weights.psnr,
            "protocol": weights.protocol,
            "licence": weights.licence,
            "training_data": weights.training_data,
            "recipe": weights.recipe,
            "steps": weights.steps,
            "file": weights.file,
            "bytes": weights.path.stat().st_size if weights.path.is_file() else None,
            "sha256": weights.sha256,
        }
    return facts


def _print_table(facts: list[dict]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "images", "sigma", "parameters", "trained for", "PSNR, dB", "licence"):
        right = heading == "parameters"
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading == "model")
    for model in facts:
        table.add_row(
            model["name"],
            {1: "gray", 3: "colour"}.get(model["channels"], str(model["channels"])),
            "needed" if model["needs_sigma"] else "not used",
            f"{model['parameters']:,}",
            model.get("noise", "no weights shipped"),
            "\n".join(f"{set_}: {db:.2f}" for set_, db in model.get("psnr", {}).items()),
            model.get("licence", ""),
        )
    console = output_console()
    console.print(table)
    protocols = dict.fromkeys(m["protocol"] for m in facts if m.get("protocol"))
    for protocol in protocols:
        console.print(f"\nPSNR: {protocol}")
