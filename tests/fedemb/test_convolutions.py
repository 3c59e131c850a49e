"""Convolutions that go around slow places compute what torch's own do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedemb.convolutions import conv2d
from fedemb.engines import alone
from fedemb.engines.alone import hasten

SIDES = st.integers(1, 6)


def images(rows, channels, height, width, last, seed=0):
    torch.manual_seed(seed)
    values = torch.randn(rows, channels, height, width, dtype=torch.float64)
    order = torch.channels_last if last else torch.contiguous_format
    return values.contiguous(memory_format=order).requires_grad_()


@given(
    rows=st.integers(1, 3),
    channels=st.integers(2, 4),
    height=SIDES,
    width=SIDES,
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    last=st.booleans(),
    biased=st.booleans(),
)
def test_one_channel_at_a_time_equals_torch(
    rows, channels, height, width, kernel, stride, last, biased
):
    read = images(rows, channels, height, width, last)
    kernels = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64)
    kernels.requires_grad_()
    offsets = torch.randn(channels, dtype=torch.float64) if biased else None
    how = ((stride, stride), (kernel // 2, kernel // 2), (1, 1), channels)
    ours, torchs = (
        conv2d(read, kernels, offsets, *how),
        F.conv2d(read, kernels, offsets, *how),
    )
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, torchs)
    for found, right in zip(
        torch.autograd.grad(ours, (read, kernels), upstream),
        torch.autograd.grad(torchs, (read, kernels), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("products", [True, False])
@given(
    rows=st.integers(0, 3),
    height=SIDES,
    width=SIDES,
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    last=st.booleans(),
    biased=st.booleans(),
)
def test_layers_of_one_client_equal_torch(
    products, rows, height, width, kernel, stride, padding, dilation, last, biased
):
    spans = [dilation * (own - 1) + 1 for own in kernel]
    if height + 2 * padding < spans[0] or width + 2 * padding < spans[1]:
        return
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=biased).double()
    read = images(rows, 3, height, width, last)
    given_ = (read, *layer.parameters())
    right = layer(read)
    upstream = torch.randn_like(right)
    gradients = torch.autograd.grad(right, given_, upstream)
    hasten(layer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone, "_LARGE", 1 if products else 1 << 40)
        found = layer(read)
    assert type(layer) is alone.AloneConv2d
    torch.testing.assert_close(found, right)
    for ours, torchs in zip(
        torch.autograd.grad(found, given_, upstream), gradients, strict=True
    ):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_layers_that_pad_otherwise_are_left_to_torch(padding, mode):
    layer = nn.Conv2d(2, 2, 3, padding=padding, padding_mode=mode).double()
    read = images(2, 2, 5, 5, last=True)
    right = layer(read)
    hasten(layer)
    torch.testing.assert_close(layer(read), right)


def test_large_kernels_on_small_images_are_products():
    """And the others are not: which is faster depends on the shapes alone."""
    layer = nn.Conv2d(512, 512, 3, padding=1)
    hasten(layer)
    assert layer._pays(16 * 2 * 2)
    assert not layer._pays(16 * 8 * 8)
    small = nn.Conv2d(64, 64, 3, padding=1)
    hasten(small)
    assert not small._pays(16)


def test_layers_of_one_client_take_what_torch_s_take():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(-2), nn.Linear(16, 5))
    alone_layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(-2), nn.Linear(16, 5))
    alone_layers.load_state_dict(layers.state_dict())
    hasten(alone_layers)
    for read in (
        torch.randn(3, 6, 6),
        torch.randn(0, 3, 6, 6),
        torch.randn(2, 3, 6, 6),
    ):
        torch.testing.assert_close(alone_layers(read), layers(read))
