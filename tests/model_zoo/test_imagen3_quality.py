"""The quality protocol: distances, Elo, the human study, alignment and counting."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from fedemb.errors import UserError
from model_zoo.imagen3.quality import published
from model_zoo.imagen3.quality.alignment import (
    VQA_TEMPLATE,
    choice_probability,
    question_score,
    questions,
    vqa_score,
)
from model_zoo.imagen3.quality.counting import (
    asked_count,
    count_prompt,
    count_things,
    exact_count,
)
from model_zoo.imagen3.quality.distances import (
    CMMD_SCALE,
    CMMD_SIGMA,
    cmmd,
    frechet_distance,
    gaussian_distance,
)
from model_zoo.imagen3.quality.elo import (
    Rating,
    elo,
    elo_table,
    expected_share,
    win_matrix,
)
from model_zoo.imagen3.quality.study import (
    RATINGS,
    SIDE_BY_SIDE,
    Question,
    agreement,
    plan,
    rating,
    significant,
)
from simulations.datasets.shapes import COLOURS, RGB, Things


def vectors(seed, shift=0.0, rows=200, dim=5):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, dim)) @ draw.normal(size=(dim, dim)) + shift


def test_fid_of_a_set_with_itself_is_0_and_symmetric():
    one, two = vectors(0), vectors(1, 0.5)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one))
    assert frechet_distance(one, two) > 0.1


def test_fd_of_n_0_1_and_n_2_1_is_4():
    one = np.eye(1)
    assert gaussian_distance(np.zeros(1), one, np.full(1, 2.0), one) == 4
    draw = np.random.default_rng(0).normal(size=(4000, 1))
    assert frechet_distance(draw[:2000], draw[2000:] + 2) == pytest.approx(4, abs=0.3)


def test_fd_is_that_of_the_matrix_square_root():
    one, two = vectors(2), vectors(3)
    a, b = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    cross = np.trace(sqrtm(a @ b).real)
    expected = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(a + b) - 2 * cross
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)


def test_cmmd_of_a_set_with_itself_is_0_and_grows_with_mean_shift():
    one = vectors(4)
    assert abs(cmmd(one, one)) < 1e-6 * CMMD_SCALE
    shifted = [cmmd(one, one + shift) for shift in (0.1, 0.5, 2.0)]
    assert 0 < shifted[0] < shifted[1] < shifted[2]
    assert (CMMD_SIGMA, CMMD_SCALE) == (10, 1000)


def test_cmmd_takes_means_with_the_diagonals():
    one, two = np.array([[0.0], [10.0]]), np.array([[0.0]])
    near = math.exp(-0.5)
    expected = 1000 * ((2 + 2 * near) / 4 + 1 - 2 * (1 + near) / 2)
    assert cmmd(one, two) == pytest.approx(expected)


def test_a_transitive_matrix_recovers_the_order():
    scores = np.array([1120.0, 1050, 1000, 930, 900])
    shares = 1 / (1 + 10 ** ((scores - scores[:, None]) / 400))
    np.fill_diagonal(shares, 0)
    found = elo(2500 * shares)
    np.testing.assert_allclose(found, scores, atol=0.1)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 50), min_size=12, max_size=12))
def test_elo_has_mean_1000_and_does_not_depend_on_the_unit_of_counting(counts):
    wins = np.zeros((4, 4))
    wins[~np.eye(4, dtype=bool)] = counts
    found = elo(wins)
    assert found.mean() == pytest.approx(1000)
    np.testing.assert_allclose(elo(wins * 7), found, atol=0.05)


def test_indifference_adds_a_half_and_half_a_win_rate_means_equal():
    ratings = [Rating(0, 1, 0.5)] * 3 + [Rating(1, 0, 1.0), Rating(0, 1, 1.0)]
    wins = win_matrix(ratings, 2)
    assert wins.tolist() == [[0, 2.5], [2.5, 0]]
    np.testing.assert_allclose(elo(wins), [1000, 1000], atol=1e-6)


def test_57_8_per_cent_is_54_6_points_and_scores_shift_together():
    found = elo(np.array([[0, 57.8], [42.2, 0]]))
    assert found[0] - found[1] == pytest.approx(54.6, abs=0.1)
    assert expected_share(found[0] - found[1]) == pytest.approx(0.578)
    assert expected_share((found[0] + 99) - (found[1] + 99)) == pytest.approx(0.578)


def test_a_model_that_never_wins_has_a_finite_score():
    found = elo(np.array([[0.0, 10, 10], [0, 0, 5], [0, 5, 0]]))
    assert np.isfinite(found).all()
    assert found[0] > found[1] + 300


def test_bootstrap_intervals_hold_the_score_and_shrink_with_ratings():
    draw = np.random.default_rng(0)

    def table(count):
        wins = draw.random(count) < 0.6
        return elo_table([Rating(0, 1, float(w)) for w in wins], 2, draws=100)

    few, many = table(40), table(1000)
    for found in (few, many):
        assert (found.low <= found.scores).all()
        assert (found.scores <= found.high).all()
    assert (many.high - many.low).max() < 0.5 * (few.high - few.low).max()
    assert many.confidence == 0.99


def test_a_study_spreads_ratings_evenly_and_shuffles_sides():
    asked = plan(3, 7, ratings=30, seed=1)
    assert len(asked) == 3 * 30 * len(SIDE_BY_SIDE)
    for aspect in SIDE_BY_SIDE:
        pair = [q for q in asked if q.aspect == aspect and {q.left, q.right} == {0, 2}]
        each = np.bincount([q.prompt for q in pair], minlength=7)
        assert each.max() - each.min() <= 1
        assert 5 < sum(q.left == 0 for q in pair) < 25
    assert plan(3, 7, ratings=30, seed=1) == asked
    assert RATINGS == 2500
    with pytest.raises(UserError):
        plan(1, 7)


def test_answers_become_ratings():
    question = Question("visual appeal", 0, left=2, right=1)
    assert rating(question, "left") == Rating(2, 1, 1.0)
    assert rating(question, "indifferent").share == 0.5
    with pytest.raises(UserError):
        rating(question, "both")


def test_significance_is_that_of_the_signed_rank_test():
    one = np.random.default_rng(0).normal(size=60)
    assert significant(one + 1, one + np.linspace(-0.1, 0.1, 60))
    assert not significant(one, one)
    assert not significant(one, one[::-1])


def test_agreement_counts_pairs_in_human_order():
    assert agreement([3, 2, 1], [30, 20, 10]) == 1
    assert agreement([1, 2, 3], [30, 20, 10]) == 0


def test_the_published_constants():
    assert published.COCO["Imagen 3"] == (17.2, 213.9, 0.854)
    assert published.ELO["GenAI-Bench overall"][0] == 1098
    assert published.GECKONUM_IMAGEN_3 == 58.6
    assert published.AGREEMENT["VQAScore"] == 80
    assert published.HOMOGENEOUS["gender"] == (15.48, 50.0)
    gap = published.ELO["GenAI-Bench overall"][0] - 1047
    assert abs(expected_share(gap) - published.WINS_OF_IMAGEN_3["SD3"] / 100) < 0.01


def test_questions_are_made_from_the_words_of_a_prompt():
    asked = questions("a red ball left of a ring")
    assert [len(q.wrong) for q in asked] == [7, 5, 7, 5]
    assert asked[2].wrong[0] == "a red ball right of a ring"
    assert questions("a portrait") == ()
    assert VQA_TEMPLATE.format(text="x").endswith("Please answer yes or no.")
    assert vqa_score([0.0, 0.0]) == 1
    assert vqa_score([math.log(4), 0]) == pytest.approx(0.5)


def test_an_oracle_scores_right_pictures_1_and_wrong_ones_lower():
    prompts = ["a red ball above a ring", "a cyan cross inside a diamond"]

    def oracle(shown):
        def judge(picture, texts):
            mine = set(shown[picture].split())
            return np.array([9.0 * len(mine & set(t.split())) for t in texts])

        return judge

    assert question_score(oracle(prompts), prompts) == 1
    assert question_score(oracle(prompts[::-1]), prompts) < 0.5
    choice = questions(prompts[0])[0]
    assert 0 <= choice_probability(oracle(prompts[::-1]), 0, choice) <= 1
    assert math.isnan(question_score(oracle(["dog"]), ["dog"]))


def painted(number, colour):
    """A grey picture with `number` balls in one colour."""
    picture = np.full((1, 64, 64, 3), 120, np.float32)
    for k in range(number):
        place = np.array([0.15 + 0.23 * (k % 4)]), np.array([0.2 + 0.3 * (k // 4)])
        one, zero = np.ones(1), np.zeros(1)
        ball = Things(np.array([1]), np.array([colour]), *place, 0.09 * one, zero, zero)
        ball.paint(picture, ball.mask(64))
    return picture[0]


def test_counting_is_exact_on_pictures_that_show_what_was_asked_for():
    red = COLOURS.index("red")
    asked = [1, 2, 3, 5, 8, 10]
    counted = [count_things(painted(n, red), RGB[red]) for n in asked]
    assert exact_count(counted, asked) == 1
    green = count_things(painted(3, red), RGB[COLOURS.index("green")])
    assert green == 0
    prompts = [count_prompt(n, "red ball") for n in asked]
    assert [asked_count(prompt) for prompt in prompts] == asked
    assert exact_count(counted[::-1], asked) == 0
