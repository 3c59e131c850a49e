"""Stages: a system trains in one or several, all paid from one ledger."""

from dataclasses import dataclass

from fedemb.errors import UserError
from fedemb.protocols import EmbeddingTask


@dataclass(frozen=True)
class Stage:
    """One stage of a system's training.

    Attributes:
        name: for reports and the ledger.
        task: backbone, head and loss.
        share_of_rounds: of the run's rounds; shares of all stages add up to 1.
        trainable: which backbone parameters this stage trains.
    """

    name: str
    task: EmbeddingTask
    share_of_rounds: float = 1.0
    trainable: str = "all"

    def __post_init__(self) -> None:
        if not 0 < self.share_of_rounds <= 1:
            raise UserError(
                f"share_of_rounds={self.share_of_rounds} must be in (0, 1]."
            )
