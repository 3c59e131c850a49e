"""Grounds, light, drift and shaking: how a user's camera sees a place."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

_BANK = 64
LOWEST, HIGHEST = 8, 247
"""Levels before grain, which may add or take away up to 8 without overflow."""


@dataclass(frozen=True)
class Cameras:
    """Pictures of empty places, for one size of picture.

    Attributes:
        side: of the pictures, in pixels.
        seed: of the textures.
    """

    side: int
    seed: int

    @property
    def margin(self) -> int:
        """How far a camera can see beyond its picture, in pixels."""
        return max(2, self.side // 4)

    def places(
        self, texture: NDArray[np.int64], low: NDArray[np.float64], contrast: float
    ) -> NDArray[np.uint8]:
        """Grounds larger than a picture by the margin, uint8 `[n, S, S, 3]`.

        Args:
            texture: number of the pattern, `[n]`.
            low: mean levels in [0, 1], `[n, 3]`.
            contrast: of the pattern, in levels.
        """
        pattern = self._textures[texture % _BANK][..., None] * np.float32(contrast)
        level = (30 + 120 * low).astype(np.float32)[:, None, None, :]
        return (pattern + level).clip(LOWEST, HIGHEST).astype(np.uint8)

    def frames(
        self, places: NDArray[np.uint8], x: NDArray[np.int64], y: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """What is seen of places `[n, S, S, 3]`, uint8 `[n, T, side, side, 3]`.

        Args:
            places: from `places`.
            x: of the picture's left edge, in [0, margin], `[n, T]`.
            y: of its upper edge, likewise.
        """
        count, size = len(places), self.margin + 1
        one, down, right, level = places.strides
        windows = as_strided(
            places,
            (count, size, size, self.side, self.side, 3),
            (one, down, right, down, right, level),
            writeable=False,
        )
        seen: NDArray[np.uint8] = windows[np.arange(count)[:, None], y, x]
        return seen

    def add_grain(self, clips: NDArray[np.uint8], which: NDArray[np.int64]) -> None:
        """Add a sensor's pattern to clips uint8 `[n, T, side, side, 3]`, in place.

        Levels must be in [`LOWEST`, `HIGHEST`]: then wrapping around equals adding.
        """
        clips += self._grain[which % _BANK][:, None]

    @cached_property
    def _textures(self) -> NDArray[np.float32]:
        """Smooth patterns of unit spread, float32 `[bank, S, S]`."""
        draw = np.random.default_rng([self.seed, 41])
        size = self.side + self.margin
        axis = np.linspace(0, 1, size)
        out = np.zeros((_BANK, size, size))
        for _ in range(4):
            wave = draw.uniform(-4, 4, (_BANK, 2, 1, 1))
            phase = draw.uniform(0, 2 * np.pi, (_BANK, 1, 1))
            cycles = wave[:, 0] * axis[None, None, :] + wave[:, 1] * axis[None, :, None]
            out += np.sin(2 * np.pi * cycles + phase)
        unit: NDArray[np.float32] = (out / np.sqrt(2)).astype(np.float32)
        return unit

    @cached_property
    def _grain(self) -> NDArray[np.uint8]:
        """Fixed patterns of growing strength, modulo 256, `[bank, side, side, 3]`."""
        draw = np.random.default_rng([self.seed, 42])
        strength = np.linspace(0, 4, _BANK)[:, None, None, None]
        noise = strength * draw.normal(0, 1, (_BANK, self.side, self.side, 3))
        whole = np.rint(noise).clip(-LOWEST, LOWEST).astype(np.int8)
        return whole.view(np.uint8)
