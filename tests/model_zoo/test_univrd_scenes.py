"""Names, phrases, mosaics and queries; nothing leaves its virtual client."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.errors import UserError
from model_zoo.univrd.augment import Annotated, Augmentation, annotated, augmented
from model_zoo.univrd.geometry import corners, overlaps
from model_zoo.univrd.phrases import LabelSpace, gerund, phrase
from model_zoo.univrd.queries import ask
from simulations.datasets.registry import load

DATA = load("relation-scenes", users=50)
SPACE = LabelSpace.of(DATA.vocabularies)


def rows_of(users):
    examples = DATA.fetch(np.asarray(users))
    return annotated(examples), examples.offsets


def changed(rows, offsets, how, seed=0):
    draws = np.random.default_rng(seed).random((len(rows.names), how.draws))
    return augmented(rows, offsets, draws, how, SPACE.mirrored), draws


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("ride", "a person riding a horse"),
        ("sit_on", "a person sitting on a horse"),
        ("lie on", "a person lying on a horse"),
        ("look at", "a person looking at a horse"),
        ("held by", "a person held by a horse"),
        ("no interaction", "a person and a horse"),
        ("left of", "a person left of a horse"),
    ],
)
def test_relation_prompts_are_english(verb, expected):
    assert phrase("person", verb, "horse") == expected


def test_gerunds_stay_what_they_are():
    assert gerund(gerund("hold")) == "holding"


def test_the_union_holds_every_source_and_no_mixture_of_them():
    assert len(SPACE.objects) == 12
    assert len(SPACE.triplets) == 2 * 6 * 9 * 6
    assert len(SPACE.phrases_of(0)) == len(SPACE.phrases_of(1)) == 6 * 9 * 6
    assert len(SPACE.phrases_of(2)) == 0
    assert not set(SPACE.phrases_of(0)) & set(SPACE.phrases_of(1))
    numbers = SPACE.phrase_number[tuple(SPACE.triplets.T)]
    assert numbers.tolist() == list(range(len(SPACE.triplets)))
    with pytest.raises(UserError, match="relation-scenes"):
        LabelSpace.of({})


def test_a_mirror_exchanges_left_and_right():
    left, right = (SPACE.predicates.index(f"to the {x} of") for x in ("left", "right"))
    assert SPACE.mirrored[left] == right
    assert SPACE.mirrored[SPACE.mirrored].tolist() == list(range(18))


def test_mosaic_boxes_are_remapped_correctly():
    """IoU of GT after the inverse map is 1; 3 x 3 contains at most 9 images."""
    how = Augmentation(mosaics=(0.0, 0.0, 1.0), least_crop=1.0, flip=0.0)
    rows, offsets = rows_of(range(4))
    made, draws = changed(rows, offsets, how)
    for row in range(len(rows.names)):
        group = int(np.searchsorted(offsets, row, side="right")) - 1
        size = offsets[group + 1] - offsets[group]
        picks = offsets[group] + (draws[row, 1:10] * size).astype(int)
        picks[0] = row
        assert len(set(picks)) <= 9
        boxes = made.boxes[row].reshape(9, -1, 4)
        names = made.names[row].reshape(9, -1)
        for tile, source in enumerate(picks):
            assert names[tile].tolist() == rows.names[source].tolist()
            back = boxes[tile] * 3 - np.array([tile % 3, tile // 3, 0, 0])
            real = rows.names[source] >= 0
            iou, _ = overlaps(
                corners(torch.from_numpy(back[real]).float()),
                corners(torch.from_numpy(rows.boxes[source][real])),
            )
            torch.testing.assert_close(iou, torch.ones(len(iou)), atol=1e-4, rtol=0)


def test_mosaic_relations_point_at_the_things_of_their_own_tile():
    how = Augmentation(mosaics=(0.0, 1.0), least_crop=1.0, flip=0.0)
    rows, offsets = rows_of(range(6))
    made, _ = changed(rows, offsets, how)
    ends = made.relations[made.relations[..., 0] >= 0][:, [0, 2]]
    assert len(ends)
    assert (ends[:, 0] // 4 == ends[:, 1] // 4).all()


def test_a_flip_mirrors_pixels_boxes_and_words():
    how = Augmentation(mosaics=(1.0,), least_crop=1.0, flip=1.0)
    rows, offsets = rows_of(range(6))
    made, _ = changed(rows, offsets, how)
    assert np.array_equal(made.image, rows.image[:, :, ::-1])
    real = rows.names >= 0
    turned = rows.boxes * [-1, 1, 1, 1] + [1, 0, 0, 0]
    np.testing.assert_allclose(made.boxes[real], turned[real], atol=1e-5)
    some = rows.relations[..., 0] >= 0
    assert np.array_equal(
        made.relations[some][:, 1], SPACE.mirrored[rows.relations[some][:, 1]]
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_a_crop_drops_what_leaves_it_and_cuts_the_rest(seed):
    how = Augmentation(mosaics=(1.0,), least_crop=0.5, flip=0.0)
    rows, offsets = rows_of([seed % 50])
    made, draws = changed(rows, offsets, how, seed)
    wide, left, top = draws[:, 2:5].T
    size = 0.5 + 0.5 * wide
    low = np.stack([left * (1 - size), top * (1 - size)], axis=1)[:, None]
    centre = (rows.boxes[..., :2] - low) / size[:, None, None]
    inside = ((centre > 0) & (centre < 1)).all(-1) & (rows.names >= 0)
    assert np.array_equal(made.names >= 0, inside)
    assert made.boxes.min() >= 0
    assert made.boxes.max() <= 1
    whole = (rows.boxes[..., 2:] / size[:, None, None])[inside]
    assert (made.boxes[..., 2:][inside] <= whole + 1e-5).all()
    ends = made.relations[..., [0, 2]]
    for row, pair in zip(*np.nonzero(ends[..., 0] >= 0), strict=True):
        assert (made.names[row][ends[row, pair]] >= 0).all()


def test_no_pixel_box_or_name_leaves_its_virtual_client():
    """Another picture of one user changes nothing in the rows of the others."""
    how = Augmentation()
    rows, offsets = rows_of(range(5))
    first, _ = changed(rows, offsets, how)
    mine = slice(int(offsets[2]), int(offsets[3]))
    image, boxes, names = (np.array(x) for x in (rows.image, rows.boxes, rows.names))
    image[mine], boxes[mine], names[mine] = 255 - image[mine], 0.5, 0
    other = Annotated(image, boxes, names, rows.relations, rows.source)
    second, _ = changed(other, offsets, how)
    rest = np.ones(len(names), dtype=bool)
    rest[mine] = False
    for name in ("image", "boxes", "names", "relations"):
        before, after = getattr(first, name), getattr(second, name)
        assert np.array_equal(before[rest], after[rest])
    assert not np.array_equal(first.image[mine], second.image[mine])


def test_queries_hold_all_that_is_shown_and_negatives_of_the_own_source_alone():
    rows, _ = rows_of(range(30))
    draws = np.random.default_rng(0).random((len(rows.names), 2 * 12 + 20))
    asked = ask(SPACE, rows, draws, 2, 20, 7)
    for row, source in enumerate(rows.source):
        names = set(asked["name_query"][row].tolist()) - {-1}
        shown = set(rows.names[row].tolist()) - {-1}
        assert shown <= names <= shown | set(SPACE.sources[source].objects)
        assert len(names) <= len(shown) + 2
        phrases = asked["phrase_query"][row].tolist()
        real = [p for p in phrases if p >= 0]
        assert len(real) == len(set(real))
        assert set(asked["phrase"][row].tolist()) - {-1} <= set(real)
        assert set(real) <= set(SPACE.phrases_of(source).tolist())
    assert int(asked["template"].max()) < 7


def test_a_users_words_come_from_one_source_and_say_what_the_label_says():
    examples = DATA.fetch(np.arange(30))
    sources = examples.fields["source"].reshape(30, 3)
    assert (sources == sources[:, :1]).all()
    assert set(sources.ravel().tolist()) == {0, 1, 2}
    names = DATA.class_names
    for row, source in enumerate(examples.fields["source"]):
        subject, predicate, target = examples.fields["relations"][row, 0]
        if source == 2:
            assert subject == -1
            continue
        things = examples.fields["object_name"][row]
        words = [
            SPACE.objects[things[subject]],
            SPACE.predicates[predicate],
            SPACE.objects[things[target]],
        ]
        if source == 0:
            assert " ".join(words) == names[examples.fields["label"][row]]
