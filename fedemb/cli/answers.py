"""What the accounting commands work out, from plain options to plain values."""

import math
from collections.abc import Callable
from typing import Any


def accounted_mechanism(
    sampler: str | None,
    population: int,
    users: float,
    noise: float,
    per_client: int,
    mechanism: str,
    rounds: int,
    restart_every: int | None,
    bands: int | None,
    per_period: int | None,
    truncated: int | None,
) -> Any:
    """What `fedemb simulate` would account for with the same options."""
    from accounting import Sampler
    from fedemb.mechanisms import make_noise
    from fedemb.samplers import groups_for, make_sampler, usual_sampler

    try:
        name = Sampler(sampler) if sampler else usual_sampler(mechanism)
    except ValueError as error:
        choices = ", ".join(s.value for s in Sampler)
        raise ValueError(f"sampler={sampler!r} must be one of {choices}.") from error
    groups = groups_for(
        mechanism,
        name,
        population=population,
        users_per_round=users,
        rounds=rounds,
        bands=bands,
    )
    sampled = make_sampler(
        name,
        population=population,
        users_per_round=users,
        users_per_virtual_client=per_client,
        truncated_users_per_round=truncated,
        rounds_per_period=per_period,
        groups=groups,
    ).mechanism(noise)
    correlated = make_noise(
        mechanism, sampled, rounds=rounds, restart_every=restart_every, bands=bands
    )
    return correlated.accounted(sampled)


def delta_at(delta: float | None, population: int) -> float:
    """The delta asked for, or the customary one of the population."""
    from accounting import default_delta

    return default_delta(population) if delta is None else delta


def all_answers(mechanism: Any, rounds: int, delta: float) -> dict[str, Any]:
    """Every other answer, null where the mechanism has none."""
    import accounting

    def known(value: Callable[[], Any]) -> Any:
        try:
            found = value()
        except accounting.UnsupportedMechanism:
            return None
        return found if not isinstance(found, float) or math.isfinite(found) else None

    def lower() -> float:
        return accounting.epsilon_interval(mechanism, rounds=rounds, delta=delta).lower

    curve = accounting.epsilon_curve(mechanism, rounds=rounds)
    return {
        "epsilon_lower_bound": known(lower),
        "zcdp_rho": known(lambda: accounting.zcdp(mechanism, rounds=rounds)),
        "gaussian_mu": known(lambda: accounting.gaussian_mu(mechanism, rounds=rounds)),
        "epsilon_at_delta": [
            {"delta": d, "epsilon": e if math.isfinite(e) else None} for d, e in curve
        ],
        "trade_off": [
            {"false_positive_rate": x, "false_negative_rate": y}
            for x, y in accounting.trade_off(mechanism, rounds=rounds)
        ],
    }


def best_of_runs(
    mechanism: Any, rounds: int, delta: float, mean: float, count: str
) -> dict[str, Any]:
    """Epsilon of publishing only the best of a random number of such runs."""
    from accounting import RunCount, selection_epsilon

    try:
        drawn = RunCount(count)
    except ValueError as error:
        choices = ", ".join(c.value for c in RunCount)
        raise ValueError(f"run_count={count!r} must be one of {choices}.") from error
    value = selection_epsilon(
        mechanism, rounds=rounds, delta=delta, mean_runs=mean, run_count=drawn
    )
    return {
        "best_of": mean,
        "run_count": drawn.value,
        "epsilon_best_of": value if math.isfinite(value) else None,
    }


def solved(
    start: Any,
    solve_for: str,
    rounds: int,
    target: float,
    delta: float | None,
    accountant: str,
) -> tuple[Any, int]:
    """The mechanism and the rounds that were solved for."""
    import accounting

    at = delta_at(delta, start.population)
    if solve_for == "noise":
        found = accounting.calibrate_noise_multiplier(
            start,
            rounds=rounds,
            target_epsilon=target,
            delta=at,
            accountant=accountant,
        )
        return found, rounds
    if start.noise is not accounting.Noise.INDEPENDENT:
        raise ValueError(
            f"--for {solve_for} must be noise with mechanism={start.noise.value!r}, "
            "whose strategy belongs to one sampler and number of rounds."
        )
    if solve_for == "rounds":
        most = accounting.calibrate_rounds(
            start, target_epsilon=target, delta=at, accountant=accountant
        )
        return start, most
    if solve_for == "users-per-round":
        found = accounting.calibrate_users_per_round(
            start,
            rounds=rounds,
            target_epsilon=target,
            delta=at,
            accountant=accountant,
        )
        return found, rounds
    if solve_for == "population":
        found = accounting.calibrate_population(
            start,
            rounds=rounds,
            target_epsilon=target,
            delta=accounting.default_delta if delta is None else delta,
            accountant=accountant,
        )
        return found, rounds
    raise ValueError(
        f"--for {solve_for} must be noise, rounds, users-per-round or population."
    )
