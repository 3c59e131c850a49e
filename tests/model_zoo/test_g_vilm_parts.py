"""G-ViLM's parts: pasting, grouping, grounding, and their fixtures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.g_vilm.evaluation import told_apart
from model_zoo.g_vilm.grouping import GroupingBlock
from model_zoo.g_vilm.losses import (
    grounding_loss,
    grounding_scores,
    temporal_loss,
    temporal_probabilities,
)
from model_zoo.g_vilm.pasting import Pasted, by_owner, paste, plan_pasting


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.integers(2, 8),
    st.integers(0, 10**6),
)
def test_hosts_are_other_clips_of_the_same_virtual_client(sizes, units, seed):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    seeds = np.arange(len(sizes), dtype=np.uint64) + np.uint64(seed)
    drawn = plan_pasting(offsets, units, seeds)
    group = np.repeat(np.arange(len(sizes)), sizes)
    assert (group[drawn.host] == group).all()
    assert drawn.mask.shape == (offsets[-1], units)
    alone = np.isin(group, np.flatnonzero(np.array(sizes) == 1))
    rows = np.arange(offsets[-1])
    assert (drawn.host[~alone] != rows[~alone]).all()
    assert sorted(drawn.host.tolist()) == rows.tolist()
    inside = drawn.mask.sum(1)
    assert ((inside[~alone] > 0) & (inside[~alone] < units)).all()
    assert (drawn.host[alone] == rows[alone]).all()
    # a group's drawing depends on its own seed and size alone
    last = len(sizes) - 1
    again = plan_pasting(np.array([0, sizes[last]]), units, seeds[last:])
    own = slice(offsets[last], offsets[last + 1])
    assert (again.mask == drawn.mask[own]).all()
    assert (again.host + offsets[last] == drawn.host[own]).all()


def test_pasted_frames_are_the_clip_s_own_and_the_others_the_host_s():
    clips = np.random.default_rng(0).integers(0, 255, (4, 8, 3, 3, 3), dtype=np.uint8)
    drawn = plan_pasting(np.array([0, 4]), 4, np.ones(1, np.uint64))
    blended = paste(clips, drawn, 2)
    for i in range(4):
        frames = np.repeat(drawn.mask[i], 2)
        assert np.array_equal(blended[i][frames], clips[i][frames])
        assert np.array_equal(blended[i][~frames], clips[drawn.host[i]][~frames])
    whole = Pasted(np.arange(4), np.ones((4, 4), bool))
    assert np.array_equal(paste(clips, whole, 2), clips)
    with pytest.raises(UserError, match="shorter tubes"):
        plan_pasting(np.array([0, 4]), 1, np.ones(1, np.uint64))


def test_a_user_s_clips_can_be_kept_apart_within_a_virtual_client():
    owners = np.array([0, 0, 0, 1, 1, 0, 0])  # two virtual clients
    offsets, seeds = by_owner(owners, np.array([0, 5, 7]), np.array([5, 6], np.uint64))
    assert offsets.tolist() == [0, 3, 5, 7]
    assert len(set(seeds.tolist())) == 3
    drawn = plan_pasting(offsets, 4, seeds)
    assert (owners[drawn.host] == owners).all()


def test_segments_that_stand_apart_cost_nothing_and_equal_ones_a_half():
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 0]])
    apart = F.one_hot(mask, 3).float()
    cold = torch.tensor(1e-3)
    torch.testing.assert_close(
        temporal_probabilities(apart, mask, cold)[..., 0], mask.float()
    )
    ones = torch.ones(2)
    assert float(temporal_loss(apart, mask, cold, ones)) == pytest.approx(0, abs=1e-6)
    same = torch.ones(2, 4, 3)
    assert float(temporal_loss(same, mask, cold, ones)) == pytest.approx(0.5)
    uncut = torch.ones(2, 4, dtype=torch.int64)
    assert float(temporal_loss(apart, uncut, cold, ones)) == 0


def test_steps_that_say_nothing_are_told_apart_by_chance_alone():
    steps = torch.randn(500, 4, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 0, 0]]).expand(500, 4)
    assert 0.45 < float(told_apart(steps, mask).float().mean()) < 0.55
    # The true centres, which count the step itself, tell any features apart.
    own = temporal_probabilities(steps, mask, torch.tensor(0.1))[..., 0] > 0.5
    assert float((own == (mask > 0)).float().mean()) > 0.99


def test_a_hand_computed_grounding():
    unit = lambda *v: F.normalize(torch.tensor(v, dtype=torch.float64), dim=-1)  # noqa: E731
    groups = torch.stack([unit([1.0, 0], [0, 1.0], [1.0, 1.0])] * 2)
    groups[1] = unit([1.0, 0], [1.0, 0], [1.0, 0])
    nouns = torch.stack([unit([1.0, 0], [0, 1.0]), unit([1.0, 0], [1.0, 1.0])])
    valid = torch.ones(2, 2)
    half = 2**-0.5
    wanted = torch.tensor([[1.0, 1.0], [0.5, (1 + half) / 2]], dtype=torch.float64)
    torch.testing.assert_close(grounding_scores(groups, nouns, valid), wanted)
    # a group that no noun asks for changes nothing
    more = torch.cat([groups, unit([-1.0, 0]).expand(2, 1, 2)], dim=1)
    torch.testing.assert_close(grounding_scores(more, nouns, valid), wanted)
    # a noun that no group answers lowers the score
    third = torch.cat([nouns, unit([-1.0, -1.0]).expand(2, 1, 2)], dim=1)
    lower = grounding_scores(groups, third, torch.ones(2, 3))
    assert (lower < wanted).all()
    # a noun that is padding does not
    torch.testing.assert_close(
        grounding_scores(groups, third, torch.tensor([[1, 1, 0], [1, 1, 0]])), wanted
    )
    loss = grounding_loss(
        groups, nouns, valid, torch.tensor(1.0), torch.ones(2, dtype=torch.float64)
    )
    ahead = -wanted.log_softmax(1).diagonal()
    back = -wanted.T.log_softmax(1).diagonal()
    torch.testing.assert_close(loss, ((ahead + back) / 2).mean())


def test_captions_without_nouns_give_no_nan_and_no_gradient():
    groups = F.normalize(torch.randn(3, 4, 5), dim=-1).requires_grad_()
    nouns = F.normalize(torch.randn(3, 2, 5), dim=-1)
    for valid in (torch.zeros(3, 2), torch.tensor([[1, 0], [0, 0], [1, 1]])):
        loss = grounding_loss(groups, nouns, valid, torch.tensor(0.05), torch.ones(3))
        (gradient,) = torch.autograd.grad(loss, groups)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
    loss = grounding_loss(
        groups, nouns, torch.zeros(3, 2), torch.tensor(0.05), torch.ones(3)
    )
    assert loss.item() == 0


def test_permuting_captions_permutes_the_scores():
    groups = F.normalize(torch.randn(4, 3, 5), dim=-1)
    nouns = F.normalize(torch.randn(4, 2, 5), dim=-1)
    order = torch.tensor([2, 0, 3, 1])
    base = grounding_scores(groups, nouns, torch.ones(4, 2))
    moved = grounding_scores(groups, nouns[order], torch.ones(4, 2))
    torch.testing.assert_close(moved, base[:, order])


def test_every_token_joins_one_group_and_choices_learn():
    torch.manual_seed(0)
    block = GroupingBlock(8)
    groups, tokens = torch.randn(2, 3, 8), torch.randn(2, 10, 8)
    moved, assigned = block(groups, tokens)
    assert moved.shape == (2, 3, 8)
    assert ((assigned == 0) | (assigned == 1)).all()
    assert (assigned.sum(1) == 1).all()
    moved.square().sum().backward()
    for layer in (block.query, block.key):
        assert layer.weight.grad.abs().sum() > 0


def test_an_empty_group_stays_finite():
    block = GroupingBlock(4)
    groups = torch.zeros(1, 6, 4)
    groups[0, 0] = 5.0  # all tokens join one group, the others stay empty
    moved, assigned = block(groups, torch.randn(1, 3, 4))
    assert (assigned.sum(2) == 0).any()
    moved.sum().backward()
    assert torch.isfinite(moved).all()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())
