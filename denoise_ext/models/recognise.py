"""From the tensors of a checkpoint to the network they belong to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from denoise_ext.models.folding import BatchNorm, fold_into
from denoise_ext.models.network import Network
from denoise_ext.models.recognise_u_net import FAST_DVDNET, U_NETS, fastdvdnet
from denoise_ext.models.recognise_upscalers import upscaler_of
from denoise_ext.models.registry import build_model

RECOGNISED = """recognised layouts:
  model.N.weight  DnCNN, FDnCNN and FFDNet as KAIR writes them, with or without BatchNorm
  dncnn.N.weight  DnCNN of SaoYan/DnCNN-PyTorch and cszn/DnCNN, with BatchNorm
  intermediate_dncnn.itermediate_dncnn.N.weight  FFDNet of IPOL, with BatchNorm
  m_head.weight, m_down1.0.res.0.weight, ...  DRUNet as KAIR and DPIR write it
  intro.weight, encoders.0.0.conv1.weight, ...  NAFNet as its authors write it
  temp1.inc.convblock.0.weight, ...  FastDVDnet as its author writes it, with BatchNorm
  body.0.weight, body.1.weight, ...  SRVGGNetCompact as Real-ESRGAN writes it, with PReLU
  model.1.sub.0.RDB1.conv1.0.weight, RRDB_trunk.0.RDB1.conv1.weight, body.0.rdb1.conv1.weight, ...
                  RRDBNet as ESRGAN, BSRGAN and Real-ESRGAN write it
  conv_1.sk.weight, block_1.c1_r.sk.weight, ...  SPAN as its authors write it
and this package's own files, which have metadata"""

_IPOL = "intermediate_dncnn.itermediate_dncnn"  # Tassano, Delon, Veit: FFDNet, IPOL 2019
_KEY = re.compile(rf"(model|dncnn|{re.escape(_IPOL)})\.(\d+)\.(\w+)")
_NORM_KEYS = {"weight", "bias", "running_mean", "running_var"}
_IRCNN_DEPTH = 7


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or used; the message names the file.

    Example:
        >>> _ = Path("broken.pth").write_bytes(b"no weights")
        >>> try:
        ...     denoise_ext.models.load_checkpoint("broken.pth")
        ... except denoise_ext.models.CheckpointError as error:
        ...     print("broken.pth" in str(error))
        True
    """


@dataclass
class _Convolution:
    """One convolution and what follows it, as stored."""

    weight: Tensor
    bias: Tensor | None
    norm: BatchNorm | None = None


def recognise(state: dict[str, Tensor]) -> Network:
    """The network of a published state_dict, weights loaded, batch normalisation folded, eval.

    Raises CheckpointError: the keys or shapes are those of no known network, or weights are not
    finite.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for mark, configuration in U_NETS.items():
        if mark in state:
            return _read_by(partial(_unchanged, configuration), state)
    if read := upscaler_of(state):
        return _read_by(read, state)
    if FAST_DVDNET in state:
        return _read_by(partial(_unchanged, fastdvdnet), _without_norms(state))
    prefix, tensors = _split_keys(state)
    chain = _read_chain(prefix, tensors)
    if prefix == _IPOL and chain:
        chain[0].weight = _one_level_last(chain[0].weight, len(chain[-1].weight))
    config = _configuration(prefix, chain)
    own: dict[str, Tensor] = {}
    for index, layer in enumerate(chain):
        weight, bias = layer.weight, layer.bias
        if layer.norm is not None:
            weight, bias = fold_into(weight, bias, layer.norm)
        own[f"body.{index}.weight"] = weight
        own[f"body.{index}.bias"] = torch.zeros(len(weight)) if bias is None else bias
    return build_fitting(lambda: build_model(config), own).eval()


def _unchanged(
    configuration: Callable[[dict[str, Tensor]], dict[str, Any]], state: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of a layout whose names are our own."""
    return configuration(state), state


def _read_by(
    read: Callable[[dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]],
    state: dict[str, Tensor],
) -> Network:
    """The network of the configuration and the tensors that a layout's function finds."""
    try:
        config, own = read(state)
        return build_fitting(lambda: build_model(config), own).eval()
    except CheckpointError as error:
        raise _wrong(str(error)) from None
    except (KeyError, IndexError, ValueError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise _wrong(str(missing)) from None


def _without_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch normalisation folded into the convolutions, each of which has a bias then.

    A normalisation has the number after that of its convolution. A bias that is not there is 0.
    """
    own: dict[str, Tensor] = {}
    for key, weight in state.items():
        if not key.endswith(".weight") or weight.dim() != 4:
            continue
        name = key.removesuffix(".weight")
        folder, _, number = name.rpartition(".")
        if not number.isdecimal():
            raise _wrong(f"{key} is not expected")
        bias, after = state.get(f"{name}.bias"), f"{folder}.{int(number) + 1}"
        found = {part: state.get(f"{after}.{part}") for part in _NORM_KEYS}
        if (scale := found["weight"]) is not None and scale.dim() == 1:
            norm = {part: x for part, x in found.items() if x is not None}
            fits = len(norm) == len(found) and all(
                tuple(x.shape) == (len(weight),) for x in norm.values()
            )
            if not fits or (bias is not None and bias.shape != scale.shape):
                raise _wrong(f"{after}: not a batch normalisation of {len(weight)} channels")
            weight, bias = fold_into(weight, bias, BatchNorm(**norm, eps=1e-5))
        own[key] = weight
        own[f"{name}.bias"] = weight.new_zeros(len(weight)) if bias is None else bias
    for key in state.keys() - own.keys():
        folder, _, number = key.rpartition(".")[0].rpartition(".")
        if not number.isdecimal() or f"{folder}.{int(number) - 1}.weight" not in own:
            raise _wrong(f"{key} is not expected")
    return own


def build_fitting(build: Callable[[], Network], state: dict[str, Tensor]) -> Network:
    """``build()`` with the tensors of ``state``.

    The network is built without memory first: a file that describes one larger than what it holds
    is refused before anything of that size is allocated.

    Raises CheckpointError: the tensors do not fit, or are not finite.
    """
    try:
        with torch.device("meta"):
            wanted = _shapes(build().state_dict())
    except (RuntimeError, OverflowError) as error:  # sizes beyond 64 bits
        raise CheckpointError(f"describes no network: {str(error).splitlines()[0]}") from None
    given = _shapes(state)
    odd = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
    if odd:
        named = [f"{key}: {given.get(key, 'missing')}, not {wanted.get(key, 'known')}"
                 for key in odd[:4]]  # fmt: skip
        more = f", ... ({len(odd)} in all)" if len(odd) > 4 else ""
        raise CheckpointError(f"weights do not fit their configuration: {'; '.join(named)}{more}")
    for key, value in state.items():
        _check_numbers(key, value)
    model = build()
    model.load_state_dict(state)
    return model


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights; the counter of batch normalisation is none."""
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def check_dense(key: str, value: Tensor) -> None:
    """Refuse a tensor with fewer numbers stored than its shape has: sparse, or expanded."""
    dense = value.layout == torch.strided and not value.is_quantized
    if not dense or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise CheckpointError(f"weight {key!r} is not stored number by number")


def _check_numbers(key: str, value: Tensor) -> None:
    check_dense(key, value)
    if value.is_floating_point() and not _finite(value):
        raise CheckpointError(f"weight {key!r} is not finite")


def _finite(value: Tensor) -> bool:
    """Whether all numbers are; a sum that is needs one pass, and no tensor of truth values."""
    if math.isfinite(float(value.sum(dtype=torch.float64))):
        return True
    return bool(torch.isfinite(value).all())  # a sum of float64 may overflow


def _split_keys(state: dict[str, Tensor]) -> tuple[str, dict[int, dict[str, Tensor]]]:
    """Common prefix, and the tensors by layer number and name."""
    tensors: dict[int, dict[str, Tensor]] = {}
    prefixes, unknown = set(), []
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match is None or match[3] not in _NORM_KEYS | {"num_batches_tracked"}:
            unknown.append(key)
            continue
        prefixes.add(match[1])
        if match[3] != "num_batches_tracked":
            tensors.setdefault(int(match[2]), {})[match[3]] = value
    if unknown or len(prefixes) != 1:
        names = unknown or sorted(state)
        shown = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
        raise CheckpointError(f"unknown keys: {shown or 'none at all'}\n{RECOGNISED}")
    return prefixes.pop(), tensors


def _read_chain(prefix: str, tensors: dict[int, dict[str, Tensor]]) -> list[_Convolution]:
    """The convolutions in order; checks that the layer numbers leave room for the ReLUs."""
    chain: list[_Convolution] = []
    expected = 0
    for index in sorted(tensors):
        entry, name = tensors[index], f"{prefix}.{index}"
        weight = entry.get("weight")
        if weight is None:
            raise _wrong(f"{name}.weight is missing")
        # In the published layouts a ReLU without keys has a number of its own.
        if weight.dim() == 1 and chain and index == expected - 1:
            chain[-1].norm = _read_norm(prefix, name, entry, len(chain[-1].weight), chain)
            expected = index + 2
        elif weight.dim() == 4 and index == expected and entry.keys() <= {"weight", "bias"}:
            chain.append(_Convolution(weight, entry.get("bias")))
            expected = index + 2
        else:
            raise _wrong(f"{name}.weight of shape {tuple(weight.shape)} is not expected there")
    return chain


def _read_norm(
    prefix: str, name: str, entry: dict[str, Tensor], channels: int, chain: list[_Convolution]
) -> BatchNorm:
    missing = _NORM_KEYS - entry.keys()
    if missing or any(tuple(value.shape) != (channels,) for value in entry.values()):
        raise _wrong(f"{name}: not a batch normalisation of {channels} channels")
    # A state_dict does not hold eps. KAIR and cszn/DnCNN use 1e-4; IPOL and SaoYan/DnCNN-PyTorch
    # use torch's default 1e-5. The latter, unlike cszn/DnCNN, has no bias in its first convolution.
    saoyan = prefix == "dncnn" and chain[0].bias is None
    return BatchNorm(**entry, eps=1e-5 if saoyan or prefix == _IPOL else 1e-4)


def _one_level_last(weight: Tensor, outputs: int) -> Tensor:
    """IPOL's first weight for our order of inputs: the noise level behind the image, and once.

    There it comes first, and once for each channel of the image; all of them are equal.
    """
    levels = outputs // 4
    if weight.dim() != 4 or weight.shape[1] != outputs + levels:
        return weight  # refused by `_configuration`
    return torch.cat([weight[:, levels:], weight[:, :levels].sum(dim=1, keepdim=True)], dim=1)


def _configuration(prefix: str, chain: list[_Convolution]) -> dict[str, object]:
    """The model configuration the chain's shapes stand for; raises CheckpointError."""
    shapes = [tuple(layer.weight.shape) for layer in chain]
    if len(chain) < 2 or any(shape[2:] != (3, 3) for shape in shapes):
        raise _wrong(f"not a chain of 3x3 convolutions: {shapes}")
    inputs, width, outputs = shapes[0][1], shapes[0][0], shapes[-1][0]
    if any(shape[:2] != (width, width) for shape in shapes[1:-1]) or shapes[-1][1] != width:
        raise _wrong(f"hidden layers of different widths: {shapes}")
    for layer in chain:
        if layer.bias is not None and tuple(layer.bias.shape) != (len(layer.weight),):
            shape = tuple(layer.bias.shape)
            raise _wrong(f"bias of shape {shape} for {len(layer.weight)} channels")
    common = {"width": width, "depth": len(chain)}
    if inputs == outputs + 1 and outputs in (4, 12):
        predicts = "noise" if prefix == _IPOL else "image"
        return {"family": "ffdnet", "channels": outputs // 4, "predicts": predicts, **common}
    if outputs in (1, 3) and inputs in (outputs, outputs + 1):
        if len(chain) == _IRCNN_DEPTH and prefix == "model":
            raise _wrong(
                "7 convolutions: IRCNN, whose convolutions are dilated, has the same keys and "
                "shapes as a DnCNN of 7 convolutions"
            )
        options = {"family": "dncnn", "channels": outputs, "batch_norm": False, **common}
        if inputs == outputs:
            return {**options, "noise_map": False, "predicts": "noise"}
        return {**options, "noise_map": True, "predicts": "image"}  # FDnCNN
    raise _wrong(f"{inputs} input and {outputs} output channels")


def _wrong(what: str) -> CheckpointError:
    return CheckpointError(f"{what}\n{RECOGNISED}")
