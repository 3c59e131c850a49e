"""What cannot be judged is refused by name, with the rule and the way out."""

import warnings

import numpy as np
import pytest

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo.imagen3.quality.alignment import (
    Choice,
    choice_probability,
    clip_score,
    vqa_score,
)
from model_zoo.imagen3.quality.counting import (
    asked_count,
    count_prompt,
    count_things,
    exact_count,
)
from model_zoo.imagen3.quality.distances import cmmd, frechet_distance
from model_zoo.imagen3.quality.elo import (
    Rating,
    elo,
    elo_table,
    expected_share,
    win_matrix,
)
from model_zoo.imagen3.quality.study import agreement, significant
from model_zoo.imagen3.responsibility.duplicates import clusters, hashes, weights
from model_zoo.imagen3.responsibility.fairness import (
    distribution,
    drift,
    total_variation,
)
from model_zoo.imagen3.responsibility.filtering import row_weights
from model_zoo.imagen3.responsibility.memorisation import extraction_rate, nearest
from model_zoo.imagen3.responsibility.watermark import Watermark, detection_auc

ROWS = np.random.default_rng(0).normal(size=(5, 3))
HOLED = np.where(np.arange(15).reshape(5, 3) == 7, np.nan, ROWS)
PICTURES = np.zeros((2, 8, 8, 3))
SURE = Choice("a", ("b",))
CLASSES = np.array([0, 1])
ONE_SCORE = np.zeros(1)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: frechet_distance(ROWS[:1], ROWS), r"first.*\(1, 3\).*at least 2"),
        (lambda: frechet_distance(ROWS, ROWS[:0]), r"second.*\(0, 3\).*at least 2"),
        (lambda: frechet_distance(ROWS, ROWS[:, :2]), "3 numbers.* 2;.*same feature"),
        (lambda: frechet_distance(ROWS, HOLED), "second has 1 values.*not finite"),
        (lambda: frechet_distance(ROWS[0], ROWS), r"first.*\(3,\).*\[n, D\]"),
        (lambda: cmmd(ROWS, ROWS[:0]), "second.*at least 1"),
        (lambda: cmmd(HOLED, ROWS), "first has 1 values"),
        (lambda: cmmd(ROWS, ROWS, sigma=0.0), "sigma=0.0 must be positive"),
        (lambda: elo_table([], 3), "ratings are empty"),
        (lambda: elo_table([Rating(0, 1, 1.0)], 2, confidence=1.0), "confidence=1.0"),
        (lambda: elo_table([Rating(0, 1, 1.0)], 2, draws=0), "draws=0"),
        (lambda: win_matrix([Rating(0, 2, 1.0)], 2), "second=2.* models 0 to 1"),
        (lambda: win_matrix([Rating(-1, 0, 1.0)], 2), "first=-1.* models 0 to 1"),
        (lambda: win_matrix([], 1), "models=1 must be at least 2"),
        (lambda: elo(np.zeros((2, 3))), r"\(2, 3\) must be \[models, models\]"),
        (lambda: elo(np.array([[0, np.nan], [1, 0]])), "finite numbers of 0 or more"),
        (lambda: elo(np.array([[0.0, -1.0], [1, 0]])), "finite numbers of 0 or more"),
        (lambda: agreement([1.0], [2.0]), "automatic.*at least 2"),
        (lambda: agreement([1.0, 2], [2.0, 3, 4]), "automatic has 2.* human has 3"),
        (lambda: significant(np.zeros(0), np.zeros(0)), "first.*at least 1"),
        (lambda: significant(np.zeros(3), np.zeros(4)), "first has 3.*second has 4"),
        (lambda: vqa_score([]), "one cross-entropy per token"),
        (lambda: vqa_score([-0.1]), r"\[-0.1\] must be .* 0 or more"),
        (lambda: vqa_score([float("nan")]), "nan.*0 or more"),
        (lambda: clip_score(float("nan")), r"cosine=nan must be in \[-1, 1\]"),
        (lambda: clip_score(31.0), r"cosine=31.0 must be in \[-1, 1\]"),
        (
            lambda: choice_probability(lambda k, texts: np.zeros(3), 0, SURE),
            "3 logits for 2 texts",
        ),
        (lambda: count_prompt(11, "ball"), "number=11 must be 1 to 10"),
        (lambda: count_prompt(0, "ball"), "number=0 must be 1 to 10"),
        (lambda: count_prompt(2, " "), "must name what is counted"),
        (lambda: exact_count([], []), "counted.*at least 1"),
        (lambda: exact_count([1, 2], [1]), "counted has 2.*asked has 1"),
        (lambda: count_things(PICTURES, (0, 0, 0)), r"must be \[H, W, C\] and \[C\]"),
        (lambda: count_things(PICTURES[0], (0, 0)), r"must be \[H, W, C\] and \[C\]"),
        (lambda: nearest(PICTURES[:0], PICTURES), "first.*at least 1"),
        (lambda: nearest(PICTURES, PICTURES[:0]), "second.*at least 1"),
        (lambda: nearest(PICTURES, PICTURES[:, :4]), "bring both to one size"),
        (lambda: extraction_rate(PICTURES, PICTURES, -1.0), "threshold=-1.0"),
        (lambda: extraction_rate(PICTURES, PICTURES, float("nan")), "threshold=nan"),
        (lambda: distribution(CLASSES[:0], 2), "classes are empty"),
        (lambda: drift(CLASSES, CLASSES[:0], 2), "classes are empty"),
        (lambda: distribution(CLASSES, 1), "from 0 to 1 and must be 0 to 0"),
        (lambda: distribution(CLASSES / 2, 2), "float64 must be whole numbers"),
        (lambda: total_variation([0.5, 0.5], [1.0]), "first has 2.*second has 1"),
        (lambda: total_variation([1, 3], [0.5, 0.5]), r"first=\[1.0, 3.0\].*sum to 1"),
        (lambda: hashes(PICTURES[0]), r"\(8, 8, 3\) must be \[n, H, W, C\]"),
        (lambda: clusters(hashes(PICTURES), -1), "distance=-1 must be 0"),
        (lambda: Watermark(key=1, side=1), "side=1 large enough"),
        (lambda: Watermark(key=-1, side=8), "key=-1 must be 0 or more"),
        (lambda: Watermark(key=1, side=16).embed(PICTURES), "8 x 8 .*side=16"),
        (lambda: Watermark(key=1, side=16).score(PICTURES), "8 x 8 .*side=16"),
        (lambda: detection_auc(np.zeros(0), ONE_SCORE), "marked.*at least 1"),
        (lambda: detection_auc(ONE_SCORE, np.full(1, np.nan)), "clean has 1 values"),
        (
            lambda: row_weights(Examples({"pose": ROWS}, np.array([0, 5]))),
            "fields pose have neither 'image' nor 'clip'",
        ),
    ],
)
def test_what_cannot_be_judged_is_named_with_the_rule_and_the_way_out(ask, told):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no numpy warning in place of a message
        with pytest.raises(UserError, match=told):
            ask()


def test_no_picture_has_no_hash_no_weight_and_no_mark():
    none = PICTURES[:0]
    assert weights(none).shape == (0,)
    assert Watermark(key=1, side=8).found(none).shape == (0,)
    assert Watermark(key=1, side=8).embed(none).shape == (0, 8, 8, 3)


def test_scores_far_apart_have_a_share_of_0_or_1():
    assert expected_share(-1e6) == 0
    assert expected_share(1e6) == 1


@pytest.mark.parametrize(
    ("thing", "several"),
    [
        ("box", "boxes"),
        ("cross", "crosses"),
        ("brush", "brushes"),
        ("red cherry", "red cherries"),
        ("key", "keys"),
        ("ring", "rings"),
    ],
)
def test_several_things_have_their_plural(thing, several):
    assert count_prompt(4, thing) == f"four {several}"
    assert count_prompt(1, thing) == f"one {thing}"
    assert asked_count(count_prompt(10, thing)) == 10
