"""A run's directory: configuration, environment, log, checkpoint, result."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from denoise_ext.io.atomic import is_leftover, replace_file

_PACKAGES = ("denoise_ext", "torch", "numpy", "pillow", "safetensors", "pydantic", "tensorboard",
             "matplotlib")  # fmt: skip


class RunDir:
    """The files of a run; ``close()`` it, or use it in ``with contextlib.closing(...)``.

    ``config.json`` (every value), ``environment.json`` (commit, versions, machine), ``log.csv``,
    ``checkpoint.pt`` (the last state), ``best.safetensors`` (best validated weights, float32),
    ``model.safetensors`` (the result, float16), ``samples/``, ``curves.png``, ``tensorboard/``.

    ``owner=True``, in one process, locks the directory until it is closed or the process ends. It
    removes the temporary files of a killed process. A file system without locks keeps nobody out.

    Raises ValueError when the directory cannot be made or written, or is another run's.
    """

    def __init__(self, path: str | Path, owner: bool = True) -> None:
        self.path: Path = Path(path)
        self._lock: int | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if owner:
                self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                if self._is_locked(self._lock):
                    self._remove_leftovers()
        except OSError as error:
            self.close()
            raise ValueError(f"run.out: cannot write {self.path}: {error.strerror}") from None
        except ValueError:
            self.close()
            raise
        self.checkpoint: Path = self.path / "checkpoint.pt"
        self.log: Path = self.path / "log.csv"
        self.best: Path = self.path / "best.safetensors"
        self.result: Path = self.path / "model.safetensors"
        self.samples: Path = self.path / "samples"
        self.curves: Path = self.path / "curves.png"

    def close(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_locked(self, file: int) -> bool:
        """Lock it for this process, whose number is written in; False where there are no locks.

        Raises ValueError where another process has it.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode("ascii", "replace").strip() or "another"
            raise ValueError(
                f"run.out: process {holder} is training in {self.path} now; wait for it, stop it, "
                "or give another run.out"
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return False
            raise
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        return True

    def _remove_leftovers(self) -> None:
        """Remove temporary files of a process that was killed."""
        for file in [*self.path.iterdir(), *self.path.glob("samples/.*")]:
            if is_leftover(file.name):
                file.unlink()

    def write_config(self, config: dict[str, Any]) -> None:
        """Record the resolved configuration, and what it was started with."""
        self._write_json("config.json", config)
        self._write_json("environment.json", environment())

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        replace_file(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def trim_log(self, columns: list[str], last_step: int) -> None:
        """Keep the rows up to ``last_step``: what came after is about to be done again."""
        kept: list[dict[str, str]] = []
        if last_step > 0:
            for row in self.read_log():
                step = row.get("step") or ""
                if step.isdigit() and int(step) <= last_step:
                    kept.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        replace_file(self.log, text.getvalue().encode())

    def append_log(self, columns: list[str], row: dict[str, Any]) -> None:
        """Add a row; loss and gradient norm in it are those of that step's batch."""
        with open(self.log, "a", newline="") as file:
            csv.DictWriter(file, columns, restval="").writerow(row)

    def read_log(self) -> list[dict[str, str]]:
        """The rows so far."""
        if not self.log.exists():
            return []
        with open(self.log, newline="") as file:
            return list(csv.DictReader(file))


def provenance() -> dict[str, Any]:
    """Versions, and the commit of the source tree; None where it is no git checkout."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_modified": None if changed is None else bool(changed),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def environment() -> dict[str, Any]:
    """:func:`provenance`, and what else moves speed or rounding on this machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return provenance() | {
        "command": sys.argv,
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("DENOISE_EXT_", "OMP_", "MKL_", "TORCH_NUM", "CUBLAS_WORKSPACE"))
            or name == "WORLD_SIZE"
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
