"""Code blocks of a page of the documentation, and their execution."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from denoise_ext.cli import main


def blocks(page: Path, language: str) -> list[str]:
    """The blocks marked as `language`, in order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def run_commands(page: Path) -> list[str]:
    """Run the `denoise-ext` commands in this process; return their lines."""
    lines = "".join(blocks(page, "bash")).splitlines()
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    return lines


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks one after the other; return the names they leave."""
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    return names
