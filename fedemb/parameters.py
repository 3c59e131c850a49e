"""Which parameters are trained, and where each lies in one flat vector.

Clipping, noise and the server work on one vector `[P]`; the layout is the only place
that knows how it maps to a module. Parameters are named, never counted off by position,
and buffers are never part of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fedemb.errors import UserError

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)


@dataclass(frozen=True)
class FlatLayout:
    """Names and shapes of the trained parameters, in the order of the flat vector.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layout = FlatLayout.of(layer)
        >>> layout.size, layout.names
        (8, ('weight', 'bias'))
        >>> vector = layout.flatten(dict(layer.named_parameters()))
        >>> torch.equal(layout.unflatten(vector)["bias"], layer.bias)
        True
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @staticmethod
    def of(module: nn.Module, trainable: str = "all") -> "FlatLayout":
        """The layout of the parameters of `module` that `trainable` selects.

        Args:
            module: a backbone. If it has a mapping `trainable_selections` from names to
                comma-separated patterns, those names can be used as well.
            trainable: `all`; `norm` (affine parameters of normalisation layers); `last`
                (the last layer that has parameters); or `names:` and patterns such as
                `names:embedding.*,blocks.5.*`. `A of B` are those of A that B selects
                as well.

        Raises:
            UserError: if nothing is selected, or a pattern matches nothing.
        """
        every = dict(module.named_parameters())
        chosen = _selected(module, every, trainable)
        names = tuple(name for name in every if name in chosen)
        return FlatLayout(names, tuple(every[name].shape for name in names))

    @property
    def size(self) -> int:
        """P, the number of trained parameters."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Elements of each parameter."""
        return [shape.numel() for shape in self.shapes]

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The flat vector `[P]` of named values; a copy."""
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector` `[..., P]` by name, `[..., *shape]`; differentiable."""
        parts = torch.split(vector, self.lengths, dim=-1)
        return {
            name: part.view(*vector.shape[:-1], *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def load(self, module: nn.Module, vector: Tensor) -> None:
        """Copy `vector` `[P]` into the trained parameters of `module`."""
        own = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.unflatten(vector).items():
                own[name].copy_(value)


def digest_of(values: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values: another checkpoint has another.

    Example:
        >>> one = {"weight": torch.ones(2)}
        >>> digest_of(one) == digest_of({"weight": torch.zeros(2)})
        False
    """
    hashed = hashlib.sha256()
    for name in sorted(values):
        array = values[name].detach().cpu().contiguous()
        kind = str(array.dtype).removeprefix("torch.")
        hashed.update(f"{name} {kind} {tuple(array.shape)} ".encode())
        hashed.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def refuse_batch_statistics(module: nn.Module) -> None:
    """Refuse modules whose output for one row depends on other rows.

    Raises:
        UserError: for batch normalisation that uses batch statistics, and for instance
            normalisation that keeps running ones; frozen statistics (in evaluation
            mode) are fine.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, _NormBase):
            continue
        mixes_rows = isinstance(layer, _BatchNorm) and not layer.track_running_stats
        if mixes_rows or (layer.training and layer.track_running_stats):
            raise UserError(
                f"layer {name!r} is {type(layer).__name__} with live statistics: it "
                "mixes the rows of a batch, or keeps statistics of user data in "
                "buffers that no noise protects. Use GroupNorm, or freeze its "
                "statistics with .eval()."
            )


def _selected(
    module: nn.Module, every: Mapping[str, Tensor], trainable: str
) -> set[str]:
    chosen, of, within = trainable.partition(" of ")
    if of:
        both = _selected(module, every, chosen) & _selected(module, every, within)
        return _nonempty(both, trainable)
    own: Mapping[str, str] = getattr(module, "trainable_selections", {})
    if trainable == "all":
        return _nonempty(set(every), trainable)
    if trainable in own:
        return _matching(every, own[trainable].split(","))
    if trainable.startswith("names:"):
        return _matching(every, trainable.removeprefix("names:").split(","))
    if trainable in ("norm", "last"):
        layers = [
            (prefix, layer)
            for prefix, layer in module.named_modules()
            if any(True for _ in layer.parameters(recurse=False))
        ]
        if trainable == "norm":
            layers = [x for x in layers if isinstance(x[1], _NORMS)]
        else:
            layers = layers[-1:]
        names = {
            f"{prefix}.{name}" if prefix else name
            for prefix, layer in layers
            for name, _ in layer.named_parameters(recurse=False)
        }
        return _nonempty(names, trainable)
    choices = ", ".join(("all", "norm", "last", "names:PATTERN,...", *own))
    raise UserError(f"trainable={trainable!r} must be one of {choices}.")


def _matching(every: Mapping[str, Tensor], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in every if fnmatchcase(name, pattern.strip())}
        if not hits:
            raise UserError(
                f"no backbone parameter matches {pattern!r}; the backbone has "
                f"{', '.join(list(every)[:12])}{', ...' if len(every) > 12 else ''}."
            )
        found |= hits
    return found


def _nonempty(names: set[str], trainable: str) -> set[str]:
    if not names:
        raise UserError(
            f"trainable={trainable!r} selects nothing: the backbone has no parameter "
            "that all of these select."
            if " of " in trainable
            else f"trainable={trainable!r} selects nothing: the backbone has no such "
            "layers."
        )
    return names
