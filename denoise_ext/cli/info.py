"""``denoise-ext info``."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    from denoise_ext import info

    facts = info()
    print(json.dumps(facts, indent=2) if args.json else format_info(facts))
    return 0


def format_info(facts: dict[str, Any]) -> str:
    """`denoise_ext.info()` for people."""
    versions, native, cpu, cuda = (facts[k] for k in ("versions", "native", "cpu", "cuda"))
    lines = [("denoise_ext", f"{versions['denoise_ext']} on Python {versions['python']}")]
    lines += [("torch", versions["torch"]), ("numpy", versions["numpy"])]
    lines += [("platform", versions["platform"])]
    lines += _native_lines(native) + _cpu_lines(cpu) + _cuda_lines(cuda)
    lines += [("cache", _cache_line(facts["cache"]))]
    by_devices: dict[str, list[str]] = {}
    for name, devices in facts["operators"].items():
        by_devices.setdefault(" and ".join(devices) or "no kernel", []).append(name)
    lines += [("operators", f"{where}: {', '.join(ops)}") for where, ops in by_devices.items()]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


def _cache_line(cache: dict[str, Any]) -> str:
    if cache["folder"] is None:
        return "off"
    return f"{cache['folder']}: {cache['entries']} decisions, {cache['bytes'] / 1024:.0f} KiB"


def _native_lines(native: dict[str, Any]) -> list[tuple[str, str]]:
    if not native["loaded"]:
        return [("native library", f"NOT LOADED: {native['error']}"),
                ("", "denoise_ext.reference and the torch backend work without it")]  # fmt: skip
    built = f"GCC {native['compiler']}" if native["compiler"][:1].isdigit() else native["compiler"]
    return [
        ("native library", native["file"]),
        ("built with", f"{built}, torch {native['torch_built_with']};"
                       f" runs with torch >= {native['torch_minimum']}"),
    ]  # fmt: skip


def _cpu_lines(cpu: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("processor", f"{cpu['processor']}, {cpu['threads']} threads in use")]
    if cpu["error"]:
        lines.append(("CPU kernels", f"PROBLEM: {cpu['error']}"))
    else:
        forced = " (set by DENOISE_EXT_CPU_ISA)" if cpu["isa_forced_by"] else ""
        available = ", ".join(cpu["isa_available"])
        lines.append(("CPU kernels", f"{cpu['isa_in_use']}{forced}; available: {available}"))
    return lines


def _architectures_of(cuda: dict[str, Any]) -> str:
    """What the build is that is for these architectures, and what PTX alone means."""
    if "-virtual" in cuda["architectures"]:
        return f"{cuda['architectures_of']}: PTX alone, which the driver compiles for the GPU"
    return f"those of {cuda['architectures_of']}"


def _cuda_lines(cuda: dict[str, Any]) -> list[tuple[str, str]]:
    if cuda["in_build"]:
        archs = f"{cuda['architectures']} ({_architectures_of(cuda)})"
        build = f"CUDA {cuda['version']}, architectures {archs}"
        kernels = ", ".join(cuda["operators"]) or "none yet"
        lines = [("CUDA build", f"{build}; kernels: {kernels}")]
    else:
        lines = [("CUDA build", "no")]
        lines += [] if cuda["driver"] else [("GPU", "no NVIDIA driver found")]
    if cuda["driver_version"]:
        lines.append(("GPU driver", f"for CUDA {cuda['driver_version']}"))
    for device in cuda["devices"]:
        lines.append(("GPU", f"{device['name']}, compute capability {device['capability']}"))
    usable = "yes" if cuda["usable"] else f"no: {cuda['error']}"
    return [*lines, ("GPU usable", usable)]
