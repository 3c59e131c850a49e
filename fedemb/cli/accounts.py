"""`fedemb epsilon`, `fedemb calibrate` and `fedemb ledger`: accounting without data."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from fedemb.cli import answers

Population = Annotated[int, typer.Option(help="Users that are sampled from.")]
PerRound = Annotated[float, typer.Option(help="Expected users in a round.")]
Rounds = Annotated[int, typer.Option(help="Rounds of training.")]
Delta = Annotated[float | None, typer.Option(help="Default: population ** -1.1.")]
PerClient = Annotated[int, typer.Option(help="Users trained and clipped together.")]
Noise = Annotated[
    float, typer.Option(help="Noise on the sum, relative to the clip norm.")
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        help="How users are drawn. Default: poisson-virtual-clients, and cyclic for "
        "tree noise."
    ),
]
MechanismName = Annotated[
    str, typer.Option(help="Noise: gaussian (independent), tree or banded.")
]
RestartEvery = Annotated[
    int | None, typer.Option(help="Rounds until correlated noise starts afresh.")
]
Bands = Annotated[int | None, typer.Option(help="Bands of banded noise.")]
PerPeriod = Annotated[
    int | None,
    typer.Option(help="Rounds of a period of random-allocation or balls-in-bins."),
]
Truncated = Annotated[
    int | None, typer.Option(help="Users in a round at most, of truncated-poisson.")
]
Accountant = Annotated[str, typer.Option(help="pld (tight) or rdp.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("epsilon")(epsilon)
    app.command("calibrate")(calibrate)
    ledger = typer.Typer(help="Look at a privacy ledger.", no_args_is_help=True)
    ledger.command("show")(show)
    ledger.command("verify")(verify)
    app.add_typer(ledger, name="ledger")


def epsilon(
    population: Population,
    users_per_round: PerRound,
    rounds: Rounds,
    noise_multiplier: Noise,
    delta: Delta = None,
    users_per_virtual_client: PerClient = 1,
    sampler: SamplerName = None,
    mechanism: MechanismName = "gaussian",
    restart_every: RestartEvery = None,
    bands: Bands = None,
    rounds_per_period: PerPeriod = None,
    truncated_users_per_round: Truncated = None,
    accountant: Accountant = "pld",
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="Also: lower bound, other deltas, zCDP, Gaussian mu, trade-off curve.",
        ),
    ] = False,
    best_of: Annotated[
        float | None,
        typer.Option(
            help="Expected number of runs of which only the best is published."
        ),
    ] = None,
    run_count: Annotated[
        str, typer.Option(help="Its distribution: geometric, logarithmic or poisson.")
    ] = "geometric",
    json_: AsJson = False,
) -> None:
    """What a run costs.

    Example: fedemb epsilon --population 1000000 --users-per-round 2048 --rounds 100
    --noise-multiplier 0.65
    """
    with _arguments():
        accounted = answers.accounted_mechanism(
            sampler,
            population,
            users_per_round,
            noise_multiplier,
            users_per_virtual_client,
            mechanism,
            rounds,
            restart_every,
            bands,
            rounds_per_period,
            truncated_users_per_round,
        )
        extra: dict[str, Any] = {}
        if details:
            extra |= answers.all_answers(
                accounted, rounds, answers.delta_at(delta, population)
            )
        if best_of is not None:
            extra |= answers.best_of_runs(
                accounted,
                rounds,
                answers.delta_at(delta, population),
                best_of,
                run_count,
            )
        _print_report(accounted, rounds, delta, accountant, json_, extra)


def calibrate(
    population: Population,
    users_per_round: PerRound,
    rounds: Rounds,
    epsilon: Annotated[float, typer.Option(help="Target; never exceeded.")],
    solve_for: Annotated[
        str,
        typer.Option(
            "--for",
            help="noise, rounds, users-per-round or population: what to solve for; "
            "its own option is then a start, and ignored.",
        ),
    ] = "noise",
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Needed unless --for noise.")
    ] = None,
    delta: Delta = None,
    users_per_virtual_client: PerClient = 1,
    sampler: SamplerName = None,
    mechanism: MechanismName = "gaussian",
    restart_every: RestartEvery = None,
    bands: Bands = None,
    rounds_per_period: PerPeriod = None,
    truncated_users_per_round: Truncated = None,
    accountant: Accountant = "pld",
    json_: AsJson = False,
) -> None:
    """The least noise or population, or the most rounds or users, for an epsilon.

    Example: fedemb calibrate --population 1000000 --users-per-round 2048 --rounds 100
    --epsilon 2
    """
    with _arguments():
        if (solve_for == "noise") != (noise_multiplier is None):
            raise ValueError(
                f"--noise-multiplier {noise_multiplier} must be given for --for "
                "rounds, users-per-round and population, and only then."
            )
        start = answers.accounted_mechanism(
            sampler,
            population,
            users_per_round,
            noise_multiplier or 1.0,
            users_per_virtual_client,
            mechanism,
            rounds,
            restart_every,
            bands,
            rounds_per_period,
            truncated_users_per_round,
        )
        found, count = answers.solved(
            start, solve_for, rounds, epsilon, delta, accountant
        )
        extra = {"target_epsilon": epsilon, "solved_for": solve_for}
        _print_report(found, count, delta, accountant, json_, extra)


def show(
    path: Annotated[Path, typer.Argument(help="The ledger.")], json_: AsJson = False
) -> None:
    """List every spend, and what it adds up to."""
    from accounting import PrivacyLedger
    from fedemb.cli.console import print_json

    ledger = PrivacyLedger.open(path)
    spent = ledger.spent().epsilon
    entries = [
        {
            "sequence": e.sequence,
            "run": e.run_id,
            "stage": e.stage,
            "round": e.round_index,
            "noise_multiplier": e.mechanism.noise_multiplier,
            "sampling_probability": e.mechanism.sampling_probability,
            "time": e.time,
            "committed": e.committed,
        }
        for e in ledger.entries()
    ]
    if json_:
        print_json(
            {
                "population_id": ledger.population_id,
                "population": ledger.population,
                "budget_epsilon": ledger.budget_epsilon,
                "delta": ledger.delta,
                "epsilon_spent": spent if math.isfinite(spent) else None,
                "entries": entries,
            }
        )
        return
    for e in entries:
        state = "committed" if e["committed"] else "reserved"
        print(
            f"{e['sequence']:>6}  {e['time']}  {e['run']} {e['stage']} round "
            f"{e['round']}  "
            f"z {e['noise_multiplier']:.4g}  q {e['sampling_probability']:.4g}  {state}"
        )
    budget = "none" if ledger.budget_epsilon is None else f"{ledger.budget_epsilon:g}"
    print(
        f"{len(entries)} rounds of {ledger.population_id}: epsilon "
        f"{spent:.4g} at delta {ledger.delta:.3g}, budget {budget}"
    )


def verify(path: Annotated[Path, typer.Argument(help="The ledger.")]) -> None:
    """Check a ledger's file and its chain of hashes."""
    from accounting import PrivacyLedger

    ledger = PrivacyLedger.open(path)
    ledger.verify()
    print(f"{path} is intact: {len(ledger.entries())} entries.")


def _print_report(
    mechanism: Any,
    rounds: int,
    delta: float | None,
    accountant: str,
    as_json: bool,
    extra: dict[str, Any],
) -> None:
    from accounting import epsilon as epsilon_of

    at = answers.delta_at(delta, mechanism.population)
    report = epsilon_of(mechanism, rounds=rounds, delta=at, accountant=accountant)
    content = report.to_dict() | extra
    if "solved_for" in extra:
        content |= {
            "population": mechanism.population,
            "users_per_round": mechanism.users_per_round,
        }
    if as_json:
        import json

        print(json.dumps(content, indent=2, allow_nan=False))
        return
    width = max(map(len, content))
    for name, value in content.items():
        shown = "infinite" if value is None and name == "epsilon" else value
        for line in shown if isinstance(shown, list) else [shown]:
            print(f"{name:<{width}}  {_line(line)}")


def _line(value: Any) -> str:
    """A value of a report in one line."""
    if isinstance(value, dict):
        return "  ".join(f"{name} {_line(own)}" for name, own in value.items())
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class _arguments:
    """Turns the library's ValueError into a mistake in the arguments."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> None:
        from fedemb.errors import UserError

        if isinstance(error, ValueError) and not isinstance(error, UserError):
            raise UserError(str(error)) from error
