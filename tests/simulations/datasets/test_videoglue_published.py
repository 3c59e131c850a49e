"""The eight VideoGLUE data sets, laid out as published, become problems."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedemb.errors import NotAvailable, UserError
from model_zoo.videoglue.score import DATASETS, Group
from simulations.datasets.images import BadImage
from simulations.datasets.video_stretches import decode_stretch
from simulations.datasets.videoglue.published import published_suite
from simulations.datasets.videoglue.questions import WINDOWS

ROOT = Path(__file__).parents[3]
SHAPE = (4, 8, 8)


def gif(path, level=0, frames=40, side=12):
    """Grey pictures that get lighter, ten a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.new("L", (side, side), level + 5 * i) for i in range(frames)]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=100)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def kinetics(root):
    folder = root / "kinetics400"
    for part, table in (("train", "train.csv"), ("val", "validate.csv")):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for i in range(4):
            rows.append(f"{'ab'[i % 2]},{part}{i},7,17,{part}")
            gif(folder / part / "ab"[i % 2] / f"{part}{i}_000007_000017.gif")
        write(folder / "annotations" / table, "\n".join(rows))


def moments(root):
    folder = root / "moments_in_time"
    for part in ("training", "validation"):
        rows = []
        for i, name in enumerate(("yelling", "running")):
            rows.append(f"{name}/same-{i}.mp4,{name},4,0")
            gif(folder / part / name / f"same-{i}.gif", level=50 * i)
        write(folder / f"{part}Set.csv", "\n".join(rows))


def something(root):
    folder = root / "something_something_v2"
    for first, table in ((0, "train.json"), (3, "validation.json")):
        entries = [
            {
                "id": str(first + i),
                "template": f"Moving [something] {'up down'[3 * i :]}",
            }
            for i in range(2)
        ]
        write(folder / "labels" / table, entries)
        for entry in entries:
            gif(folder / "20bn-something-something-v2" / f"{entry['id']}.gif")


def diving(root):
    folder = root / "diving48"
    for part in ("train", "test"):
        entries = [
            {"vid_name": f"{part}_{i:05d}", "label": i, "start_frame": 0}
            for i in range(2)
        ]
        write(folder / f"Diving48_V2_{part}.json", entries)
        for entry in entries:
            gif(folder / "rgb" / f"{entry['vid_name']}.gif")


def charades(root):
    folder = root / "charades"
    for part in ("train", "test"):
        rows = ["id,subject,actions,length"]
        rows.append(f"{part}A,s1,c002 0.0 1.0;c010 1.0 2.0,4.0")
        rows.append(f"{part}B,s2,,4.0")
        write(folder / f"Charades_v1_{part}.csv", "\n".join(rows))
        for name in "AB":
            gif(folder / "Charades_v1_480" / f"{part}{name}.gif")


def activitynet(root):
    folder = root / "activitynet"
    database = {
        f"{subset}{i}": {
            "subset": subset,
            "duration": 4.0,
            "annotations": [{"segment": [1.0, 3.0], "label": "ab"[i]}],
        }
        for subset in ("training", "validation")
        for i in range(2)
    }
    database["hidden"] = {"subset": "testing", "duration": 4.0, "annotations": []}
    write(folder / "activity_net.v1-3.min.json", {"database": database})
    for name in database:
        gif(folder / "videos" / f"v_{name}.gif")


def ava(root):
    for part in ("train", "val"):
        rows = [f"film{part},0002,0.1,0.2,0.5,0.6,{k},0" for k in (12, 2, 80)]
        rows += [f"film{part},0002,0.5,0.2,0.9,0.6,12,1", f"film{part},0003"]
        write(root / "ava" / f"ava_{part}_v2.2.csv", "\n".join(rows))
        gif(root / "ava" / "videos" / f"film{part}.gif")


def ava_kinetics(root):
    folder = root / "ava_kinetics"
    for part in ("train", "val"):
        rows = [f"{part}0,0009,0.1,0.2,0.5,0.6,12", f"gone{part},0009,0,0,1,1,12"]
        write(folder / f"kinetics_{part}_v1.0.csv", "\n".join(rows))
    kinetics(root)


MADE = {
    "kinetics400": kinetics,
    "moments_in_time": moments,
    "something_something_v2": something,
    "diving48": diving,
    "charades": charades,
    "activitynet": activitynet,
    "ava": ava,
    "ava_kinetics": ava_kinetics,
}


def suite(root, **sizes):
    return published_suite(root, SHAPE, **({"train": 8, "test": 8} | sizes))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    root = tmp_path_factory.mktemp("videoglue")
    for make in MADE.values():
        make(root)
    return root


def test_all_eight_are_found_and_become_problems_of_their_kinds(everything):
    found = suite(everything)
    assert {p.name: p.group for p in found.problems} == dict(DATASETS)
    assert list(found.found) == list(DATASETS)
    assert found.absent == {}
    sizes = {p.name: (p.classes, len(p.train), len(p.test)) for p in found.problems}
    assert sizes == {
        "kinetics400": (2, 4, 4),
        "moments_in_time": (2, 2, 2),
        "something_something_v2": (2, 2, 2),
        "diving48": (2, 2, 2),
        "charades": (2, 2, 2),
        "activitynet": (2, 2, 2),
        "ava": (2, 1, 1),  # of actions 2, 12 and 80 the second is not scored
        "ava_kinetics": (1, 1, 1),
    }


def test_stretches_boxes_and_events_are_where_the_annotations_put_them(everything):
    of = {p.name: p for p in suite(everything).problems}
    events = of["charades"].train.fields["events"]
    assert sorted(events.tolist()) == [[0, 0], [1, 1]]
    sequence = of["activitynet"].train.fields
    assert sequence["clip"].shape == (2, WINDOWS, *SHAPE, 3)
    assert sequence["stretches"][:, 0, :2].tolist() == [[8, 24]] * 2
    boxes = of["ava"].train.fields
    places = [[0.2, 0.1, 0.6, 0.5], [0.2, 0.5, 0.6, 0.9]]
    np.testing.assert_allclose(boxes["boxes"][0], places, rtol=1e-6)
    assert boxes["actions"][0].tolist() == [[1, 1], [1, 0]]
    levels = boxes["clip"][0, :, 4, 4, 0]
    assert levels.tolist() == [5 * i for i in (12, 17, 22, 27)]  # 1 s to 3 s
    cut = of["ava_kinetics"].train.fields["clip"][0, :, 4, 4, 0]
    assert cut.tolist() == levels.tolist()  # second 9 of a cut that begins at 7


def test_what_is_there_is_used_and_what_is_not_is_said(tmp_path):
    charades(tmp_path)
    found = suite(tmp_path)
    assert [p.name for p in found.problems] == ["charades"]
    assert set(found.absent) == set(DATASETS) - {"charades"}
    assert "ava_train_v2.2.csv" in found.absent["ava"]
    with pytest.raises(NotAvailable, match="none of the VideoGLUE.*diving48/"):
        suite(tmp_path / "nowhere")


def test_missing_and_damaged_videos_are_counted(tmp_path):
    kinetics(tmp_path)
    videos = sorted((tmp_path / "kinetics400" / "train").rglob("*.gif"))
    videos[0].unlink()
    videos[1].write_bytes(b"no video")
    tally = suite(tmp_path).found["kinetics400"]["train"]
    assert (tally["annotated"], tally["clips"], tally["missing"]) == (4, 2, 1)
    assert tally["damaged"] == 1
    assert videos[1].name in tally["first_damaged"]
    shutil.rmtree(tmp_path / "kinetics400" / "train")
    with pytest.raises(NotAvailable, match="4 have no file"):
        suite(tmp_path)


def test_videos_outside_the_folder_are_not_followed(tmp_path):
    kinetics(tmp_path)
    inside = next((tmp_path / "kinetics400" / "val").rglob("*.gif"))
    secret = tmp_path / "secret.gif"
    inside.rename(secret)
    inside.symlink_to(secret)
    assert suite(tmp_path).found["kinetics400"]["test"]["missing"] == 1


def test_few_clips_are_a_choice_that_does_not_change(everything):
    one, two = (suite(everything, train=2, test=1) for _ in range(2))
    for a, b in zip(one.problems, two.problems, strict=True):
        assert len(a.train) <= 2
        assert len(a.test) == 1
        assert np.array_equal(a.train.fields["clip"], b.train.fields["clip"])


def test_a_stretch_without_frames_or_of_no_video_is_bad(tmp_path):
    gif(tmp_path / "a.gif", frames=5)
    with pytest.raises(BadImage, match="no frames from 9 to 10"):
        decode_stretch(tmp_path / "a.gif", 2, 8, 9.0, 10.0)
    with pytest.raises(BadImage, match="not a known video"):
        decode_stretch(tmp_path / "a.txt", 2, 8, 0.0, 1.0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_stretches_of_containers_start_at_the_frame_asked_for(tmp_path, suffix):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as out:
        track = out.add_stream("mpeg4", rate=10)
        track.height = track.width = 32
        track.pix_fmt = "yuv420p"
        for i in range(60):
            frame = np.full((32, 32, 3), 4 * i, np.uint8)
            for packet in track.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                out.mux(packet)
        for packet in track.encode():
            out.mux(packet)
    for start, frames in ((0.0, range(10)), (3.0, range(30, 40))):
        clip = decode_stretch(path, 10, 8, start, start + 1.0)
        levels = clip[:, 4, 4, 0].astype(int)
        assert np.abs(levels - 4 * np.array(frames)).max() <= 8
    with pytest.raises(BadImage, match="no frames"):
        decode_stretch(path, 2, 8, 90.0, 91.0)


def test_durations_and_records_that_are_none_are_refused(tmp_path):
    activitynet(tmp_path)
    table = tmp_path / "activitynet" / "activity_net.v1-3.min.json"
    content = json.loads(table.read_text())
    content["database"]["training0"]["duration"] = "long"
    table.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'training0' has the duration 'long'"):
        suite(tmp_path)
    content["database"]["training0"] = []
    table.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no record"):
        suite(tmp_path)


def test_kinds_are_those_of_the_table():
    assert set(MADE) == set(DATASETS)
    assert set(DATASETS.values()) == set(Group)


@pytest.mark.slow
def test_the_command_judges_a_run_on_what_it_finds(tmp_path):
    def fedemb(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "fedemb", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    trained = fedemb(
        *("simulate", "--model", "videoglue:tiny-adapter", "--dataset", "clips"),
        *("--users", 400, "--users-per-round", 8, "--rounds", 1, "--out", "run"),
        *("--noise-multiplier", 1, "--engine", "serial"),
    )
    assert trained.returncode == 0, trained.stderr
    for make in (charades, ava):
        make(tmp_path / "public")
    protocol = ("evaluate", "run", "--protocol", "videoglue", "--steps", 1)
    judged = fedemb(*protocol, "--videoglue-root", "public", "--json")
    assert judged.returncode == 0, judged.stderr
    content = json.loads(judged.stdout)
    assert content["source"] == "real: 2 of the 8 published data sets"
    assert list(content["groups"]) == ["charades", "ava"]
    assert content["datasets"]["ava"]["test"]["clips"] == 1
    assert "Diving48_V2_train.json" in content["absent"]["diving48"]
    none = fedemb(*protocol, "--videoglue-root", "nowhere")
    assert none.returncode == 4
    assert none.stderr.startswith("error: nowhere holds none of the VideoGLUE")
    alone = fedemb("evaluate", "run", "--videoglue-root", "public")
    assert alone.returncode == 2
