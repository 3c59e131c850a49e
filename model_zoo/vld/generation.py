"""Writing: nucleus sampling and beam search, both in a fixed number of steps.

Neither branches on what it writes, so that `torch.func.vmap` can write for many virtual
clients at once: whoever has ended goes on with padding. Randomness comes in as numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedemb.errors import UserError
from fedemb.heads import NEVER
from model_zoo.text.tokenizer import BOS, EOS, PAD
from model_zoo.vld.language import LanguageModel, only_text

Memory = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751).

    Attributes:
        temperature: divides the logits.
        top_p: the likeliest ids that together reach it can be drawn.

    Raises:
        UserError: a number out of range.
    """

    temperature: float = 0.8
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"temperature={self.temperature} must be positive and "
                f"top_p={self.top_p} in (0, 1]."
            )

    def choose(self, logits: Tensor, luck: Tensor) -> Tensor:
        """Ids `[B]` drawn from logits `[B, V]` by uniform numbers `[B]`.

        Example:
            >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
            >>> draw = Sampler(temperature=1.0, top_p=0.7)
            >>> [int(draw.choose(logits, torch.tensor([u]))) for u in (0.6, 0.7, 0.99)]
            [0, 1, 1]
        """
        chances, ids = (logits / self.temperature).softmax(-1).sort(-1, descending=True)
        before = chances.cumsum(-1) - chances
        kept = chances * (before < self.top_p)
        reached = kept.cumsum(-1)
        below = reached <= luck[:, None] * kept.sum(-1, keepdim=True)
        most = (kept > 0).sum(-1) - 1
        place = torch.minimum(below.sum(-1), most)
        return ids.gather(1, place[:, None])[:, 0]


def sample(
    model: LanguageModel, memory: Memory, luck: Tensor, sampler: Sampler
) -> Tensor:
    """Answers, int64 `[B, L]`: the opening id, text, the closing id, padding.

    Args:
        model: that writes.
        memory: what it was shown and asked.
        luck: uniform numbers `[B, L - 1]`, one per id.
        sampler: how it draws.
    """
    ids = torch.full_like(luck[:, :1], BOS, dtype=torch.int64)
    for step in range(luck.shape[1]):
        logits = only_text(model.decode(memory, ids)[:, -1])
        drawn = sampler.choose(logits, luck[:, step])
        ids = torch.cat([ids, _after_end(ids[:, -1], drawn)[:, None]], dim=1)
    return ids


def beam_search(
    model: LanguageModel,
    memory: Memory,
    *,
    beams: int = 4,
    length: int | None = None,
    penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """The best answers found by keeping the `beams` likeliest beginnings.

    Args:
        model: that writes.
        memory: of B rows.
        beams: K; 1 is greedy.
        length: L of the answers; None is the model's.
        penalty: scores are divided by the answer's length to this power.

    Returns:
        Ids int64 `[B, K, L]` and scores `[B, K]`, best first.

    Raises:
        UserError: fewer than one beam, or more than there are ids.
    """
    if not 1 <= beams <= model.shape.vocab_size:
        raise UserError(
            f"beams={beams} must be from 1 to vocab_size={model.shape.vocab_size}."
        )
    read, blocked = memory
    rows = len(read)
    wide = (read.repeat_interleave(beams, 0), blocked.repeat_interleave(beams, 0))
    ids = torch.full((rows, beams, 1), BOS, dtype=torch.int64, device=read.device)
    first = torch.arange(beams, device=read.device) == 0
    scores = torch.where(first, 0.0, NEVER).to(read.dtype).expand(rows, beams)
    for _ in range((length or model.shape.length) - 1):
        logits = only_text(model.decode(wide, ids.flatten(0, 1))[:, -1])
        chances = torch.unflatten(logits.log_softmax(-1), 0, (rows, beams))
        ended = (ids[..., -1] == EOS) | (ids[..., -1] == PAD)
        rest = torch.arange(chances.shape[-1], device=read.device) == PAD
        chances = torch.where(
            ended[..., None], torch.where(rest, 0.0, NEVER), chances.clamp(min=NEVER)
        )
        total = (scores[..., None] + chances).flatten(1)
        scores, place = total.topk(beams, dim=1)
        parent = place // chances.shape[-1]
        kept = ids.gather(1, parent[..., None].expand(-1, -1, ids.shape[-1]))
        ids = torch.cat([kept, (place % chances.shape[-1])[..., None]], dim=2)
    written = (ids[..., 1:] != PAD).sum(-1).clamp(min=1)
    normal = scores / written.to(scores.dtype) ** penalty
    order = normal.argsort(dim=1, descending=True)
    chosen = ids.gather(1, order[..., None].expand(-1, -1, ids.shape[-1]))
    return chosen, normal.gather(1, order)


def _after_end(last: Tensor, drawn: Tensor) -> Tensor:
    return torch.where((last == EOS) | (last == PAD), PAD, drawn)
