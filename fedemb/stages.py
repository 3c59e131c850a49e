"""Stages: a system trains in one or several, all paid from one ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
        learning_rate_scale: the server's learning rate in this stage, as a multiple of
            the run's. Small where a stage should refine, not undo, what the one before
            has learned. A public constant that acts on releases: privacy does not
            depend on it.
        public_head: values for parameters of the task's head that were learned from
            public data, for clients whose heads start from public constants
            (`local.head_init`); None has none. Called once, in a run that wants them.

    Raises:
        UserError: if a number is out of range.
    """

    name: str
    task: EmbeddingTask
    share_of_rounds: float = 1.0
    trainable: str = "all"
    inherit: Callable[[Parameters], Parameters] | None = None
    learning_rate_scale: float = 1.0
    public_head: Callable[[], Parameters] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share_of_rounds <= 1:
            raise UserError(
                f"share_of_rounds={self.share_of_rounds} must be in (0, 1]."
            )
        if not 0 < self.learning_rate_scale < float("inf"):
            raise UserError(
                f"learning_rate_scale={self.learning_rate_scale} must be positive and "
                "finite."
            )


def in_order(stages: Sequence[Stage], order: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of these names, in this order; the others are left out.

    The shares of the rounds are scaled to add up to 1.

    Args:
        stages: all that a system has.
        order: names, once each; to see what a stage brings, leave it out.

    Raises:
        UserError: no name, an unknown one, or one twice.
    """
    made = {stage.name: stage for stage in stages}
    if not order or len({*order} & {*made}) < len(order):
        raise UserError(
            f"order={tuple(order)} must name stages once each, of {', '.join(made)}."
        )
    whole = sum(made[name].share_of_rounds for name in order)
    return tuple(
        replace(made[name], share_of_rounds=made[name].share_of_rounds / whole)
        for name in order
    )
