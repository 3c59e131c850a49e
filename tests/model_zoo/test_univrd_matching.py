"""Boxes, matching and losses of UniVRD."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model_zoo.univrd.geometry import centred, corners, grid_bias, overlaps
from model_zoo.univrd.heads import BoxHead, ClassPredictor, PredictorMLP
from model_zoo.univrd.losses import box_cost, focal_sigmoid, focal_softmax
from model_zoo.univrd.matching import match
from model_zoo.univrd.objectives import detection_loss, matched, merged_pairs


def cheapest(costs):
    """By trying everything: the least cost of min(n, N) one-to-one pairs."""
    n, columns = costs.shape
    if n > columns:
        return cheapest(costs.T)
    return min(
        sum(costs[i, j] for i, j in enumerate(chosen))
        for chosen in permutations(range(columns), n)
    )


@settings(max_examples=40)
@given(n=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 1000))
def test_hungarian_matched_set_is_one_to_one_minimal_and_of_size_min_n(
    n, columns, seed
):
    costs = np.random.default_rng(seed).normal(size=(n, columns))
    chosen = match(torch.from_numpy(costs), torch.ones(n, dtype=torch.float64))
    assert chosen.sum() == min(n, columns)
    assert chosen.sum(0).max() <= 1
    assert chosen.sum(1).max() <= 1
    assert float((chosen * torch.from_numpy(costs)).sum()) == pytest.approx(
        cheapest(costs)
    )


def test_padding_takes_no_column_from_what_counts():
    costs = torch.tensor([[0.0, 5.0], [-9.0, -9.0], [5.0, 0.0]])
    chosen = match(costs, torch.tensor([1.0, 0.0, 1.0]))
    assert chosen.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_matching_survives_costs_that_are_no_numbers(poison):
    chosen = match(torch.full((2, 3, 4), poison), torch.ones(2, 3))
    assert torch.equal(chosen.sum(-1), torch.ones(2, 3))


def test_matching_is_a_constant_of_the_gradient_under_vmap():
    costs = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))

    def loss(values):
        return (match(values, torch.ones(3)) * values).sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(costs)
    alone = torch.stack([match(one, torch.ones(3)) for one in costs])
    assert torch.equal(gradients, alone)


def test_every_token_has_one_box_that_equals_its_bias_exactly_at_initialisation():
    head = BoxHead(16, (4, 6))
    boxes = head(torch.randn(2, 24, 16))
    assert torch.equal(boxes, grid_bias(4, 6).sigmoid().expand(2, -1, -1))
    cell = torch.arange(24)
    centres = torch.stack([(cell % 6 + 0.5) / 6, (cell // 6 + 0.5) / 4], dim=-1)
    torch.testing.assert_close(boxes[0, :, :2], centres)


def test_shapes_of_the_published_predictors():
    mlp = PredictorMLP((20, 16, 16, 30))
    assert mlp(torch.zeros(8, 20)).shape == (8, 30)
    assert len(list(mlp.parameters())) == 2 * 3
    predictor = ClassPredictor(64, 100)
    logits = predictor(torch.zeros(8, 49, 64), torch.zeros(8, 10, 100))
    assert logits.shape == (8, 49, 10)
    assert len(list(predictor.parameters())) == 6


def test_names_change_the_last_dimension_only_and_permuting_them_permutes_scores():
    predictor = ClassPredictor(8, 6)
    tokens, names = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    logits = predictor(tokens, names)
    assert torch.equal(predictor(tokens, names[:, :3]), logits[..., :3])
    order = torch.randperm(7)
    torch.testing.assert_close(predictor(tokens, names[:, order]), logits[..., order])
    valid = torch.ones(2, 7)
    valid[:, 4] = 0
    padded = predictor(tokens, names, valid)
    assert (padded[..., 4] == -1e6).all()
    assert torch.equal(padded[..., :4], logits[..., :4])


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_focal_loss_with_gamma_0_reduces_to_sigmoid_cross_entropy(shape):
    logits = 5 * torch.randn(shape)
    targets = (torch.rand(shape) < 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(focal_sigmoid(logits, targets, alpha=None, gamma=0), plain)
    assert (focal_sigmoid(logits, targets, alpha=None) <= plain).all()


def test_overlapping_labels_do_not_compete():
    """The gradient of one name's logit does not depend on another's target."""
    logits = torch.randn(4, requires_grad=True)
    for other in (0.0, 1.0):
        targets = torch.tensor([1.0, other, 0.0, 0.0])
        found = torch.autograd.grad(focal_sigmoid(logits, targets).sum(), logits)[0]
        if other == 0.0:
            before = found
    assert found[0] == before[0]
    assert torch.equal(found[2:], before[2:])


def test_focal_softmax_is_the_modulated_cross_entropy():
    logits = torch.randn(3, 5)
    chance = logits.softmax(-1)
    torch.testing.assert_close(
        focal_softmax(logits), -((1 - chance) ** 2) * chance.log()
    )
    torch.testing.assert_close(
        focal_softmax(logits, gamma=0)[:, 2],
        F.cross_entropy(logits, torch.full((3,), 2), reduction="none"),
    )


def test_generalised_overlap_falls_with_distance_where_the_plain_one_is_0():
    one = torch.tensor([0.0, 0.0, 1.0, 1.0])
    near, far = one + 2, one + 5
    assert overlaps(one, near)[0] == overlaps(one, far)[0] == 0
    assert overlaps(one, near)[1] > overlaps(one, far)[1] > -1
    assert overlaps(one, one) == (1, 1)


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_boxes_survive_their_other_form(seed):
    boxes = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(centred(corners(boxes)), boxes)
    cost = box_cost(boxes, boxes)
    assert torch.allclose(cost.diagonal(), -torch.ones(6))
    assert (cost >= cost.diagonal()[:, None] - 1e-6).all()


def test_an_unlabelled_true_object_costs_nothing_if_its_class_is_not_asked_for():
    logits = torch.tensor([[[4.0, 4.0], [-4.0, -4.0]]])  # token 0: surely something
    boxes = torch.rand(1, 2, 4)
    nothing = torch.zeros(1, 1, 2)
    rest = (boxes[:, :1], nothing, torch.zeros(1, 1))
    found = matched(logits, boxes, *rest)
    asked = detection_loss(found, torch.ones(1, 2))
    unasked = detection_loss(found, torch.tensor([[0.0, 0.0]]))
    assert float(asked) > 1
    assert float(unasked) == 0


def test_relations_of_the_same_pair_become_one_with_several_phrases():
    ends = torch.tensor([[[0, 1], [0, 1], [1, 0], [-1, -1]]])
    wanted = torch.eye(4)[None, :, :3] * torch.tensor([1.0, 1, 1, 0])[None, :, None]
    phrases, present = merged_pairs(ends, wanted, torch.tensor([[1.0, 1, 1, 0]]))
    assert present.tolist() == [[1, 0, 1, 0]]
    assert phrases[0, 0].tolist() == [1, 1, 0]
    assert phrases[0, 2].tolist() == [0, 0, 1]
