"""Local heads over the denoiser's inner features; they stay on the virtual client."""

import torch
from torch import Tensor, nn

from fedemb.heads import unit_rows, weighted_mean
from fedemb.protocols import Batch


class TextHead(nn.Module):
    """Projects features to text vectors and finds each row's own caption among all.

    The candidates are the captions of the virtual client's own rows; equal captions are
    all right answers.

    Args:
        width: of the features.
        text: width of text vectors.
        temperature: divides the cosine similarities.
    """

    def __init__(self, width: int, text: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.zeros(text, width))

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A random projection."""
        drawn = torch.randn(self.weight.shape, generator=generator)
        return {"weight": drawn / self.weight.shape[1] ** 0.5}

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy `[B, width]` -> scalar, mean over the rows that count."""
        words, weight = batch["caption"], batch["weight"]
        floor = torch.finfo(features.dtype).min
        absent = weight[None, :] == 0
        logits = unit_rows(features @ self.weight.T) @ words.T / self.temperature
        logits = logits.masked_fill(absent, floor)
        wrong = absent | (words @ words.T < 1 - 1e-4)
        right = logits.masked_fill(wrong & ~_diagonal(wrong), floor)
        return weighted_mean(logits.logsumexp(1) - right.logsumexp(1), weight)


class NoHead(nn.Module):
    """No alignment: features train through the denoiser's own loss alone."""

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Zero."""
        return weighted_mean(0 * features.sum(-1), batch["weight"])


def _diagonal(like: Tensor) -> Tensor:
    return torch.eye(like.shape[0], dtype=torch.bool, device=like.device)
