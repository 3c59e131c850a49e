"""Training the stages of a run: every round is paid, trained, saved and evaluated."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from accounting import BudgetExhausted, PrivacyLedger
from fedemb.budget import LedgerBudget, Unaccounted, settle
from fedemb.checkpoint import Checkpointer, read_state
from fedemb.clipping import Diagnostics
from fedemb.errors import UserError
from fedemb.memory import give_back_freed_memory
from fedemb.parameters import FlatLayout
from fedemb.plan import PrivacyPlan
from fedemb.products import described
from fedemb.race import Measurement
from fedemb.randomness import RootKey
from fedemb.round import ClientRunner, RoundReport
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import ServerOptimizer, ServerState
from fedemb.threads import suited_to
from fedemb.train import train
from fedemb.tuning import choose_engine, serves
from simulations.assembly import (
    Assembly,
    client_key,
    device,
    inline_runner,
    make_backbone,
)
from simulations.folder import RunFolder, environment
from simulations.kept_heads import Save, kept_heads, settling
from simulations.listener import Listener
from simulations.public_start import PublicStart
from simulations.runners import Connect, with_runner
from simulations.scratch import placeless

NOTHING_LEARNED = (
    "The update is exactly zero: nothing is learned. With class means as the head "
    "every virtual client needs two examples of some class, or views of one; use more "
    "--users-per-virtual-client or, of pictures, --set model.views=2."
)
TYPICAL_ROWS = 16  # of one user, for the self-measurement on public rows


@dataclass
class Progress:
    """What a run has done so far, over all stages; grows as it trains."""

    rows: list[dict[str, float]]
    rounds: int = 0
    seconds: float = 0.0
    diagnostics: Diagnostics = Diagnostics()
    exhausted: str = ""


@dataclass(frozen=True)
class Trainer:
    """Trains all stages of an assembly.

    Attributes:
        assembly: the parts.
        plan: for all rounds of all stages.
        key: root of all randomness.
        engine: how virtual clients are computed.
        listener: who watches.
        folder: where checkpoints go; None keeps nothing (comparison runs).
        ledger: who pays; None for runs without a promise.
        run_id: names the run in the ledger.
        start: public values to start from.
        connect: to workers that are there already; None starts those configured.
    """

    assembly: Assembly
    plan: PrivacyPlan
    key: RootKey
    engine: EngineChoice
    listener: Listener
    folder: RunFolder | None = None
    ledger: PrivacyLedger | None = None
    run_id: str = ""
    start: PublicStart = PublicStart()
    connect: Connect | None = None

    def run(self, progress: Progress) -> nn.Module:
        """Train every stage from where it stands; returns the backbone."""
        backbone = make_backbone(self.assembly, 0, self.start.backbone)
        for stage, rounds in enumerate(self.assembly.rounds()):
            if stage:
                backbone = make_backbone(self.assembly, stage, backbone.state_dict())
            if rounds and not progress.exhausted:
                self._stage(stage, rounds, backbone, progress)
        return backbone

    def _stage(
        self, stage: int, rounds: int, backbone: nn.Module, progress: Progress
    ) -> None:
        layout = self.assembly.layout(stage, backbone)
        optimizer = self.assembly.optimizer(stage)
        theta = layout.flatten(dict(backbone.named_parameters()))
        state = ServerState(0, theta, optimizer.init(theta), self.plan.clip_norm)
        saved = self.folder.state(stage) if self.folder else None
        if saved is not None and saved.exists():
            state, _ = read_state(saved)
            layout.load(backbone, optimizer.release(state))
        name = self.assembly.stages[stage].name
        self.listener.begin(name, rounds, state.round_index)
        progress.rounds += state.round_index
        budget = self._budget(name, rounds)
        if isinstance(budget, LedgerBudget):
            settle(budget, state.round_index)
        if state.round_index >= rounds:
            return
        watch = _Watch(self, stage, rounds, backbone, layout, optimizer, progress)
        configuration, begins = self.assembly.configuration, state.round_index
        with (
            kept_heads(configuration, self.folder, stage, begins) as heads,
            _saving(saved) as save,
        ):

            def go(runner: ClientRunner) -> ServerState:
                return train(
                    state,
                    replace(self.plan, rounds=rounds),
                    runner,
                    optimizer,
                    self._stage_key(stage),
                    budget,
                    save=settling(save, heads),
                    after_round=watch.after_round,
                )

            try:
                last = with_runner(
                    self.assembly,
                    stage,
                    backbone,
                    self.key,
                    self.engine,
                    go,
                    self.connect,
                    self.start.head(stage),
                    heads,
                )
                layout.load(backbone, optimizer.release(last))
            except BudgetExhausted as error:
                progress.exhausted = str(error)

    def _stage_key(self, stage: int) -> RootKey:
        """Root of cohorts and noise: of this seed, this plan and these data.

        Two runs with the same seed that differ in anything that changes an update must
        not share noise, or the difference of their releases would show the sums.
        """
        configuration = self.assembly.configuration
        own = replace(
            configuration.run,
            runner="inline",
            workers=None,
            engine="auto",
            ledger=None,
            budget=None,
            evaluate_every=0,
            compare_non_private=False,
            device="auto",
        )
        data = replace(configuration.data, keep=None)
        facts = placeless(replace(configuration, data=data, run=own)).to_toml()
        facts += self.assembly.dataset.provenance.checksum
        facts += "".join(self.start.digests.values())
        digest = hashlib.sha256(facts.encode()).hexdigest()
        return RootKey(self.key.derive(f"stage {digest}", stage), self.key.seeded)

    def _budget(self, stage: str, rounds: int) -> LedgerBudget | Unaccounted:
        if self.ledger is None:
            return Unaccounted()
        return LedgerBudget(
            self.ledger,
            self.plan.mechanism,
            self.run_id,
            stage=stage,
            fingerprint=self._fingerprint(),
            planned=rounds,
        )

    def _fingerprint(self) -> str:
        """Equal only where an interrupted round would be repeated bit for bit."""
        configuration = self.assembly.configuration
        if (
            self.connect
            or configuration.run.runner == "flower"
            or device(configuration).type != "cpu"
        ):
            return ""  # late workers and GPU kernels do not repeat bit for bit
        facts = {
            "key": hashlib.sha256(self.key.secret).hexdigest(),
            "configuration": placeless(configuration).to_toml(),
            "data": self.assembly.dataset.provenance.checksum,
            "start": dict(self.start.digests),
            "engine": asdict(self.engine),
            "environment": environment(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class _Watch:
    """Evaluates and reports after rounds of one stage."""

    def __init__(
        self,
        trainer: Trainer,
        stage: int,
        rounds: int,
        backbone: nn.Module,
        layout: FlatLayout,
        optimizer: ServerOptimizer,
        progress: Progress,
    ) -> None:
        self._trainer, self._stage, self._rounds = trainer, stage, rounds
        self._backbone, self._layout, self._progress = backbone, layout, progress
        self._optimizer = optimizer
        self._started = time.perf_counter()

    def after_round(self, state: ServerState, report: RoundReport) -> None:
        seconds = time.perf_counter() - self._started
        progress, trainer = self._progress, self._trainer
        progress.rounds += 1
        progress.seconds += seconds
        progress.diagnostics += report.diagnostics
        name = trainer.assembly.stages[self._stage].name
        trainer.listener.round(name, report, seconds)
        trained = progress.diagnostics.clients > 0
        if report.update_norm == 0 and trained and progress.rounds == 1:
            trainer.listener.notice(NOTHING_LEARNED)
        self._layout.load(self._backbone, self._optimizer.release(state))
        every = trainer.assembly.configuration.run.evaluate_every
        last = state.round_index == self._rounds
        if last or (every and state.round_index % every == 0):
            row = {
                "round": float(progress.rounds),
                "stage": float(self._stage),
                "update_norm": report.update_norm,
                "expected_noise_norm": report.expected_noise_norm,
                "clip_norm": report.clip_norm,
            } | evaluate(trainer.assembly, self._stage, self._backbone)
            progress.rows.append(row)
            if trainer.folder is not None:
                trainer.folder.write_metrics(progress.rows)
            trainer.listener.evaluation(row, trainer.assembly.system.watched)
        self._started = time.perf_counter()


def evaluate(assembly: Assembly, stage: int, backbone: nn.Module) -> dict[str, float]:
    """Metrics of a backbone on the held-out (public) examples."""
    task = assembly.stages[stage].task
    backbone = backbone.to(device(assembly.configuration))
    examples = assembly.dataset.held_out()
    with suited_to(backbone, len(examples)):
        return task.evaluate(backbone.eval(), examples)


def pick_engine(assembly: Assembly, key: RootKey, listener: Listener) -> EngineChoice:
    """Measure the engines on public rows and take the fastest; says so.

    They are measured in the stage of most rounds. One that does not compute what the
    serial engine does in every stage is not taken.

    Raises:
        UserError: if the engine that was asked for does not.
    """
    rounds = assembly.rounds()
    longest, *others = sorted(range(len(rounds)), key=lambda s: -rounds[s])
    privacy = assembly.configuration.privacy
    users = privacy.users_per_virtual_client or 1
    rows = TYPICAL_ROWS * users
    rows = min(rows, assembly.configuration.local.reads(rows))  # others are left alone

    def choose(stage: int, name: str) -> tuple[EngineChoice, list[Measurement]]:
        return choose_engine(
            *_beginning(assembly, stage, key),
            rows_per_client=rows,
            name=name,
            clients=(privacy.users_per_round or math.inf) / users,
        )

    asked = assembly.configuration.run.engine
    choice, measured = choose(longest, asked)
    for stage in (s for s in others if rounds[s]):
        runner, theta = _beginning(assembly, stage, key)
        if choice.recorded and not serves(runner, choice, theta):
            choice = replace(choice, recorded=False)
        if not serves(runner, choice, theta):
            if asked != "auto":
                raise UserError(
                    f"engine={asked!r} cannot train the stage "
                    f"{assembly.stages[stage].name!r} as the serial engine does; use "
                    "--engine auto or serial."
                )
            choice, measured = choose(longest, "flat")
    give_back_freed_memory()
    rates = ", ".join(
        f"{m.choice.name}/{m.choice.chunk}{' replayed' * m.choice.recorded}: "
        f"{m.clients_per_second:,.0f}"
        for m in measured
    )
    listener.fact(
        "engine",
        f"{choice.described} (virtual clients/s measured on public rows: {rates}); "
        f"matrix products by {described()}",
    )
    return choice


def _beginning(
    assembly: Assembly, stage: int, key: RootKey
) -> tuple[InlineRunner, Tensor]:
    """A runner of a stage, and the parameters that it would train."""
    backbone = make_backbone(assembly, stage)
    own = client_key(key, stage)
    runner = inline_runner(assembly, stage, backbone, own, EngineChoice())
    return runner, runner.layout.flatten(dict(backbone.named_parameters()))


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _saving(path: Path | None) -> Iterator[Save]:
    """What saves states to a file, all of them before the context ends."""
    if path is None:
        yield _commit_at_once
        return
    with closing(Checkpointer(path)) as saver:
        yield saver


def _commit_at_once(state: ServerState, commit: Callable[[], None]) -> None:
    del state
    commit()
