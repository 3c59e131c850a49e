"""Pictures of motions for reports: three frames of a stick figure, one of them bold."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 64
_SCALE = 3  # drawn larger and reduced, for smooth lines
_LEFT, _RIGHT, _TRUNK = (38, 101, 189), (214, 96, 36), (70, 70, 78)
_BACKGROUND = (250, 250, 248)
_LIMBS = (
    *((a, b, _TRUNK) for a, b in ((1, 2), (7, 8), (1, 7), (2, 8))),
    *((a, b, _LEFT) for a, b in ((1, 3), (3, 5), (7, 9), (9, 11))),
    *((a, b, _RIGHT) for a, b in ((2, 4), (4, 6), (8, 10), (10, 12))),
)


def draw_motions(
    keypoints: NDArray[np.floating], side: int = SIDE
) -> NDArray[np.uint8]:
    """Stick figures: left limbs blue, right ones orange; first and last frame faint.

    Every picture is scaled to hold all three frames.

    Args:
        keypoints: `[n, T, 13, 2]`, in any unit, y downwards.
        side: of the pictures in pixels.

    Returns:
        uint8 `[n, side, side, 3]`.

    Example:
        >>> draw_motions(np.random.default_rng(0).random((2, 5, 13, 2))).shape
        (2, 64, 64, 3)
    """
    frames = sorted({0, keypoints.shape[1] // 2, keypoints.shape[1] - 1})
    middle = frames.index(keypoints.shape[1] // 2)
    return np.stack(
        [_draw(motion[frames], middle, side * _SCALE) for motion in keypoints]
    ).reshape(-1, side, side, 3)


def _draw(poses: NDArray[np.floating], middle: int, side: int) -> NDArray[np.uint8]:
    low, high = poses.min((0, 1)), poses.max((0, 1))
    reach = max(float((high - low).max()), 1e-9)
    places = (poses - (low + high) / 2) / reach * 0.82 * side + side / 2
    image = Image.new("RGB", (side, side), _BACKGROUND)
    pen = ImageDraw.Draw(image)
    order = [k for k in range(len(poses)) if k != middle] + [middle]
    for k in order:
        strength = 1.0 if k == middle else 0.25
        width = max(side // (28 if k == middle else 60), 1)
        for a, b, colour in _LIMBS:
            ends = [tuple(places[k, a]), tuple(places[k, b])]
            pen.line(ends, fill=_mixed(colour, strength), width=width)
        neck = places[k, 1:3].mean(0)
        pen.line([tuple(neck), tuple(places[k, 0])], _mixed(_TRUNK, strength), width)
        x, y = places[k, 0]
        r = side / 24
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_mixed(_TRUNK, strength))
    small = image.resize((side // _SCALE, side // _SCALE), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8)


def _mixed(colour: tuple[int, int, int], strength: float) -> tuple[int, int, int]:
    red, green, blue = (
        round(strength * c + (1 - strength) * b)
        for c, b in zip(colour, _BACKGROUND, strict=True)
    )
    return red, green, blue
