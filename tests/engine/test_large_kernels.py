"""Convolutions with large kernels by Fourier transforms: every size, padding and layout."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import planned, set_times, timed
from torch import nn

import denoise_ext
from denoise_ext.engine.fuse import fft, verify

SIZES = [(64, 64), (17, 90), (9, 30), (130, 65), (1, 1)]


@pytest.mark.parametrize("kernel", [(9, 9), (17, 17), (13, 10), (9, 31)])
@pytest.mark.parametrize("same", [True, False])
def test_as_the_reference(kernel, same):
    padding = (kernel[0] // 2, kernel[1] // 2) if same else (0, 0)
    net = nn.Conv2d(5, 7, kernel, padding=padding, bias=same).eval()
    for i, (h, w) in enumerate(SIZES):
        if not same:
            h, w = h + kernel[0], w + kernel[1]
        torch.manual_seed(i)
        x = torch.randn(2, 5, h, w)
        for layout in (torch.contiguous_format, torch.channels_last):
            image = x.contiguous(memory_format=layout)
            with torch.no_grad():
                exact = copy.deepcopy(net).double()(x.double())
                out = torch.full(exact.shape, torch.nan).contiguous(memory_format=layout)
                length = fft.transform_length(out.shape[2:], max(kernel))
                spectrum = fft.spectrum_of(net.weight, length)
                fft.convolve(image, spectrum, net.bias, kernel, padding, length, out)
            # Terms of a sum are those of a random walk with steps of at most eps.
            magnitude = float(net.weight.detach().double().square().sum((1, 2, 3)).max()) ** 0.5
            allowed = 4 * 2.0**-23 * 60**0.5 * (magnitude + 1) * 4
            assert float((out - exact).abs().max()) <= allowed


def test_it_is_taken_where_it_is_faster(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")

    def interleaved(calls):
        # Of the original and its variants, in order: the second, by transforms, is the fastest.
        if calls[0].__module__ != verify.__name__:
            return timed(3.0, 1.0, calls)
        return next(times)

    set_times(monkeypatch, interleaved)
    monkeypatch.setattr(verify, "clock", lambda: 0.0)
    net = nn.Sequential(nn.Conv2d(3, 4, 11, padding=5), nn.BatchNorm2d(4)).eval()
    for precision, variant in [("default", "fft"), ("strict", "direct")]:
        times = iter([[3.0, 2.0, 1.0, 2.0] if variant == "fft" else [3.0, 2.0]])
        x = torch.randn(1, 3, 30, 20)
        fast = denoise_ext.accelerate(net, x, precision=precision)
        row = next(row for row in fast.report().rows if "11x11" in row.site)
        assert row.variant == variant and planned(fast) and row.error <= row.bound
        with torch.no_grad():
            for image in (x, torch.randn(2, 3, 80, 100)):
                torch.testing.assert_close(fast(image), net(image), rtol=1e-4, atol=1e-5)
