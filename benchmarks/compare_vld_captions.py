"""Whose captions teach a dual encoder best: a comparison without privacy.

    python -m benchmarks.compare_vld_captions

The public captioner of video-language distillation is adapted to generated clips by
ordinary training in one place. Then captions are written about other clips, once, and
students that start alike learn from the captions of the adapted model, of the public
image model, of people, and from the adapted model's captions of other clips; and from
those of fewer clips. Retrieval is by people's captions of held-out clips.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.arguments import positive, whole
from fedemb.data import Examples
from fedemb.identity import embed_all
from fedemb.parameters import FlatLayout
from fedemb.stages import Stage
from model_zoo.system import DataFacts
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.retrieval import retrieval_metrics
from model_zoo.vld.card import VIDEO_LANGUAGE_DISTILLATION
from model_zoo.vld.evaluation import evaluate
from model_zoo.vld.network import VideoLanguage, student_sees_as_teacher
from model_zoo.vld.pseudo import write_captions
from model_zoo.vld.tasks import VideoLanguageTask
from simulations.datasets.clips import PlainClips

CAPTIONER = ("cider", "caption_log_likelihood", "before_after_accuracy")
RETRIEVAL = ("text_to_video_recall_at_1", "text_to_video_recall_at_10")
USERS = 100_000
_GALLERY = 256


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """How models are taught, the same for all that are compared.

    Attributes:
        batch: clips per step.
        rate: of Adam.
        seed: of batches.
    """

    batch: int = 64
    rate: float = 3e-3
    seed: int = 0

    def adapt(
        self, model: nn.Module, stage: Stage, data: PlainClips, steps: int
    ) -> None:
        """Teach the half that a stage trains; every step sees other users' clips."""
        task, head, optimizer = self._started(model, stage)
        for step in range(steps):
            users = np.arange(step * self.batch, (step + 1) * self.batch)
            rows = data.fetch(users % data.num_users).fields
            examples = Examples(rows, np.array([0, self.batch]))
            batch = task.prepare(examples, np.array([step], np.uint64))
            batch["weight"] = torch.ones(self.batch)
            loss = task.loss(head, task.features(model, batch), batch)
            _step(optimizer, loss)

    def distil(
        self, model: VideoLanguage, stage: Stage, clips: Tensor, ids: Tensor, steps: int
    ) -> None:
        """Teach the dual encoder captions that were written before.

        Args:
            model: its dual encoder is trained.
            stage: the last one.
            clips: `[n, 3, T, H, W]`.
            ids: S captions of each, `[n, S, L]`; a step reads one of them.
            steps: of training.
        """
        task, head, optimizer = self._started(model, stage)
        draw = np.random.default_rng(self.seed)
        count = min(self.batch, len(clips))
        weight = {"weight": torch.ones(count)}
        for _ in range(steps):
            rows = torch.from_numpy(draw.choice(len(clips), count, replace=False))
            which = torch.from_numpy(draw.integers(ids.shape[1], size=count))
            seen, read = model.see(clips[rows]), model.read(ids[rows, which])
            _step(optimizer, task.loss(head, {"video": seen, "caption": read}, weight))

    def _started(
        self, model: nn.Module, stage: Stage
    ) -> tuple[VideoLanguageTask, nn.Module, torch.optim.Optimizer]:
        own = dict(model.named_parameters())
        head = stage.task.make_head(1)
        chosen = [own[name] for name in FlatLayout.of(model, stage.trainable).names]
        optimizer = torch.optim.Adam([*chosen, *head.parameters()], lr=self.rate)
        return stage.task, head, optimizer  # type: ignore[return-value]


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def stages_for(data: PlainClips) -> tuple[Stage, Stage, Stage]:
    """The three stages of the smallest configuration."""
    visual, language, dual = VIDEO_LANGUAGE_DISTILLATION.build(
        data=DataFacts(
            example_shape=(data.frames, data.side, data.side, 3),
            num_classes=data.num_classes,
        )
    )
    return visual, language, dual


def pseudo_captions(
    model: VideoLanguage, task: VideoLanguageTask, fields: Examples, samples: int
) -> Tensor:
    """What the captioner writes about clips, as ids `[n, samples, L]`."""
    clips = fields.fields["clip"]
    names = [str(i) for i in range(len(clips))]
    rows = write_captions(model.captioner, clips, names, samples=samples)
    return ids_of(task, [list(row.captions) for row in rows])


def ids_of(task: VideoLanguageTask, texts: Sequence[Sequence[str]]) -> Tensor:
    """Texts as ids `[n, S, L]`, as many about every clip."""
    flat = [text for each in texts for text in each]
    return task.ids(flat).unflatten(0, (len(texts), -1))


def gallery(data: PlainClips, size: int = _GALLERY) -> Examples:
    """Held-out clips of different captions."""
    held_out = data.held_out()
    captions = held_out.fields["caption"].astype(str)
    rows = np.sort(np.unique(captions, return_index=True)[1])
    rows = rows[:: max(len(rows) // size, 1)][:size]
    return held_out.only(rows)


def retrieval(
    model: VideoLanguage, task: VideoLanguageTask, clips: Examples
) -> dict[str, float]:
    """How well people's captions find their clips."""
    captions = clips.fields["caption"].astype(str)
    with torch.inference_mode():
        texts = model.read(task.ids(captions))
    return retrieval_metrics(texts, embed_all(task, model, clips), "text_to_video")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visual", type=whole(0), default=400, help="steps of stage 1")
    parser.add_argument(
        "--language", type=whole(0), default=100, help="steps of stage 2"
    )
    parser.add_argument(
        "--student", type=whole(0), default=400, help="steps of a student"
    )
    parser.add_argument(
        "--clips", type=whole(1, USERS), default=1000, help="that are captioned"
    )
    parser.add_argument("--samples", type=whole(1), default=3, help="captions per clip")
    parser.add_argument("--batch", type=whole(1), default=64)
    parser.add_argument("--rate", type=positive, default=3e-3)
    parser.add_argument("--seed", type=whole(0), default=0)
    chosen = parser.parse_args()
    lessons = Lessons(batch=chosen.batch, rate=chosen.rate, seed=chosen.seed)
    data = PlainClips(USERS, classes_per_user=1, repeats=1)
    stages = visual, language, dual = stages_for(data)
    task: VideoLanguageTask = dual.task  # type: ignore[assignment]
    held_out = gallery(data)
    torch.manual_seed(chosen.seed)
    model: VideoLanguage = visual.task.make_backbone()  # type: ignore[assignment]
    public = copy.deepcopy(model)
    for stage, steps in zip(stages, (chosen.visual, chosen.language), strict=False):
        lessons.adapt(model, stage, data, steps)
    model.load_state_dict(student_sees_as_teacher(model.state_dict()))
    for name, one in (("image", public), ("adapted", model)):
        found = evaluate(task, one, held_out)
        told = ", ".join(f"{key} {found[key]:.3f}" for key in CAPTIONER)
        print(f"{name} model: {told}", flush=True)

    # Clips of users that adaptation has not seen.
    users = np.arange(data.num_users - chosen.clips, data.num_users)
    unlabelled = data.fetch(users)
    clips = clip_pixels(unlabelled.fields["clip"])
    people = [[text] for text in unlabelled.fields["caption"].astype(str).tolist()]
    adapted = pseudo_captions(model, task, unlabelled, chosen.samples)
    sources = {
        "the adapted model": adapted,
        "the image model": pseudo_captions(public, task, unlabelled, chosen.samples),
        "people": ids_of(task, people),
        "other clips": adapted.roll(1, 0),
    }
    sizes = {size: adapted[:size] for size in (chosen.clips // 10, chosen.clips // 3)}
    sources |= {f"the adapted model on {size} clips": x for size, x in sizes.items()}
    for name, ids in {"nobody": adapted[:0], **sources}.items():
        student = copy.deepcopy(model)
        steps = chosen.student if len(ids) else 0
        lessons.distil(student, dual, clips[: len(ids)], ids, steps)
        found = retrieval(student, task, held_out)
        told = ", ".join(f"{key} {found[key]:.3f}" for key in RETRIEVAL)
        print(f"captions of {name}: {told}", flush=True)


if __name__ == "__main__":
    main()
