"""The card of a system: what it is, in which sizes, and how its stages are built.

Importing this imports no torch, so that listing systems is instant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fedemb.errors import NotAvailable, UserError

if TYPE_CHECKING:
    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What a person may choose about a system's task; None is the system's own choice.

    Attributes:
        head: local head, such as `class-means`, `linear` or `cosine`.
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


class Builder(Protocol):
    """Makes the stages of one configuration."""

    def __call__(
        self, *, image_shape: tuple[int, ...], num_classes: int, options: TaskOptions
    ) -> "tuple[Stage, ...]":
        """Stages for examples of `image_shape` (H, W, C) and `num_classes` labels."""
        ...


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One size of a system.

    Attributes:
        note: one sentence for people.
        build: makes the stages; it imports what it needs when it is called.
        image_shape: (H, W, C) that the counts of `describe` refer to.
        num_classes: classes that the counts of `describe` refer to.
        options: head and sizes that the counts of `describe` refer to.
    """

    note: str
    build: Builder
    image_shape: tuple[int, ...]
    num_classes: int
    options: TaskOptions = field(default_factory=TaskOptions)


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

    Raises:
        ValueError: if the default configuration is none of the configurations.
    """

    name: str
    paper: str
    user: str
    stages: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    default_dataset: str
    default_configuration: str

    def __post_init__(self) -> None:
        if self.default_configuration not in self.configurations:
            raise ValueError(
                f"default_configuration={self.default_configuration!r} of system "
                f"{self.name!r} must be one of {', '.join(self.configurations)}."
            )

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
        image_shape: tuple[int, ...],
        num_classes: int,
        options: TaskOptions | None = None,
    ) -> "tuple[Stage, ...]":
        """The training stages for examples of a shape and a label space.

        Args:
            configuration: by name; None is the default one.
            image_shape: (H, W, C) of the examples.
            num_classes: size of the data set's label space.
            options: a person's choices.

        Raises:
            NotAvailable: for an unknown configuration or a missing optional package.
            UserError: if the system cannot be built for these examples or options.
        """
        return self.configuration(configuration).build(
            image_shape=image_shape,
            num_classes=num_classes,
            options=options or TaskOptions(),
        )
