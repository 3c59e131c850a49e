"""Generated clips, scenes and motions: what their fields promise."""

import numpy as np
import pytest

from simulations.datasets import load
from simulations.datasets.cameras import JOINTS, project, rotation
from simulations.datasets.poses import NAMED, Motions
from simulations.datasets.scenes import LABEL_DIVISOR, PREDICATES, STUFF, categories
from simulations.datasets.shapes import COLOURS, SHAPES


@pytest.mark.parametrize("name", ["clips", "scenes", "relation-scenes", "poses"])
def test_users_are_independent_and_any_number_costs_nothing(name):
    data = load(name, users=10_000_000)
    users = np.array([9_999_999, 4, 77])
    together = data.fetch(users)
    for position, user in enumerate(users):
        alone = data.fetch(np.array([user])).fields
        for field, values in together.group(position).items():
            np.testing.assert_array_equal(values, alone[field])
    other = load(name, users=10, seed=1).fetch(np.array([4])).fields
    assert not np.array_equal(other["label"], together.group(1)["label"])


@pytest.mark.parametrize("name", ["clips", "scenes", "relation-scenes", "poses"])
def test_held_out_classes_are_unseen(name):
    data = load(name, users=40)
    trained = data.fetch(np.arange(40)).fields["label"]
    held_out = data.held_out().fields["label"]
    assert trained.max() < data.num_classes == held_out.min()
    assert held_out.max() == len(data.class_names) - 1
    assert len(set(data.class_names)) == len(data.class_names)


@pytest.fixture(scope="module")
def scenes():
    return load("scenes", users=50).fetch(np.arange(20)).fields


def test_maps_hold_categories_and_boxes_hold_their_pixels(scenes):
    known = {category["id"] for category in categories()}
    for row in range(40):
        ids = scenes["panoptic"][row]
        assert set(np.unique(ids // LABEL_DIVISOR)) <= known
        for place in range(4):
            shape = scenes["object_label"][row, place]
            mask = ids % LABEL_DIVISOR == place + 1
            assert mask.any() == (shape >= 0)
            if shape < 0:
                continue
            assert set(ids[mask] // LABEL_DIVISOR) == {len(STUFF) + 1 + shape}
            top, left, bottom, right = np.rint(scenes["boxes"][row, place] * 64)
            y, x = np.nonzero(mask)
            assert (y.min(), x.min(), y.max() + 1, x.max() + 1) == (
                top,
                left,
                bottom,
                right,
            )


def test_relations_hold_in_the_picture_and_in_the_caption(scenes):
    for row in range(len(scenes["label"])):
        subject, predicate, target = scenes["relations"][row, 0]
        assert PREDICATES[predicate] in scenes["caption"][row]
        assert scenes["caption"][row].endswith(
            f"{PREDICATES[predicate]} a {SHAPES[scenes['object_label'][row, target]]}"
        )
        colour = COLOURS[scenes["object_colour"][row, subject]]
        assert f" {colour} " in scenes["caption"][row]
        boxes = scenes["boxes"][row]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        dy, dx = middle[subject] - middle[target]
        if PREDICATES[predicate] == "left of":
            assert dx < -0.1
        if PREDICATES[predicate] == "above":
            assert dy < -0.1
        if PREDICATES[predicate] == "next to":
            assert dx > 0.1
        if PREDICATES[predicate] == "inside":
            assert (boxes[subject, :2] >= boxes[target, :2]).all()
            assert (boxes[subject, 2:] <= boxes[target, 2:]).all()


def test_cameras_rotate_and_keep_distances():
    draw = np.random.default_rng(0)
    turn = rotation(*draw.uniform(-3, 3, (3, 50)))
    np.testing.assert_allclose(
        turn @ turn.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1)
    quarter = rotation(np.array(np.pi / 2), np.array(0.0), np.array(0.0))
    np.testing.assert_allclose(quarter @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_motions_have_rigid_limbs_and_the_cameras_they_say():
    rows = Motions(50).fetch(np.arange(30)).fields
    poses = rows["pose3d"].astype(np.float64)
    joint = {name: poses[:, :, k] for k, name in enumerate(JOINTS)}
    for one, two in (("left hip", "left knee"), ("right elbow", "right wrist")):
        length = np.linalg.norm(joint[one] - joint[two], axis=-1)
        np.testing.assert_allclose(length, length[:, :1].repeat(16, 1), atol=1e-5)
    again = project(poses, rows["camera"])
    np.testing.assert_allclose(again, rows["keypoints"], atol=1e-5)
    assert -0.3 < rows["keypoints"].min() < rows["keypoints"].max() < 1.3


def test_named_actions_look_like_their_names():
    data = Motions(2_000)
    rows = data.fetch(np.arange(400)).fields
    names = np.array(data.class_names)[rows["label"]]

    def joint(name, action):
        return rows["pose3d"][names == action][:, :, JOINTS.index(name)]

    held = set(data.class_names[data.num_classes :])
    for action in set(NAMED) - held:
        moved = np.ptp(rows["pose3d"][names == action], axis=1).mean()
        assert (moved < 0.02) == (action == "idle"), (action, moved)
    if "wave" not in held:
        above = joint("left wrist", "wave")[..., 1] - joint("nose", "wave")[..., 1]
        assert (above > -0.2).mean() > 0.9
    if "squat" not in held:
        assert np.ptp(joint("left ankle", "squat")[..., 1], axis=1).mean() > 0.2
    if "kick" not in held:
        ahead = joint("right ankle", "kick")[..., 2].max(axis=1)
        assert (ahead > 0.3).all()
