"""Metrics over all pairs: the published fixtures, brute force, and their promises."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedemb import _metrics_pairs
from fedemb.metrics import (
    identity_metrics,
    one_shot_accuracy,
    recall_at_far,
    recall_at_far_binned,
    recall_at_k,
)

KEYS = ["recall_at_far_1e-3", "recall_at_far_1e-1", "recall_at_1", "roc_auc"]
FIXTURE = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [0.6, 0.8], [-0.8, 0.6], [-0.8, -0.6]])
FIXTURE_LABELS = torch.tensor([0, 1, 0, 1, 0])


def clustered(n, classes, dim=8, spread=0.5, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    values = draw.normal(size=(classes, dim))[labels]
    values += spread * draw.normal(size=(n, dim))
    return torch.from_numpy(values), torch.from_numpy(labels)


def all_pairs(embeddings, labels):
    """(similarity, is positive) of every pair i < j, the slow way."""
    e = embeddings.double().numpy()
    norm = np.linalg.norm(e, axis=1, keepdims=True)
    e = np.divide(e, norm, where=norm > 0, out=np.zeros_like(e))
    i, j = np.triu_indices(len(e), 1)
    names = np.asarray(labels)
    # twelve decimals: equal similarities are equal whatever order they were added in
    return np.round((1 + (e[i] * e[j]).sum(1)) / 2, 12), names[i] == names[j]


def brute_recall_at_far(similarity, positive, far):
    negatives = np.sort(similarity[~positive])[::-1]
    rank = math.floor(round(far * len(negatives), 9))
    threshold = negatives[rank] if rank < len(negatives) else -np.inf
    return float((similarity[positive] > threshold).mean())


def brute_recall_at_k(embeddings, labels, k):
    names, n = np.asarray(labels), len(labels)
    similarity, _ = all_pairs(embeddings, labels)
    full = np.full((n, n), -1.0)
    full[np.triu_indices(n, 1)] = similarity
    full = np.maximum(full, full.T)
    hits = []
    for row in range(n):
        same = (names == names[row]) & (np.arange(n) != row)
        if same.any():
            best = full[row, same].max()
            hits.append((full[row, names != names[row]] >= best).sum() < k)
    return float(np.mean(hits)) if hits else 0.0


@pytest.mark.parametrize("recall", [recall_at_far, recall_at_far_binned])
def test_published_fixture(recall):
    assert recall(FIXTURE, FIXTURE_LABELS, 0.2) == 0.5


@pytest.mark.parametrize("recall", [recall_at_far, recall_at_far_binned])
def test_no_embeddings_score_zero(recall):
    empty, labels = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    assert recall(empty, labels, 0.1) == 0.0
    assert recall_at_k(empty, labels, 3) == 0.0


@pytest.mark.parametrize("recall", [recall_at_far, recall_at_far_binned])
def test_two_perfect_clusters_score_one_and_conflicts_lower_it(recall):
    points = torch.tensor([[1.0, 0.0]] * 16 + [[0.0, 1.0]] * 18)
    labels = torch.tensor([0] * 16 + [1] * 18)
    assert recall(points, labels, 0.1) == 1.0
    conflicting = torch.cat([points, torch.tensor([[1.0, 0.0]] * 4)])
    assert recall(conflicting, torch.cat([labels, torch.tensor([1] * 4)]), 0.1) < 1.0


def test_recall_strictly_increases_with_the_false_accept_rate():
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(64, 4, generator=draw)
    labels = torch.randint(3, (64,), generator=draw)
    recalls = [
        recall_at_far(values, labels, far) for far in (0.05, 0.1, 0.3, 0.6, 0.9, 0.95)
    ]
    assert all(low < high for low, high in zip(recalls, recalls[1:], strict=False))


@st.composite
def labelled_rows(draw):
    """A few rows; small integers make ties and zero vectors, normals make none."""
    n = draw(st.integers(2, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    classes = draw(st.integers(1, 6))
    tied = draw(st.booleans())
    generator = np.random.default_rng(seed)
    shape = (n, draw(st.integers(1, 5)))
    values = (
        generator.integers(-1, 2, shape).astype(np.float64)
        if tied
        else generator.normal(size=shape)
    )
    return torch.from_numpy(values), torch.from_numpy(
        generator.integers(classes, size=n)
    )


@settings(max_examples=200, deadline=None)
@given(labelled_rows(), st.sampled_from([0.0, 0.001, 0.1, 0.29, 0.5, 1.0]))
def test_equals_brute_force(rows, far):
    embeddings, labels = rows
    similarity, positive = all_pairs(embeddings, labels)
    metrics = identity_metrics(embeddings, labels, block=3)
    for k in (1, 2, 5, 100):
        assert recall_at_k(embeddings, labels, k) == pytest.approx(
            brute_recall_at_k(embeddings, labels, k), abs=1e-12
        )
    if positive.any() and not positive.all():
        assert metrics["recall_at_1"] == recall_at_k(embeddings, labels, 1)
        assert metrics["roc_auc"] == pytest.approx(roc_auc_score(positive, similarity))
        exact = brute_recall_at_far(similarity, positive, far)
        assert recall_at_far(embeddings, labels, far) == pytest.approx(exact, abs=1e-12)
        assert recall_at_far_binned(embeddings, labels, far) <= exact + 1e-12
    else:
        assert all(math.isnan(value) for value in metrics.values())
        assert recall_at_far(embeddings, labels, far) == 0.0


@settings(max_examples=100, deadline=None)
@given(labelled_rows(), st.floats(0, 1))
def test_binned_recall_is_the_best_of_the_permitted_thresholds(rows, far):
    embeddings, labels = rows
    similarity, positive = all_pairs(embeddings, labels)
    if not positive.any() or positive.all():
        return
    cuts = np.concatenate([[-1e-7], np.arange(1, 199) / 199, [1 + 1e-7]])
    accepted = [(similarity[~positive] > t).sum() for t in cuts]
    hits = [(similarity[positive] > t).mean() for t in cuts]
    allowed = far * (~positive).sum()
    best = max(h for h, a in zip(hits, accepted, strict=True) if a <= allowed)
    assert recall_at_far_binned(embeddings, labels, far) == pytest.approx(best)


def test_the_streamed_float32_path_agrees_with_float64(monkeypatch):
    embeddings, labels = clustered(700, 30, dim=16)
    exact = identity_metrics(embeddings, labels)
    monkeypatch.setattr(_metrics_pairs, "EXACT_PAIRS", 0)
    for block in (7, 100, 5000):
        streamed = identity_metrics(embeddings, labels, block=block)
        assert streamed == pytest.approx(exact, abs=2e-4)
        # at most the share of (positive, negative) pairs of pairs that became tied
        assert streamed["roc_auc"] == pytest.approx(exact["roc_auc"], abs=1e-7)


def test_more_rows_than_the_exact_limit_agree_with_brute_force():
    embeddings, labels = clustered(3_000, 100, dim=8)
    similarity, positive = all_pairs(embeddings, labels)
    assert len(similarity) > _metrics_pairs.EXACT_PAIRS
    metrics = identity_metrics(embeddings.float(), labels)
    assert metrics["roc_auc"] == pytest.approx(
        roc_auc_score(positive, similarity), abs=1e-7
    )
    for key, far in (("recall_at_far_1e-3", 1e-3), ("recall_at_far_1e-1", 1e-1)):
        exact = brute_recall_at_far(similarity, positive, far)
        assert metrics[key] == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("limit", [0, _metrics_pairs.EXACT_PAIRS])
def test_a_collapsed_backbone_is_all_ties(monkeypatch, limit):
    """Equal rows must not be told apart by the rounding of their dot products."""
    monkeypatch.setattr(_metrics_pairs, "EXACT_PAIRS", limit)
    row = torch.randn(1, 37, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(300) % 10
    expected = dict(zip(KEYS, (0.0, 0.0, 0.0, 0.5), strict=True))
    assert identity_metrics(row.expand(300, 37), labels, block=17) == expected
    assert identity_metrics(torch.zeros(300, 37), labels) == expected
    assert recall_at_k(row.expand(300, 37), labels, 1) == 0.0


def test_neither_order_nor_scale_nor_names_of_labels_matter():
    embeddings, labels = clustered(200, 12)
    expected = identity_metrics(embeddings, labels)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    scale = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) * 1e30
    names = np.array([f"class {-label}" for label in labels.tolist()])
    again = identity_metrics((embeddings * scale)[order], names[order.numpy()])
    assert again == pytest.approx(expected, abs=1e-12)
    assert list(again) == KEYS


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_result(monkeypatch, threads):
    monkeypatch.setattr(_metrics_pairs, "EXACT_PAIRS", 0)
    # similarities are multiples of 1/8: far from the middle between two grid points
    signs = torch.randint(0, 2, (400, 4), generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        metrics = identity_metrics(signs * 2.0 - 1, torch.arange(400) % 16)
    finally:
        torch.set_num_threads(before)
    similarity, positive = all_pairs(signs * 2.0 - 1, torch.arange(400) % 16)
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(positive, similarity))


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0], []],
    ids=["no positive pairs", "no negative pairs", "one row", "no rows"],
)
def test_what_is_not_defined_is_not_a_number(labels):
    rows = torch.randn(len(labels), 3)
    metrics = identity_metrics(rows, torch.tensor(labels, dtype=torch.int64))
    assert list(metrics) == KEYS
    assert all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_embeddings_are_refused_with_their_row(bad):
    embeddings, labels = clustered(10, 3)
    embeddings[[4, 7], 2] = bad
    with pytest.raises(ValueError, match=r"2 of 10 embeddings .* row 4"):
        identity_metrics(embeddings, labels)


@pytest.mark.parametrize("far", [-0.1, 1.1, math.nan])
def test_nonsense_false_accept_rates_are_refused(far):
    with pytest.raises(ValueError, match="between 0 and 1"):
        recall_at_far(FIXTURE, FIXTURE_LABELS, far)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one identity for each row"):
        identity_metrics(torch.randn(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match="k=0"):
        recall_at_k(FIXTURE, FIXTURE_LABELS, 0)
    with pytest.raises(ValueError, match="block=0"):
        identity_metrics(FIXTURE, FIXTURE_LABELS, block=0)


def test_one_shot_accuracy_is_seeded_and_spans_chance_to_perfect():
    embeddings, labels = clustered(600, 30, dim=8, spread=0.6)
    first = one_shot_accuracy(embeddings, labels, trials=100, seed=5)
    assert first == one_shot_accuracy(embeddings, labels, trials=100, seed=5)
    assert first != one_shot_accuracy(embeddings, labels, trials=100, seed=6)
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    assert one_shot_accuracy(noise, labels, trials=500) == pytest.approx(
        0.05, abs=0.015
    )
    assert one_shot_accuracy(torch.ones(600, 8), labels, trials=50) == 0.05
    tight, names = clustered(600, 30, dim=32, spread=1e-3)
    assert one_shot_accuracy(tight, names, trials=50) == 1.0


def test_one_shot_accuracy_needs_enough_identities_with_two_rows():
    embeddings, labels = clustered(50, 5)
    alone = torch.cat([labels, torch.arange(100, 150)])
    with pytest.raises(ValueError, match="there are 5"):
        one_shot_accuracy(torch.cat([embeddings, embeddings]), alone)


@pytest.mark.slow
def test_fifty_thousand_embeddings_fit_in_two_gigabytes_and_thirty_seconds():
    code = """
import resource, time, torch
from fedemb.metrics import identity_metrics
torch.set_num_threads(2)
draw = torch.Generator().manual_seed(0)
labels = torch.randint(1000, (50_000,), generator=draw)
rows = torch.randn(1000, 128, generator=draw)[labels]
rows += torch.randn(50_000, 128, generator=draw)
start = time.perf_counter()
metrics = identity_metrics(rows, labels)
print(time.perf_counter() - start, metrics["roc_auc"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    seconds, auc, kilobytes = map(float, done.stdout.split())
    assert seconds < 30
    assert kilobytes < 2e6
    assert auc > 0.99
