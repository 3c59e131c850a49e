"""ConST-CL learns to find regions again and to tell clips apart."""

import numpy as np
import pytest
import torch
from ordinary_training import train
from torch.nn import functional as F

from model_zoo.const_cl.card import ConstClStages
from model_zoo.const_cl.heads import region_features
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.video.encoder import clip_pixels
from simulations.datasets.clips import PlainClips

# Learning: on synthetic data local matching accuracy (argmax over B's regions of
# z_{A->B} = same object) rises above the raw-feature baseline; global kNN above random
# init. At this size the baseline is that of untrained features: what the decoder
# carries over does not beat the trained features themselves (docs/limits.md).


BUILD = ConstClStages(
    backbone={
        **{"stem": 8, "kernel": (3, 3, 3), "stride": (1, 2, 2), "pool": False},
        **{"blocks": (1, 1, 1), "widths": (4, 8, 16), "temporal": (1, 3, 3)},
        "norm_groups": 4,
    },
    head={
        **{"hidden": 64, "hidden_layers": 1, "embedding": 32, "region": 2},
        **{"context": 3, "layers": 1, "units": 2, "width": 16},
    },
    views={"boxes": 4},
    task={"local_weight": 0.1},
)


def matching(backbone, head, clips, boxes, carried):
    """How often a thing of a clip's first half is found among those of its second.

    Regions are compared as they are, or after the decoder has carried them over.
    """
    half = clips.shape[2] // 2
    with torch.no_grad():
        maps = [
            F.normalize(backbone.maps(part).local, dim=1)
            for part in (clips[:, :, :half], clips[:, :, half:])
        ]
        middle = half // 2
        seen = [boxes[:, middle], boxes[:, half + middle]]
        first, second = (
            region_features(m, b.clamp(0, 1), head.shape.region)
            for m, b in zip(maps, seen, strict=True)
        )
        if carried:
            first = head.reconstructor(first, head.reconstructor.memory(maps[1]))
    scores = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT
    there = ((seen[0][..., 0] >= 0) & (seen[1][..., 0] >= 0)).all(1)
    right = scores.argmax(-1) == torch.arange(scores.shape[-1])
    return float(right[there].float().mean())


def neighbours(backbone, clips):
    """How often the nearest second half to a clip's first half is its own."""
    half = clips.shape[2] // 2
    with torch.no_grad():
        first, second = (
            F.normalize(backbone(part), dim=-1)
            for part in (clips[:, :, :half], clips[:, :, half:])
        )
    nearest = (first @ second.T).argmax(1)
    return float((nearest == torch.arange(len(clips))).float().mean())


@pytest.mark.slow
def test_regions_are_found_again_and_clips_told_apart_after_training():
    data = PlainClips(100_000, classes_per_user=4, repeats=1)
    facts = DataFacts(example_shape=(8, 32, 32, 3), num_classes=data.num_classes)
    (stage,) = BUILD(data=facts, options=TaskOptions())
    torch.manual_seed(0)
    backbone = stage.task.make_backbone()
    whole = data.held_out()
    rows = np.arange(len(whole))[:300]
    held_out = whole.only(rows)
    clips = clip_pixels(held_out.fields["clip"])
    boxes = torch.from_numpy(held_out.fields["boxes"])
    before = neighbours(backbone, clips)
    untrained = matching(backbone, stage.task.make_head(1), clips, boxes, False)
    _, head = train(stage.task, backbone, data, steps=200, users=8, rate=3e-3)
    raw, carried = (matching(backbone, head, clips, boxes, how) for how in (0, 1))
    assert neighbours(backbone, clips) > 1.5 * before
    assert raw > untrained + 0.03
    assert carried > 0.6  # of two things in most clips
