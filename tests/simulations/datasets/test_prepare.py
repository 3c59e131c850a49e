"""Prepared shards: the same data, resumable, checked, never overwritten."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedemb.errors import UserError
from simulations.datasets import load
from simulations.datasets.prepare import prepare
from simulations.datasets.prepared import PreparedDataset


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.datasets.prepare.ROWS_PER_SHARD", 7)
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for number in range(40):
        name = f"{number}.png"
        pixels = draw.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        rows.append(
            (
                name,
                f"u{number % 5}",
                f"c{number % 6}",
                ["train", "test"][number > 30],
            )
        )
    with (folder / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("file_name", "user_id", "label", "split"), *rows]
        )
    return folder


def assert_same(one, two):
    assert one.num_users == two.num_users
    assert one.num_classes == two.num_classes
    assert list(one.class_names) == list(two.class_names)
    users = np.array([3, 0, 3, 1])
    for a, b in (
        (one.fetch(users), two.fetch(users)),
        (one.held_out(), two.held_out()),
    ):
        np.testing.assert_array_equal(a.offsets, b.offsets)
        for name in ("image", "label"):
            np.testing.assert_array_equal(a.fields[name], b.fields[name])
    assert one.user_id(2) == two.user_id(2)


def test_prepared_data_are_the_same_data(folder, tmp_path):
    before = load(f"folder:{folder}", root=tmp_path)
    seen = []
    report = prepare(
        f"folder:{folder}", root=tmp_path, progress=lambda *now: seen.append(now)
    )
    after = load(f"folder:{folder}", root=tmp_path)
    assert isinstance(after, PreparedDataset)
    assert_same(before, after)
    assert seen == [(min(n, 40), 40) for n in range(7, 43, 7)]
    assert (report.images, report.users, report.bad, report.resumed) == (40, 5, (), 0)
    assert after.verify() == []
    assert after.provenance.source == before.provenance.source


def test_a_killed_preparation_goes_on_and_ends_the_same(folder, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total):
        if done > 20:
            raise Killed

    name = f"folder:{folder}"
    with pytest.raises(Killed):
        prepare(name, root=tmp_path, progress=kill)
    assert not isinstance(load(name, root=tmp_path), PreparedDataset)
    report = prepare(name, root=tmp_path)
    assert report.resumed == 21
    whole = prepare(name, root=tmp_path / "other")
    same = [p.name for p in sorted(whole.folder.iterdir()) if p.suffix != ".json"]
    for file in same:
        one, two = (
            (report.folder / file).read_bytes(),
            (whole.folder / file).read_bytes(),
        )
        if file.endswith(".npy"):
            assert one == two
    assert_same(load(name, root=tmp_path), load(name, root=tmp_path / "other"))
    assert prepare(name, root=tmp_path).resumed == 40


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from simulations.datasets import prepare

prepare.ROWS_PER_SHARD = 7
written = 0

def fsync(descriptor, sync=os.fsync):
    global written
    written += 1
    if written == 4:  # the plan, a shard and its record, and half of the next shard
        os.ftruncate(descriptor, 200)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

os.fsync = fsync
prepare.prepare(sys.argv[1], root=Path(sys.argv[2]))
"""


def test_what_a_killed_preparation_had_half_written_is_cleared_away(folder, tmp_path):
    name = f"folder:{folder}"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, name, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (place,) = (tmp_path / "prepared").iterdir()
    (part,) = place.glob(".*")
    assert part.stat().st_size == 200
    (place / ".DS_Store").touch()
    report = prepare(name, root=tmp_path)
    assert report.resumed == 7
    assert [path.name for path in place.glob(".*")] == [".DS_Store"]


def test_two_preparations_of_the_same_data_keep_out_of_each_others_way(
    folder, tmp_path
):
    name = f"folder:{folder}"

    def again(done, total):
        with pytest.raises(UserError, match="being prepared by another process"):
            prepare(name, root=tmp_path)

    assert prepare(name, root=tmp_path, progress=again).images == 40


def test_a_damaged_shard_is_found_and_written_again(folder, tmp_path):
    name = f"folder:{folder}"
    report = prepare(name, root=tmp_path)
    shard = report.folder / "00002.npy"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 255
    shard.write_bytes(content)
    assert load(name, root=tmp_path).verify() == ["00002.npy"]
    assert prepare(name, root=tmp_path).resumed == 33
    assert load(name, root=tmp_path).verify() == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "other numbers"])
def test_a_damaged_index_is_found_on_opening(folder, tmp_path, damage):
    name = f"folder:{folder}"
    index = prepare(name, root=tmp_path).folder / "index.npz"
    content = index.read_bytes()
    if damage == "other numbers":
        with np.load(index) as arrays:
            np.savez(index, **(dict(arrays) | {"rows": arrays["rows"][::-1]}))
    elif damage == "flipped":
        index.write_bytes(content[:300] + bytes([content[300] ^ 255]) + content[301:])
    else:
        index.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"index\.npz is damaged"):
        load(name, root=tmp_path)
    prepare(name, root=tmp_path)
    assert load(name, root=tmp_path).num_users == 5


def test_a_shard_cut_short_is_found(folder, tmp_path):
    name = f"folder:{folder}"
    shard = prepare(name, root=tmp_path).folder / "00001.npy"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert load(name, root=tmp_path).verify() == ["00001.npy"]


def test_the_command_verifies(folder, tmp_path, capsys, monkeypatch):
    from fedemb.cli.main import main

    name = f"folder:{folder}"

    def verify():
        words = ["fedemb", "datasets", "verify", name, "--root", str(tmp_path)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    assert verify()[0] == 4
    shard = prepare(name, root=tmp_path).folder / "00001.npy"
    code, said = verify()
    assert code == 0
    assert "6 shards are as they were" in said.out
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, said = verify()
    assert code == 2
    assert "00001.npy differ" in said.err


def test_corrupt_images_are_counted_and_named(folder, tmp_path):
    (folder / "8.png").write_bytes(b"no image")
    (folder / "9.png").write_bytes((folder / "9.png").read_bytes()[:-40])
    (folder / "10.png").unlink()
    report = prepare(f"folder:{folder}", root=tmp_path)
    assert {name for name, _ in report.bad} == {"8.png", "9.png", "10.png"}
    data = load(f"folder:{folder}", root=tmp_path)
    assert "3 of 40 rows" in data.provenance.notices[-1]
    assert len(data.fetch(np.arange(5))) + len(data.held_out()) == 37
    left = load(f"folder:{folder}", root=tmp_path / "x", skip_bad=True)
    assert_same(data, left)


def test_other_rows_never_overwrite_and_changed_tables_are_noticed(folder, tmp_path):
    name = f"folder:{folder}"
    report = prepare(name, root=tmp_path)
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace("u4", "u3"))
    with pytest.raises(UserError, match=r"has changed since"):
        load(name, root=tmp_path)
    with pytest.raises(UserError, match="other rows or sizes"):
        prepare(name, root=tmp_path)
    assert json.loads((report.folder / "manifest.json").read_text())["num_users"] == 5


def test_sizes_are_prepared_side_by_side(folder, tmp_path):
    name = f"folder:{folder}"
    prepare(name, root=tmp_path, image_size=8)
    small = load(name, root=tmp_path, image_size=8)
    assert isinstance(small, PreparedDataset)
    assert small.held_out().fields["image"].shape[1:] == (8, 8, 3)
    assert not isinstance(load(name, root=tmp_path), PreparedDataset)
    with pytest.raises(UserError, match="columns"):
        load(name, root=tmp_path, image_size=8, label_column="user_id")


def test_unfinished_foreign_and_needless_preparations(folder, tmp_path):
    report = prepare(f"folder:{folder}", root=tmp_path)
    with pytest.raises(UserError, match="needs no preparation"):
        prepare("synthetic", root=tmp_path)
    manifest = report.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(UserError, match="format 9"):
        load(f"folder:{folder}", root=tmp_path)
    manifest.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load(f"folder:{folder}", root=tmp_path)
    manifest.unlink()
    with pytest.raises(UserError, match="unfinished"):
        PreparedDataset(report.folder)
