"""A second decoder of .dxc files, written from docs/format_dxc.md: Python, NumPy, PyTorch.

It imports nothing of the package.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from plain_rans import Bits, PlainReader, numbers
from safetensors import safe_open

Weights = dict[str, torch.Tensor]
# The latents that are known, as (rows up, columns to the right): the last is the same place.
CONTEXTS = ((1, -1), (1, 0), (1, 1), (0, -1), (0, 0))


def plain_decode(data: bytes, model: Path) -> np.ndarray:
    """The pixels of a file: (H, W), (H, W, 2), (H, W, 3) or (H, W, 4)."""
    (magic, version, channels, depth, quality, width, height, tile, count, network,
     size) = struct.unpack_from("<8s4B2I2H8sI", data)  # fmt: skip
    assert magic == b"\x8bDXC\r\n\x1a\n" and version == 1
    assert struct.unpack_from("<I", data, 36) == (zlib.crc32(data[:36]),)
    assert network == hashlib.sha256(model.read_bytes()).digest()[:8]
    chunks, at = {}, 40
    for _ in range(count):
        kind, length, checksum = struct.unpack_from("<4s2I", data, at)
        chunks[kind] = data[at + 12 : at + 12 + length]
        assert checksum == zlib.crc32(kind + chunks[kind])
        at += 12 + length
    assert at == 40 + size
    with safe_open(model, "pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rows, columns = math.ceil(height / tile), math.ceil(width / tile)
    table = data[at : at + 8 * rows * columns]
    at += len(table)
    assert struct.unpack_from("<I", data, at) == (zlib.crc32(table),)
    at += 4
    latents = np.zeros((math.ceil(height / 16), math.ceil(width / 16), config["latents"]), int)
    side = tile // 16
    for i, (length, checksum) in enumerate(struct.iter_unpack("<2I", table)):
        body = data[at : at + length]
        at += length
        assert checksum == zlib.crc32(body)
        y, x = i // columns * side, i % columns * side
        there = latents[y : y + side, x : x + side]
        there[...] = plain_latents(body, *there.shape, weights, quality, config["rates"])
    image = synthesis(latents, weights, quality, config)[:, :height, :width]
    if channels < 3:
        image = image.mean(0, keepdim=True)
    white = 2**depth - 1
    kind = np.uint8 if depth == 8 else np.uint16
    pixels = (image.clamp(0, 1) * white).round().numpy().astype(kind).transpose(1, 2, 0)
    if channels in (2, 4):
        raw = np.frombuffer(zlib.decompress(chunks[b"ALPH"]), np.dtype(kind).newbyteorder("<"))
        alpha = np.cumsum(raw.reshape(height, width), axis=1, dtype=kind)
        pixels = np.dstack([pixels, alpha])
    return pixels[..., 0] if channels == 1 else pixels


def plain_latents(
    data: bytes, rows: int, columns: int, channels: int, weights: Weights, quality: int, rates: int
) -> np.ndarray:
    """The latents of a tile."""
    [words] = numbers(data[:4], 4)
    reader = PlainReader(numbers(data[4:68], 4), numbers(data[68 : 68 + 2 * words], 2))
    escapes = Bits(data[68 + 2 * words :])
    known = weights["prior.weights"].numpy().astype(int)
    inside = weights["prior.inside"].numpy().astype(int)
    frequencies = weights["prior.frequencies"].tolist()
    place, part = divmod(quality * (rates - 1), 100)
    first = weights["prior.first"].numpy().astype(int)
    base = (first[place] * (100 - part) + first[min(place + 1, rates - 1)] * part) // 100
    found = np.zeros((rows, columns, channels), int)
    for y in range(rows):
        for x in range(columns):
            sums = base.copy()
            for k, (up, right) in enumerate(CONTEXTS[:4]):
                if y >= up and 0 <= x + right < columns:
                    sums += inside[k] + meaning(found[y - up, x + right], known[k])
            for group in range(0, channels, 16):
                here = slice(group, group + 16)
                own = sums + meaning(found[y, x, :group], known[4, :group])
                for c in range(*here.indices(channels)):
                    kind, whole, sign = plain_class(own[c], own[channels + c])
                    symbol = reader.symbol(frequencies[kind])
                    rest = escapes.escape() if symbol == 127 else symbol - 63
                    found[y, x, c] = whole + sign * rest
    assert reader.finished
    return found


def meaning(latents: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What latents (K,) add to the sums, by weights (K, 2 M): to means, then to scales."""
    held = latents.clip(-127, 127)
    half = weights.shape[1] // 2
    return np.concatenate([held @ weights[:, :half], np.abs(held) @ weights[:, half:]])


def plain_class(mean: int, scale: int) -> tuple[int, int, int]:
    """Class, whole number and sign of a latent with these sums."""
    eighths = (int(mean) + 64) >> 7
    whole = (eighths + 4) >> 3
    offset = eighths - 8 * whole
    held = min(max(int(scale), 48), 65535)
    octave = held.bit_length() - 1
    index = 4 * octave + (held >> (octave - 2) & 3) - 22
    return abs(offset) * 42 + index, whole, -1 if offset < 0 else 1


def synthesis(
    latents: np.ndarray, weights: Weights, quality: int, config: dict[str, object]
) -> torch.Tensor:
    """(3, H, W), not clipped."""
    rates, blocks = int(str(config["rates"])), config["blocks"]
    assert isinstance(blocks, list)
    place = quality / 100 * (rates - 1)
    shares = torch.tensor([max(0.0, 1 - abs(place - i)) for i in range(rates)])
    logarithms = weights["inverse"].float().reshape(rates, -1)
    x = torch.from_numpy(latents).float().permute(2, 0, 1)[None]
    x = x * (shares @ logarithms).exp()[:, None, None]

    def of(name: str) -> torch.Tensor:
        return weights[f"synthesis.{name}"].float()

    for i, count in enumerate(reversed(blocks)):
        x = F.conv_transpose2d(x, of(f"up.{i}.weight"), of(f"up.{i}.bias"), stride=2)
        for j in range(count):
            inner = F.conv2d(x, of(f"stages.{i}.{j}.conv1.weight"), padding=1).relu()
            x = x + F.conv2d(inner, of(f"stages.{i}.{j}.conv2.weight"), padding=1)
    x = F.conv2d(x, of("tail.weight"), of("tail.bias"), padding=1)
    return F.pixel_shuffle(x, 2)[0] + 0.5
