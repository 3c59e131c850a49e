"""A mark that is not seen but found: key bits, spread over a picture's spectrum.

Cox et al. (1997), spread-spectrum watermarking: noise of a secret key is added to
middle frequencies and found again by correlation. SynthID, which the report uses, is
proprietary; this stands in for it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.stats import mannwhitneyu

from fedemb.errors import UserError
from model_zoo.imagen3.checks import images_of, numbers_of


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """A secret mark for pictures in [0, 255] `[n, H, W, C]`.

    Attributes:
        key: secret; without it the mark looks like noise.
        side: of the pictures.
        strength: root mean square of the mark, in levels.
        band: frequencies that carry it, as shares of the highest; low ones are seen,
            and high ones do not survive compression.

    Raises:
        UserError: for a strength of 0 or less, a negative key, or a band without a
            frequency.
    """

    key: int
    side: int
    strength: float = 4.0
    band: tuple[float, float] = (0.1, 0.6)

    def __post_init__(self) -> None:
        low, high = self.band
        if self.strength <= 0 or not 0 <= low < high <= 1:
            raise UserError(
                f"strength={self.strength} must be positive and band={self.band} rise "
                "within [0, 1]."
            )
        if self.key < 0 or self.side < 1 or not self._carriers.any():
            raise UserError(
                f"key={self.key} must be 0 or more, and side={self.side} large enough "
                f"for a frequency in the band {low} to {high}; widen the band for "
                "small pictures."
            )

    @cached_property
    def pattern(self) -> NDArray[np.float64]:
        """The mark, `[side, side]`, of unit root mean square."""
        draw = np.random.default_rng(self.key)
        waves = draw.choice([-1.0, 1.0], (self.side, self.side))
        waves[~self._carriers] = 0
        plain: NDArray[np.float64] = idctn(waves, norm="ortho")
        scaled: NDArray[np.float64] = plain / np.sqrt(np.square(plain).mean())
        return scaled

    def embed(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The pictures with the mark, rounded to bytes.

        Raises:
            UserError: for pictures of another side.
        """
        marked = images_of(images, self.side) + self.strength * self.pattern[..., None]
        return marked.round().clip(0, 255).astype(np.uint8)

    def score(self, images: NDArray[np.generic]) -> NDArray[np.float64]:
        """How surely the mark is there, `[n]`.

        About standard normal over keys where it is not.

        Every frequency is divided by its size in the picture, so that what the picture
        itself shows weighs little.

        Raises:
            UserError: for pictures of another side.
        """
        grey = images_of(images, self.side).mean(-1)
        waves = dctn(grey, axes=(1, 2), norm="ortho")
        key = dctn(self.pattern, norm="ortho")
        used = np.abs(key) > 1e-9
        signs = np.sign(key[used])
        values = waves[:, used]
        limited = values / np.sqrt(np.square(values) + self.strength**2)
        spread = np.sqrt(np.square(limited).sum(1)).clip(min=1e-12)
        found: NDArray[np.float64] = limited @ signs / spread
        return found

    def found(
        self, images: NDArray[np.generic], threshold: float = 4.0
    ) -> NDArray[np.bool_]:
        """Where the mark is, `[n]`; of clean pictures about one in 30,000 has it."""
        return self.score(images) > threshold

    @property
    def _carriers(self) -> NDArray[np.bool_]:
        """Frequencies in the band, `[side, side]`."""
        axis = np.arange(self.side) / self.side
        radius = np.hypot(axis[:, None], axis) / np.sqrt(2)
        low, high = self.band
        inside: NDArray[np.bool_] = (radius >= low) & (radius <= high)
        return inside


def detection_auc(marked: NDArray[np.floating], clean: NDArray[np.floating]) -> float:
    """Probability that a marked picture scores above a clean one; ties count half.

    Raises:
        UserError: without a marked or a clean score, or for one that is not finite.

    Example:
        >>> detection_auc(np.array([3.0, 2.0]), np.array([0.0, 2.0]))
        0.875
    """
    one, two = numbers_of("marked", marked), numbers_of("clean", clean)
    wins = mannwhitneyu(one, two).statistic
    return float(wins / (len(one) * len(two)))
