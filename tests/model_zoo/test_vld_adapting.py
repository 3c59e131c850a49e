"""Adapting the image model: what its two lessons teach it to answer."""

import copy
import math

import numpy as np
import pytest
import torch

from benchmarks.compare_vld_captions import Lessons, gallery, stages_for
from model_zoo.vld.evaluation import answers
from model_zoo.vld.instructions import TEMPORAL
from simulations.datasets.clips import PlainClips

DATA = PlainClips(100_000, classes_per_user=1, repeats=1)
VISUAL, LANGUAGE, _ = stages_for(DATA)


def before_after(model, examples):
    captions = examples.fields["caption"].astype(str).tolist()
    clips, task = examples.fields["clip"], LANGUAGE.task
    found = answers(task, model.captioner, clips, captions, TEMPORAL, "before_after")
    return found["before_after_accuracy"]


def test_answers_are_not_defined_where_no_five_of_them_differ():
    clips = PlainClips(4).held_out().only(np.arange(3))
    found = before_after(VISUAL.task.make_backbone(), clips)
    assert math.isnan(found)


@pytest.mark.slow
def test_before_and_after_are_answered_better_than_by_the_image_model():
    """Accuracy on before/after questions > image model; five answers to each."""
    torch.manual_seed(0)
    image = VISUAL.task.make_backbone()
    adapted = copy.deepcopy(image)
    lessons, held_out = Lessons(), gallery(DATA)
    lessons.adapt(adapted, VISUAL, DATA, 300)
    lessons.adapt(adapted, LANGUAGE, DATA, 200)
    assert before_after(image, held_out) < 0.25
    assert before_after(adapted, held_out) > before_after(image, held_out) + 0.05
