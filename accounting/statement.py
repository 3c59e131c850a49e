"""The privacy statement of a run, as text for people and as JSON for machines.

What is stated follows the reporting list of Ponomareva et al. (2023), "How to DP-fy ML",
arXiv:2303.00654, section 5.3: unit, adjacency, sampling as run and as accounted,
accountant, all releases covered, what was tuned, and what is not covered.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from accounting.epsilon import EpsilonReport

SCHEMA = "fedemb-privacy-statement-1"


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What a run promises, and under which conditions.

    Attributes:
        claimed: epsilon of the claim, with its mechanism.
        clip_norm: C (the initial one under adaptive clipping), in parameter units.
        curve: (delta, epsilon) at several deltas.
        target_epsilon: what the noise was calibrated to; None if noise was given.
        really_run: epsilon of the run that happened, when the claim is extrapolated.
        population_id: names the users.
        data_source: real, sample, stand-in, amplified or synthetic.
        adaptive_clipping: whether the clip norm followed a private quantile.
        trained_parameters: number of privatised coordinates.
        seeded: whether randomness came from a seed.
        public_inputs: public data or weights the run used, such as pre-training.
        tuned: what was tuned on these users without being accounted.
        not_private: what outputs show that the guarantee does not cover.
        software: versions.
    """

    claimed: EpsilonReport
    clip_norm: float
    curve: tuple[tuple[float, float], ...] = ()
    target_epsilon: float | None = None
    really_run: EpsilonReport | None = None
    population_id: str = ""
    data_source: str = ""
    adaptive_clipping: bool = False
    trained_parameters: int = 0
    seeded: bool = False
    public_inputs: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    not_private: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)

    @property
    def extrapolated(self) -> bool:
        """Whether the claim is for a population larger than the one really sampled."""
        return self.really_run is not None

    def to_json(self) -> dict[str, Any]:
        """All of it; infinite values are null."""
        own = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("claimed", "really_run", "curve")
        }
        return {
            "schema": SCHEMA,
            **self.claimed.to_dict(),
            **own,
            "extrapolated": self.extrapolated,
            "really_run": self.really_run.to_dict() if self.really_run else None,
            "epsilon_at_delta": [
                {"delta": d, "epsilon": e if math.isfinite(e) else None}
                for d, e in self.curve
            ],
        }

    def to_text(self) -> str:
        """The statement as a reviewer reads it."""
        return "\n\n".join(
            part for part in (self._claim(), self._how(), self._limits()) if part
        )

    def dumps(self) -> str:
        """The JSON as text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    def _claim(self) -> str:
        c, m = self.claimed, self.claimed.mechanism
        if math.isinf(c.epsilon):
            return (
                "PRIVACY STATEMENT\n\nThis run has NO differential privacy: it was trained "
                "without noise (noise multiplier 0)."
            )
        subject = (
            "one user's whole data" if m.unit.value == "user" else "a single example"
        )
        lines = [
            "PRIVACY STATEMENT",
            "",
            f"All released parameters are ({c.epsilon:.4g}, {c.delta:.3g})-differentially "
            f"private with respect to {subject}, under {m.adjacency.value} adjacency.",
        ]
        if self.target_epsilon is not None:
            lines.append(f"The noise was calibrated to epsilon <= {self.target_epsilon:g}.")
        if self.really_run is not None:
            r = self.really_run
            lines += [
                "",
                "THIS CLAIM IS EXTRAPOLATED. It holds for a run over a population of "
                f"{m.population:,} users with {m.users_per_round:,.6g} users a round and "
                f"noise multiplier {m.noise_multiplier:.4g}. That run did not happen. It "
                "is assumed to train as well as the run that did, because the noise on "
                "the mean update is the same.",
                f"The run that did happen, over {r.mechanism.population:,} users with "
                f"{r.mechanism.users_per_round:,.6g} a round and noise multiplier "
                f"{r.mechanism.noise_multiplier:.4g}, is ({_show(r.epsilon)}, "
                f"{r.delta:.3g})-differentially private, and no better.",
            ]
        return "\n".join(lines)

    def _how(self) -> str:
        c, m = self.claimed, self.claimed.mechanism
        u = m.users_per_virtual_client
        pair = (
            "(1-q) N(0, z^2) + q N(+1, z^2) against (1-q) N(0, z^2) + q N(-1, z^2)"
            if m.dominating_pair.value == "replace_one"
            else "(1-q) N(0, z^2) + q N(1, z^2) against N(0, z^2), both directions"
        )
        clip = "initial clip norm, adapted by a private quantile" if self.adaptive_clipping else "clip norm"
        by_pld = "none" if c.epsilon_pld is None else _show(c.epsilon_pld)
        rows = [
            ("unit of privacy", m.unit.value),
            ("adjacency", m.adjacency.value),
            ("population", f"{m.population:,} ({self.population_id or 'unnamed'})"),
            ("data", self.data_source),
            ("sampler, as run and as accounted", m.sampler.value),
            ("what is drawn as a unit", m.sampling_unit.replace("_", " ")),
            ("sampling probability q", f"{m.sampling_probability:.6g}"),
            ("expected users per round", f"{m.users_per_round:,.6g}"),
            ("users per virtual client u", str(u)),
            (
                "divisor of the mean (public)",
                f"{m.expected_virtual_clients:,.6g} virtual clients",
            ),
            ("rounds T", f"{c.rounds:,}"),
            (clip + " C", f"{self.clip_norm:.6g}"),
            ("noise multiplier z", f"{m.noise_multiplier:.6g}"),
            ("trained parameters", f"{self.trained_parameters:,}"),
            ("dominating pair of a round", pair),
            ("epsilon by privacy loss distributions", by_pld),
            ("epsilon by Renyi divergences", _show(c.epsilon_rdp)),
            ("accountant of the claim", c.accountant.upper()),
            ("noise", "Gaussian on an integer lattice, ChaCha20"),
        ]
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows if value)
        curve = ", ".join(f"{_show(e)} at {d:.1g}" for d, e in self.curve)
        return f"How it was obtained\n{table}" + (
            f"\n  epsilon at other deltas: {curve}" if curve else ""
        )

    def _limits(self) -> str:
        notes = [
            "Seeded run: the noise is private only to those who do not know the seed."
            if self.seeded
            else "Randomness came from the operating system; the key is deleted when the "
            "run is complete.",
            *(f"Public input: {item}." for item in self.public_inputs),
            *(f"Tuned without being accounted: {item}." for item in self.tuned),
            *(f"Not private: {item}." for item in self.not_private),
            "Heads, batch order and everything else computed on virtual clients stays "
            "there and is not released.",
        ]
        versions = ", ".join(f"{k} {v}" for k, v in self.software.items())
        text = "Conditions and limits\n" + "\n".join(f"  - {note}" for note in notes)
        return text + (f"\n  - Software: {versions}." if versions else "")


def _show(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
