"""Stages: a system trains in one or several, all paid from one ledger."""

from collections.abc import Callable
from dataclasses import dataclass

from fedemb.errors import UserError
from fedemb.protocols import EmbeddingTask, Parameters


@dataclass(frozen=True)
class Stage:
    """One stage of a system's training.

    Attributes:
        name: for reports and the ledger.
        task: backbone, head and loss.
        share_of_rounds: of the run's rounds; shares of all stages add up to 1.
        trainable: which backbone parameters this stage trains.
        inherit: from the state of the previous stage's backbone to that of this one;
            None takes over what has the same name and shape. The previous stage's
            backbone is a private release, so whatever is made of it costs nothing.
    """

    name: str
    task: EmbeddingTask
    share_of_rounds: float = 1.0
    trainable: str = "all"
    inherit: Callable[[Parameters], Parameters] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share_of_rounds <= 1:
            raise UserError(
                f"share_of_rounds={self.share_of_rounds} must be in (0, 1]."
            )
