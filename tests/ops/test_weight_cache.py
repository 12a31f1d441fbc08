"""Convolution weights kept transformed on the CPU: a call computes with those it is given."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from torch import Tensor, nn

from denoise_ext import nn as dn
from denoise_ext import ops
from denoise_ext._loader import native

LIMIT = 64 * 2**20
KEPT = 4 * 32 * 48 * (9 + 36)  # bytes of a weight 32 -> 48 and of its transform at 6x6 points


@pytest.fixture(autouse=True)
def _nothing_kept():
    native().forget_kept_weights()
    yield
    native().forget_kept_weights()


def values(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


IMAGE = values(1, 32, 40, 40, seed=1).contiguous(memory_format=torch.channels_last)


def convolve(weight: Tensor, **options) -> Tensor:
    return ops.conv2d(IMAGE, weight, padding=1, **options)


def without_the_cache(weight: Tensor) -> Tensor:
    """The result of a weight that the caller has packed."""
    packed = torch.ops.denoise_ext.conv2d_pack(weight, "winograd4")
    out = torch.empty_like(IMAGE[:, :1].expand(-1, weight.shape[0], -1, -1))
    torch.ops.denoise_ext.conv2d_out(
        IMAGE, weight, packed, None, [1, 1], [1, 1], [1, 1], 1, "constant", "none", 0.0, None, None,
        "before", "winograd4", out,
    )  # fmt: skip
    return out


def test_kept_after_the_second_call(isa):
    weight = values(48, 32, 3, 3, seed=2)
    kept = [native().kept_weight_bytes()]
    results = []
    for _ in range(4):
        results.append(convolve(weight))
        kept.append(native().kept_weight_bytes())
    # Nothing after one call, nothing more after two.
    assert [b - a for a, b in itertools.pairwise(kept)] == [0, KEPT, 0, 0]
    assert all(torch.equal(result, results[0]) for result in results)


def overwrite_in_place(weight: Tensor) -> None:
    weight[5, 3, 1, 1] += 0.5


def overwrite_data(weight: Tensor) -> None:
    weight.data[-1, -1, -1, -1] += 0.5


def overwrite_numpy(weight: Tensor) -> None:
    weight.numpy()[0, 0, 0, 0] += 0.5


@pytest.mark.parametrize("overwrite", [overwrite_in_place, overwrite_data, overwrite_numpy])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_changed_weight_is_seen(overwrite, layout):
    weight = values(48, 32, 3, 3, seed=3).contiguous(memory_format=layout)
    for _ in range(3):
        before = convolve(weight)
    for change in range(3):
        overwrite(weight)
        kept = native().kept_weight_bytes()
        after = convolve(weight)
        # The transform of what is no more is gone, and that of the new bits not kept at once.
        assert native().kept_weight_bytes() == kept - (KEPT if change == 0 else 0)
        assert not torch.equal(after, before)
        assert torch.equal(after, without_the_cache(weight))
        before = after


def test_the_same_memory_seen_in_other_ways():
    room = values(2 * 32 * 32 * 9, seed=4)
    ways = {
        "weight": room[: 32 * 32 * 9].view(32, 32, 3, 3),
        "exchanged": room[: 32 * 32 * 9].view(32, 32, 3, 3).transpose(0, 1),
        "channels_last": room[: 32 * 32 * 9].view(32, 3, 3, 32).permute(0, 3, 1, 2),
        "filters": room[: 16 * 32 * 9].view(16, 32, 3, 3),
        "every other": room.view(64, 32, 3, 3)[::2],
    }
    expected = {name: without_the_cache(weight) for name, weight in ways.items()}
    for _ in range(3):
        for name, weight in ways.items():
            assert torch.equal(convolve(weight), expected[name]), name


def test_the_same_weight_asked_for_in_other_ways():
    weight = values(32, 32, 4, 4, seed=5)
    # The phases of a transposed convolution depend on stride and padding.
    calls = [{"stride": 2, "padding": 1}, {"stride": 2, "padding": 0}, {"stride": (2, 3)}]

    def results(w: Tensor) -> list[Tensor]:
        return [ops.conv_transpose2d(IMAGE, w, **call) for call in calls]

    expected = results(weight.clone())
    for _ in range(3):
        assert all(map(torch.equal, results(weight), expected))
    square = values(32, 32, 3, 3, seed=6)
    expected = {p: convolve(square.clone(), precision=p) for p in ("strict", "default", "fast")}
    for _ in range(3):
        for precision, result in expected.items():
            assert torch.equal(convolve(square, precision=precision), result), precision


def test_forcing_an_instruction_set_forgets_nothing_and_mixes_nothing():
    module, weight = native(), values(32, 32, 3, 3, seed=7)
    before = module.isa_in_use()
    try:
        expected = {}
        for _ in range(3):
            for name in module.isa_available():
                module.force_isa(name)
                result = convolve(weight)
                assert torch.equal(result, expected.setdefault(name, result)), name
    finally:
        module.force_isa(before)


def test_weights_by_turns_at_one_place_are_not_kept():
    # Weights computed anew for each call (weight_norm) of two layers get the same memory.
    place, weights = torch.empty(48, 32, 3, 3), [values(48, 32, 3, 3, seed=s) for s in (8, 9)]
    expected = [convolve(weight) for weight in weights]
    native().forget_kept_weights()
    for _ in range(5):
        for weight, result in zip(weights, expected, strict=True):
            assert torch.equal(convolve(place.copy_(weight)), result)
    assert native().kept_weight_bytes() == 0
    # Twice each, as with gradients of two parts of a batch: kept in vain once, then not so soon.
    kept = 0
    for _ in range(20):
        for weight in weights:
            place.copy_(weight)
            for _ in range(2):
                convolve(place)
                kept += native().kept_weight_bytes() > 0
    assert kept == 1


def test_training_keeps_nothing():
    layer = dn.Conv2d(32, 32, 3, padding=1)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    kept = native().kept_weight_bytes()
    for _ in range(5):
        optimiser.zero_grad()
        layer(IMAGE).square().mean().backward()
        optimiser.step()
    assert native().kept_weight_bytes() <= kept


def test_bounded():
    # 112 MiB of weights and transforms: the last find no room beside the first.
    layers = [nn.Conv2d(128, 128, 3, padding=1, bias=False) for _ in range(40)]
    image = values(1, 128, 24, 24)
    with torch.inference_mode():
        for layer in layers:
            expected = ops.conv2d(image, layer.weight, padding=1)
            for _ in range(3):
                assert torch.equal(ops.conv2d(image, layer.weight, padding=1), expected)
            assert native().kept_weight_bytes() <= LIMIT
        assert native().kept_weight_bytes() > LIMIT // 2
        # What is not used any more makes room in the end.
        small, tile, out = values(16, 16, 3, 3), IMAGE[:, :16, :4, :4], values(1, 16, 4, 4)
        for _ in range(5000):
            torch.ops.denoise_ext.conv2d_out(
                tile, small, None, None, [1, 1], [1, 1], [1, 1], 1, "constant", "none", 0.0,
                None, None, "before", "winograd4", out,
            )  # fmt: skip
        fresh = values(128, 128, 3, 3, seed=9)
        for _ in range(3):
            ops.conv2d(image, fresh, padding=1)
        assert native().kept_weight_bytes() < LIMIT // 2


def test_many_threads():
    weights = [values(32, 32, 3, 3, seed=seed) for seed in range(4)]
    expected = [convolve(weight.clone()) for weight in weights]
    wrong = []

    def work(first: int) -> None:
        mine = torch.empty(32, 32, 3, 3)
        for i in range(60):
            k = (first + i) % 4
            mine.copy_(weights[k])
            for weight in (mine, weights[k]):
                if not torch.equal(convolve(weight), expected[k]):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
