"""argparse with whole option names only, and close matches where one was mistyped."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from denoise_ext._suggestions import did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations: a new option must not change what a script means."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def refuse(self, unknown: Iterable[str]) -> None:
        """End with a usage error about arguments that belong to nothing."""
        words = list(unknown)
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        close = did_you_mean(options[0], self._option_string_actions) if options else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{close}")

    def _check_value(self, action: argparse.Action, value: str) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            close = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{close}") from None
