"""Pair-wise suppression and the metrics of HICO-DET, V-COCO and Visual Genome."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fedemb.errors import UserError
from model_zoo.univrd.inference import Triplets, pairwise_nms
from model_zoo.univrd.metrics import (
    HICO_CLASSES,
    HICO_OBJECTS,
    HICO_RARE,
    HICO_VERBS,
    average_precision,
    average_precisions,
    hico_map,
    mean_recall,
    true_positives,
    vcoco_map,
)
from simulations.datasets.relationships import RelationImage, annotated_triplets

BOX = np.array([0.0, 0.0, 0.4, 0.4], dtype=np.float32)
NOTHING = np.full(4, np.nan, dtype=np.float32)


def triplets(rows):
    """Rows of (picture, label, score, shift of the object, has an object)."""
    objects = [
        BOX + np.array([s, 0, s, 0], np.float32) if has else NOTHING
        for *_, s, has in rows
    ]
    return Triplets(
        np.array([r[0] for r in rows]),
        np.tile(BOX, (len(rows), 1)),
        np.array(objects, dtype=np.float32).reshape(-1, 4),
        np.array([r[1] for r in rows]),
        np.array([r[2] for r in rows], dtype=np.float32),
    )


TRUTH = triplets([(p, label, 1.0, 0.0, True) for p in range(3) for label in range(4)])


def shift_for(iou):
    """How far a box of side 0.4 moves to overlap itself by this much."""
    return 0.4 * (1 - iou) / (1 + iou)


def test_perfect_predictions_have_map_1():
    assert average_precisions(TRUTH, TRUTH, 4).tolist() == [1.0] * 4


def test_shifting_the_object_box_to_iou_045_gives_0_and_to_055_still_1():
    for iou, expected in ((0.45, 0.0), (0.55, 1.0)):
        moved = triplets(
            [(p, k, 1.0, shift_for(iou), True) for p in range(3) for k in range(4)]
        )
        assert average_precisions(moved, TRUTH, 4).tolist() == [expected] * 4


def test_duplicates_count_one_true_positive():
    twice = triplets([(0, 0, 0.9, 0.0, True), (0, 0, 0.8, 0.0, True)])
    hit, claimed = true_positives(twice, TRUTH)
    assert hit.tolist() == [True, False]
    assert claimed.sum() == 1


def test_the_label_and_the_picture_must_fit():
    found = triplets([(0, 3, 1.0, 0, True), (7, 0, 1.0, 0, True)])
    one = TRUTH.where(np.array([0]))
    assert not true_positives(found, one)[0].any()


def test_mean_recall_with_one_missed_predicate_is_the_rest_of_them():
    kept = TRUTH.where(TRUTH.label != 2)
    assert mean_recall(kept, TRUTH, 50) == pytest.approx((4 - 1) / 4)
    assert mean_recall(TRUTH, TRUTH, 50) == 1.0
    assert mean_recall(TRUTH, TRUTH, 2) == pytest.approx(0.5)


def test_mean_recall_averages_predicates_not_phrases():
    predicate = np.array([0, 0, 0, 1])
    kept = TRUTH.where(TRUTH.label != 3)
    assert mean_recall(kept, TRUTH, 50, predicate) == pytest.approx(1 / 2)


def test_hico_constants():
    assert (HICO_CLASSES, HICO_RARE, HICO_VERBS, HICO_OBJECTS) == (600, 138, 117, 80)
    counts = np.full(HICO_CLASSES, 10)
    counts[:HICO_RARE] = 9
    ap = np.zeros(HICO_CLASSES)
    ap[:HICO_RARE] = 1.0
    result = hico_map(ap, counts)
    assert result == {"full": HICO_RARE / 600, "rare": 1.0, "non_rare": 0.0}


def test_means_over_nothing_annotated_are_not_defined():
    guessed = triplets([(0, 0, 0.9, 0.2, True)])
    nothing = guessed.where(np.zeros(1, bool))
    assert np.isnan(vcoco_map(guessed, nothing, 1, scenario=1))
    assert np.isnan(mean_recall(guessed, nothing, 50))
    result = hico_map(np.array([np.nan, 1.0, np.nan]), np.array([3, 30, 30]))
    assert np.isnan(result["rare"])
    assert (result["full"], result["non_rare"]) == (1 / 3, 0.5)


def test_vcoco_scenarios_differ_in_actions_without_object():
    truth = triplets([(0, 0, 1.0, 0.0, False), (1, 0, 1.0, 0.0, True)])
    guessed = triplets([(0, 0, 0.9, 0.2, True), (1, 0, 0.8, 0.0, True)])
    empty = triplets([(0, 0, 0.9, 0.0, False), (1, 0, 0.8, 0.0, True)])
    assert vcoco_map(guessed, truth, 1, scenario=1) < 0.5
    assert vcoco_map(guessed, truth, 1, scenario=2) == 1.0
    assert vcoco_map(empty, truth, 1, scenario=1) == 1.0
    assert vcoco_map(empty, truth, 1, scenario=2) == 1.0
    with pytest.raises(ValueError, match="scenario=3 must be 1 or 2"):
        vcoco_map(empty, truth, 1, scenario=3)


def test_exact_average_precision_agrees_with_scikit_learn():
    draw = np.random.default_rng(0)
    hits = draw.random(50) < 0.4
    scores = -np.arange(50)
    expected = average_precision_score(hits, scores)
    found = average_precision(hits, int(hits.sum()), points=None)
    # Ours reads the best later precision (an envelope), which is never smaller.
    assert found >= expected
    worst_last = np.sort(hits)[::-1]
    assert average_precision(worst_last, int(hits.sum()), points=None) == 1.0


def test_pnms_suppresses_an_identical_pair_in_its_class_and_keeps_it_across_classes():
    boxes = torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4)
    scores = torch.tensor([0.5, 0.9, 0.4])
    kept = pairwise_nms(boxes, boxes, torch.tensor([1, 1, 2]), scores)
    assert kept.tolist() == [False, True, True]


def test_pnms_threshold_is_monotone():
    draw = torch.Generator().manual_seed(0)
    low = 0.3 * torch.rand(2, 40, 2, generator=draw)
    boxes = torch.cat([low, low + 0.5], dim=-1)
    labels = torch.randint(0, 2, (40,), generator=draw)
    scores = torch.rand(40, generator=draw)
    kept = [
        int(pairwise_nms(*boxes, labels, scores, threshold=t).sum())
        for t in (0.1, 0.3, 0.5, 0.7, 1.0)
    ]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1] == 40


def test_annotation_files_become_what_metrics_score_against():
    boxes = np.array([[0, 0, 10, 20], [5, 5, 15, 30]], np.float32)  # (y0, x0, y1, x1)
    rows = ((0, "ride", 1), (0, "smile", -1))
    images = [
        RelationImage("a", boxes[:1], ("person",), ()),
        RelationImage("b", boxes, ("person", "horse"), rows),
    ]
    truth = annotated_triplets(images, ["smile", "ride"])
    assert truth.picture.tolist() == [1, 1]
    assert truth.label.tolist() == [1, 0]
    assert truth.subject[0].tolist() == [0, 0, 20, 10]  # (x0, y0, x1, y1)
    assert truth.object[0].tolist() == [5, 5, 30, 15]
    assert np.isnan(truth.object[1]).all()
    assert vcoco_map(truth, truth, 2, scenario=1) == 1.0
    with pytest.raises(UserError, match="'ride' is not among"):
        annotated_triplets(images, ["smile"])
