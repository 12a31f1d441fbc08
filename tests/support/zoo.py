"""Every registered image denoiser, as small as it can be built with nothing left out."""

from __future__ import annotations

import torch
from torch import nn

from denoise_ext.models import ImageDenoiser, create_model, list_models

# Options that make a family small; a family that is not named here is tried with what most have.
TINY: dict[str, dict[str, object]] = {
    "dncnn": {"width": 6, "depth": 4},
    "ffdnet": {"width": 6, "depth": 4},
    "sepdncnn": {"width": 6, "depth": 4},
    "deconvnet": {"width": 4, "levels": 2, "depth": 1},
    "dxnet": {"widths": [4, 6], "blocks": [1, 1]},
    "dxnet_blind": {"widths": [4, 6], "blocks": [1, 1], "estimator_width": 4},
    "dxnet_vae": {"widths": [4, 6], "blocks": [1, 1], "code_channels": 3, "posterior_width": 4},
    "drunet": {"widths": [4, 6, 8], "blocks": 1},
    "nafnet": {"width": 4, "encoder_blocks": [1, 1], "middle_blocks": 1, "decoder_blocks": [1, 1]},
}
_USUAL = ({"width": 8, "depth": 3}, {"width": 8}, {})


def image_denoisers() -> list[str]:
    """The registered names whose network denoises single images."""
    with torch.device("meta"):
        return [name for name in list_models() if isinstance(create_model(name), ImageDenoiser)]


def family(name: str) -> str:
    """The architecture behind a registered name."""
    with torch.device("meta"):
        return create_model(name).family


def tiny(name: str, **options: object) -> ImageDenoiser:
    """A narrow, shallow network of that name with random weights, in eval mode."""
    torch.manual_seed(0)
    chosen = TINY.get(family(name))
    for usual in _USUAL if chosen is None else (chosen,):
        try:
            model = create_model(name, **{**usual, **options}).eval()
        except ValueError:
            if usual is _USUAL[-1] or chosen is not None:
                raise
        else:
            break
    for parameter in model.parameters():
        if not parameter.any():  # scales that start at zero would leave their branch out
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def tiny_for(channels: int, family: str = "ffdnet", **options: object) -> ImageDenoiser:
    """A tiny network for gray (1) or colour (3) images, the same in every process."""
    torch.manual_seed(channels)
    options = {"predicts": "noise", **options} if family == "ffdnet" else options
    kind = "gray" if channels == 1 else "color"
    return create_model(f"{family}_{kind}", width=8, depth=3, **options).eval()


def _kind(name: str) -> tuple[str, bool, int]:
    """What is built once: variants that differ in size alone are not built twice."""
    with torch.device("meta"):
        unshuffle = create_model(name).config.get("unshuffle", 1)
    return family(name), "color" in name, unshuffle


FAMILIES = sorted({_kind(name): name for name in reversed(image_denoisers())}.values())
