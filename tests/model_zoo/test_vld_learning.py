"""What distillation teaches, by ordinary training in one place, without noise."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.system import DataFacts
from model_zoo.vld.evaluation import answers, caption_clips
from model_zoo.vld.instructions import TEMPORAL
from model_zoo.vld.metrics import cider
from simulations.datasets.clips import PlainClips

DATA = PlainClips(100_000, classes_per_user=1, repeats=1)
VISUAL, LANGUAGE, DUAL = registry.get("video_language_distillation").build(
    data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=10)
)
ROWS = 64


def public():
    torch.manual_seed(0)
    return VISUAL.task.make_backbone()


def held_out(count=320):
    whole = DATA.held_out()
    rows = np.arange(count) * (len(whole) // count)
    return Examples(whole.take(rows), np.array([0, count]))


def fit(model, stage, steps, task=None, clips=None, rate=3e-3):
    """Adam on clips of as many users; returns the model."""
    task = task or stage.task
    own = dict(model.named_parameters())
    names = FlatLayout.of(model, stage.trainable).names
    head = task.make_head(1)
    optimizer = torch.optim.Adam([own[name] for name in names], lr=rate)
    for step in range(steps):
        users = np.arange(step * ROWS, (step + 1) * ROWS) % (clips or DATA.num_users)
        rows = DATA.fetch(users).fields
        batch = task.prepare(
            Examples(rows, np.array([0, ROWS])), np.array([step], np.uint64)
        )
        batch["weight"] = torch.ones(ROWS)
        loss = task.loss(head, task.features(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def found(model, metric="text_to_video_recall_at_10"):
    return DUAL.task.evaluate(model, held_out())[metric]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffled(type(DUAL.task)):
    """Captions go to the clip before theirs."""

    def written(self, backbone, batch):
        return super().written(backbone, batch).roll(1, 0)


def test_the_public_model_describes_what_there_is_and_no_motion():
    clips = held_out(32)
    written = caption_clips(
        DUAL.task, public().captioner, clips.fields["clip"].astype(np.uint8)
    )
    told = clips.fields["caption"].tolist()
    assert cider(written, [[text] for text in told]) > 0.3
    assert sum(text.count(" and ") == 1 for text in written) > 24
    assert not any("moves" in text or "rises" in text for text in written)


@pytest.mark.slow
def test_better_teachers_make_better_students():
    image_model = public()
    adapted = fit(copy.deepcopy(image_model), VISUAL, 400)
    adapted = fit(adapted, LANGUAGE, 100)
    assert found(adapted, "cider") > found(image_model, "cider")
    clips = held_out(128).fields
    scores = [
        answers(
            VISUAL.task,
            model.captioner,
            clips["clip"],
            clips["caption"].tolist(),
            TEMPORAL,
            "before_after",
        )["before_after_accuracy"]
        for model in (image_model, adapted)
    ]
    assert scores[1] > scores[0]
    # all students start alike, with the adapted eyes; their captions differ
    start = DUAL.inherit(adapted.state_dict())
    untaught = copy.deepcopy(adapted)
    untaught.load_state_dict(start)
    by_adapted = fit(copy.deepcopy(untaught), DUAL, 300)
    by_image_model = copy.deepcopy(untaught)
    by_image_model.captioner.load_state_dict(image_model.captioner.state_dict())
    by_image_model = fit(by_image_model, DUAL, 300)
    shuffled = Shuffled(**vars(DUAL.task))
    by_shuffled = fit(copy.deepcopy(untaught), DUAL, 300, shuffled)
    assert found(by_adapted) > found(by_image_model)
    assert found(by_adapted) > 2 * found(by_shuffled)
    # more clips never hurt by more than the noise of a score
    few, more = (
        found(fit(copy.deepcopy(untaught), DUAL, 150, clips=n)) for n in (100, 1000)
    )
    assert more > few - 0.05
