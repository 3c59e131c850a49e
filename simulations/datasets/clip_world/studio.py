"""From who does what to pictures and boxes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulations.datasets.clip_world.actions import Path, Start, perform
from simulations.datasets.clip_world.cameras import HIGHEST, LOWEST, Cameras
from simulations.datasets.clip_world.sprites import Placed, Sprites
from simulations.datasets.counters import integers, mix_seed, signed, uniform
from simulations.datasets.shapes import COLOURS, RGB

_AT_ONCE = 128  # clips that fit a cache


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who does what, where, and before whose camera.

    Attributes:
        user: uint64 `[n]`, a word for the user whose camera it is.
        place: uint64 `[n]`, a word for where the clip was taken.
        own: uint64 `[n]`, a word for everything else.
        thing: int64 `[n, K]`, shape times eight plus colour; -1 if there is none.
        doing: bool `[n, K, len(ACTIONS)]`.
        scene: int64 `[n, K]`, 0 or 1: whether a thing appears before or after the cut.
        cut: int64 `[n]`, first frame after the cut; T if there is none.
    """

    user: NDArray[np.uint64]
    place: NDArray[np.uint64]
    own: NDArray[np.uint64]
    thing: NDArray[np.int64]
    doing: NDArray[np.bool_]
    scene: NDArray[np.int64]
    cut: NDArray[np.int64]

    def rows(self, which: slice) -> "Cast":
        """Some of the clips."""
        return Cast(**{name: values[which] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Studio:
    """Films casts; what it draws is a function of the seed and of the casts' words.

    A user has a light, grounds, a tempo, a taste in sizes, a sensor's grain, and a
    camera that drifts and shakes. Things that come first hide those that follow.

    Attributes:
        side: of the pictures, in pixels.
        frames: T.
        seed: public.
        steady: whether cameras stand still.
    """

    side: int
    frames: int
    seed: int
    steady: bool = False

    def film(self, cast: Cast) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Clips uint8 `[n, T, side, side, 3]` and boxes float32 `[n, T, K, 4]`.

        Boxes are (ymin, xmin, ymax, xmax) in [0, 1], -1 where a thing is out of sight.
        """
        count, things = cast.thing.shape
        clips = np.empty((count, self.frames, self.side, self.side, 3), dtype=np.uint8)
        boxes = np.full((count, self.frames, things, 4), -1, dtype=np.float32)
        for start in range(0, count, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            self._shoot(cast.rows(part), clips[part], boxes[part])
        return clips, boxes

    def segments(self, cut: NDArray[np.int64]) -> NDArray[np.int64]:
        """Scene of each frame, int64 `[n, T]`."""
        return (np.arange(self.frames) >= cut[:, None]).astype(np.int64)

    def _shoot(
        self, cast: Cast, clips: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> None:
        x, y = self._camera(cast)
        scene = self.segments(cast.cut)
        clips[:] = self._cameras.frames(self._grounds(cast, 0), x, y)
        cut = np.flatnonzero(cast.cut < self.frames)
        if len(cut):
            other = self._cameras.frames(self._grounds(cast, 1)[cut], x[cut], y[cut])
            row, frame = np.nonzero(scene[cut])
            clips[cut[row], frame] = other[row, frame]
        pictures = clips.reshape(-1, self.side, self.side, 3)
        middle = self.frames // 2
        pan = (x - x[:, [middle]]) / self.side, (y - y[:, [middle]]) / self.side
        for k in reversed(range(cast.thing.shape[1])):
            shown = (cast.thing[:, [k]] >= 0) & (cast.scene[:, [k]] == scene)
            row, frame = np.nonzero(shown)
            path = self._path(cast, k)
            placed = Placed(
                picture=row * self.frames + frame,
                shape=cast.thing[row, k] // len(COLOURS),
                x=(path.x - pan[0])[row, frame],
                y=(path.y - pan[1])[row, frame],
                size=path.size[row, frame],
                angle=path.angle[row, frame],
                colour=self._colours(cast, k, path.changed)[row, frame],
            )
            boxes[row, frame, k] = self._sprites.paint(pictures, placed)
        self._cameras.add_grain(clips, integers(self._draw(cast.user, 1), 64))

    def _path(self, cast: Cast, k: int) -> Path:
        """Where thing k is in every frame, in or out of its scene."""
        things = cast.thing.shape[1]
        words = self._draw(cast.own, 100 + k)
        first, cut = cast.scene[:, k] == 0, cast.cut
        begin = np.where(first, 0, cut)[:, None]
        steps = np.where(first, cut, self.frames - cut)[:, None] - 1
        frame = np.arange(self.frames)[None, :]
        progress = np.where(steps > 0, (frame - begin) / np.maximum(steps, 1), 0.5)
        # A lane for each thing, so that they rarely hide each other.
        lane = (k + integers(self._draw(cast.own, 2), things)) % things
        tempo = 0.8 + 0.4 * uniform(self._draw(cast.user, 3))
        size = 0.125 + 0.025 * signed(self._draw(cast.user, 4))
        start = Start(
            x=0.5 + 0.15 * signed(self._draw(words, 5)),
            y=0.5
            + 0.62 * (lane + 0.5 - things / 2) / max(things, 2)
            + 0.06 * signed(self._draw(words, 6)),
            size=size * (1 + 0.15 * signed(self._draw(words, 7))),
            angle=0.4 * signed(self._draw(words, 8)),
            tempo=tempo * (steps[:, 0] + 1) / self.frames,
            way=np.where(integers(self._draw(words, 9), 2) == 0, -1.0, 1.0),
        )
        return perform(start, cast.doing[:, k], progress.clip(0, 1))

    def _colours(
        self, cast: Cast, k: int, changed: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Levels of thing k in every frame, uint8 `[n, T, 3]`."""
        now = cast.thing[:, k] % len(COLOURS)
        words = self._draw(cast.own, 200 + k)
        later = (now + 1 + integers(words, len(COLOURS) - 1)) % len(COLOURS)
        gain = np.stack(
            [1 + 0.15 * signed(self._draw(cast.user, 10 + c)) for c in range(3)], axis=1
        )
        mixed = RGB[now][:, None] * (1 - changed[..., None])
        mixed = mixed + RGB[later][:, None] * changed[..., None]
        levels: NDArray[np.uint8] = (
            (mixed * gain[:, None]).clip(2 * LOWEST, HIGHEST).astype(np.uint8)
        )
        return levels

    def _grounds(self, cast: Cast, scene: int) -> NDArray[np.uint8]:
        """The place of a scene; a user knows four, and a cut leads to another."""
        start = integers(self._draw(cast.place, 20), 4)
        step = integers(self._draw(cast.place, 21), 3) + 1
        known = (start + scene * step) % 4
        words = self._draw(cast.user + known.astype(np.uint64), 22)
        levels = [uniform(self._draw(words, 23 + c)) for c in range(3)]
        return self._cameras.places(
            integers(self._draw(words, 26), 64), np.stack(levels, axis=1), 14.0
        )

    def _camera(self, cast: Cast) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the picture lies in its place, in each frame, int64 `[n, T]` twice."""
        margin = self._cameras.margin
        time = np.linspace(-0.5, 0.5, self.frames) if self.frames > 1 else np.zeros(1)
        shaky = integers(self._draw(cast.user, 30), 4) == 0
        out = []
        for axis in range(2):
            drift = 0.45 * margin * signed(self._draw(cast.user, 31 + axis))
            phase = 2 * np.pi * uniform(self._draw(cast.place, 33 + axis))
            where = margin * (0.5 + 0.2 * signed(self._draw(cast.place, 35 + axis)))
            shake = 0.12 * margin * shaky[:, None] * np.sin(40 * time + phase[:, None])
            path = where[:, None] + (drift[:, None] * time + shake) * (not self.steady)
            out.append(np.rint(path).clip(0, margin).astype(np.int64))
        return out[0], out[1]

    def _draw(self, words: NDArray[np.uint64], purpose: int) -> NDArray[np.uint64]:
        return mix_seed(words, self.seed, 5000 + purpose)

    @cached_property
    def _cameras(self) -> Cameras:
        return Cameras(self.side, self.seed)

    @cached_property
    def _sprites(self) -> Sprites:
        return Sprites(self.side)
