"""What shapes can do, and where that takes them in each frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ACTIONS = (
    "moves left",
    "moves right",
    "rises",
    "falls",
    "circles",
    "bounces",
    "enters",
    "leaves",
    "waits",
    "grows",
    "shrinks",
    "spins",
    "changes",
)
"""Third person; those from `grows` on happen in place and can go with the others."""

IN_PLACE = ACTIONS.index("grows")
_OUT = 0.9  # from anywhere between 0.35 and 0.65, out of sight


@dataclass(frozen=True, kw_only=True)
class Start:
    """How things are before they act, all arrays `[m]`; lengths in picture sides.

    Attributes:
        x: centre, to the right.
        y: centre, downwards.
        size: half the extent.
        angle: in radians.
        tempo: 1 is usual.
        way: 1 or -1: the side from which a thing enters or to which it leaves.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]
    tempo: NDArray[np.float64]
    way: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Path:
    """How things are in each frame, all arrays `[m, T]`.

    Attributes:
        x: centre, to the right.
        y: centre, downwards.
        size: half the extent.
        angle: in radians.
        changed: how far the colour has changed, from 0 to 1.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]
    changed: NDArray[np.float64]


def perform(
    start: Start, doing: NDArray[np.bool_], progress: NDArray[np.float64]
) -> Path:
    """Things carry out their actions.

    Args:
        start: `[m]`.
        doing: bool `[m, len(ACTIONS)]`, the actions of each.
        progress: `[T]` or `[m, T]`, from 0 to 1.

    Example:
        >>> one = np.ones(1)
        >>> rest = Start(x=one / 2, y=one / 2, size=one / 8, angle=0 * one,
        ...              tempo=one, way=one)
        >>> rising = np.arange(len(ACTIONS))[None] == ACTIONS.index("rises")
        >>> perform(rest, rising, np.array([0.0, 0.5, 1.0])).y.tolist()
        [[0.8, 0.5, 0.2]]
    """
    progress = np.broadcast_to(progress, (len(doing), progress.shape[-1]))
    time = (progress - 0.5) * start.tempo[:, None]
    turn = 2 * np.pi * time

    def when(name: str) -> NDArray[np.float64]:
        return doing[:, [ACTIONS.index(name)]].astype(np.float64)

    x = start.x[:, None] + 0.6 * time * (when("moves right") - when("moves left"))
    y = start.y[:, None] + 0.6 * time * (when("falls") - when("rises"))
    x = x + 0.17 * np.cos(turn) * when("circles")
    y = y + 0.17 * np.sin(turn) * when("circles")
    y = y - 0.3 * (np.abs(np.sin(1.5 * np.pi * progress)) - 0.5) * when("bounces")
    away = start.way[:, None] * _OUT
    x = x + away * np.maximum(0, 1 - 1.4 * progress) * when("enters")
    x = x + away * np.maximum(0, 1.4 * progress - 0.4) * when("leaves")
    growth = np.exp(1.4 * time * (when("grows") - when("shrinks")))
    return Path(
        x=x,
        y=y,
        size=start.size[:, None] * growth,
        angle=start.angle[:, None] + turn * when("spins"),
        changed=progress * when("changes"),
    )
