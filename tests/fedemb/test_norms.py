"""Group norms of channels-last images are those of torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedemb.engines.alone import AloneGroupNorm, hasten
from fedemb.norms import group_norm


def images(n, channels, side, dtype=torch.float64, shift=0.0):
    generator = torch.Generator().manual_seed(n * 1000 + channels)
    values = torch.randn(n, channels, side, side, dtype=dtype, generator=generator)
    return (values + shift).contiguous(memory_format=torch.channels_last)


def outputs_and_gradients(norm, read, groups):
    generator = torch.Generator().manual_seed(1)
    leaves = [
        read.clone().requires_grad_(),
        *(
            torch.rand(
                read.shape[1], dtype=read.dtype, generator=generator
            ).requires_grad_()
            for _ in range(2)
        ),
    ]
    outputs = norm(leaves[0], groups, leaves[1], leaves[2], 1e-5)
    upstream = torch.rand(outputs.shape, dtype=read.dtype, generator=generator)
    return outputs, torch.autograd.grad(outputs, leaves, upstream)


@settings(max_examples=30)
@given(
    n=st.integers(1, 4),
    groups=st.integers(1, 5),
    each=st.integers(1, 6),
    side=st.sampled_from([3, 11, 12, 16]),
    shift=st.sampled_from([0.0, 5.0]),
)
def test_values_and_gradients_are_torchs(n, groups, each, side, shift):
    read = images(n, groups * each, side, shift=shift)
    found = outputs_and_gradients(group_norm, read, groups)
    expected = outputs_and_gradients(F.group_norm, read, groups)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("groups", "side", "own"), [(4, 16, True), (1, 16, False), (4, 4, False)]
)
def test_only_narrow_groups_of_large_images_are_computed_here(groups, side, own):
    read = images(2, 16, side).requires_grad_()
    weights = torch.ones(16, dtype=torch.float64)
    outputs = group_norm(read, groups, weights, weights, 1e-5)
    assert ("ChannelsLast" in outputs.grad_fn.name()) == own
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_images_in_plain_order_are_torchs_bit_by_bit():
    read = images(2, 8, 16).contiguous()
    weights = torch.rand(8, dtype=torch.float64)
    found = group_norm(read, 4, weights, weights, 1e-5)
    assert torch.equal(found, F.group_norm(read, 4, weights, weights, 1e-5))


def test_single_precision_is_as_exact_as_torchs():
    read = images(4, 32, 28, torch.float32, shift=3.0)
    exact, _ = outputs_and_gradients(F.group_norm, read.double(), 8)
    off = {
        name: (outputs_and_gradients(norm, read, 8)[0] - exact).abs().max().item()
        for name, norm in {"ours": group_norm, "torch": F.group_norm}.items()
    }
    assert off["ours"] <= 4 * off["torch"]


def test_constant_images_have_no_variance_and_finite_gradients():
    read = torch.full((1, 8, 16, 16), 1e3).contiguous(memory_format=torch.channels_last)
    outputs, gradients = outputs_and_gradients(group_norm, read, 4)
    assert outputs.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_subclasses_and_norms_without_weights_stay():
    class Own(nn.GroupNorm):
        pass

    net = nn.Sequential(Own(2, 4), nn.GroupNorm(2, 4, affine=False), nn.GroupNorm(2, 4))
    hasten(net)
    assert [type(layer) for layer in net] == [Own, nn.GroupNorm, AloneGroupNorm]
