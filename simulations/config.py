"""The configuration of a run: frozen, validated, and written down as it was resolved.

A recipe (TOML) sets what a data set or system needs; the command line overrides single
values. Sections are dataclasses, so a misspelt key is an error that names the choices.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from accounting import Sampler
from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.runner import ENGINES
from model_zoo.changes import merged

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Whose data.

    Attributes:
        name: data set, such as `inaturalist` or `folder:PATH`.
        root: where prepared and official files lie.
        users: size of a synthetic population.
        image_size: side of the images in pixels; None is the data set's own.
        frames: of each clip; None is the data set's own.
        seed: of generators, partitions and splits; public.
        require_real: refuse stand-ins.
        skip_bad: leave out unreadable rows and say how many.
        user_column, label_column, image_column: for tables.
        amplify: number of users to make from a real data set by per-user styles.
        keep: False reads files anew that an earlier run kept in parsed form; None, the
            default, does not, and keeps what takes long to read.
    """

    name: str = "openclipart"
    root: str = "data"
    users: int | None = None
    image_size: int | None = None
    frames: int | None = None
    seed: int = 0
    require_real: bool = False
    skip_bad: bool = False
    user_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None
    amplify: int | None = None
    keep: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained.

    Attributes:
        name: system of the zoo, `NAME` or `NAME:CONFIGURATION`.
        file_digest: SHA-256 of the file that `name` begins with, if it does; another
            content is refused.
        pretrained: a `backbone.safetensors`, a run folder, or `none`.
        trainable: which backbone parameters are trained: `all`, `norm`, `last`,
            `names:a,b*`, or a selection that the system names; None is the system's.
        head: local head, such as `class-means`, `linear` or `cosine`; None is the
            system's.
        label_space: `client` or `global`; None is the system's.
        embedding_dim: D; None is the system's.
        temperature: of the class-means head; None is the system's.
        views: distorted copies of every image that train in its place; None is the
            system's, mostly 1: the images as they are.
        augment: how they are distorted: `affine` or `affine-colour`.
        always_normalize: embeddings have unit length in training, too.
        changes: to single mechanisms of the system, see `model_zoo.changes`.
    """

    name: str = "small_cnn"
    file_digest: str | None = None
    pretrained: str = "none"
    trainable: str | None = None
    head: str | None = None
    label_space: str | None = None
    embedding_dim: int | None = None
    temperature: float | None = None
    views: int | None = None
    augment: str | None = None
    always_normalize: bool = False
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What is promised.

    Attributes:
        epsilon: target; the noise is calibrated to it. Exclusive with noise_multiplier.
        noise_multiplier: z; 0 trains without privacy.
        delta: None is population ** -1.1.
        population: None is the data's number of users; larger is an extrapolation.
        sampler: how cohorts are drawn; None is Poisson over virtual clients, and cyclic
            for tree noise.
        mechanism: noise, `gaussian` (independent), `tree` or `banded`.
        restart_every: rounds until correlated noise starts afresh; None is the run.
        bands: of banded noise; None is chosen by sampler and rounds.
        rounds_per_period: of random-allocation and balls-in-bins; None is an epoch.
        truncated_users_per_round: users in a round at most, of truncated-poisson; None
            is six standard deviations above the expected number.
        users_per_round: expected users in a round; None is a quarter of the users of
            the data, and 2,048 at most.
        users_per_virtual_client: users that are clipped together; None is 1, where
            every update counts in the mean and sensitivity is C, or follows from
            `users_meeting`.
        users_meeting: users that share a virtual client if `users_per_virtual_client`
            is None, at most a third of the cohort. They meet those who know the same
            classes, which teaches more where no noise is added. A round then has three
            virtual clients unless `users_per_round` is given, and `local.batch_size`
            counts for each user.
        clip_norm: C.
        adaptive_clipping: follow the median norm, from C.
        accountant: `pld` or `rdp`.
    """

    epsilon: float | None = 2.0
    noise_multiplier: float | None = None
    delta: float | None = None
    population: int | None = None
    sampler: Sampler | None = None
    mechanism: str = "gaussian"
    restart_every: int | None = None
    bands: int | None = None
    rounds_per_period: int | None = None
    truncated_users_per_round: int | None = None
    users_per_round: float | None = None
    users_per_virtual_client: int | None = None
    users_meeting: int = 1
    clip_norm: float = 1.0
    adaptive_clipping: bool = False
    accountant: str = "pld"

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise UserError(
                f"epsilon={self.epsilon} and noise_multiplier={self.noise_multiplier}: "
                "give exactly one of the two."
            )
        if self.epsilon is not None and not 0 < self.epsilon < float("inf"):
            raise UserError(
                f"epsilon={self.epsilon} must be positive and finite; for a run "
                "without "
                "privacy use --noise-multiplier 0."
            )
        for name in ("users_per_virtual_client", "users_meeting"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1.")
        self._check_mechanism()
        if self.accountant not in ("pld", "rdp"):
            raise UserError(f"accountant={self.accountant!r} must be pld or rdp.")

    def _check_mechanism(self) -> None:
        """Every setting belongs to the sampler or noise that uses it."""
        noise, sampler = self.mechanism, self.sampler
        if noise not in ("gaussian", "tree", "banded"):
            raise UserError(
                f"privacy.mechanism={noise!r} must be gaussian, tree or banded."
            )
        allocated = (Sampler.RANDOM_ALLOCATION, Sampler.BALLS_IN_BINS)
        for name, value, used, where in (
            (
                "restart_every",
                self.restart_every,
                noise != "gaussian",
                "tree and banded noise",
            ),
            ("bands", self.bands, noise == "banded", "banded noise"),
            (
                "rounds_per_period",
                self.rounds_per_period,
                sampler in allocated,
                "random-allocation and balls-in-bins",
            ),
            (
                "truncated_users_per_round",
                self.truncated_users_per_round,
                sampler is Sampler.TRUNCATED_POISSON,
                "truncated-poisson",
            ),
        ):
            if value is not None and (not used or value < 1):
                raise UserError(
                    f"privacy.{name}={value} must be at least 1, and given for {where} "
                    "only."
                )


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server uses a round's release.

    Attributes:
        optimizer: `adam` or `sgd`.
        learning_rate: server step size.
        schedule: `constant`, or `linear`: the step size falls to zero over the rounds
            of a stage, and with it the noise of the last steps.
        momentum: of SGD, or Adam's beta1.
        beta2: of Adam.
        average_decay: of the average of iterates that is released, in [0, 1); about
            1 / (1 - decay) rounds count, and 0 releases the last iterate.

    Raises:
        UserError: for an unknown optimizer or a number out of range.
    """

    optimizer: str = "adam"
    learning_rate: float = 0.003
    schedule: str = "constant"
    momentum: float = 0.9
    beta2: float = 0.99
    average_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(
                f"server.learning_rate={self.learning_rate} must be positive."
            )
        for name in ("momentum", "beta2", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"server.{name}={getattr(self, name)} must be in [0, 1)."
                )
        if self.optimizer not in ("adam", "sgd"):
            raise UserError(f"server.optimizer={self.optimizer!r} must be adam or sgd.")
        if self.schedule not in ("constant", "linear"):
            raise UserError(
                f"server.schedule={self.schedule!r} must be constant or linear."
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long and on which machines.

    Attributes:
        rounds: T.
        runner: `inline`, `processes` or `flower`.
        workers: processes or Flower nodes; None is one per core.
        engine: `auto`, `serial`, `flat`, `stacked`, `grouped`, `vectorized` or
            `shared`.
        seed: None draws all secrets from the operating system.
        ledger: the population's ledger; None is the run folder's own.
        budget: epsilon that a shared ledger must never exceed; None is the run's
        target.
        evaluate_every: rounds between evaluations; 0 evaluates first and last only.
        compare_non_private: also run with z = 0, for comparison.
        baseline: `none`, `dp-fedavg` or `dp-sgd`.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `float32`, or `bfloat16` for the backbone's products alone.
    """

    rounds: int = 100
    runner: str = "inline"
    workers: int | None = None
    engine: str = "auto"
    seed: int | None = None
    ledger: str | None = None
    budget: float | None = None
    evaluate_every: int = 10
    compare_non_private: bool = False
    baseline: str = "none"
    device: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("runner", self.runner, ("inline", "processes", "flower")),
            ("engine", self.engine, ("auto", *ENGINES)),
            ("baseline", self.baseline, ("none", "dp-fedavg", "dp-sgd")),
            ("precision", self.precision, ("float32", "bfloat16")),
        ):
            if value not in choices:
                raise UserError(f"run.{name}={value!r} must be {', '.join(choices)}.")
        if self.baseline == "dp-sgd" and self.precision != "float32":
            raise UserError(
                f"run.precision={self.precision!r} is for rounds of virtual clients; "
                "dp-sgd trains in float32."
            )
        if self.rounds < 1:
            raise UserError(f"run.rounds={self.rounds} must be at least 1.")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"run.workers={self.workers} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that defines a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    local: LocalTraining = field(default_factory=LocalTraining)
    server: ServerConfig = field(default_factory=ServerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_toml(self) -> str:
        """The resolved configuration; None and empty tables are left out."""
        return tomli_w.dumps(_without_none(dataclasses.asdict(self)))


def resolve(*layers: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """Merge layers of `{section: {key: value}}`, later ones winning, and validate.

    Setting `privacy.epsilon` unsets an earlier `privacy.noise_multiplier` and vice
    versa.

    Raises:
        UserError: for an unknown section or key, or a value out of range.

    Example:
        >>> resolve({"run": {"rounds": 5}}, {"run": {"rounds": 7}}).run.rounds
        7
    """
    found: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            own = found.setdefault(section, {})
            if section == "privacy":
                _choose_one(own, values)
            found[section] = merged(own, values)
    sections = {f.name: f.type for f in fields(Configuration)}
    unknown = set(found) - set(sections)
    if unknown:
        raise UserError(
            f"unknown section {sorted(unknown)[0]!r}; sections are "
            f"{', '.join(sections)}."
        )
    hints = typing.get_type_hints(Configuration)
    return Configuration(
        **{name: _section(hints[name], name, own) for name, own in found.items()}
    )


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file.

    Raises:
        UserError: if the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("simulations") / "recipes"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def recipe(name: str) -> dict[str, dict[str, Any]]:
    """A recipe by name, or from a file.

    Raises:
        UserError: if there is no such recipe.
    """
    if name in recipe_names():
        return tomllib.loads(
            (resources.files("simulations") / "recipes" / f"{name}.toml").read_text()
        )
    if name.endswith(".toml") or Path(name).exists():
        return read_toml(Path(name))
    raise UserError(
        f"no recipe {name!r}; use a TOML file or one of {', '.join(recipe_names())}."
    )


def parse_setting(text: str) -> dict[str, dict[str, Any]]:
    """`section.key=value` as a layer; the value is read as TOML, or else as text.

    Raises:
        UserError: if the text has another form.

    Example:
        >>> parse_setting("local.learning_rate=0.1")
        {'local': {'learning_rate': 0.1}}
        >>> parse_setting("model.head=linear")
        {'model': {'head': 'linear'}}
        >>> parse_setting("model.changes.losses.center=0.0")
        {'model': {'changes': {'losses': {'center': 0.0}}}}
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UserError(
            f"--set {text!r} must look like section.key=value, such as "
            "local.learning_rate=0.1."
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return {section: parsed}


def _choose_one(own: dict[str, Any], values: Mapping[str, Any]) -> None:
    if values.get("noise_multiplier") is not None:
        own["epsilon"] = None
    if values.get("epsilon") is not None:
        own["noise_multiplier"] = None


def _section(kind: type[Section], name: str, values: Mapping[str, Any]) -> Section:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(
            f"unknown key {name}.{unknown[0]}; {name} has {', '.join(sorted(hints))}."
        )
    return kind(
        **{key: _typed(hints[key], f"{name}.{key}", v) for key, v in values.items()}
    )


def _typed(hint: Any, name: str, value: Any) -> Any:
    """`value` as the type of its field, or a UserError that names it."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is float and type(value) in (int, float):
            return float(value)
        kind = typing.get_origin(option) or option
        if option is not type(None) and type(value) is kind:
            return value
        if option is Sampler:
            try:
                return Sampler(value)
            except ValueError as error:
                choices = ", ".join(s.value for s in Sampler)
                raise UserError(
                    f"{name}={value!r} must be one of {choices}."
                ) from error
    kinds = " or ".join(o.__name__ for o in options if o is not type(None))
    raise UserError(f"{name}={value!r} must be {kinds}.")


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_none(v) for k, v in values.items() if v not in (None, {})}
    return values
