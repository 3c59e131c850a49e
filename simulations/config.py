"""The configuration of a run: frozen, validated, and written down as it was resolved.

Sections are dataclasses that refuse values out of range; `simulations.layers` makes
them of recipes and the command line.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from accounting import Sampler
from fedemb.errors import UserError
from fedemb.local import LocalTraining
from fedemb.runner import ENGINES


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
        preferred_users_per_round: what a recipe was tuned with on its default data;
            taken for `users_per_round` where that is None and there are as many users.
            Other data may have fewer, which is no mistake of whoever brings them.
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
    preferred_users_per_round: float | None = None
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


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_none(v) for k, v in values.items() if v not in (None, {})}
    return values
