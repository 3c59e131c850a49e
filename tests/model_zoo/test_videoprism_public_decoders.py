"""Decoders that come with `videoprism:tiny`: whom they fit, and what they know.

They were trained on clips of another seed, against first stages that had been trained.
"""

import numpy as np
import pytest
import torch

from model_zoo.changes import with_changes
from model_zoo.system import DataFacts
from model_zoo.videoprism.card import VIDEOPRISM
from model_zoo.videoprism.network import begin_distillation
from model_zoo.videoprism.public import taught_decoders
from simulations.datasets.clips import PlainClips
from simulations.public_heads import fitting_head

FACTS = DataFacts(example_shape=(4, 32, 32, 3), num_classes=10)


def stages(facts=FACTS, **changes):
    return with_changes(VIDEOPRISM, changes).build(data=facts)


def test_they_fit_the_second_stage_and_are_small():
    first, second, last = stages()
    assert (first.public_head, last.public_head) == (None, None)
    assert second.public_head is taught_decoders
    head = fitting_head(second.task, taught_decoders(), "the shipped decoders")
    assert all(bool(torch.isfinite(value).all()) for value in head.values())
    assert sum(value.numel() for value in head.values()) < 20_000


@pytest.mark.parametrize(
    "other",
    [
        {"taught": False},
        {"decoders": {"width": 8}},
        {"facts": DataFacts(example_shape=(2, 32, 32, 3), num_classes=10)},
    ],
)
def test_other_sizes_start_from_a_seed_instead(other):
    assert [stage.public_head for stage in stages(**other)] == [None] * 3


def test_first_stages_begin_where_those_did_that_taught_them():
    """Whatever the seed of the run; what others see would mean nothing to them."""
    first, second, _ = stages()
    for task in (first.task, second.task):
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(task.make_backbone().state_dict())
        assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_they_tell_the_teacher_s_tokens_better_than_drawn_ones():
    first, second, _ = stages()
    task = second.task
    student = task.make_backbone()
    student.load_state_dict(begin_distillation(first.task.make_backbone().state_dict()))
    data = PlainClips(50, 0, 32, classes_per_user=2, repeats=2)
    examples = data.fetch(np.arange(4)).regroup([4])
    batch = task.prepare(examples, np.array([7], np.uint64))
    batch["weight"] = torch.ones(len(examples))
    head = task.make_head(1)
    drawn = task.fresh_head(head, 1, torch.Generator().manual_seed(0))
    losses = []
    for values in (taught_decoders(), drawn):
        head.load_state_dict(dict(values))
        with torch.no_grad():
            features = task.features(student, batch)
            losses.append(float(task.loss(head, features, batch)))
    assert losses[0] < 0.75 * losses[1]
