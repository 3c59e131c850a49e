"""What the public captioner knows before anything is trained, and what it does not."""

import numpy as np
import torch

from model_zoo import registry
from model_zoo.system import DataFacts
from model_zoo.vld.metrics import cider
from model_zoo.vld.pseudo import best_texts
from simulations.datasets.clips import PlainClips


def test_the_public_model_describes_what_there_is_and_no_motion():
    stages = registry.get("video_language_distillation").build(
        data=DataFacts(example_shape=(8, 32, 32, 3), num_classes=10)
    )
    task = stages[0].task
    torch.manual_seed(0)
    captioner = task.make_backbone().captioner
    whole = PlainClips(100).held_out()
    rows = np.arange(32) * (len(whole) // 32)
    clips = whole.only(rows).fields
    written = best_texts(captioner, clips["clip"], task.beams)
    told = clips["caption"].tolist()
    own = cider(written, [[text] for text in told])
    others = cider(written, [[text] for text in told[1:] + told[:1]])
    assert own > 0.3
    assert own > others
    assert sum(text.count(" and ") == 1 for text in written) > 24
    assert not any("moves" in text or "rises" in text for text in written)
