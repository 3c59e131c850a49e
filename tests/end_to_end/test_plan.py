"""`fedemb plan` extrapolates at the same noise on the mean."""

import pytest

from tests.end_to_end.conftest import CommandLine

TODAY = (
    *("--population", "6800", "--users-per-round", "256", "--rounds", "200"),
    *("--noise-multiplier", "0.62", "--users-per-virtual-client", "8"),
)


def test_a_plan_keeps_the_noise_on_the_mean(fedemb: CommandLine) -> None:
    found = fedemb.json("plan", *TODAY, "--picture", "plan.svg")
    noise = [row["noise_on_mean"] for row in found["plans"]]
    assert noise == pytest.approx([0.62 / 32] * len(noise))
    assert found["plans"][0]["epsilon"] == pytest.approx(11.7, abs=0.05)
    assert found["assumption"]
    assert (fedemb.folder / "plan.svg").stat().st_size > 1000
    code, _, err = fedemb("plan", *TODAY, "--picture", "plan.svg")
    assert code == 2
    assert "already exists" in err
