"""Motion capture, panoptic and relationship files, as published."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load
from simulations.datasets.asf_amc import JOINT_BONES, read_amc, read_asf
from simulations.datasets.panoptic_format import (
    cityscapes_map,
    decode_ids,
    read_cityscapes,
    read_coco,
)
from simulations.datasets.relationships import (
    read_hico,
    read_vcoco,
    read_visual_genome,
)

SHARED = Path(__file__).parents[3] / "../shared/data"

CHAINS = {
    "root": ["lhipjoint", "rhipjoint", "head"],
    "lhipjoint": ["lfemur"],
    "lfemur": ["ltibia"],
    "rhipjoint": ["rfemur"],
    "rfemur": ["rtibia"],
    "head": ["lclavicle", "rclavicle"],
    "lclavicle": ["lhumerus"],
    "lhumerus": ["lradius"],
    "rclavicle": ["rhumerus"],
    "rhumerus": ["rradius"],
}


def write_asf(path, dof):
    lines = [":version 1.10", ":units", "  mass 1.0", "  length 0.0254", "  angle deg"]
    lines += [":root", "  order TX TY TZ RX RY RZ", "  axis XYZ", "  position 0 0 0"]
    lines += [":bonedata"]
    for number, name in enumerate(JOINT_BONES):
        lines += ["  begin", f"  id {number}", f"  name {name}"]
        lines += ["  direction 0 -1 0", "  length 2", "  axis 0 0 90  XYZ"]
        lines += [f"  dof {dof[name]}", "  end"] if name in dof else ["  end"]
    lines += [":hierarchy", "  begin"]
    lines += [f"  {top} {' '.join(below)}" for top, below in CHAINS.items()]
    path.write_text("\n".join([*lines, "  end"]))


def write_amc(path, frames):
    lines = ["#!OML:ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for number, frame in enumerate(frames, start=1):
        lines += [str(number), *(f"{bone} {values}" for bone, values in frame.items())]
    path.write_text("\n".join(lines))


def test_forward_kinematics_by_hand(tmp_path):
    """The thigh's axis frame is turned by 90 degrees about z: its x axis is world y."""
    write_asf(tmp_path / "9.asf", {"lfemur": "rx", "ltibia": "rz"})
    frames = [
        {"root": "1 2 3 0 0 0", "lfemur": "0", "ltibia": "0"},
        {"root": "0 0 0 0 0 0", "lfemur": "0", "ltibia": "90"},
        {"root": "0 0 0 90 0 0", "lfemur": "0", "ltibia": "0"},
        {"root": "0 0 0 0 0 0", "lfemur": "90", "ltibia": "0"},
    ]
    write_amc(tmp_path / "9_01.amc", frames)
    ends = read_asf(tmp_path / "9.asf").joints(read_amc(tmp_path / "9_01.amc"))
    np.testing.assert_allclose(ends["ltibia"][0], [1, -4, 3], atol=1e-12)
    np.testing.assert_allclose(ends["ltibia"][1], [2, -4, 0], atol=1e-12)
    np.testing.assert_allclose(ends["ltibia"][2], [0, 0, -6], atol=1e-12)
    np.testing.assert_allclose(ends["ltibia"][3], [0, -6, 0], atol=1e-12)


def test_damaged_motion_files_are_refused(tmp_path):
    write_asf(tmp_path / "9.asf", {"lfemur": "rx rz"})
    write_amc(tmp_path / "a.amc", [{"root": "0 0 0 0 0 0", "lfemur": "1"}])
    skeleton = read_asf(tmp_path / "9.asf")
    with pytest.raises(UserError, match="1 values a frame"):
        skeleton.joints(read_amc(tmp_path / "a.amc"))
    write_amc(tmp_path / "a.amc", [{"root": "0 0 0 0 0 0"}, {"lfemur": "1"}])
    with pytest.raises(UserError, match="not an AMC"):
        read_amc(tmp_path / "a.amc")
    (tmp_path / "9.asf").write_bytes(b"\xff\xfe nonsense")
    with pytest.raises(UserError, match="not an ASF"):
        read_asf(tmp_path / "9.asf")
    with pytest.raises(NotAvailable):
        load("cmu-mocap", root=tmp_path)


def test_files_that_are_still_packed_are_pointed_at(tmp_path):
    (tmp_path / "cmu_mocap").mkdir()
    (tmp_path / "cmu_mocap" / "subjects.tar.xz").touch()
    with pytest.raises(NotAvailable, match=r"subjects\.tar\.xz is there: unpack it"):
        load("cmu-mocap", root=tmp_path)


def test_a_folder_of_motions_becomes_users_and_classes(tmp_path):
    frame = {"root": "0 0 0 0 0 0", "lfemur": "5"}
    for subject in ("07", "08"):
        folder = tmp_path / "cmu_mocap" / "subjects" / subject
        folder.mkdir(parents=True)
        write_asf(folder / f"{subject}.asf", {"lfemur": "rx"})
        for motion in range(3):
            write_amc(folder / f"{subject}_{motion:02}.amc", [frame] * 130)
    data = load("cmu-mocap", root=tmp_path)
    assert (data.num_users, data.num_classes) == (2, 4)
    rows = data.fetch(np.array([0])).fields
    assert rows["pose3d"].shape[1:] == (16, 13, 3)
    assert rows["keypoints"].shape[1:] == (2, 16, 13, 2)
    assert len(data.held_out()) == 4


@pytest.mark.skipif(
    not (SHARED / "cmu_mocap").is_dir(), reason="no CMU motions beside the repository"
)
def test_real_subjects_stand_on_the_floor(tmp_path):
    import tarfile

    with tarfile.open(SHARED / "cmu_mocap" / "cmu_subjects_01_02_03.tar.xz") as files:
        wanted = [m for m in files if Path(m.name).name in ("02.asf", "02_01.amc")]
        files.extractall(tmp_path, wanted, filter="data")
    skeleton = read_asf(next(tmp_path.rglob("02.asf")))
    motion = read_amc(next(tmp_path.rglob("02_01.amc")))
    ends = skeleton.joints(motion)
    pose = skeleton.pose(motion)
    assert abs(ends["ltoes"][:, 1].min()) < 0.05
    assert 1.4 < np.ptp(pose[0, :, 1]) < 1.7
    assert pose[:, 0, 1].mean() > 0.5  # head above the hips
    assert ((pose[:, 1] - pose[:, 2])[:, 0] > 0).mean() > 0.9  # left is her left


def write_coco(tmp_path, segments, ids):
    content = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 90, "name": "wall", "isthing": 0},
        ],
        "annotations": [
            {"image_id": 7, "file_name": "7.png", "segments_info": segments}
        ],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(tmp_path / "7.png")


def test_coco_maps(tmp_path):
    ids = np.array([[0, 70_000, 70_000], [300, 70_001, 5]])
    segments = [
        {"id": 70_000, "category_id": 1, "iscrowd": 0},
        {"id": 70_001, "category_id": 1, "iscrowd": 0},
        {"id": 300, "category_id": 90, "iscrowd": 0},
        {"id": 5, "category_id": 1, "iscrowd": 1},
    ]
    write_coco(tmp_path, segments, ids)
    arguments = (tmp_path / "panoptic.json", tmp_path, tmp_path)
    (found,) = read_coco(*arguments)
    expected = [[0, 257, 257], [90 * 256, 258, 256]]
    np.testing.assert_array_equal(found.panoptic, expected)
    assert found.image == tmp_path / "7.jpg"
    write_coco(tmp_path, segments[1:], ids)
    with pytest.raises(UserError, match="segment 70000"):
        list(read_coco(*arguments))
    (tmp_path / "7.png").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable map"):
        list(read_coco(*arguments))


@pytest.mark.skipif(
    not (SHARED / "coco_panoptic").is_dir(), reason="no COCO maps beside the repository"
)
def test_real_coco_maps_have_the_recorded_areas():
    root = SHARED / "coco_panoptic"
    content = json.loads((root / "panoptic.json").read_text())
    found = list(read_coco(root / "panoptic.json", root / "panoptic", root / "images"))
    assert len(found) == 53
    for annotation, picture in list(zip(content["annotations"], found, strict=True))[
        :9
    ]:
        areas = {s["category_id"]: 0 for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            areas[segment["category_id"]] += segment["area"]
        for category, area in areas.items():
            assert (picture.panoptic // 256 == category).sum() == area
        assert picture.image.is_file()


def test_cityscapes_maps(tmp_path):
    folder = tmp_path / "gtFine" / "val" / "ulm"
    folder.mkdir(parents=True)
    ids = np.array([[26_000, 26_001, 26, 7, 0]], dtype=np.uint16)
    Image.fromarray(ids).save(folder / "ulm_0_0_gtFine_instanceIds.png")
    ((city, picture),) = read_cityscapes(tmp_path, "val")
    assert city == "ulm"
    assert picture.image.name == "ulm_0_0_leftImg8bit.png"
    assert picture.panoptic.tolist() == [[13_001, 13_002, 13_000, 0, 255_000]]
    assert cityscapes_map(np.array([33_005])).tolist() == [18_006]
    assert decode_ids(np.array([255, 255, 255], np.uint8)) == 2**24 - 1


def test_hico(tmp_path):
    row = {
        "file_name": "HICO_1.jpg",
        "annotations": [
            {"bbox": [1, 2, 30, 40], "category_id": 1},
            {"bbox": [5, 6, 7, 8], "category_id": 4},
        ],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 73}],
    }
    path = tmp_path / "trainval_hico.json"
    path.write_text(json.dumps([row]))
    (image,) = read_hico(path)
    assert image.boxes.tolist() == [[2, 1, 40, 30], [6, 5, 8, 7]]
    assert image.relations == ((0, "73", 1),)
    row["hoi_annotation"][0]["object_id"] = 9
    path.write_text(json.dumps([row]))
    with pytest.raises(UserError, match="beyond them"):
        read_hico(path)
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not the published"):
        read_hico(path)


def test_vcoco(tmp_path):
    instances = {
        "categories": [{"id": 1, "name": "person"}, {"id": 44, "name": "knife"}],
        "annotations": [
            {"id": 11, "bbox": [0, 0, 10, 20], "category_id": 1},
            {"id": 12, "bbox": [5, 5, 2, 3], "category_id": 44},
            {"id": 13, "bbox": [1, 1, 1, 1], "category_id": 1},
        ],
    }
    actions = [
        {
            "action_name": "cut",
            "role_name": ["agent", "instr", "obj"],
            "image_id": [3, 3],
            "ann_id": [11, 13],
            "role_object_id": [11, 13, 12, 0, 0, 0],
            "label": [1, 0],
            "include": [[], [], []],
        },
        {
            "action_name": "stand",
            "role_name": ["agent"],
            "image_id": [3, 3],
            "ann_id": [11, 13],
            "role_object_id": [11, 13],
            "label": [0, 1],
            "include": [[]],
        },
    ]
    paths = tmp_path / "vcoco_train.json", tmp_path / "instances.json"
    paths[0].write_text(json.dumps(actions))
    paths[1].write_text(json.dumps(instances))
    (image,) = read_vcoco(*paths)
    assert image.objects == ("person", "knife", "person")
    assert image.boxes[1].tolist() == [5, 5, 8, 7]
    assert image.relations == ((0, "cut instr", 1), (0, "cut", -1), (2, "stand", -1))
    paths[1].write_text(json.dumps({"categories": [], "annotations": []}))
    with pytest.raises(UserError, match="not V-COCO"):
        read_vcoco(*paths)


def test_visual_genome(tmp_path):
    man = {"object_id": 1, "x": 1, "y": 2, "w": 3, "h": 4, "name": "Man"}
    hat = {"object_id": 2, "x": 1, "y": 1, "w": 1, "h": 1, "names": ["hat"]}
    relations = [
        {"predicate": "WEARS ", "subject": man, "object": hat},
        {"predicate": "on", "subject": hat, "object": man},
    ]
    path = tmp_path / "relationships.json"
    path.write_text(json.dumps([{"image_id": 5, "relationships": relations}]))
    (image,) = read_visual_genome(path)
    assert image.objects == ("man", "hat")
    assert image.relations == ((0, "wears", 1), (1, "on", 0))
    assert image.boxes[0].tolist() == [2, 1, 6, 4]
