"""A person's mistake is one line with the value and the way out, never a traceback."""

from pathlib import Path

import pytest

from fedemb.cli.failing import exit_code_of, one_line
from fedemb.cli.main import main
from tests.end_to_end.conftest import CommandLine

MISTAKES = [
    (2, ("simulate", "--dataset", "nope"), "nope"),
    (2, ("simulate", "--epsilon", "-1"), "-1"),
    (2, ("simulate", "--epsilon", "2", "--noise-multiplier", "1"), "exclude"),
    (2, ("simulate", "--set", "foo.bar=1"), "foo"),
    (2, ("simulate", "--set", "local.learning_rat=1"), "learning_rat"),
    (4, ("simulate", "--dataset", "npz:missing.npz"), "missing.npz"),
    (2, ("simulate", "--dataset", "synthetic", "--users", "0"), "0"),
    (2, ("simulate", "--sampler", "cyclic-ish"), "cyclic-ish"),
    (4, ("simulate", "--dataset", "inaturalist", "--require-real"), "inaturalist"),
    (4, ("simulate", "--model", "nope"), "nope"),
    (4, ("models", "describe", "nope"), "nope"),
    (2, ("epsilon", "--population", "10"), "--users-per-round"),
    (2, ("resume", "missing"), "missing"),
    (2, ("ledger", "show", "missing.sqlite"), "missing.sqlite"),
    (2, ("nonsense",), "nonsense"),
    (2, ("simulate", "--dataset", "synthetic", "--out", "/proc/fedemb"), "/proc"),
]


@pytest.mark.parametrize(("code", "arguments", "named"), MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    code: int,
    arguments: tuple[str, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fedemb", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last
    assert "Traceback" not in err
    assert out == ""


def test_an_existing_folder_is_never_overwritten(fedemb: CommandLine) -> None:
    mine = fedemb.folder / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    code, _, err = fedemb("simulate", "--dataset", "synthetic", "--out", "mine")
    assert code == 2
    assert "already exists" in err
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_named(fedemb: CommandLine) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left") as failure:
        Path("/dev/full").write_text("x")
    assert exit_code_of(failure.value) == 2
    assert "disk is full" in one_line(failure.value)
