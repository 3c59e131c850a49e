"""Metrics of text, questions from captions, and writing, with their fixtures."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from model_zoo.text.tokenizer import BOS, EOS, PAD
from model_zoo.video.contrastive import contrastive_loss
from model_zoo.video.retrieval import retrieval_metrics
from model_zoo.vld.generation import Sampler, beam_search, sample
from model_zoo.vld.instructions import (
    CAUSAL,
    KINDS,
    PROMPT,
    SHORT,
    TEMPORAL,
    drawn,
    instructions,
)
from model_zoo.vld.language import LanguageModel, LanguageShape, answer_loss
from model_zoo.vld.metrics import choice_accuracy, cider, wu_palmer, wups
from simulations.datasets.clips import Clips, PlainClips

TREE = {
    "boy": "child",
    "girl": "child",
    "child": "person",
    "person": "thing",
    "ball": "thing",
}
SHAPE = LanguageShape(
    vocab_size=50,
    length=5,
    width=8,
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    mlp=8,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = LanguageModel(SHAPE).double()
    with torch.no_grad():
        found.token.weight.mul_(30)  # far from an even distribution
    return found


def memory_of(model, rows=3):
    torch.manual_seed(1)
    prompt = torch.tensor([[BOS, 7, EOS, PAD, PAD]]).expand(rows, -1)
    return model.encode(torch.randn(rows, 2, SHAPE.width).double(), prompt)


# WUPS/CIDEr unit values on toy cases


def test_identical_answers_are_worth_1():
    assert wups("a boy runs", "a boy runs", TREE) == 1
    assert wups("boy a", "a boy", {}) == 1


def test_synonyms_by_a_toy_taxonomy_have_the_expected_number():
    assert wu_palmer("boy", "girl", TREE) == pytest.approx(2 * 3 / 8)
    assert wu_palmer("boy", "ball", TREE) == pytest.approx(2 * 1 / 6)
    assert wu_palmer("boy", "stone", TREE) == 0
    assert wups("boy", "girl", TREE) == pytest.approx(0.75)
    # min of the two products: (boy -> boy) against (boy -> boy)(ball -> boy)
    assert wups("boy", "boy ball", TREE) == pytest.approx(1 / 3)
    assert wups("boy", "ball", TREE, threshold=0.9) == pytest.approx(0.1 / 3)


def test_a_circle_in_a_taxonomy_is_refused():
    with pytest.raises(UserError, match="circle"):
        wu_palmer("a", "b", {"a": "c", "c": "a"})


def test_cider_is_10_for_identical_captions_that_are_unique_in_the_corpus():
    texts = [
        "a red ball rises up high",
        "two grey cats sit very still",
        "rain falls on the sea",
    ]
    assert cider(texts, [[text] for text in texts]) == pytest.approx(10)
    assert cider(texts[1:] + texts[:1], [[text] for text in texts]) == 0
    assert (
        0
        < cider(["a red ball falls up high"], [[texts[0]]])
        + cider(["a red ball falls up high", "x", "y"], [[text] for text in texts])
        < 10
    )
    with pytest.raises(UserError, match="candidates"):
        cider([], [])


def test_corners_of_cider_are_those_of_its_definition():
    # What all clips' references hold weighs nothing: equal captions, or one clip.
    assert cider(["a red ball"] * 3, [["a red ball"]] * 3) == 0
    assert cider(["a red ball"], [["a red ball"]]) == 0
    # Texts of two words have no n-grams of three or four words.
    short = ["red ball", "grey cat", "blue ring"]
    assert cider(short, [[text] for text in short]) == pytest.approx(5)
    # A written text may be empty; several references are averaged.
    assert cider(["", "grey cat"], [["red ball"], ["grey cat"]]) == pytest.approx(2.5)
    both = cider(["red ball", "x"], [["red ball", "other words"], ["grey cat"]])
    alone = cider(["red ball", "x"], [["red ball"], ["grey cat"]])
    assert both == pytest.approx(alone / 2)
    for none in ([], "red ball"):
        with pytest.raises(UserError, match="clip 1 has references"):
            cider(["red ball", "grey cat"], [["red ball"], none])


def test_words_are_compared_without_case_and_punctuation():
    assert wups("A ball.", "a ball", {}) == 1
    assert wups("", "", {}) == 1
    assert wups("", "ball", {}) == wups("ball", "?!", {}) == 0


# Dual encoder: InfoNCE, retrieval, choice among five


def test_infonce_on_a_hand_made_matrix():
    cosines = torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.8, 0.3], [0.4, 0.2, 0.7]])
    rows = [math.log(sum(math.exp(v / 0.5) for v in row)) for row in cosines.tolist()]
    columns = [
        math.log(sum(math.exp(v / 0.5) for v in col)) for col in cosines.T.tolist()
    ]
    right = [v / 0.5 for v in cosines.diagonal().tolist()]
    wanted = (
        sum(r + c - 2 * d for r, c, d in zip(rows, columns, right, strict=True)) / 6
    )
    found = contrastive_loss(torch.eye(3), cosines.T, torch.tensor(2.0), torch.ones(3))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_retrieval_without_rows_or_among_too_few_is_not_defined():
    nothing = retrieval_metrics(torch.zeros(0, 4), torch.zeros(0, 4), "t2v")
    assert len(nothing) == 4
    assert all(math.isnan(value) for value in nothing.values())
    few = retrieval_metrics(torch.eye(5), torch.eye(5), "t2v")
    assert few["t2v_recall_at_1"] == 1
    assert math.isnan(few["t2v_recall_at_5"])  # everything is among five of five
    assert few["t2v_median_rank"] == 1
    with pytest.raises(ValueError, match="5 queries need as many rows, not 4"):
        retrieval_metrics(torch.eye(5), torch.eye(5)[:4], "t2v")


def test_embeddings_that_are_no_numbers_find_nothing():
    broken = torch.eye(6)
    broken[2] = torch.nan
    assert retrieval_metrics(broken, torch.eye(6), "t2v", (1,))[
        "t2v_recall_at_1"
    ] == pytest.approx(5 / 6)
    assert retrieval_metrics(torch.eye(6), broken, "t2v", (1,))["t2v_recall_at_1"] == 0
    scores = torch.tensor([[torch.nan, 0.1, 0.2], [0.3, torch.nan, 0.1]])
    assert choice_accuracy(scores, torch.tensor([0, 0])) == 0


def test_retrieval_on_a_permutation_and_on_its_reverse():
    rows = torch.eye(4)
    assert retrieval_metrics(rows, rows, "t2v")["t2v_recall_at_1"] == 1
    assert retrieval_metrics(rows, rows.flip(0), "t2v")["t2v_recall_at_1"] == 0


def test_multiple_choice_picks_the_largest_of_five():
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.4], [0.5, 0.5, 0.1, 0.1, 0.1]])
    assert choice_accuracy(scores, torch.tensor([2, 4])) == 0.5
    assert choice_accuracy(scores, torch.tensor([2, 0])) == 0.5  # a tie is no answer


# Instruction data


def test_all_kinds_of_questions_are_there():
    captions = PlainClips(40).fetch(np.arange(40)).fields["caption"].tolist()
    found = [one for caption in captions for one in instructions(caption)]
    assert {one.kind for one in found} == set(KINDS)
    for kind in (CAUSAL, SHORT, TEMPORAL):
        assert len({one.answer for one in found if one.kind == kind}) > 4
    assert any("because" in one.answer for one in found)


def test_answers_never_leak_into_the_instruction():
    captions = Clips(40).fetch(np.arange(40)).fields["caption"].tolist()
    captions += ["Rain on the sea at night", "a dog rises"]
    for caption in captions:
        for one in instructions(caption):
            assert one.answer not in one.instruction


def test_cuts_are_asked_about_in_order():
    asked = {
        one.instruction: one.answer
        for one in instructions("a red ball rises, then a blue ring spins")
    }
    assert asked["what comes first"] == "a red ball"
    assert asked["what comes last"] == "a blue ring"
    assert asked["where is the red ball before"] == "further down"
    assert asked["why is the blue ring of another look"] == "because it spins"


def test_captions_that_cannot_be_taken_apart_still_tell_something():
    assert [one.instruction for one in instructions("Rain")][0] == PROMPT
    assert [one.answer for one in instructions("")] == [""]


def test_questions_depend_on_their_own_group_alone():
    captions = PlainClips(9).fetch(np.arange(3)).fields["caption"]
    offsets = np.array([0, 16, 32, 48])
    seeds = np.array([5, 6, 7], np.uint64)
    whole = drawn(captions, offsets, seeds)
    assert drawn(captions, offsets, seeds) == whole
    alone = drawn(captions[16:32], np.array([0, 16]), seeds[1:2])
    assert alone == whole[16:32]
    assert drawn(captions, offsets, seeds + np.uint64(1)) != whole


# Prompt tokens and padding carry no loss


def test_padding_and_the_opening_id_carry_no_loss(model):
    answer = torch.tensor([[BOS, 9, 10, EOS, PAD], [BOS, 11, EOS, PAD, PAD]])
    logits = torch.randn(2, 4, SHAPE.vocab_size)
    weight = torch.ones(2)
    found = answer_loss(logits, answer, weight)
    other = answer.clone()
    other[:, 0] = 17  # nobody predicts the first id
    assert torch.equal(answer_loss(logits, other, weight), found)
    changed = logits.clone()
    changed[0, 3] = changed[1, 2:] = 9.0
    assert torch.equal(answer_loss(changed, answer, weight), found)
    alone = answer_loss(logits[:1], answer[:1], weight[:1])
    weighed = answer_loss(logits, answer, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(weighed, alone)


def test_padding_of_a_prompt_is_not_read(model):
    shown = torch.randn(1, 2, SHAPE.width).double()
    answer = torch.tensor([[BOS, 9, 10]])
    short = torch.tensor([[BOS, 7, EOS]])
    long = torch.tensor([[BOS, 7, EOS, PAD, PAD]])
    torch.testing.assert_close(
        model.decode(model.encode(shown, short), answer),
        model.decode(model.encode(shown, long), answer),
    )


def test_later_ids_are_not_seen(model):
    memory = memory_of(model, 1)
    first = model.decode(memory, torch.tensor([[BOS, 9, 10]]))
    other = model.decode(memory, torch.tensor([[BOS, 9, 44]]))
    torch.testing.assert_close(first[:, :2], other[:, :2])
    assert not torch.allclose(first[:, 2], other[:, 2])


# Writing


def score_of(model, memory, ids):
    """Log-likelihood over length to the power 0.6, by brute force."""
    logits = model.decode(memory, torch.tensor([ids[:-1]]))[0].detach()
    logits[:, [PAD, BOS, 3]] = -math.inf
    chances = logits.log_softmax(-1)
    total = sum(float(chances[i, token]) for i, token in enumerate(ids[1:]))
    return total / len(ids[1:]) ** 0.6


def test_wide_beams_find_what_trying_everything_finds(model):
    memory = memory_of(model, 1)
    pieces = [i for i in range(SHAPE.vocab_size) if i not in (PAD, BOS, 3)]
    texts = [[BOS, EOS]]
    texts += [[BOS, a, EOS] for a in pieces if a != EOS]
    texts += [[BOS, a, b] for a in pieces if a != EOS for b in pieces if b != EOS]
    best = max(texts, key=lambda ids: score_of(model, memory, ids))
    found, scores = beam_search(model, memory, beams=50, length=3)
    assert [i for i in found[0, 0].tolist() if i != PAD] == best
    assert float(scores[0, 0].detach()) == pytest.approx(score_of(model, memory, best))
    assert (scores.diff(dim=1) <= 0).all()


def test_one_beam_is_greedy_and_more_are_never_worse(model):
    memory = memory_of(model)
    ids = torch.full((3, 1), BOS)
    for _ in range(SHAPE.length - 1):
        logits = model.decode(memory, ids)[:, -1].clone()
        logits[:, [PAD, BOS, 3]] = -math.inf
        ended = (ids[:, -1] == EOS) | (ids[:, -1] == PAD)
        ids = torch.cat([ids, torch.where(ended, PAD, logits.argmax(-1))[:, None]], 1)
    found, scores = beam_search(model, memory, beams=1)
    assert torch.equal(found[:, 0], ids)
    wider = beam_search(model, memory, beams=8)[1]
    assert wider[:, 0].sum() >= scores[:, 0].sum()
    with pytest.raises(UserError, match="beams=0"):
        beam_search(model, memory, beams=0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.999), st.floats(0.05, 1.0), st.integers(0, 10**6))
def test_only_the_nucleus_is_drawn(luck, top_p, seed):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)).double()
    drawn_id = int(
        Sampler(temperature=1.0, top_p=top_p).choose(
            logits, torch.tensor([luck]).double()
        )
    )
    chances = logits.softmax(-1)[0]
    ahead = float(chances[chances > chances[drawn_id]].sum())
    assert ahead < top_p


def test_sampling_follows_the_chances():
    chances = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
    luck = (torch.arange(10_000) + 0.5) / 10_000
    ids = Sampler(temperature=1.0, top_p=1.0).choose(
        chances.log().expand(len(luck), -1), luck
    )
    shares = torch.bincount(ids, minlength=4) / len(luck)
    torch.testing.assert_close(shares, chances[0], atol=1e-3, rtol=0)


def test_texts_begin_once_end_once_and_hold_nothing_after_the_end(model):
    luck = torch.rand(3, SHAPE.length - 1, generator=torch.Generator().manual_seed(2))
    for ids in (
        sample(model, memory_of(model), luck.double(), Sampler()),
        beam_search(model, memory_of(model), beams=3)[0].flatten(0, 1),
    ):
        for row in ids.tolist():
            assert row[0] == BOS
            text = list(itertools.takewhile(lambda i: i != EOS, row[1:]))
            assert not {PAD, BOS, 3} & set(text)
            assert set(row[2 + len(text) :]) <= {PAD}


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}])
def test_senseless_samplers_are_refused(wrong):
    with pytest.raises(UserError, match="top_p"):
        Sampler(**wrong)
