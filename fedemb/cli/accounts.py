"""`fedemb epsilon`, `fedemb calibrate` and `fedemb ledger`: accounting without data."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

Population = Annotated[int, typer.Option(help="Users that are sampled from.")]
PerRound = Annotated[float, typer.Option(help="Expected users in a round.")]
Rounds = Annotated[int, typer.Option(help="Rounds of training.")]
Delta = Annotated[float | None, typer.Option(help="Default: population ** -1.1.")]
PerClient = Annotated[int, typer.Option(help="Users trained and clipped together.")]
SamplerName = Annotated[str, typer.Option(help="How users are drawn.")]
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
    noise_multiplier: Annotated[
        float, typer.Option(help="Noise on the sum, relative to the clip norm.")
    ],
    delta: Delta = None,
    users_per_virtual_client: PerClient = 1,
    sampler: SamplerName = "poisson-virtual-clients",
    accountant: Accountant = "pld",
    json_: AsJson = False,
) -> None:
    """What a run costs.

    Example: fedemb epsilon --population 1000000 --users-per-round 2048 --rounds 100
    --noise-multiplier 0.65
    """
    with _arguments():
        mechanism = _mechanism(
            sampler,
            population,
            users_per_round,
            noise_multiplier,
            users_per_virtual_client,
        )
        _print_report(mechanism, rounds, delta, accountant, json_, {})


def calibrate(
    population: Population,
    users_per_round: PerRound,
    rounds: Rounds,
    epsilon: Annotated[float, typer.Option(help="Target; never exceeded.")],
    delta: Delta = None,
    users_per_virtual_client: PerClient = 1,
    sampler: SamplerName = "poisson-virtual-clients",
    accountant: Accountant = "pld",
    json_: AsJson = False,
) -> None:
    """The least noise that reaches a target epsilon.

    Example: fedemb calibrate --population 1000000 --users-per-round 2048 --rounds 100
    --epsilon 2
    """
    from accounting import calibrate_noise_multiplier, default_delta

    with _arguments():
        mechanism = calibrate_noise_multiplier(
            _mechanism(
                sampler, population, users_per_round, 1.0, users_per_virtual_client
            ),
            rounds=rounds,
            target_epsilon=epsilon,
            delta=default_delta(population) if delta is None else delta,
            accountant=accountant,
        )
        extra = {"target_epsilon": epsilon}
        _print_report(mechanism, rounds, delta, accountant, json_, extra)


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


def _mechanism(
    sampler: str, population: int, users: float, noise: float, per_client: int
) -> Any:
    from accounting import SampledGaussian, Sampler

    try:
        chosen = Sampler(sampler)
    except ValueError as error:
        choices = ", ".join(s.value for s in Sampler)
        raise ValueError(f"sampler={sampler!r} must be one of {choices}.") from error
    return SampledGaussian(
        sampler=chosen,
        population=population,
        users_per_round=users,
        noise_multiplier=noise,
        users_per_virtual_client=per_client,
    )


def _print_report(
    mechanism: Any,
    rounds: int,
    delta: float | None,
    accountant: str,
    as_json: bool,
    extra: dict[str, Any],
) -> None:
    from accounting import default_delta
    from accounting import epsilon as epsilon_of

    at = default_delta(mechanism.population) if delta is None else delta
    report = epsilon_of(mechanism, rounds=rounds, delta=at, accountant=accountant)
    content = report.to_dict() | extra
    if as_json:
        import json

        print(json.dumps(content, indent=2, allow_nan=False))
        return
    width = max(map(len, content))
    for name, value in content.items():
        shown = "infinite" if value is None and name == "epsilon" else value
        print(
            f"{name:<{width}}  {shown:.6g}"
            if isinstance(shown, float)
            else f"{name:<{width}}  {shown}"
        )


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
