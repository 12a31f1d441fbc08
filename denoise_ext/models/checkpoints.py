"""Reading and writing model weights."""

from __future__ import annotations

import json
import pickle
import re
import reprlib
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from denoise_ext.models.archive import check_file
from denoise_ext.models.network import Network
from denoise_ext.models.recognise import (
    CheckpointError,
    build_fitting,
    check_dense,
    recognise,
)
from denoise_ext.models.registry import build_model, build_named, check_config, has_family

FORMAT = "denoise_ext"
TRAINING_FORMAT = "denoise_ext training state 1"
MAX_HEADER = 1 << 22
"""Most bytes of the header of a safetensors file: 4 MiB, some 40 000 tensors."""
MAX_CONFIG = 1 << 16
"""Most characters of a network's configuration."""
# Options of a network that count layers; some of them are a list with a number for each level.
_LAYERS = ("depth", "levels", "blocks", "encoder_blocks", "middle_blocks", "decoder_blocks")
_LAYERS_WITHOUT_TENSORS = 256  # a family may use a tensor several times
_HDF5 = b"\x89HDF\r\n\x1a\n"
_WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "net", "model")


def load_checkpoint(path: str | PathLike[str]) -> Network:
    """Load the network of a checkpoint file for inference: float32, on the CPU, eval mode.

    Reads ``.safetensors`` (with this package's metadata, or plain tensors) and
    PyTorch files (``.pth``, ``.pt``, any other suffix; also a training run's ``checkpoint.pt``).
    PyTorch files are read with ``weights_only=True``: nothing in them is executed. Without this
    package's metadata, the network is recognised from the names and shapes of its tensors:

    * ``model.N.weight``: KAIR's DnCNN (with or without BatchNorm), FDnCNN and FFDNet;
    * ``dncnn.N.weight``: the DnCNN with BatchNorm of SaoYan/DnCNN-PyTorch and cszn/DnCNN;
    * ``intermediate_dncnn.itermediate_dncnn.N.weight``: IPOL's FFDNet with BatchNorm;
    * ``m_head.weight``: KAIR's and DPIR's DRUNet;
    * ``intro.weight``: the authors' NAFNet;
    * ``body.0.weight`` and ``body.1.weight``: Real-ESRGAN's SRVGGNetCompact with PReLU;
    * ``model.1.sub.0.RDB1.conv1.0.weight``, ``RRDB_trunk.0.RDB1.conv1.weight``,
      ``body.0.rdb1.conv1.weight``: RRDBNet of ESRGAN, BSRGAN and Real-ESRGAN;
    * ``conv_1.sk.weight``: the authors' SPAN.

    ``{"state_dict": ...}``, ``{"params_ema": ...}`` and ``{"params": ...}`` are unwrapped.
    ``module.`` prefixes are dropped.
    BatchNorm is folded into the convolutions.

    Sizes are checked against the length of the file before tensors are read. Memory is at most
    twice the weights in float32, plus that of 4 MiB of pickle or header.

    Raises:
        CheckpointError: (a ValueError) the file is missing, damaged, not a checkpoint, or of no
            known network. Also if it holds anything but plain data, compressed records, or more
            than 4 MiB about its tensors. The message names the file.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=3, width=8)
        >>> denoise_ext.models.save_model(network, "mine.safetensors")
        >>> denoise_ext.models.load_checkpoint("mine.safetensors").training
        False
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise CheckpointError("the file is empty")
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        _check_kind(path)
        loaded = load_plain_data(path)
        if isinstance(loaded, dict) and loaded.get("format") == TRAINING_FORMAT:
            return _from_training_state(loaded)
        return recognise(_unwrap(loaded))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def read_metadata(path: str | PathLike[str]) -> dict[str, Any]:
    """``{"config": ..., "training": ...}`` of a file :func:`save_model` wrote.

    Raises CheckpointError when it is not such a file.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=3, width=8)
        >>> denoise_ext.models.save_model(network, "mine.safetensors", metadata={"steps": 100})
        >>> denoise_ext.models.read_metadata("mine.safetensors")["training"]
        {'steps': 100}
    """
    try:
        _check_header(Path(path))
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise CheckpointError("not written by this package")
        return {key: json.loads(header[key]) for key in ("config", "training")}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot read the metadata ({error})") from None


def _check_kind(path: Path) -> None:
    """Refuse files of MATLAB and NumPy by name: they hold weights, too, in layouts of their own."""
    with path.open("rb") as file:
        head = file.read(512)
    record = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # name of a ZIP's first
    kind = ""
    if head.startswith((b"MATLAB ", _HDF5)) or path.suffix.lower() == ".mat":
        kind = "MATLAB (.mat)" if not head.startswith(_HDF5) else "MATLAB (.mat) or HDF5"
    elif head.startswith(b"\x93NUMPY"):
        kind = "NumPy (.npy)"
    elif head.startswith(b"PK\3\4") and record.endswith(b".npy"):
        kind = "NumPy (.npz)"
    if kind:
        raise CheckpointError(
            f"a {kind} file; weights are read from PyTorch files (.pth, .pt) and .safetensors: save"
            " them as a state_dict with torch.save"
        )


def _check_header(path: Path) -> None:
    """Refuse a header that would take long to read. Its length is the file's first 8 bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER < length <= path.stat().st_size:
        raise CheckpointError(
            f"its header takes {length} bytes; at most {MAX_HEADER} are read (4 MiB)"
        )


def _load_safetensors(path: Path) -> Network:
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: _float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"not a readable safetensors file ({error})") from None
    if header.get("format") != FORMAT:
        return recognise(state)
    try:
        if len(header["config"]) > MAX_CONFIG:
            raise CheckpointError(
                f"its configuration has {len(header['config'])} characters; at most {MAX_CONFIG}"
                " are read"
            )
        config = json.loads(header["config"])
        _check_family(config)
        _check_layers(config, state)
        model = build_fitting(lambda: build_model(config), state)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata describes no model ({error})") from None
    return model.for_inference()


def _check_family(config: dict[str, Any]) -> None:
    """CheckpointError unless the family is registered that the weights belong to."""
    family = config["family"]
    if not has_family(family):
        raise CheckpointError(
            f"holds weights of the family {reprlib.repr(family)}, which is not registered: import"
            " the module that registers it, on the command line with --import MODULE"
        )


def _from_training_state(state: dict[str, Any]) -> Network:
    """The network of an unfinished training run."""
    try:
        weights = state.get("mean") or state["model"]
        if "network" in state:
            _check_family(state["network"])
            _check_layers(state["network"], weights)
            model = build_fitting(lambda: build_model(state["network"]), weights)
        else:  # written before runs could start from a checkpoint of any network
            chosen = state["config"]["model"]
            _check_layers(chosen["options"], weights)
            model = build_fitting(lambda: build_named(chosen["name"], **chosen["options"]), weights)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"damaged training state ({error})") from None
    return model.for_inference()


def _check_layers(config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Refuse a configuration of far more layers than there are tensors: to build it takes time."""
    if not isinstance(config, dict):
        return  # refused where it is used
    counts = [config.get(key, 0) for key in _LAYERS]
    numbers = [n for count in counts for n in (count if isinstance(count, list) else [count])]
    layers = sum(n for n in numbers if isinstance(n, int))
    levels = max((len(value) for value in config.values() if isinstance(value, list)), default=0)
    if max(layers, levels) > len(state) + _LAYERS_WITHOUT_TENSORS:
        raise CheckpointError(
            f"its metadata describes no model of its {len(state)} tensors: {layers} layers in"
            f" {levels} levels"
        )


def load_plain_data(path: Path, *, records: bool = False) -> object:
    """Load a PyTorch file of plain data; CheckpointError for everything else.

    `records`: where the file carries no checksum, check that of each of its records.
    """
    check_file(path, records=records)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: nothing the user can change
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message explains at length how to switch the protection off: not here.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f" (it names {found[1]})" if found else ""
        raise CheckpointError(
            f"not a checkpoint of plain tensors; nothing in it was executed{detail}"
        ) from None
    except Exception as error:  # damaged data raises nearly anything inside torch
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"not a readable PyTorch file ({first})") from None


def _unwrap(loaded: object) -> dict[str, Tensor]:
    """The state_dict in what was loaded, in float32."""
    for _ in range(2):
        inner = [loaded[key] for key in _WRAPPERS if isinstance(loaded, dict) and key in loaded]
        if not inner or not isinstance(inner[0], dict):
            break
        loaded = inner[0]
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"holds no state_dict, but {type(loaded).__name__}")
    wrong = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if wrong or not all(isinstance(key, str) for key in loaded):
        shown = ", ".join(wrong[:8]) or "keys that are not strings"
        raise CheckpointError(f"holds no state_dict: not tensors: {shown}")
    for key, value in loaded.items():
        check_dense(key, value)  # before it is converted, which would make it so
    return {key: _float32(value) for key, value in loaded.items()}


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def save_model(
    model: Network,
    path: str | PathLike[str],
    dtype: torch.dtype = torch.float16,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write weights and configuration as one safetensors file, atomically.

    Args:
        model: the network; its ``config`` goes into the file's metadata.
        path: target; an existing file is replaced.
        dtype: what floating-point tensors are stored as.
        metadata: JSON-able facts about the training, kept under ``"training"``.

    Raises:
        ValueError: a weight is not finite, or does not fit into ``dtype``; ``model.config`` does
            not describe the network, so that the file could not be read again.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=3, width=8)
        >>> denoise_ext.models.save_model(network, "mine.safetensors", dtype=torch.float32)
    """
    from denoise_ext.io.atomic import replace_file  # loads decoders: here only

    check_config(model)
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.to(dtype)
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"weight {key!r} is not finite in {dtype}")
        tensors[key] = value.contiguous()
    header = {
        "format": FORMAT,
        "config": json.dumps(model.config, sort_keys=True),
        "training": json.dumps(metadata or {}, sort_keys=True),
    }
    replace_file(path, safetensors_bytes(tensors, header))
