"""Networks as ONNX files, for ONNX Runtime, OpenVINO, TensorRT and others."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from denoise_ext import __version__
from denoise_ext.export.motion import replace_motion
from denoise_ext.io import check_target, write_atomically
from denoise_ext.io.errors import optional
from denoise_ext.models.network import Network, Port, Signature
from denoise_ext.nn import to_torch

MINIMUM_OPSET = 18
# What two float32 programs that add in different orders may differ by, relative to the largest
# value: dozens of layers, each off by some 2^-24 times the square root of thousands of terms. A
# graph that computes anything else is off by far more.
_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """A network that could not be exported, or whose file computes something else.

    Example:
        >>> class Spectrum(denoise_ext.models.ImageDenoiser):
        ...     family, config = "spectrum", {}
        ...     def denoise(self, x, noise_map):
        ...         return torch.linalg.svdvals(x)[..., None] * x
        >>> try:
        ...     denoise_ext.export.export_onnx(Spectrum(1, needs_sigma=False), "network.onnx")
        ... except denoise_ext.export.ExportError:
        ...     print("ONNX has no operator for it")
        ONNX has no operator for it
    """


def export_onnx(
    model: Network,
    path: str | os.PathLike[str],
    *,
    opset: int = MINIMUM_OPSET,
    check: bool = True,
    overwrite: bool = False,
) -> float | None:
    """Write ``model`` as an ONNX file, in float32, and check it in ONNX Runtime.

    Inputs and outputs are the ports of ``model.signature``, (batch, C, height, width), float32.
    Batch, height and width may change from call to call. A noise map is given as ``sigma``,
    (batch,): the noise's standard deviation on the 0-255 scale. Image denoisers take ``image``,
    nominally in [0, 1], and give ``denoised``, not clipped. Padding to the network's stride is part
    of the graph. Networks with a state or with ports of several scales take multiples of the
    stride alone; the state of the next call is ``next_NAME``. An output whose name is an input's
    is called ``NAME_out``. The file's metadata hold the network's configuration (``config``), the
    shape of each input and output (``shape.NAME``) and the sizes that it takes (``sizes``).

    Args:
        model: the network; its weights are stored in float32, whatever they are.
        path: target, written atomically.
        opset: of the ONNX operators, at least 18.
        check: run the file in ONNX Runtime on images of several sizes, and compare with PyTorch.
        overwrite: replace an existing file.

    Returns:
        The largest difference from PyTorch seen, relative to the largest value; None unchecked.

    Raises:
        TypeError, ValueError: an argument that does not fit; the file exists.
        ImageError: (a ValueError) a package is missing (``pip install denoise-ext[onnx]``), or the
            file cannot be written.
        ExportError: (a RuntimeError) PyTorch cannot export the network, ONNX has no operator for a
            part of it, or the file's results differ; nothing is written then.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=3, width=8).eval()
        >>> difference = denoise_ext.export.export_onnx(network, "network.onnx")
        >>> difference < 1e-4
        True
    """
    if not isinstance(model, Network):
        raise TypeError(f"model must be a denoise_ext model, got {type(model).__name__}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < MINIMUM_OPSET:
        raise ValueError(f"opset must be an int >= {MINIMUM_OPSET}, got {opset!r}")
    check_target(path, overwrite)
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        optional(package, "onnx", "export to ONNX")
    network = cast("Network", to_torch(model).cpu().float().eval())
    written = copy.deepcopy(network)
    replace_motion(written)
    data = _onnx_bytes(written, opset)
    difference = _difference(network, data) if check else None
    write_atomically(path, data, overwrite)
    return difference


class _Flat(nn.Module):
    """A network as exported graphs have it: tensors in a row in, tensors in a row out.

    A noise map is given as one level per image, ``sigma``.  Sizes are padded as by
    :meth:`Network.compute_any_size`.  That method depends on the image's size, which is unknown in
    an exported graph.  Here rows and columns are always picked by number.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs, then the next state, in the order of the signature."""
        signature, stride = self.network.signature, self.network.stride
        named = dict(zip((*signature.inputs, *signature.state), tensors, strict=True))
        state = {name: named[name] for name in signature.state}
        inputs = {
            name: (named[name] / 255.0).reshape(-1, 1, 1, 1)
            if _is_level(name, port)
            else named[name]
            for name, port in signature.inputs.items()
        }
        height, width = named[signature.reference].shape[-2:]
        if stride > 1 and _any_size(self.network):
            rows, columns = self._places(height), self._places(width)
            for name, port in signature.inputs.items():
                if not _is_level(name, port):
                    inputs[name] = inputs[name].index_select(2, rows).index_select(3, columns)
        outputs, state = self.network.compute(inputs, state)
        cropped = (
            outputs[name][..., :height, :width] if _any_size(self.network) else outputs[name]
            for name in signature.outputs
        )
        return (*cropped, *(state[name] for name in signature.state))

    def _places(self, size: int) -> Tensor:
        """Which row each row of the padded image is a copy of."""
        stride = self.network.stride
        index = torch.arange((size + stride - 1) // stride * stride)
        last = torch.arange(size).max()
        if self.network.pad_mode == "replicate":
            return torch.minimum(index, last)
        # there and back: 0 1 2 3 2 1 0 1 ..., where the last is 3
        period = (2 * last).clamp(min=1)
        index = torch.remainder(index, period)
        return torch.minimum(index, period - index)


def _as_ports(signature: Signature, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs as the network takes them: a level (batch,) becomes a noise map."""
    return {
        name: (named[name] / 255.0).reshape(-1, 1, 1, 1) if _is_level(name, port) else named[name]
        for name, port in signature.inputs.items()
    }


def _is_level(name: str, port: Port) -> bool:
    return name == "noise_map" and port.kind == "condition"


def _any_size(network: Network) -> bool:
    """Whether the file takes every size, or multiples of the stride alone.

    The sizes of ports of other scales, and of a state, are known of multiples only.
    """
    signature = network.signature
    ports = (*signature.inputs.values(), *signature.outputs.values())
    return not signature.state and all(port.scale == 1 for port in ports)


def _names(network: Network) -> tuple[list[str], list[str]]:
    """Names of the file's inputs and outputs, in the order of `_Flat`."""
    signature = network.signature
    given = [
        "sigma" if _is_level(name, port) else name for name, port in signature.inputs.items()
    ] + list(signature.state)
    made = [network.exported_names.get(name, name) for name in signature.outputs]
    made = [f"{name}_out" if name in given else name for name in made]
    return given, made + [f"next_{name}" for name in signature.state]


def _example(network: Network, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Random inputs and a random state for images of that size."""
    signature = network.signature
    generator = torch.Generator().manual_seed(height * width)
    tensors = []
    for name, port in (*signature.inputs.items(), *signature.state.items()):
        if _is_level(name, port):
            tensors.append(torch.linspace(5.0, 50.0, batch))
        else:
            shape = (batch, port.channels, port.size(height), port.size(width))
            tensors.append(torch.rand(shape, generator=generator))
    return tuple(tensors)


def _dynamic_shapes(network: Network) -> tuple[dict[int, Any], ...]:
    """For each tensor of `_Flat`, which of its sizes may change."""
    dim = torch.export.Dim
    batch = dim("batch")
    signature, shapes = network.signature, []
    height, width = dim("height"), dim("width")
    rows, columns = dim("rows"), dim("columns")  # in units of the stride
    for name, port in (*signature.inputs.items(), *signature.state.items()):
        if _is_level(name, port):
            shapes.append({0: batch})
        elif _any_size(network):
            shapes.append({0: batch, 2: height, 3: width})
        else:
            unit = port.size(network.stride)
            sizes = (rows, columns) if unit == 1 else (unit * rows, unit * columns)
            shapes.append({0: batch, 2: sizes[0], 3: sizes[1]})
    return tuple(shapes)


def _onnx_bytes(network: Network, opset: int) -> bytes:
    given, made = _names(network)
    # No size of the example is one that the graph might take for a constant.
    height, width = 4 * network.stride, 5 * network.stride
    if _any_size(network):
        height, width = height + 3, width + 1
    try:
        with _quiet():
            program = torch.onnx.export(
                _Flat(network), _example(network, 2, height, width), input_names=given,
                output_names=made, dynamic_shapes=(_dynamic_shapes(network),), opset_version=opset,
                dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises what its many parts raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"PyTorch cannot export {network.family}: {lines[0]}") from error
    assert program is not None  # with dynamo=True
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "denoise_ext", __version__
    del proto.metadata_props[:]
    for key, value in _facts(network).items():
        proto.metadata_props.add(key=key, value=value)
    _drop_traces(proto.graph)
    return proto.SerializeToString()


def tensors_of(network: Network) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs of the file by name: the shape of each, in words."""
    signature, (given, made) = network.signature, _names(network)
    ports = (*signature.inputs.items(), *signature.state.items())
    results = (*signature.outputs.values(), *signature.state.values())
    inputs = {
        name: "(batch,), standard deviation of the noise on the 0-255 scale"
        if _is_level(own, port)
        else _shape(port)
        for name, (own, port) in zip(given, ports, strict=True)
    }
    return inputs, dict(zip(made, map(_shape, results), strict=True))


def _shape(port: Port) -> str:
    times = "" if port.scale == 1 else f"{port.scale} * "
    return f"(batch, {port.channels}, {times}height, {times}width)"


def _facts(network: Network) -> dict[str, str]:
    """What the file's metadata hold: the configuration, and each tensor in words."""
    facts = {"config": json.dumps(network.config, sort_keys=True)}
    for tensors in tensors_of(network):
        facts |= {f"shape.{name}": text for name, text in tensors.items()}
    if not _any_size(network):
        facts["sizes"] = f"height and width are multiples of {network.stride}"
    return facts


def _drop_traces(graph: Any) -> None:
    """Remove the exporter's notes: stack traces with the names of this machine's folders."""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]


def _difference(network: Network, data: bytes) -> float:
    """The largest difference between ONNX Runtime and PyTorch, relative to the largest value."""
    runtime = optional("onnxruntime", "onnx", "the check of an ONNX file")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given, made = _names(network)
    worst, stride = 0.0, network.stride
    sizes: tuple[tuple[int, int, int], ...]
    sizes = ((1, 2, 1), (3, 1, 3))  # batch, rows and columns in units of the stride
    if _any_size(network):
        sizes = ((1, 1, 1), (3, 2, stride + 1), (1, 3 * stride, 2 * stride + 5))
        stride = 1
    for batch, rows, columns in sizes:
        tensors = _example(network, batch, rows * stride, columns * stride)
        feed = {name: tensor.numpy() for name, tensor in zip(given, tensors, strict=True)}
        with torch.inference_mode():
            expected = _reference(network, tensors)
        for name, result, wanted in zip(made, session.run(made, feed), expected, strict=True):
            scale = max(1.0, float(wanted.abs().max()))
            found = float((torch.from_numpy(result) - wanted).abs().max()) / scale
            if not found <= _TOLERANCE:  # also NaN
                raise ExportError(
                    f"{name} of the exported {network.family} is off by {found:.1e} in ONNX Runtime"
                    f" for an image of {columns * stride} x {rows * stride}, allowed"
                    f" {_TOLERANCE:.0e}"
                )
            worst = max(worst, found)
    return worst


def _reference(network: Network, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What PyTorch computes of the tensors of `_Flat`."""
    signature = network.signature
    named = dict(zip((*signature.inputs, *signature.state), tensors, strict=True))
    state = {name: named[name] for name in signature.state}
    outputs, state = network.compute_any_size(_as_ports(signature, named), state)
    return (
        *(outputs[name] for name in signature.outputs),
        *(state[name] for name in signature.state),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
