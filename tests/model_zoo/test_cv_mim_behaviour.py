"""What CV-MIM promises of its codes, in the words of its specification.

One pool of performers trains the encoder and its local networks jointly, as published:
one step for all three objectives. Everything is judged on other performers.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.heads import unit_rows
from model_zoo.cv_mim import bounds
from model_zoo.cv_mim.estimators import LikelihoodEstimator, frozen
from model_zoo.cv_mim.evaluation import (
    camera_accuracy,
    seen_by_all,
    single_shot,
    variance_told,
)
from model_zoo.cv_mim.pairs import Pairs
from model_zoo.cv_mim.recognition import SingleShotSplit, shape_clips
from model_zoo.cv_mim.sizes import Sizes
from model_zoo.cv_mim.task import CrossViewTask
from simulations.datasets.poses import Motions

STEPS, ROWS = 400, 96
SIZES = Sizes(hidden=64, pose_dim=16, view_dim=16, dropout=0.0)
POOL = Motions(10_000)


@lru_cache
def trained(sizes=SIZES, steps=STEPS, ahead=0):
    """An encoder after joint training, its head, and every step's cross-view bound.

    With `ahead` the estimators take that many steps of their own before every joint
    one, as private local fine-tuning of heads does.
    """
    task = CrossViewTask(sizes=sizes, pairs=Pairs(camera_distance=10.0))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(1)
    head.load_state_dict(task.fresh_head(head, 1, torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 3e-3)
    estimators = [*head.intra.parameters(), *head.inter.parameters()]
    own = torch.optim.Adam(estimators, 1e-2)
    pool, draw = POOL.fetch(np.arange(500)), np.random.default_rng(0)
    information = []
    for step in range(steps):
        rows = draw.integers(0, len(pool), ROWS)
        examples = Examples(pool.take(rows), np.array([0, ROWS]))
        batch = task.prepare(examples, np.array([step], np.uint64))
        batch["weight"] = torch.ones(ROWS)
        features = task.features(backbone, batch)
        pose = features["codes"][:, 0, :, : sizes.pose_dim]
        loss = bounds.fenchel_dual_loss(pose[:, 0], pose[:, 1])
        information.append(-loss.item())
        still = {name: values.detach() for name, values in features.items()}
        for _ in range(ahead):
            own.zero_grad()
            task.terms(head, still, batch)["estimators"].backward()
            own.step()
        optimizer.zero_grad()
        task.loss(head, features, batch).backward()
        optimizer.step()
    return backbone.eval(), head, information


@lru_cache
def others():
    """Motions of performers that nobody trained on, seen by eight cameras."""
    examples = POOL.fetch(np.arange(5_000, 5_040))
    return seen_by_all(examples), examples.fields["label"]


@lru_cache
def codes(sizes=SIZES, steps=STEPS, ahead=0):
    clips, _ = others()
    backbone = trained(sizes, steps, ahead)[0]
    with torch.no_grad():
        return backbone(torch.from_numpy(clips))


def pose_of(found):
    return unit_rows(found[..., : SIZES.pose_dim])


def view_of(found):
    return found[..., SIZES.pose_dim :]


def percentiles(found):
    """For every pose, the share of random pairs less alike than its two views."""
    pose = pose_of(found)[:, :, 8]
    similarity = pose[:, 0] @ pose[:, 2].T
    off = ~torch.eye(len(pose), dtype=torch.bool)
    random_pairs = similarity[off].sort().values
    rank = torch.searchsorted(random_pairs, similarity.diagonal().contiguous())
    return rank / len(random_pairs)


@pytest.mark.statistical
def test_pose_code_of_two_views_is_closer_than_95_percent_of_random_pairs():
    assert percentiles(codes()).median() > 0.95
    assert percentiles(codes(steps=0)).median() < 0.8


@pytest.mark.statistical
def test_view_code_predicts_azimuth_and_the_pose_code_does_so_less_and_less():
    pose, view = codes()[..., :16], view_of(codes())
    before = codes(steps=0)[..., :16]
    assert camera_accuracy(view) > camera_accuracy(pose) + 0.1
    assert camera_accuracy(pose) < camera_accuracy(before) - 0.1


@pytest.mark.statistical
def test_the_information_bound_between_views_rises_from_below_a_tenth():
    information = trained()[2]
    assert max(information[:3]) < 0.1
    assert np.mean(information[-20:]) > 0.3


@pytest.mark.statistical
def test_swapping_pose_codes_between_people_leaves_view_code_likelihood_unchanged():
    _, head, _ = trained()
    found = codes()[:, 0, 8]  # one camera, one frame
    pose, view = found[:, :16], view_of(found)
    likely = []
    with torch.no_grad():
        for code in (pose, pose.roll(17, 0)):
            mean, logvar = head.intra(code).chunk(2, dim=-1)
            likely.append(float(bounds.log_likelihood(mean, logvar, view).mean()))
    assert abs(likely[0] - likely[1]) < 0.15  # nats for each of the 16 numbers


@pytest.mark.statistical
def test_removing_the_cross_view_term_collapses_cross_view_retrieval():
    without = percentiles(codes(replace(SIZES, view_weight=0.0)))
    assert without.mean() < percentiles(codes()).mean() - 0.15


def test_a_code_that_does_not_vary_has_no_variance_to_tell():
    code = torch.randn(8, 2, 3)
    assert np.isnan(variance_told(code, torch.ones(8, 2, 1)))
    assert variance_told(code, code) == pytest.approx(1)
    assert variance_told(code.flip(1), code) < 0.5


@pytest.mark.statistical
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_bound_makes_codes_forget_each_other_and_removing_it_does_not(weight):
    torch.manual_seed(0)
    pose = torch.randn(400, 4)
    start = pose @ torch.randn(4, 4) / 2 + 0.3 * torch.randn(400, 4)
    view = start.clone().requires_grad_()
    estimator = LikelihoodEstimator(4, 4)
    learn = torch.optim.Adam(estimator.parameters(), 1e-2)
    forget = torch.optim.Adam([view], 2e-2)
    for _ in range(150):
        for _ in range(4):
            mean, logvar = estimator(pose).chunk(2, dim=-1)
            learn.zero_grad()
            (-bounds.log_likelihood(mean, logvar, view.detach()).mean()).backward()
            learn.step()
        mean, logvar = frozen(estimator, pose).chunk(2, dim=-1)
        kept = ((view - start) ** 2).mean()
        forget.zero_grad()
        (weight * bounds.club(mean, logvar, view) + 0.1 * kept).backward()
        forget.step()
    before = variance_told(pose[:, None], start[:, None])
    after = variance_told(pose[:, None], view.detach()[:, None])
    assert before > 0.6
    assert after < before / 2 if weight else after == pytest.approx(before, abs=0.01)


@pytest.mark.slow
@pytest.mark.statistical
def test_removing_the_bounds_raises_what_pose_and_view_code_share():
    shared = []
    for weight, ahead in ((1.0, 4), (0.0, 0)):
        found = codes(replace(SIZES, disentangle_weight=weight), ahead=ahead)[:, :, 8]
        shared.append(variance_told(found[..., :16], view_of(found)))
    assert shared[0] < shared[1] - 0.05


@pytest.mark.statistical
def test_single_shot_accuracy_of_pose_codes_beats_raw_keypoints_by_10_points():
    clips, labels = others()
    raw = torch.from_numpy(clips).flatten(-2)
    with_codes = single_shot(pose_of(codes()), labels)["single_shot_accuracy"]
    assert with_codes > single_shot(raw, labels)["single_shot_accuracy"] + 0.1


def test_single_shot_split_has_one_camera_in_training_and_all_in_test():
    labels = np.repeat([3, 5, 9], 6)
    split = SingleShotSplit.of(labels, cameras=8)
    assert split.train_camera == 0
    assert split.cameras == 8
    assert not set(split.train) & set(split.test)
    assert len(split.train) + len(split.test) == 18
    for part in (split.train, split.test):
        assert np.bincount(labels[part])[[3, 5, 9]].tolist() == [3, 3, 3]


def test_frames_are_downsampled_and_padded_by_the_stated_factors():
    clips = np.arange(1, 11, dtype=float)[None, :, None] * np.ones((1, 1, 2))
    penn = shape_clips(clips, 2, 663)
    assert penn.shape == (1, 663, 2)
    assert penn[0, :6, 0].tolist() == [1, 3, 5, 7, 9, 0]
    ntu = shape_clips(clips, 1, 300)
    assert ntu.shape == (1, 300, 2)
    assert ntu[0, :11, 0].tolist() == [*range(1, 11), 0]
    assert shape_clips(clips, 1, 4).shape == (1, 4, 2)
