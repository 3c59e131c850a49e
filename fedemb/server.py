"""The server's side of a round: state, and the optimizers that consume a release.

Everything here is post-processing of privatised values, and so is free:
`IterateAverage` lowers the noise on what is released without spending anything.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fedemb.errors import UserError


@dataclass(frozen=True)
class ServerState:
    """All that passes from one round to the next.

    Attributes:
        round_index: rounds completed.
        backbone: float32 `[P]`, the trained parameters in layout order.
        moments: optimizer buffers, each `[P]`.
        clip_norm: C of the next round; changes only under adaptive clipping.
    """

    round_index: int
    backbone: Tensor
    moments: tuple[Tensor, ...]
    clip_norm: float


class ServerOptimizer(Protocol):
    """Turns a released mean update into new parameters."""

    def init(self, backbone: Tensor) -> tuple[Tensor, ...]:
        """Zero moments for a backbone `[P]`."""
        ...

    def step(self, state: ServerState, update: Tensor) -> ServerState:
        """The state after adding `update` `[P]`, the noisy mean of deltas."""
        ...

    def release(self, state: ServerState) -> Tensor:
        """The backbone `[P]` to evaluate, publish and hand to the next stage."""
        ...


def falling(learning_rate: float, round_index: int, fall_over: int | None) -> float:
    """The rate of a round: constant, or falling linearly to zero over `fall_over`.

    A rate that ends near zero ends training near a mean of many noisy rounds.

    Example:
        >>> [falling(0.4, t, 4) for t in range(6)], falling(0.4, 3, None)
        ([0.4, 0.30000000000000004, 0.2, 0.1, 0.0, 0.0], 0.4)
    """
    if fall_over is None:
        return learning_rate
    return learning_rate * max(0.0, 1 - round_index / fall_over)


@dataclass(frozen=True, kw_only=True)
class ServerSGD:
    """Server SGD with heavy-ball momentum on the mean delta (Reddi et al. 2021).

    Attributes:
        learning_rate: of the first round.
        momentum: of the mean deltas.
        fall_over: rounds over which the learning rate falls linearly to zero.

    Example:
        >>> sgd = ServerSGD(learning_rate=0.5, momentum=0.9)
        >>> zero = torch.zeros(1)
        >>> state = ServerState(0, zero, sgd.init(zero), 1.0)
        >>> sgd.step(state, torch.ones(1)).backbone.item()
        0.5
    """

    learning_rate: float = 1.0
    momentum: float = 0.9
    fall_over: int | None = None

    def init(self, backbone: Tensor) -> tuple[Tensor, ...]:
        """One zero buffer."""
        return (torch.zeros_like(backbone),)

    def step(self, state: ServerState, update: Tensor) -> ServerState:
        """M <- momentum m + update; theta <- theta + lr m."""
        rate = falling(self.learning_rate, state.round_index, self.fall_over)
        velocity = self.momentum * state.moments[0] + update
        return replace(
            state,
            round_index=state.round_index + 1,
            backbone=state.backbone + rate * velocity,
            moments=(velocity,),
        )

    def release(self, state: ServerState) -> Tensor:
        """The last iterate."""
        return state.backbone


@dataclass(frozen=True, kw_only=True)
class ServerAdam:
    """Server Adam on the mean delta, with bias correction (FedAdam, Reddi et al. 2021).

    Adam normalises every coordinate, so the scale of the clip norm drops out and one
    learning rate serves many models.

    Attributes:
        learning_rate: of the first round.
        beta1, beta2: decay of the first and second moment.
        epsilon: added to the root of the second moment.
        fall_over: rounds over which the learning rate falls linearly to zero.
    """

    learning_rate: float = 0.003
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    fall_over: int | None = None

    def init(self, backbone: Tensor) -> tuple[Tensor, ...]:
        """Zero first and second moments."""
        return (torch.zeros_like(backbone), torch.zeros_like(backbone))

    def step(self, state: ServerState, update: Tensor) -> ServerState:
        """One Adam step in the direction of the mean delta."""
        rate = falling(self.learning_rate, state.round_index, self.fall_over)
        count = state.round_index + 1
        first = self.beta1 * state.moments[0] + (1 - self.beta1) * update
        second = self.beta2 * state.moments[1] + (1 - self.beta2) * update**2
        unbiased = (second / (1 - self.beta2**count)).sqrt() + self.epsilon
        step = first / (1 - self.beta1**count) / unbiased
        return replace(
            state,
            round_index=count,
            backbone=state.backbone + rate * step,
            moments=(first, second),
        )

    def release(self, state: ServerState) -> Tensor:
        """The last iterate."""
        return state.backbone


@dataclass(frozen=True, kw_only=True)
class IterateAverage:
    """Releases an exponential average of the iterates; training does not see it.

    The noise of a round moves the last iterate by a whole server step. In the average
    of about 1 / (1 - decay) iterates it largely cancels, while what was learned stays
    (Polyak and Juditsky 1992; De et al. 2022, arXiv:2204.13650, for private training).
    The weights of the iterates 1..t are decay^(t-1), ..., decay, 1, divided by their
    sum, so the initial backbone has no part in it.

    Attributes:
        optimizer: makes the iterates.
        decay: in [0, 1); 0 releases the last iterate.

    Raises:
        UserError: if `decay` is out of range.

    Example:
        >>> averaged = IterateAverage(
        ...     optimizer=ServerSGD(learning_rate=1.0, momentum=0.0), decay=0.5
        ... )
        >>> zero = torch.zeros(1)
        >>> state = ServerState(0, zero, averaged.init(zero), 1.0)
        >>> for _ in range(2):
        ...     state = averaged.step(state, torch.ones(1))
        >>> state.backbone.item(), round(averaged.release(state).item(), 4)
        (2.0, 1.6667)
    """

    optimizer: ServerOptimizer
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"average_decay={self.decay} must be in [0, 1).")

    def init(self, backbone: Tensor) -> tuple[Tensor, ...]:
        """The average, and the optimizer's own moments."""
        return (backbone.clone(), *self.optimizer.init(backbone))

    def step(self, state: ServerState, update: Tensor) -> ServerState:
        """A step of the optimizer, and the average moved towards its iterate."""
        average, *own = state.moments
        following = self.optimizer.step(replace(state, moments=tuple(own)), update)
        share = (1 - self.decay) / (1 - self.decay**following.round_index)
        average = torch.lerp(average, following.backbone, share)
        return replace(following, moments=(average, *following.moments))

    def release(self, state: ServerState) -> Tensor:
        """The average of the iterates; before the first round the initial backbone."""
        return state.moments[0]
