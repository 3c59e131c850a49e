"""On every system of the zoo each engine that applies equals the serial one.

Systems are taken as a run takes them, with their own recipe and data; the comparison
is in double precision, on ragged clients made of held-out rows.
"""

import copy

import pytest
import torch

from fedemb.agreement import agrees_with_serial, ragged_work
from fedemb.clipping import Lattice, LatticeSum
from fedemb.engines.flat import FORMS
from fedemb.engines.shared import single_backbone_step
from fedemb.errors import NotAvailable
from fedemb.local import LocalModel
from fedemb.randomness import RootKey
from fedemb.runner import ENGINES, RECORDED, EngineChoice
from model_zoo import registry
from simulations.assembly import assemble, client_key, inline_runner, layered
from simulations.assembly import make_backbone as make
from simulations.datasets import describe
from tests.operations import GraphsOnTheHost

META = torch.device("meta")
LARGE = ("resnet50",)
SYSTEMS = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
    for name in registry.names()
]
FOLD_INTO_ROWS = {"const_cl"}  # frames: rows of a client no longer lie interleaved
ON_THE_HOST = {"univrd": "solves its matchings on the host, once a step for all"}


def stages(system):
    """A runner of each stage, and what it starts from."""
    options = describe(registry.get(system).default_dataset.partition(":")[0]).options
    few = {"data": {"users": 64}} if "users" in options else {}
    try:
        assembly = assemble(layered(None, system, None, few))
        make(assembly, 0)
    except NotAvailable as reason:
        pytest.skip(str(reason))
    for stage in range(len(assembly.stages)):
        backbone = make(assembly, stage)
        key = client_key(RootKey.from_seed(0), stage)
        runner = inline_runner(assembly, stage, backbone, key, EngineChoice())
        yield runner, runner.layout.flatten(dict(backbone.named_parameters()))


def engines(runner, work, recipe):
    """What can train this stage, but for the serial engine."""
    yield "flat"
    forms = [
        n for n, form in FORMS.items() if form.takes(runner.backbone, runner.layout)
    ]
    yield from forms or ["vectorized"]
    if single_backbone_step(work, recipe):
        yield "shared"


@pytest.mark.parametrize("system", SYSTEMS)
def test_engines_agree_on_every_stage(system):
    for runner, theta in stages(system):
        for name in engines(runner, *ragged_work(runner)):
            folds = name == "grouped" and system in FOLD_INTO_ROWS
            choice = EngineChoice(name=name)
            assert agrees_with_serial(runner, choice, theta) != folds, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_steps_that_are_replayed_agree_on_every_stage(system, monkeypatch):
    """Where there is no card, operations are replayed in place of a CUDA graph."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("fedemb.engines.recorded.CudaGraphs", GraphsOnTheHost)
    for runner, theta in stages(system):
        for name in set(engines(runner, *ragged_work(runner))) & set(RECORDED):
            folds = name == "grouped" and system in FOLD_INTO_ROWS
            choice = EngineChoice(name=name, recorded=True)
            replayed = agrees_with_serial(runner, choice, theta)
            assert replayed != (folds or system in ON_THE_HOST), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_stage_waits_for_its_device_or_mixes_devices(system):
    """The meta device has no values to read, and takes no tensor of another."""
    if system in ON_THE_HOST:
        pytest.skip(f"{system} {ON_THE_HOST[system]}")
    for runner, theta in stages(system):
        work, recipe = ragged_work(runner)
        for name in engines(runner, work, recipe):
            module = copy.deepcopy(runner.backbone).requires_grad_(False).to(META)
            model = LocalModel(runner.task, module, work.head.to(META))
            deltas = ENGINES[name](
                model, runner.layout, theta.to(META), work.to(META), recipe
            )
            total = LatticeSum(Lattice(1.0, runner.layout.size), META)
            total.add(deltas)
            assert deltas.device == META
