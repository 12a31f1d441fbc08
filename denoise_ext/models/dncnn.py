"""DnCNN: a plain residual CNN that predicts the noise.

Zhang, Zuo, Chen, Meng, Zhang: "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE TIP 2017.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from denoise_ext._choices import check_bool, check_choice
from denoise_ext.models.folding import BatchNorm, fold_into
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    ImageDenoiser,
    append_noise_map,
    check_positive_int,
)
from denoise_ext.models.initialise import initialise_stack
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d


@register_architecture("dncnn")
class DnCNN(ImageDenoiser):
    """DnCNN for gray (``channels=1``) or colour (``channels=3``) images.

    Args:
        channels: image channels.
        width: channels of the hidden layers.
        depth: number of 3x3 convolutions, >= 2.
        noise_map: append sigma / 255 as an input channel; the model then needs sigma. Otherwise it
            is blind, or trained for one noise level.
        batch_norm: batch normalisation after every convolution but the first and the last, as
            published for training. For inference fold it: ``models.fold_batchnorm(model)``.
        predicts: ``"noise"``: the result is ``x - net(x)``, as published; ``"image"``: the result
            is ``net(x)``, as in KAIR's FDnCNN (which has a noise map too).
    """

    family = "dncnn"

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        depth: int = 17,
        noise_map: bool = False,
        batch_norm: bool = False,
        predicts: str = "noise",
    ) -> None:
        super().__init__(channels, needs_sigma=check_bool("noise_map", noise_map))
        self.width: int = check_positive_int("width", width)
        self.depth: int = check_positive_int("depth", depth, 2, MAX_LAYERS)
        self.batch_norm: bool = check_bool("batch_norm", batch_norm)
        self.predicts: str = check_choice("predicts", predicts, ("image", "noise"))
        layers: list[nn.Module] = [
            Conv2d(channels + int(self.needs_sigma), width, 3, padding=1, activation="relu")
        ]
        for _ in range(depth - 2):
            if self.batch_norm:  # the normalisation has its own shift, so no bias before it
                layers += [
                    Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
            else:
                layers.append(Conv2d(width, width, 3, padding=1, activation="relu"))
        layers.append(Conv2d(width, channels, 3, padding=1))
        self.body: nn.Sequential = nn.Sequential(*layers)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "width": self.width,
            "depth": self.depth,
            "noise_map": self.needs_sigma,
            "batch_norm": self.batch_norm,
            "predicts": self.predicts,
        }

    def initialise(self, generator: torch.Generator) -> None:
        """See :func:`~denoise_ext.models.initialise.initialise_stack`."""
        initialise_stack(self, generator)

    def for_inference(self) -> DnCNN:
        """Without batch normalisation, which is folded into the convolutions; in eval mode."""
        return fold_batchnorm(self) if self.batch_norm else self.eval()

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        output = self.body(append_noise_map(x, noise_map))
        return x - output if self.predicts == "noise" else output


@torch.no_grad()
def fold_batchnorm(model: DnCNN) -> DnCNN:
    """A copy of ``model`` for inference, its batch normalisation folded into the convolutions.

    Returns a model without batch normalisation, in eval mode; its output is that of
    ``model.eval()`` up to rounding. A model that has none is copied as it is.

    Raises TypeError when ``model`` is not a DnCNN.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=4, batch_norm=True)
        >>> folded = denoise_ext.models.fold_batchnorm(network)
        >>> any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
        False
    """
    if not isinstance(model, DnCNN):
        raise TypeError(f"model must be a DnCNN, got {type(model).__name__}")
    options = {key: value for key, value in model.config.items() if key != "family"}
    folded = DnCNN(**{**options, "batch_norm": False})
    reference = next(model.parameters())
    folded = folded.to(device=reference.device, dtype=reference.dtype)
    targets = iter(folded.body)
    layers = list(model.body)
    for layer, following in zip(layers, [*layers[1:], None]):
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, bias = layer.weight, layer.bias
        if isinstance(following, nn.BatchNorm2d):
            weight, bias = fold_into(weight, bias, _read(following))
        target = cast("nn.Conv2d", next(targets))
        target.weight.copy_(weight)
        assert target.bias is not None and bias is not None
        target.bias.copy_(bias)
    return folded.eval()


def _read(norm: nn.BatchNorm2d) -> BatchNorm:
    assert norm.running_mean is not None and norm.running_var is not None  # it tracks them
    return BatchNorm(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)


@register_model
def dncnn_gray(**kwargs: Any) -> DnCNN:
    """DnCNN for gray images and one noise level: 17 convolutions of 64 channels."""
    return DnCNN(**{"channels": 1, "depth": 17, **kwargs})


@register_model
def dncnn_color(**kwargs: Any) -> DnCNN:
    """DnCNN for colour images and one noise level: 17 convolutions of 64 channels."""
    return DnCNN(**{"channels": 3, "depth": 17, **kwargs})


@register_model
def dncnn_gray_blind(**kwargs: Any) -> DnCNN:
    """Blind DnCNN for gray images: 20 convolutions of 64 channels."""
    return DnCNN(**{"channels": 1, "depth": 20, **kwargs})


@register_model
def dncnn_color_blind(**kwargs: Any) -> DnCNN:
    """Blind DnCNN for colour images: 20 convolutions of 64 channels."""
    return DnCNN(**{"channels": 3, "depth": 20, **kwargs})
