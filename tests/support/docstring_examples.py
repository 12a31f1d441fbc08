"""What is in the reference of the site, and the files that its examples name."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
from codecs_small import sealed_file

from denoise_ext import io

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
[data]
train = "photos"
crop = 32
[model]
name = "dncnn_gray"
options = { depth = 3, width = 8 }
[schedule]
warmup_steps = 1
[validation]
images = 1
[run]
out = "runs/mine"
steps = 2
batch_size = 2
layers = "torch"
tensorboard = "off"
"""


def documented() -> dict[str, object]:
    """Functions and classes of docs/api, by the names that a program uses."""
    found: dict[str, object] = {}
    for page in sorted((ROOT / "docs/api").glob("*.md")):
        for kind, name in re.findall(r"^\.\. auto(\w+):: (\S+)", page.read_text(), re.M):
            if kind == "module":
                found |= members(name)
            else:
                module, _, attribute = name.rpartition(".")
                found[name] = getattr(importlib.import_module(module), attribute)
    return found


def members(name: str) -> dict[str, object]:
    """Functions and classes that `automodule` lists: those of `__all__`, else the module's own."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            key for key, value in vars(module).items()
            if not key.startswith("_") and getattr(value, "__module__", None) == name
        ]  # fmt: skip
    values = {f"{name}.{key}": getattr(module, key) for key in listed}
    return {key: value for key, value in values.items() if is_code(value)}


def is_code(value: object) -> bool:
    """Whether it is a function or a class, and no constant or alias of a type."""
    return inspect.isfunction(value) or inspect.isclass(value)


def make_files(folder: Path) -> None:
    """The files that examples name; docs/api/index.md lists them."""
    random = np.random.default_rng(0)

    def noisy(height: int, width: int, number: int) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width] / 48
        clean = 128 + 40 * np.sin(3 * x + number) * np.cos(2 * y)
        pixels = clean[..., None] + random.normal(0, 20, (height, width, 3))
        return pixels.clip(0, 255).round().astype(np.uint8)

    for name in ("photo.png", "photos/a.png", "photos/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        io.write_image(folder / name, noisy(48, 64, len(name)))
    (folder / "noisy").mkdir()
    for number in range(4):
        io.write_image(folder / "noisy" / f"{number}.png", noisy(144, 192, number)[..., 0])
    sealed_file(folder / "codec.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    header = b"YUV4MPEG2 W48 H32 F25:1 Ip A1:1 C420jpeg\n"
    frames = (random.integers(16, 236, 48 * 32 * 3 // 2, dtype=np.uint8) for _ in range(3))
    film = header + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)
    (folder / "film.y4m").write_bytes(film)
