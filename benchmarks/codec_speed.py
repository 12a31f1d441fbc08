"""Seconds to encode and to decode a noisy picture, and megabytes a second of the entropy coder.

    python benchmarks/codec_speed.py               # about a minute; nothing else should run
    python benchmarks/codec_speed.py --model FILE  # a sealed codec of your own

The picture has 768x512 pixels, colour, white noise of sigma 15.  The codec takes it as it is.  Its
rival is what does the same without it: `Denoiser`, then AVIF, at about as many bits.  The coder
codes a million symbols of 41 kinds in 64 classes, one byte each, with one thread.  All take turns.
Medians and quartiles go to `results/codec_speed.json`.
"""

from __future__ import annotations

import argparse
import io as streams
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import denoise_ext
from denoise_ext import Denoiser, codec
from denoise_ext._timing import interleaved
from denoise_ext.io import picture_of, read_image, read_picture, write_picture
from harness.provenance import commit, processor

HERE = Path(__file__).resolve().parent
PHOTOGRAPH = Path(denoise_ext.__file__).parent / "assets" / "kodim21.png"
SIGMA, QUALITY, AVIF_QUALITY = 15.0, 45, 45
SYMBOLS, KINDS, CLASSES = 1_000_000, 41, 64


def avif(image: np.ndarray) -> bytes:
    """The bytes of an AVIF file."""
    stream = streams.BytesIO()
    write_picture(stream, picture_of(image), format="AVIF", quality=AVIF_QUALITY)
    return stream.getvalue()


def coder_turns() -> dict[str, Callable[[], object]]:
    """Encode and decode a million symbols of geometric distributions."""
    rng = np.random.default_rng(0)
    steepness = np.linspace(0.05, 1.5, CLASSES)[:, None]
    shares = np.exp(-steepness * np.abs(np.arange(KINDS) - KINDS // 2))
    table = 1 + np.floor(shares / shares.sum(1, keepdims=True) * (4096 - KINDS)).astype(np.int64)
    table[:, KINDS // 2] += 4096 - table.sum(1)
    classes = rng.integers(0, CLASSES, SYMBOLS)
    drawn = rng.integers(0, 4096, SYMBOLS)
    symbols = (drawn[:, None] >= np.cumsum(table, 1)[classes]).sum(1)
    frequencies = torch.from_numpy(table.astype(np.int16))
    kinds = torch.from_numpy(classes.astype(np.int16))
    numbers = torch.from_numpy(symbols.astype(np.uint8))
    encode, decode = torch.ops.denoise_ext.rans_encode, torch.ops.denoise_ext.rans_decode
    data = encode(numbers, kinds, frequencies)
    assert torch.equal(decode(data, kinds, frequencies), numbers)
    return {
        "coder, encode": lambda: encode(numbers, kinds, frequencies),
        "coder, decode": lambda: decode(data, kinds, frequencies),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="file of a sealed codec (default: the one that ships)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    args = parser.parse_args()
    clean = read_image(PHOTOGRAPH)
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    noisy = (clean + noise).clip(0, 255).round().astype(np.uint8)
    network, denoiser = codec.load_codec(args.model), Denoiser(sigma=SIGMA)
    data = codec.encode(noisy, QUALITY, SIGMA, model=network)
    rival = avif(denoiser(noisy))
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(noisy, QUALITY, SIGMA, model=network),
        "decode": lambda: codec.decode(data, model=network),
        "denoise, then AVIF": lambda: avif(denoiser(noisy)),
        "decode AVIF": lambda: read_picture(rival).frames[0],
        **coder_turns(),
    }

    def turn(call: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start

        once()  # plans, memory
        return once

    turns = {name: turn(call) for name, call in calls.items()}
    samples = interleaved(turns, (args.rounds, args.rounds))
    quartiles = {name: statistics.quantiles(times, n=4) for name, times in samples.items()}
    pixels = clean.shape[0] * clean.shape[1]
    facts = {
        "commit": commit(), "processor": processor(), "threads": torch.get_num_threads(),
        "codec": network.digest.hex(), "rounds": args.rounds,
        "bits per pixel": {"DXC": 8 * len(data) / pixels, "AVIF": 8 * len(rival) / pixels},
        "seconds, quartiles": quartiles,
        "coder, megabytes of symbols a second": {
            name: SYMBOLS / 1e6 / quartiles[f"coder, {name}"][1] for name in ("encode", "decode")
        },
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "codec_speed.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
