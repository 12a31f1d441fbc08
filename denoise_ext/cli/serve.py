"""``denoise-ext serve``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext

from denoise_ext.cli.common import (
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    importing_torch,
    log_on_stderr,
    run_options,
    size_type,
    whole_number,
)

TOKEN = "DENOISE_EXT_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen at; 0.0.0.0: all of this machine's (default: 127.0.0.1, which only"
        " this machine reaches)",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=whole_number(0), default=8000, metavar="N",
        help="port to listen at; 0: any free one (default: 8000)",
    )  # fmt: skip
    parser.add_argument(
        "--token", metavar="TEXT",
        help=f"clients must send it (default: ${TOKEN}, which other users of this machine do not"
        " see; without it: none)",
    )  # fmt: skip
    parser.add_argument(
        "--name", action="append", default=[], metavar="HOST",
        help="host name that requests may have besides localhost, as behind a reverse proxy;"
        " repeatable (default: none; with --host at another address: every name)",
    )  # fmt: skip
    add_model_arguments(parser)
    add_precision_argument(parser)
    add_memory_arguments(parser)
    parser.add_argument(
        "--max-upload", type=size_type, metavar="SIZE",
        help="refuse larger uploads (default: 256MiB)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=whole_number(1), metavar="N",
        help="refuse larger images before decoding (default: 50 million)",
    )  # fmt: skip
    parser.add_argument(
        "--max-requests", type=whole_number(1), metavar="N",
        help="images in hand; one more is refused with status 429 (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit", type=whole_number(1), metavar="S",
        help="seconds that a request may wait and be computed (default: 120)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    run_as = run_options(args)
    with importing_torch():
        from denoise_ext.service import ServiceOptions, bind, serve
        from denoise_ext.service.server import is_local

    limits = ("max_upload", "max_pixels", "max_requests", "time_limit")
    given = {name: getattr(args, name) for name in limits if getattr(args, name) is not None}
    token = args.token if args.token is not None else os.environ.get(TOKEN) or None
    with bind(args.host, args.port) as listener:
        options = ServiceOptions(
            model=args.model, run=run_as, token=token, local=is_local(listener),
            names=tuple(args.name), **given,
        )  # fmt: skip
        if not (options.local or token or args.quiet):
            print(
                "denoise-ext: note: everybody who reaches this address may send images; --token"
                " asks for a secret",
                file=sys.stderr,
            )
        port = listener.getsockname()[1]
        url = f"http://{_shown(args.host)}:{port}/"
        log = nullcontext() if args.quiet else log_on_stderr("denoise_ext.service")
        with log:
            serve(options, listener, lambda: print(f"listening at {url}", flush=True))
    return 0


def _shown(host: str) -> str:
    """The host of an address to open: all addresses of a machine include its own."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
