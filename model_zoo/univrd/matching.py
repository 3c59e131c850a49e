"""Hungarian matching that every engine can compute.

Which token answers for which object depends on the data, but only through *detached*
costs: the matching is a constant of the gradient. It is therefore an operation of its
own with a batching rule, opaque to `torch.func`, and exact (scipy's solver of the
linear assignment problem); no control flow of the loss depends on data.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.autograd.function import FunctionCtx

_WORST = 1e6  # a cost that stands for padding and for numbers that are not finite


def match(costs: Tensor, valid: Tensor) -> Tensor:
    """The cheapest one-to-one choice of a column for every row that counts.

    Args:
        costs: `[..., n, N]`; detached here. NaN and infinities count as very dear.
        valid: `[..., n]`, 1 for a row that counts, 0 for padding.

    Returns:
        One-hot rows `[..., n, N]`, zero for padding. With more rows than columns the
        cheapest N of them are matched; the rest, too, are zero.

    Example:
        >>> costs = torch.tensor([[1.0, 2.0, 9.0], [1.0, 4.0, 9.0]])
        >>> match(costs, torch.ones(2)).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    costs = torch.nan_to_num(costs.detach(), _WORST, _WORST, -_WORST)
    costs = torch.where(valid[..., None] > 0, costs.clamp(-_WORST, _WORST), 2 * _WORST)
    chosen: Tensor = _Assign.apply(costs)  # type: ignore[no-untyped-call]
    return chosen * valid[..., None]


class _Assign(torch.autograd.Function):
    """Costs `[..., n, N]` to a 0-1 matrix of the cheapest assignment."""

    @staticmethod
    def forward(costs: Tensor) -> Tensor:
        """Solve each problem of the batch."""
        flat = costs.reshape(-1, *costs.shape[-2:]).double().cpu().numpy()
        out = np.zeros(flat.shape, dtype=np.float32)
        for one, problem in zip(out, flat, strict=True):
            one[linear_sum_assignment(problem)] = 1
        return torch.from_numpy(out).to(costs).reshape(costs.shape)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        """The matching is piecewise constant: nothing to remember."""
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> None:
        """No gradient."""

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None], costs: Tensor
    ) -> tuple[Tensor, int]:
        """A batch of batches is a batch."""
        (place,) = in_dims
        costs = costs if place is None else costs.movedim(place, 0)
        return _Assign.apply(costs), 0  # type: ignore[no-untyped-call]
