"""PQ, mIoU and AP: fixtures of the specification, and against well-kept libraries."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import jaccard_score

from model_zoo.deeplab2.categories import Categories
from model_zoo.deeplab2.evaluation import Prediction, score_predictions
from model_zoo.deeplab2.precision import (
    NAMES,
    AveragePrecision,
    Instances,
    boxes_of,
    instance_scores,
    instances_of,
)
from model_zoo.deeplab2.quality import MeanIoU, PanopticQuality

PICTURES = Path(os.environ.get("DEEPLAB2_TESTDATA", "missing"))
"""`evaluation/testdata` of the published repository, which is not shipped here."""

needs_pictures = pytest.mark.skipif(
    not PICTURES.is_dir(),
    reason="DEEPLAB2_TESTDATA does not name the published evaluation/testdata",
)
COLOURS = {
    (0, 0, 255): 1,
    (255, 0, 0): 2,
    (0, 255, 0): 3,
    (255, 0, 255): 4,
    (0, 255, 255): 5,
    (255, 255, 0): 6,
}
TEAM = dict.fromkeys((47, 97, 133, 150, 174, 215, 244, 255), 1) | {0: 0, 198: 2}
TRUTHS = {
    "team": ("team_gt_instance", TEAM),
    "bird": ("bird_gt", {92: 5, 176: 3, 255: 4}),
    "cat": ("cat_gt", {0: 0, 255: 6}),
}


def grey(name: str) -> np.ndarray:
    with Image.open(PICTURES / f"{name}.png") as image:
        return np.asarray(image.convert("L")).astype(np.int64)


def picture(name: str, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted map of one of the published test pictures."""
    file, classes = TRUTHS[name]
    instance = grey(file)
    truth = np.vectorize(classes.get)(instance) * divisor + instance
    with Image.open(PICTURES / f"{name}_pred_class.png") as image:
        colours = np.asarray(image.convert("RGB"))
    category = np.zeros(colours.shape[:2], np.int64)
    for colour, kind in COLOURS.items():
        category[(colours == colour).all(-1)] = kind
    return truth, category * divisor + grey(f"{name}_pred_instance")


@needs_pictures
def test_panoptic_quality_of_the_team_picture():
    quality = PanopticQuality(3, 0, 1000)
    truth, predicted = picture("team", 1000)
    assert truth.shape == (231, 345)
    quality.update(truth, predicted)
    found = quality.result()
    assert found["pq"] == pytest.approx(0.62156287, abs=1e-8)
    assert found["sq"] == pytest.approx(0.64664987, abs=1e-8)
    assert found["rq"] == pytest.approx(0.96666667, abs=1e-8)
    assert (found["tp"], found["fn"], found["fp"]) == (4, 0.5, 0)
    each = quality.per_class()["pq"]
    assert each[1:] == pytest.approx([0.70243608, 0.54068966], abs=1e-8)


@needs_pictures
def test_panoptic_quality_accumulates_over_bird_cat_and_team():
    quality = PanopticQuality(7, 0, 256)
    for name in ("bird", "cat", "team"):
        quality.update(*picture(name, 256))
    found = quality.result()
    assert found["pq"] == pytest.approx(0.76855503, abs=1e-8)
    assert found["sq"] == pytest.approx(0.77691737, abs=1e-8)
    assert found["rq"] == pytest.approx(0.98888889, abs=1e-8)
    assert found["tp"] == 2
    assert found["fn"] == pytest.approx(1 / 6)
    assert found["fp"] == 0


def test_panoptic_quality_with_a_non_contiguous_ignored_label():
    truth = np.array([[0, 9, 9], [1, 2, 2], [1, 9, 9]]) * 256
    truth += np.array([[0, 2, 2], [1, 0, 0], [1, 0, 0]])
    predicted = np.array([[0, 0, 9], [1, 1, 1], [1, 9, 9]]) * 256
    predicted += np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    quality = PanopticQuality(10, 9, 256)
    quality.update(truth, predicted)
    assert quality.result() == pytest.approx(
        {"pq": 2 / 9, "sq": 1 / 3, "rq": 2 / 9, "tp": 1 / 3, "fn": 2 / 3, "fp": 2 / 3}
    )


def random_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A map of blocks and a noisy copy of it; categories 1-3, divisor 16."""
    draw = np.random.default_rng(seed)
    small = draw.integers(1, 4, (4, 4)) * 16 + draw.integers(0, 3, (4, 4))
    truth = small.repeat(5, 0).repeat(5, 1)
    predicted = np.roll(truth, draw.integers(-2, 3, 2), (0, 1))
    return truth, np.where(draw.random(truth.shape) < 0.1, 16, predicted)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_pq_is_invariant_to_relabelling_instances(seed):
    truth, predicted = random_maps(seed)
    order = np.random.default_rng(seed).permutation(16)
    renamed = predicted // 16 * 16 + order[predicted % 16]
    results = []
    for guess in (predicted, renamed):
        quality = PanopticQuality(4, 0, 16)
        quality.update(truth, guess)
        results.append(quality.result())
    assert results[0] == pytest.approx(results[1])


def test_adding_a_false_positive_lowers_rq_only():
    truth = np.full((8, 8), 16)
    truth[:4] = 2 * 16 + 1
    good = truth.copy()
    good[6:] = 0  # left open
    more = good.copy()
    more[6:] = 2 * 16 + 2
    before, after = PanopticQuality(3, 0, 16), PanopticQuality(3, 0, 16)
    before.update(truth, good)
    after.update(truth, more)
    one, two = before.result(), after.result()
    assert two["sq"] == one["sq"]
    assert two["rq"] < one["rq"]


def halves(left: int, right: int) -> np.ndarray:
    both = np.full((8, 8), left)
    both[:, 4:] = right
    return both


@pytest.mark.parametrize(
    ("category", "mistakes"), [(2, 0.0), (3, 1.0)], ids=["its own kind", "another kind"]
)
def test_a_crowd_excuses_predictions_of_its_own_category_alone(category, mistakes):
    quality = PanopticQuality(4, 0, 16, crowded=(2, 3))
    quality.update(halves(16, 2 * 16), halves(16, category * 16 + 1))
    found = quality.per_class()
    assert found["fp"].sum() == mistakes
    assert found["fn"].sum() == 0
    assert found["tp"].tolist() == [0, 1, 0, 0]


def test_half_a_crowd_does_not_excuse():
    quality = PanopticQuality(3, 0, 16, crowded=(2,))
    guess = np.full((8, 8), 2 * 16 + 1)
    quality.update(halves(16, 2 * 16), guess)
    assert quality.per_class()["fp"].tolist() == [0, 0, 1]
    assert quality.per_class()["fn"].tolist() == [0, 1, 0]


def test_pq_equals_torchmetrics():
    detection = pytest.importorskip("torchmetrics.detection")
    import torch

    metric = detection.PanopticQuality(things={1, 2}, stuffs={3})
    quality = PanopticQuality(4, 0, 16)
    for seed in range(12):
        pair = [np.where(m // 16 == 3, 48, m) for m in random_maps(seed)]
        quality.update(*pair)
        truth, guess = (
            torch.from_numpy(np.stack([m // 16, m % 16], -1)[None]) for m in pair
        )
        metric.update(guess, truth)
    assert quality.result()["pq"] == pytest.approx(float(metric.compute()), abs=1e-6)


def test_mean_iou_equals_scikit_learn_and_leaves_void_out():
    draw = np.random.default_rng(0)
    metric = MeanIoU(4, 0)
    truths, guesses = draw.integers(0, 4, (3, 9, 9)), draw.integers(1, 4, (3, 9, 9))
    for truth, guess in zip(truths, guesses, strict=True):
        metric.update(truth, guess)
    counted = truths != 0
    expected = jaccard_score(truths[counted], guesses[counted], average="macro")
    assert metric.result() == pytest.approx(expected)
    assert MeanIoU(4, 0).result() == 0


def test_a_class_that_is_predicted_void_is_missed_and_void_is_no_class():
    metric = MeanIoU(3, 0)
    metric.update(halves(1, 2), halves(1, 0))
    assert metric.result() == pytest.approx(0.5)


CATEGORIES = Categories(names=("sky", "ball", "dog"), things=("ball", "dog"))


def scored(truth: np.ndarray, category: np.ndarray, panoptic: np.ndarray) -> dict:
    probability = np.stack([category == k for k in range(4)]).astype(np.float32)
    guess = Prediction(panoptic, category, probability, np.ones((8, 8), np.float32))
    return score_predictions([truth], [guess], CATEGORIES)


def test_mean_iou_is_that_of_the_likeliest_categories_before_stuff_becomes_void():
    truth = np.full((8, 8), 256)
    found = scored(truth, truth // 256, np.zeros_like(truth))
    assert found["miou"] == 1
    assert found["pq"] == 0


@pytest.mark.parametrize(
    ("truth", "undefined"),
    [
        (0, {"pq", "sq", "rq", "miou", "ap", "ap_50"}),
        (256, {"ap", "ap_50"}),
        (2 * 256, {"pq", "sq", "rq", "ap", "ap_50"}),
        (2 * 256 + 1, set()),
    ],
    ids=["void alone", "stuff alone", "a crowd alone", "a thing"],
)
def test_what_truth_gives_nothing_to_find_for_is_not_defined(truth, undefined):
    guess = np.full((8, 8), 2 * 256 + 1)
    found = scored(np.full((8, 8), truth), guess // 256, guess)
    assert {name for name, value in found.items() if np.isnan(value)} == undefined


def mask_instances(masks, category, score=None, crowd=None) -> Instances:
    count = len(masks)
    return Instances(
        np.asarray(masks, bool),
        np.asarray(category, np.int64),
        np.ones(count) if score is None else np.asarray(score, float),
        np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
    )


def test_average_precision_of_a_single_picture():
    truth = [[[0] * 5, [0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0] * 5]]
    found = [[[0] * 5, [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0] * 5]]
    metric = AveragePrecision()
    metric.update(mask_instances(truth, [8]), mask_instances(found, [8], [0.8]))
    expected = [0.7, 1, 1, 0.7, -1, -1, 0.7, 0.7, 0.7, 0.7, -1, -1]
    assert list(metric.result().values()) == pytest.approx(expected)


def test_crowds_are_ignored_by_average_precision():
    masks = np.zeros((3, 6, 6), bool)
    masks[0, :2], masks[1, 2:4], masks[2, 4:] = True, True, True
    truth = mask_instances(masks, [1, 1, 1], crowd=[False, False, True])
    metric = AveragePrecision()
    metric.update(truth, mask_instances(masks, [1, 1, 1], [0.9, 0.8, 0.95]))
    found = metric.result()
    valid = {k: v for k, v in found.items() if v >= 0 and k not in ("ar_1",)}
    assert set(valid.values()) == {1.0}


def test_nothing_found_is_zero():
    assert set(AveragePrecision().result().values()) == {0.0}


def of_map(panoptic: np.ndarray) -> Instances:
    labels = instances_of(panoptic, 256, (0,))
    return mask_instances(panoptic[None] == labels[:, None, None], labels // 256)


@needs_pictures
def test_average_precision_of_the_panoptic_team_picture():
    truth, predicted = picture("team", 256)
    metric = AveragePrecision()
    metric.update(of_map(truth), of_map(predicted))
    expected = [0.2549, 0.9356, 0.1215, -1, 0.2399, 0.501]
    expected += [0.0812, 0.2688, 0.2688, -1, 0.2583, 0.5]
    assert list(metric.result().values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (
            {1: 0.4, 2: 0.9, 3: 0.8},
            [0.5025, 0.5025, 0.5025, 0.5025, -1, -1, 0.25, 0.75, 0.75, 0.75, -1, -1],
        ),
        (
            {1: 0.9, 2: 0.4, 3: 0.8},
            [76 / 101] * 4 + [-1, -1] + [0.75] * 4 + [-1, -1],
        ),
    ],
)
def test_average_precision_follows_the_scores(scores, expected):
    instances = np.array([[1, 1, 2, 2]] * 2 + [[0, 0, 3, 3]] * 2)
    kinds = np.array([[1, 1, 2, 2]] * 2 + [[0, 0, 2, 2]] * 2)
    guessed = np.array([[1, 1, 1, 1]] * 2 + [[0, 0, 2, 2]] * 2)
    truth, predicted = kinds * 256 + instances, guessed * 256 + instances
    probability = (np.arange(3)[:, None, None] == guessed).astype(float)
    score = np.vectorize(lambda k: scores.get(k, 0.0))(instances)
    labels = instances_of(predicted, 256, (0,))
    found = mask_instances(
        predicted[None] == labels[:, None, None],
        labels // 256,
        instance_scores(predicted, labels, probability, score, 256),
    )
    metric = AveragePrecision()
    metric.update(of_map(truth), found)
    assert list(metric.result().values()) == pytest.approx(expected, abs=1e-4)


def test_boxes_and_labels_of_the_published_fixture():
    instances = [
        [0, 1, 1, 0],
        [0, 1, 2, 2],
        [5, 1, 2, 2],
        [1] * 4,
        [0, 0, 0, 2],
        [0] * 4,
    ]
    kinds = [[0, 1, 1, 0], [0, 1, 1, 1], [1] * 4, [2] * 4, [0, 0, 0, 1], [3] * 4]
    panoptic = np.array(kinds) * 13 + np.array(instances)
    labels = instances_of(panoptic, 13, (0, 3))
    assert labels.tolist() == [14, 15, 18, 27]
    assert boxes_of(panoptic, labels).tolist() == [
        [0, 1, 3, 3],
        [1, 2, 5, 4],
        [2, 0, 3, 1],
        [3, 0, 4, 4],
    ]


def test_ignored_categories_are_left_out_whatever_their_instances():
    labels = np.array([4 * 9 + 3, 2 * 9 + 7, 4 * 9, 9 + 2, 4, 8, 4 * 9 + 1, 9])
    kept = np.isin(labels, instances_of(labels, 9, (0, 4)))
    assert kept.tolist() == [False, True, False, True, False, False, False, True]


def test_average_precision_equals_pycocotools(capsys):
    cocotools = pytest.importorskip("pycocotools.coco")
    from pycocotools import mask as encoder
    from pycocotools.cocoeval import COCOeval

    draw = np.random.default_rng(0)

    def some(count: int, near: np.ndarray) -> np.ndarray:
        masks = np.zeros((count, 40, 40), bool)
        for mask in masks:
            if len(near) and draw.random() < 0.8:
                shift = draw.integers(-2, 3, 2)
                mask[:] = np.roll(near[draw.integers(len(near))], shift, (0, 1))
            else:
                y, x, h, w = draw.integers([0, 0, 3, 3], [30, 30, 40, 40])
                mask[y : y + h, x : x + w] = True
        return masks

    def record(mask: np.ndarray) -> dict:
        return encoder.encode(np.asfortranarray(mask.astype(np.uint8)))

    for _ in range(5):
        metric, truths, found = AveragePrecision(), [], []
        for image in range(1, 6):
            masks = some(int(draw.integers(1, 6)), np.zeros((0, 40, 40), bool))
            truth = mask_instances(
                masks,
                draw.integers(1, 4, len(masks)),
                crowd=draw.random(len(masks)) < 0.2,
            )
            guesses = some(int(draw.integers(0, 14)), masks)
            kinds = draw.integers(1, 4, len(guesses))
            guess = mask_instances(
                guesses.reshape(-1, 40, 40), kinds, draw.integers(0, 5, len(kinds)) / 5
            )
            metric.update(truth, guess)
            for k, mask in enumerate(masks):
                truths.append(
                    {
                        "id": len(truths) + 1,
                        "image_id": image,
                        "category_id": int(truth.category[k]),
                        "iscrowd": int(truth.crowd[k]),
                        "area": float(mask.sum()),
                        "segmentation": record(mask),
                    }
                )
            found += [
                {
                    "image_id": image,
                    "category_id": int(kinds[k]),
                    "score": float(guess.score[k]),
                    "segmentation": record(mask),
                }
                for k, mask in enumerate(guesses)
            ]
        coco = cocotools.COCO()
        coco.dataset = {
            "images": [{"id": k, "height": 40, "width": 40} for k in range(1, 6)],
            "categories": [{"id": k} for k in (1, 2, 3)],
            "annotations": truths,
        }
        coco.createIndex()
        official = COCOeval(coco, coco.loadRes(found), "segm")
        official.evaluate()
        official.accumulate()
        official.summarize()
        assert list(metric.result()) == list(NAMES)
        assert list(metric.result().values()) == pytest.approx(list(official.stats))
    capsys.readouterr()
