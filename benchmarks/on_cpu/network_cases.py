"""Whole networks, and a step of training."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import denoise_ext
from denoise_ext import models
from denoise_ext import nn as dn
from harness.cases import (
    OURS,
    Call,
    Case,
    Contender,
    Target,
    Work,
    bytes_of,
    channels_last,
    channels_last_module,
    uniform,
)
from harness.networks import AtSigma, BaseUNet, convolution_operations, randomise
from on_cpu import competitors
from on_cpu.competitors import CHANNELS_LAST, COMPILED, NCHW, OPENVINO

# Parts of the largest value: a dozen and more layers by Winograd's algorithm in float32; and in
# bfloat16, of 8 bits, where it only tells a network from something else.
TOLERANCE, BFLOAT16_TOLERANCE = 1e-3, 0.25
# Other networks in place of the one that is measured, and how they are made small for a dry run.
OTHERS = {"dxnet_s_gray": {"widths": (8, 8), "blocks": (1, 1)}, "sepdncnn_gray": {"depth": 4}}
INSTEAD = f"{OURS} with {{}} instead"
OIDN = "Open Image Denoise"
FP32_RIVALS = (CHANNELS_LAST, COMPILED, OPENVINO)


def accelerated(model: nn.Module, x: Tensor, **settings: object) -> nn.Module:
    """Our engine's version of a model."""
    return denoise_ext.accelerate(copy.deepcopy(model), x, **settings)


def accelerated_call(model: nn.Module, x: Tensor, **settings: object) -> Call:
    fast = accelerated(model, x, **settings)
    return lambda: fast(x)


def torch_contenders(plain: nn.Module, x: Tensor, tiny: bool) -> dict[str, Contender]:
    """torch as it comes, with one line changed, and compiled."""
    layouts = {CHANNELS_LAST: torch.channels_last, NCHW: torch.contiguous_format}
    found = {
        name: Contender(name, partial(competitors.torch_eager, plain, x, layout))
        for name, layout in layouts.items()
    }
    return found | {
        COMPILED: Contender(COMPILED, partial(competitors.torch_compiled, plain, x, tiny))
    }


def network_work(published: nn.Module, plain: nn.Module, x: Tensor, tiny: bool) -> Work:
    """``published``: as its author gives it; ``plain``: torch.nn, BatchNorm folded."""
    layers = channels_last_module(dn.from_torch(plain))
    image = channels_last(x)
    by_torch = torch_contenders(plain, x, tiny)
    contenders = [
        by_torch[CHANNELS_LAST],  # the result that is expected
        Contender(OURS, partial(accelerated_call, published, image)),
        Contender(
            f"{OURS} precision=fast", partial(accelerated_call, published, image, precision="fast")
        ),
        Contender(f"{OURS} layers, eager", lambda: lambda: layers(image)),
        by_torch[COMPILED],
        *competitors.onnx_contenders(plain, x),
    ]
    return Work(contenders, convolution_operations(plain, x), traffic(plain, x), TOLERANCE)


def traffic(plain: nn.Module, x: Tensor) -> int:
    """Bytes of every convolution's input, output and weights, each once."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        counts.append(bytes_of(inputs[0], output, module.weight))

    hooks = [m.register_forward_hook(count) for m in plain.modules() if isinstance(m, nn.Conv2d)]
    plain(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def dncnn(tiny: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """(as trained, with BatchNorm; plain torch.nn, folded; image)."""
    published = models.create_model("dncnn_gray", batch_norm=True, depth=4 if tiny else 17)
    randomise(published)
    plain = dn.to_torch(models.fold_batchnorm(published))
    size = 12 if tiny else 512
    return dn.to_torch(published), plain.eval(), uniform((1, 1, size, size))


def other_network(name: str, x: Tensor, tiny: bool) -> Contender:
    """What a user of the zoo may take instead, accelerated: another function, of another size."""
    model = randomise(models.create_model(name, **(OTHERS[name] if tiny else {})))
    plain = dn.to_torch(model)
    plain = (AtSigma(plain, 25.0) if model.needs_sigma else plain).eval()
    rates = {"operations": convolution_operations(plain, x), "moved_bytes": traffic(plain, x)}
    call = partial(accelerated_call, plain, channels_last(x))
    return Contender(INSTEAD.format(name), call, result=None, rates=rates)


def dncnn_work(tiny: bool) -> Work:
    published, plain, x = dncnn(tiny)
    work = network_work(published, plain, x, tiny)
    work.contenders.extend(other_network(name, x, tiny) for name in OTHERS)
    return work


def unet_work(tiny: bool) -> Work:
    size = 32 if tiny else 512
    model, x = randomise(BaseUNet()), uniform((1, 3, size, size))
    work = network_work(model, model, x, tiny)
    # The same layers with weights of its own, and its conversions of the image.
    work.contenders.append(
        Contender(OIDN, lambda: competitors.oidn(x, torch.get_num_threads()), result=None)
    )
    return work


def ffdnet_work(tiny: bool) -> Work:
    size = 12 if tiny else 512
    model = randomise(models.create_model("ffdnet_gray", depth=3 if tiny else 15))
    plain = AtSigma(dn.to_torch(model), 25.0).eval()
    return network_work(plain, plain, uniform((1, 1, size, size)), tiny)


def bfloat16_work(tiny: bool) -> Work:
    """torch gets and gives bfloat16; the others convert."""
    published, plain, x = dncnn(tiny)
    image, onnx = channels_last(x), competitors.OnnxModel(plain, x)
    by_torch = torch_contenders(copy.deepcopy(plain).bfloat16(), x.bfloat16(), tiny)
    del by_torch[NCHW]
    contenders = [
        *by_torch.values(),
        Contender(OURS, partial(accelerated_call, published, image, dtype=torch.bfloat16)),
        Contender(f"{OURS} float32", partial(accelerated_call, published, image)),
        Contender(OPENVINO, lambda: competitors.openvino(onnx, torch.get_num_threads(), "bf16")),
    ]
    work = convolution_operations(plain, x), traffic(plain, x) / 2
    return Work(contenders, *work, BFLOAT16_TOLERANCE)


def stock_work(tiny: bool) -> Work:
    """What a user gets who changes nothing, and who changes one line."""
    published, plain, x = dncnn(tiny)
    ours = Contender(OURS, partial(accelerated_call, published, x))
    contenders = [*torch_contenders(plain, x, tiny).values(), ours]
    return Work(contenders, convolution_operations(plain, x), traffic(plain, x), TOLERANCE)


class TrainingStep:
    """Forward, backward and Adam on one batch; the result is the loss."""

    def __init__(self, model: nn.Module, x: Tensor, layout: torch.memory_format) -> None:
        self.model = copy.deepcopy(model).to(memory_format=layout).train()
        self.x = x.contiguous(memory_format=layout)
        self.target = torch.zeros_like(self.x)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    @torch.enable_grad()
    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(self.x), self.target)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def training_work(batch_norm: bool, tiny: bool) -> Work:
    depth, batch, size = (4, 2, 12) if tiny else (17, 16, 64)
    model = models.create_model("dncnn_gray", batch_norm=batch_norm, depth=depth)
    randomise(model)
    plain, x = dn.to_torch(model), uniform((batch, 1, size, size))
    contenders = [
        Contender(CHANNELS_LAST, lambda: TrainingStep(plain, x, torch.channels_last)),
        Contender(OURS, lambda: TrainingStep(model, x, torch.channels_last)),
        Contender(NCHW, lambda: TrainingStep(plain, x, torch.contiguous_format)),
    ]
    # The gradients of the input and of the weights are a convolution's work each.
    operations = 3 * convolution_operations(plain, x)
    return Work(contenders, operations, 3 * traffic(plain.eval(), x), TOLERANCE)


def network_cases() -> list[Case]:
    return [
        Case(
            "DnCNN-17 gray 512x512",
            dncnn_work,
            # DXNet: at most 0.4 of the accelerated DnCNN's time
            (Target(2.7, FP32_RIVALS), Target(2.5, (OURS,), INSTEAD.format("dxnet_s_gray"))),
            4,
        ),
        Case("base U-Net of Open Image Denoise 512x512", unet_work, (Target(2.3, (OIDN,)),), 3),
        Case("FFDNet gray 512x512", ffdnet_work, (Target(2.7, FP32_RIVALS),), 2),
        Case("DnCNN-17 gray 512x512, bfloat16", bfloat16_work, (), 2),
    ]


def stock_cases() -> list[Case]:
    return [Case("DnCNN-17 gray 512x512", stock_work, (Target(7.0, (NCHW,)),))]


def training_cases() -> list[Case]:
    target = (Target(1.3, (CHANNELS_LAST,)),)
    return [
        Case("DnCNN-17, 16x1x64x64", partial(training_work, False), target),
        Case("DnCNN-17 with BatchNorm, 16x1x64x64", partial(training_work, True), target),
    ]
