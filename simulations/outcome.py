"""What a finished run leaves behind: backbone, report.json and report.html."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save
from torch import nn

from accounting import PrivacyStatement
from fedemb.checkpoint import write_atomically
from fedemb.metrics import IDENTITY_METRICS
from fedemb.noise_forecast import NoiseForecast
from fedemb.products import described
from fedemb.runner import EngineChoice
from simulations.assembly import Assembly
from simulations.folder import RunFolder
from simulations.training import Progress

NOT_METRICS = ("round", "stage", "update_norm", "expected_noise_norm", "clip_norm")


@dataclass(frozen=True)
class Outcome:
    """The results of a run."""

    statement: PrivacyStatement
    forecast: NoiseForecast
    progress: Progress
    spent: float
    engine: EngineChoice
    peak_memory: int
    non_private: dict[str, float] | None = None


def write_outcome(
    folder: RunFolder,
    assembly: Assembly,
    initial: nn.Module,
    trained: nn.Module,
    outcome: Outcome,
) -> dict[str, Any]:
    """Write backbone, `report.json` and `report.html`; returns the former's content."""
    write_atomically(
        folder.backbone, backbone_file(assembly, trained, outcome.statement)
    )
    report = report_content(assembly, outcome)
    folder.write_json("report.json", report)
    from simulations.pictures import write_html

    write_html(
        folder,
        assembly,
        (initial, trained),
        outcome.statement,
        outcome.forecast,
        outcome.progress,
        report,
    )
    return report


def backbone_file(
    assembly: Assembly, backbone: nn.Module, statement: PrivacyStatement
) -> bytes:
    """The backbone as safetensors, with the privacy statement in its metadata."""
    state = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    metadata = {
        "format": "pt",
        "model": assembly.configuration.model.name,
        "configuration": assembly.configuration.to_toml(),
        "privacy_statement": statement.dumps(),
    }
    content: bytes = save(state, metadata)
    return content


def report_content(assembly: Assembly, outcome: Outcome) -> dict[str, Any]:
    """The content of `report.json`."""
    run, dataset = assembly.configuration.run, assembly.dataset
    progress = outcome.progress
    seconds = progress.seconds
    metrics: dict[str, Any] = {
        "initial": only_metrics(progress.rows[0]),
        "final": only_metrics(progress.rows[-1]),
    }
    if outcome.non_private is not None:
        metrics["non_private"] = only_metrics(outcome.non_private)
    examples = progress.diagnostics.examples
    spent = outcome.spent
    return {
        "dataset": {
            "name": dataset.provenance.name,
            "source": dataset.provenance.source.value,
            "num_users": dataset.num_users,
            "num_classes": dataset.num_classes,
            "notices": notices_of(assembly, progress),
        },
        "model": assembly.configuration.model.name,
        "baseline": run.baseline,
        "privacy": outcome.statement.claimed.to_dict()
        | {
            "unit": outcome.statement.claimed.mechanism.unit.value,
            "target_epsilon": outcome.statement.target_epsilon,
            "epsilon_spent": spent if math.isfinite(spent) else None,
            "extrapolated": outcome.statement.extrapolated,
            "seeded": outcome.statement.seeded,
            "relative_noise": outcome.forecast.relative_noise,
            "trained_parameters": outcome.forecast.trained_parameters,
            "public_inputs": list(outcome.statement.public_inputs),
        },
        "stages": stages_of(assembly),
        "rounds_completed": progress.rounds,
        "stopped_early": progress.exhausted,
        "metrics": metrics,
        "performance": {
            "seconds": seconds,
            "seconds_per_round": seconds / max(progress.rounds, 1),
            "examples_per_second": examples / seconds if seconds else 0.0,
            "peak_memory_bytes": outcome.peak_memory,
            "engine": outcome.engine.name,
            "chunk": outcome.engine.chunk,
            "threads": outcome.engine.threads,
            "recorded": outcome.engine.recorded,
            "products": described(),
            "runner": run.runner,
            "workers": run.workers or 1,
        },
    }


def stages_of(assembly: Assembly) -> list[dict[str, Any]]:
    """What each stage of a run was: its rounds, what it trained, at which rate."""
    if assembly.configuration.run.baseline == "dp-sgd":
        return []
    return [
        {
            "name": stage.name,
            "rounds": rounds,
            "trainable": assembly.trainable(number),
            "learning_rate": assembly.learning_rate(number),
        }
        for number, (stage, rounds) in enumerate(
            zip(assembly.stages, assembly.rounds(), strict=True)
        )
    ]


def notices_of(assembly: Assembly, progress: Progress) -> list[str]:
    """What a person must see: about the data, and about scores that mean nothing."""
    undefined = undefined_metrics(progress.rows[-1])
    return [*assembly.dataset.provenance.notices, *([undefined] if undefined else [])]


def only_metrics(row: Mapping[str, float]) -> dict[str, float | None]:
    """A row of `metrics.csv` without its bookkeeping; what is not defined is None."""
    return {
        name: None if math.isnan(value) else value
        for name, value in row.items()
        if name not in NOT_METRICS
    }


def undefined_metrics(row: Mapping[str, float]) -> str:
    """A sentence that names the metrics of a row that are not defined, or nothing."""
    names = [name for name, value in only_metrics(row).items() if value is None]
    if not names:
        return ""
    said = (
        f"not defined on these held-out examples, and so not reported: "
        f"{', '.join(names)}."
    )
    if set(names).isdisjoint(IDENTITY_METRICS):
        return said
    return (
        f"{said} Finding an example's class among others needs at least two held-out "
        "classes, and a class with two examples or more; a `split` column chooses what "
        "is held out."
    )
