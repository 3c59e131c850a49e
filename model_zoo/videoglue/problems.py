"""What an encoder is asked: clips with answers, in one of five kinds."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.identity import labels_of
from model_zoo.video.encoder import clip_pixels
from model_zoo.videoglue.score import Group

_FIELDS = {
    Group.APPEARANCE: ("clip", "label"),
    Group.MOTION: ("clip", "label"),
    Group.MULTI_LABEL: ("clip", "events"),
    Group.TEMPORAL: ("clip", "stretches"),
    Group.SPATIO_TEMPORAL: ("clip", "boxes", "actions"),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One data set of the protocol.

    Fields by kind, all with a row per clip:

    - appearance, motion: `clip` `[n, T, H, W, 3]`, `label` int `[n]`;
    - multi-label: `clip`, `events` `[n, classes]`, 1 where a class happens;
    - temporal: `clip` `[n, L, T, H, W, 3]`, L windows in a row; `stretches` `[n, M, 3]`
      as (start, end, class) in windows, padded with -1;
    - spatio-temporal: `clip`; `boxes` `[n, K, 4]` as (ymin, xmin, ymax, xmax) in
      [0, 1], padded with -1; `actions` `[n, K, classes]`, 1 for what a box does.

    Attributes:
        name: of the data set.
        group: its kind.
        classes: of the answer.
        train: clips to adapt on; treated as public.
        test: clips to score on.

    Raises:
        UserError: a field of the kind is missing, or a set is empty.
    """

    name: str
    group: Group
    classes: int
    train: Examples
    test: Examples

    def __post_init__(self) -> None:
        for part in (self.train, self.test):
            missing = [f for f in _FIELDS[self.group] if f not in part.fields]
            if missing or not len(part):
                raise UserError(
                    f"{self.name}: {self.group} needs clips with the fields "
                    f"{', '.join(_FIELDS[self.group])}; "
                    f"{', '.join(missing) or 'clips'} are missing."
                )


def clips_of(examples: Examples) -> Tensor:
    """Clips as an encoder reads them, `[n, 3, T, H, W]` or `[n, L, 3, T, H, W]`."""
    clips = examples.fields["clip"]
    if clips.ndim == 5:
        return clip_pixels(clips)
    flat = clip_pixels(clips.reshape(-1, *clips.shape[2:]))
    found: Tensor = torch.unflatten(flat, 0, clips.shape[:2])
    return found


def targets_of(problem: Problem, examples: Examples) -> Tensor:
    """Answers as a tensor: labels `[n]`, or zeros and ones of the problem's shape."""
    fields = examples.fields
    if problem.group in (Group.APPEARANCE, Group.MOTION):
        return labels_of(examples)
    name = {
        Group.MULTI_LABEL: "events",
        Group.SPATIO_TEMPORAL: "actions",
        Group.TEMPORAL: "stretches",
    }[problem.group]
    return torch.from_numpy(fields[name].astype(np.float32))


def spatial_views(clips: Tensor, views: int) -> Tensor:
    """Square crops spread evenly over the longer side, `[views, n, 3, T, S, S]`.

    Example:
        >>> spatial_views(torch.zeros(2, 3, 8, 16, 32), 3).shape
        torch.Size([3, 2, 3, 8, 16, 16])
    """
    height, width = clips.shape[-2:]
    side = min(height, width)
    spare = max(height, width) - side
    middle = spare // 2
    starts = [round(spare * i / max(views - 1, 1)) for i in range(views)]
    starts = starts if views > 1 else [middle]
    crops = [
        clips[..., s : s + side, :] if height > width else clips[..., s : s + side]
        for s in starts
    ]
    return torch.stack(crops)
