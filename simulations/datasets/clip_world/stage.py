"""One stage for everybody, under a light that makes things look other elsewhere."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.clip_world.cameras import HIGHEST, LOWEST
from simulations.datasets.clip_world.studio import Cast, Studio
from simulations.datasets.counters import uniform

_STRENGTH = 1.6  # of the light: e^1.1 is the most that it adds in a corner


@dataclass(frozen=True)
class Stage(Studio):
    """Films everything in one place, before one camera that stands still.

    Nothing but the things tells clips apart: neither grounds nor anybody's camera. The
    light is of another colour on every side, so that a thing that moves changes its
    looks. Place and light are drawn from the seed.
    """

    steady: bool = True

    def film(self, cast: Cast) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """As a studio's."""
        nobody = np.zeros_like(cast.user)
        clips, boxes = super().film(replace(cast, user=nobody, place=nobody))
        for clip in clips:  # one at a time: floats of all would be large
            np.clip(clip * self._light, LOWEST, HIGHEST, out=clip, casting="unsafe")
        return clips, boxes

    @cached_property
    def _light(self) -> NDArray[np.float32]:
        """What levels are multiplied by, float32 `[side, side, 3]`."""
        words = np.zeros(1, np.uint64)
        turn, hue = (2 * np.pi * uniform(self._draw(words, 300 + i)) for i in (0, 1))
        axis = (np.arange(self.side) + 0.5) / self.side - 0.5
        ramp = np.cos(turn) * axis[None, :] + np.sin(turn) * axis[:, None]
        tint = np.cos(hue + 2 * np.pi * np.arange(3) / 3)
        light: NDArray[np.float32] = np.exp(_STRENGTH * ramp[..., None] * tint)
        return light.astype(np.float32)
