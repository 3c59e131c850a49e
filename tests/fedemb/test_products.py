"""Matrix products are the same products, whichever library multiplies."""

import pytest
import torch

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
    assert torch.allclose(mm(a, b).double(), a.double() @ b.double(), atol=1e-3)


def test_parts_are_read_where_they_lie():
    a, b = _factor(200, 300, False)[10:90, 5:205], _factor(200, 100, False)[:, ::2]
    assert torch.allclose(mm(a, b), a @ b, atol=1e-3)


def test_other_numbers_are_torchs():
    a = _factor(200, 300, False, torch.float64)
    assert torch.equal(mm(a, a.mT), a @ a.mT)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        mm(torch.ones(200, 300), torch.ones(200, 300))
