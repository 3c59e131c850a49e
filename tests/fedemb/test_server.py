"""Server optimizers against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedemb.errors import UserError
from fedemb.server import IterateAverage, ServerAdam, ServerSGD, ServerState

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


OPTIMIZERS = [
    ServerSGD(),
    ServerAdam(),
    IterateAverage(optimizer=ServerAdam(), decay=0.9),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_counts_the_round_keeps_the_clip_and_never_writes_in_place(optimizer):
    zero = torch.zeros(4)
    before = ServerState(0, zero, optimizer.init(zero), 0.25)
    after = optimizer.step(before, torch.ones(4))
    assert (after.round_index, after.clip_norm) == (1, 0.25)
    assert not before.backbone.any()
    assert not any(m.any() for m in before.moments)
    assert bool((after.backbone > 0).all())


@given(st.lists(vectors, min_size=1, max_size=5), st.sampled_from([0.0, 0.5, 0.9]))
def test_the_average_weighs_the_iterates_by_powers_of_the_decay(updates, decay):
    averaged = IterateAverage(optimizer=ServerSGD(), decay=decay)
    iterates = [
        run(ServerSGD(), updates[: n + 1]).backbone for n in range(len(updates))
    ]
    weights = torch.tensor(
        [decay ** (len(updates) - 1 - n) for n in range(len(updates))]
    )
    expected = (torch.stack(iterates) * weights[:, None]).sum(0) / weights.sum()
    state = run(averaged, updates)
    torch.testing.assert_close(averaged.release(state), expected, rtol=1e-5, atol=1e-5)


@given(st.lists(vectors, min_size=1, max_size=5))
def test_averaging_changes_what_is_released_and_not_what_is_trained(updates):
    averaged = IterateAverage(optimizer=ServerAdam(), decay=0.9)
    last = run(ServerAdam(), updates).backbone
    torch.testing.assert_close(run(averaged, updates).backbone, last, rtol=0, atol=0)


def test_the_noise_of_the_average_is_smaller_than_that_of_the_last_iterate():
    generator = torch.Generator().manual_seed(0)
    averaged = IterateAverage(
        optimizer=ServerSGD(learning_rate=1.0, momentum=0.0), decay=0.95
    )
    pull = 0.3
    zero = torch.zeros(2000, dtype=torch.float64)
    state = ServerState(0, zero, averaged.init(zero), 1.0)
    for _ in range(100):  # a quadratic around 0, with noise on every gradient
        noise = torch.randn(2000, dtype=torch.float64, generator=generator)
        state = averaged.step(state, -pull * state.backbone + noise)
    spread = {"last": state.backbone.std(), "average": averaged.release(state).std()}
    assert spread["average"] < 0.5 * spread["last"]


def test_before_the_first_round_the_average_is_the_initial_backbone():
    averaged = IterateAverage(optimizer=ServerSGD(), decay=0.9)
    state = ServerState(0, torch.ones(4), averaged.init(torch.ones(4)), 1.0)
    assert averaged.release(state).tolist() == [1.0] * 4


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_no_weight_is_refused(decay):
    with pytest.raises(UserError, match=r"average_decay=.* must be in \[0, 1\)"):
        IterateAverage(optimizer=ServerSGD(), decay=decay)


@pytest.mark.parametrize("kind", [ServerSGD, ServerAdam])
def test_a_falling_rate_ends_training_at_rest(kind):
    steps = []
    for fall_over in (None, 4):
        optimizer = kind(fall_over=fall_over)
        states = [run(optimizer, [[1.0] * 4] * n) for n in range(6)]
        pairs = zip(states, states[1:], strict=False)
        steps.append([float((b.backbone - a.backbone)[0]) for a, b in pairs])
    constant, falls = steps
    shares = [b / a for a, b in zip(constant, falls, strict=True)]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
