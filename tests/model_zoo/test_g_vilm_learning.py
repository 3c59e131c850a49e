"""G-ViLM learns to retrieve, to tell pasted from host, and to point."""

import dataclasses

import numpy as np
import pytest
import torch
from ordinary_training import train

from model_zoo.g_vilm.card import GVilmStages
from model_zoo.system import DataFacts, TaskOptions
from simulations.datasets.clips import PlainClips

# Learning: after training, fg/bg accuracy on held-out pasted clips >0.9, zero-shot R@1
# >> chance on synthetic captions, winning-group map overlaps the named object more than
# a random group.

# Wide enough to point as well, which takes `tiny` longer.
WIDER = GVilmStages(
    video={
        **{"tube": (2, 8, 8), "width": 32, "layers": 3, "heads": 4, "mlp": 64},
        **{"groups": 4, "grouping": (2, 3), "shared": 32, "pool": "max"},
    },
    text={
        **{"vocab_size": 256, "length": 16, "width": 32, "layers": 1, "heads": 4},
        **{"mlp": 64, "pool": "mean"},
    },
    task={"temperatures": (0.1, 0.2, 0.2)},
)


def undecided(task, backbone, held_out):
    """The temporal loss of held-out pasted clips; 0 is certainty about every step."""
    task = dataclasses.replace(task, weights=(1.0, 0.0, 0.0))
    batch = task.prepare(held_out, np.ones(1, np.uint64))
    batch["weight"] = torch.ones(len(held_out))
    with torch.no_grad():
        features = task.features(backbone, batch)
        return float(task.loss(task.make_head(1), features, batch))


@pytest.mark.slow
def test_stretches_captions_and_groups_are_found_after_training():
    data = PlainClips(100_000, classes_per_user=2, repeats=1)
    facts = DataFacts(example_shape=(8, 32, 32, 3), num_classes=data.num_classes)
    (stage,) = WIDER(data=facts, options=TaskOptions())
    torch.manual_seed(0)
    backbone = stage.task.make_backbone()
    whole = data.held_out()
    rows = np.arange(0, len(whole), max(len(whole) // 256, 1))[:256]
    held_out = whole.only(rows)
    before = stage.task.evaluate(backbone, held_out)
    unsure = undecided(stage.task, backbone, held_out)
    train(stage.task, backbone, data, steps=250, users=32, rate=3e-3)
    after = stage.task.evaluate(backbone, held_out)
    # Clips of other scenes are so different that an untrained tower tells them
    # apart, too; what training adds is certainty.
    assert after["paste_accuracy"] > 0.9
    assert undecided(stage.task, backbone, held_out) < 0.5 * unsure
    chance = 1 / len(held_out)
    assert before["text_to_video_recall_at_1"] < 5 * chance
    assert after["text_to_video_recall_at_1"] > 10 * chance
    assert before["grounding_precision"] < after["grounding_chance"]
    assert after["grounding_precision"] > 2 * after["grounding_chance"]
