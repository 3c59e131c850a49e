"""Matrix products are the same products, whichever library multiplies."""

import copy

import pytest
import torch
from torch import nn

from fedemb.engines.alone import hasten
from fedemb.products import mm


def _factor(rows, columns, turned, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    if turned:
        return torch.randn(columns, rows, dtype=dtype, generator=generator).mT
    return torch.randn(rows, columns, dtype=dtype, generator=generator)


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 0, 2), (70, 300, 90), (1, 2000, 900)])
def test_products_of_any_shape_and_memory_order(shape, turned):
    rows, inner, columns = shape
    a = _factor(rows, inner, turned[0])
    b = _factor(inner, columns, turned[1])
    expected = a.double() @ b.double()
    assert torch.allclose(mm(a, b).double(), expected, atol=1e-3)


def test_parts_are_read_where_they_lie():
    a, b = _factor(200, 300, False)[10:90, 5:205], _factor(200, 100, False)[:, ::2]
    assert torch.allclose(mm(a, b), a @ b, atol=1e-3)


def test_other_numbers_are_torchs():
    a = _factor(200, 300, False, torch.float64)
    assert torch.equal(mm(a, a.mT), a @ a.mT)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        mm(torch.ones(200, 300), torch.ones(200, 300))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_one_client_computes_what_the_layer_does(bias):
    torch.manual_seed(0)
    layer = nn.Linear(300, 200, bias=bias)
    twin = nn.Sequential(copy.deepcopy(layer))
    hasten(twin)
    assert type(twin[0]) is not nn.Linear
    rows, upstream = torch.randn(4, 50, 300), torch.randn(4, 50, 200)
    for subject in (layer, twin):
        read = rows.clone().requires_grad_()
        outputs = subject(read)
        outputs.backward(upstream)
        found = [outputs, read.grad, *(p.grad for p in subject.parameters())]
        if subject is layer:
            expected = found
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_subclasses_of_layers_stay_what_they_are():
    class Penalized(nn.Linear):
        pass

    backbone = nn.Sequential(Penalized(2, 2))
    hasten(backbone)
    assert type(backbone[0]) is Penalized
