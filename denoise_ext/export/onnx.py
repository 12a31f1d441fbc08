"""Networks as ONNX files, for ONNX Runtime, OpenVINO, TensorRT and others."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext import __version__
from denoise_ext.io import check_target, write_atomically
from denoise_ext.io.errors import optional
from denoise_ext.models.network import Network
from denoise_ext.nn import to_torch

MINIMUM_OPSET = 18
# What two float32 programs that add in different orders may differ by, relative to the largest
# value: dozens of layers, each off by some 2^-24 times the square root of thousands of terms. A
# graph that computes anything else is off by far more.
_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """A network that could not be exported, or whose file computes something else."""


def export_onnx(
    model: Network,
    path: str | os.PathLike[str],
    *,
    opset: int = MINIMUM_OPSET,
    check: bool = True,
    overwrite: bool = False,
) -> float | None:
    """Write ``model`` as an ONNX file, in float32, and check it in ONNX Runtime.

    The file's input ``image`` is (batch, C, height, width), float32, nominally in [0, 1]; all but
    the channels may change from call to call, any height and width >= 1. Networks that need it have
    a second input ``sigma``, (batch,), float32: the noise's standard deviation on the 0-255 scale.
    The output ``denoised`` has the shape of ``image`` and is not clipped. Padding to what the
    network needs is part of the graph. The file's metadata hold the network's configuration.

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
        ExportError: (a RuntimeError) PyTorch cannot export the network, or the file's results
            differ; nothing is written then.
    """
    if not isinstance(model, Network):
        raise TypeError(f"model must be a denoise_ext model, got {type(model).__name__}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < MINIMUM_OPSET:
        raise ValueError(f"opset must be an int >= {MINIMUM_OPSET}, got {opset!r}")
    check_target(path, overwrite)
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        optional(package, "onnx", "export to ONNX")
    network = to_torch(model).cpu().float().eval()
    data = _onnx_bytes(network, opset)
    difference = _difference(network, data) if check else None
    write_atomically(path, lambda stream: stream.write(data), overwrite)
    return difference


class _AnySize(nn.Module):
    """A network with the padding of :meth:`Network.denoise_any_size` as arithmetic.

    That one decides by the image's size, which an exported graph does not know: here rows and
    columns are picked by number, always.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, sigma: Tensor | None = None) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = self._places(height), self._places(width)
        x = image.index_select(2, rows).index_select(3, columns)
        noise_map = None if sigma is None else (sigma / 255.0).reshape(-1, 1, 1, 1)
        return self.network.denoise(x, noise_map)[..., :height, :width]

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


def _onnx_bytes(network: Network, opset: int) -> bytes:
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    # No size of the example is one that the graph might take for a constant.
    example: tuple[Tensor, ...] = (
        torch.rand(2, network.in_channels, 4 * network.stride + 3, 5 * network.stride + 1),
    )
    shapes: dict[str, Any] = {"image": {0: batch, 2: height, 3: width}}
    if network.needs_sigma:
        example += (torch.tensor([10.0, 20.0]),)
        shapes["sigma"] = {0: batch}
    try:
        with _quiet():
            program = torch.onnx.export(
                _AnySize(network), example, input_names=list(shapes), output_names=["denoised"],
                dynamic_shapes=shapes, opset_version=opset, dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises what its many parts raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"PyTorch cannot export {network.family}: {lines[0]}") from error
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "denoise_ext", __version__
    facts = {
        "config": json.dumps(network.config, sort_keys=True),
        "image": "(batch, channels, height, width), nominally in [0, 1]",
        "denoised": "as image, not clipped",
    }
    if network.needs_sigma:
        facts["sigma"] = "(batch,), standard deviation of the noise on the 0-255 scale"
    del proto.metadata_props[:]
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    _drop_traces(proto.graph)
    return proto.SerializeToString()


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
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    stride = network.stride
    for batch, height, width in ((1, 1, 1), (3, 2, stride + 1), (1, 3 * stride, 2 * stride + 5)):
        image = torch.rand(batch, network.in_channels, height, width, generator=generator)
        sigma = torch.linspace(5.0, 50.0, batch) if network.needs_sigma else None
        given = {"image": image.numpy()} | ({} if sigma is None else {"sigma": sigma.numpy()})
        result = torch.from_numpy(session.run(None, given)[0])
        with torch.inference_mode():
            expected = network(image, sigma)
        scale = max(1.0, float(expected.abs().max()))
        found = float((result - expected).abs().max()) / scale
        if not found <= _TOLERANCE:  # also NaN
            raise ExportError(
                f"the exported {network.family} is off by {found:.1e} in ONNX Runtime for an image "
                f"of {width} x {height}, allowed {_TOLERANCE:.0e}"
            )
        worst = max(worst, found)
    return worst


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
