"""The losses of ConST-CL; the rows of a call are videos of one virtual client."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.heads import NEVER, weighted_mean


def global_loss(
    first: Tensor, second: Tensor, temperature: float, weight: Tensor
) -> Tensor:
    """Every clip finds the other clip of its video among all other clips.

    The sum of both directions, mean over the videos that count. Videos of weight 0 are
    neither queries nor negatives.

    Args:
        first: embeddings of one clip per video, `[B, D]`.
        second: of another clip of the same videos.
        temperature: of the softmax.
        weight: `[B]`.

    Example:
        >>> clips, one = torch.eye(3), torch.tensor([1.0, 0, 0])
        >>> found = global_loss(clips, clips, 0.1, torch.ones(3))
        >>> lost = global_loss(clips, -clips, 0.1, torch.ones(3))
        >>> bool(found < lost), float(global_loss(clips, clips, 0.1, one))
        (True, 0.0)
    """
    a, b = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    absent = weight[None, :] == 0
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)

    def one_way(x: Tensor, y: Tensor) -> Tensor:
        across = (x @ y.T / temperature).masked_fill(absent, NEVER)
        within = (x @ x.T / temperature).masked_fill(absent | own, NEVER)
        logits = torch.cat([across, within], dim=1)
        return -logits.log_softmax(1)[:, : len(x)].diagonal()

    return weighted_mean(one_way(a, b) + one_way(b, a), weight)


def local_loss(
    carried: Tensor,
    source: Tensor,
    target: Tensor,
    valid: Tensor,
    temperature: float,
    weight: Tensor,
    among: Tensor | None = None,
) -> Tensor:
    """Every carried region finds its counterpart among regions of other videos.

    The counterpart of a region is the one of the other view of its video that is most
    alike before anything is carried. Other regions of the same video are no negatives.
    Mean over valid regions of videos with a valid one to find; without any, 0.

    Args:
        carried: regions of one view, carried into the other, `[B, N, D]`.
        source: the same regions as they were, `[B, N, C]`.
        target: regions of the other view, `[B, N, C]`, D = C.
        valid: 1 for regions that count, `[B, N]`.
        among: 1 for regions of the other view that count; None is `valid`.
        temperature: of the softmax.
        weight: `[B]`, 0 for videos that do not count.

    Example:
        >>> x, none = torch.eye(4).reshape(2, 2, 4), torch.zeros(2, 2)
        >>> some = local_loss(x, x, x, none + 1, 0.1, torch.ones(2))
        >>> float(local_loss(x, x, x, none, 0.1, torch.ones(2))), 0 < float(some) < 1e-3
        (0.0, True)
    """
    z, a, b = (F.normalize(x, dim=-1) for x in (carried, source, target))
    seen = valid if among is None else among
    there = valid.to(z.dtype) * weight[:, None]
    there = there * (seen > 0).any(1, keepdim=True)
    others = seen.to(z.dtype) * weight[:, None]
    # Positives: the index is found, not learned.
    alike = (a @ b.transpose(1, 2)).detach()
    best = alike.masked_fill(seen[:, None, :] == 0, NEVER).argmax(-1)
    chosen = torch.gather(b, 1, best[..., None].expand_as(b))
    positive = (z * chosen).sum(-1) / temperature
    negative = torch.einsum("ind,jmd->injm", z, b) / temperature
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)[:, None, :, None]
    negative = negative.masked_fill(own | (others[None, None] == 0), NEVER).flatten(2)
    logits = torch.cat([positive[..., None], negative], dim=-1)
    losses = -logits.log_softmax(-1)[..., 0]
    # Multiplying is not enough: what is no region may not reach the gradient either.
    losses = torch.where(there > 0, losses, torch.zeros_like(losses))
    return weighted_mean(losses.flatten(), there.flatten())
