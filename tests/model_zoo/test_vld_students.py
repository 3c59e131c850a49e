"""Whose captions teach a student, and how many clips it takes."""

import copy

import numpy as np
import pytest
import torch

from benchmarks.compare_vld_captions import (
    Lessons,
    gallery,
    pseudo_captions,
    retrieval,
    stages_for,
)
from model_zoo.video.encoder import clip_pixels
from model_zoo.vld.network import student_sees_as_teacher
from simulations.datasets.clips import PlainClips

pytestmark = pytest.mark.slow

DATA = PlainClips(100_000, classes_per_user=1, repeats=1)
VISUAL, LANGUAGE, DUAL = stages_for(DATA)
CLIPS, SAMPLES = 1000, 3
FIRST, TENTH = "text_to_video_recall_at_1", "text_to_video_recall_at_10"


@pytest.fixture(scope="module")
def captioners():
    """The image model, and the same adapted to clips."""
    torch.manual_seed(0)
    image = VISUAL.task.make_backbone()
    adapted = copy.deepcopy(image)
    lessons = Lessons(rate=1e-3)
    lessons.adapt(adapted, VISUAL, DATA, 300)
    lessons.adapt(adapted, LANGUAGE, DATA, 100)
    return image, adapted


@pytest.fixture(scope="module")
def school(captioners):
    """Teaches students that start alike, and judges them by people's captions.

    The clips are those of users that adaptation has not seen.
    """
    start = copy.deepcopy(captioners[1])
    start.load_state_dict(student_sees_as_teacher(start.state_dict()))
    unlabelled = DATA.fetch(np.arange(DATA.num_users - CLIPS, DATA.num_users))
    clips, held_out = clip_pixels(unlabelled.fields["clip"]), gallery(DATA)

    def written(captioner):
        return pseudo_captions(captioner, DUAL.task, unlabelled, SAMPLES)

    def taught(ids):
        student = copy.deepcopy(start)
        Lessons().distil(student, DUAL, clips[: len(ids)], ids, 200)
        return retrieval(student, DUAL.task, held_out)

    return written, taught


def test_a_better_teacher_makes_a_better_student(captioners, school):
    """Adapted captions beat the image model's and shuffled ones, by human captions."""
    written, taught = school
    image, adapted = (written(one) for one in captioners)
    best = taught(adapted)[TENTH]
    assert best > taught(image)[TENTH]
    assert best > 2 * taught(adapted.roll(1, 0))[TENTH]


def test_more_captioned_clips_teach_no_less(captioners, school):
    """R@1 with 100/300/1000 captioned clips is non-decreasing within noise."""
    written, taught = school
    ids = written(captioners[1])
    found = [taught(ids[:size])[FIRST] for size in (100, 300, 1000)]
    noise = 2 / 256  # two of the 256 captions asked for
    assert all(b >= a - noise for a, b in zip(found, found[1:], strict=False))
    assert found[-1] > found[0]
