"""CV-MIM's losses: the published fixtures, and three objectives in one scalar."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo.cv_mim import bounds
from model_zoo.cv_mim.distances import aligned_mpjpe
from model_zoo.cv_mim.estimators import Discriminator
from model_zoo.cv_mim.heads import MutualInformationHead, Views
from model_zoo.cv_mim.pairs import Pairs
from model_zoo.cv_mim.sizes import ALGORITHMS, Sizes
from model_zoo.cv_mim.task import CrossViewTask
from simulations.datasets.poses import Motions

PARTS = torch.tensor(
    [
        [[1.0, 1], [0, 1]],
        [[1, 0], [1, 1]],
        [[1, 0], [1, 1]],
        [[1, 1], [1, 1]],
    ]
)


def test_w1_fixtures():
    ones = torch.ones(4, 3, 5)
    assert bounds.fenchel_dual_loss(ones, ones, "w1") == 0
    expected = torch.tensor(15.5 / 12 - 5.75 / 4)
    for positive in (None, torch.eye(4)):
        found = bounds.fenchel_dual_loss(PARTS, PARTS, "w1", positive)
        torch.testing.assert_close(found, expected)
    every = bounds.fenchel_dual_loss(PARTS, PARTS, "w1", torch.ones(4, 4))
    torch.testing.assert_close(every, torch.tensor(-(15.5 + 5.75) / 16))


def test_info_nce_fixture():
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = -torch.tensor([1.0, 0.0, -1e12]).log_softmax(0)[0]
    torch.testing.assert_close(bounds.info_nce_loss(rows, rows), expected)
    assert expected.item() == pytest.approx(0.31326, abs=1e-5)


def all_ones_layer():
    net = Discriminator(8, ())
    for values in net.parameters():
        torch.nn.init.ones_(values)
    return net


def test_gradient_penalty_and_discriminator_fixtures():
    net = all_ones_layer()
    real = net.with_slopes(torch.ones(4, 8))
    fake = net.with_slopes(torch.zeros(4, 8))
    assert bounds.gradient_penalty(real[1], torch.ones(4)) == 8
    assert real[0].tolist() == [9.0] * 4
    one = torch.tensor(1.0)
    expected = -0.5 * (-F.softplus(-9 * one) - (F.softplus(-one) + 1)) + 8
    torch.testing.assert_close(bounds.discriminator_loss(real, fake), expected)


def test_generator_fixtures():
    ones = torch.ones(4)
    softplus = F.softplus(torch.tensor(-1.0))
    torch.testing.assert_close(
        bounds.generator_loss(ones, saturating=True), softplus + 1
    )
    torch.testing.assert_close(bounds.generator_loss(ones), softplus)


@pytest.mark.parametrize("measure", sorted(bounds.POSITIVE_PART))
def test_divergences_reward_positive_scores_on_positive_pairs(measure):
    shape = torch.zeros(2, 3, 4)
    assert bounds.POSITIVE_PART[measure](shape).shape == shape.shape
    aligned = bounds.fenchel_dual_loss(torch.eye(4), torch.eye(4), measure)
    crossed = bounds.fenchel_dual_loss(torch.eye(4), torch.eye(4).flip(0), measure)
    assert aligned < crossed


def test_jsd_loss_is_0_for_a_silent_critic_and_at_least_minus_2_log_2():
    zero = torch.zeros(6, 3)
    torch.testing.assert_close(bounds.fenchel_dual_loss(zero, zero), torch.tensor(0.0))
    perfect = 100 * (2 * torch.eye(6) - 1)
    found = bounds.fenchel_dual_loss(perfect, torch.eye(6))
    torch.testing.assert_close(found, torch.tensor(-2 * math.log(2)))


def test_positive_matrix_fixture():
    anchors, matches = (
        torch.tensor([[1.0, 2], [3, 4]]),
        torch.tensor([[6.0, 5], [4, 3], [2, 1]]),
    )
    squared = (anchors[:, None] - matches[None]) ** 2
    found = bounds.positive_pairs(squared, 5.0)
    expected = [[[0, 0], [0, 1], [1, 1]], [[0, 1], [1, 1], [1, 0]]]
    assert found.tolist() == expected


def test_aligned_positive_matrix_is_symmetric_with_diagonal_1():
    torch.manual_seed(0)
    poses = torch.rand(16, 13, 3)
    found = bounds.positive_pairs(aligned_mpjpe(poses[:, None], poses[None]), 0.1)
    assert torch.equal(found, found.T)
    assert found.diagonal().eq(1).all()


@pytest.mark.statistical
def test_club_is_0_for_independent_gaussians_and_above_0_for_copies():
    torch.manual_seed(0)
    x, y = torch.randn(2, 2_000, 4)
    zero = torch.zeros_like(x)
    # for independent variables the best q ignores x: its mean is that of y
    assert bounds.club(zero, zero, y) < 1e-6
    assert bounds.club(0.1 * x, zero, y) < 0.02
    assert bounds.club(x, zero, x) > 0.5
    assert bounds.club(-x, zero, x) == 0  # clipped at 0


def test_club_equals_its_definition():
    torch.manual_seed(0)
    mean, logvar, y = torch.randn(3, 7, 4, dtype=torch.float64)
    likely = bounds.log_likelihood(mean[:, None], logvar[:, None], y[None])
    own = torch.eye(7, dtype=torch.bool)
    expected = (likely[own].mean() - likely[~own].mean()).clamp(min=0)
    torch.testing.assert_close(bounds.club(mean, logvar, y), expected)


def views(sizes, weight, seed=0, frames=6):
    torch.manual_seed(seed)
    shape = (frames, 2)
    return Views(
        poses=torch.randn(*shape, 26),
        hidden=torch.randn(*shape, sizes.hidden),
        pose=torch.randn(*shape, sizes.pose_dim, requires_grad=True),
        view=torch.randn(*shape, sizes.view_codes, requires_grad=True),
        words=torch.randint(2**40, shape),
        weight=weight,
        prior=torch.rand(*shape, sizes.code_dim),
    )


def small(algorithm="disentangle", **others):
    return Sizes(algorithm=algorithm, hidden=8, pose_dim=4, view_dim=4, **others)


def test_every_network_is_moved_by_its_own_objective_alone():
    sizes = small()
    torch.manual_seed(1)
    head = MutualInformationHead(sizes)
    seen = views(sizes, torch.ones(6))
    terms = head.terms(seen)
    groups = {
        "encoder": [seen.pose, seen.view],
        "subencoder": list(head.subencoder.parameters()),
        "estimators": [*head.intra.parameters(), *head.inter.parameters()],
        "discriminator": list(head.discriminator.parameters()),
    }
    movers = {
        "encoder": {"representation", "cross_view", "prior", "disentangle"},
        "subencoder": {"representation"},
        "estimators": {"estimators"},
        "discriminator": {"discriminator"},
    }
    for group, parameters in groups.items():
        for name, term in terms.items():
            found = torch.autograd.grad(
                term, parameters, retain_graph=True, allow_unused=True
            )
            moved = any(g is not None and bool(g.abs().max() > 0) for g in found)
            assert moved == (name in movers[group]), (group, name)


def test_estimators_learn_to_predict_and_the_discriminator_to_tell_apart():
    sizes = small(dropout=0.0)
    torch.manual_seed(1)
    head = MutualInformationHead(sizes)
    seen = views(sizes, torch.ones(6))
    before = {k: v.item() for k, v in head.terms(seen).items()}
    optimizer = torch.optim.SGD(head.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        head(seen).backward()
        optimizer.step()
    after = {k: v.item() for k, v in head.terms(seen).items()}
    for name in ("representation", "estimators", "discriminator"):
        assert after[name] < before[name], name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_of_weight_0_change_neither_loss_nor_gradients(algorithm):
    from model_zoo.cv_mim.heads import ReconstructionHead

    sizes = small(algorithm)
    kind = ReconstructionHead if algorithm == "autoencoder" else MutualInformationHead
    torch.manual_seed(1)
    head = kind(sizes)
    padded = views(sizes, torch.tensor([1.0, 1, 1, 1, 0, 0]))
    cut = Views(
        **{
            name: value[:4] if isinstance(value, torch.Tensor) else value
            for name, value in vars(padded).items()
        }
    )
    losses = [head(padded), head(cut)]
    torch.testing.assert_close(*losses)
    first, second = (
        torch.autograd.grad(x, padded.pose, retain_graph=True)[0] for x in losses
    )
    torch.testing.assert_close(first, second)
    assert first[4:].abs().max() == 0


def test_a_client_without_rows_has_a_finite_loss():
    for algorithm in ALGORITHMS[:3]:
        sizes = small(algorithm)
        loss = MutualInformationHead(sizes)(views(sizes, torch.zeros(6)))
        assert torch.isfinite(loss)


def test_weights_of_0_leave_terms_out():
    sizes = small(prior_weight=0.0, disentangle_weight=0.0)
    found = MutualInformationHead(sizes).terms(views(sizes, torch.ones(6)))
    assert set(found) == {"representation", "cross_view"}
    assert set(
        MutualInformationHead(small("infomax")).terms(
            views(small("infomax"), torch.ones(6))
        )
    ) == {"representation", "cross_view"}


def test_the_rate_of_the_critics_is_a_factor_of_their_own_objectives():
    found = []
    for rate in (1.0, 50.0):
        torch.manual_seed(1)
        sizes = small(critics_rate=rate)
        terms = MutualInformationHead(sizes).terms(views(sizes, torch.ones(6)))
        found.append({name: value.item() for name, value in terms.items()})
    usual, fast = found
    for name in usual:
        factor = 50 if name in ("estimators", "discriminator") else 1
        assert fast[name] == pytest.approx(factor * usual[name], rel=1e-5), name
    with pytest.raises(UserError, match="critics_rate=0 must be positive"):
        small(critics_rate=0)


def test_local_steps_at_the_documented_rates_train_every_local_network():
    """At one rate for all, the sub-encoder diverges or the estimators stand still."""
    task = CrossViewTask(
        sizes=Sizes(hidden=64, pose_dim=16, view_dim=16, dropout=0.0, critics_rate=1e3),
        pairs=Pairs(frames=2, camera_distance=10.0),
    )
    person = Motions(8).fetch(np.arange(1))
    rows = Examples(person.fields, np.array([0, len(person)]))
    batch = task.prepare(rows, np.zeros(1, np.uint64))
    batch["weight"] = torch.ones(len(rows))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(1)
    head.load_state_dict(task.fresh_head(head, 1, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        features = task.features(backbone, batch)
    learn = torch.optim.SGD(head.parameters(), 3e-4)
    terms = []
    for _ in range(9):
        found = task.terms(head, features, batch)
        terms.append({name: value.item() for name, value in found.items()})
        learn.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        learn.step()
    for name in ("representation", "discriminator"):
        assert terms[-1][name] < 0.8 * terms[0][name]
    assert terms[-1]["estimators"] < 0.2 * terms[0]["estimators"]
