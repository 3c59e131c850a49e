"""What a report shows: plain data, so that a page can be made from files alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Source
from fedemb.noise_forecast import NoiseForecast


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Held-out examples, which are treated as public, and where the backbone put them.

    Attributes:
        labels: `[n]`, identities.
        before: `[n, D]`, embeddings by the initial backbone.
        after: `[n, D']`, embeddings by the trained one.
        images: uint8 `[n, H, W, C]` with C = 1 or 3, or None for other modalities.
        noun: what an example is, of which `images` are pictures.
        class_names: by label; may be empty or too short, labels are shown then.

    Raises:
        ValueError: if lengths or shapes disagree, or an embedding is not finite.
    """

    labels: NDArray[np.integer[Any]]
    before: NDArray[np.floating[Any]]
    after: NDArray[np.floating[Any]]
    images: NDArray[np.uint8] | None = None
    noun: str = "image"
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        n = len(self.labels)
        for name, values in (("before", self.before), ("after", self.after)):
            if values.ndim != 2 or len(values) != n:
                raise ValueError(f"{name} {values.shape} must be [{n}, D], as labels.")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds embeddings that are not finite.")
        shape = None if self.images is None else self.images.shape
        if self.images is not None and (
            self.images.dtype != np.uint8
            or self.images.ndim != 4
            or len(self.images) != n
            or self.images.shape[3] not in (1, 3)
        ):
            raise ValueError(
                f"images {shape} {self.images.dtype} must be uint8 [{n}, H, W, 1 or 3]."
            )

    def name(self, label: int) -> str:
        """The name of a class, or its label."""
        named = 0 <= label < len(self.class_names)
        return (self.class_names[label] if named else "") or f"class {label}"


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything on the page. Missing parts are left out of it, never made up.

    Attributes:
        dataset: `name`, `source`, `num_users`, `num_classes`; `description` and
            `licence` if known.
        model: name of the system.
        privacy: what `report.json` holds: `epsilon` (None if infinite), `epsilon_pld`,
            `epsilon_rdp`, `delta`, `target_epsilon`, `epsilon_spent`, `rounds`,
            `noise_multiplier`, ...; `unit` and `extrapolated` as in the statement.
        metrics: `initial`, `final` and perhaps `non_private`; each name -> value, None
            where it is not defined.
        rounds_completed: rounds behind `final`.
        stages: what `report.json` holds of each: `name`, `rounds`, `trainable` and
            `learning_rate`.
        headline: name of the metric that comes first.
        performance: `seconds`, `seconds_per_round`, `engine`, ...
        evaluations: rows of `metrics.csv`: `round` and any of the metrics,
            `update_norm`, `expected_noise_norm`, `clip_norm` and `epsilon`.
        noise: the forecast for this run.
        epsilon_at_delta: (delta, epsilon) of the claim.
        statement: the privacy statement as text.
        configuration: the resolved configuration as TOML.
        environment: versions and machine.
        notices: sentences that must be seen.
        gallery: what the backbone learned, on held-out examples.
        diagnostics: non-private numbers for the operator.

    Raises:
        ValueError: if the source of the data is not one of the known kinds.
    """

    dataset: Mapping[str, Any]
    model: str
    privacy: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float | None]]
    rounds_completed: int
    stages: Sequence[Mapping[str, Any]] = ()
    headline: str = "recall_at_1"
    performance: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, float]] = ()
    noise: NoiseForecast | None = None
    epsilon_at_delta: Sequence[tuple[float, float]] = ()
    statement: str = ""
    configuration: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    notices: Sequence[str] = ()
    gallery: Gallery | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = [source.value for source in Source]
        if self.dataset.get("source") not in kinds:
            raise ValueError(
                f"dataset['source']={self.dataset.get('source')!r} must be one of "
                f"{', '.join(kinds)}: a report never hides where its data came from."
            )

    @property
    def source(self) -> Source:
        """What kind of data this is."""
        return Source(self.dataset["source"])

    @property
    def private(self) -> bool:
        """Whether the run has a finite epsilon."""
        epsilon = self.privacy.get("epsilon")
        return epsilon is not None and math.isfinite(epsilon)

    @property
    def unit(self) -> str:
        """Whose presence is protected: `user`, or `example` in a baseline."""
        return str(self.privacy.get("unit", "user"))

    @property
    def metric_names(self) -> list[str]:
        """Of the final metrics, the headline first."""
        return sorted(self.metrics.get("final", {}), key=lambda n: n != self.headline)

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """(rounds, values) of the evaluation rows that hold a finite `name`."""
        rows = [
            row
            for row in self.evaluations
            if "round" in row and math.isfinite(row.get(name, math.nan))
        ]
        return [row["round"] for row in rows], [row[name] for row in rows]
