"""Models written as people write them: each must come out equal, or be left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from engine_tools import random_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


def conv(a: int = 3, b: int = 3, **more) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1, **more)


class Body(nn.Module):
    """A forward given as a function of (module, argument), with two convolutions to use in it."""

    def __init__(self, run: Callable, **parts: nn.Module) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x, *args, **kwargs):
        return self.run(self, x, *args, **kwargs)


def shared(m, x):
    return m.a(m.a(m.b(m.a(x)).relu()))


def inplace_on_a_tensor_used_elsewhere(m, x):
    y = m.a(x)
    z = y + 1
    F.relu_(y)  # changes y, after z was made of it
    return y + z + m.b(y)


def inplace_through_a_view(m, x):
    y = m.a(x)
    y[:, 0].mul_(2)
    y[..., 1:3] = 0
    return m.b(y)


def branches(m, x):
    y = m.a(x)
    return m.b(y.relu()) + y.sigmoid() * y.tanh() - y


def depends_on_numbers(m, x):
    return m.a(x).relu() if x.mean() > 0 else m.b(x)


def depends_on_shape(m, x):
    for _ in range(x.shape[-1] // 8):
        x = m.a(x).relu()
    return m.b(x) if x.shape[0] == 1 else x


def reads_numpy(m, x):
    return m.a(x) * float(x.detach().numpy()[0, 0, 0, 0])


def reads_tolist(m, x):
    return m.a(x) * x[0, 0, 0, :2].tolist()[1]


def counts(m, x):
    m.count = getattr(m, "count", 0) + 1
    return m.a(x) * m.count


def remembers(m, x):
    m.memory.append(m.a(x).sum())
    return m.b(x) + m.memory[-1]


def python_random(m, x):
    return m.a(x) if random.random() < 2 else m.b(x)


def dropout_always(m, x):
    return F.dropout(m.a(x), 0.5, training=True)


def changes_its_argument(m, x):
    x.mul_(0.5)
    return m.a(x)


def returns_a_dict(m, x):
    y = m.a(x)
    return {"image": y, "both": (y, [m.b(y), 3, "text", None]), "input": x}


def keywords(m, x, scale=1.0, *, other=None):
    y = m.a(x) * scale
    return y if other is None else m.b(y + other)


def flattens(m, x):
    y = m.a(x).relu()
    return y.view(y.shape[0], -1) @ y.reshape(y.shape[0], -1).t(), y.flatten(2).permute(0, 2, 1)


def integers(m, x):
    return m.a(x.float() / 255).relu().mul(255).to(torch.uint8), x.sum()


def complex_numbers(m, x):
    return torch.fft.ifft2(torch.fft.fft2(m.a(x))).real + m.b(x)


def boolean_mask(m, x):
    y = m.a(x)
    return y[y > 0].sum() + m.b(y)


def constant_in_forward(m, x):
    rows = torch.tensor([[2, 0.5, 1], (3, 1, -1)], device="cpu").prod(0)
    return m.a(x) * torch.tensor([2.0]).view(1, 1, 1, 1) + torch.ones(1) + rows.sum()


def array_in_forward(m, x):
    return m.a(x) * torch.tensor(np.float32([2.0])).view(1, 1, 1, 1)


def unbatched(m, x):
    return m.a(x[0]).relu()


def list_of_modules(m, x):
    for part in m.parts[1:]:
        x = part(x)
    return m.parts[0](x) + m.parts[-1](x)


def asks_for_the_layout(m, x):
    y = m.a(x)
    return y.as_strided((3, 3), (1, 7)) + y.stride(1)


class Doubles(nn.Sequential):
    """A Sequential that does more."""

    def forward(self, x):
        return super().forward(x) * 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x):
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, c, h * w).transpose(2, 3).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(n, c, h, w))


def tied() -> nn.Module:
    a, b = conv(), conv()
    b.weight = a.weight
    return nn.Sequential(a, nn.ReLU(), b)


def own_list() -> nn.Module:
    module = Body(list_of_modules)
    module.parts = nn.ModuleList([conv(), conv(), nn.ReLU(), conv()])
    return module


def remembering() -> nn.Module:
    module = Body(remembers)
    module.memory = []
    return module


def norm_in_training() -> nn.Module:
    module = nn.Sequential(conv(), random_norm(3), nn.ReLU(), conv()).eval()
    module[1].train()
    return module


def hooked() -> nn.Module:
    module = Body(branches)
    module.calls = []
    module.a.register_forward_hook(lambda m, args, result: module.calls.append(1) or result * 3)
    return module


@dataclass
class Odd:
    """A model, its arguments, and how much of it can be planned: all, parts, nothing."""

    build: Callable[[], nn.Module]
    planned: str
    inputs: Callable[[], tuple] = lambda: (torch.randn(1, 3, 16, 16),)
    keywords: Callable[[], dict] = dict


def body(run: Callable, planned: str = "all", **more) -> Odd:
    return Odd(lambda: Body(run), planned, **more)


ODD: dict[str, Odd] = {
    "shared module": body(shared),
    "weight tying": Odd(tied, "all"),
    "in-place on a tensor used elsewhere": body(inplace_on_a_tensor_used_elsewhere),
    "in-place through a view": body(inplace_through_a_view),
    "branches": body(branches),
    "control flow by numbers": body(depends_on_numbers, "parts"),
    "control flow by shape": body(depends_on_shape),
    "reads numpy": body(reads_numpy, "parts"),
    "reads tolist": body(reads_tolist, "parts"),
    "counts": body(counts, "parts"),
    "remembers": Odd(remembering, "parts"),
    "python random": body(python_random, "parts"),
    "boolean mask": body(boolean_mask, "parts"),
    "changes its argument": body(changes_its_argument, "parts"),
    "batch norm in training": Odd(norm_in_training, "parts"),
    "hooks on a part": Odd(hooked, "parts"),
    "dict of tuples": body(returns_a_dict),
    "keywords": body(
        keywords, keywords=lambda: {"scale": 0.5, "other": torch.randn(1, 3, 16, 16)}
    ),
    "flattens": body(flattens),
    "integers": body(integers, inputs=lambda: (torch.randint(0, 256, (1, 3, 16, 16)).byte(),)),
    "complex numbers inside": body(complex_numbers),
    "complex weights": Odd(
        lambda: nn.Conv2d(3, 3, 3, dtype=torch.complex64), "all",  # of real ones
        inputs=lambda: (torch.randn(1, 3, 9, 9, dtype=torch.complex64),),
    ),
    "constant made in forward": body(constant_in_forward, "all"),
    "constant made of an array": body(array_in_forward),
    "unbatched": body(unbatched),
    "unbatched input": Odd(
        lambda: nn.Sequential(conv(), nn.ReLU()), "all", inputs=lambda: (torch.randn(3, 16, 16),)
    ),
    "ModuleList": Odd(own_list, "all"),
    "as_strided": body(asks_for_the_layout, "parts"),
    "Sequential subclass": Odd(lambda: Doubles(conv(), nn.ReLU(), conv()), "all"),
    "dropout in eval": Odd(lambda: nn.Sequential(conv(), nn.Dropout(0.5), conv()), "all"),
    "linear layers alone": Odd(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), "all",
        inputs=lambda: (torch.randn(2, 3, 4, 4),),
    ),
    "attention": Odd(Attention, "all", inputs=lambda: (torch.randn(1, 16, 8, 8),)),
    "weight norm": Odd(lambda: nn.Sequential(parametrizations.weight_norm(conv()), conv()), "all"),
    "float64": Odd(
        lambda: nn.Sequential(conv(), nn.PReLU(3), conv()).double(), "all",
        inputs=lambda: (torch.randn(2, 3, 8, 8, dtype=torch.float64),),
    ),
    "empty batch": Odd(
        lambda: nn.Sequential(conv(), nn.ReLU()), "nothing",
        inputs=lambda: (torch.randn(0, 3, 8, 8),),
    ),
    "1-D, 3-D and grouped": Odd(
        lambda: nn.Sequential(conv(4, 8, groups=4), nn.Flatten(2), nn.Conv1d(8, 2, 3)), "all",
        inputs=lambda: (torch.randn(1, 4, 6, 6),),
    ),
    "transposed input": body(
        branches, inputs=lambda: (torch.randn(1, 3, 12, 16).transpose(2, 3),)
    ),
    "expanded input": body(branches, inputs=lambda: (torch.randn(1, 1, 9, 9).expand(2, 3, 9, 9),)),
}  # fmt: skip


def clone(tree):
    """Copies of the tensors in nested tuples and dicts, with their strides."""
    if isinstance(tree, Tensor):
        return tree.clone(memory_format=torch.preserve_format)
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(clone(value) for value in tree)
    return tree
