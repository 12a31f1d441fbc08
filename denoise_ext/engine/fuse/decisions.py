"""Decisions of an examination, kept on disk for the next process with the same network.

An entry holds, for each site, its name, the variant that won and the figures of the report.  Its
key is a hash of all that the decision depends on.  An entry can only choose among variants that the
sites offer.  The plan is compared with the original once more, within bounds that are computed
anew.  A wrong entry can make a plan slower, not wrong.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from denoise_ext import _cache
from denoise_ext._loader import native
from denoise_ext.engine.capture.graph import Graph, Value
from denoise_ext.engine.fuse.ir import Constants, Site
from denoise_ext.engine.fuse.verify import Examination, bounds_of
from denoise_ext.engine.report import Row

_FIGURES = ("error", "bound", "original_ms", "ours_ms")
_OUTCOMES = ("original", "in place", "left out")  # variant of a row where none won
_LONGEST = 2000  # characters of a reason
_PACKAGE = Path(__file__).parents[2]
_SOURCES = ("engine/**/*.py", "ops/**/*.py", "_precision.py")


def key_of(
    graph: Graph, constants: Constants, precision: str, dtype: torch.dtype | None
) -> str | None:
    """The key of this graph's decisions on this machine; None if they are not kept."""
    device = (graph.inputs + graph.sources)[0].device
    complex_ = any(tensor.is_complex() for tensor in constants.tensors)
    if device.type != "cpu" or complex_ or _cache.folder() is None:
        return None
    digest = hashlib.sha256()
    facts = [_code(), torch.__version__, native().isa_in_use(), torch.get_num_threads(),
             _processor(), precision, str(dtype)]  # fmt: skip
    digest.update(json.dumps(facts).encode())
    _hash_graph(digest, graph)
    for tensor in constants.tensors:
        _hash_tensor(digest, tensor)
    return digest.hexdigest()


@dataclass
class Entry:
    """The decisions of an earlier process for a graph."""

    rows: list[dict[str, Any]]
    apart: set[tuple[str, str]]
    slower: str | None  # why the whole is left
    times: list[float | None]  # milliseconds of the original and of the plan

    @classmethod
    def read(cls, key: str | None) -> Entry | None:
        """Read the entry of ``key``; None if there is none of this form."""
        found = None if key is None else _cache.read(key)
        if not isinstance(found, dict):
            return None
        names = ("rows", "apart", "slower", "times")
        rows, apart, slower, times = (cast("Any", found.get(name)) for name in names)
        if not all(isinstance(x, list) for x in (rows, apart, times)) or len(times) != 2:
            return None
        pairs = all(isinstance(p, list) and list(map(type, p)) == [str, str] for p in apart)
        if not pairs or not (slower is None or _text(slower)) or not all(map(_figure, times)):
            return None
        return cls(rows, {(module, label) for module, label in apart}, slower, times)

    def fits(self, sites: list[Site]) -> bool:
        """Whether it names these sites, and variants that they have."""
        return len(self.rows) == len(sites) and all(map(_fits, self.rows, sites))

    def examination(
        self, graph: Graph, constants: Constants, sites: list[Site], tensors: list[Tensor]
    ) -> Examination:
        """The result of :func:`verify.examine` when the entry was written, with new bounds."""
        found = Examination()
        replaced = {
            site: row["step"]
            for row, site in zip(self.rows, sites, strict=True)
            if row["step"] is not None and site.replaces
        }
        planned = replaced if self.slower is None else {}
        bounds = bounds_of(graph, constants, planned, tensors)
        found.bounds += bounds.values()
        for row, site in zip(self.rows, sites, strict=True):
            given = {name: row[name] for name in ("variant", "reason", *_FIGURES)}
            timed = row["original_ms"] is not None
            decided = "cached" if timed else ""
            given["bound"] = bounds.get(site, row["bound"])
            found.rows.append(Row(site.module, site.label, **given, decided=decided))
            step = None if row["step"] is None else site.step(row["step"], constants)
            found.chosen[site] = step
        return found


def keep(
    key: str | None, found: Examination, apart: set[tuple[str, str]], whole: Row
) -> None:  # fmt: skip
    """Write what was decided; ``whole`` is the row of the model or of its part."""
    if key is None:
        return
    rows = []
    for row, (site, step) in zip(found.rows, found.chosen.items(), strict=True):
        facts = {name: getattr(row, name) for name in ("variant", "reason", *_FIGURES)}
        name = None if step is None else _variant(site, row)
        rows.append({**facts, "module": site.module, "site": site.label, "step": name})
    value = {
        "rows": rows, "apart": sorted(map(list, apart)), "slower": whole.reason or None,
        "times": [whole.original_ms, whole.ours_ms],
    }  # fmt: skip
    _cache.write(key, value)


def _variant(site: Site, row: Row) -> str:
    variants = site.variants()
    return row.variant if row.variant in variants else variants[0]


def _fits(row: Any, site: Site) -> bool:
    if not isinstance(row, dict) or (row.get("module"), row.get("site")) != (
        site.module, site.label,
    ):  # fmt: skip
        return False
    step = row.get("step")
    if step is not None and step not in site.variants():
        return False
    if row.get("variant") not in (*site.variants(), *_OUTCOMES) or not _text(row.get("reason")):
        return False
    return all(name in row and _figure(row[name]) for name in _FIGURES)


def _figure(value: Any) -> bool:
    if value is None:
        return True
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= sys.float_info.max  # integers of JSON may be beyond it


def _text(value: Any) -> bool:
    """Whether a terminal can show it: no control characters, not too long."""
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


def _hash_graph(digest: Any, graph: Graph) -> None:
    numbers: dict[Value, int] = {}

    def text(tree: Any) -> str:
        if isinstance(tree, Value):
            number = numbers.setdefault(tree, len(numbers))
            return f"v{number}:{tree.shape}:{tree.stride}:{tree.dtype}"
        if isinstance(tree, (tuple, list)):
            return "[" + ",".join(map(text, tree)) + "]"
        if isinstance(tree, dict):
            return "{" + ",".join(f"{k}={text(v)}" for k, v in sorted(tree.items())) + "}"
        return repr(tree)

    digest.update(text([graph.inputs, graph.sources, graph.source_names]).encode())
    for node in graph.nodes:
        digest.update(text([str(node.op), node.args, node.kwargs, node.results]).encode())
    digest.update(text(graph.outputs).encode())


def _hash_tensor(digest: Any, tensor: Tensor) -> None:
    plain = tensor.detach().contiguous().reshape(-1)
    digest.update(f"{tuple(tensor.shape)} {tensor.stride()} {tensor.dtype};".encode())
    if plain.numel():
        digest.update(plain.view(torch.uint8).numpy())


@cache
def _code() -> str:
    """A hash of all code that makes and runs plans: decisions hold for one version."""
    digest = hashlib.sha256(Path(str(native().__file__)).read_bytes())
    for path in sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern)):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(_PACKAGE)} {len(data)};".encode() + data)
    return digest.hexdigest()


@cache
def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith("model name")), "")
