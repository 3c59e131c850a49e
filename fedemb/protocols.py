"""The protocols that couple the core to a system of the zoo.

A system of the zoo is an `EmbeddingTask`: a shared *backbone* whose parameters are
aggregated under differential privacy, and a local *head* that is made fresh on every
virtual client in every round and dies there, unless the recipe lets it persist.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples

Batch: TypeAlias = dict[str, Tensor]
"""Tensors `[B, ...]`; `weight` `[B]` is 1 for an example and 0 for padding."""

Features: TypeAlias = Tensor | dict[str, Tensor]
"""What a backbone gives to a head: `[B, ...]`, row i from example i alone."""

Parameters: TypeAlias = Mapping[str, Tensor]


@runtime_checkable
class EmbeddingTask(Protocol):
    """What is trained: one stage of one system.

    Formal requirements, on which the privacy of a round rests:

    - `features` treats rows independently (no batch statistics).
    - `loss` and `prepare` use nothing but the virtual client's own rows.
    - all randomness is drawn in `prepare` and in `fresh_head`, from the given seeds,
      and
      travels as tensors; `features` and `loss` are deterministic. Hence every engine
      and every number of workers computes the same thing.
    """

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    @property
    def label_space(self) -> str:
        """`client`: labels are renumbered 0..K-1 within each virtual client, and its
        head has K outputs. `global`: labels are the data set's, and so are the outputs.
        """
        ...

    @property
    def num_classes(self) -> int:
        """Size of the data set's label space; outputs of a head in `global` space."""
        ...

    def make_backbone(self) -> nn.Module:
        """A new backbone, initialised from torch's global generator."""
        ...

    def make_head(self, capacity: int) -> nn.Module:
        """A head for at most `capacity` classes; its values are a template only."""
        ...

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """New values for the parameters of `head`, for a client with `classes` classes.

        Returns the same names and shapes as `head.named_parameters()`.
        """
        ...

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Rows of `examples` as tensors `[n, ...]`, in order.

        `seeds` `[groups]` feed all randomness (augmentation, masks, time steps) of each
        group, that is of each virtual client. A row must not depend on other groups.
        """
        ...

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Backbone outputs for a batch, row by row."""
        ...

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Scalar loss of one local step; padding rows (`weight` 0) do not count."""
        ...

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Embeddings `[B, D]` for use and evaluation, of unit length."""
        ...

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Metrics on held-out examples, by name."""
        ...


@runtime_checkable
class ReadsTexts(Protocol):
    """A task whose backbone embeds texts, in the space of its examples."""

    def embed_texts(self, backbone: nn.Module, texts: Sequence[str]) -> Tensor:
        """Embeddings `[n, D]` of texts, of unit length, on the host."""
        ...
