"""The language half: an encoder-decoder that answers what it is shown and asked."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from fedemb.heads import one_hot, weighted_mean
from model_zoo.blocks import Block
from model_zoo.text.tokenizer import BOS, PAD, UNKNOWN
from model_zoo.video.tubes import place_table, places
from model_zoo.vld.attention import ReadingBlock


@dataclass(frozen=True, kw_only=True)
class LanguageShape:
    """Sizes of the encoder-decoder.

    Attributes:
        vocab_size: ids.
        length: L, of a prompt and of an answer, both ends included.
        width: W.
        encoder_layers: blocks that read visual tokens and prompt together.
        decoder_layers: blocks that write.
        heads: attention heads of each.
        mlp: hidden width of each.

    Raises:
        UserError: a number below 1, or heads that do not divide the width.
    """

    vocab_size: int
    length: int
    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mlp: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise UserError(f"all sizes of {self} must be at least 1.")
        if self.width % self.heads:
            raise UserError(f"heads={self.heads} must divide width={self.width}.")


class TokenTable(nn.Embedding):
    """Vectors of ids, which also tell how well each id fits a vector.

    Its weights are used without calling it, so it is a class of its own: engines that
    know how plain embeddings are trained leave it to automatic differentiation.
    """

    def logits(self, x: Tensor) -> Tensor:
        """`[..., W]` to `[..., V]`."""
        return x @ self.weight.T


class LanguageModel(nn.Module):
    """Prompts and visual tokens in, logits of the answer out.

    Visual tokens stand before the prompt (PaLI-3, arXiv:2310.09199). The table of
    tokens also gives the logits.
    """

    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.shape = shape
        width, heads, mlp = shape.width, shape.heads, shape.mlp
        self.token = TokenTable(shape.vocab_size, width)
        nn.init.trunc_normal_(self.token.weight, std=0.02)
        self.prompt_places = place_table(shape.length, width)
        self.answer_places = place_table(shape.length, width)
        self.encoder = nn.ModuleList(
            Block(width, heads, mlp, "gelu") for _ in range(shape.encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            ReadingBlock(width, heads, mlp, itself=True)
            for _ in range(shape.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)

    def encode(self, visual: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `[B, Q + P, W]` and where it is padding, `[B, 1, 1, Q + P]`.

        Args:
            visual: `[B, Q, W]`; Q may be 0.
            prompt: ids `[B, P]`.
        """
        asked = self.token(prompt) + self.prompt_places(places(prompt, prompt.shape[1]))
        x = torch.cat([visual, asked], dim=1)
        shown = torch.zeros_like(visual[..., 0]) != 0
        blocked = torch.cat([shown, prompt == PAD], dim=1)[:, None, None, :]
        for block in self.encoder:
            x = block(x, blocked)
        return self.encoder_norm(x), blocked

    def decode(self, memory: tuple[Tensor, Tensor], answer: Tensor) -> Tensor:
        """Logits `[B, l, V]` of what follows each id of `answer` `[B, l]`."""
        read, blocked = memory
        length = answer.shape[1]
        x = self.token(answer) + self.answer_places(places(answer, length))
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for block in self.decoder:
            x = block(x, read, blocked, later)
        return self.token.logits(self.decoder_norm(x))


def token_losses(logits: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each id of an answer after its first, and which ids count.

    Args:
        logits: `[B, L - 1, V]`, of what follows each id but the last.
        answer: ids `[B, L]`; padding does not count, and prompts are no part of it.

    Returns:
        Both `[B, L - 1]`.
    """
    wanted = answer[:, 1:]
    chosen = one_hot(wanted, logits.shape[-1], logits.dtype)
    losses = -(logits.log_softmax(-1) * chosen).sum(-1)
    return losses, (wanted != PAD).to(logits.dtype)


def answer_loss(logits: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
    """Mean of `token_losses` over the ids that count, of rows that count."""
    losses, counted = token_losses(logits, answer)
    return weighted_mean(losses, counted * weight[:, None])


def only_text(logits: Tensor) -> Tensor:
    """Logits under which nothing but text and its end is ever written."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    never = (ids == PAD) | (ids == BOS) | (ids == UNKNOWN)
    return logits.masked_fill(never, torch.finfo(logits.dtype).min)
