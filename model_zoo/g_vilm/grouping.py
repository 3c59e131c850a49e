"""Group tokens gather the patches that are alike: attention as one step of k-means.

The exact form is unpublished. Ours follows GroupViT (Xu et al. 2022, arXiv:2202.11094)
and k-means attention (Yu et al. 2022, arXiv:2207.04044).
"""

import torch
from torch import Tensor, nn


class GroupingBlock(nn.Module):
    """Every token joins one group; a group moves by the mean of what joined it.

    The choice is hard in the forward pass and soft in the backward pass. Tokens pass
    through unchanged.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.outward = nn.Linear(width, width)

    def forward(self, groups: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Groups after one step, and which token joined which.

        Args:
            groups: `[B, M, D]`.
            tokens: `[B, N, D]`.

        Returns:
            Groups `[B, M, D]`; assignments `[B, M, N]`, one-hot over the groups.
        """
        own, seen = self.group_norm(groups), self.token_norm(tokens)
        logits = self.query(own) @ self.key(seen).transpose(1, 2) / own.shape[-1] ** 0.5
        soft = logits.softmax(1)
        best = soft.argmax(1, keepdim=True)
        numbers = torch.arange(soft.shape[1], device=soft.device)[None, :, None]
        hard = (numbers == best).to(soft.dtype)
        assigned = hard + (soft - soft.detach())
        joined = assigned @ self.value(seen)
        # Counts are whole: a floor of 1 changes empty groups alone. A smaller one would
        # multiply the soft gradients into them by its inverse.
        mean = joined / assigned.sum(2, keepdim=True).clamp(min=1)
        moved: Tensor = groups + self.outward(mean)
        return moved, assigned
