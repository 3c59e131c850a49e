"""VideoPrism learns motion from captions, and more of it from its own teacher."""

import numpy as np
import pytest
import torch
from ordinary_training import train

from fedemb.data import Examples
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.videoprism.card import VideoPrismStages
from model_zoo.videoprism.evaluation import probe_accuracy
from model_zoo.videoprism.network import begin_distillation

# Learning signal: on synthetic moving shapes, stage-2 loss falls and a linear probe on
# motion direction after stage 2 > after stage 1 > random init (fixed seeds).

WAYS = {"moves left": (0, -1), "moves right": (0, 1), "rises": (-1, 0), "falls": (1, 0)}
SIDE, FRAMES = 16, 8


class MovingSquares:
    """Clips of a square of any colour that moves one of four ways, and says so."""

    num_users = 10**6

    def fetch(self, users):
        clips, captions, labels = [], [], []
        for user in users:
            draw = np.random.default_rng([int(user), 8])
            label = int(draw.integers(4))
            way = np.array(list(WAYS.values())[label])
            start = draw.integers(3, SIDE - 7, 2) - 3 * way
            clip = draw.integers(0, 60, (FRAMES, SIDE, SIDE, 3))
            colour = draw.integers(120, 255, 3)
            for frame in range(FRAMES):
                top, left = np.clip(start + frame * way, 0, SIDE - 4)
                clip[frame, top : top + 4, left : left + 4] = colour
            clips.append(clip.astype(np.uint8))
            captions.append(f"a square {list(WAYS)[label]}")
            labels.append(label)
        fields = {
            "clip": np.stack(clips),
            "caption": np.array(captions),
            "label": np.array(labels),
        }
        return Examples(fields, np.arange(len(users) + 1))


def probe(task, backbone, held_out):
    """Accuracy of a linear classifier of the mean token: which way it goes."""
    with torch.inference_mode():
        tokens = backbone.video(task.clips(held_out)).tokens.mean(1).numpy()
    return probe_accuracy(tokens, held_out.fields["label"])


@pytest.mark.slow
def test_a_probe_of_motion_gains_from_both_stages():
    build = VideoPrismStages(
        video={
            **{"patch": 4, "places": (FRAMES, 4, 4), "spatial": 2, "temporal": 2},
            **{"heads": 4, "mlp": 64},
        },
        width=32,
        text={
            **{"vocab_size": 256, "length": 16, "layers": 1, "heads": 4, "mlp": 64},
            **{"pool": "mean", "activation": "relu", "norm_eps": 1e-6},
            "logit_cap": 50.0,
        },
        decoders={"width": 32, "layers": 2, "heads": 4, "mlp": 64},
        contrast={"temperature": 0.2},
        towers={"auxiliary": 1, "pooler": 1},
    )
    facts = DataFacts(example_shape=(FRAMES, SIDE, SIDE, 3), num_classes=4)
    first, second = build(data=facts, options=TaskOptions())[:2]
    data = MovingSquares()
    held_out = data.fetch(np.arange(10**7, 10**7 + 800))
    torch.manual_seed(0)
    backbone = first.task.make_backbone()
    scores = [probe(first.task, backbone, held_out)]
    told, _ = train(first.task, backbone, data, steps=150, users=32, rate=2e-3)
    scores.append(probe(first.task, backbone, held_out))
    student = second.task.make_backbone()
    student.load_state_dict(begin_distillation(backbone.state_dict()))
    losses, _ = train(
        second.task,
        student,
        data,
        steps=200,
        users=32,
        rate=1e-3,
        trainable=second.trainable,
        seed=1,
    )
    scores.append(probe(second.task, student, held_out))
    print(scores, told[::15], losses[::20])
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    assert scores[0] < scores[1] < scores[2]
