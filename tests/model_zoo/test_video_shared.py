"""What video systems share: the contrast of one virtual client, and retrieval."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model_zoo.video.contrastive import contrastive_loss
from model_zoo.video.retrieval import paired_ranks, retrieval_metrics


def rows(seed, n, d=5):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 4))
def test_padding_is_neither_query_nor_negative(seed, n, padding):
    first, second = rows(seed, n + padding), rows(seed + 1, n + padding)
    weight = torch.ones(n + padding, dtype=torch.float64)
    weight[n:] = 0
    scale = torch.tensor(7.0, dtype=torch.float64)
    padded = contrastive_loss(first, second, scale, weight)
    alone = contrastive_loss(first[:n], second[:n], scale, weight[:n])
    torch.testing.assert_close(padded, alone)


def test_it_is_the_mean_of_two_cross_entropies():
    first, second = rows(1, 4), rows(2, 4)
    logits = 3 * first @ second.T
    wanted = (
        F.cross_entropy(logits, torch.arange(4))
        + F.cross_entropy(logits.T, torch.arange(4))
    ) / 2
    scale = torch.tensor(3.0, dtype=torch.float64)
    found = contrastive_loss(first, second, scale, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found, wanted)


def test_ranks_do_not_depend_on_blocks():
    queries, gallery = rows(3, 50), rows(4, 50)
    whole = paired_ranks(queries, gallery)
    torch.testing.assert_close(whole, paired_ranks(queries, gallery, block=7))
    assert int(whole.min()) >= 1
    assert int(whole.max()) <= 50


def test_chance_is_chance_and_a_constant_embedding_finds_nothing():
    found = retrieval_metrics(rows(5, 400, 16), rows(6, 400, 16), "r")
    assert found["r_recall_at_10"] == pytest.approx(10 / 400, abs=0.03)
    assert found["r_median_rank"] == pytest.approx(200, abs=30)
    constant = torch.ones(20, 3)
    assert retrieval_metrics(constant, constant, "r")["r_recall_at_10"] == 0
