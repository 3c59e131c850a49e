"""VideoPrism's two stages as tasks: captions first, then the teacher's tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.protocols import Batch, Features, Parameters
from model_zoo.constant_head import ConstantHead, Temperature, check_temperature
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.text.words import canonical
from model_zoo.video.contrastive import contrastive_loss
from model_zoo.video.retrieval import embedded_texts
from model_zoo.videoprism import masks
from model_zoo.videoprism.decoders import Decoders, DecoderShape, fresh_decoders
from model_zoo.videoprism.evaluation import evaluate
from model_zoo.videoprism.network import Distilled, VideoText


@dataclass(frozen=True, kw_only=True)
class VideoPrismTask:
    """What both stages share: how clips and captions are read, embedded and judged.

    Attributes:
        name: for reports.
        backbone: makes a `VideoText`.
        num_classes: size of the data set's label space, which training does not use.
        grid: tokens along (time, height, width) of the clips that are trained on.
        length: ids of a caption.
        vocab_size: of the shipped tokenizer.
        class_names: what zero-shot classification compares clips with.
    """

    name: str
    backbone: Callable[[], nn.Module]
    num_classes: int
    grid: tuple[int, int, int]
    length: int
    vocab_size: int
    class_names: tuple[str, ...] = ()
    label_space: str = "global"

    @property
    def places(self) -> int:
        """N, tokens of a frame."""
        return self.grid[1] * self.grid[2]

    @property
    def tokens(self) -> int:
        """Tokens of a clip, n = T N."""
        return self.grid[0] * self.places

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        return self.backbone()

    def ids(self, texts: Sequence[str] | NDArray[np.str_]) -> Tensor:
        """Texts in canonical form as ids, int64 `[n, L]`."""
        plain = [canonical(str(text)) for text in texts]
        return torch.from_numpy(encode(shipped(self.vocab_size), plain, self.length))

    def clips(self, examples: Examples) -> Tensor:
        """The task's frames, evenly spaced; see `frames_of`."""
        return frames_of(examples.fields["clip"], self.grid[0])

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length embeddings `[B, D]` of whole clips, pooled over all tokens."""
        return cast(VideoText, backbone).see(batch["clip"])

    def embed_texts(
        self, backbone: nn.Module, texts: Sequence[str] | NDArray[np.str_]
    ) -> Tensor:
        """Unit-length embeddings `[n, D]` of texts, in the space of clips."""
        return embedded_texts(backbone, self.ids(texts))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Zero-shot retrieval and classification, frozen probes, identity metrics."""
        return evaluate(self, cast(VideoText, backbone), examples)


@dataclass(frozen=True, kw_only=True)
class ContrastiveTask(ConstantHead, VideoPrismTask):
    """Stage 1: clips with dropped tubes are matched with their captions.

    The temperature is the local head. Negatives are the virtual client's other rows.

    Attributes:
        dropped: share of the places of every frame that are dropped in training.
        temperature: at first.

    Raises:
        UserError: a share that leaves nothing, or too low a temperature.
    """

    dropped: float = 0.5
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if not 0 <= self.dropped < 1:
            raise UserError(f"dropped={self.dropped} must be in [0, 1).")
        check_temperature(self.temperature)

    def make_head(self, capacity: int) -> nn.Module:
        """The temperature, as the logarithm of its inverse."""
        del capacity
        return Temperature(self.temperature)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips in [0, 1], the places kept, and captions as ids."""
        count = self.places
        kept = max(1, count - round(count * self.dropped))
        drawn = masks.tube_places(count, kept, examples.offsets, seeds)
        return {
            "clip": self.clips(examples),
            "kept": torch.from_numpy(drawn),
            "caption": self.ids(examples.fields["caption"].astype(str)),
        }

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Unit-length embeddings of clips and captions."""
        model = cast(VideoText, backbone)
        return {
            "video": model.see(batch["clip"], batch["kept"]),
            "text": model.read(batch["caption"]),
        }

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The symmetric contrast of the virtual client's own rows."""
        found = cast(dict[str, Tensor], features)
        return contrastive_loss(found["video"], found["text"], head(), batch["weight"])


@dataclass(frozen=True, kw_only=True)
class DistillationTask(VideoPrismTask):
    """Stage 2: from a masked clip, tell what the frozen teacher sees in the whole one.

    Both decoders are the local head.

    Attributes:
        decoders: their sizes.
        masked: share of all tokens that the student does not see.
        weights: of the local and the global loss.
        shuffled: whether the local decoder's input is shuffled.

    Raises:
        UserError: a share that leaves nothing, or a negative weight.
    """

    decoders: DecoderShape
    masked: float = 0.65
    weights: tuple[float, float] = (1.0, 1.0)
    shuffled: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.masked < 1:
            raise UserError(f"masked={self.masked} must be in [0, 1).")
        if min(self.weights) < 0:
            raise UserError(f"weights={self.weights} must not be negative.")

    def make_head(self, capacity: int) -> nn.Module:
        """Both decoders."""
        del capacity
        return Decoders(self.decoders, self.weights)

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """New decoders, see `fresh_decoders`."""
        del classes
        return fresh_decoders(head, generator)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips in [0, 1], which tokens are seen, and the order for the decoder."""
        offsets = examples.offsets
        hidden = min(round(self.tokens * self.masked), self.tokens - 1)
        drawn = masks.block_masks(self.grid, hidden, offsets, seeds)
        order = (
            masks.shuffles(self.tokens, offsets, seeds)
            if self.shuffled
            else masks.in_place(drawn)
        )
        return {
            "clip": self.clips(examples),
            "seen": torch.from_numpy(~drawn),
            "visible": torch.from_numpy(masks.visible_tokens(drawn, hidden)),
            "order": torch.from_numpy(order),
        }

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """The student's visible tokens `[B, m, D]`, and what the teacher says."""
        model = cast(Distilled, backbone)
        tokens = model.video(batch["clip"], seen=batch["seen"]).tokens
        chosen = batch["visible"][..., None].expand(-1, -1, tokens.shape[-1])
        local, whole = model.teach(batch["clip"])
        return {
            "visible": torch.gather(tokens, 1, chosen),
            "local": local,
            "global": whole,
        }

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Local and global distillation."""
        found = cast(dict[str, Tensor], features)
        targets = found["local"], found["global"]
        loss: Tensor = head(found["visible"], targets, batch["order"], batch["weight"])
        return loss


def frames_of(clips: NDArray[np.generic], frames: int) -> Tensor:
    """Evenly spaced frames of clips `[n, T, H, W, 3]`, float32 in [0, 1].

    Example:
        >>> clips = np.arange(8, dtype=np.uint8).reshape(1, 8, 1, 1, 1)
        >>> (frames_of(clips, 4) * 255).flatten().tolist()
        [1.0, 3.0, 5.0, 7.0]
    """
    length = clips.shape[1]
    at = (2 * np.arange(frames) + 1) * length // (2 * frames)
    values = torch.from_numpy(np.ascontiguousarray(clips[:, at]))
    if values.is_floating_point():
        return values.to(torch.float32)
    return values.to(torch.float32) / 255.0
