"""The contrast between paired rows of one virtual client.

The other rows of the batch are the negatives. A batch never holds rows of two virtual
clients, so nothing crosses them.
"""

from torch import Tensor

from fedemb.heads import NEVER, weighted_mean


def contrastive_loss(
    first: Tensor, second: Tensor, inverse_temperature: Tensor, weight: Tensor
) -> Tensor:
    """Symmetric cross-entropy of matching row i of `first` to row i of `second`.

    InfoNCE in both directions (van den Oord et al. 2018, arXiv:1807.03748; Radford et
    al. 2021, arXiv:2103.00020), averaged over directions and the rows that count. Rows
    of weight 0 are neither queries nor negatives; a single row has loss 0.

    Args:
        first: unit-length rows `[B, D]`.
        second: unit-length rows `[B, D]`.
        inverse_temperature: scalar that multiplies the cosines.
        weight: `[B]`, 0 for padding.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> same = contrastive_loss(rows, rows, torch.tensor(1.0), torch.ones(3))
        >>> round(float(same), 4)
        0.5514
    """
    return symmetric_contrast(first @ second.T * inverse_temperature, weight)


def symmetric_contrast(logits: Tensor, weight: Tensor) -> Tensor:
    """Mean cross-entropy of the diagonal of `logits` `[B, B]`, by rows and by columns.

    Rows and columns of weight 0, `[B]`, are neither queries nor negatives.
    """
    absent = weight[None, :] == 0
    ahead = logits.masked_fill(absent, NEVER).log_softmax(1).diagonal()
    behind = logits.T.masked_fill(absent, NEVER).log_softmax(1).diagonal()
    return weighted_mean(-(ahead + behind) / 2, weight)
