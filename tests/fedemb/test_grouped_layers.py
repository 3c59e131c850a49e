"""In a layer with more groups, not even NaN crosses from one client to another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedemb.engines.grouped import GroupedConv, GroupedNorm

POISON = [float("nan"), float("inf"), 1e38]


def gradients(module, leaves, read, upstream):
    read = read.clone().requires_grad_()
    outputs = module(read)
    found = torch.autograd.grad(outputs, [read, *leaves], upstream)
    return [outputs.detach(), *found]


def apart(tensors, clients):
    """Everything as `[V, ...]`: rows are interleaved, parameters have the axis."""
    rows = [t.unflatten(0, (-1, clients)).transpose(0, 1) for t in tensors[:2]]
    return [*rows, *tensors[2:]]


def crosses(module, leaves, read, clients, poison, back):
    """Whether poisoning the last client changes a bit of the others."""
    generator = torch.Generator().manual_seed(2)
    upstream = torch.randn(module(read).shape, generator=generator)
    before = gradients(module, leaves, read, upstream)
    read, upstream = read.clone(), upstream.clone()
    read[clients - 1 :: clients] = poison
    if back:
        upstream[clients - 1 :: clients] = poison
    after = gradients(module, leaves, read, upstream)
    pairs = zip(apart(before, clients), apart(after, clients), strict=True)
    return any(not torch.equal(a[:-1], b[:-1]) for a, b in pairs)


@settings(max_examples=80)
@given(
    clients=st.integers(2, 17),
    rows=st.integers(1, 8),
    channels=st.tuples(
        st.sampled_from([1, 3, 4, 8, 12, 16, 20, 32]),
        st.sampled_from([1, 4, 6, 16, 20, 24, 32]),
    ),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 2),
    side=st.sampled_from([5, 7, 8, 14]),
    depthwise=st.booleans(),
    poison=st.sampled_from(POISON),
    back=st.booleans(),
)
def test_convolutions(
    clients, rows, channels, kernel, stride, side, depthwise, poison, back
):
    c, o = (channels[0], channels[0]) if depthwise else channels
    layer = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=c if depthwise else 1)
    generator = torch.Generator().manual_seed(1)
    shape = (clients, *layer.weight.shape)
    leaves = [
        torch.randn(shape, generator=generator).requires_grad_(),
        torch.randn(clients, o, generator=generator).requires_grad_(),
    ]
    own = GroupedConv(layer, {"weight": leaves[0], "bias": leaves[1]})
    read = torch.randn(rows * clients, c, side, side, generator=generator)
    assert not crosses(own, leaves, read, clients, poison, back)


@settings(max_examples=30)
@given(
    clients=st.integers(2, 9),
    groups=st.sampled_from([1, 2, 4]),
    each=st.sampled_from([1, 3, 8]),
    side=st.sampled_from([1, 5, 12]),
    poison=st.sampled_from(POISON),
    back=st.booleans(),
)
def test_group_norms(clients, groups, each, side, poison, back):
    channels = groups * each
    generator = torch.Generator().manual_seed(1)
    leaves = [
        torch.rand(clients, channels, generator=generator).requires_grad_()
        for _ in range(2)
    ]
    layer = nn.GroupNorm(groups, channels)
    own = GroupedNorm(layer, {"weight": leaves[0], "bias": leaves[1]})
    read = torch.randn(3 * clients, channels, side, side, generator=generator)
    assert not crosses(own, leaves, read, clients, poison, back)


@pytest.mark.parametrize("poison", POISON)
def test_a_layer_without_groups_is_found_out(poison):
    """The same check, of one convolution over the channels of all clients."""
    clients, channels = 3, 4
    weight = torch.randn(clients, channels, clients * channels, 3, 3).requires_grad_()

    def mixing(read):
        joined = read.unflatten(0, (-1, clients)).flatten(1, 2)
        mixed = F.conv2d(joined, weight.flatten(0, 1), padding=1)
        return mixed.unflatten(1, (clients, -1)).flatten(0, 1)

    read = torch.randn(2 * clients, channels, 5, 5)
    assert crosses(mixing, [weight], read, clients, poison, False)
