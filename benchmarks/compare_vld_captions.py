"""Whose captions teach a dual encoder best: a comparison without privacy.

    python -m benchmarks.compare_vld_captions

The public captioner of video-language distillation is adapted to generated clips by
ordinary training in one place. Then students that start alike learn from the captions
of the adapted model, of the public image model, of people, and from captions of other
clips. Retrieval is by people's captions of held-out clips.
"""

import argparse
import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch
from fedemb.stages import Stage
from model_zoo.system import DataFacts
from model_zoo.vld.card import VIDEO_LANGUAGE_DISTILLATION
from model_zoo.vld.tasks import DistillationTask, VideoLanguageTask
from simulations.datasets.clips import PlainClips

SHOWN = (
    *("text_to_video_recall_at_1", "text_to_video_recall_at_10", "cider"),
    *("caption_log_likelihood", "short_answer_accuracy", "before_after_accuracy"),
)


@dataclass(frozen=True, kw_only=True)
class Shuffled(DistillationTask):
    """Captions go to the clip behind theirs."""

    def written(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """The captions that teach, ids `[B, length]`."""
        return super().written(backbone, batch).roll(1, 0)


@dataclass(frozen=True)
class Lessons:
    """Clips of as many users, and how they teach."""

    data: PlainClips
    batch: int
    rate: float

    def teach(
        self, model: nn.Module, task: VideoLanguageTask, stage: Stage, steps: int
    ) -> None:
        own = dict(model.named_parameters())
        head = task.make_head(1)
        chosen = [own[name] for name in FlatLayout.of(model, stage.trainable).names]
        optimizer = torch.optim.Adam([*chosen, *head.parameters()], lr=self.rate)
        for step in range(steps):
            users = np.arange(step * self.batch, (step + 1) * self.batch)
            rows = self.data.fetch(users % self.data.num_users).fields
            examples = Examples(rows, np.array([0, self.batch]))
            batch = task.prepare(examples, np.array([step], np.uint64))
            batch["weight"] = torch.ones(self.batch)
            loss = task.loss(head, task.features(model, batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def show(self, name: str, model: nn.Module, task: VideoLanguageTask) -> None:
        found = task.evaluate(model, self.data.held_out())
        told = ", ".join(f"{key} {found[key]:.3f}" for key in SHOWN)
        print(f"{name}: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visual", type=int, default=400, help="steps of stage 1")
    parser.add_argument("--language", type=int, default=100, help="steps of stage 2")
    parser.add_argument("--student", type=int, default=400, help="steps of a student")
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    chosen = parser.parse_args()
    data = PlainClips(chosen.clips, classes_per_user=1, repeats=1)
    lessons = Lessons(data, chosen.batch, chosen.rate)
    visual, language, dual = VIDEO_LANGUAGE_DISTILLATION.build(
        data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=data.num_classes)
    )
    torch.manual_seed(0)
    model = visual.task.make_backbone()
    public = copy.deepcopy(model)
    lessons.show("public image model", model, visual.task)
    lessons.teach(model, visual.task, visual, chosen.visual)
    lessons.teach(model, language.task, language, chosen.language)
    lessons.show("adapted model", model, language.task)
    model.load_state_dict(dual.inherit(model.state_dict()))
    people = replace(dual.task, captions="original")
    for name, task, teacher in (
        ("captions of the adapted model", dual.task, model),
        ("captions of the image model", dual.task, public),
        ("captions of people", people, model),
        ("captions of other clips", Shuffled(**vars(dual.task)), model),
    ):
        student = copy.deepcopy(model)
        student.captioner.load_state_dict(teacher.captioner.state_dict())
        lessons.teach(student, task, dual, chosen.student)
        lessons.show(name, student, task)


if __name__ == "__main__":
    main()
