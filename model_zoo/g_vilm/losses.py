"""The three losses of G-ViLM; the rows of a call belong to one virtual client.

Equations 1 to 7 of arXiv:2303.16341, in the reading of its reviews; where the text is
silent the choice is ours and says so.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fedemb.heads import weighted_mean
from model_zoo.video.contrastive import symmetric_contrast


def temporal_probabilities(clips: Tensor, mask: Tensor, temperature: Tensor) -> Tensor:
    """How much each time step looks like the pasted stretch, and like its host.

    Args:
        clips: features of time steps z, `[B, N_t, D]`.
        mask: 1 where the pasted clip shows, `[B, N_t]`; both kinds must occur.
        temperature: of the softmax.

    Returns:
        `[B, N_t, 2]`, (pasted, host).

    Example:
        >>> steps, cut = torch.eye(2)[None], torch.tensor([[1, 0]])
        >>> temporal_probabilities(steps, cut, torch.tensor(0.1)).round().tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """
    inside = mask.to(clips.dtype)
    centres = [
        (weight[..., None] * clips).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
        for weight in (inside, 1 - inside)
    ]
    cosines = torch.stack(
        [F.cosine_similarity(clips, c[:, None], dim=-1) for c in centres], dim=-1
    )
    return (cosines / temperature).softmax(-1)


def temporal_loss(
    clips: Tensor, mask: Tensor, temperature: Tensor, weight: Tensor
) -> Tensor:
    """Squared error of the probabilities of every time step; rows without a cut are 0.

    Example:
        >>> same = torch.ones(2, 4, 3)
        >>> cut = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
        >>> float(temporal_loss(same, cut, torch.tensor(0.1), torch.ones(2)))
        0.5
    """
    found = temporal_probabilities(clips, mask, temperature)
    inside = mask.to(clips.dtype)
    wanted = torch.stack([inside, 1 - inside], dim=-1)
    errors = (found - wanted).square().sum(-1).mean(-1)
    cut = ((inside.sum(1) > 0) & (inside.sum(1) < inside.shape[1])).to(clips.dtype)
    return weighted_mean(errors * cut, weight)


def grounding_scores(groups: Tensor, nouns: Tensor, valid: Tensor) -> Tensor:
    """How well the nouns of every caption are found in every clip, `[B, B]`.

    A noun looks for its best group; groups without a noun cost nothing.

    Args:
        groups: unit-length group embeddings `[B, M, D]`.
        nouns: unit-length noun embeddings `[B, K, D]`.
        valid: 1 for real nouns, 0 for padding, `[B, K]`.

    Returns:
        Entry (i, j): clip i with the nouns of caption j; 0 without nouns.

    Example:
        >>> groups, nouns = torch.eye(2)[:, None], torch.eye(2)[:, None]
        >>> grounding_scores(groups, nouns, torch.tensor([[1], [0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    cosines = torch.einsum("imd,jkd->ijkm", groups, nouns).amax(-1)
    counts = valid.to(cosines.dtype)
    return (cosines * counts).sum(-1) / counts.sum(-1).clamp(min=1)


def grounding_loss(
    groups: Tensor,
    nouns: Tensor,
    valid: Tensor,
    temperature: Tensor,
    weight: Tensor,
) -> Tensor:
    """Contrast of right against wrong captions by their nouns, in both directions.

    Captions without nouns, and rows of weight 0, are neither queries nor negatives.
    """
    told = weight * (valid.sum(1) > 0).to(weight.dtype)
    return symmetric_contrast(
        grounding_scores(groups, nouns, valid) / temperature, told
    )
