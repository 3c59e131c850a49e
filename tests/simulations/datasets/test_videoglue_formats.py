"""The eight VideoGLUE annotation formats, each written here as it is published."""

import json

import pytest

from fedemb.errors import UserError
from simulations.datasets.videoglue.classification import (
    charades,
    diving,
    kinetics,
    moments,
    read_users,
    something,
)
from simulations.datasets.videoglue.localization import SCORED_AVA, activitynet, ava
from simulations.datasets.videoglue.segments import Segment, multi_hot


def write(folder, name, content):
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return path


def test_kinetics_names_the_downloaded_stretches(tmp_path):
    path = write(
        tmp_path,
        "train.csv",
        "label,youtube_id,time_start,time_end,split\n"
        "playing guitar,abc_-123,7,17,train\n",
    )
    (found,) = kinetics(path, {"abc_-123": "ann"})
    assert found == Segment(
        video="abc_-123_000007_000017", user="ann", labels=("playing guitar",)
    )
    assert kinetics(path)[0].user == "abc_-123"


def test_moments_has_no_header(tmp_path):
    path = write(tmp_path, "trainingSet.csv", "yelling/a-1.mp4,yelling,4,0\n")
    assert moments(path) == [
        Segment(video="yelling/a-1", user="yelling/a-1", labels=("yelling",))
    ]


def test_something_takes_the_template_for_the_class(tmp_path):
    entry = {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    }
    (found,) = something(write(tmp_path, "train.json", [entry]))
    assert found.labels == ("Holding something next to something",)


def test_diving_labels_are_numbers(tmp_path):
    entry = {"vid_name": "x_00001", "label": 26, "start_frame": 0, "end_frame": 90}
    (found,) = diving(write(tmp_path, "train.json", [entry]))
    assert (found.video, found.labels) == ("x_00001", ("26",))


def test_charades_users_are_its_subjects(tmp_path):
    path = write(
        tmp_path,
        "Charades_v1_train.csv",
        "id,subject,scene,quality,relevance,verified,script,objects,descriptions,"
        "actions,length\n"
        '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooks.",food,none,'
        "c092 11.90 21.20;c147 0.00 12.60;c092 22.00 23.00,24.83\n"
        "N11GT,0KZ7,Stairs,6,7,Yes,none,none,none,,18.25\n",
    )
    first, second = charades(path)
    assert (first.user, first.labels) == ("HR43", ("c092", "c147"))
    assert second.labels == ()
    assert multi_hot([first, second], ["c092", "c147"]).tolist() == [[1, 1], [0, 0]]


def test_activitynet_has_subsets_and_stretches(tmp_path):
    content = {
        "version": "VERSION 1.3",
        "database": {
            "sJFgo": {
                "subset": "training",
                "duration": 14.07,
                "annotations": [{"segment": [0.01, 12.64], "label": "Fun sliding"}],
            },
            "none": {"subset": "testing", "annotations": []},
        },
    }
    found = activitynet(write(tmp_path, "a.json", content))
    (segment,) = found["training"]
    assert (segment.video, segment.start, segment.end) == ("v_sJFgo", 0.01, 12.64)
    assert found["testing"][0].labels == ()


def test_ava_merges_the_actions_of_a_box(tmp_path):
    path = write(
        tmp_path,
        "ava_train_v2.2.csv",
        "-5KQ,0902,0.077,0.151,0.283,0.811,80,1\n"
        "-5KQ,0902,0.077,0.151,0.283,0.811,9,1\n"
        "-5KQ,0903,0.3,0.2,0.5,0.9,12,2\n"
        "-5KQ,0904,,,,,,\n",
    )
    first, second, nobody = ava(path)
    assert (first.labels, first.box) == (("80", "9"), (0.151, 0.077, 0.811, 0.283))
    assert (second.start, second.labels) == (903.0, ("12",))
    assert (nobody.box, nobody.labels) == (None, ())


def test_sixty_of_eighty_classes_are_scored():
    assert len(SCORED_AVA) == 60
    assert not SCORED_AVA - set(range(1, 81))
    assert 2 not in SCORED_AVA


def test_uploaders_come_from_a_file_of_their_own(tmp_path):
    assert read_users(tmp_path) == {}
    write(tmp_path, "users.csv", "video,user\nv1,ann\n")
    assert read_users(tmp_path) == {"v1": "ann"}


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (kinetics, "label,youtube_id\na,b\n", "time_start"),
        (kinetics, "label,youtube_id,time_start,time_end\na,b,x,2\n", "no number"),
        (moments, "only-one-cell\n", "file and a class"),
        (something, "{}", "list of objects"),
        (something, '[{"label": "x"}]', "no 'id'"),
        (diving, "not json", "not a JSON file"),
        (charades, "id,subject,actions\nv,s,c1 2\n", "class, start and end"),
        (activitynet, "[]", "no 'database'"),
        (
            activitynet,
            '{"database": {"v": {"subset": "t", "annotations": [{"label": "a"}]}}}',
            "needs 'label' and 'segment'",
        ),
        (ava, "v,1,0.1,0.1\n", "cells"),
        (ava, "v,1,0.5,0.1,0.2,0.9,3\n", "has the box"),
        (ava, "v,nan,0.1,0.1,0.2,0.9,3\n", "no number"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path, reader, content, message):
    path = write(tmp_path, "annotations.file", content)
    with pytest.raises(UserError, match=message):
        reader(path)
    with pytest.raises(UserError, match="cannot be read"):
        reader(tmp_path / "missing")
