"""Build the emulated operators with a change in one file of csrc/cuda."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cuda_emulator.build import (
    OUTPUT,
    ROOT,
    compile_all,
    compile_object,
    dependencies_of,
    link,
    locked,
    operator_sources,
    runtime_sources,
    torch_libraries,
)


@dataclass(frozen=True)
class Fault:
    """One entry of faults.toml."""

    name: str
    file: str
    find: str
    replace: str
    call: str
    caught: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return OUTPUT / "faults" / "".join(c if c.isalnum() else "_" for c in self.name)


def read_faults() -> list[Fault]:
    text = Path(__file__).with_name("faults.toml").read_text()
    entries = tomllib.loads(text)["fault"]
    return [Fault(**{**entry, "caught": tuple(entry["caught"])}) for entry in entries]


def faulty_tree(fault: Fault) -> Path:
    """A copy of csrc in which one file is changed and all others are links."""
    source = ROOT / "csrc" / "cuda" / fault.file
    text = source.read_text()
    count = text.count(fault.find)
    if count != 1:
        raise ValueError(f"{fault.name}: its text occurs {count} times in {source}, not once")
    tree = fault.folder / "csrc"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "cuda").mkdir(parents=True)
    (tree / "params").symlink_to(ROOT / "csrc" / "params")
    for path in (ROOT / "csrc" / "cuda").iterdir():
        if path.name != fault.file:
            (tree / "cuda" / path.name).symlink_to(path)
    (tree / "cuda" / fault.file).write_text(text.replace(fault.find, fault.replace))
    return tree


def build_faulty(fault: Fault) -> Path:
    """The library with the fault; only what includes the changed file is compiled again."""
    mode, sound = "shadow", OUTPUT / "shadow"
    with locked(sound):
        runtime = compile_all(runtime_sources(mode), sound)
        operators = operator_sources(mode)
        objects = compile_all(operators, sound)
    changed = (ROOT / "csrc" / "cuda" / fault.file).resolve()
    tree = faulty_tree(fault)
    faulty = {source.path.name: source for source in operator_sources(mode, tree)}
    for i, source in enumerate(operators):
        if changed in dependencies_of(objects[i]):
            objects[i] = compile_object(faulty[source.path.name], fault.folder)
    target = fault.folder / "libdenoise_ext_emulated.so"
    return link([*runtime, *objects], target, mode, torch_libraries())
