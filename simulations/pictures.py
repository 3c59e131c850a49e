"""The page of a run: what its numbers, embeddings and pictures look like."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from accounting import PrivacyStatement
from fedemb.data import Examples
from fedemb.identity import embed_all
from fedemb.noise_forecast import NoiseForecast
from fedemb.protocols import EmbeddingTask
from fedemb.threads import suited_to
from simulations.assembly import Assembly
from simulations.folder import RunFolder, environment
from simulations.report import Gallery, ReportContent, write_report
from simulations.training import Progress

_SHOWN = 3000  # held-out rows in the page's pictures, at most


def write_html(
    folder: RunFolder,
    assembly: Assembly,
    backbones: tuple[nn.Module, nn.Module],
    statement: PrivacyStatement,
    forecast: NoiseForecast,
    progress: Progress,
    report: Mapping[str, Any],
) -> None:
    """Write `report.html` from `report.json`'s content and the two backbones."""
    told = progress.diagnostics
    clients = max(told.clients, 1)
    content = ReportContent(
        dataset=dict(report["dataset"])
        | {"description": assembly.dataset.provenance.description},
        model=str(report["model"]),
        privacy=report["privacy"],
        metrics=report["metrics"],
        rounds_completed=int(report["rounds_completed"]),
        stages=report["stages"],
        headline=assembly.system.metric,
        performance=report["performance"],
        evaluations=progress.rows,
        noise=forecast,
        epsilon_at_delta=statement.curve,
        statement=statement.to_text(),
        configuration=assembly.configuration.to_toml(),
        environment=environment(),
        notices=report["dataset"]["notices"],
        gallery=_gallery(assembly, *backbones),
        diagnostics={
            "mean norm before clipping": told.norm_sum / clients,
            "share of virtual clients clipped": told.clipped / clients,
            "virtual clients that were not finite": float(told.non_finite),
        },
    )
    write_report(folder.path, content)


def _gallery(assembly: Assembly, before: nn.Module, after: nn.Module) -> Gallery | None:
    held_out = assembly.dataset.held_out()
    if "label" not in held_out.fields:
        return None
    rows = _spread(len(held_out))
    examples = held_out.only(rows)
    first, last = assembly.stages[0].task, assembly.stages[-1].task
    first_field = next(iter(examples.fields.values()))
    with suited_to(after, len(examples)):
        embedded_before = embed_all(first, before.eval(), examples)
        embedded_after = embed_all(last, after.eval(), examples)
    return Gallery(
        labels=examples.fields["label"].astype(np.int64),
        before=embedded_before.numpy(),
        after=embedded_after.numpy(),
        images=_thumbnails(last, examples),
        noun="clip" if first_field.ndim == 5 else "image",
        class_names=assembly.dataset.class_names,
    )


def _spread(count: int) -> NDArray[np.int64]:
    """At most `_SHOWN` rows, evenly spread."""
    if count <= _SHOWN:
        return np.arange(count, dtype=np.int64)
    return np.linspace(0, count - 1, _SHOWN).astype(np.int64)


def _thumbnails(task: EmbeddingTask, examples: Examples) -> NDArray[np.uint8] | None:
    """The task's own pictures of examples, their images, or middle frames of clips."""
    draw = getattr(task, "thumbnails", None)
    if draw is not None:
        drawn: NDArray[np.uint8] = draw(examples)
        return drawn
    for values in examples.fields.values():
        if values.ndim == 5:
            values = values[:, values.shape[1] // 2]
        if values.ndim == 4 and values.shape[-1] in (1, 3):
            floats = np.issubdtype(values.dtype, np.floating)
            return (np.clip(values * 255, 0, 255) if floats else values).astype(
                np.uint8
            )
    return None
