"""A whole run: promise, train, evaluate, report. What `fedemb simulate` does."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from accounting import PrivacyLedger, PrivacyStatement, epsilon
from fedemb.budget import LedgerBudget
from fedemb.errors import UserError
from fedemb.memory import keep_freed_memory
from fedemb.noise_forecast import NoiseForecast
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice
from simulations.announcing import announce
from simulations.assembly import (
    Assembly,
    assemble,
    configuration_of,
    layered,
    make_backbone,
)
from simulations.config import Configuration
from simulations.dp_sgd import train_dp_sgd
from simulations.folder import RunFolder, environment
from simulations.listener import Listener
from simulations.outcome import Outcome, undefined_metrics, write_outcome
from simulations.promise import Promise
from simulations.public_start import PublicStart, public_start, require_same_start
from simulations.runners import Connect
from simulations.scratch import write_configuration
from simulations.training import (
    Progress,
    Trainer,
    evaluate,
    peak_memory,
    pick_engine,
)

CURVE_DELTAS = (1e-5, 1e-6, 1e-7, 1e-8)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train: all that is decided before any budget is spent."""

    folder: RunFolder
    assembly: Assembly
    promise: Promise
    statement: PrivacyStatement
    forecast: NoiseForecast
    key: RootKey
    engine: EngineChoice
    run_id: str
    start: PublicStart


def over_flower(
    connect: Connect,
    *,
    out: str,
    dataset: str | None = None,
    **sections: dict[str, Any],
) -> None:
    """A whole run on SuperNodes; what `flwr run` calls.

    Args:
        connect: makes a runner on the federation's nodes.
        out: the run folder, on the server.
        dataset: as for `fedemb simulate`.
        sections: values by section, such as `privacy={"epsilon": 2}`.
    """
    from simulations.listener import Logged

    model = sections.get("model", {}).get("name")
    simulate(layered(dataset, model, None, sections), Path(out), Logged(), connect)


def simulate(
    configuration: Configuration,
    out: Path,
    listener: Listener,
    connect: Connect | None = None,
) -> dict[str, Any]:
    """Run a configuration into a new folder; returns the content of `report.json`.

    Args:
        configuration: what to run.
        out: a folder that does not exist, or is empty.
        listener: who watches.
        connect: to workers that are there already; None starts those configured.

    Raises:
        UserError, NotAvailable: before anything is spent.
        BudgetExhausted: if the ledger cannot pay for the first round.
    """
    keep_freed_memory()  # engines are measured as they will train
    assembly = assemble(configuration)
    for text in assembly.dataset.provenance.notices:
        listener.notice(text)
    promise = assembly.promise()
    start = public_start(assembly)
    _refuse_unpaid_comparison(configuration)
    folder = RunFolder.create(out)
    write_configuration(assembly.configuration, folder.path)
    seed = configuration.run.seed
    key = RootKey.from_system() if seed is None else RootKey.from_seed(seed)
    folder.keep_key(key)
    engine = pick_engine(assembly, key, listener)
    run_id = f"{out.resolve().name}-{secrets.token_hex(4)}"
    _remember(folder, run_id, engine, start)
    prepared = _prepare(folder, assembly, promise, key, engine, run_id, start)
    return _train(prepared, listener, connect)


def resume(path: Path, listener: Listener) -> dict[str, Any]:
    """Continue an interrupted run; returns the content of `report.json`.

    Raises:
        UserError: if the folder is no run, or the run is complete.
    """
    keep_freed_memory()
    folder = RunFolder.open(path)
    key = folder.key()
    configuration = configuration_of(path)
    if configuration.run.baseline == "dp-sgd":
        raise UserError(
            "the DP-SGD baseline keeps no checkpoints and cannot be resumed; start it "
            "again with another --out."
        )
    assembly = assemble(configuration)
    for text in assembly.dataset.provenance.notices:
        listener.notice(text)
    start = public_start(assembly)
    known = path / "checkpoints" / "run.json"
    if known.exists():
        facts = folder.read_json("checkpoints/run.json")
        engine, run_id = EngineChoice(**facts["engine"]), str(facts["run_id"])
        require_same_start(start, facts.get("start", start.digests))
    else:  # killed before the first round
        engine = pick_engine(assembly, key, listener)
        run_id = f"{path.resolve().name}-{secrets.token_hex(4)}"
        _remember(folder, run_id, engine, start)
    promise = assembly.promise()
    prepared = _prepare(folder, assembly, promise, key, engine, run_id, start)
    return _train(prepared, listener)


def _remember(
    folder: RunFolder, run_id: str, engine: EngineChoice, start: PublicStart
) -> None:
    """Write down what a resumed run has to do alike."""
    facts = {"run_id": run_id, "engine": vars(engine), "start": dict(start.digests)}
    folder.write_text("checkpoints/run.json", json.dumps(facts) + "\n")


def _prepare(
    folder: RunFolder,
    assembly: Assembly,
    promise: Promise,
    key: RootKey,
    engine: EngineChoice,
    run_id: str,
    start: PublicStart,
) -> Prepared:
    forecast = assembly.forecast(promise.plan)
    statement = make_statement(assembly, promise, key, engine, start)
    folder.write_text("privacy_statement.json", statement.dumps())
    folder.write_text("privacy_statement.txt", statement.to_text() + "\n")
    folder.write_json("environment.json", environment())
    return Prepared(
        folder, assembly, promise, statement, forecast, key, engine, run_id, start
    )


def make_statement(
    assembly: Assembly,
    promise: Promise,
    key: RootKey,
    engine: EngineChoice,
    start: PublicStart,
) -> PrivacyStatement:
    """The privacy statement of a run, known before it begins."""
    configuration = assembly.configuration
    accountant = configuration.privacy.accountant
    plan, rounds = promise.plan, configuration.run.rounds

    def claim(delta: float) -> Any:
        return epsilon(
            promise.claimed, rounds=rounds, delta=delta, accountant=accountant
        )

    provenance = assembly.dataset.provenance
    not_private = [
        "evaluation metrics and pictures, computed on held-out examples that are "
        "treated as public",
        "run times, and the operator's diagnostics of raw norms",
    ]
    if not engine.alone:
        not_private.append(
            "float rounding between virtual clients that are computed together, of the "
            "order of 1e-5 of the clip norm (none with --engine serial)"
        )
    if configuration.local.head_init == "persistent":
        not_private.append(
            "while the run lasts, the heads of single users, in its checkpoints"
        )
    if configuration.run.compare_non_private:
        not_private.append("the comparison run without noise, and its metrics")
    public = [*assembly.system.configuration().public, *start.described]
    return PrivacyStatement(
        claimed=claim(promise.delta),
        clip_norm=plan.clip_norm,
        curve=tuple((d, claim(d).epsilon) for d in CURVE_DELTAS),
        target_epsilon=promise.target_epsilon,
        really_run=plan.spent(accountant=accountant) if promise.extrapolated else None,
        population_id=f"{provenance.name} {provenance.checksum}".strip(),
        data_source=provenance.source.value,
        adaptive_clipping=configuration.privacy.adaptive_clipping,
        trained_parameters=assembly.trained_parameters,
        seeded=key.seeded,
        public_inputs=tuple(public),
        tuned=(
            "hyper-parameters come from a recipe or the command line; if they were "
            "chosen by runs on these users, those runs must be in the same ledger",
        ),
        not_private=tuple(not_private),
        software=environment(),
    )


def _train(
    prepared: Prepared, listener: Listener, connect: Connect | None = None
) -> dict[str, Any]:
    assembly, folder = prepared.assembly, prepared.folder
    announce(
        assembly, prepared.promise, prepared.statement, prepared.forecast, listener
    )
    backbone = make_backbone(assembly, 0, prepared.start.backbone)
    progress = Progress(rows=folder.read_metrics())
    if not progress.rows:
        progress.rows.append(
            {"round": 0.0, "stage": 0.0} | evaluate(assembly, 0, backbone)
        )
        folder.write_metrics(progress.rows)
    listener.evaluation(progress.rows[0], assembly.system.watched)
    undefined = undefined_metrics(progress.rows[0])
    if undefined:
        listener.notice(undefined)
    ledger = open_ledger(prepared)
    try:
        trained = _trained(prepared, listener, ledger, progress, connect)
        spent = ledger.spent(run_id=prepared.run_id).epsilon
    finally:
        ledger.close()
    non_private = None
    if assembly.configuration.run.compare_non_private:
        non_private = _without_noise(prepared, listener)
    outcome = Outcome(
        prepared.statement,
        prepared.forecast,
        progress,
        spent,
        prepared.engine,
        peak_memory(),
        non_private,
    )
    report = write_outcome(folder, assembly, backbone, trained, outcome)
    folder.forget_secrets()
    return report


def _trained(
    prepared: Prepared,
    listener: Listener,
    ledger: PrivacyLedger,
    progress: Progress,
    connect: Connect | None,
) -> nn.Module:
    """Train by the algorithm of the run, every round paid from `ledger`."""
    assembly, plan = prepared.assembly, prepared.promise.plan
    if assembly.configuration.run.baseline == "dp-sgd":
        backbone = make_backbone(assembly, 0, prepared.start.backbone)
        budget = LedgerBudget(
            ledger, plan.mechanism, prepared.run_id, planned=plan.rounds
        )
        train_dp_sgd(
            assembly,
            prepared.promise,
            backbone,
            prepared.key,
            budget,
            listener,
            progress,
        )
        return backbone
    return Trainer(
        assembly,
        plan,
        prepared.key,
        prepared.engine,
        listener,
        prepared.folder,
        ledger,
        prepared.run_id,
        prepared.start,
        connect,
    ).run(progress)


def _without_noise(prepared: Prepared, listener: Listener) -> dict[str, float]:
    """The metrics of the same run at z = 0: same cohorts, same clipping, no noise."""
    from dataclasses import replace

    listener.notice(
        "The comparison run without noise has no privacy; it is not released."
    )
    progress = Progress(rows=[])
    Trainer(
        prepared.assembly,
        replace(prepared.promise.plan, noise_multiplier=0.0),
        prepared.key,
        prepared.engine,
        listener,
        start=prepared.start,
    ).run(progress)
    return progress.rows[-1]


def open_ledger(prepared: Prepared) -> PrivacyLedger:
    """The shared ledger that was asked for, or the run's own."""
    configuration = prepared.assembly.configuration
    provenance = prepared.assembly.dataset.provenance
    plan, shared = prepared.promise.plan, configuration.run.ledger
    own_budget = None
    if (
        prepared.promise.target_epsilon is not None
        and not prepared.promise.extrapolated
    ):
        own_budget = prepared.promise.target_epsilon
    return PrivacyLedger.open_or_create(
        Path(shared) if shared else prepared.folder.ledger,
        population_id=f"{provenance.name} {provenance.checksum}".strip(),
        population=plan.mechanism.population,
        budget_epsilon=configuration.run.budget if shared else own_budget,
        delta=plan.delta,
    )


def _refuse_unpaid_comparison(configuration: Configuration) -> None:
    run = configuration.run
    if run.ledger and run.compare_non_private:
        raise UserError(
            "--compare-non-private would use the population of a shared --ledger "
            "without "
            "paying; leave out one of the two."
        )


def evaluated(backbone: nn.Module, assembly: Assembly) -> dict[str, float]:
    """Metrics of a trained backbone on the assembly's held-out examples."""
    return evaluate(assembly, len(assembly.stages) - 1, backbone)
