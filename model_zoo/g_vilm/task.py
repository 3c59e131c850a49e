"""G-ViLM as a task: one virtual client's clips and captions teach both towers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import OWNER, Examples
from fedemb.errors import UserError
from fedemb.protocols import Batch, Features
from model_zoo.constant_head import ConstantHead
from model_zoo.g_vilm.evaluation import evaluate
from model_zoo.g_vilm.losses import grounding_loss, temporal_loss
from model_zoo.g_vilm.network import DualEncoder
from model_zoo.g_vilm.pasting import (
    PASTE_SOURCES,
    Pasted,
    by_owner,
    paste,
    plan_pasting,
    plan_public_pasting,
    public_clips,
)
from model_zoo.text.nouns import noun_prompts
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.video.contrastive import contrastive_loss
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.retrieval import embedded_texts

Steps = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class GVilmTask(ConstantHead):
    """An `EmbeddingTask` over clips with captions.

    The temperatures are the local head: fresh on every virtual client, and adapted
    there.

    Attributes:
        name: for reports.
        backbone: makes a `DualEncoder`.
        num_classes: size of the data set's label space, which training does not use.
        tube_frames: frames of a tube; stretches are cut between tubes.
        length: ids of a caption.
        vocab_size: of the shipped tokenizer.
        nouns: K, noun phrases per caption.
        weights: of temporal grouping, spatial grounding and global contrast.
        temperatures: of grouping, grounding and contrast, at first.
        paste_source: whose clips surround a pasted one: `same_virtual_client`,
            `same_user`, `public`, or `none`.
        public_clips: for the source `public`: a `.npy` file of clips that belong to
            nobody, uint8 `[n, T, H, W, 3]`.

    Raises:
        UserError: an unknown source, one without its clips, or a negative weight.
    """

    name: str
    backbone: Callable[[], nn.Module]
    num_classes: int
    tube_frames: int
    length: int
    vocab_size: int
    nouns: int = 2
    weights: Steps = (1.0, 1.0, 1.0)
    temperatures: Steps = (0.1, 0.05, 0.05)
    paste_source: str = "same_virtual_client"
    public_clips: str | None = None
    label_space: str = "global"

    def __post_init__(self) -> None:
        if self.paste_source not in PASTE_SOURCES:
            raise UserError(
                f"paste_source={self.paste_source!r} must be one of "
                f"{', '.join(PASTE_SOURCES)}."
            )
        if self.paste_source == "public" and self.public_clips is None:
            raise UserError(
                "paste_source='public' needs public_clips, a .npy file of clips."
            )
        if self.paste_source != "public" and self.public_clips is not None:
            raise UserError(
                f"public_clips={self.public_clips!r} are used by paste_source='public' "
                f"alone, not by {self.paste_source!r}."
            )
        if min(self.weights) < 0:
            raise UserError(f"weights={self.weights} must not be negative.")

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        return self.backbone()

    def make_head(self, capacity: int) -> nn.Module:
        """The temperatures, as logarithms of their inverses."""
        del capacity
        return Temperatures(self.temperatures)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips, blended clips with their masks, captions and noun prompts as ids."""
        fields = examples.fields
        clips = fields["clip"]
        hosts = None if self.public_clips is None else public_clips(self.public_clips)
        pasted = self._pasted(examples, seeds, hosts)
        tokenizer = shipped(self.vocab_size)
        captions = fields["caption"].astype(str)
        prompts, valid = noun_prompts(captions, self.nouns)
        flat = [prompt for row in prompts for prompt in row]
        ids = encode(tokenizer, flat, self.length)
        return {
            "clip": clip_pixels(clips),
            "blended": clip_pixels(paste(clips, pasted, self.tube_frames, hosts)),
            "mask": torch.from_numpy(pasted.mask.astype(np.int64)),
            "caption": torch.from_numpy(encode(tokenizer, captions, self.length)),
            "nouns": torch.from_numpy(ids.reshape(len(clips), self.nouns, -1)),
            "valid": torch.from_numpy(valid.astype(np.int64)),
        }

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Embeddings of blended clips, their groups and steps, captions and nouns."""
        dual = cast(DualEncoder, backbone)
        seen = dual.see(batch["blended"])
        return seen | {
            "caption": dual.read(batch["caption"]),
            "nouns": dual.read(batch["nouns"]),
        }

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The weighted sum of the three losses."""
        found = cast(dict[str, Tensor], features)
        grouping, grounding, contrast = cast(Temperatures, head)()
        weight = batch["weight"]
        terms = (
            temporal_loss(found["steps"], batch["mask"], grouping, weight),
            grounding_loss(
                found["groups"], found["nouns"], batch["valid"], grounding, weight
            ),
            contrastive_loss(found["video"], found["caption"], 1 / contrast, weight),
        )
        total = sum(w * term for w, term in zip(self.weights, terms, strict=True))
        return cast(Tensor, total)

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length embeddings `[B, S]` of whole clips."""
        return cast(DualEncoder, backbone).see(batch["clip"])["video"]

    def embed_texts(
        self, backbone: nn.Module, texts: Sequence[str] | NDArray[np.str_]
    ) -> Tensor:
        """Unit-length embeddings `[n, S]` of texts, in the space of clips."""
        ids = encode(shipped(self.vocab_size), texts, self.length)
        return embedded_texts(backbone, torch.from_numpy(ids))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Retrieval, grouping, grounding and identity metrics of held-out clips."""
        return evaluate(self, backbone, examples)

    def _pasted(
        self,
        examples: Examples,
        seeds: NDArray[np.uint64],
        hosts: NDArray[np.uint8] | None,
    ) -> Pasted:
        clips = examples.fields["clip"]
        units = clips.shape[1] // self.tube_frames
        offsets = examples.offsets
        if self.paste_source == "none":
            rows = np.arange(len(examples))
            return Pasted(rows, np.ones((len(rows), units), dtype=bool))
        if hosts is not None:
            return plan_public_pasting(offsets, units, seeds, len(hosts))
        if self.paste_source == "same_user":
            owners = examples.fields.get(OWNER)
            if owners is None:  # held-out rows belong to nobody: all are one group
                owners = np.zeros(len(examples), np.int64)
            offsets, seeds = by_owner(owners.astype(np.int64), offsets, seeds)
        return plan_pasting(offsets, units, seeds)


class Temperatures(nn.Module):
    """The local head: a temperature for each loss, kept positive by its logarithm."""

    def __init__(self, initial: Steps) -> None:
        super().__init__()
        self.log_inverse = nn.Parameter(-torch.tensor(initial).log())

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of grouping, grounding and contrast."""
        first, second, third = torch.exp(-self.log_inverse).unbind()
        return first, second, third
