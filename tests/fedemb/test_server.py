"""Server optimizers against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedemb.server import ServerAdam, ServerSGD, ServerState

vectors = st.lists(st.floats(-10, 10), min_size=4, max_size=4)


def run(optimizer, updates):
    zero = torch.zeros(4, dtype=torch.float64)
    state = ServerState(0, zero, optimizer.init(zero), 0.25)
    for update in updates:
        state = optimizer.step(state, torch.tensor(update, dtype=torch.float64))
    return state


def by_torch(kind, updates, **options):
    """The mean delta is a negative gradient."""
    values = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = kind([values], **options)
    for update in updates:
        values.grad = -torch.tensor(update, dtype=torch.float64)
        optimizer.step()
    return values.detach()


@given(st.lists(vectors, min_size=1, max_size=5), st.sampled_from([0.0, 0.9]))
def test_sgd_is_torchs_sgd_with_momentum(updates, momentum):
    state = run(ServerSGD(learning_rate=0.3, momentum=momentum), updates)
    expected = by_torch(torch.optim.SGD, updates, lr=0.3, momentum=momentum)
    torch.testing.assert_close(state.backbone, expected)


@given(st.lists(vectors, min_size=1, max_size=5))
def test_adam_is_torchs_adam(updates):
    state = run(ServerAdam(learning_rate=0.01, epsilon=1e-6), updates)
    expected = by_torch(torch.optim.Adam, updates, lr=0.01, betas=(0.9, 0.99), eps=1e-6)
    torch.testing.assert_close(state.backbone, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("optimizer", [ServerSGD(), ServerAdam()])
def test_a_step_counts_the_round_keeps_the_clip_and_never_writes_in_place(optimizer):
    zero = torch.zeros(4)
    before = ServerState(0, zero, optimizer.init(zero), 0.25)
    after = optimizer.step(before, torch.ones(4))
    assert (after.round_index, after.clip_norm) == (1, 0.25)
    assert not before.backbone.any()
    assert not any(m.any() for m in before.moments)
    assert bool((after.backbone > 0).all())
