"""The contrast between paired rows of one virtual client.

The other rows of the batch are the negatives. A batch never holds rows of two virtual
clients, so nothing crosses them.
"""

from torch import Tensor

from fedemb.heads import weighted_mean

NEVER = -1e9
"""A logit that cannot win; finite, so that a weight of 0 makes it nothing."""


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
    logits = first @ second.T * inverse_temperature
    logits = logits.masked_fill(weight[None, :] == 0, NEVER)
    ahead = logits.log_softmax(1).diagonal()
    back = logits.T.masked_fill(weight[None, :] == 0, NEVER)
    behind = back.log_softmax(1).diagonal()
    return weighted_mean(-(ahead + behind) / 2, weight)
