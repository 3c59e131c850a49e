"""Teacher and student in one module: what a stage does not train stays frozen in it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from fedemb.heads import unit_rows
from fedemb.protocols import Parameters
from model_zoo.text.transformer import TextShape, TextTower
from model_zoo.vld.generation import Memory, Sampler, beam_search, sample
from model_zoo.vld.language import LanguageModel, LanguageShape
from model_zoo.vld.student import VideoTower
from model_zoo.vld.visual import Visual, VitShape

VISUAL = "names:captioner.visual.*"
LANGUAGE = "names:captioner.language.*"
STUDENT = "names:video.*,text.*,to_shared.*,text_to_shared.*"
"""What each stage trains."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of teacher and student.

    Attributes:
        clip: (T, H, W).
        teacher: the image encoder of the captioner.
        queries: Q, visual tokens of a clip; None is one per frame.
        pool: tokens to a video embedding, `mean` or `max`.
        language: its encoder-decoder.
        student: the image encoder of the dual encoder.
        temporal_layers: blocks along time in the dual encoder.
        text: its text tower, without a projection.
        shared: width of the embeddings.

    Raises:
        UserError: texts that the text tower cannot read, or an unknown pool.
    """

    clip: tuple[int, int, int]
    teacher: VitShape
    language: LanguageShape
    student: VitShape
    temporal_layers: int
    text: TextShape
    shared: int
    queries: int | None = None
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max"):
            raise UserError(f"pool={self.pool!r} must be mean or max.")
        same = self.text.vocab_size == self.language.vocab_size
        if not same or self.text.length < self.language.length:
            raise UserError(
                f"the text tower (vocab_size={self.text.vocab_size}, length="
                f"{self.text.length}) must read what the language model writes "
                f"(vocab_size={self.language.vocab_size}, length="
                f"{self.language.length})."
            )


class Captioner(nn.Module):
    """Clips and prompts in, text out: a visual half and a language half."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.visual = Visual(
            sizes.teacher,
            sizes.clip,
            sizes.queries or sizes.clip[0],
            sizes.language.width,
        )
        self.language = LanguageModel(sizes.language)

    def look(self, clips: Tensor, prompt: Tensor) -> Memory:
        """What is written from: clips `[B, 3, T, H, W]` and prompts `[B, P]`."""
        return self.language.encode(self.visual(clips), prompt)

    def forward(self, clips: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
        """Logits `[B, L - 1, V]` of what follows each id of answers `[B, L]`."""
        return self.language.decode(self.look(clips, prompt), answer[:, :-1])

    def sampled(
        self, clips: Tensor, prompt: Tensor, luck: Tensor, sampler: Sampler
    ) -> Tensor:
        """Answers `[B, L]` drawn by `luck` `[B, L - 1]`; no gradient passes."""
        with torch.no_grad():
            return sample(self.language, self.look(clips, prompt), luck, sampler)

    def best(self, clips: Tensor, prompt: Tensor, beams: int) -> Tensor:
        """Answers `[B, L]` found by beam search; no gradient passes."""
        with torch.no_grad():
            memory = self.look(clips, prompt)
            return beam_search(self.language, memory, beams=beams)[0][:, 0]


class VideoLanguage(nn.Module):
    """The captioner (teacher) beside the dual encoder (student)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.captioner = Captioner(sizes)
        self.video = VideoTower(sizes.student, sizes.clip, sizes.temporal_layers)
        self.text = TextTower(sizes.text)
        self.to_shared = nn.Linear(sizes.student.width, sizes.shared, bias=False)
        self.text_to_shared = nn.Linear(sizes.text.width, sizes.shared, bias=False)

    def see(self, clips: Tensor) -> Tensor:
        """Unit-length embeddings `[B, S]` of clips `[B, 3, T, H, W]`."""
        tokens = self.video(clips).flatten(1, 3)
        pooled = tokens.mean(1) if self.sizes.pool == "mean" else tokens.amax(1)
        return unit_rows(self.to_shared(pooled))

    def read(self, ids: Tensor) -> Tensor:
        """Unit-length embeddings `[B, S]` of texts `[B, L]`."""
        return unit_rows(self.text_to_shared(self.text(ids)))


def student_sees_as_teacher(state: Parameters) -> Parameters:
    """The state in which the student's image encoder is the adapted teacher's.

    The teacher's visual half is a private release by then, so copying it costs nothing.
    """
    seen = {
        name.replace("captioner.visual.vit.", "video.vit."): value
        for name, value in state.items()
        if name.startswith("captioner.visual.vit.")
    }
    return {**state, **seen}
