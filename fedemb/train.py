"""The loop over rounds."""

from collections.abc import Callable

from fedemb.plan import PrivacyPlan
from fedemb.randomness import RootKey
from fedemb.round import Budget, ClientRunner, RoundReport, run_round
from fedemb.server import ServerOptimizer, ServerState


def train(
    state: ServerState,
    plan: PrivacyPlan,
    runner: ClientRunner,
    optimizer: ServerOptimizer,
    key: RootKey,
    budget: Budget,
    *,
    save: Callable[[ServerState, Callable[[], None]], None] = lambda _, commit: (
        commit()
    ),
    after_round: Callable[[ServerState, RoundReport], None] = lambda _, __: None,
) -> ServerState:
    """Run the rounds that are left of `plan`; returns the last state.

    `after_round` sees every new state and report; it may evaluate and draw progress,
    and cannot change training.

    Raises:
        BudgetExhausted: if the ledger cannot pay for a round; the state before that
            round has been saved.
    """
    while state.round_index < plan.rounds:
        state, report = run_round(state, plan, runner, optimizer, key, budget, save)
        after_round(state, report)
    return state
