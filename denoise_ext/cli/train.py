"""``denoise-ext train CONFIG.toml``."""

from __future__ import annotations

import argparse
import sys

from denoise_ext.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    CliError,
    add_import_argument,
    import_modules,
    log_on_stderr,
)

SUMMARY = "train a network from a TOML configuration; continues an interrupted run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", metavar="CONFIG.toml", help="training configuration")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change one value of the configuration (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="run directory, instead of the configuration's run.out"
    )
    add_import_argument(parser)
    parser.add_argument(
        "--accept-changes", action="store_true",
        help="continue a run with a changed configuration; the result records the change",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    return train_from(args, [])


def train_from(args: argparse.Namespace, more: list[str], start_required: bool = False) -> int:
    """Train with the arguments above and the overrides in ``more``; returns the exit code."""
    # Imported here so that the other commands and --help do not pay for it.
    from denoise_ext.training import ConfigError, load_config, train
    from denoise_ext.training.config import override
    from denoise_ext.training.task import label_text

    overrides = [*args.overrides, *more]
    try:
        if args.out is not None:
            overrides.append(override("run.out", args.out))
        config = load_config(args.config, overrides)
        if start_required and not config.model.start:
            raise ConfigError("model.start: required by finetune; in the file, or as --start")
        with log_on_stderr("denoise_ext.training"):
            result = train(config, args.accept_changes)
    except (ConfigError, FloatingPointError) as error:
        for line in str(error).splitlines():
            print(f"denoise-ext: error: {line}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("denoise-ext: stopped; the same command continues it", file=sys.stderr)
        return EXIT_INTERRUPTED
    if result.is_main and not result.finished:
        steps = f"step {result.steps} of {config.run.steps}"
        print(f"{result.model_path.parent}: {steps}; the same command continues it")
    elif result.is_main:
        kind, unit = (".2f", " dB") if result.unit == "dB" else (".4g", f" {result.unit}".rstrip())
        before = {k: f"{figure:{kind}} -> " for k, figure in result.before.items()}
        quality = ", ".join(
            f"{before.get(k, '')}{figure:{kind}}{unit} at {label_text(k)}"
            for k, figure in result.validation.items()
        )
        ending = f", {result.metric.upper()} {quality}" if quality else ""
        print(f"{result.model_path}: {result.steps} steps{ending}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command on its own."""
    parser = argparse.ArgumentParser(
        prog="denoise-ext train", description=SUMMARY, allow_abbrev=False
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        import_modules(args.imports)
    except CliError as error:
        print(f"denoise-ext: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
