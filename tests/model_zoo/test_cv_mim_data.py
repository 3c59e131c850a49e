"""CV-MIM's data: pairs of views, cameras, normalisation, pictures, recorded motions."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import UserError
from model_zoo import registry
from model_zoo.cv_mim.distances import aligned_mpjpe, mpjpe
from model_zoo.cv_mim.encoder import SCALE_UNIT, normalize_2d
from model_zoo.cv_mim.geometry import (
    FAR,
    look,
    normalize_3d,
    rotation,
    select_keypoints,
)
from model_zoo.cv_mim.pairs import Pairs, first_view, motions
from model_zoo.cv_mim.sizes import Sizes
from model_zoo.cv_mim.task import CrossViewTask
from simulations.datasets.poses import Motions
from simulations.datasets.registry import load

SHARED = Path(__file__).parents[2] / "../shared/data"
SMALL = Sizes(hidden=8, pose_dim=4, view_dim=4)


@pytest.fixture(scope="module")
def rows():
    return Motions(100).fetch(np.arange(6))


def draw(pairs, examples, seed=5):
    seeds = np.arange(examples.num_groups, dtype=np.uint64) + np.uint64(seed)
    return pairs.draw(examples, seeds)


def test_identity_angles_reproduce_the_orthographic_layout():
    pose = np.random.default_rng(0).normal(size=(13, 3))
    flat = look(pose, np.zeros(3), None)
    np.testing.assert_array_equal(flat, pose[:, :2] * [1, -1])
    far = look(pose, np.zeros(3), 1e6) * 1e6
    np.testing.assert_allclose(far, flat, atol=1e-4)


def test_yaw_only_projection_keeps_the_order_of_heights_and_their_distances():
    pose = np.random.default_rng(0).normal(size=(13, 3))
    turned = np.stack([np.linspace(-3, 3, 7), np.zeros(7), np.zeros(7)], axis=-1)
    seen = look(pose, turned, None)
    np.testing.assert_allclose(seen[..., 1], np.tile(-pose[:, 1], (7, 1)))
    gaps = np.abs(seen[:, :, None, 1] - seen[:, None, :, 1])
    order = np.argsort(gaps.reshape(7, -1), axis=1, kind="stable")
    assert (order == order[0]).all()
    inside = look(pose, turned, FAR)
    np.testing.assert_allclose(inside[0], look(pose, turned[0], FAR))


def test_poses_are_normalised_by_hips_and_trunk():
    pose = torch.rand(5, 13, 2, dtype=torch.float64)
    found = normalize_2d(pose)
    torch.testing.assert_close(
        found[:, 7:9].mean(1), torch.zeros(5, 2, dtype=torch.float64)
    )
    pairs = [(1, 2), (1, 7), (1, 8), (2, 7), (2, 8), (7, 8)]
    longest = torch.stack([(found[:, a] - found[:, b]).norm(dim=-1) for a, b in pairs])
    torch.testing.assert_close(
        longest.amax(0), torch.full((5,), SCALE_UNIT, dtype=torch.float64)
    )
    torch.testing.assert_close(normalize_2d(found), found)
    point = torch.zeros(1, 13, 2)
    assert normalize_2d(point).eq(0).all()
    spine = normalize_3d(np.random.default_rng(0).normal(size=(4, 13, 3)))
    np.testing.assert_allclose(np.linalg.norm(spine[:, 1:3].mean(1), axis=-1), 1)


def test_alignment_removes_similarity_transforms_and_nothing_else():
    draw = np.random.default_rng(0)
    pose = torch.from_numpy(draw.normal(size=(13, 3)))
    turn = torch.from_numpy(rotation(*draw.uniform(-3, 3, 3)))
    assert aligned_mpjpe(pose, 3 * pose @ turn.T + 1) < 1e-9
    mirrored = pose * torch.tensor([-1.0, 1, 1])
    assert aligned_mpjpe(pose, mirrored) > 0.1
    assert mpjpe(pose, pose + torch.tensor([3.0, 4, 0])) == pytest.approx(5)


def test_pairs_show_one_pose_from_two_cameras(rows):
    found = draw(Pairs(frames=3, projected=0.0), rows)
    assert found["poses"].shape == (len(rows), 3, 2, 13, 2)
    keypoints = rows.fields["keypoints"]
    for row in (0, 17, 50):
        for pose in found["poses"][row]:
            same = (keypoints[row] == pose[0][None, None]).all((-1, -2))
            other = (keypoints[row] == pose[1][None, None]).all((-1, -2))
            (first,), (second,) = np.argwhere(same), np.argwhere(other)
            assert first[0] != second[0]
            assert first[1] == second[1]


def test_projected_pairs_are_pictures_of_the_drawn_pose(rows):
    pairs = Pairs(projected=1.0, elevation=0.0, roll=0.0)
    found = draw(pairs, rows)
    assert found["joints"].shape == (len(rows), 1, 13, 3)
    heights = found["poses"][..., 1]
    # without tilt, depth decides the scale of a joint's height, never its sign
    assert (np.sign(heights) == -np.sign(found["joints"][..., None, :, 1])).all()


def test_about_half_of_the_pairs_are_projections(rows):
    examples = Motions(100).fetch(np.arange(60))
    mixed = draw(Pairs(frames=2), examples)["poses"]
    # the data's cameras put the middle of the hips at (0.5, 0.5), projections at 0
    at_zero = np.abs(mixed[..., 7:9, :].mean((-1, -2, -3))) < 0.2
    assert abs(at_zero.mean() - 0.5) < 0.06


@pytest.mark.parametrize("field", ["pose3d", "keypoints"])
def test_one_kind_of_pose_suffices(rows, field):
    only = Examples({field: rows.fields[field]}, rows.offsets)
    assert draw(Pairs(), only)["poses"].shape == (len(rows), 1, 2, 13, 2)
    assert first_view(only.fields).shape == (len(rows), 16, 13, 2)
    still = {field: rows.fields[field][..., 0, :, :]}
    assert draw(Pairs(), Examples(still, rows.offsets))["poses"].shape[0] == len(rows)


def test_one_camera_without_3d_poses_can_be_embedded_but_not_trained_on(rows):
    fields = {"keypoints": rows.fields["keypoints"][:, :1]}
    lone = Examples(fields | {"label": rows.fields["label"]}, rows.offsets)
    task = CrossViewTask(sizes=SMALL)
    backbone = task.make_backbone()
    batch = task.prepare(lone, np.zeros(6, np.uint64))
    assert task.embed(backbone, batch).shape == (len(rows), 4)
    assert "recall_at_1" in task.evaluate(backbone, lone)
    with pytest.raises(UserError, match="two cameras"):
        task.features(backbone, batch)
    with pytest.raises(UserError, match="neither"):
        motions({"label": np.zeros(3)})
    with pytest.raises(UserError, match=r"\(13, 3\)"):
        motions({"pose3d": np.zeros((2, 4, 17, 3))})


def test_a_user_s_pairs_depend_on_her_own_rows_and_seed_alone(rows):
    task = CrossViewTask(sizes=SMALL)
    seeds = np.arange(6, dtype=np.uint64)
    whole = task.prepare(rows, seeds)
    changed = {k: v.copy() for k, v in rows.fields.items()}
    start, stop = rows.offsets[2], rows.offsets[3]
    changed["pose3d"][start:stop] += 1.0
    changed["keypoints"][start:stop] = 0.25
    after = task.prepare(Examples(changed, rows.offsets), seeds)
    for name, values in whole.items():
        same = (values == after[name]).flatten(1).all(1)
        assert same[:start].all(), name
        assert same[stop:].all(), name
    assert not torch.equal(whole["poses"][start:stop], after["poses"][start:stop])
    alone = Examples(rows.group(4), np.array([0, rows.sizes[4]]))
    own = task.prepare(alone, seeds[4:5])
    start, stop = rows.offsets[4], rows.offsets[5]
    for name, values in own.items():
        assert torch.equal(values, whole[name][start:stop]), name


def test_thresholds_mark_near_duplicate_poses_of_other_people_as_positive(rows):
    task = CrossViewTask(
        sizes=Sizes(hidden=8, pose_dim=4, view_dim=4, max_mpjpe_3d=0.05)
    )
    pose = rows.fields["pose3d"][:1, :1]
    twins = np.concatenate([pose, 1.7 * pose + 0.2, rows.fields["pose3d"][40:41, :1]])
    examples = Examples({"pose3d": twins}, np.array([0, 3]))
    batch = task.prepare(examples, np.zeros(1, np.uint64))
    batch["weight"] = torch.ones(3)
    views = task._views(task.features(task.make_backbone(), batch), batch)
    assert views.alike_3d.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_two_recorded_cameras_suffice_for_cross_view_metrics(rows):
    seen = Examples({"keypoints": rows.fields["keypoints"]}, rows.offsets)
    task = CrossViewTask(sizes=SMALL)
    found = task.evaluate(task.make_backbone(), seen)
    assert {"cross_view_recall_at_1", "cross_view_roc_auc"} <= set(found)
    assert found["cross_view_recall_at_1"] < 1  # another picture, not the same one


def test_motions_of_one_frame_are_trained_on_and_judged(rows):
    task = CrossViewTask(sizes=SMALL)
    fields = {name: values.copy() for name, values in rows.fields.items()}
    fields["keypoints"] = fields["keypoints"][:, :, :1]
    fields["pose3d"] = fields["pose3d"][:, :1]
    short = Examples(fields, rows.offsets)
    batch = task.prepare(short, np.zeros(len(rows.offsets) - 1, np.uint64))
    batch["weight"] = torch.ones(len(short))
    backbone = task.make_backbone()
    loss = task.loss(task.make_head(1), task.features(backbone, batch), batch)
    assert torch.isfinite(loss)
    assert np.isfinite(task.evaluate(backbone, short)["single_shot_accuracy"])


@pytest.mark.parametrize("field", ["keypoints", "pose3d"])
def test_missing_joints_are_counted_and_named_where_codes_are_judged(rows, field):
    fields = {name: values.copy() for name, values in rows.fields.items()}
    fields[field][3, ..., 0, 0] = np.nan
    task = CrossViewTask(sizes=SMALL)
    told = rf"^1 of {len(rows)} held-out motions .* {field} .* row 3; fill in"
    with pytest.raises(UserError, match=told):
        task.evaluate(task.make_backbone(), Examples(fields, rows.offsets))


def test_a_blank_picture_is_replaced_by_a_frontal_view_and_the_data_stay(rows):
    fields = {k: v[:4].copy() for k, v in rows.fields.items()}
    fields["keypoints"][1] = 0.0
    before = fields["keypoints"].copy()
    found = first_view(fields)
    np.testing.assert_array_equal(found[[0, 2, 3]], before[[0, 2, 3], 0])
    np.testing.assert_array_equal(found[1], first_view({"pose3d": fields["pose3d"]})[1])
    np.testing.assert_array_equal(fields["keypoints"], before)


@pytest.mark.parametrize(
    ("layout", "joints"), [("coco17", 17), ("h36m17", 17), ("kinect25", 25)]
)
def test_other_skeletons_are_selected_by_the_name_of_their_layout(layout, joints):
    poses = np.arange(joints)[:, None] * np.ones(3)
    found = select_keypoints(poses, layout)[:, 0].astype(int)
    assert len(set(found)) == 13
    with pytest.raises(UserError, match="joints"):
        select_keypoints(poses[1:], layout)
    with pytest.raises(UserError, match="coco13"):
        select_keypoints(poses, "mpii")


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 0}, {"projected": 1.5}, {"camera_distance": 0.0}, {"noise": -1.0}],
)
def test_pairs_out_of_range_are_refused(wrong):
    with pytest.raises(UserError):
        Pairs(**wrong)


def test_thumbnails_show_the_motion(rows):
    pictures = CrossViewTask(sizes=SMALL).thumbnails(rows)
    assert pictures.shape == (len(rows), 64, 64, 3)
    assert pictures.dtype == np.uint8
    drawn = (pictures < 200).any(-1).mean((1, 2))
    assert (drawn > 0.02).all()
    assert (drawn < 0.5).all()
    assert not np.array_equal(pictures[0], pictures[20])


@pytest.mark.skipif(
    not (SHARED / "cmu_mocap").is_dir(), reason="no CMU motions beside the repository"
)
def test_recorded_motions_can_be_trained_on_and_evaluated(tmp_path):
    archive = SHARED / "cmu_mocap" / "cmu_subjects_01_02_03.tar.xz"
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "cmu_mocap", filter="data")
    data = load("cmu-mocap", root=tmp_path)
    task = CrossViewTask(sizes=SMALL)
    batch = task.prepare(data.fetch(np.array([0])), np.zeros(1, np.uint64))
    batch["weight"] = torch.ones(len(batch["poses"]))
    torch.manual_seed(0)
    backbone, head = task.make_backbone(), task.make_head(1)
    assert torch.isfinite(task.loss(head, task.features(backbone, batch), batch))
    found = task.evaluate(backbone, data.held_out())
    assert {"recall_at_1", "cross_view_recall_at_1", "pose_hit_at_1"} <= set(found)
    assert set(registry.get("cv_mim").watched) <= set(found)
