"""The builder of image systems; importing this imports no torch."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from model_zoo.system import DataFacts, TaskOptions

if TYPE_CHECKING:
    from fedemb.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ImageStages:
    """Builds the one stage of an image system.

    Attributes:
        backbone: `module:Class`, called as `Class(image_shape, embedding_dim,
            **arguments)`.
        embedding_dim: D unless the options name another.
        arguments: further arguments of the backbone.
        trainable: parameters to train unless the options name others.
        max_side: larger images are averaged down to this side, in pixels; None keeps
            every size.
    """

    backbone: str
    embedding_dim: int = 128
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trainable: str = "all"
    max_side: int | None = None

    def __call__(self, *, data: DataFacts, options: TaskOptions) -> "tuple[Stage, ...]":
        """One stage that trains an embedding by classifying identities.

        Raises:
            UserError: if the examples are not images, or too small for the backbone.
        """
        from fedemb.identity import IdentityTask
        from fedemb.pixels import reduced_shape
        from fedemb.stages import Stage

        shape = reduced_shape(data.picture(), self.max_side)
        module, _, name = self.backbone.partition(":")
        dim = options.embedding_dim or self.embedding_dim
        made = partial(
            getattr(importlib.import_module(module), name),
            shape,
            dim,
            **self.arguments,
        )
        task = IdentityTask(
            name=name,
            backbone=made,
            embedding_dim=dim,
            num_classes=data.num_classes,
            **options.identity(),
            views=options.views or 1,
            augment=options.augment or "affine",
            max_side=self.max_side,
        )
        return (Stage("embedding", task, 1.0, options.trainable or self.trainable),)
