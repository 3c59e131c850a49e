"""On every system of the zoo each engine that applies equals the serial one.

Systems are taken as a run takes them, with their own recipe and data; the comparison
is in double precision, on ragged clients made of held-out rows.
"""

import pytest

from fedemb.engines.flat import stackable
from fedemb.errors import NotAvailable
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice
from fedemb.tuning import agrees_with_serial
from model_zoo import registry
from simulations.assembly import assemble, client_key, inline_runner, layered
from simulations.assembly import make_backbone as make
from simulations.datasets import describe

SMALL = ("small_cnn", "lenet", "mobilenet_small")
REST = tuple(
    pytest.param(name, marks=pytest.mark.slow)
    for name in registry.names()
    if name not in SMALL
)


@pytest.mark.parametrize("system", [*SMALL, *REST])
def test_engines_agree_on_every_stage(system):
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
        theta = runner.layout.flatten(dict(backbone.named_parameters()))
        assert agrees_with_serial(runner, "flat", theta)
        if stackable(backbone, runner.layout):
            assert agrees_with_serial(runner, "stacked", theta)
