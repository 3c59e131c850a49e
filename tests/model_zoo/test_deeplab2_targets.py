"""Targets, losses and post-processing, in the words of the specification."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from model_zoo.deeplab2.augment import AugmentSpec, augment
from model_zoo.deeplab2.categories import Categories
from model_zoo.deeplab2.evaluation import (
    predict_one,
    score_predictions,
    true_classes,
)
from model_zoo.deeplab2.losses import (
    LossSpec,
    center_loss,
    mean_of_nonzero,
    offset_loss,
    panoptic_losses,
    semantic_loss,
    total,
)
from model_zoo.deeplab2.postprocess import PostSpec, find_centers, group_pixels, merge
from model_zoo.deeplab2.targets import TargetSpec, make_targets
from simulations.datasets.scenes import Scenes

SCENE = Categories(names=("sky", "sea", "ball", "ring"), things=("ball", "ring"))


def a_map(side: int = 64) -> np.ndarray:
    """Sky over sea, a ball of 9 x 7 pixels, a ring of 5 x 5, a crowd of balls, void."""
    out = np.full((side, side), 256, np.int32)
    out[side // 2 :] = 512
    out[10:19, 12:19] = 3 * 256 + 1
    out[40:45, 30:35] = 4 * 256 + 1
    out[50:60, 2:12] = 3 * 256
    out[0, 0] = 0
    return out


def test_the_heat_map_is_1_at_the_rounded_centroid_and_exp_minus_half_at_sigma():
    made = make_targets(a_map()[None], SCENE, TargetSpec(sigma=8.0))
    heat = made["center"][0]
    assert heat[14, 15] == 1
    assert heat[42, 32] == 1
    assert (heat == 1).sum() == 2
    assert heat[14, 15 - 8] == pytest.approx(np.exp(-0.5))
    assert heat[14 - 8, 15] == pytest.approx(np.exp(-0.5))
    assert heat[42 + 8, 32] == pytest.approx(np.exp(-0.5))


def test_a_patch_is_6_sigma_plus_3_pixels_wide():
    made = make_targets(a_map()[None], SCENE, TargetSpec(sigma=2.0))
    row = made["center"][0, 42]
    assert (row > 0).sum() == 15


def test_offset_plus_coordinate_is_the_centroid_for_all_pixels_of_an_instance():
    made = make_targets(a_map()[None], SCENE, TargetSpec())
    offset, weight = made["offset"][0], made["offset_weight"][0]
    y, x = np.indices(weight.shape)
    ball = a_map() == 3 * 256 + 1
    assert set((y + offset[0])[ball]) == {14}
    assert set((x + offset[1])[ball]) == {15}
    assert weight.sum() == 63 + 25
    assert not offset[:, weight == 0].any()


def test_a_crowd_gives_zero_weight_but_keeps_its_class():
    made = make_targets(a_map()[None], SCENE, TargetSpec())
    crowd = np.s_[0, 50:60, 2:12]
    assert not made["center_weight"][crowd].any()
    assert not made["offset_weight"][crowd].any()
    assert (made["semantic"][crowd] == 2).all()
    assert (made["semantic_weight"][crowd] == 1).all()


def test_small_instances_weigh_more_and_void_nothing():
    made = make_targets(a_map()[None], SCENE, TargetSpec(small_area=64))
    weight = made["semantic_weight"][0]
    assert weight[14, 15] == weight[42, 32] == 3
    assert weight[5, 30] == 1
    assert weight[0, 0] == made["center_weight"][0, 0, 0] == 0
    assert made["semantic"][0, 0, 0] == -1
    few = make_targets(a_map()[None], SCENE, TargetSpec(small_area=30))
    assert few["semantic_weight"][0, 14, 15] == 1


def test_a_row_s_targets_depend_on_its_own_map_alone():
    maps = np.stack([a_map(), np.roll(a_map(), 3, 0), a_map()[::-1]])
    together = make_targets(maps, SCENE, TargetSpec())
    for row in range(3):
        alone = make_targets(maps[row : row + 1], SCENE, TargetSpec())
        for name, values in together.items():
            assert np.array_equal(values[row], alone[name][0])


def test_top_k_equals_the_mean_of_the_largest_fifth():
    values = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) + 0.1
    expected = values.sort(dim=1, descending=True).values[:, :10].mean(1)
    torch.testing.assert_close(mean_of_nonzero(values, 0.2), expected)


def test_fixtures_of_the_regression_losses():
    two, zero = torch.full((1, 33, 33), 2.0), torch.zeros(1, 33, 33)
    one = torch.ones(1, 33, 33)
    assert float(center_loss(two, zero, one)) == 4
    pair = torch.stack([two, two], 1)
    assert float(offset_loss(pair, 0 * pair, one)) == 2
    masked = one.clone()
    masked[:, :20] = 0
    assert float(offset_loss(pair, 0 * pair, masked)) == 2
    assert float(center_loss(two, zero, 0 * one)) == 0


def test_ignored_pixels_alone_give_no_loss_and_wrong_ones_do():
    logits = torch.tensor([10.0, -10.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    wrong, void = torch.ones(1, 4, 5).long(), torch.full((1, 4, 5), -1)
    one = torch.ones(1, 4, 5)
    assert float(semantic_loss(logits, wrong, one, 1.0)) == pytest.approx(20, rel=1e-5)
    assert float(semantic_loss(logits, void, one, 1.0)) == 0
    assert float(semantic_loss(logits, wrong, 0 * one, 0.2)) == 0


def test_the_centre_loss_weighs_200_and_the_offset_loss_a_hundredth():
    made = make_targets(a_map()[None], SCENE, TargetSpec())
    targets = {k: torch.from_numpy(v) for k, v in made.items()}
    draw = torch.Generator().manual_seed(0)
    predicted = {
        "semantic": torch.randn(1, 4, 64, 64, generator=draw),
        "center": torch.rand(1, 64, 64, generator=draw),
        "offset": torch.randn(1, 2, 64, 64, generator=draw),
    }
    plain = panoptic_losses(predicted, targets, LossSpec(center=1, offset=1))
    real = panoptic_losses(predicted, targets, LossSpec())
    assert float(real["center"]) == pytest.approx(200 * float(plain["center"]))
    assert float(real["offset"]) == pytest.approx(0.01 * float(plain["offset"]))
    assert float(total(real)) == pytest.approx(sum(map(float, real.values())))


def test_fixture_of_the_centres():
    heat = torch.zeros(5, 5)
    heat[0, 0], heat[1, 0], heat[3, 3], heat[3, 4], heat[4, 4] = 1.0, 0.8, 0.1, 0.7, 0.2
    spec = PostSpec(kernel=3, keep=2)
    classes = torch.zeros(5, 5).long()
    ids, scores = group_pixels(classes, heat, torch.zeros(2, 5, 5), [0], spec)
    assert ids.tolist() == [
        [1, 1, 1, 1, 2],
        [1, 1, 1, 2, 2],
        [1, 1, 2, 2, 2],
        [1, 2, 2, 2, 2],
        [1, 2, 2, 2, 2],
    ]
    torch.testing.assert_close(scores, torch.where(ids == 1, 1.0, 0.7))


def test_at_most_the_centres_above_the_kth_score_are_kept():
    heat = torch.zeros(9, 9)
    for k, score in enumerate((0.9, 0.8, 0.7, 0.6)):
        heat[2 * k, 2 * k] = score
    assert len(find_centers(heat, PostSpec(kernel=3, keep=4))[0]) == 4
    centers, scores = find_centers(heat, PostSpec(kernel=3, keep=2))
    assert centers.tolist() == [[0, 0]]
    assert scores.tolist() == pytest.approx([0.9])


def test_no_centres_give_no_instances_and_scores_are_zero_on_stuff():
    classes = torch.zeros(4, 4).long()
    classes[:2] = 1
    none = group_pixels(
        classes, torch.zeros(4, 4), torch.zeros(2, 4, 4), [1], PostSpec()
    )
    assert not none[0].any()
    heat = torch.zeros(4, 4)
    heat[0, 0] = 0.5
    ids, scores = group_pixels(classes, heat, torch.zeros(2, 4, 4), [1], PostSpec())
    assert (ids[:2] == 1).all()
    assert not ids[2:].any()
    assert not scores[2:].any()
    assert (scores[:2] == 0.5).all()


def test_fixture_of_the_merge():
    semantic = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 2, 2, 0], [2, 2, 3, 3]]
    instances = [[0] * 4, [0] * 4, [0, 1, 1, 0], [2, 2, 3, 3]]
    void = 255 * 256
    found = merge(
        torch.tensor(semantic),
        torch.tensor(instances),
        (2, 3),
        divisor=256,
        stuff_area=3,
        void=255,
    )
    assert found.tolist() == [
        [0, 0, 0, 0],
        [0, void, void, 0],
        [0, 513, 513, 0],
        [514, 514, 769, 769],
    ]


def test_small_stuff_becomes_void_from_the_limit_on():
    semantic = torch.tensor([[0, 0, 0, 1]])
    none = torch.zeros_like(semantic)
    kept = merge(semantic, none, (), divisor=10, stuff_area=3, void=9)
    assert kept.tolist() == [[0, 0, 0, 90]]
    gone = merge(semantic, none, (), divisor=10, stuff_area=4, void=9)
    assert gone.tolist() == [[90, 90, 90, 90]]


def oracle(truth: np.ndarray, categories: Categories, post: PostSpec):
    made = make_targets(truth[None], categories, TargetSpec(sigma=2.0))
    classes = torch.from_numpy(made["semantic"][0])
    logits = torch.nn.functional.one_hot(classes.clamp(min=0), len(categories))
    return predict_one(
        20.0 * logits.permute(2, 0, 1),
        torch.from_numpy(made["center"][0]),
        torch.from_numpy(made["offset"][0]),
        categories,
        post,
    )


def test_with_true_classes_things_are_told_apart_by_centres_and_offsets_alone():
    truth, post = a_map(), PostSpec(stuff_area=0)
    truth[50:60, 2:12] = 512  # no crowd
    made = make_targets(truth[None], SCENE, TargetSpec(sigma=2.0))
    classes = true_classes(truth.astype(np.int64), len(SCENE))
    center, offset = (torch.from_numpy(made[k][0]) for k in ("center", "offset"))

    def found(center: torch.Tensor) -> float:
        guess = predict_one(classes, center, offset, SCENE, post)
        scores = score_predictions([truth.astype(np.int64)], [guess], SCENE)
        assert scores["miou"] == 1
        return scores["ap_50"]

    assert found(center) == pytest.approx(1)
    assert found(torch.zeros_like(center)) == 0


def test_target_maps_return_the_true_panoptic_map_where_instances_are_far_apart():
    truth = a_map()
    truth[50:60, 2:12] = 512  # no crowd
    guess = oracle(truth, SCENE, PostSpec(stuff_area=0))
    inside = truth > 0
    assert np.array_equal(guess.panoptic[inside], truth[inside])
    found = score_predictions([truth.astype(np.int64)], [guess], SCENE)
    assert found["pq"] == found["miou"] == 1
    assert found["ap"] == pytest.approx(1)


def test_target_maps_of_scenes_give_nearly_perfect_quality():
    data = Scenes(100, 0, 64)
    rows = data.fetch(np.arange(3)).fields["panoptic"]
    categories = Categories.of(data.vocabularies)
    post = PostSpec(kernel=7, stuff_area=0)
    guesses = [oracle(row, categories, post) for row in rows]
    found = score_predictions(list(rows.astype(np.int64)), guesses, categories)
    assert found["pq"] > 0.9
    assert found["miou"] > 0.95  # where centres touch, a majority renames pixels


def test_offsets_of_zero_give_voronoi_cells():
    heat = torch.zeros(20, 20)
    heat[4, 4] = heat[15, 12] = 1.0
    classes = torch.zeros(20, 20).long()
    ids, _ = group_pixels(classes, heat, torch.zeros(2, 20, 20), [0], PostSpec())
    y, x = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    first = (y - 4) ** 2 + (x - 4) ** 2
    second = (y - 15) ** 2 + (x - 12) ** 2
    different = first != second
    assert torch.equal((ids == 1)[different], (first < second)[different])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_augmentation_of_a_group_depends_on_its_own_seed_alone(seed, rows):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (2 * rows, 12, 10, 3), dtype=np.uint8)
    maps = draw.integers(0, 5, (2 * rows, 12, 10)).astype(np.int32)
    offsets = np.array([0, rows, 2 * rows])
    spec = AugmentSpec(flip=True, scales=(0.5, 2.0))
    seeds = np.array([seed, seed + 1], np.uint64)
    both = augment(images, maps, offsets, seeds, spec)
    last = augment(images[rows:], maps[rows:], np.array([0, rows]), seeds[1:], spec)
    assert np.array_equal(both[0][rows:], last[0])
    assert np.array_equal(both[1][rows:], last[1])
    assert both[0].shape == images.shape


def test_flips_mirror_pictures_and_maps_together():
    image = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3).repeat(20, 0)
    panoptic = np.arange(8, dtype=np.int32).reshape(1, 2, 4).repeat(20, 0)
    made = augment(
        image,
        panoptic,
        np.array([0, 20]),
        np.array([1], np.uint64),
        AugmentSpec(flip=True),
    )
    mirrored = (made[1][:, 0, 0] == 3).sum()
    assert 3 < mirrored < 17
    for picture, labels in zip(*made, strict=True):
        assert np.array_equal(picture[..., 0] // 3, labels)


def test_numbers_out_of_range_are_refused_by_name():
    with pytest.raises(UserError, match="sigma=0"):
        TargetSpec(sigma=0)
    with pytest.raises(UserError, match="top_k=0"):
        LossSpec(top_k=0)
    with pytest.raises(UserError, match="kernel=4"):
        PostSpec(kernel=4)
    with pytest.raises(UserError, match="panoptic maps"):
        Categories.of({})
