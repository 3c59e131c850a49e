"""VideoPrism learns: captions find clips, and a student foretells its teacher."""

import numpy as np
import pytest
import torch
from ordinary_training import train

from fedemb.data import Examples
from model_zoo.system import DataFacts, TaskOptions
from model_zoo.video.retrieval import retrieval_metrics
from model_zoo.videoprism.network import begin_distillation
from model_zoo.videoprism.stages import VideoPrismStages

# Learning signal: on synthetic moving shapes, stage-2 loss falls. What a linear probe
# on motion direction gains from both stages is in test_videoprism_motion.py.

WAYS = {"moves left": (0, -1), "moves right": (0, 1), "rises": (-1, 0), "falls": (1, 0)}
COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 220, 40),
    "blue": (40, 60, 240),
    "yellow": (230, 220, 40),
    "purple": (180, 40, 200),
    "white": (240, 240, 240),
}
SIDE, FRAMES = 16, 8


class MovingSquares:
    """Clips of a square of six colours that moves one of four ways, and say so."""

    num_users = 10**6

    def fetch(self, users):
        clips, captions, labels = [], [], []
        for user in users:
            draw = np.random.default_rng([int(user), 8])
            colour, label = draw.choice(list(COLOURS)), int(draw.integers(4))
            way = np.array(list(WAYS.values())[label])
            start = draw.integers(3, SIDE - 7, 2) - 3 * way
            clip = draw.integers(0, 60, (FRAMES, SIDE, SIDE, 3))
            for frame in range(FRAMES):
                top, left = np.clip(start + frame * way, 0, SIDE - 4)
                clip[frame, top : top + 4, left : left + 4] = COLOURS[colour]
            clips.append(clip.astype(np.uint8))
            captions.append(f"a {colour} square {list(WAYS)[label]}")
            labels.append(label)
        fields = {
            "clip": np.stack(clips),
            "caption": np.array(captions),
            "label": np.array(labels),
        }
        return Examples(fields, np.arange(len(users) + 1))


def median_rank(task, backbone, clips):
    """Of the right clip, asked for by its caption, among one clip of every caption."""
    with torch.inference_mode():
        texts = backbone.read(task.ids(clips.fields["caption"]))
        seen = backbone.see(task.clips(clips))
    return retrieval_metrics(texts, seen, "text")["text_median_rank"]


@pytest.mark.slow
def test_captions_find_their_clips_and_the_student_foretells_its_teacher():
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
        contrast={"temperature": 0.5},
        towers={"auxiliary": 1, "pooler": 1},
    )
    facts = DataFacts(example_shape=(FRAMES, SIDE, SIDE, 3), num_classes=4)
    first, second = build(data=facts, options=TaskOptions())[:2]
    data = MovingSquares()
    held_out = data.fetch(np.arange(10**7, 10**7 + 400))
    _, rows = np.unique(held_out.fields["caption"], return_index=True)
    assert len(rows) == len(COLOURS) * len(WAYS)
    asked = held_out.only(rows)
    torch.manual_seed(0)
    backbone = first.task.make_backbone()
    before = median_rank(first.task, backbone, asked)
    train(first.task, backbone, data, steps=120, users=32, rate=3e-3)
    after = median_rank(first.task, backbone, asked)
    assert before > len(rows) / 3
    assert after <= len(WAYS)  # the colour is known

    student = second.task.make_backbone()
    student.load_state_dict(begin_distillation(backbone.state_dict()))
    with torch.no_grad():
        whole = student.teach(second.task.clips(asked))[1]
    assert torch.pdist(whole).mean() > 0.1 * whole.norm(dim=1).mean()  # not all alike
    losses, _ = train(
        second.task,
        student,
        data,
        steps=100,
        users=32,
        rate=1e-3,
        trainable=second.trainable,
        seed=1,
    )
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
