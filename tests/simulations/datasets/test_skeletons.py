"""NTU RGB+D and Penn Action: joints, views, users, held-out rows, damaged files."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from fedemb.errors import NotAvailable, UserError
from model_zoo.cv_mim.evaluation import seen_by_all
from model_zoo.cv_mim.pairs import Pairs
from model_zoo.cv_mim.recognition import SingleShotSplit
from model_zoo.cv_mim.sizes import Sizes
from model_zoo.cv_mim.task import CrossViewTask
from simulations.datasets import load
from simulations.datasets.bad_rows import BadFile
from simulations.datasets.ntu_format import read_recording
from simulations.datasets.penn_format import read_video
from tests.simulations.datasets.skeleton_files import (
    DISTANCE,
    ORDER,
    figure,
    penn_fields,
    seen_by,
    skeleton_lines,
    write_motion,
    write_ntu,
    write_penn,
)

SMALL = Sizes(hidden=8, pose_dim=4, view_dim=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ntu(tmp_path_factory.mktemp("ntu"), performers=2, actions=5)


def test_joints_are_read_exactly_and_pictures_are_turned_back(tmp_path):
    path = write_motion(tmp_path, performer=1, action=2)[2]
    found = read_recording(path)
    joints = figure(40, pace=2, size=1.1)[:, ORDER]
    np.testing.assert_allclose(found.places, joints - [0, 0, DISTANCE], atol=1e-12)
    x, y, z = np.moveaxis(found.places, -1, 0)
    np.testing.assert_allclose(found.keypoints[..., 0], 0.5 - 1060 / 1920 * x / z)
    np.testing.assert_allclose(found.keypoints[..., 1], (540 + 1060 * y / z) / 1920)
    # she faces the camera: her left is on the picture's right, her head is above
    assert (found.keypoints[:, 1, 0] > found.keypoints[:, 2, 0]).all()
    assert (found.keypoints[:, 0, 1] < found.keypoints[:, 7, 1]).all()


def test_cameras_are_views_performers_users_and_actions_classes(folder):
    data = load(f"ntu:{folder}")
    assert [data.user_id(k) for k in range(data.num_users)] == ["P001", "P002"]
    assert sorted(data.class_names) == ["A001", "A002", "A003", "A004", "A005"]
    assert data.num_classes == 3
    rows = data.fetch(np.array([1]))
    assert list(rows.fields) == ["keypoints", "label"]
    assert rows.fields["keypoints"].shape == (3 * 2 * 2, 3, 16, 13, 2)
    number = int(data.class_names[rows.fields["label"][-1]][1:])
    for view, camera in enumerate((1, 2, 3)):
        name = f"S001C{camera:03}P002R002A{number:03}.skeleton"
        own = read_recording(folder / name).keypoints
        last = rows.fields["keypoints"][-1, view]
        np.testing.assert_array_equal(last, own[16:32].astype(np.float32))
    views = rows.fields["keypoints"]
    assert not np.allclose(views[:, 0], views[:, 1], atol=0.01)


def test_a_window_may_hold_the_longest_recording(tmp_path):
    folder = write_ntu(tmp_path / "ntu", performers=1, actions=4, frames=300)
    data = load(f"ntu:{folder}", frames=300, keep=False)
    assert data.fetch(np.array([0])).fields["keypoints"].shape == (4, 3, 300, 13, 2)
    with pytest.raises(UserError, match="frames=301 must be 1 to 300"):
        load(f"ntu:{folder}", frames=301)


def test_held_out_actions_are_never_trained_and_a_motion_gives_one_row(folder):
    data = load(f"ntu:{folder}")
    trained = data.fetch(np.arange(2)).fields["label"]
    held_out = data.held_out().fields["label"]
    assert set(trained) == {0, 1, 2}
    assert sorted(held_out) == [3] * 4 + [4] * 4
    assert data.provenance.notices == (
        "2 of 5 actions, chosen with seed 0, are held out, with the middle window of "
        "each motion.",
    )
    assert data.provenance.source == "real"
    others = {frozenset(load(f"ntu:{folder}", seed=s).class_names[3:]) for s in (0, 1)}
    assert len(others) > 1


def test_windows_are_as_long_as_asked(folder):
    rows = load(f"ntu:{folder}", frames=40).fetch(np.array([0])).fields
    assert rows["keypoints"].shape == (6, 3, 40, 13, 2)
    with pytest.raises(UserError, match="without 41 frames"):
        load(f"ntu:{folder}", frames=41)


def test_3d_poses_are_in_metres_from_the_hips_and_fit_the_pictures(folder):
    rows = load(f"ntu-3d:{folder}").fetch(np.array([0])).fields
    pose = rows["pose3d"]
    assert pose.shape == (12, 16, 13, 3)
    np.testing.assert_allclose(pose[..., 7:9, :].mean(-2), 0, atol=1e-6)
    width = np.linalg.norm(pose[..., 1, :] - pose[..., 2, :], axis=-1)
    np.testing.assert_allclose(width, 0.4 * 1.1, rtol=1e-5)
    np.testing.assert_array_equal(
        rows["keypoints"],
        load(f"ntu:{folder}").fetch(np.array([0])).fields["keypoints"],
    )
    # as camera 1 saw them: her left, on the right of its picture, is on its right
    first = rows["keypoints"][:, 0]
    across = [found[..., 1, 0] - found[..., 2, 0] for found in (first, pose)]
    assert (across[0] > 0).all()
    np.testing.assert_allclose(across[1], 0.44 * np.cos(np.pi / 4), rtol=1e-5)


def rewrite(path, *frames):
    path.write_text("\n".join(skeleton_lines(*frames)))


def test_frames_without_a_body_are_filled_or_their_window_is_left_out(tmp_path):
    write_ntu(tmp_path, performers=2, actions=3)
    paths = write_motion(tmp_path, performer=1, action=1)
    whole = read_recording(paths[2]).keypoints
    seen = seen_by(2, figure(40, pace=1, size=1.1))
    gap = {*range(3, 10), *range(16, 25)}  # 7 of the first window, 9 of the second
    rewrite(paths[2], *([] if t in gap else [seen[t]] for t in range(40)))
    for name in ("S001C001P002R001A001", "S001C003P002R002A002"):
        (tmp_path / f"{name}.skeleton").write_text("3\n0\n0\n0\n")
    data = load(f"ntu:{tmp_path}", seed=3)
    assert "A001" in data.class_names[:2]
    rows = data.fetch(np.array([0])).fields
    own = rows["keypoints"][rows["label"] == data.class_names.index("A001")]
    assert len(own) == 3
    for t in range(16):
        share = np.clip((t - 2) / 8, 0, 1)
        between = (1 - share) * whole[2] + share * whole[10]
        expected = between if t in gap else whole[t]
        np.testing.assert_allclose(own[0, 1, t], expected, atol=1e-6)
    assert data.provenance.notices[1:] == (
        "left out: 2 motions without 16 frames in a row with a body, seen by each "
        "camera in half of them.",
    )


def test_of_several_bodies_the_one_that_moves_most_is_taken(tmp_path):
    write_ntu(tmp_path)
    path = write_motion(tmp_path, performer=1, action=3)[1]
    wanted = read_recording(path).keypoints
    moving = seen_by(1, figure(40, pace=3, size=1.1))
    chair = seen_by(1, figure(40, pace=0) + [1.0, 0, 0])
    flash = chair + np.linspace(0, 9, 40)[:, None, None]  # moves most, 5 frames long
    rewrite(
        path,
        *([chair[t], moving[t], *([flash[t]] if t < 5 else [])] for t in range(40)),
    )
    found = read_recording(path)
    np.testing.assert_array_equal(found.keypoints, wanted)
    assert found.bodies == 3
    notices = load(f"ntu:{tmp_path}").provenance.notices
    assert any(text.startswith("1 files have several bodies") for text in notices)


GOOD = skeleton_lines(*([body] for body in seen_by(1, figure(3))))
DAMAGES = {
    "line 85: the file ends; a joint has 12": lambda lines: lines[:-1],
    "line 5: could not convert string to float: 'oops'": lambda lines: (
        lines[:4] + ["oops " + lines[4].partition(" ")[2]] + lines[5:]
    ),
    "line 9: 11 numbers; a joint has 12": lambda lines: (
        lines[:8] + [lines[8].rsplit(" ", 1)[0]] + lines[9:]
    ),
    "line 4: 24 joints; a Kinect v2 sees 25": lambda lines: (
        lines[:3] + ["24"] + lines[4:]
    ),
    "line 1: '3.0'; here stands the number of frames": lambda lines: (
        ["3.0"] + lines[1:]
    ),
    "line 58: more than the 2 frames it announces": lambda lines: ["2"] + lines[1:],
    "line 30: '-1'; here stands the number of bodies": lambda lines: (
        lines[:29] + ["-1"] + lines[30:]
    ),
    f"line 2: {'9' * 20!r}; here stands the number of bodies": lambda lines: (
        lines[:1] + ["9" * 5000] + lines[2:]
    ),
    "line 3: 3 numbers; a body has 10": lambda lines: lines[:2] + ["1 2 3"] + lines[3:],
    "line 1: the file ends; here stands the number of frames": lambda lines: [],
}


@pytest.mark.parametrize("told", DAMAGES)
def test_damaged_files_are_named_with_their_line(tmp_path, told):
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_text("\n".join(DAMAGES[told](GOOD)))
    with pytest.raises(BadFile) as error:
        read_recording(path)
    assert str(error.value) == told


def test_a_damaged_file_stops_the_run_or_its_motion_is_left_out(tmp_path):
    write_ntu(tmp_path)
    damaged = tmp_path / "S001C003P002R001A001.skeleton"
    damaged.write_text("\n".join(damaged.read_text().splitlines()[:-5]))
    (tmp_path / "notes.skeleton").write_text("2\n")
    said = (
        r"2 of 37 rows cannot be used: S001C003P002R001A001.skeleton \(line 1\d+: the "
        r"file ends; a joint has 12\), notes.skeleton \(needed is a name such as"
    )
    with pytest.raises(UserError, match=said + ".*--skip-bad"):
        load(f"ntu:{tmp_path}")
    data = load(f"ntu:{tmp_path}", skip_bad=True)
    assert data.class_names == ["A001", "A003", "A002"]
    rows = data.fetch(np.array([0, 1]))
    assert rows.sizes.tolist() == [8, 6]  # without the two windows of P002 in A001
    assert data.provenance.notices[0].startswith("left out: 2 of 37 rows")


def test_other_actions_and_lone_views_are_counted(tmp_path):
    write_ntu(tmp_path)
    write_motion(tmp_path, performer=3, action=50)
    write_motion(tmp_path, performer=3, action=1, cameras=(1, 3))
    data = load(f"ntu:{tmp_path}")
    assert data.num_users == 2
    assert data.provenance.notices[-1] == (
        "left out: 3 files of other actions than the 49 of one person; 1 motions that "
        "not all of C001, C002, C003 recorded."
    )


def test_folders_that_teach_nothing_are_refused(tmp_path):
    with pytest.raises(NotAvailable, match="no .skeleton files"):
        load(f"ntu:{tmp_path}")
    write_ntu(tmp_path / "one", cameras=(2,))
    with pytest.raises(UserError, match=r"camera C002; .*\(C001, C002, C003\)"):
        load(f"ntu:{tmp_path / 'one'}")
    write_ntu(tmp_path / "few", actions=2)
    with pytest.raises(UserError, match="2 classes are too few"):
        load(f"ntu:{tmp_path / 'few'}")
    write_motion(tmp_path / "few", performer=1, action=3)
    (tmp_path / "few" / "copy").mkdir()
    write_motion(tmp_path / "few" / "copy", performer=1, action=3)
    with pytest.raises(UserError, match="3 of 30 rows .*two folders"):
        load(f"ntu:{tmp_path / 'few'}")
    with pytest.raises(UserError, match="image_size"):
        load(f"ntu:{tmp_path}", image_size=64)


def test_recorded_views_are_trained_on_alone_and_judged_by_the_first_camera(folder):
    data = load(f"ntu:{folder}")
    examples = data.fetch(np.arange(2))
    drawn = Pairs(frames=2).draw(examples, np.arange(2, dtype=np.uint64))
    views = examples.fields["keypoints"]
    for pose in drawn["poses"][5, 0]:  # nothing was projected
        assert (views[5] == pose).all((-1, -2)).sum() >= 1
    task = CrossViewTask(sizes=SMALL)
    torch.manual_seed(0)
    found = task.evaluate(task.make_backbone(), data.held_out())
    assert {"single_shot_accuracy", "single_shot_first_to_others"} <= set(found)
    assert 0 <= found["single_shot_first_to_others"] <= 1
    assert seen_by_all(data.held_out()).shape == (8, 3, 16, 13, 2)
    assert seen_by_all(load(f"ntu-3d:{folder}").held_out()).shape[1] == 8


def test_the_first_camera_is_learned_from_and_only_the_others_are_tried():
    split = SingleShotSplit.of(np.array([0, 0, 1, 1]), 3, others_only=True)
    assert (split.train_camera, split.test_cameras) == (0, [1, 2])
    assert SingleShotSplit.of(np.array([0, 0]), 3, 1).test_cameras == [0, 1, 2]


def test_joints_of_penn_action_are_those_of_the_file(tmp_path):
    fields = penn_fields("bowl", 1)
    fields["visibility"][4, 5] = 0  # hidden, but marked
    fields["x"][6, 2], fields["y"][6, 2], fields["visibility"][6, 2] = 1, 1, 0
    savemat(tmp_path / "0001.mat", fields)
    video = read_video(tmp_path / "0001.mat")
    assert (video.action, video.train) == ("bowl", True)
    expected = np.stack([fields["x"], fields["y"]], axis=-1) / 480
    expected[6, 2] = np.nan
    np.testing.assert_array_equal(video.keypoints, expected)


def test_videos_have_made_up_users_and_every_output_says_so(tmp_path):
    write_penn(tmp_path, videos=24)
    data = load(f"penn-action:{tmp_path}")
    assert data.num_users == 3
    rows = data.fetch(np.arange(3))
    assert rows.fields["keypoints"].shape == (12, 1, 16, 13, 2)
    assert data.held_out().fields["keypoints"].shape == (12, 1, 16, 13, 2)
    assert data.class_names == ["bowl", "pullup", "squat"]
    video = read_video(tmp_path / "labels" / "0001.mat").keypoints[::2]
    first = rows.fields["keypoints"][:, 0]
    assert (first == video[:16].astype(np.float32)).all((1, 2, 3)).any()
    made_up, one_camera = data.provenance.notices
    assert made_up.startswith("ARTIFICIAL USERS")
    assert "3 made-up users (iid:3" in made_up
    assert "cannot train" in one_camera
    twelve = load(f"penn-action:{tmp_path}", user_column="iid:12")
    assert twelve.num_users == 12
    with pytest.raises(UserError, match="iid:USERS"):
        load(f"penn-action:{tmp_path}", user_column="performer")


def test_a_video_belongs_to_one_user(tmp_path):
    write_penn(tmp_path, videos=24)
    data = load(f"penn-action:{tmp_path}", frames=5, user_column="iid:12")
    assert (data.fetch(np.arange(12)).sizes == 4).all()


def test_joints_outside_the_picture_come_from_other_frames(tmp_path):
    write_penn(tmp_path)
    fields = penn_fields("bowl", 1)
    for t in (0, 2, 4):
        fields["x"][t, 5], fields["y"][t, 5], fields["visibility"][t, 5] = 1, 1, 0
    savemat(tmp_path / "labels" / "0001.mat", fields)
    fields["visibility"][:, 6] = fields["x"][:, 6] = 0
    savemat(tmp_path / "labels" / "0002.mat", fields)
    data = load(f"penn-action:{tmp_path}")
    rows = data.fetch(np.arange(data.num_users)).fields["keypoints"]
    assert np.isfinite(rows).all()
    assert len(rows) == 5
    filled = (rows[:, 0, :4, 5] == rows[:, 0, 3:4, 5]).all((1, 2))
    assert filled.sum() == 1
    assert data.provenance.notices[-1].startswith("left out: 1 videos without 32")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a file of MATLAB" * 20, "no MATLAB file"),
        (b"", "no MATLAB file"),
        ({"visibility": np.ones((40, 12))}, r"visibility has the shape \(40, 12\)"),
        ({"x": np.ones((0, 13))}, r"x has the shape \(0, 13\)"),
        ({"dimensions": np.array([[0, 480, 40]])}, "a picture of 0 x 480 pixels"),
        ({"x": np.full((40, 13), "a")}, "a field cannot be read"),
    ],
)
def test_damaged_label_files_are_named(tmp_path, content, told):
    write_penn(tmp_path)
    path = tmp_path / "labels" / "0003.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, penn_fields("bowl", 1) | content)
    with pytest.raises(UserError, match=rf"1 of 12 rows .*0003.mat \({told}"):
        load(f"penn-action:{tmp_path}")
    assert load(f"penn-action:{tmp_path}", skip_bad=True).num_classes == 3


def test_labels_without_a_field_or_a_split_are_refused(tmp_path):
    with pytest.raises(NotAvailable, match="labels"):
        load(f"penn-action:{tmp_path}")
    write_penn(tmp_path, train=1)
    with pytest.raises(NotAvailable, match="it has 12 and 0"):
        load(f"penn-action:{tmp_path}")
    fields = penn_fields("bowl", 1)
    del fields["visibility"]
    savemat(tmp_path / "labels" / "0001.mat", fields)
    with pytest.raises(UserError, match="the field visibility is missing"):
        load(f"penn-action:{tmp_path}")
