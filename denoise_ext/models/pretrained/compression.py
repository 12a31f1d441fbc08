"""Trained weights of codecs."""

from denoise_ext.models.pretrained.wording import PHOTOGRAPHS
from denoise_ext.models.registry import Pretrained, register_pretrained

_DATA_CODEC = f"BSDS500 without BSD68 and CBSD68, and {PHOTOGRAPHS}"
_PROTOCOL_CODEC = (
    "PSNR to the clean picture at 0.4 bits per pixel of whole files, mean of Kodak_full; white"
    " Gaussian noise, rounded to 8 bits, the codec is given its level; `benchmarks/codec.py`"
)

register_pretrained(
    "dxcodec_1",
    Pretrained(
        file="dxcodec_1.safetensors",
        sha256="f624d67553f4a35d47c28434c35e81735e723ea33abc5f645fc15484a22ba71f",
        config={
            "blocks": [1, 2, 2], "channels": 3, "family": "dxcodec", "latents": 128, "rates": 8,
            "sealed": True, "widths": [48, 64, 96],
        },
        recipe="recipes/dxcodec.toml",
        training_data=_DATA_CODEC,
        noise="white Gaussian noise, sigma 0-50 (0-255 scale), not clipped; a quarter is clean",
        steps=11500,
        licence="Apache-2.0",
        psnr={
            "Kodak at 0.4 bpp sigma 0": 31.91, "Kodak at 0.4 bpp sigma 15": 30.85,
            "Kodak at 0.4 bpp sigma 25": 29.74,
        },
        protocol=_PROTOCOL_CODEC,
    ),
)  # fmt: skip
