"""The three stages as tasks: see clips, answer questions, learn from own captions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.protocols import Batch, Features
from model_zoo.constant_head import ConstantHead, Temperature, check_temperature
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.video.contrastive import contrastive_loss
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.retrieval import embedded_texts
from model_zoo.vld.evaluation import evaluate
from model_zoo.vld.generation import Sampler
from model_zoo.vld.instructions import PROMPT, drawn
from model_zoo.vld.language import answer_loss
from model_zoo.vld.network import VideoLanguage

CAPTIONS = ("sampled", "beam", "original")
"""Whose captions teach the dual encoder: the captioner's, in two ways, or people's."""


@dataclass(frozen=True, kw_only=True)
class VideoLanguageTask(ConstantHead, ABC):
    """What the three stages share; the embedding is the dual encoder's.

    Attributes:
        name: for reports.
        backbone: makes a `VideoLanguage`.
        num_classes: size of the data set's label space, which training does not use.
        length: ids of a prompt and of a text.
        vocab_size: of the shipped tokenizer.
        beams: of the captions that are evaluated.
    """

    name: str
    backbone: Callable[[], nn.Module]
    num_classes: int
    length: int
    vocab_size: int
    beams: int = 4
    label_space: str = "global"

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        return self.backbone()

    def make_head(self, capacity: int) -> nn.Module:
        """Nothing is local: the half that is adapted is all that is trained."""
        del capacity
        return nn.Identity()

    @abstractmethod
    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """What the stage's loss is made of, row by row."""

    @abstractmethod
    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The stage's loss on the rows of one virtual client."""

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length embeddings `[B, S]` of clips, by the dual encoder."""
        return cast(VideoLanguage, backbone).see(batch["clip"])

    def embed_texts(
        self, backbone: nn.Module, texts: Sequence[str] | NDArray[np.str_]
    ) -> Tensor:
        """Unit-length embeddings `[n, S]` of texts, in the space of clips."""
        return embedded_texts(backbone, self.ids(texts))

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Retrieval by the dual encoder; captions and answers by the captioner."""
        return evaluate(self, backbone, examples)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips x / 128 - 1, to which every stage adds its own."""
        del seeds
        return {"clip": clip_pixels(examples.fields["clip"])}

    def ids(self, texts: Sequence[str] | NDArray[np.str_]) -> Tensor:
        """Texts as ids `[n, length]`, opened as the captioner opens what it writes."""
        tokenizer = shipped(self.vocab_size)
        return torch.from_numpy(encode(tokenizer, texts, self.length, bos=True))

    def prompts(self, count: int) -> Tensor:
        """The instruction to describe, `[count, length]`."""
        return self.ids([PROMPT]).expand(count, -1)


@dataclass(frozen=True, kw_only=True)
class CaptionTask(VideoLanguageTask):
    """Stage 1, an `EmbeddingTask`: the captions of clips teach the visual half.

    Short captions repeat themselves and would wear the language model out, so it stays
    as it is.
    """

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips, the prompt, and their captions as answers."""
        captions = examples.fields["caption"].astype(str)
        return super().prepare(examples, seeds) | {
            "prompt": self.prompts(len(captions)),
            "answer": self.ids(captions),
        }

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Logits of every id of the answers, given the ids before it."""
        captioner = cast(VideoLanguage, backbone).captioner
        found: Tensor = captioner(batch["clip"], batch["prompt"], batch["answer"])
        return found

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Cross-entropy of the answers; prompts and padding carry none."""
        del head
        return answer_loss(cast(Tensor, features), batch["answer"], batch["weight"])


@dataclass(frozen=True, kw_only=True)
class InstructionTask(CaptionTask):
    """Stage 2, an `EmbeddingTask`: questions about clips teach the language half.

    Every clip is asked one question of a kind drawn by the virtual client's seed; it is
    made from the clip's own caption.
    """

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips, questions about them and the answers."""
        captions = examples.fields["caption"].astype(str)
        asked = drawn(captions, examples.offsets, seeds)
        return VideoLanguageTask.prepare(self, examples, seeds) | {
            "prompt": self.ids([one.instruction for one in asked]),
            "answer": self.ids([one.answer for one in asked]),
        }


@dataclass(frozen=True, kw_only=True)
class DistillationTask(VideoLanguageTask):
    """Stage 3, an `EmbeddingTask`: written captions teach the dual encoder by contrast.

    The captioner is a frozen part of the backbone. It was released by the stages before
    (or is public), so what it writes about a client's own clips is post-processing; it
    writes where the clips are, anew whenever they train, and no text leaves.

    Attributes:
        captions: `sampled`: drawn by the captioner; `beam`: its best; `original`:
            people's, the upper bound that the paper compares with. With the first two
            the field `caption` is never read.
        sampler: how captions are drawn.
        written_beams: beams of `beam`.
        temperature: of the contrast, at first; it stays on the virtual client.

    Raises:
        UserError: an unknown source of captions, or too low a temperature.
    """

    captions: str = "sampled"
    sampler: Sampler = field(default_factory=Sampler)
    written_beams: int = 2
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.captions not in CAPTIONS:
            raise UserError(
                f"captions={self.captions!r} must be one of {', '.join(CAPTIONS)}."
            )
        check_temperature(self.temperature)

    def make_head(self, capacity: int) -> nn.Module:
        """The temperature."""
        del capacity
        return Temperature(self.temperature)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clips with a prompt and luck to write by, or with people's captions."""
        batch = super().prepare(examples, seeds)
        if self.captions == "original":
            if "caption" in examples.fields:  # clips to embed need none
                captions = examples.fields["caption"].astype(str)
                batch["caption"] = self.ids(captions)
            return batch
        batch["prompt"] = self.prompts(len(examples))
        if self.captions == "sampled":
            batch["luck"] = self._luck(examples, seeds)
        return batch

    def written(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """The captions that teach, ids `[B, length]`.

        Raises:
            UserError: if people's captions are asked for and there are none.
        """
        captioner = cast(VideoLanguage, backbone).captioner
        if self.captions == "sampled":
            luck = batch["luck"]
            return captioner.sampled(batch["clip"], batch["prompt"], luck, self.sampler)
        if self.captions == "beam":
            return captioner.best(batch["clip"], batch["prompt"], self.written_beams)
        if "caption" not in batch:
            raise UserError(
                "captions='original' needs a field `caption`; without one choose a "
                "configuration whose captions the model writes."
            )
        return batch["caption"]

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Unit-length embeddings of clips and of their captions."""
        model = cast(VideoLanguage, backbone)
        read = model.read(self.written(backbone, batch))
        return {"video": model.see(batch["clip"]), "caption": read}

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Contrast of clips and captions inside the virtual client."""
        found = cast(dict[str, Tensor], features)
        scale = cast(Temperature, head)()
        return contrastive_loss(
            found["video"], found["caption"], scale, batch["weight"]
        )

    def _luck(self, examples: Examples, seeds: NDArray[np.uint64]) -> Tensor:
        """A uniform number per id, `[n, length - 1]`, by each group's own seed."""
        parts = [
            np.random.Generator(np.random.Philox([seed, 3])).random(
                (size, self.length - 1)
            )
            for seed, size in zip(seeds.tolist(), examples.sizes.tolist(), strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))
