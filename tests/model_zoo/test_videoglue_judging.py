"""The protocol as a whole: what it leaves alone, what it trains, what it can tell."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo import registry
from model_zoo.videoglue.adapt import Recipe, answers_over_views, judge
from model_zoo.videoglue.adapters import Adapter
from model_zoo.videoglue.problems import Problem, spatial_views
from model_zoo.videoglue.questions import make_head
from model_zoo.videoglue.score import Adaptation, Group
from model_zoo.videoglue.table import judge_all
from model_zoo.videoglue.vit3d import ViT3D, ViTShape
from simulations.datasets.videoglue.suite import generated_suite
from simulations.judging.contestants import Contestant, encoder_of
from simulations.judging.pictures import as_picture
from simulations.judging.tables import Judgement, as_csv, as_markdown

SHAPE = ViTShape(clip=(4, 8, 8), tube=(2, 4, 4), width=16, layers=2, mlp=32)
QUICK = Recipe(steps=40, batch_size=16, learning_rate=1e-2, layers=2, bottleneck=4)


def examples(**fields):
    count = len(next(iter(fields.values())))
    return Examples(fields, np.array([0, count], np.int64))


def by_colour(count, seed):
    """Clips whose class is their colour."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    clips = draw.integers(0, 40, (count, 4, 8, 8, 3)).astype(np.uint8)
    clips[np.arange(count), ..., labels] += 200
    return examples(clip=clips, label=labels)


def by_order(count, seed):
    """A square that moves right or left: the same frames in another order."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    clips = draw.integers(0, 40, (count, 4, 8, 8, 3)).astype(np.uint8)
    for row, label in enumerate(labels):
        for frame in range(4):
            left = 2 * (frame if label else 3 - frame)
            clips[row, frame, 2:6, left : left + 2] += 200
    return examples(clip=clips, label=labels)


def shuffled(data, seed=0):
    draw = np.random.default_rng(seed)
    clips = data.fields["clip"].copy()
    for clip in clips:
        draw.shuffle(clip)
    return examples(clip=clips, label=data.fields["label"])


def problem(made, group=Group.APPEARANCE, change=lambda data: data):
    return Problem(
        name="toy",
        group=group,
        classes=2,
        train=change(made(96, 0)),
        test=change(made(96, 1)),
    )


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViT3D(SHAPE)


@pytest.mark.parametrize("adaptation", Adaptation)
def test_the_encoder_that_was_given_stays_bit_for_bit(encoder, adaptation):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = judge(encoder, problem(by_colour), adaptation, QUICK)
    assert found.score > 80
    after = encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_is_trained_is_what_is_counted(encoder):
    found = {a: judge(encoder, problem(by_colour), a, QUICK).costs for a in Adaptation}
    size = sum(p.numel() for p in encoder.parameters())
    adapters = 2 * sum(p.numel() for p in Adapter(16, 4).parameters())
    assert found[Adaptation.FROZEN].aggregated == 0
    assert found[Adaptation.MLAP].aggregated == 0
    assert found[Adaptation.ADAPTER].aggregated == adapters
    assert found[Adaptation.END_TO_END].aggregated == size
    flops = {a: costs.trainable_flops for a, costs in found.items()}
    assert flops[Adaptation.FROZEN] < flops[Adaptation.MLAP]
    assert flops[Adaptation.FROZEN] < flops[Adaptation.ADAPTER]
    assert max(flops, key=flops.__getitem__) is Adaptation.END_TO_END
    whole = {a: costs.inference_flops for a, costs in found.items()}
    assert whole[Adaptation.FROZEN] == whole[Adaptation.END_TO_END]


def test_shuffled_frames_hide_motion_and_not_appearance(encoder):
    score = {
        (made.__name__, hidden): judge(
            encoder,
            problem(made, change=shuffled if hidden else lambda data: data),
            Adaptation.END_TO_END,
            QUICK,
        ).score
        for made in (by_colour, by_order)
        for hidden in (False, True)
    }
    assert score["by_colour", False] > 90
    assert score["by_colour", True] > 90
    assert score["by_order", False] > 90
    assert score["by_order", True] < 70


def test_views_are_crops_along_the_longer_side():
    clips = torch.arange(2 * 3 * 4 * 8 * 12.0).view(2, 3, 4, 8, 12)
    views = spatial_views(clips, 3)
    assert views.shape == (3, 2, 3, 4, 8, 8)
    assert torch.equal(views[0], clips[..., :8])
    assert torch.equal(views[2], clips[..., 4:])
    assert torch.equal(spatial_views(clips, 1)[0], clips[..., 2:10])


def with_events(data):
    labels = data.fields["label"]
    return examples(**data.fields, events=np.eye(2, dtype=np.int64)[labels])


def test_a_problem_without_any_truth_has_no_result(encoder):
    asked = problem(by_colour, Group.MULTI_LABEL, with_events)
    asked.test.fields["events"][:] = 0
    known = dataclasses.replace(problem(by_colour), name="known")
    quick = dataclasses.replace(QUICK, steps=1)
    table = judge_all(encoder, [asked, known], quick, [Adaptation.FROZEN])
    content = table.to_dict()
    json.dumps(content, allow_nan=False)
    scores = content["results"]["frozen"]
    assert scores["toy"]["score"] is None
    assert content["averages"]["frozen"] == scores["known"]["score"]
    one = Contestant(name="one", encoder=encoder, weights="random", epsilon=None)
    judged = [Judgement(contestant=one, table=table)]
    assert "not defined" in as_markdown(judged, "toys", {}, "a.svg")
    assert ",frozen,," in as_csv(judged)
    assert "<svg" in as_picture(judged)


@pytest.mark.parametrize("group", [Group.APPEARANCE, Group.MULTI_LABEL])
def test_multi_view_average_is_the_mean_of_per_view_scores(encoder, group):
    asked = problem(by_colour, group, with_events)
    head = make_head(asked, [16], Adaptation.FROZEN, heads=4, windows=1, longest=1)
    wide = torch.rand(5, 3, 4, 8, 12)

    def answers(clips, views):
        read = partial(encoder.grids, last=1)
        return answers_over_views(asked, read, head.eval(), clips, views)

    each = [answers(crop, 1) for crop in spatial_views(wide, 3)]
    assert not torch.allclose(each[0], each[2])
    torch.testing.assert_close(answers(wide, 3), torch.stack(each).mean(0))


def test_the_generated_suite_asks_every_kind_and_is_scored():
    torch.manual_seed(0)
    shape = ViTShape(
        clip=(8, 16, 16), tube=(4, 8, 8), width=8, layers=2, heads=2, mlp=16
    )
    suite = generated_suite((8, 16, 16), train=24, test=24)
    assert {p.group for p in suite} == set(Group)
    quick = Recipe(steps=2, batch_size=8, heads=2, layers=2, bottleneck=2)
    heard = []
    table = judge_all(
        ViT3D(shape), suite, quick, told=lambda *row: heard.append(row[:2])
    )
    assert len(heard) == 18  # encoders are not tuned for temporal localisation
    content = table.to_dict()
    assert 0 <= content["videoglue_score_v1"] <= 100
    assert 0 <= content["videoglue_score_v3"] <= 100
    for row in content["results"].values():
        assert all(cell["trainable_flops"] > 0 for cell in row.values())
    with pytest.raises(UserError, match="not tuned"):
        judge(ViT3D(shape), suite[3], Adaptation.ADAPTER, quick)
    with pytest.raises(UserError, match="classification problem"):
        judge_all(ViT3D(shape), suite[3:], quick)


def test_the_suite_is_the_same_every_time_and_parts_have_other_users():
    first, second = (generated_suite((8, 16, 16), train=16, test=16) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        for name, values in one.train.fields.items():
            assert np.array_equal(values, other.train.fields[name])
        assert not np.array_equal(one.train.fields["clip"], one.test.fields["clip"])


def test_a_problem_needs_its_fields():
    with pytest.raises(UserError, match="label"):
        problem(lambda count, seed: examples(clip=np.zeros((count, 4, 8, 8, 3))))


def test_only_video_encoders_can_be_judged(encoder):
    class Dual(nn.Module):
        def __init__(self):
            super().__init__()
            self.video = encoder

    assert encoder_of(encoder) is encoder
    assert encoder_of(Dual()) is encoder
    with pytest.raises(UserError, match="no video encoder"):
        encoder_of(nn.Linear(1, 1))


def test_adapters_alone_are_aggregated():
    from fedemb.parameters import FlatLayout

    system = registry.get("videoglue:tiny-adapter")
    facts = system.configuration().data
    (stage,) = system.build(data=facts)
    layout = FlatLayout.of(stage.task.make_backbone(), stage.trainable)
    assert layout.size == 2 * sum(p.numel() for p in Adapter(16, 8).parameters())
