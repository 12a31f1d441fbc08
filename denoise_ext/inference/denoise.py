"""`denoise`: one call from a noisy image to a clean one."""

from __future__ import annotations

import math
import os
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from denoise_ext.engine import Accelerated
from denoise_ext.inference.device import check_backend, choose_device
from denoise_ext.inference.loading import load_model
from denoise_ext.inference.pixels import from_unit, to_unit
from denoise_ext.models import Denoiser

Image = TypeVar("Image", np.ndarray, Tensor)
_DEFAULT_MODELS = {1: "ffdnet_gray_small", 3: "ffdnet_color_small"}


def default_model(channels: int) -> str:
    """The shipped model for images of `channels` channels (alpha not counted): 1 or 3."""
    if channels not in _DEFAULT_MODELS:
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB), got {channels!r}")
    return _DEFAULT_MODELS[channels]


def denoise(
    image: Image,
    model: Denoiser | str | os.PathLike[str] | None = None,
    sigma: float | np.ndarray | Tensor | None = None,
    device: str | torch.device | None = "auto",
    *,
    backend: str = "native",
) -> Image:
    """Denoise a whole image.

    Args:
        image: NumPy array (H, W) or (H, W, C), or tensor (H, W), (C, H, W) or (N, C, H, W);
            C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGB + alpha. uint8, uint16, or floating point
            in [0, 1] (noise may leave that range).
        model: a network (also from `denoise_ext.accelerate`), the name of one with trained weights,
            or a checkpoint file. None: the shipped one for gray or for colour, as the image is. A
            gray network on a colour image denoises each channel by itself (about 2 dB worse than a
            colour network at sigma 25). A colour network on a gray image gets three copies and
            sqrt(3) sigma, and the outputs are averaged (about 0.2 dB worse than a gray network):
            copied noise is sqrt(3) times as strong in the mean of the channels as the independent
            noise the network was trained on. A blind colour network, which cannot be told so, is
            refused for gray images.
        sigma: standard deviation of the noise **on the 0-255 scale**, whatever the image's dtype:
            a number, a map (H, W), or for a batch one value per image (N,). Required by models
            that are told the noise level (the shipped ones are); checked and unused by blind ones.
        device: "auto", "cpu", "cuda", "cuda:N" (see `choose_device`). A network that is passed in
            runs where its weights are; `device` must then be "auto", None or that device.
        backend: "native": this package's kernels; "torch": the same network in plain PyTorch. A
            network that is passed in runs as it is; convert it with `denoise_ext.nn.to_torch`.

    Returns:
        The denoised image: kind, shape, dtype and (for tensors) device of `image`; alpha as it
        was. uint8 and uint16 are clipped and rounded (half to even), floats are neither.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
        RuntimeError: the device or the native library cannot be used.

    Memory: the image is processed whole; two feature maps of 4 bytes x width of the network per
    pixel (FFDNet: a quarter of the pixels).
    """
    check_backend(backend)
    batch = _to_batch(image)  # (N, C, H, W), a view
    alpha = batch[:, -1:] if batch.shape[1] in (2, 4) else None
    colour = batch if alpha is None else batch[:, :-1]
    network = _network(model, colour.shape[1], device, backend)
    _check_fit(network, colour.shape[1], sigma)
    if colour.numel() == 0:
        return _copy(image)
    with torch.inference_mode():
        weight = next(network.parameters())
        x = to_unit(colour.to(weight.device), weight.dtype)
        output = _run(network, x, _sigma_argument(sigma, x))
        output = from_unit(output, colour.dtype).to(batch.device)
        if alpha is not None:
            output = torch.cat([output, alpha], dim=1)
    return _like(output, image)


def _network(
    model: Denoiser | str | os.PathLike[str] | None,
    channels: int,
    device: str | torch.device | None,
    backend: str,
) -> Denoiser:
    if model is None:
        model = default_model(channels)
    if isinstance(model, (str, os.PathLike)):
        return load_model(model, device, backend)
    if not isinstance(model, Denoiser) and not _is_accelerated(model):
        raise TypeError(
            f"model must be a denoise_ext model, a name or a path, got {type(model).__name__}"
        )
    if model.training:
        raise ValueError("model is in training mode; call model.eval() first")
    place = next(model.parameters()).device
    if device not in (None, "auto"):
        wanted = choose_device(device, "torch")
        if wanted.type != place.type or wanted.index not in (None, place.index):
            raise ValueError(f"model is on {place}, but device is {str(device)!r}")
    return model


def _is_accelerated(model: object) -> bool:
    return isinstance(model, Accelerated) and isinstance(model.original, Denoiser)


def _check_fit(network: Denoiser, channels: int, sigma: object) -> None:
    if channels == 1 and network.in_channels != 1 and not network.needs_sigma:
        raise ValueError(
            "model is a blind one for colour images, but the image is gray: use a gray model such"
            f" as {_DEFAULT_MODELS[1]}"
        )
    if network.needs_sigma and sigma is None:
        raise ValueError(
            "sigma is required by this model: the standard deviation of the noise on the 0-255"
            " scale"
        )


def _sigma_argument(sigma: float | np.ndarray | Tensor | None, x: Tensor) -> float | Tensor | None:
    """sigma in a form the network takes: a number, (N,) or (N, 1, H, W), on x's device."""
    if isinstance(sigma, np.generic):
        return sigma.item()
    if isinstance(sigma, np.ndarray):
        if sigma.dtype.kind not in "iuf":
            raise TypeError(f"sigma must hold real numbers, got {sigma.dtype}")
        sigma = torch.from_numpy(np.ascontiguousarray(sigma, dtype=np.float64))
    if isinstance(sigma, Tensor):
        if sigma.dim() == 2:
            if sigma.shape != x.shape[-2:]:
                raise ValueError(
                    f"sigma: a map must have the image's size {tuple(x.shape[-2:])}, got"
                    f" {tuple(sigma.shape)}"
                )
            sigma = sigma.expand(x.shape[0], 1, *sigma.shape)
        return sigma.to(x.device)
    if sigma is not None and (isinstance(sigma, bool) or not isinstance(sigma, (int, float))):
        raise TypeError(f"sigma must be a number, an array or a tensor, got {type(sigma).__name__}")
    return sigma


def _run(network: Denoiser, x: Tensor, sigma: float | Tensor | None) -> Tensor:
    n, c, h, w = x.shape
    if network.in_channels == c:
        return network(x, sigma)
    if c == 1:
        copies = network.in_channels
        output = network(x.expand(n, copies, h, w), sigma * math.sqrt(copies))
        return output.mean(dim=1, keepdim=True)
    # a gray network: every channel is an image of its own
    if isinstance(sigma, Tensor) and sigma.dim() > 0 and sigma.shape[0] == n:
        sigma = sigma.repeat_interleave(c, dim=0)
    return network(x.reshape(n * c, 1, h, w), sigma).reshape(n, c, h, w)


def _to_batch(image: np.ndarray | Tensor) -> Tensor:
    """A view (N, C, H, W) of the image; (H, W, C) arrays become channels-last tensors."""
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "uf":
            raise TypeError(
                f"image must be uint8, uint16 or floating point in [0, 1], got {image.dtype}"
            )
        if image.ndim not in (2, 3):
            raise ValueError(f"image must be (H, W) or (H, W, C), got shape {image.shape}")
        native = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
        # a read-only array gives a warning in torch.from_numpy, a copy does not
        tensor = torch.from_numpy(native if native.flags.writeable else native.copy())
        tensor = tensor[None] if image.ndim == 2 else tensor.permute(2, 0, 1)
    elif isinstance(image, Tensor):
        tensor = image.detach()
        if tensor.dim() not in (2, 3, 4):
            raise ValueError(
                f"image must be (H, W), (C, H, W) or (N, C, H, W), got shape {tuple(tensor.shape)}"
            )
        tensor = tensor[None] if tensor.dim() == 2 else tensor
    else:
        raise TypeError(f"image must be a NumPy array or a tensor, got {type(image).__name__}")
    batch = tensor if tensor.dim() == 4 else tensor[None]
    if batch.shape[1] not in (1, 2, 3, 4):
        raise ValueError(
            "image must have 1 to 4 channels (gray, gray + alpha, RGB, RGB + alpha), got shape"
            f" {tuple(image.shape)}"
        )
    if 0 in batch.shape[2:]:
        raise ValueError(f"image is empty: shape {tuple(image.shape)}")
    return batch


def _like(output: Tensor, image: Image) -> Image:
    """The batch (N, C, H, W) in the form `image` has."""
    if isinstance(image, Tensor):
        # a copy made outside inference mode is an ordinary tensor, which autograd can use
        return output.reshape(image.shape).clone()
    array = output[0].permute(1, 2, 0).contiguous().numpy()
    # from_numpy knows native byte order only
    return np.ascontiguousarray(array.reshape(image.shape).astype(image.dtype, copy=False))


def _copy(image: Image) -> Image:
    return image.clone() if isinstance(image, Tensor) else image.copy()
