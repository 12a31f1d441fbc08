"""Networks as ONNX files compute what PyTorch computes, at every size."""

from __future__ import annotations

import json
import sys

import command_line
import pytest
import torch
from command_line import run
from torch import Tensor
from zoo import FAMILIES, tiny

from denoise_ext.export import ExportError, export_onnx
from denoise_ext.export import onnx as export
from denoise_ext.models.network import Network, Port, Signature, extend
from denoise_ext.nn import to_torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures

# one of each family: the kinds of images differ in the number of channels alone
ONE_EACH = sorted({name.split("_")[0]: name for name in FAMILIES}.values())
# The exporter takes a second for every few blocks.
SHALLOW = {"nafnet": {"encoder_blocks": [1], "decoder_blocks": [1]}}


def evaluate(path, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result = session.run(["denoised"], {key: value.numpy() for key, value in inputs.items()})
    return torch.from_numpy(result[0])


@pytest.mark.rotates(turns=8)
@pytest.mark.parametrize("name", ONE_EACH)
def test_every_family_in_onnx_runtime(name, tmp_path):
    model, path = tiny(name, **SHALLOW.get(name.split("_")[0], {})), tmp_path / "net.onnx"
    assert export_onnx(model, path) < 1e-5
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [opset.version for opset in proto.opset_import if opset.domain == ""] == [18]
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["config"]) == model.config
    assert [i.name for i in proto.graph.input] == ["image"] + ["sigma"] * model.needs_sigma
    assert b".py" not in path.read_bytes(), "no stack traces of the exporting machine"
    generator = torch.Generator().manual_seed(7)
    scales = {port.scale for port in model.signature.outputs.values()}
    for batch, height, width in ((1, 5, 3), (2, 16, 24), (1, 1, 9), (4, 33, 18)):
        if scales != {1}:  # such a file takes multiples of the stride alone
            height, width = model.padded(height), model.padded(width)
        x = torch.rand(batch, model.in_channels, height, width, generator=generator)
        sigma = torch.rand(batch, generator=generator) * 75
        given = {"image": x} | ({"sigma": sigma} if model.needs_sigma else {})
        with torch.inference_mode():
            expected = to_torch(model)(x, sigma)
        # float32 sums of at most 100 terms in another order, a dozen layers
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            evaluate(path, **given), expected, rtol=0, atol=12 * 100 * 2**-24 * scale
        )


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("size", range(1, 8))
def test_padding_by_number_is_padding(size, mode):
    model = tiny("dncnn_gray")
    model.stride, model.pad_mode = 16, mode
    x = torch.rand(1, 1, size, 3)
    picked = x.index_select(2, export._Flat(model)._places(size))
    assert torch.equal(picked, extend(x, -size % 16, 0, mode))


class Crossed(Network):
    """Its ports have the names of the file's other facts."""

    family = "crossed"
    signature = Signature(
        {"config": Port(2), "sigma": Port(1, kind="condition")},
        {"sizes": Port(2), "mean": Port(1, scale=2)},
    )

    @property
    def config(self) -> dict[str, str]:
        return {"family": self.family}

    def compute(self, inputs, state):
        x = inputs["config"] * inputs["sigma"]
        mean = x.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return {"sizes": x, "mean": mean}, state


def test_no_port_replaces_another_fact(tmp_path):
    export_onnx(Crossed(), tmp_path / "net.onnx", check=False)
    facts = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(facts.pop("config")) == {"family": "crossed"}
    assert "multiples of 1" in facts.pop("sizes")
    assert facts == {
        "shape.config": "(batch, 2, height, width)",
        "shape.sigma": "(batch, 1, height, width)",
        "shape.sizes": "(batch, 2, height, width)",
        "shape.mean": "(batch, 1, 2 * height, 2 * width)",
    }


def test_half_precision_and_batch_normalisation(tmp_path):
    model = tiny("dncnn_gray", batch_norm=True)
    assert export_onnx(model.half(), tmp_path / "net.onnx", opset=20) < 1e-5
    assert next(model.parameters()).dtype == torch.float16  # the model itself stays as it is
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 20


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model = tiny("ffdnet_gray")
    monkeypatch.setattr(export._Flat, "_places", lambda self, size: torch.zeros(
        (size + 1) // 2 * 2, dtype=torch.int64))  # fmt: skip
    with pytest.raises(ExportError, match=r"the exported ffdnet is off by .* allowed 1e-03"):
        export_onnx(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_pytorch_cannot_export(tmp_path, monkeypatch):
    model = tiny("dncnn_gray")
    monkeypatch.setattr(type(model), "denoise", lambda self, x, _: x if x.sum() > 0 else -x)
    with pytest.raises(ExportError, match="dncnn"):
        export_onnx(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(tmp_path, monkeypatch):
    model = tiny("dncnn_gray")
    with pytest.raises(TypeError, match="denoise_ext model"):
        export_onnx(torch.nn.Conv2d(1, 1, 3), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"opset.*>= 18.*17"):
        export_onnx(model, tmp_path / "net.onnx", opset=17)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="exists"):
        export_onnx(model, tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"needs onnxscript: pip install denoise-ext\[onnx\]"):
        export_onnx(model, tmp_path / "net.onnx", overwrite=True)


def test_command(folder, checkpoints, capsys):
    code, out, err = run(capsys, "export", checkpoints["gray"], "-o", "net.onnx")
    assert (code, err) == (0, "")
    assert "net.onnx" in out and "sigma (batch,)" in out and "largest difference" in out
    assert (folder / "net.onnx").stat().st_size > 0
    code, _, err = run(capsys, "export", checkpoints["gray"], "-o", "net.onnx")
    assert code == 2 and "exists" in err
    code, _, err = run(capsys, "export", "no-such-model", "-o", "other.onnx")
    assert code == 2 and "no-such-model" in err and err.count("\n") == 1
