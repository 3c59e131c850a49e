"""`videos:PATH`: clips and captions of your own, whole and broken."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from fedemb.data import Source
from fedemb.errors import NotAvailable, UserError
from simulations.datasets import load, video_files
from simulations.datasets.video_files import BadImage, Thinned, decode_clip, middles

HEADER = ["file_name", "user_id", "label", "caption", "split"]


def film(number, frames=16, side=20):
    """Grey frames that get lighter, uint8 `[frames, side, side, 3]`."""
    levels = 20 + 5 * number + 10 * np.arange(frames)
    return np.broadcast_to(
        levels.astype(np.uint8)[:, None, None, None], (frames, side, side, 3)
    )


def write_gif(path, pixels):
    pages = [Image.fromarray(frame) for frame in pixels]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=40)


def write_frames(path, pixels):
    path.mkdir()
    for i, frame in enumerate(pixels):
        Image.fromarray(frame).save(path / f"frame_{i}.png")


def write_video(path, pixels, codec, rate=10):
    av = pytest.importorskip("av", reason="needs the extra `video`")
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=rate)
        track.height, track.width = pixels.shape[1:3]
        track.pix_fmt = "yuv420p"
        for frame in pixels:
            for packet in track.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                out.mux(packet)
        for packet in track.encode():
            out.mux(packet)


def write_table(folder, names, header=HEADER, captions=None):
    rows = []
    for i, name in enumerate(names):
        caption = captions[i] if captions else f"clip {i} gets lighter"
        split = "test" if i >= len(names) - 2 else "train"
        rows.append([name, f"u{i % 2}", f"c{i // 2 % 2}", caption, split])
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([row[: len(header)] for row in rows])
    return f"videos:{folder}"


@pytest.fixture
def gifs(tmp_path):
    names = [f"{i}.gif" for i in range(6)]
    for i, name in enumerate(names):
        write_gif(tmp_path / name, film(i))
    return tmp_path, names


def test_gifs_are_read_with_captions_users_and_split(gifs):
    folder, names = gifs
    data = load(write_table(folder, names), image_size=8)
    assert data.provenance.source is Source.REAL
    assert data.provenance.notices == ()
    assert (data.num_users, data.num_classes) == (2, 2)
    rows = data.fetch(np.array([0])).fields
    assert rows["clip"].shape == (2, 8, 8, 8, 3)
    assert rows["caption"].tolist() == ["clip 0 gets lighter", "clip 2 gets lighter"]
    expected = film(0)[middles(16, 8), 0, 0, 0].astype(int)
    assert np.abs(rows["clip"][0, :, 4, 4, 0].astype(int) - expected).max() <= 3
    assert data.held_out().fields["caption"].tolist()[0] == "clip 4 gets lighter"


def test_frames_and_sides_are_taken_and_the_contents_are_digested(gifs):
    folder, names = gifs
    name = write_table(folder, names)
    one, two = load(name, frames=4), load(name, frames=4)
    assert one.fetch(np.array([0])).fields["clip"].shape == (2, 4, 32, 32, 3)
    assert one.provenance.checksum == two.provenance.checksum
    captions = ["other"] * 6
    other = load(write_table(folder, names, captions=captions), frames=4)
    assert other.provenance.checksum != one.provenance.checksum
    with pytest.raises(UserError, match="frames=0"):
        load(name, frames=0)
    with pytest.raises(UserError, match="does not apply"):
        load("synthetic", frames=4)


def test_folders_of_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    for i in range(6):
        write_frames(tmp_path / f"clip{i}", film(i, frames=12))
    data = load(write_table(tmp_path, [f"clip{i}" for i in range(6)]), frames=12)
    levels = data.fetch(np.array([0])).fields["clip"][0, :, 5, 5, 0]
    assert levels.tolist() == film(0, frames=12)[:, 0, 0, 0].tolist()


def test_without_captions_labels_stand_in_and_it_is_said(gifs):
    folder, names = gifs
    data = load(write_table(folder, names, header=[*HEADER[:3], "unused", "split"]))
    assert any("no caption column" in notice for notice in data.provenance.notices)
    captions = data.fetch(np.arange(data.num_users)).fields["caption"]
    assert set(captions) <= set(data.class_names)
    captions = ["", "b", "c", "d", "e", ""]
    data = load(write_table(folder, names, captions=captions))
    assert "2 of 6 clips have no caption." in data.provenance.notices


@pytest.mark.parametrize(
    "damage",
    ["truncated", "empty", "missing", "no frames", "outside", "link", "text", "bomb"],
)
def test_bad_clips_are_named_refused_and_left_out(gifs, damage, monkeypatch):
    folder, names = gifs
    bad = folder / names[0]
    reason = {
        "truncated": "",
        "empty": "not an image",
        "missing": "no such file",
        "no frames": "no frames",
        "outside": "leads out of the folder",
        "link": "leads out of the folder",
        "text": "not a known video",
        "bomb": "too large",
    }[damage]
    content = bad.read_bytes()
    bad.unlink()
    match damage:
        case "truncated":
            bad.write_bytes(content[: len(content) // 2])
        case "empty":
            bad.write_bytes(b"")
        case "no frames":
            bad.mkdir()
        case "outside":
            names[0] = "../secret.gif"
        case "link":
            (folder.parent / "secret.gif").write_bytes(content)
            bad.symlink_to(folder.parent / "secret.gif")
        case "text":
            names[0] = "notes.txt"
            (folder / "notes.txt").write_text("hello")
        case "bomb":
            page = Image.new("L", (9_000, 9_000))
            page.save(bad)
    name = write_table(folder, names)
    with pytest.raises(UserError, match=f"1 of 6 rows cannot be used.*{reason}"):
        load(name)
    data = load(name, skip_bad=True)
    assert len(data.fetch(np.arange(2))) == 3
    assert "left out: 1 of 6" in data.provenance.notices[0]


def test_a_frame_may_not_lead_out_of_its_folder(tmp_path):
    write_frames(tmp_path / "clip", film(0, frames=3))
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "clip" / "frame_9.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadImage, match="leads out"):
        decode_clip(tmp_path / "clip", 4, 8)


def test_videos_that_are_too_long_are_refused(gifs, monkeypatch):
    folder, names = gifs
    monkeypatch.setattr(video_files, "MAX_FRAMES", 10)
    with pytest.raises(BadImage, match="more than 10 frames"):
        decode_clip(folder / names[0], 4, 8)


def test_too_many_pixels_over_all_frames_are_refused(gifs, monkeypatch):
    folder, names = gifs
    monkeypatch.setattr(video_files, "MAX_WORK", 16 * 20 * 20 - 1)
    with pytest.raises(BadImage, match="too many pixels"):
        decode_clip(folder / names[0], 4, 8)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.gif")
    with pytest.raises(BadImage, match="not a regular file"):
        decode_clip(tmp_path / "pipe.gif", 4, 8)


def test_too_much_for_memory_is_refused_before_decoding(gifs, monkeypatch):
    folder, names = gifs
    monkeypatch.setattr("simulations.datasets.videos.MEMORY_LIMIT", 1000)
    with pytest.raises(UserError, match="smaller --image-size or fewer --frames"):
        load(write_table(folder, names))


def test_streams_of_unknown_length_are_thinned_evenly():
    for total in (1, 7, 16, 17, 333):
        some = Thinned(8)
        for i in range(total):
            some.add(i, lambda i: i)
        assert some.kept[0] == 0
        assert set(np.diff(some.kept)) <= {some.stride}
        assert min(8, total) <= len(some.kept) <= 16


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(NotAvailable, match=r"fedemb\[video\]"):
        decode_clip(tmp_path / "a.mp4", 4, 8)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4")]
)
def test_videos_are_read_and_truncated_ones_refused(tmp_path, suffix, codec):
    whole, half = tmp_path / f"whole.{suffix}", tmp_path / f"half.{suffix}"
    noise = np.random.default_rng(0).integers(0, 40, (40, 32, 32, 3), dtype=np.uint8)
    pixels = noise + 5 * np.arange(40, dtype=np.uint8)[:, None, None, None]
    write_video(whole, pixels, codec)
    clip = decode_clip(whole, 8, 16)
    assert clip.shape == (8, 16, 16, 3)
    levels = clip.mean((1, 2, 3))
    expected = pixels[middles(40, 8)].mean((1, 2, 3))
    assert np.abs(levels - expected).max() < 12
    assert decode_clip(whole, 64, 8).shape == (64, 8, 8, 3)
    content = whole.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImage):
        decode_clip(half, 8, 16)
    half.write_bytes(b"")
    with pytest.raises(BadImage):
        decode_clip(half, 8, 16)


def test_a_playlist_in_disguise_reads_nothing(tmp_path):
    pytest.importorskip("av", reason="needs the extra `video`")
    secret = tmp_path / "secret.mp4"
    write_video(secret, np.array(film(0)), "mpeg4")
    trap = tmp_path / "trap.mp4"
    trap.write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(BadImage):
        decode_clip(trap, 4, 8)
