"""What a person asks about: image files and arrays, of every kind of example."""

import numpy as np
import pytest
from PIL import Image

from fedemb.data import Examples
from fedemb.errors import UserError
from simulations.queries import read_queries

IMAGES = Examples(
    {"image": np.zeros((3, 8, 6, 3), np.uint8), "label": np.zeros(3, np.int64)},
    np.array([0, 3]),
)
CLIPS = Examples(
    {
        "clip": np.zeros((2, 4, 8, 8, 3), np.uint8),
        "caption": np.array(["a red square", "a blue ball"]),
    },
    np.array([0, 2]),
)
MOTIONS = Examples({"pose": np.zeros((2, 5, 3), np.float32)}, np.array([0, 2]))


def picture(folder, name="p.png"):
    Image.new("RGB", (20, 30), (255, 0, 0)).save(folder / name)
    return folder / name


def test_an_image_is_resized_and_lacks_a_label(tmp_path):
    found = read_queries([picture(tmp_path)], IMAGES)
    assert found.fields["image"].shape == (1, 8, 6, 3)
    assert found.fields["image"][0, 0, 0].tolist() == [255, 0, 0]
    assert found.fields["label"].tolist() == [0]


def test_an_image_is_a_still_clip_without_words(tmp_path):
    found = read_queries([picture(tmp_path)], CLIPS)
    assert found.fields["clip"].shape == (1, 4, 8, 8, 3)
    assert found.fields["caption"].tolist() == [""]


def test_clips_are_read_from_animations_and_folders_of_frames(tmp_path):
    shades = [Image.new("RGB", (20, 30), (60 * i,) * 3) for i in range(4)]
    (tmp_path / "frames").mkdir()
    for i, shade in enumerate(shades):
        shade.save(tmp_path / "frames" / f"{i}.png")
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:])
    found = read_queries([tmp_path / "frames", tmp_path / "a.gif"], CLIPS)
    clips = found.fields["clip"]
    assert clips.shape == (2, 4, 8, 8, 3)
    assert np.array_equal(clips[:, :, 0, 0, 0], [[0, 60, 120, 180]] * 2)


def test_videos_are_read_as_clips(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for shade in (0, 80, 160, 240):
            pixels = np.full((16, 32, 3), shade, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    clip = read_queries([tmp_path / "a.mp4"], CLIPS).fields["clip"][0]
    found = clip.mean((1, 2, 3))
    assert np.abs(found - [0, 80, 160, 240]).max() < 12


def test_what_is_no_clip_or_cannot_be_one_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    for name in ("a.mp4", "empty", "missing.mp4"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a clip"):
            read_queries([tmp_path / name], CLIPS)
    wide = Examples({"clip": np.zeros((1, 4, 8, 6, 3), np.uint8)}, np.array([0, 1]))
    with pytest.raises(UserError, match=r"8 x 6 pixels .* \.npz files alone"):
        read_queries([tmp_path / "empty"], wide)


def test_arrays_and_images_mix_and_files_are_groups(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((4, 8, 6, 3), np.uint8))
    found = read_queries([tmp_path / "a.npz", picture(tmp_path)], IMAGES)
    assert found.sizes.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"motion": np.zeros((1, 5, 3))}, "no array 'pose'"),
        ({"pose": np.zeros((1, 4, 3))}, r"shape \(1, 4, 3\).* \[n, 5, 3\]"),
        ({"pose": np.zeros((5, 3))}, "one row per example, even for one alone"),
        ({"pose": np.full((1, 5, 3), np.nan)}, "pose has values that are not finite"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_queries([tmp_path / "a.npz"], MOTIONS)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "bad.npz").write_bytes(b"no arrays")
    for name in ("bad.png", "bad.npz", "missing.png"):
        with pytest.raises(UserError, match=name):
            read_queries([tmp_path / name], IMAGES)
    with pytest.raises(UserError, match=r"give \.npz files"):
        read_queries([picture(tmp_path)], MOTIONS)
