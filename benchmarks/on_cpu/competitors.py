"""Runtimes one would use instead, each set up as its documentation says.

Every function imports its runtime itself: where it is not installed, `Absent` says so.
"""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from harness.cases import OURS, Absent, Call, Contender, channels_last

CHANNELS_LAST, NCHW = "torch channels_last", "torch NCHW"
COMPILED = "torch.compile, frozen"
ONNX_RUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
FAST, PACKED = f"{OURS} precision=fast", f"{OURS} packed, out="  # ours in other ways
RUNTIMES = {  # distribution -> module; their versions are kept with the results
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "opencv-python-headless": "cv2",
    "scikit-image": "skimage",
    "kornia": "kornia",
    "pyoidn": "pyoidn",
}


def need(module: str) -> ModuleType:
    """Import, or Absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Absent(f"{module} is not installed ({error})") from error


def torch_eager(model: nn.Module, x: Tensor, layout: torch.memory_format) -> Call:
    model, x = copy.deepcopy(model).to(memory_format=layout), x.contiguous(memory_format=layout)
    return lambda: model(x)


def torch_compiled(model: nn.Module, x: Tensor, tiny: bool) -> Call:
    """torch.compile with freezing: weights are constants, packed for oneDNN once."""
    model, x = copy.deepcopy(model).to(memory_format=torch.channels_last), channels_last(x)
    torch._dynamo.reset()
    # A dry run stops before the C++ compiler, which would take most of its time.
    compiled = torch.compile(model, backend="eager" if tiny else "inductor", fullgraph=True)
    with torch._inductor.config.patch(freezing=True):
        compiled(x)
    return lambda: compiled(x)


class OnnxModel:
    """A network as ONNX, exported when it is first asked for."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model, self.x = model, x.contiguous()

    @cached_property
    def content(self) -> bytes:
        need("onnxscript")  # the exporter is written with it
        with warnings.catch_warnings():  # of the exporter's own code
            warnings.simplefilter("ignore")
            program = torch.onnx.export(self.model, (self.x,), dynamo=True, verbose=False)
        stream = io.BytesIO()
        program.save(stream)
        return stream.getvalue()


def onnxruntime(onnx: OnnxModel, threads: int) -> Call:
    """All graph optimisations (the default), input and output bound once."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(onnx.content, options, providers=["CPUExecutionProvider"])
    image = ort.OrtValue.ortvalue_from_numpy(onnx.x.numpy())
    output = ort.OrtValue.ortvalue_from_numpy(np.empty(onnx.model(onnx.x).shape, np.float32))
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return output.numpy()

    return run


def openvino(onnx: OnnxModel, threads: int, precision: str = "f32") -> Call:
    """Latency hint, input bound once; ``precision`` is that of its arithmetic."""
    ov = need("openvino")
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(core.read_model(onnx.content), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(onnx.x.numpy(), shared_memory=True))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return run


def onnx_contenders(model: nn.Module, x: Tensor) -> list[Contender]:
    """The runtimes for ONNX, in float32."""
    onnx, threads = OnnxModel(model.eval(), x), torch.get_num_threads()
    return [
        Contender(OPENVINO, lambda: openvino(onnx, threads)),
        Contender(ONNX_RUNTIME, lambda: onnxruntime(onnx, threads)),
    ]


def oidn(x: Tensor, threads: int) -> Call:
    """Filter RT on a low dynamic range image (1, 3, H, W), quality High."""
    library = need("pyoidn")
    device = library.Device()
    device.set_int("numThreads", threads)
    device.commit()
    image = np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
    output = np.empty_like(image)
    denoise = library.Filter(device, "RT")
    denoise.set_image("color", image, library.OIDN_FORMAT_FLOAT3)
    denoise.set_image("output", output, library.OIDN_FORMAT_FLOAT3)
    denoise.set_quality(library.OIDN_QUALITY_HIGH)
    denoise.commit()
    if error := device.get_error():
        raise Absent(f"Open Image Denoise: {error}")

    def run() -> np.ndarray:
        denoise.execute()
        return output

    return run
