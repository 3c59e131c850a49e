"""What a denoiser is told besides the noisy latents and the time."""

from dataclasses import dataclass

from torch import Tensor

from fedemb.protocols import Batch


@dataclass(frozen=True)
class Condition:
    """Text or labels, one per row; what a denoiser has no use for stays None.

    Attributes:
        tokens: of the text, `[B, L, text]`.
        seen: which of them are text, `[B, L]` of 0 and 1.
        pooled: the text's vector, `[B, text]`.
        label: int64 `[B]`; the number of classes stands for "none".
    """

    tokens: Tensor | None = None
    seen: Tensor | None = None
    pooled: Tensor | None = None
    label: Tensor | None = None

    @staticmethod
    def of(batch: Batch) -> "Condition":
        """The condition that `LatentDiffusionTask.prepare` put into a batch."""
        return Condition(
            batch.get("tokens"),
            batch.get("seen"),
            batch.get("pooled"),
            batch.get("told"),
        )


def given(value: Tensor | None, name: str) -> Tensor:
    """The value.

    Raises:
        ValueError: if there is none.
    """
    if value is None:
        raise ValueError(f"this denoiser must be told a {name}; give Condition one.")
    return value
