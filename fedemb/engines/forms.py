"""Forms: how layers with weights of each of V clients are computed together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.convolutions import conv2d
from fedemb.engines.layers import share_no_weights, trained_layers
from fedemb.parameters import FlatLayout
from fedemb.protocols import Batch, Features

CONVOLVE: Mapping[type[nn.Module], Callable[..., Tensor]] = MappingProxyType(
    {nn.Conv1d: F.conv1d, nn.Conv2d: conv2d, nn.Conv3d: F.conv3d}
)


class ClientLayer(nn.Module):
    """A layer with weights of each of V clients.

    Attributes:
        weights, offsets: `[V, ...]`, each in the order in which its form stores it.
    """

    def __init__(self, layer: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: its weights are not those of this module
        self.weights, self.offsets = values["weight"], values.get("bias")

    @property
    def layer(self) -> Any:
        """The layer of one client, for all but its weights."""
        return self._layer[0]

    def convolved(self, images: Tensor) -> Tensor:
        """Images `[B, V * C, ...]`, by V times as many groups, `[B, V * O, ...]`."""
        layer = self.layer
        return CONVOLVE[type(layer)](
            images,
            self.weights.flatten(0, 1),
            None if self.offsets is None else self.offsets.flatten(),
            layer.stride,
            layer.padding,
            layer.dilation,
            len(self.weights) * layer.groups,
        )

    def scaled(self, normal: Tensor, own: Sequence[int]) -> Tensor:
        """A norm without weights by gains and offsets of the shape `own`, as rows."""
        scaled = normal * self.weights.view(own)
        if self.offsets is not None:
            scaled = scaled + self.offsets.view(own)
        return scaled.flatten(0, 1)


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
