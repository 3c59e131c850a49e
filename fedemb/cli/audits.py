"""`fedemb audit`: attack the pipeline, and compare with what is claimed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedemb.audit import AuditReport, AuditSettings
    from fedemb.plan import PrivacyPlan

Text = str | None
Number = float | None
Whole = int | None

_QUICK = {"population": 1024, "rounds": 4, "epsilon": 4.0, "delta": 1e-5}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("audit")(audit)


def audit(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run; its plan is audited.")
    ] = None,
    dataset: Annotated[
        Text, typer.Option(help="Audit the plan of `simulate` on this data set.")
    ] = None,
    model: Annotated[
        Text, typer.Option(help="Audit the plan of `simulate` with this system.")
    ] = None,
    recipe: Annotated[
        Text, typer.Option(help="Audit the plan of this recipe: a name or TOML file.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value of that plan; may be repeated."),
    ] = None,
    population: Annotated[
        Whole, typer.Option(help="Users. Default without a run or recipe: 1024.")
    ] = None,
    users_per_round: Annotated[
        Number, typer.Option(help="Expected users in a round. Default: half of them.")
    ] = None,
    users_per_virtual_client: Annotated[
        Whole, typer.Option(help="Users clipped together. Default: 2.")
    ] = None,
    rounds: Annotated[Whole, typer.Option(help="Rounds. Default: 4.")] = None,
    epsilon: Annotated[
        Number, typer.Option(help="Claim that the noise is calibrated to. Default: 4.")
    ] = None,
    noise_multiplier: Annotated[
        Number, typer.Option(help="Noise instead of epsilon.")
    ] = None,
    delta: Annotated[Number, typer.Option(help="Of the claim. Default: 1e-5.")] = None,
    sampler: Annotated[
        Text, typer.Option(help="Default: poisson-virtual-clients.")
    ] = None,
    engine: Annotated[
        Text,
        typer.Option(
            help="Train canaries through real local training by serial, vectorized or "
            "shared. Slower; by default their updates are planted."
        ),
    ] = None,
    runs: Annotated[
        Whole, typer.Option(help="Runs with one canary. Default: about a minute.")
    ] = None,
    canaries: Annotated[
        int, typer.Option(help="Canaries in the one run with many, at most.")
    ] = 512,
    audit_rounds: Annotated[
        Whole,
        typer.Option(help="Audit only so many rounds, against the claim for those."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Of all lower bounds together.")
    ] = 0.999,
    seed: Annotated[Whole, typer.Option(help="Reproducible audit.")] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Attack the real pipeline with canary users; exit code 1 if it leaks too much.

    Example: fedemb audit

    Example: fedemb audit runs/inaturalist-20260101-120000
    """
    from fedemb.audit import AuditSettings, release, trained
    from fedemb.audit import audit as attack
    from fedemb.cli.console import counting, print_json
    from fedemb.randomness import RootKey
    from fedemb.runner import EngineChoice

    given = {
        "population": population,
        "users_per_round": users_per_round,
        "users_per_virtual_client": users_per_virtual_client,
        "rounds": rounds,
        "epsilon": epsilon,
        "noise_multiplier": noise_multiplier,
        "delta": delta,
        "sampler": sampler,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    if epsilon is not None and noise_multiplier is not None:
        raise typer.BadParameter(
            f"--epsilon {epsilon} and --noise-multiplier {noise_multiplier} exclude "
            "each other; give one of them."
        )
    stated = float("inf")
    named = {"--dataset": dataset, "--model": model, "--recipe": recipe, "--set": set_}
    others = [name for name, value in named.items() if value]
    if run is not None and (others or asked):
        extra = [*others, *("--" + name.replace("_", "-") for name in asked)]
        raise typer.BadParameter(
            f"{run} fixes the plan, so {extra[0]} cannot be given as well; leave out "
            "one of the two."
        )
    if run is not None:
        plan, stated, source = _plan_of_run(run)
    elif others:
        plan = _plan_of_recipe(dataset, model, recipe, set_ or [], asked)
        source = "plan of a recipe"
    else:
        plan, source = _plan_of_numbers(asked), "plan of its own"
    pipeline = trained(EngineChoice(name=engine, chunk=64)) if engine else release
    settings = _settings(
        AuditSettings.for_plan(plan, training=engine is not None),
        runs,
        canaries,
        audit_rounds,
        confidence,
    )
    key = RootKey.from_system() if seed is None else RootKey.from_seed(seed)
    with counting("runs") as progress:
        report = attack(
            plan,
            key,
            settings=settings,
            stated_epsilon=stated,
            pipeline=pipeline,
            progress=progress,
        )
    if json_:
        print_json({"source": source, "engine": engine, **report.to_dict()})
    else:
        _print(source, report)
    if report.violated:
        raise typer.Exit(1)


def _plan_of_run(run: Path) -> "tuple[PrivacyPlan, float, str]":
    from simulations.audited import AuditedRun

    audited = AuditedRun.open(run)
    note = " (really run, not its extrapolated claim)" if audited.extrapolated else ""
    return audited.plan, audited.stated_epsilon, f"{run}{note}"


def _plan_of_recipe(
    dataset: str | None,
    model: str | None,
    recipe: str | None,
    settings: list[str],
    asked: Mapping[str, Any],
) -> "PrivacyPlan":
    from simulations.assembly import assemble, layered
    from simulations.layers import parse_setting

    privacy = {name: value for name, value in asked.items() if name != "rounds"}
    run = {name: value for name, value in asked.items() if name == "rounds"}
    if dataset is None and model is None:
        dataset = "openclipart"
    configuration = layered(
        dataset,
        model,
        recipe,
        {"privacy": privacy, "run": run},
        *(parse_setting(text) for text in settings),
    )
    return assemble(configuration).promise().plan


def _plan_of_numbers(asked: Mapping[str, Any]) -> "PrivacyPlan":
    from accounting import Sampler
    from fedemb.errors import UserError
    from fedemb.plan import PrivacyPlan
    from fedemb.samplers import make_sampler

    values = {**_QUICK, **asked}
    name, people = (
        values.get("sampler", "poisson-virtual-clients"),
        values["population"],
    )
    if name not in list(Sampler):
        choices = ", ".join(Sampler)
        raise UserError(f"sampler={name!r} must be one of {choices}.")
    everybody = name == Sampler.FULL_PARTICIPATION
    chosen = make_sampler(
        Sampler(name),
        population=people,
        users_per_round=values.get(
            "users_per_round", people if everybody else people / 2
        ),
        users_per_virtual_client=values.get("users_per_virtual_client", 2),
    )
    try:
        plan = PrivacyPlan(
            sampler=chosen,
            rounds=values["rounds"],
            clip_norm=1.0,
            noise_multiplier=values.get("noise_multiplier", 1.0),
            delta=values["delta"],
        )
        if "noise_multiplier" in asked:
            return plan
        return plan.calibrate(values["epsilon"])
    except ValueError as error:
        raise UserError(str(error)) from error


def _settings(
    minute: "AuditSettings",
    runs: int | None,
    canaries: int,
    rounds: int | None,
    confidence: float,
) -> "AuditSettings":
    from dataclasses import replace

    return replace(
        minute,
        runs=minute.runs if runs is None else runs,
        canaries=canaries,
        rounds=minute.rounds if rounds is None else rounds,
        confidence=confidence,
    )


def _print(source: str, report: "AuditReport") -> None:
    claimed = report.claimed
    mechanism = claimed.mechanism
    print(f"audited      {source}")
    print(
        f"mechanism    {mechanism.sampler.value}, "
        f"q {mechanism.sampling_probability:.4g}, "
        f"u {mechanism.users_per_virtual_client}, z {mechanism.noise_multiplier:.4g},"
        f" {claimed.rounds} of {report.rounds_of_plan} rounds"
    )
    print(
        f"claim        epsilon {claimed.epsilon:.4g} at delta {claimed.delta:.3g} for "
        "the audited rounds"
    )
    print("lower bounds")
    for bound in report.bounds:
        print(
            f"  {bound.method:<16} {bound.epsilon:8.4f}  at {bound.confidence:.5g}: "
            f"{bound.detail}"
        )
    for estimate in report.estimates:
        print(f"  {estimate.method:<16} {estimate.epsilon:8.4f}  {estimate.detail}")
    for premise in report.premises:
        state = "holds" if premise.holds else "FAILS"
        print(f"  {premise.name:<16} {state:>8}  {premise.detail}")
    verdict = "FAIL" if report.violated else "PASS"
    shown = f"the largest lower bound is {report.epsilon_lower_bound:.4g}"
    print(
        f"verdict      {verdict}: {shown}, against a claim of {claimed.epsilon:.4g}, "
        f"confidence {report.confidence:g}"
    )
