"""Where results come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The commit, with "-dirty" where files differ from it (other than results)."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results")
    except OSError:
        return "unknown"
    if head.returncode:  # an unpacked source distribution
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


def processor() -> str:
    from denoise_ext import info

    return str(info()["cpu"]["processor"])
