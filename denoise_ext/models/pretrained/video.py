"""Trained weights of networks that denoise films."""

from denoise_ext.models.pretrained.wording import NOISE_PHOTO, PHOTOGRAPHS
from denoise_ext.models.registry import Pretrained, register_pretrained

_DATA_VIDEO = (
    f"BSDS500 without BSD68 and CBSD68, and {PHOTOGRAPHS}, in synthetic motion; films of"
    " video/clips/train and video/nasa_mp4 at half their size"
)
_PROTOCOL_VIDEO = (
    "mean over the 12 films of video/clips/test, 40 frames at most; luma; white Gaussian noise, not"
    " clipped; output clipped; `benchmarks/video.py`"
)
_PROTOCOL_VIDEO_PHOTO = (
    "mean over the films of video/clips/test, 12 frames at most, the middle 176 x 136 pixels; RGB "
    "together; blind; output clipped; `benchmarks/video.py --color --frames 12 --crop 136 176`"
)

register_pretrained(
    "rdxnet_m_photo",
    Pretrained(
        file="rdxnet_m_photo.safetensors",
        sha256="05109878409967300b8efaffb4191a93f1c1ae7600deefd0bea1f08beda00ed5",
        config={
            "blocks": [2, 5], "channels": 3, "estimator_depth": 6, "estimator_width": 48,
            "family": "rdxnet_blind", "look_ahead": False, "widths": [64, 80],
        },
        recipe="recipes/rdxnet_m_photo_longer.toml",
        training_data=_DATA_VIDEO,
        noise=NOISE_PHOTO + ", some of it compressed as H.264",
        steps=6900,
        licence="Apache-2.0",
        psnr={"test films, noise of cameras": 32.97, "the same, then H.264": 31.40},
        protocol=_PROTOCOL_VIDEO_PHOTO,
    ),
)  # fmt: skip

register_pretrained(
    "rdxnet_s_color",
    Pretrained(
        file="rdxnet_s_color.safetensors",
        sha256="d11e25edcd8b86f47f3cfde2b2ddf8784e06ddcbe33b1cc73ebf8678afa98197",
        config={
            "blocks": [1, 1, 2], "bypass": False, "channels": 3, "family": "rdxnet",
            "look_ahead": False, "unshuffle": 2, "widths": [16, 32, 64],
        },
        recipe="recipes/rdxnet_s_color.toml",
        training_data=_DATA_VIDEO,
        noise=NOISE_PHOTO + ", some of it compressed as H.264; half: white, sigma 0-60",
        steps=7500,
        licence="Apache-2.0",
        psnr={"test films, noise of cameras": 32.27, "the same, then H.264": 30.53},
        protocol=_PROTOCOL_VIDEO_PHOTO,
    ),
)  # fmt: skip

register_pretrained(
    "rdxnet_s_gray",
    Pretrained(
        file="rdxnet_s_gray.safetensors",
        sha256="8660b18240cc59e5105a7f6b48b5a45a4e0b19ab3eab0e72199d8f082739eb83",
        config={
            "blocks": [1, 1, 2], "bypass": False, "channels": 1, "family": "rdxnet",
            "look_ahead": False, "unshuffle": 2, "widths": [16, 32, 64],
        },
        recipe="recipes/rdxnet_s_gray.toml",
        training_data=_DATA_VIDEO,
        noise="white Gaussian noise, sigma 0-60 (0-255 scale), not clipped",
        steps=16000,
        licence="Apache-2.0",
        psnr={"test films sigma 20": 33.47, "test films sigma 40": 30.22},
        protocol=_PROTOCOL_VIDEO,
    ),
)  # fmt: skip

register_pretrained(
    "rdxnet_xs_color",
    Pretrained(
        file="rdxnet_xs_color.safetensors",
        sha256="11e1bfb7739bd802099bc4f238fe4e374ddebd08c8dab8c21ecc6d3d9d6925f8",
        config={
            "blocks": [1, 2], "bypass": True, "channels": 3, "family": "rdxnet",
            "look_ahead": False, "unshuffle": 4, "widths": [32, 48],
        },
        recipe="recipes/rdxnet_xs_color.toml",
        training_data=_DATA_VIDEO,
        noise=NOISE_PHOTO + ", some of it compressed as H.264; half: white, sigma 0-60",
        steps=8000,
        licence="Apache-2.0",
        psnr={"test films, noise of cameras": 32.28, "the same, then H.264": 30.60},
        protocol=_PROTOCOL_VIDEO_PHOTO,
    ),
)  # fmt: skip

register_pretrained(
    "rdxnet_xs_gray",
    Pretrained(
        file="rdxnet_xs_gray.safetensors",
        sha256="cd18c53f01d695fd799178ad957fe69e1c036d208b7a32dd8f96d20608554b22",
        config={
            "blocks": [1, 2], "bypass": False, "channels": 1, "family": "rdxnet",
            "look_ahead": False, "unshuffle": 4, "widths": [32, 48],
        },
        recipe="recipes/rdxnet_xs_gray.toml",
        training_data=_DATA_VIDEO,
        noise="white Gaussian noise, sigma 0-60 (0-255 scale), not clipped",
        steps=12000,
        licence="Apache-2.0",
        psnr={"test films sigma 20": 33.05, "test films sigma 40": 29.79},
        protocol=_PROTOCOL_VIDEO,
    ),
)  # fmt: skip
