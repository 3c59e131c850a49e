"""The privacy statement of a run: text for people to sign, JSON for machines.

It follows the reporting list of Ponomareva et al. (2023), "How to DP-fy ML",
arXiv:2303.00654, section 5.3: unit, adjacency, sampling as run and as accounted,
accountant, everything released, what was tuned, and what the promise leaves out. It is
built from public numbers only and may itself be published.
"""

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from accounting import _validate
from accounting.account import EpsilonReport
from accounting.correlated import participation, sensitivity
from accounting.mechanism import Adjacency, Noise, PrivacyUnit, SampledGaussian
from accounting.wording import ADJACENCY, NOISE, UNIT, pair, sampling, why_pair

SCHEMA = "fedemb-privacy-statement-1"
"""Version of the JSON form; keys may be added to it, never changed or removed."""

SETTING = "central: whoever trains sees the data; the promise is about releases"
_COLUMNS = 110
RELEASED = "the noisy mean update of every round, so every checkpoint and the backbone"


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What a run promises, and under which conditions.

    Guarantee: the text and the JSON say the same, and a run without noise, or with an
    extrapolated population, or with a known seed, says so before anything else.

    Attributes:
        claimed: epsilon of the claim, with its mechanism.
        clip_norm: C (the initial one under adaptive clipping), in parameter units.
        curve: (delta, epsilon) at several deltas.
        target_epsilon: what the noise was calibrated to; None if noise was given.
        really_run: epsilon of the run that happened, when the claim is extrapolated to
            a population larger than the one sampled from.
        population_id: names the users.
        data_source: real, sample, stand-in, amplified or synthetic.
        adaptive_clipping: whether the clip norm followed a private quantile.
        trained_parameters: number of privatised coordinates.
        seeded: whether randomness came from a seed.
        public_inputs: public data or weights the run used, such as pre-training.
        tuned: what was tuned on these users without being accounted.
        not_private: what outputs show that the guarantee does not cover.
        software: versions, by name.
        ledger_epsilon: epsilon of everything spent on this population, this run
            included, where a ledger knows it.
        zcdp: rho of zero-concentrated differential privacy, where defined.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from accounting.account import epsilon
        >>> from accounting.mechanism import SampledGaussian, Sampler
        >>> one_round = SampledGaussian(sampler=Sampler.POISSON_VIRTUAL_CLIENTS,
        ...     population=6800, users_per_round=256, noise_multiplier=2.48,
        ...     users_per_virtual_client=8)
        >>> report = epsilon(one_round, rounds=200, delta=6e-5)
        >>> statement = PrivacyStatement(claimed=report, clip_norm=0.1)
        >>> statement.to_json()["schema"], statement.extrapolated
        ('fedemb-privacy-statement-1', False)
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
    ledger_epsilon: float | None = None
    zcdp: float | None = None

    def __post_init__(self) -> None:
        _validate.positive("clip_norm", self.clip_norm)
        _validate.whole_at_least("trained_parameters", self.trained_parameters, 0)

    @property
    def extrapolated(self) -> bool:
        """Whether the claim is for a population larger than the one really sampled."""
        return self.really_run is not None

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-ready, with a schema version; infinite values are null."""
        own = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("claimed", "really_run", "curve", "software")
        }
        own["ledger_epsilon"] = _finite(self.ledger_epsilon)
        mechanism = self.claimed.mechanism
        return {
            "schema": SCHEMA,
            "setting": SETTING,
            "released": RELEASED,
            **self.claimed.to_dict(),
            "private": math.isfinite(self.claimed.epsilon),
            "unit": mechanism.unit.value,
            "population": mechanism.population,
            "users_per_round": mechanism.users_per_round,
            "expected_virtual_clients": mechanism.expected_virtual_clients,
            "mechanism": mechanism.to_json(),
            **own,
            "software": dict(self.software),
            "extrapolated": self.extrapolated,
            "really_run": self.really_run.to_dict() if self.really_run else None,
            "epsilon_at_delta": [
                {"delta": d, "epsilon": _finite(e)} for d, e in self.curve
            ],
        }

    def dumps(self) -> str:
        """The JSON as text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """The statement as a reviewer reads it."""
        parts = [self._claim(), self._mechanism(), self._conditions()]
        return "\n\n".join(["PRIVACY STATEMENT", *parts]) + "\n"

    def _claim(self) -> str:
        c, m = self.claimed, self.claimed.mechanism
        if math.isinf(c.epsilon):
            return (
                "THIS RUN HAS NO DIFFERENTIAL PRIVACY.\nIt was trained without noise "
                "(noise multiplier 0); epsilon is infinite."
            )
        lines = [
            f"Everything this run releases is ({c.epsilon:.4g}, {c.delta:.3g})-"
            "differentially private",
            f"with respect to {UNIT[m.unit]}, under {m.adjacency.value} adjacency:",
            f"{ADJACENCY[m.adjacency]}.",
            "Epsilon is an upper bound (natural logarithm), for the mechanism "
            "described below.",
        ]
        if self.target_epsilon is not None:
            lines.append(
                f"The noise was calibrated to epsilon <= {self.target_epsilon:g}."
            )
        if self.ledger_epsilon is not None:
            lines.append(
                "All runs on this population together, this one included, have spent "
                f"epsilon = {_show(self.ledger_epsilon)}."
            )
        return "\n".join(lines + self._extrapolation())

    def _extrapolation(self) -> list[str]:
        m, r = self.claimed.mechanism, self.really_run
        if r is None:
            return []
        return [
            "",
            "THIS CLAIM IS EXTRAPOLATED.",
            f"It holds for a run over {m.population:,} users, {m.users_per_round:,.6g} "
            f"a round, noise multiplier {m.noise_multiplier:.4g}.",
            "That run did not happen. It is assumed to train at least as well as the "
            "run that did,",
            "because the noise on the mean update is the same and more clients are "
            "averaged.",
            f"The run that did happen sampled {r.mechanism.users_per_round:,.6g} of "
            f"{r.mechanism.population:,} users a round with noise multiplier "
            f"{r.mechanism.noise_multiplier:.4g};",
            f"what it released is ({_show(r.epsilon)}, {r.delta:.3g})-differentially "
            "private, and no better.",
        ]

    def _mechanism(self) -> str:
        c, m = self.claimed, self.claimed.mechanism
        clip = "clip norm C"
        if self.adaptive_clipping:
            clip = "first clip norm C (then adapted by a private quantile)"
        also = sorted(a.value for a in m.adjacencies if a is not m.adjacency)
        rows = [
            ("setting", SETTING),
            ("released", RELEASED),
            ("unit of privacy", m.unit.value),
            ("adjacency", m.adjacency.value),
            ("the bound also holds for", ", ".join(also)),
            ("population", f"{m.population:,} ({self.population_id or 'unnamed'})"),
            ("data", self.data_source),
            (
                "sampling, as accounted"
                if self.extrapolated
                else "sampling, as run and as accounted",
                f"{m.sampler.value}:",
            ),
            ("", sampling(m)),
            ("drawn as one", m.sampling_unit.replace("_", " ")),
            ("sampling probability q", f"{m.sampling_probability:.6g}"),
            ("expected users per round", f"{m.users_per_round:,.6g}"),
            ("users per virtual client u", f"{m.users_per_virtual_client}"),
            (
                "divisor of the mean (public)",
                f"{m.expected_virtual_clients:,.6g} virtual clients",
            ),
            ("rounds T", f"{c.rounds:,}"),
            (clip, f"{self.clip_norm:.6g}"),
            ("noise multiplier z", f"{m.noise_multiplier:.6g} (noise on the sum: z C)"),
            ("noise of different rounds", NOISE[m.noise]),
            ("", _periods(m)),
            ("privatised parameters", f"{self.trained_parameters:,}"),
            ("dominating pair of a round", pair(m)),
            ("", why_pair(m)),
            ("accountant of the claim", c.accountant),
            ("", c.note),
            ("epsilon by privacy loss distributions", _show(c.epsilon_pld)),
            ("epsilon by Renyi divergences", _show(c.epsilon_rdp)),
            ("rho of zero-concentrated privacy", _show(self.zcdp)),
            (
                "epsilon at other deltas",
                ", ".join(f"{_show(e)} at {d:.1g}" for d, e in self.curve),
            ),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"  {name if first else '':<{width}}  {part}"
            for name, value in rows
            for first, part in _wrapped(value)
        ]
        return "\n".join(["How it was obtained", *lines])

    def _conditions(self) -> str:
        m = self.claimed.mechanism
        notes = [
            "SEEDED RUN: its noise protects only from those who do not know the seed."
            if self.seeded
            else "Randomness came from the operating system's cryptographic generator.",
            f"The size of the id universe, {m.population:,} seats, is public; who sits "
            "in it is not.",
            *(f"Public input: {item}." for item in self.public_inputs),
        ]
        if self.tuned:
            notes += [f"Tuned on these users, NOT accounted: {x}." for x in self.tuned]
        else:
            notes.append(
                "Nothing is declared as tuned on these users outside this run."
            )
        notes += [f"Not private: {item}." for item in self.not_private]
        if m.unit is PrivacyUnit.EXAMPLE:
            notes.append("A user with several examples is NOT protected as a whole.")
        if Adjacency.REPLACE_ONE not in m.adjacencies:
            notes.append(
                "Replacing a user by another is a removal and an addition; its epsilon "
                "is larger."
            )
        if self.software:
            versions = ", ".join(f"{k} {v}" for k, v in self.software.items())
            notes.append(f"Software: {versions}.")
        return "\n".join(["Conditions and limits", *(f"  - {note}" for note in notes)])


def _periods(mechanism: SampledGaussian) -> str:
    """What a period of correlated noise costs, and how users return in it."""
    m = mechanism
    if m.noise is Noise.INDEPENDENT:
        return ""
    known = (
        f"sensitivity {sensitivity(m):.6g} C over {m.period:,} rounds (z over it: "
        f"{m.accounted_noise_multiplier:.6g})"
    )
    if m.accounted_sampling_probability < 1:
        return f"{known}; a client is drawn at most once in them"
    part = participation(m)
    return (
        f"{known}; a user's rounds: at most {part.possible}, at least "
        f"{part.separation} apart"
    )


def _wrapped(text: str) -> list[tuple[bool, str]]:
    """The lines of a value, and whether each is its first."""
    return [(i == 0, part) for i, part in enumerate(textwrap.wrap(text, _COLUMNS))]


def _show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
