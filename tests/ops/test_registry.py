"""Nothing is forgotten: every native operator has everything an operator needs."""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from torch._library.simple_registry import singleton

from denoise_ext import ops, reference
from denoise_ext._loader import native

NAMESPACE = "denoise_ext::"
# Operators that have no gradient of their own, and why.
NO_AUTOGRAD: dict[str, str] = {
    "conv2d_out": "writes into a tensor it is given: for inference",
    "conv2d_gated_out": "writes into a tensor it is given: for inference",
    "conv2d_pack": "its result is opaque: for inference",
    "conv2d_resampled_out": "writes into tensors it is given: for inference",
    "conv_transpose2d_out": "writes into a tensor it is given: for inference",
    "block_match": "its result is whole numbers",
    "latents_decode": "its result is whole numbers",
    "latents_encode": "its result is bytes",
    "rans_decode": "its result is whole numbers",
    "rans_encode": "its result is bytes",
    "block_warp_out": "writes into a tensor it is given: for inference",
    "pixel_shuffle_out": "writes into a tensor it is given: for inference",
    "pixel_unshuffle_out": "writes into a tensor it is given: for inference",
    "recurrent_fuse_out": "writes into a tensor it is given: for inference",
    "layer_norm2d_out": "writes into a tensor it is given: for inference",
    "group_norm_out": "writes into a tensor it is given: for inference",
    "deviation_norm_out": "writes into a tensor it is given: for inference",
    "gdn_out": "writes into a tensor it is given: for inference",
}
# Operators that have no CUDA kernel yet, and why; CUDA tensors are refused with the way out.
NO_CUDA: dict[str, str] = {
    "conv2d_gated_out": "PyTorch's own kernels run there",
    "conv2d_resampled_out": "Winograd's algorithm, which the CPU alone has",
    "block_warp_out": "CUDA's caching allocator makes new results cheap",
    "latents_decode": "each class depends on the numbers before",
    "latents_encode": "each class depends on the numbers before",
    "rans_decode": "files are written and read on the CPU",
    "rans_encode": "files are written and read on the CPU",
    "pixel_shuffle_out": "PyTorch's own kernel is as fast there",
    "pixel_unshuffle_out": "PyTorch's own kernel is as fast there",
    "recurrent_fuse_out": "CUDA's caching allocator makes new results cheap",
    "deviation_norm_out": "PyTorch's own kernels run there",
    "gdn_out": "PyTorch's own kernels run there",
}
# Operators without a public function: for callers that own their memory (test_conv2d_out.py,
# test_conv2d_resampled_out.py, test_conv_transpose2d_out.py, test_plain_out.py, test_gdn.py,
# test_conv2d_gated_out.py, test_norm.py); for the codec (test_entropy.py).
RAW = {
    "block_warp_out", "conv2d_gated_out", "conv2d_out", "conv2d_pack", "conv2d_resampled_out",
    "conv_transpose2d_out", "deviation_norm_out", "gdn_out", "group_norm_out", "latents_decode",
    "latents_encode", "layer_norm2d_out", "pixel_shuffle_out", "pixel_unshuffle_out",
    "rans_decode", "rans_encode", "recurrent_fuse_out",
}  # fmt: skip


def registered_names() -> list[str]:
    native()
    names = torch._C._dispatch_get_all_op_names()
    return sorted(n.removeprefix(NAMESPACE) for n in names if n.startswith(NAMESPACE))


def covered_backwards() -> set[str]:
    return {name for case in CASES.values() for name in case.backward}


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(NAMESPACE + name, key)


def test_every_operator_is_public_or_the_backward_of_one_or_raw():
    assert set(registered_names()) == set(CASES) | covered_backwards() | RAW


def test_public_names_agree():
    assert set(ops.__all__) == set(reference.__all__) == set(CASES)


@pytest.mark.parametrize("name", sorted(set(CASES) | covered_backwards() | RAW))
class TestOperator:
    def test_cpu_kernel(self, name):
        assert has_kernel(name, "CPU")

    def test_fake_kernel(self, name):
        assert singleton.find(NAMESPACE + name).fake_impl.kernel is not None

    def test_autograd(self, name):
        # Backwards have one too: it refuses second derivatives aloud.
        assert has_kernel(name, "Autograd") or NO_AUTOGRAD.get(name)

    def test_cuda_kernel(self, name):
        """Where the build has CUDA kernels, every operator has one or a stated reason."""
        built = bool(native().build_info()["cuda"])
        assert has_kernel(name, "CUDA") == (built and name not in NO_CUDA)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestPublicOperator:
    def test_case_and_reference(self, case):
        assert case.op is getattr(ops, case.name)
        assert case.reference is getattr(reference, case.name)
        assert case.calls
        assert case.small_calls
        assert case.differentiable or case.name in NO_AUTOGRAD

    def test_signatures_agree(self, case):
        import inspect

        ours, theirs = inspect.signature(case.op), inspect.signature(case.reference)
        assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
            (p.name, p.default, p.kind) for p in theirs.parameters.values()
        ]

    def test_docstring_has_the_constraints(self, case):
        text = case.op.__doc__
        assert "Returns:" in text
        if case.name != "joint_bilateral_blur":  # refers to bilateral_blur's table
            assert "constraint" in text
            assert "Raises:" in text
