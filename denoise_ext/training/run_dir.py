"""A run's directory: provenance, log, checkpoint, result."""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from denoise_ext.models.checkpoints import write_atomically


class RunDir:
    """``config.json``, ``provenance.json``, ``log.csv``, ``checkpoint.pt``, ``model.safetensors``.

    Raises ValueError when the directory cannot be made or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"run.out: cannot write {self.path}: {error.strerror}") from None
        self.checkpoint = self.path / "checkpoint.pt"
        self.log = self.path / "log.csv"
        self.result = self.path / "model.safetensors"

    def write_config(self, config: dict[str, Any]) -> None:
        """Record the resolved configuration, and what it was started with."""
        self._write_json("config.json", config)
        self._write_json("provenance.json", provenance())

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def trim_log(self, columns: list[str], last_step: int) -> None:
        """Keep the rows up to ``last_step``: what came after is about to be done again."""
        kept: list[dict[str, str]] = []
        if self.log.exists() and last_step > 0:
            with open(self.log, newline="") as file:
                for row in csv.DictReader(file):
                    step = row.get("step") or ""
                    if step.isdigit() and int(step) <= last_step:
                        kept.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_atomically(self.log, text.getvalue().encode())

    def append_log(self, columns: list[str], row: dict[str, Any]) -> None:
        """Add a row; loss and gradient norm in it are those of that step's batch."""
        with open(self.log, "a", newline="") as file:
            csv.DictWriter(file, columns, restval="").writerow(row)


def provenance() -> dict[str, Any]:
    """Versions, and the commit of the source tree where it is a git checkout."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command about this source tree; None where there is no git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
