"""Trained weights of networks that enlarge pictures."""

from denoise_ext.models.pretrained.wording import PHOTOGRAPHS
from denoise_ext.models.registry import Pretrained, register_pretrained

_DATA_UPSCALING = (
    "the 400 images of BSDS500 that are not in its val part (list train/CBSD400.txt), and "
    f"{PHOTOGRAPHS}"
)
_NOISE_UPSCALING = "white Gaussian noise, sigma 0-50 (0-255 scale), in half of the crops"
_PROTOCOL_UPSCALING = (
    "mean over images, reduced as by MATLAB's imresize; luma of 8 bits, without a border of the"
    " scale; `benchmarks/upscaling.py`"
)

register_pretrained(
    "srnet_s_x2",
    Pretrained(
        file="srnet_s_x2.safetensors",
        sha256="74b31bbc43c706e31162abca1978d2267ab77205e9abb0d4acf6936291841560",
        config={"blocks": 8, "channels": 3, "family": "srnet", "scale": 2, "width": 48},
        recipe="recipes/srnet_s_x2.toml",
        training_data=_DATA_UPSCALING,
        noise=_NOISE_UPSCALING,
        steps=13000,
        licence="Apache-2.0",
        psnr={"Set5 x2": 37.43, "Set14 x2": 33.08, "B100 x2": 31.88},
        protocol=_PROTOCOL_UPSCALING,
    ),
)  # fmt: skip

register_pretrained(
    "srnet_s_x3",
    Pretrained(
        file="srnet_s_x3.safetensors",
        sha256="1311af629bcdac21bc94f1d622ad74d74179e417e75c558c6dda6b59d81fa8ad",
        config={"blocks": 8, "channels": 3, "family": "srnet", "scale": 3, "width": 48},
        recipe="recipes/srnet_s_x3.toml",
        training_data=_DATA_UPSCALING,
        noise=_NOISE_UPSCALING,
        steps=15000,
        licence="Apache-2.0",
        psnr={"Set5 x3": 33.70, "Set14 x3": 29.84, "B100 x3": 28.80},
        protocol=_PROTOCOL_UPSCALING,
    ),
)  # fmt: skip

register_pretrained(
    "srnet_s_x4",
    Pretrained(
        file="srnet_s_x4.safetensors",
        sha256="9ec94dd926720e384f357dce81c8533a7b6d4ec1e6e48d1ed03561f935b52e8b",
        config={"blocks": 8, "channels": 3, "family": "srnet", "scale": 4, "width": 48},
        recipe="recipes/srnet_s_x4.toml",
        training_data=_DATA_UPSCALING,
        noise=_NOISE_UPSCALING,
        steps=19000,
        licence="Apache-2.0",
        psnr={"Set5 x4": 31.49, "Set14 x4": 28.18, "B100 x4": 27.32},
        protocol=_PROTOCOL_UPSCALING,
    ),
)  # fmt: skip
