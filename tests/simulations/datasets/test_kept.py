"""Parsed data that are kept: equal, read from no source, and made anew if damaged."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fedemb.errors import UserError
from simulations.datasets import (
    celeba,
    emnist,
    kept,
    load,
    npz,
    ntu,
    penn_action,
    prepared_files,
    qmnist,
)
from simulations.datasets.kept import kept_file
from simulations.datasets.prepared_files import written_whole
from simulations.datasets.registry import options_for
from tests.simulations.datasets import published_files, skeleton_files
from tests.simulations.datasets.test_modality_formats import write_amc, write_asf


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch):
    monkeypatch.setattr(kept, "WORTH_SECONDS", 0.0)


@pytest.fixture
def name(tmp_path):
    folder = skeleton_files.write_ntu(tmp_path / "ntu", performers=2, actions=4)
    return f"ntu-3d:{folder}"


def assert_same(one, two):
    for a, b in ((one.examples, two.examples), (one.evaluation, two.evaluation)):
        np.testing.assert_array_equal(a.offsets, b.offsets)
        assert list(a.fields) == list(b.fields)
        for field, values in a.fields.items():
            np.testing.assert_array_equal(values, b.fields[field])
            assert values.dtype == b.fields[field].dtype
    assert one.provenance == two.provenance
    assert list(one.class_names) == list(two.class_names)
    assert list(one.user_ids) == list(two.user_ids)


def refuse(*_):
    raise AssertionError("a source file was read")


def npz_with_captions(root):
    path = root / "clips.npz"
    clips = np.random.default_rng(0).integers(0, 255, (12, 2, 8, 8, 3), np.uint8)
    words = [f"señal {k % 4}\N{BLACK HEART SUIT}" for k in range(12)]
    users = np.arange(12) % 3
    np.savez(path, clips=clips, captions=words, labels=words, users=users)
    return f"npz:{path}"


def skeletons(kind):
    def write(root):
        return f"{kind}:{skeleton_files.write_ntu(root / 'n', performers=2, actions=4)}"

    return write


def frames_of_clips(root):
    header = ["file_name", "user_id", "label", "split"]
    rows = [(f"c{k}", f"u{k % 2}", f"l{k % 3}", "train") for k in range(6)]
    rows += [(f"c{k}", "u2", f"l{k % 3}", "test") for k in range(6, 9)]
    for name, *_ in rows:
        published_files.save_images(root / "clips" / name, ("0.png", "1.png"))
    published_files.save_csv(root / "clips" / "metadata.csv", header, rows)
    return f"videos:{root / 'clips'}"


def motions(root):
    frame = {"root": "0 0 0 0 0 0", "lfemur": "5"}
    folder = root / "cmu_mocap"
    folder.mkdir()
    write_asf(folder / "07.asf", {"lfemur": "rx"})
    for motion in range(4):
        write_amc(folder / f"07_{motion:02}.amc", [frame] * 130)
    return "cmu-mocap"


def penn(root):
    return f"penn-action:{skeleton_files.write_penn(root / 'p')}"


@pytest.mark.parametrize(
    ("module", "write"),
    [
        ("ntu", skeletons("ntu")),
        ("ntu", skeletons("ntu-3d")),
        ("penn_action", penn),
        ("emnist", published_files.emnist_of_tff),
        ("emnist", published_files.emnist_of_fedjax),
        ("emnist", published_files.emnist_of_leaf),
        ("celeba", published_files.celeba),
        ("qmnist", published_files.qmnist),
        ("npz", published_files.own_npz),
        ("npz", npz_with_captions),
        ("videos", frames_of_clips),
        ("cmu_mocap", motions),
    ],
)
def test_what_is_kept_is_equal_and_loaded_from_no_source(
    module, write, tmp_path, monkeypatch, capsys
):
    name = write(tmp_path) or module
    first = load(name, root=tmp_path)
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(f"simulations.datasets.{module}.load", refuse)
    assert_same(load(name, root=tmp_path), first)
    with pytest.raises(AssertionError, match="was read"):
        load(name, root=tmp_path, keep=False)
    assert capsys.readouterr().err == ""


def test_no_source_is_opened(name, tmp_path, monkeypatch):
    first = load(name, root=tmp_path)
    monkeypatch.setattr(ntu, "read_motions", refuse)
    for file in (tmp_path / "ntu").iterdir():
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        file.write_bytes(b"x" * file.stat().st_size)
        os.utime(file, ns=times)
    assert_same(load(name, root=tmp_path), first)


@pytest.mark.parametrize("change", ["touched", "removed", "added", "reader"])
def test_other_sources_are_read_again_with_one_line(
    name, tmp_path, monkeypatch, capsys, change
):
    load(name, root=tmp_path)
    capsys.readouterr()
    folder = tmp_path / "ntu"
    if change == "touched":
        skeleton_files.write_motion(folder, performer=1, action=1, frames=64)
    elif change == "removed":
        for file in folder.glob("*R002A001*"):
            file.unlink()
    elif change == "added":
        skeleton_files.write_motion(folder, performer=3, action=1)
    else:
        monkeypatch.setattr(ntu, "READER", ntu.READER + 1)
    again = load(name, root=tmp_path)
    said = capsys.readouterr().err
    assert "have changed; what was read of" in said
    assert said.count("\n") == 1
    assert_same(again, load(name, root=tmp_path, keep=False))
    assert_same(again, load(name, root=tmp_path))
    assert capsys.readouterr().err == ""


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def _without_the_digest(path):
    with np.load(path) as arrays:
        content = dict(arrays)
    content["train_offsets"] = content["train_offsets"][::-1]
    np.savez(path, **content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: _flip(path, 5000),
        lambda path: _flip(path, path.stat().st_size // 2),
        _without_the_digest,
    ],
)
def test_a_damaged_file_is_made_anew_with_one_line(name, tmp_path, capsys, damage):
    first = load(name, root=tmp_path)
    path = kept_file(options_for(name, root=tmp_path))
    whole = path.read_bytes()
    damage(path)
    capsys.readouterr()
    assert_same(load(name, root=tmp_path), first)
    said = capsys.readouterr().err
    assert f"file {path} is damaged; what was read" in said
    assert said.count("\n") == 1
    assert path.read_bytes()[:20] == whole[:20]
    assert_same(load(name, root=tmp_path), first)
    assert capsys.readouterr().err == ""


def test_two_processes_at_once_both_get_the_data_and_leave_one_whole_file(
    name, tmp_path
):
    code = (
        "import sys\n"
        "from simulations.datasets import kept, load\n"
        "kept.WORTH_SECONDS = 0.0\n"
        "sys.stdin.readline()\n"
        "print(load(sys.argv[1], root=sys.argv[2]).provenance.checksum)\n"
    )
    command = [sys.executable, "-c", code, name, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    expected = load(name, root=tmp_path)
    assert said == [expected.provenance.checksum] * 2
    files = [path.name for path in (tmp_path / "prepared").iterdir()]
    assert files == [kept_file(options_for(name, root=tmp_path)).name]
    assert_same(expected, load(name, root=tmp_path, keep=False))


def test_other_options_have_a_file_of_their_own(name, tmp_path, monkeypatch):
    long, short = (load(name, root=tmp_path, frames=n) for n in (20, 10))
    monkeypatch.setattr(ntu, "load", refuse)
    assert_same(load(name, root=tmp_path, frames=20), long)
    assert_same(load(name, root=tmp_path, frames=10), short)


def test_what_is_read_at_once_is_not_kept(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kept, "WORTH_SECONDS", 60.0)
    load(name, root=tmp_path)
    assert not (tmp_path / "prepared").exists()
    assert capsys.readouterr().err == ""


def test_nothing_is_written_into_the_source_folder(name, tmp_path, capsys):
    inside = tmp_path / "ntu" / "data"
    before = sorted((tmp_path / "ntu").rglob("*"))
    load(name, root=inside)
    assert sorted((tmp_path / "ntu").rglob("*")) == before
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_named_and_stops_nothing(
    name, tmp_path, capsys
):
    (tmp_path / "prepared").write_text("a file where the folder should be")
    data = load(name, root=tmp_path)
    assert "cannot be kept" in capsys.readouterr().err
    assert_same(data, load(name, root=tmp_path, keep=False))


def test_refused_data_leave_nothing_behind(name, tmp_path):
    file = next((tmp_path / "ntu").iterdir())
    file.write_text("no skeleton")
    with pytest.raises(UserError, match=file.name):
        load(name, root=tmp_path)
    assert not (tmp_path / "prepared").exists()


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    def half(stream):
        stream.write(b"half")
        raise OSError("the disk is full")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), written_whole(path) as stream:
        half(stream)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from simulations.datasets.prepared_files import written_whole
with written_whole(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_is_not(
    tmp_path,
):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "one"], check=False)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half"
    (tmp_path / ".note").write_text("of somebody else")
    with written_whole(tmp_path / "one") as first:
        assert not left.exists()
        first.write(b"first")
        with written_whole(tmp_path / "one") as second:
            second.write(b"second")
        assert (tmp_path / "one").read_bytes() == b"second"
    assert (tmp_path / "one").read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"one", ".note"}


def test_a_part_file_that_was_taken_for_an_orphan_is_made_again(tmp_path, monkeypatch):
    """Between its making and its locking another process may have removed it."""
    lock, taken = prepared_files.fcntl.flock, []

    def late(stream, how):
        if not taken:
            (part,) = tmp_path.iterdir()
            part.unlink()
            taken.append(part)
        lock(stream, how)

    monkeypatch.setattr(prepared_files.fcntl, "flock", late)
    with written_whole(tmp_path / "file") as stream:
        stream.write(b"whole")
    assert taken
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.mark.parametrize(
    ("module", "write", "version", "means"),
    [
        (ntu, skeletons("ntu-3d"), 1, [0.3940807, -0.01474359, 0.5]),
        (penn_action, penn, 1, [0.3950962, 1.0]),
        (emnist, published_files.emnist_of_tff, 1, [207.7977, 1.125]),
        (celeba, published_files.celeba, 1, [222.4316, 3.5]),
        (qmnist, published_files.qmnist, 1, [46.91231, 3.5]),
        (npz, published_files.own_npz, 1, [207.7555, 1.125]),
    ],
)
def test_a_reader_that_makes_something_else_has_another_version(
    tmp_path, module, write, version, means
):
    """Whoever changes what a reader makes raises its READER, and then these means."""
    name = write(tmp_path) or module.__name__.rpartition(".")[2]
    data = load(name, root=tmp_path, keep=False)
    found = [float(np.mean(v)) for v in data.examples.fields.values()]
    assert version == module.READER
    assert found == pytest.approx(means, rel=1e-5)
