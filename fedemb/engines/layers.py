"""The layers that own trained parameters: what engines of batched layers work on."""

from collections.abc import Sequence

from torch import nn

from fedemb.parameters import FlatLayout


def trained_layers(backbone: nn.Module, layout: FlatLayout) -> list[nn.Module]:
    """The layers that own trained parameters; twice if a parameter has two owners."""
    named = dict(backbone.named_parameters())
    trained = {id(named[name]) for name in layout.names}
    return [
        layer
        for layer in backbone.modules()
        if any(id(value) in trained for value in layer._parameters.values())
    ]


def share_no_weights(layers: Sequence[nn.Module]) -> bool:
    """Whether no parameter belongs to two of the layers.

    Example:
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> tied = nn.Linear(2, 2)
        >>> tied.weight = first.weight
        >>> share_no_weights([first, second]), share_no_weights([first, tied])
        (True, False)
    """
    owned = [id(p) for layer in layers for p in layer.parameters(recurse=False)]
    return len(owned) == len(set(owned))


def sides_of_outputs(layer: nn.Conv2d, sides: Sequence[int]) -> list[int]:
    """Sides of what a convolution makes of images; its padding is by numbers.

    Example:
        >>> sides_of_outputs(nn.Conv2d(1, 1, 3, stride=2, padding=1), [28, 7])
        [14, 4]
    """
    pads = [int(pad) for pad in layer.padding]
    return [
        (side + 2 * pad - gap * (own - 1) - 1) // step + 1
        for side, pad, gap, own, step in zip(
            sides,
            pads,
            layer.dilation,
            layer.kernel_size,
            layer.stride,
            strict=True,
        )
    ]


def zero_padded(layer: nn.Conv2d) -> bool:
    """Whether a convolution reads zeros around its input, by numbers: see `patches`."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
