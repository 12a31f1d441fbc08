"""Checkpoints and manifests: a network or a list of outputs, or the one error that is promised."""

from __future__ import annotations

import functools
import io
import random
import re
import struct
import tempfile
from collections import Counter
from pathlib import Path

import torch
from networks import keys_under, published_chain
from published_upscalers import rrdb_state, span_state, srvgg_state
from safetensors.torch import save as safetensors_bytes

from denoise_ext.jobs.manifest import FOLDER, Manifest, ManifestError, Record
from denoise_ext.models import (
    CheckpointError,
    ImageDenoiser,
    ImageNetwork,
    create_model,
    load_checkpoint,
    save_model,
)
from denoise_ext.training.checkpoint import load_state, save_state
from fuzz.mutate import mutated, safetensors_mutated, zip_mutated
from fuzz.target import MEBIBYTE, REFUSED, RESULT, Target, tell

MEMORY = 256 * MEBIBYTE  # the samples have some kilobytes


def _saved(content: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


@functools.cache
def _network() -> ImageDenoiser:
    torch.manual_seed(0)
    return create_model("ffdnet_gray", width=5, depth=3).eval()


@functools.cache
def published() -> list[bytes]:
    """What others write: ZIP files, the older format, wrapped; and a pickle that states a GiB."""
    chain = keys_under("model", published_chain(1, 1, norm=True))
    plain = keys_under("model", published_chain(3, 3))
    old = {"_use_new_zipfile_serialization": False}
    older = [_without_addresses(_saved(content, **old)) for content in (chain, plain)]
    wrapped = {"state_dict": plain, "milestones": Counter([10, 20]), "names": {"a", "b"}}
    stated = b"\x80\5\x96" + struct.pack("<Q", 1 << 30) + b"."
    upscalers = [
        _saved({"params": srvgg_state(3, 2, 4, 2)}),
        _saved(rrdb_state("old", 3, 1, 1, 4, 2, 1)),
        _saved({"params_ema": rrdb_state("new", 3, 2, 2, 4, 2, 1)}),
        _saved(span_state(3, 2, 2)),
    ]
    return [_saved(chain), _saved(wrapped), *older, *upscalers, stated]


def _without_addresses(data: bytes) -> bytes:
    """The older format with storages named by numbers, the same in every process."""
    names: dict[bytes, int] = {}

    def name(found: re.Match[bytes]) -> bytes:
        return b"X\x0e\0\0\0" + b"%014d" % names.setdefault(found[1], len(names))

    return re.sub(rb"X[\x0c-\x0f]\0\0\0(\d{12,15})", name, data)


@functools.cache
def training() -> list[bytes]:
    """What an interrupted training run leaves behind."""
    model = _network()
    weights = model.state_dict()
    state = {
        "network": model.config, "model": weights, "mean": weights, "step": 7,
        "config": {"run": {"seed": 3}}, "best": None, "optimiser": {"state": {}, "groups": [1.0]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder, "checkpoint.pt"), state)
        return [Path(folder, "checkpoint.pt").read_bytes()]


@functools.cache
def safetensors() -> list[bytes]:
    """This package's own, and plain tensors."""
    chain = dict(keys_under("model", published_chain(1, 1)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        save_model(_network(), path, metadata={"steps": 7})
        return [path.read_bytes(), safetensors_bytes(chain)]


def _damaged(rng: random.Random, name: str) -> bytes:
    files = {"published": published, "training": training, "safetensors": safetensors}[name]()
    data = rng.choice(files)
    kind = rng.random()
    if kind < 0.03:
        return data
    if name == "safetensors" and kind < 0.6:
        return safetensors_mutated(rng, data)
    if data[:2] == b"PK" and kind < 0.6:
        return zip_mutated(rng, data)
    return mutated(rng, data, files)


def case(name: str, rng: random.Random) -> str:
    """One damaged checkpoint."""
    data = _damaged(rng, name)
    suffix = ".safetensors" if name == "safetensors" else rng.choice([".pth", ".pt", ".ckpt"])
    tell(lambda: f"{name}: {len(data)} bytes, {data[:80]!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        path.write_bytes(data)
        outcome = REFUSED
        if name == "training":
            try:
                assert isinstance(load_state(path), dict)
                outcome = RESULT
            except ValueError as error:
                assert str(path) in str(error), f"does not name the file: {error}"
        try:
            model = load_checkpoint(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: "), f"does not name the file: {error}"
            return outcome
    assert isinstance(model, ImageNetwork)
    assert not model.training
    if sum(p.numel() for p in model.parameters()) < 200_000:
        with torch.inference_mode():
            model(torch.zeros(1, model.in_channels, 8, 8), 25.0 if model.needs_sigma else None)
    return RESULT


@functools.cache
def manifest() -> bytes:
    """A manifest of ten outputs."""
    with tempfile.TemporaryDirectory() as folder:
        with Manifest(folder) as made:
            for number in range(10):
                made.record(Path(f"{number}.png"), Record("k" * 64, number, "s" * 64))
            path = made.path
        return path.read_bytes()


def manifest_case(rng: random.Random) -> str:
    """One damaged manifest of a batch: read and written to, or refused and left where it is."""
    data = mutated(rng, manifest()) if rng.random() < 0.97 else manifest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FOLDER, "manifest.sqlite")
        path.parent.mkdir()
        path.write_bytes(data)
        try:
            with Manifest(folder) as opened:
                for number in range(10):
                    opened.get(Path(f"{number}.png"))
                opened.record(Path("new.png"), Record("k" * 64, 1, "s" * 64))
                assert opened.get(Path("new.png")) == Record("k" * 64, 1, "s" * 64)
        except ManifestError as error:
            assert "\n" not in str(error), f"more than a line: {error}"
            assert path.exists(), f"the file is gone after: {error}"
            return REFUSED
    return RESULT


def targets() -> list[Target]:
    """Three kinds of checkpoints, and manifests."""
    names = ("published", "training", "safetensors")
    return [
        *(
            Target(f"checkpoints/{name}", functools.partial(case, name), memory=MEMORY)
            for name in names
        ),
        Target("manifests", manifest_case, memory=MEMORY),
    ]
