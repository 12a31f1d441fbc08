"""``denoise-ext models``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from denoise_ext._suggestions import did_you_mean
from denoise_ext.cli.common import CliError, add_import_argument, one_line, output_console

if TYPE_CHECKING:
    from rich.console import Console

# heading, whether it is a number
_COLUMNS = (
    ("model", False), ("images", False), ("sigma", False), ("parameters", True),
    ("GFLOP/MP", True), ("field", True), ("trained for", False), ("PSNR at sigma, dB", False),
    ("licence", False),
)  # fmt: skip
_LEGEND = """\
GFLOP/MP: multiplications and additions of the convolutions per 10^6 pixels, in 10^9
field: side in pixels of the receptive field; "all": the whole image; "?": not known, images are
computed as a whole"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("pattern", nargs="?", help="only names that match, e.g. 'ffdnet*'")
    add_import_argument(parser)
    parser.add_argument("--trained", action="store_true", help="only models with trained weights")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext.models import list_models

    names = list_models(args.pattern, pretrained=args.trained)
    if not names and args.pattern is not None:
        close = did_you_mean(args.pattern, list_models())
        raise CliError(f"no model matches {args.pattern!r}{close}")
    facts = []
    for name in names:
        try:
            facts.append(describe(name))
        except Exception as error:  # another's network may raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            print(f"denoise-ext: warning: {name} is left out: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_table(facts)
    return 0


def describe(name: str) -> dict[str, Any]:
    """Facts about a model, computed from it, and where it ships with weights, about those."""
    import torch

    from denoise_ext.analysis import GeometryError, gflop_per_megapixel
    from denoise_ext.analysis.geometry import describe as geometry_of
    from denoise_ext.models import create_model, pretrained_info
    from denoise_ext.models.network import Geometry

    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        model = create_model(name)
        # A sealed codec makes files: the network that it was trained as has its arithmetic.
        counted = create_model(name, sealed=False) if model.config.get("sealed") else model
    try:
        geometry, obstacle = geometry_of(counted), None
    except GeometryError as error:  # images are then computed as a whole
        geometry, obstacle = Geometry(None, None, model.stride, ()), str(error)
    weights = pretrained_info(name)
    facts: dict[str, Any] = {
        "name": name,
        "family": model.family,
        "channels": model.signature.inputs[model.signature.reference].channels,
        "needs_sigma": "noise_map" in model.signature.inputs,
        "parameters": sum(p.numel() for p in counted.parameters()),
        "gflop_per_megapixel": round(gflop_per_megapixel(counted), 3),
        "receptive_field": geometry.receptive_field,
        "radius": geometry.radius,
        "stride": geometry.stride,
        "global_operations": list(geometry.global_operations),
        "geometry_unknown": obstacle,
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


def _print_table(facts: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, number in _COLUMNS:
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading == "model")
    for model in facts:
        table.add_row(
            model["name"],
            {1: "gray", 3: "colour"}.get(model["channels"], str(model["channels"])),
            "needed" if model["needs_sigma"] else "not used",
            f"{model['parameters']:,}",
            f"{model['gflop_per_megapixel']:,.0f}",
            "?" if model["geometry_unknown"] else str(model["receptive_field"] or "all"),
            model.get("noise", "no weights shipped"),
            "\n".join(_psnr_lines(model.get("psnr", {}))),
            model.get("licence", ""),
        )
    console = output_console()
    console.print(table)
    console.print(f"\n{_LEGEND}")
    _print_provenance(console, [model for model in facts if model["trained"]])


def _psnr_lines(psnr: dict[str, float]) -> list[str]:
    """One line per set: "BSD68 15/25/50: 31.33 / 28.87 / 25.89"."""
    sets: dict[str, dict[str, float]] = {}
    for measured, db in psnr.items():
        name, _, sigma = measured.partition(" sigma ")
        sets.setdefault(name, {})[sigma] = db
    return [
        f"{name} {'/'.join(by_sigma)}: {' / '.join(f'{db:.2f}' for db in by_sigma.values())}"
        for name, by_sigma in sets.items()
    ]


def _print_provenance(console: Console, trained: list[dict[str, Any]]) -> None:
    """Protocol of the figures and origin of the weights, each printed once."""
    for protocol in dict.fromkeys(model["protocol"] for model in trained if model["protocol"]):
        console.print(f"PSNR: {protocol}")
    by_data: dict[str, list[str]] = {}
    for model in trained:
        made = f"{model['name']} ({model['recipe']}, {model['steps']:,} steps)"
        by_data.setdefault(model["training_data"], []).append(made)
    for data, models in by_data.items():
        console.print(f"weights of {', '.join(models)}: trained here on {data}")
