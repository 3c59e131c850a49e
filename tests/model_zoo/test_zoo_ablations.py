"""What `benchmarks.ablations` switches off exists, and is switched off."""

import pytest

from benchmarks.ablations import COLUMNS, metrics_of, options_of, row
from benchmarks.switches import OPTIONS, SWITCHES
from model_zoo import registry
from model_zoo.changes import with_changes
from model_zoo.system import DataFacts, TaskOptions
from simulations.assembly import facts
from simulations.config import parse_setting
from simulations.datasets.registry import load

NAMED = [
    pytest.param(switch, id=f"{switch.system} {switch.change}") for switch in SWITCHES
]


def told(system: str) -> DataFacts:
    """What the builder of a system is told of its default data."""
    if system != "univrd":  # which alone reads the names and phrases of the data
        return registry.get(system).configuration().data
    return facts(load("relation-scenes", users=8))


def built(system: str, change: str = "") -> str:
    """All that the stages of a system hold, with or without a change."""
    layer = parse_setting(f"model.changes.{change}")["model"] if change else {}
    other = with_changes(registry.get(system), layer.get("changes", {}))
    return repr(other.build(data=told(system), options=TaskOptions()))


@pytest.mark.parametrize("switch", NAMED)
def test_the_card_accepts_a_switch_and_builds_something_else(switch):
    assert built(switch.system) == built(switch.system)
    assert built(switch.system, switch.change) != built(switch.system)


def test_every_system_with_options_has_switches_and_every_switch_options():
    assert {switch.system for switch in SWITCHES} == OPTIONS.keys()
    assert all(switch.metrics for switch in SWITCHES)
    assert len({(s.system, s.change) for s in SWITCHES}) == len(SWITCHES)


def test_a_row_has_a_cell_for_every_column_and_the_difference_of_every_seed():
    switch = SWITCHES[0]
    shown = row(switch, switch.metrics[0], [0.5, 0.7], [0.4, 0.8])
    cells = shown.strip("| ").split(" | ")
    assert len(cells) == len(COLUMNS)
    assert cells[3:6] == ["0.600", "0.600", "-0.100, +0.100"]


def test_a_kept_report_is_read_and_other_options_are_another_run(tmp_path, monkeypatch):
    made = []

    def run(system, options):
        made.append((system, tuple(options)))
        return {"metrics": {"final": {"roc_auc": float(len(made))}}}

    monkeypatch.setattr("benchmarks.ablations.report_of", run)
    options = options_of("cv_mim", 3)
    first = metrics_of("cv_mim", options, tmp_path)
    assert metrics_of("cv_mim", options, tmp_path) == first
    assert metrics_of("cv_mim", options_of("cv_mim", 4), tmp_path) != first
    assert len(made) == 2
