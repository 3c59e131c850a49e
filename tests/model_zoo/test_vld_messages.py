"""What leaves a virtual client that writes captions: one sum, and no text."""

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedemb.clipping import Lattice
from fedemb.cohort import Cohort
from fedemb.local import LocalTraining
from fedemb.parameters import FlatLayout
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from model_zoo import registry
from model_zoo.system import DataFacts
from model_zoo.text.tokenizer import decode, shipped
from simulations.datasets.clips import PlainClips
from simulations.flower.messages import encode_reply

# Federated: in step 3 only tower parameters are in the DP vector; pseudo-caption text
# never appears in messages (payload audit).


def payload(content: RecordDict) -> bytes:
    """Everything that a message holds."""
    parts = []
    for record in content.values():
        for value in record.values():
            whole = value.data if isinstance(record, ArrayRecord) else str(value)
            parts.append(whole if isinstance(whole, bytes) else whole.encode())
    return b"\0".join(parts)


def test_no_caption_appears_in_what_a_worker_sends():
    data = PlainClips(50, classes_per_user=2, repeats=1)
    system = registry.get("video_language_distillation:tiny-beam")
    facts = DataFacts(example_shape=(8, 32, 32, 3), num_classes=data.num_classes)
    stage = system.build(data=facts)[-1]
    torch.manual_seed(0)
    backbone = stage.task.make_backbone()
    layout = FlatLayout.of(backbone, stage.trainable)
    runner = InlineRunner(
        task=stage.task,
        dataset=data,
        backbone=backbone,
        layout=layout,
        recipe=LocalTraining(learning_rate=0.1, batch_size=4, steps=1),
        key=RootKey.from_seed(3),
        engine=EngineChoice(name="shared"),
    )
    theta = layout.flatten(dict(backbone.named_parameters()))
    users = np.array([1, 2, 3, 4])
    cohort = Cohort(np.array([0, 1]), users, np.array([2, 2]))
    found = runner.train(theta, cohort, Lattice(0.1, layout.size), 0)
    reply = encode_reply(found)
    sent = payload(reply)

    rows = data.fetch(users)
    batch = stage.task.prepare(rows.regroup([4]), np.ones(1, np.uint64))
    ids = stage.task.written(backbone, batch).numpy()
    captions = decode(shipped(stage.task.vocab_size), ids)
    assert len(set(captions)) > 1
    texts = [*captions, *rows.fields["caption"].tolist()]
    secrets = [text.encode() for text in texts] + [row.tobytes() for row in ids]
    assert all(len(secret) > 8 for secret in secrets)
    assert not any(secret in sent for secret in secrets)
    # all that is sent of the training is one integer per trained parameter
    assert len(reply["sum"]["total"].numpy()) == layout.size
    assert found.total.any()
    # ... and the audit does find a caption that leaks
    leaky = RecordDict({**reply, "notes": ConfigRecord({"caption": captions[0]})})
    assert secrets[0] in payload(leaky)
