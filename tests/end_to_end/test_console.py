"""What a person sees of a run while it trains."""

import math

import pytest

from fedemb.cli.console import ConsoleListener
from model_zoo import registry

ROW = {
    **{"round": 3.0, "stage": 1.0, "recall_at_1": 0.25, "roc_auc": math.nan},
    **{"pq": 0.5, "miou": 0.75, "update_norm": 1.0},
}


@pytest.mark.parametrize(
    ("watched", "shown"),
    [
        (("pq", "miou"), "pq 0.5000  miou 0.7500  ("),
        (("pq", "not_measured_here"), "pq 0.5000  ("),
        (("not_measured_here",), "recall_at_1 0.2500  roc_auc not defined  ("),
    ],
)
def test_a_line_has_the_metrics_that_the_system_names(
    watched: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ConsoleListener().evaluation(ROW, watched)
    assert f"round 3  {shown}" in capsys.readouterr().err


@pytest.mark.parametrize("name", registry.names())
def test_systems_name_few_metrics_to_watch(name: str) -> None:
    system = registry.get(name)
    assert system.watched[0] == system.metric
    assert 1 <= len(set(system.watched)) == len(system.watched) <= 3


def test_what_a_configuration_is_judged_by_is_not_shown_twice() -> None:
    assert registry.get("deeplab2:semantic_tiny").watched == ("miou",)
