"""Long clips in which things act now and then: what temporal localisation looks for."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from simulations.datasets.clip_world.actions import ACTIONS
from simulations.datasets.clip_world.captions import THINGS
from simulations.datasets.clip_world.studio import Cast, Studio
from simulations.datasets.counters import integers, uniform
from simulations.datasets.generated import Fields, Generated
from simulations.datasets.shapes import article

_WAITS = ACTIONS.index("waits")
EVENTS = tuple(action for action in ACTIONS if action != "waits")
"""What is localised; the class of a long clip is its first event."""

_NUMBER = np.array([ACTIONS.index(event) for event in EVENTS])


@dataclass(frozen=True)
class LongClips(Generated):
    """Untrimmed clips of many windows; a thing waits, acts for some windows, and waits.

    The clip is cut into `events` equal parts of windows. In each a thing is on stage,
    and in most it acts, once per window; a bystander may wait all along. Held-out clips
    are of the same classes.

    Fields, with W windows of T frames and E events:

    - `clip` uint8 `[n, W * T, side, side, 3]`; `caption` str `[n]`;
    - `start` and `end` int64 `[n, E]`, first window of each event and first after it,
      -1 where there is none; `event` int64 `[n, E]` into `EVENTS`, likewise;
    - `window_event` int64 `[n, W]`, the event in each window, -1 if none;
    - `label` int64 `[n]`.

    Attributes:
        windows: W, 64 to 128 as in published protocols, at least eight per event.
        frames: T.
        events: E.

    Raises:
        UserError: too few windows or frames.

    Example:
        >>> rows = LongClips(100, windows=16, events=2).fetch(np.array([7])).fields
        >>> rows["clip"].shape, rows["window_event"].shape
        ((2, 128, 32, 32, 3), (2, 16))
    """

    classes_per_user: int = 1
    repeats: int = 2
    windows: int = 64
    frames: int = 8
    events: int = 4

    name: ClassVar[str] = "clips-long"
    description: ClassVar[str] = "untrimmed clips with the start and end of events"
    all_classes: ClassVar[int] = len(EVENTS)
    held_out_repeats: ClassVar[int] = 4
    closed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2 or self.events < 1 or self.windows < 8 * self.events:
            raise UserError(
                f"frames={self.frames}, windows={self.windows}, events={self.events}: "
                "give at least 2 frames, 1 event, and 8 windows per event."
            )

    def class_name(self, kind: int) -> str:
        """`moves left`, say."""
        return EVENTS[kind]

    def render(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        kind: NDArray[np.int64],
    ) -> Fields:
        """The clips, filmed window by window."""
        start, end, event, thing = self._script(own, kind)
        window = np.arange(self.windows)
        part = window * self.events // self.windows  # whose turn it is
        acting = (start[:, part] <= window) & (window < end[:, part])
        now = np.where(acting, event[:, part], -1)
        act = np.where(acting, _NUMBER[event[:, part]], _WAITS)
        clip = self._film(names, own, thing[:, part], act, part)
        return {
            "clip": clip.reshape(len(own), -1, self.side, self.side, 3),
            "caption": self._captions(event, thing),
            "start": start,
            "end": end,
            "event": event,
            "window_event": now,
        }

    def _script(
        self, own: NDArray[np.uint64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ...]:
        """Start, end and kind of each event, and the thing on stage, `[n, E]` each."""
        edges = -(-np.arange(self.events + 1) * self.windows // self.events)
        out = []
        for e in range(self.events):
            words = self.hash(own, 70 + e)
            span = edges[e + 1] - edges[e]
            length = 2 + integers(self.hash(words, 20), span // 2)
            first = integers(self.hash(words, 21), 2**20) % (span - length)
            event = kind if e == 0 else integers(self.hash(words, 22), len(EVENTS))
            none = (uniform(self.hash(words, 23)) < 0.2) & (e > 0)
            start = edges[e] + first
            thing = integers(self.hash(words, 24), len(THINGS))
            rows = [np.where(none, -1, x) for x in (start, start + length, event)]
            out.append([*rows, thing])
        start, end, event, thing = (np.stack(c, axis=1) for c in zip(*out, strict=True))
        return start, end, event, thing

    def _film(
        self,
        names: NDArray[np.uint64],
        own: NDArray[np.uint64],
        thing: NDArray[np.int64],
        act: NDArray[np.int64],
        part: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Windows uint8 `[n * W, T, side, side, 3]`."""
        windows, count = self.windows, len(own) * self.windows
        bystander = integers(self.hash(own, 25), len(THINGS))
        alone = uniform(self.hash(own, 26)) < 0.3
        bystander = np.repeat(np.where(alone, -1, bystander), windows)
        doing = np.zeros((count, 2, len(ACTIONS)), dtype=bool)
        doing[np.arange(count), 0, act.reshape(-1)] = True
        doing[:, 1, _WAITS] = True
        place = np.repeat(own, windows)
        turn = self.hash(own[:, None] + part.astype(np.uint64), 27).reshape(-1)
        cast = Cast(
            user=np.repeat(names, windows),
            place=place,
            own=turn,
            thing=np.stack([thing.reshape(-1), bystander], axis=1),
            doing=doing,
            scene=np.zeros((count, 2), dtype=np.int64),
            cut=np.full(count, self.frames),
        )
        return self._studio.film(cast)[0]

    def _captions(
        self, event: NDArray[np.int64], thing: NDArray[np.int64]
    ) -> NDArray[np.str_]:
        said = [
            ", then ".join(
                f"{article(THINGS[what])} {EVENTS[does]}"
                for what, does in zip(*row, strict=True)
                if does >= 0
            )
            for row in zip(thing.tolist(), event.tolist(), strict=True)
        ]
        return np.array(said)

    @cached_property
    def _studio(self) -> Studio:
        return Studio(self.side, self.frames, self.seed, steady=True)
