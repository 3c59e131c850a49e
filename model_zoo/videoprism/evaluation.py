"""What VideoPrism is measured by: zero-shot, and with the encoder frozen."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedemb.data import Examples
from fedemb.devices import device_of
from fedemb.heads import unit_rows
from fedemb.identity import labels_of
from fedemb.metrics import identity_metrics
from model_zoo.video.retrieval import both_ways, first_of_each
from model_zoo.videoprism.network import VideoText

if TYPE_CHECKING:
    from model_zoo.videoprism.tasks import VideoPrismTask

_BLOCK = 128


def evaluate(
    task: "VideoPrismTask", model: VideoText, examples: Examples
) -> dict[str, float]:
    """Zero-shot retrieval and classification, a frozen probe, and identity metrics.

    Retrieval is among the first clips of different captions, 256 at most. Zero-shot
    classification compares clips with the names of the classes that occur.
    """
    fields = examples.fields
    labels = labels_of(examples)
    tokens, embeddings = _seen(task, model, examples)
    metrics = identity_metrics(embeddings, labels)
    if "caption" in fields:
        captions = fields["caption"].astype(str)
        rows = first_of_each(captions)
        texts = task.embed_texts(model, captions[rows])
        metrics |= both_ways(texts, embeddings[torch.from_numpy(rows)])
    if task.class_names:
        metrics["zero_shot_accuracy"] = zero_shot(task, model, embeddings, labels)
    target = fields["action"][:, 0] if "action" in fields else fields["label"]
    found = probe_accuracy(tokens.numpy(), target.astype(np.int64))
    return metrics | {"probe_accuracy": found}


def zero_shot(
    task: "VideoPrismTask", model: VideoText, embeddings: Tensor, labels: Tensor
) -> float:
    """Share of clips whose own class has the nearest name, among those that occur."""
    kinds, own = np.unique(labels.numpy(), return_inverse=True)
    names = [task.class_names[kind] for kind in kinds.tolist()]
    scores = embeddings @ task.embed_texts(model, names).T
    return float((scores.argmax(1).numpy() == own).mean())


def probe_accuracy(tokens: NDArray[np.floating], target: NDArray[np.int64]) -> float:
    """Accuracy of a linear classifier of frozen mean tokens, learned on half of them.

    The target is what the first thing of a clip does where that is known, and the class
    otherwise. VideoGLUE's attention poolers are in `fedemb evaluate RUN --protocol
    videoglue`.

    Args:
        tokens: `[n, F]`.
        target: int64 `[n]`.
    """
    from sklearn.linear_model import LogisticRegression

    order = np.random.default_rng(0).permutation(len(target))
    learn, judge = order[::2], order[1::2]
    if len(np.unique(target[learn])) < 2:
        return float("nan")
    scale = tokens[learn].std(0) + 1e-6
    values = (tokens - tokens[learn].mean(0)) / scale
    classifier = LogisticRegression(C=0.1, max_iter=200).fit(
        values[learn], target[learn]
    )
    return float(classifier.score(values[judge], target[judge]))


def _seen(
    task: "VideoPrismTask", model: VideoText, examples: Examples
) -> tuple[Tensor, Tensor]:
    """Mean tokens of each frame `[n, T * D]`, and unit-length embeddings `[n, D]`."""
    device = device_of(model)
    means, pooled = [], []
    with torch.inference_mode():
        for start in range(0, len(examples), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(examples)), dtype=np.int64)
            part = examples.only(rows)
            tokens = model.video(task.clips(part).to(device)).tokens
            frames = torch.unflatten(tokens, 1, (task.grid[0], -1)).mean(2)
            means.append(frames.flatten(1).float().cpu())
            pooled.append(unit_rows(model.pool(tokens)).float().cpu())
    return torch.cat(means), torch.cat(pooled)
