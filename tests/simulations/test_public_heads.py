"""Heads that start from public constants: which, where from, and that workers agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedemb.clipping import Lattice
from fedemb.cohort import Cohort
from fedemb.errors import UserError
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice
from simulations.assembly import assemble, layered, make_backbone
from simulations.public_heads import lasting
from simulations.public_start import (
    PublicStart,
    public_start,
    require_same_start,
)
from simulations.runners import specification, with_runner
from simulations.worker import WorkerSpecification

KEY = RootKey.from_seed(4)
COHORT = Cohort(np.arange(3), np.arange(6), np.full(3, 2))


def assembly(head_init="public", label_space="global", runner="inline", value=0.5):
    """Identities told apart by a linear head, whose weights the system ships."""
    made = assemble(
        layered(
            "synthetic",
            "small_cnn:tiny",
            None,
            {
                "data": {"users": 40},
                "model": {"head": "linear", "label_space": label_space},
                "local": {"head_init": head_init, "steps": 1},
                "run": {"runner": runner, "workers": 1},
            },
        )
    )
    shape = lasting(made.stages[0].task).get("weight", torch.Size([7, 64]))
    head = {"weight": torch.linspace(-value, value, shape.numel()).reshape(shape)}
    (stage,) = made.stages
    return replace(made, stages=(replace(stage, public_head=lambda: head),))


def total(made):
    """The sum of a round's deltas."""
    backbone = make_backbone(made, 0)
    start = public_start(made)

    def go(runner):
        layout = made.layout(0, backbone)
        theta = layout.flatten(dict(backbone.named_parameters()))
        return runner.train(theta, COHORT, Lattice(10.0, len(theta)), 0).total

    engine = EngineChoice()
    return with_runner(made, 0, backbone, KEY, engine, go, head=start.head(0))


def test_the_update_starts_from_the_public_head_and_a_fresh_one_does_not():
    assert not torch.equal(total(assembly(value=0.5)), total(assembly(value=0.6)))
    fresh = [total(assembly("fresh", value=value)) for value in (0.5, 0.6)]
    assert torch.equal(*fresh)


def test_worker_processes_get_the_public_head():
    assert torch.equal(total(assembly()), total(assembly(runner="processes")))


def test_the_head_is_part_of_what_a_specification_names():
    made, engine = assembly(), EngineChoice()
    backbone, head = make_backbone(made, 0), public_start(made).head(0)
    with_head = specification(made, 0, backbone, KEY, engine, head)
    assert with_head.digest != specification(made, 0, backbone, KEY, engine).digest
    again = WorkerSpecification.from_json(
        with_head.to_json(), with_head.state, with_head.head
    )
    assert again.digest == with_head.digest
    assert torch.equal(again.build().public_head["weight"], head["weight"])


def test_a_public_head_is_stated_with_its_hash():
    start = public_start(assembly())
    (said,) = start.described
    assert "'embedding' starts from these constants" in said
    assert start.digests["heads of embedding"][:16] in said
    assert public_start(assembly("fresh")) == PublicStart(heads=({},))


def test_rows_of_a_clients_own_classes_are_never_public():
    """Row k is another class on every client: it is drawn from the public seed."""
    assert public_start(assembly(label_space="client")).head(0) == {}


def test_heads_that_do_not_fit_are_refused_by_name_and_shape():
    made = assembly()
    (stage,) = made.stages
    for found, said in (
        ({"weight": stage.public_head()["weight"] / 0}, "weight is not finite"),
        ({"weight": torch.zeros(3, 64)}, r"weight is \(3, 64\), but the head .* has"),
        ({}, "weight is missing"),
        ({**stage.public_head(), "gain": torch.ones(1)}, r"gain is \(1,\).* has none"),
    ):
        other = replace(stage, public_head=lambda found=found: found)
        with pytest.raises(UserError, match=said) as error:
            public_start(replace(made, stages=(other,)))
        assert "local.head_init=fresh" in str(error.value)


def test_a_resumed_run_refuses_another_public_head():
    before = public_start(assembly(value=0.5))
    require_same_start(before, before.digests)
    with pytest.raises(UserError, match="public heads of embedding have the digest"):
        require_same_start(public_start(assembly(value=0.6)), before.digests)
