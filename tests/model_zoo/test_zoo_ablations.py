"""What `benchmarks.ablations` switches off exists, and is switched off."""

import math
from dataclasses import replace

import pytest

from benchmarks.ablation_table import COLUMNS, row, rows, verdict
from benchmarks.ablations import Runs, options_of
from benchmarks.switches import OPTIONS, SWITCHES, Switch
from model_zoo import registry
from model_zoo.changes import with_changes
from model_zoo.system import DataFacts, TaskOptions
from simulations.assembly import facts
from simulations.datasets.registry import load
from simulations.layers import parse_setting

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
    assert all(len(switch.moves) in (0, len(switch.metrics)) for switch in SWITCHES)
    named = {(s.system, s.change, s.options) for s in SWITCHES}
    assert len(named) == len(SWITCHES)


def test_what_moves_as_the_paper_says_is_said_by_the_paper():
    assert all(switch.says for switch in SWITCHES if any(switch.moves))


def test_a_row_has_a_cell_for_every_column_and_the_range_of_the_seeds():
    switch = SWITCHES[0]
    shown = row(switch, switch.metrics[0], [0.5, 0.7], [0.4, 0.8])
    cells = [cell.strip() for cell in shown.strip("|").split("|")]
    assert len(cells) == len(COLUMNS)
    assert cells[3:7] == ["2", "0.600", "0.600", "+0.000 (-0.100 to +0.100)"]
    assert cells[-1] == "seeds differ"


@pytest.mark.parametrize(
    ("expected", "differences", "found"),
    [
        ("falls", [-0.1, -0.01, -0.3], "yes"),
        ("falls", [0.1, 0.0], "no"),
        ("rises", [0.1, 0.2], "yes"),
        ("rises", [0.1, -0.2], "seeds differ"),
        ("rises", [-0.1], "no, one seed"),
        ("stays", [0.1, -0.2], "yes"),
        ("stays", [0.1, 0.2], "no"),
        ("", [0.1, 0.2], ""),
        ("falls", [-0.1, float("nan")], "not defined"),
    ],
)
def test_a_metric_has_moved_if_it_did_with_every_seed(expected, differences, found):
    assert verdict(expected, differences) == found


def numbered(monkeypatch):
    """Runs that are not made: the n-th has a `roc_auc` of n. Which were asked for."""
    made = []

    def run(system, options):
        made.append((system, tuple(options)))
        final = {"roc_auc": float(len(made)), "pq": None}
        return {"metrics": {"final": final}}

    monkeypatch.setattr("benchmarks.ablations.report_of", run)
    return made


def test_a_kept_report_is_read_and_other_options_are_another_run(tmp_path, monkeypatch):
    made = numbered(monkeypatch)
    runs, options = Runs(tmp_path), options_of("cv_mim", 3)
    first = runs.metrics_of("cv_mim", options)
    again = runs.metrics_of("cv_mim", options)
    other = runs.metrics_of("cv_mim", options_of("cv_mim", 4))
    assert [found["roc_auc"] for found in (first, again, other)] == [1, 1, 2]
    assert len(made) == 2


def test_switches_of_a_system_share_its_runs_and_print_only_what_is_kept(
    tmp_path, monkeypatch
):
    made = numbered(monkeypatch)
    one, other = (
        Switch("cv_mim", ("roc_auc",), f"sizes.{name}_weight=0", name)
        for name in ("view", "prior")
    )
    for switch, last in ((one, 2.0), (other, 3.0)):
        ((usual, without),) = Runs(tmp_path).pairs(switch, [0])
        assert (usual["roc_auc"], without["roc_auc"]) == (1.0, last)
        assert math.isnan(usual["pq"])
    printing = Runs(tmp_path, made=False)
    assert len(printing.pairs(one, [0, 1])) == 1  # there is no seed 1
    kept = len(made)
    apart = replace(one, options=("--set", "local.steps=2"))
    assert not list(rows(apart, printing.pairs(apart, [0, 1])))
    assert len(made) == kept
    Runs(tmp_path).pairs(apart, [0])
    with_, without = (options for _, options in made[kept:])
    assert "local.steps=2" in with_
    assert set(without) - set(with_) == {"model.changes.sizes.view_weight=0"}
