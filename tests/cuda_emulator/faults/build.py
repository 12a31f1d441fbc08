"""Build the emulated operators with a change in one file of csrc/cuda."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cuda_emulator.build import (
    OUTPUT,
    ROOT,
    Source,
    compile_all,
    compile_object,
    compile_operators,
    dependencies_of,
    link,
    locked,
    operator_sources,
    runtime_sources,
    torch_libraries,
)

SOUND = OUTPUT / "shadow"


@dataclass(frozen=True)
class Fault:
    """One entry of faults.toml."""

    name: str
    file: str
    find: str
    replace: str
    call: str
    caught: tuple[str, ...]
    variant: str = ""
    multiprocessors: int = 2
    unit: str = ""  # of a header that many files include: the one that has the kernel of the call

    @property
    def folder(self) -> Path:
        return OUTPUT / "faults" / "".join(c if c.isalnum() else "_" for c in self.name)


def read_faults() -> list[Fault]:
    text = Path(__file__).with_name("faults.toml").read_text()
    entries = tomllib.loads(text)["fault"]
    return [Fault(**{**entry, "caught": tuple(entry["caught"])}) for entry in entries]


def faulty_text(fault: Fault) -> str:
    """Its file, changed."""
    source = ROOT / "csrc" / "cuda" / fault.file
    text = source.read_text()
    count = text.count(fault.find)
    if count != 1:
        raise ValueError(f"{fault.name}: its text occurs {count} times in {source}, not once")
    return text.replace(fault.find, fault.replace)


def faulty_tree(fault: Fault) -> Path:
    """A copy of csrc/cuda, one file changed, beside the rest of what it includes."""
    tree = fault.folder / "csrc"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "csrc" / "cuda", tree / "cuda")
    (tree / "params").symlink_to(ROOT / "csrc" / "params")
    (tree / "cuda" / fault.file).write_text(faulty_text(fault))
    return tree


@cache
def _sound_build() -> tuple[list[Path], list[Path]]:
    """The objects of the emulator, and of the operators."""
    with locked(SOUND):
        runtime = compile_all(runtime_sources("shadow"), SOUND)
        return runtime, compile_operators("shadow", SOUND)


def build_faulty(fault: Fault) -> Path:
    """The library with the fault; only what includes the changed file is compiled again.

    A header's functions are inlined everywhere, so that objects with and without the fault can be
    linked together.
    """
    runtime, objects = _sound_build()
    changed = (ROOT / "csrc" / "cuda" / fault.file).resolve()
    tree = faulty_tree(fault)
    # Without it ccache takes a file whose own text is unchanged for the sound one.
    mark = f"-DCUDA_EMULATOR_FAULT={fault.folder.name}"
    objects = [
        compile_object(Source(source.path, [*source.flags, mark]), fault.folder)
        if changed in dependencies_of(sound) and fault.unit in ("", source.path.name)
        else sound
        for source, sound in zip(operator_sources("shadow", tree), objects, strict=True)
    ]
    target = fault.folder / "libdenoise_ext_emulated.so"
    return link([*runtime, *objects], target, "shadow", torch_libraries())
