"""Every format of data from its files to a trained run, by the command line."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Said
from tests.simulations.datasets import published_files as files

Command = Callable[..., Said]

FEW = [
    *("--rounds", 2, "--users-per-round", 4, "--noise-multiplier", 1, "--seed", 1),
    *("--engine", "serial"),
]
OFFICIAL = [
    ("inaturalist", files.inaturalist_of_tff),
    ("inaturalist", files.inaturalist_of_fedvision),
    ("inaturalist", files.inaturalist_of_2017),
    ("gldv2", files.landmarks),
    ("gldv2", files.landmarks_by_author),
    ("gldv2-mini", files.landmarks_mini),
    ("digiface", files.digiface),
    ("flair", files.flair),
    ("emnist", files.emnist_of_tff),
    ("emnist", files.emnist_of_fedjax),
    ("emnist", files.emnist_of_leaf),
    ("celeba", files.celeba),
    ("qmnist", files.qmnist),
]
OWN = [files.own_folder, files.own_parquet, files.own_npz, files.own_hugging_face]
IN_MEMORY = ("emnist", "celeba", "qmnist", "npz")
USERS = {"landmarks_by_author": 9}


def installed(package: str) -> bool:
    """Folders of tests named like a package do not count."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def needs(write: Callable[..., object]) -> None:
    package = {"own_hugging_face": "datasets", "emnist_of_fedjax": "msgpack"}
    name = package.get(write.__name__)
    if name and not installed(name):
        pytest.skip(f"the extra hub ({name}) is not installed")


def trained(here: Command, name: str, root: Path, *more: object) -> dict:
    out = root / f"run-{len(more)}"
    code, said, err = here(
        *("simulate", "--dataset", name, "--root", root, "--out", out, "--json"),
        *(*FEW, *more),
    )
    assert code == 0, err
    report = json.loads(said)
    assert report["rounds_completed"] == 2
    assert 0 <= report["metrics"]["final"]["recall_at_1"] <= 1
    assert (out / "report.html").stat().st_size > 10_000
    return dict(report["dataset"])


def check(here: Command, name: str, root: Path, users: int) -> None:
    found = trained(here, name, root)
    assert (found["source"], found["num_users"]) == ("real", users)
    place = (name, "--root", root, "--image-size", 16)
    code, said, err = here("datasets", "prepare", *place)
    if name.startswith(IN_MEMORY):
        assert code == 2
        assert "needs no preparation" in err
        assert "needs no preparation" in here("datasets", "verify", *place)[2]
        return
    assert code == 0, err
    assert f"40 images of {users} users" in said
    assert here("datasets", "verify", *place)[0] == 0
    small = trained(here, name, root, "--image-size", 16, "--amplify", 50)
    assert (small["source"], small["num_users"]) == ("amplified", 50)
    assert any("AMPLIFIED" in notice for notice in small["notices"])


@pytest.mark.parametrize(
    ("name", "write"), OFFICIAL, ids=[write.__name__ for _, write in OFFICIAL]
)
def test_published_files_train_and_are_prepared(
    here: Command, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    needs(write)
    write(tmp_path)
    check(here, name, tmp_path, USERS.get(write.__name__, 8))


@pytest.mark.parametrize("write", OWN, ids=[write.__name__ for write in OWN])
def test_your_own_files_train_and_are_prepared(
    here: Command, tmp_path: Path, write: Callable[[Path], str]
) -> None:
    needs(write)
    check(here, write(tmp_path), tmp_path, 8)


def test_without_the_extra_a_hub_data_set_says_what_to_install(
    here: Command, tmp_path: Path
) -> None:
    if installed("datasets"):
        pytest.skip("the extra hub is installed")
    code, _, err = here("simulate", "--dataset", f"hf:{tmp_path}", *FEW)
    assert code == 4
    assert "the extra hub" in err


def test_columns_of_other_names_are_prepared_too(here: Command, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    name = files.own_parquet(tmp_path)
    path = tmp_path / "mine.parquet"
    table: pa.Table = parquet.read_table(path)
    parquet.write_table(table.rename_columns(["pic", "what", "who", "split"]), path)
    columns = ["--user-column", "who", "--label-column", "what"]
    columns += ["--image-column", "pic", "--root", tmp_path]
    assert here("datasets", "prepare", name, *columns)[0] == 0
    assert here("datasets", "verify", name, *columns)[0] == 0


def test_prepare_tells_of_missing_files_too(here: Command, tmp_path: Path) -> None:
    files.flair(tmp_path)
    first, second, *_ = sorted(tmp_path.glob("flair/small_images/*.jpg"))
    first.unlink()
    second.write_bytes(b"")
    code, said, _ = here("datasets", "prepare", "flair", "--root", tmp_path)
    assert code == 0
    assert "38 images" in said
    assert "1 unreadable" in said
    assert "1 of 40 rows cannot be used: 00000000.jpg (no such file)" in said
