"""Forms: how layers with weights of each of V clients are computed together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedemb.engines.layers import share_no_weights, trained_layers
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features


@dataclass(frozen=True)
class Form:
    """Layers with weights `[V, ...]`, and the order of rows that they work on.

    Attributes:
        layers: makes the layer of V clients from that of one and its parameters.
            Subclasses do not count: a backbone uses one to say that its weights are
            read outside the layer.
        serves: whether a layer of these types has this form.
        stored_order: the order of axes in which a parameter is stored; None: as it is.
        as_one_batch: a batch `[V, B, ...]` as rows `[V * B, ...]` in this form's order.
        by_client: features of such rows as `[V, B, ...]`.
    """

    layers: Mapping[type[nn.Module], Any]
    serves: Callable[[nn.Module], bool]
    stored_order: Callable[[nn.Module, str], tuple[int, ...] | None]
    as_one_batch: Callable[[Batch], Batch]
    by_client: Callable[[Features, int], Features]

    def takes(self, backbone: nn.Module, layout: FlatLayout) -> bool:
        """Whether trained parameters lie in layers with this form, each in one."""
        layers = trained_layers(backbone, layout)
        return share_no_weights(layers) and all(
            type(layer) in self.layers and self.serves(layer) for layer in layers
        )
