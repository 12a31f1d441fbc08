"""Lines of JSON from a worker to the script that started it.

A worker writes every finished case at once, so that results outlive a crash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

Record = dict[str, object]


def write(lines: IO[str], record: Record) -> None:
    lines.write(json.dumps(_without_nan(record)) + "\n")
    lines.flush()


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unfinished(case: str, note: str, status: str = "failed", group: str = "") -> Record:
    """The record of a case that has no result."""
    return {
        "case": case, "group": group, "status": status, "note": note, "targets": [],
        "contenders": {},
    }  # fmt: skip


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def _without_nan(value: object) -> object:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and value != value else value
