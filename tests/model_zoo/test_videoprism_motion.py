"""VideoPrism learns which way things move, by captions first, then from its teacher.

Learning signal: a linear probe on motion direction after stage 2 > after stage 1 >
random init (fixed seeds). At this size stage 1 tells every whole clip's direction, and
stage 2 can only keep that; it is where half of the tokens are hidden, as they are when
it trains, that stage 2 sees more.
"""

import numpy as np
import pytest
import torch
from ordinary_training import train
from sklearn.linear_model import LogisticRegression

from fedemb.data import Examples
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.videoprism.network import begin_distillation
from model_zoo.videoprism.stages import VideoPrismStages

WAYS = {"moves left": (0, -2), "moves right": (0, 2), "rises": (-2, 0), "falls": (2, 0)}
FRAMES, SIDE, THING = 4, 16, 4
BUILD = VideoPrismStages(
    video={
        **{"patch": 4, "places": (FRAMES, 4, 4), "spatial": 1, "temporal": 2},
        **{"heads": 4, "mlp": 64},
    },
    width=32,
    text={
        **{"vocab_size": 256, "length": 8, "layers": 1, "heads": 4, "mlp": 64},
        **{"pool": "mean", "activation": "relu", "norm_eps": 1e-6, "logit_cap": 50.0},
    },
    decoders={"width": 32, "layers": 1, "heads": 4, "mlp": 64},
    contrast={"temperature": 0.2, "dropped": 0.0},
    distillation={"masked": 0.5},
    towers={"auxiliary": 0, "pooler": 1},
)


class Ways:
    """Clips of a square of any colour, from anywhere; captions tell its way alone."""

    num_users = 10**7

    def fetch(self, users):
        clips, captions, labels = [], [], []
        for user in users:
            draw = np.random.default_rng([int(user), 9])
            label = int(draw.integers(len(WAYS)))
            name, way = list(WAYS.items())[label]
            path = np.arange(FRAMES)[:, None] * np.array(way)
            room = SIDE - THING - np.ptp(path, axis=0)
            corners = path - path.min(0) + draw.integers(0, room + 1)
            clip = draw.integers(0, 60, (FRAMES, SIDE, SIDE, 3))
            colour = draw.integers(120, 255, 3)
            for frame, (top, left) in zip(clip, corners, strict=True):
                frame[top : top + THING, left : left + THING] = colour
            clips.append(clip.astype(np.uint8))
            captions.append(f"it {name}")
            labels.append(label)
        fields = {"clip": np.stack(clips), "caption": np.array(captions)}
        fields["label"] = np.array(labels)
        return Examples(fields, np.arange(len(users) + 1))


def probe(video, task, hidden):
    """Accuracy of a linear classifier of mean tokens, of all or of those in sight."""
    data, found = Ways(), []
    for start in (9_000_000, 9_500_000):
        rows = data.fetch(np.arange(start, start + 1000))
        batch = task.prepare(rows.regroup([len(rows)]), np.ones(1, np.uint64))
        with torch.inference_mode():
            seen = batch["seen"] if hidden else None
            tokens = video(batch["clip"], seen=seen).tokens
            if hidden:
                at = batch["visible"][..., None].expand(-1, -1, tokens.shape[-1])
                tokens = torch.gather(tokens, 1, at)
        found.append((tokens.mean(1).numpy(), rows.fields["label"]))
    (learn, labels), (judge, wanted) = found
    middle, scale = learn.mean(0), learn.std(0) + 1e-6
    classifier = LogisticRegression(max_iter=500).fit((learn - middle) / scale, labels)
    return classifier.score((judge - middle) / scale, wanted)


@pytest.mark.slow
def test_both_stages_teach_which_way_things_move():
    facts = DataFacts(example_shape=(FRAMES, SIDE, SIDE, 3), num_classes=len(WAYS))
    first, second = BUILD(data=facts, options=TaskOptions())
    torch.manual_seed(0)
    backbone = first.task.make_backbone()
    student = second.task.make_backbone()

    def both(video):
        return [probe(video, second.task, hidden) for hidden in (False, True)]

    at_first = both(backbone.video)
    train(first.task, backbone, Ways(), steps=500, users=32, rate=3e-3)
    captions = both(backbone.video)
    student.load_state_dict(begin_distillation(backbone.state_dict()))
    train(
        second.task,
        student,
        Ways(),
        steps=200,
        users=32,
        rate=3e-3,
        trainable=second.trainable,
        seed=1,
    )
    distilled = both(student.video)
    assert captions[0] > at_first[0] + 0.3
    assert distilled[0] > captions[0] - 0.05
    assert distilled[1] > captions[1] + 0.05
    assert captions[1] > at_first[1] + 0.05
