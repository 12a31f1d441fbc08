"""Our own networks beside published ones, all of them accelerated: what their time is worth.

They compute different functions: only the first one's result is compared, with plain torch.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from denoise_ext import models
from denoise_ext import nn as dn
from on_cpu.cases import OURS, Case, Contender, Target, Work, channels_last, uniform
from on_cpu.network_cases import TOLERANCE, accelerated_call, torch_rivals, traffic
from on_cpu.networks import AtSigma, convolution_operations, randomise

SIGMA = 25.0  # of 255
DNCNN, FFDNET = f"{OURS} DnCNN-17", f"{OURS} FFDNet"
# DXNet is to take at most 0.4 of DnCNN's time.
LEAST = 2.5
TINY = {
    "dxnet_s": {"widths": (8, 8), "blocks": (1, 1)}, "dncnn": {"depth": 3, "width": 8},
    "ffdnet": {"depth": 3, "width": 8},
}  # fmt: skip


def network(family: str, kind: str, tiny: bool) -> nn.Module:
    """One of the zoo in plain torch.nn, told sigma where it needs it, with weights of no use."""
    options = TINY[family] if tiny else {}
    model = randomise(models.create_model(f"{family}_{kind}", **options))
    plain = dn.to_torch(model)
    return (AtSigma(plain, SIGMA) if model.needs_sigma else plain).eval()


def zoo_work(kind: str, channels: int, tiny: bool) -> Work:
    size = 16 if tiny else 512
    x = uniform(1, channels, size, size)
    image, ours = channels_last(x), network("dxnet_s", kind, tiny)
    first, *_ = torch_rivals(ours, x, tiny).values()
    others = {DNCNN: "dncnn", FFDNET: "ffdnet"}
    contenders = [
        first,
        Contender(OURS, partial(accelerated_call, ours, image)),
        *(
            Contender(
                name, partial(accelerated_call, network(family, kind, tiny), image), result=None
            )
            for name, family in others.items()
        ),
    ]
    return Work(contenders, convolution_operations(ours, x), traffic(ours, x), TOLERANCE)


def zoo_cases() -> list[Case]:
    return [
        Case(
            f"dxnet_s_{kind} 512x512", partial(zoo_work, kind, channels), (Target(LEAST, (DNCNN,)),)
        )
        for kind, channels in (("gray", 1), ("color", 3))
    ]
