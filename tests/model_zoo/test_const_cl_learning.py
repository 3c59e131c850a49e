"""ConST-CL learns to find regions again and to tell clips apart."""

import numpy as np
import pytest
import torch
from ordinary_training import train
from torch.nn import functional as F

from model_zoo.const_cl.card import ConstClStages
from model_zoo.const_cl.matching import carried_over
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.video.encoder import clip_pixels
from simulations.datasets.clips import LitClips, PlainClips

# Learning: on synthetic data local matching accuracy (argmax over B's regions of
# z_{A->B} = same object) rises above the raw-feature baseline; global kNN above random
# init. The baseline is that of untrained features: what the decoder carries over does
# not beat the trained features themselves (docs/limits.md).


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


def matching(backbone, decoder, held_out, frames, cells):
    """Regions matched as they are, and after the decoder has carried them over."""
    backbone.decoder = decoder
    fields = held_out.fields
    found = carried_over(backbone, fields["clip"], fields["boxes"], frames, cells)
    backbone.decoder = None
    return found["view_matching"], found["carried_matching"]


def prepared(build, data):
    """Task and new backbone for clips of 8 frames, and 300 held-out clips."""
    facts = DataFacts(example_shape=(8, 32, 32, 3), num_classes=data.num_classes)
    (stage,) = build(data=facts, options=TaskOptions())
    torch.manual_seed(0)
    whole = data.held_out()
    rows = np.arange(300) * len(whole) // 300
    return stage.task, stage.task.make_backbone(), whole.only(rows)


LIT = ConstClStages(
    backbone={
        **{"stem": 16, "kernel": (3, 7, 7), "stride": (1, 2, 2), "pool": False},
        **{"blocks": (1, 1), "widths": (8, 16), "temporal": (3, 3), "norm_groups": 4},
    },
    head={
        **{"hidden": 128, "hidden_layers": 2, "embedding": 32, "region": 2},
        **{"context": 3, "layers": 2, "units": 2, "width": 32},
    },
    views={"boxes": 4, "regions": "things", "light": 0.0, "least_area": 1.0},
    task={"local_weight": 1.0, "temperatures": (0.1, 0.1)},
)


def test_carried_regions_match_better_than_untrained_ones_once_both_losses_taught():
    data = LitClips(100_000, classes_per_user=4, repeats=1)
    task, backbone, held_out = prepared(LIT, data)
    clips = clip_pixels(held_out.fields["clip"])
    before = neighbours(backbone, clips)
    raw, _ = matching(backbone, task.make_head(1).reconstructor, held_out, 4, 2)
    # 16 clips a step, on one stage for all of them.
    _, head = train(task, backbone, data, steps=120, users=4, rate=2e-3)
    trained, carried = matching(backbone, head.reconstructor, held_out, 4, 2)
    assert neighbours(backbone, clips) > 1.5 * before
    assert trained > raw + 0.05
    assert carried > raw + 0.05
    # Trained features alone are not enough: a decoder that learned nothing loses them.
    other = task.fresh_head(head, 1, torch.Generator().manual_seed(1))
    head.load_state_dict(dict(other))
    _, random = matching(backbone, head.reconstructor, held_out, 4, 2)
    assert random < raw - 0.05


@pytest.mark.slow
def test_regions_are_found_again_and_clips_told_apart_after_training():
    data = PlainClips(100_000, classes_per_user=4, repeats=1)
    task, backbone, held_out = prepared(BUILD, data)
    clips = clip_pixels(held_out.fields["clip"])
    before = neighbours(backbone, clips)
    untrained, _ = matching(backbone, task.make_head(1).reconstructor, held_out, 4, 2)
    _, head = train(task, backbone, data, steps=200, users=8, rate=3e-3)
    raw, carried = matching(backbone, head.reconstructor, held_out, 4, 2)
    assert neighbours(backbone, clips) > 1.5 * before
    assert raw > untrained + 0.03
    assert carried > 0.6  # of two things in most clips
