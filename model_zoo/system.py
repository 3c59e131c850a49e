"""The card of a system: what it is, in which sizes, and how its stages are built.

Importing this imports no torch, so that listing systems is instant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fedemb.errors import NotAvailable, UserError

if TYPE_CHECKING:
    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a system may know about the data it is built for; all of it is public.

    Attributes:
        example_shape: one row of the data set's first field: (H, W, C) for images,
            (T, H, W, C) for clips, (T, J, D) for motions, ...
        num_classes: size of the training label space.
        class_names: names of all classes, training and held out; may be empty.
        vocabularies: names for integer fields other than the label.
        fields: names of all fields; empty where nobody asked the data.

    Raises:
        UserError: if a size is below 1.

    Example:
        >>> DataFacts(example_shape=(28, 28, 1), num_classes=62).example_shape
        (28, 28, 1)
    """

    example_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes < 1 or min(self.example_shape, default=0) < 1:
            raise UserError(
                f"example_shape={self.example_shape} and num_classes="
                f"{self.num_classes} must be at least 1 everywhere."
            )

    def picture(
        self, such_as: str = "openclipart or folder:PATH"
    ) -> tuple[int, int, int]:
        """(height, width, channels) of the pictures that a system is trained on.

        Args:
            such_as: data sets of such pictures, for the message.

        Raises:
            UserError: for examples that are no pictures.

        Example:
            >>> DataFacts(example_shape=(28, 28, 1), num_classes=62).picture()
            (28, 28, 1)
        """
        shape = self.example_shape
        if len(shape) != 3:
            raise UserError(
                f"example_shape={shape} must be (height, width, channels): this system "
                f"is trained on pictures. Choose a data set of them, such as {such_as}."
            )
        return shape

    def clip(self, wanted: str = "clips") -> tuple[int, int, int]:
        """(frames, height, width) of the clips that a system is trained on.

        Args:
            wanted: what it is trained on, for the message.

        Raises:
            UserError: for examples that are no clips in colour.

        Example:
            >>> DataFacts(example_shape=(8, 32, 32, 3), num_classes=10).clip()
            (8, 32, 32)
        """
        shape = self.example_shape
        if len(shape) != 4 or shape[3] != 3:
            raise UserError(
                f"example_shape={shape} must be (frames, height, width, 3): this "
                f"system is trained on {wanted}. Choose a data set of {wanted}, such "
                "as clips-plain or videos:PATH."
            )
        return shape[:3]


CLASSES = ("head", "label_space", "temperature", "always_normalize")
"""Options of heads that tell classes apart; systems of other kinds refuse them."""

COPIES = ("views", "augment")
"""Options of distorted copies of pictures; systems that make none do not use them."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What a person may choose about a system's task; None is the system's own choice.

    Attributes:
        head: local head, such as `class-means`, `linear`, `linear-bias` or `cosine`.
        label_space: `client` or `global`.
        embedding_dim: D.
        trainable: backbone parameters to train: `all`, `norm`, `last`, `names:a,b*`, or
            a selection that the backbone names.
        temperature: of the class-means head.
        always_normalize: embeddings have unit length in training, too.
        views: distorted copies of every image that train in its place.
        augment: how they are distorted: `affine` or `affine-colour`.

    Raises:
        UserError: if a number is out of range.
    """

    head: str | None = None
    label_space: str | None = None
    embedding_dim: int | None = None
    trainable: str | None = None
    temperature: float | None = None
    always_normalize: bool = False
    views: int | None = None
    augment: str | None = None

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "temperature", "views"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value} must be positive.")

    def identity(
        self, *, head: str = "class-means", label_space: str = "client"
    ) -> dict[str, Any]:
        """Arguments of `fedemb.identity.IdentityTask`, as chosen or the system's own.

        Args:
            head: the system's own.
            label_space: likewise.

        Example:
            >>> TaskOptions(temperature=0.2).identity(head="linear")["head"]
            'linear'
        """
        return {
            "head": self.head or head,
            "label_space": self.label_space or label_space,
            "always_normalize": self.always_normalize,
            "temperature": self.temperature or 0.1,
        }

    def trained(self, own: str, reached: str) -> str:
        """What a stage of several trains: what was chosen, where its loss reaches it.

        Where the loss does not reach, noise alone would train.

        Args:
            own: what the stage trains unless something was chosen.
            reached: the parameters that its loss depends on.

        Example:
            >>> TaskOptions(trainable="norm").trained("names:eyes.*", "names:eyes.*")
            'norm of names:eyes.*'
            >>> TaskOptions().trained("names:eyes.lid", "names:eyes.*")
            'names:eyes.lid'
        """
        if self.trainable is None or reached == "all":
            return self.trainable or own
        return f"{self.trainable} of {reached}"

    def refuse(self, names: Iterable[str], because: str) -> None:
        """Refuse choices that a system would not listen to.

        Args:
            names: of the attributes that do not apply.
            because: why they do not, as the end of a sentence.

        Raises:
            UserError: naming the first of them that a person chose.

        Example:
            >>> TaskOptions().refuse(CLASSES, "it learns from captions.")
        """
        for name in names:
            value = getattr(self, name)
            if value:
                raise UserError(f"{name}={value!r} does not apply: {because}")


class Builder(Protocol):
    """Makes the stages of one configuration."""

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """Stages for data of these facts.

        Raises:
            UserError: if the system cannot be built for such data or options.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One size of a system.

    Attributes:
        note: one sentence for people.
        build: makes the stages; it imports what it needs when it is called.
        data: what the counts of `describe` refer to.
        options: head and sizes that the counts of `describe` refer to.
        public: what it starts from that nobody paid for, such as shipped weights and
            what they were trained on; every privacy statement repeats it.
        metric: its headline metric, where that is not the system's.
    """

    note: str
    build: Builder
    data: DataFacts
    options: TaskOptions = field(default_factory=TaskOptions)
    public: tuple[str, ...] = ()
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """A published system that the core can train.

    Attributes:
        name: how it is asked for.
        paper: citation, with its arXiv number where there is one.
        user: what a user is.
        stages: one sentence per training stage.
        configurations: by name.
        default_dataset: what it is trained on unless told otherwise.
        default_configuration: what it is built as unless told otherwise.
        metric: its headline metric, a key of what its last task evaluates to; higher
            is better.
        beside: at most two other metrics that are watched beside it while it trains;
            what a stage trains that the headline metric does not see yet, for example.
        unused: names of task options, None unless chosen, that no configuration has a
            use for: refused where a person chose one, left out where a recipe did.

    Raises:
        ValueError: if the default configuration is none of the configurations, or
            there is too much to watch.
    """

    name: str
    paper: str
    user: str
    stages: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    default_dataset: str
    default_configuration: str
    metric: str = "recall_at_1"
    beside: tuple[str, ...] = ("recall_at_far_1e-1", "roc_auc")
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.beside) > 2:
            raise ValueError(f"beside={self.beside} must be two metrics at most.")
        if self.default_configuration not in self.configurations:
            raise ValueError(
                f"default_configuration={self.default_configuration!r} of system "
                f"{self.name!r} must be one of {', '.join(self.configurations)}."
            )

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics that are shown while it trains, the headline first."""
        return tuple(dict.fromkeys((self.metric, *self.beside)))

    def configuration(self, name: str | None = None) -> Configuration:
        """The named configuration, or the default one.

        Raises:
            NotAvailable: if there is none of that name.
        """
        wanted = self.default_configuration if name is None else name
        if wanted not in self.configurations:
            raise NotAvailable(
                f"system {self.name!r} has no configuration {wanted!r}; choose from "
                f"{', '.join(self.configurations)}."
            )
        return self.configurations[wanted]

    def build(
        self,
        configuration: str | None = None,
        *,
        data: DataFacts,
        options: TaskOptions | None = None,
    ) -> "tuple[Stage, ...]":
        """The training stages for data of these facts.

        Args:
            configuration: by name; None is the default one.
            data: shape of the examples, size of the label space, names.
            options: a person's choices.

        Raises:
            NotAvailable: for an unknown configuration or a missing optional package.
            UserError: if the system cannot be built for these examples or options.
        """
        options = options or TaskOptions()
        self.refuse_unused(options)
        return self.configuration(configuration).build(data=data, options=options)

    def refuse_unused(self, options: TaskOptions) -> None:
        """Refuse choices that no configuration of this system would listen to.

        Raises:
            UserError: naming the first of them.
        """
        options.refuse(self.unused, f"{self.name} has no such choice; leave it out.")
