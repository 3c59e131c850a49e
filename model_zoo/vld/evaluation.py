"""What the system is measured by: retrieval, captions, and answers to questions."""

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import device_of
from fedemb.identity import embed_all, labels_of
from fedemb.metrics import identity_metrics
from model_zoo.video.encoder import clip_pixels
from model_zoo.video.retrieval import both_ways, first_of_each
from model_zoo.vld.instructions import PROMPT, SHORT, TEMPORAL, instructions
from model_zoo.vld.language import token_losses
from model_zoo.vld.metrics import choice_accuracy, cider
from model_zoo.vld.network import Captioner, VideoLanguage
from model_zoo.vld.pseudo import best_texts

if TYPE_CHECKING:
    from model_zoo.vld.tasks import VideoLanguageTask

OPTIONS = 5
_CAPTIONED = 128  # clips that are captioned and asked about
_BLOCK = 64


def evaluate(
    task: "VideoLanguageTask", backbone: nn.Module, examples: Examples
) -> dict[str, float]:
    """Zero-shot retrieval both ways, CIDEr of beam-search captions, answers, identity.

    Retrieval is by people's captions, among the first clips of different captions, 256
    at most; captions and answers are of the first 128 of those. Clips without captions
    have identity metrics alone.
    """
    fields = examples.fields
    labels = labels_of(examples)
    embeddings = embed_all(task, backbone, examples)
    metrics = identity_metrics(embeddings, labels)
    if "caption" not in fields:
        return metrics
    captions = fields["caption"].astype(str)
    rows = first_of_each(captions)
    model = cast(VideoLanguage, backbone)
    texts = task.embed_texts(backbone, captions[rows])
    metrics |= both_ways(texts, embeddings[torch.from_numpy(rows)])
    some = rows[:_CAPTIONED]
    clips = fields["clip"][some]
    told = captions[some].tolist()
    written = best_texts(model.captioner, clips, task.beams)
    metrics["cider"] = cider(written, [[caption] for caption in told])
    asked = [PROMPT] * len(told)
    sums, counts = likelihoods(task, model.captioner, clips, asked, told)
    metrics["caption_log_likelihood"] = float(sums.sum() / counts.sum())
    for name, kind in (("short_answer", SHORT), ("before_after", TEMPORAL)):
        metrics |= answers(task, model.captioner, clips, told, kind, name)
    return metrics


def answers(
    task: "VideoLanguageTask",
    captioner: Captioner,
    clips: NDArray[np.generic],
    captions: list[str],
    kind: str,
    name: str,
) -> dict[str, float]:
    """Accuracy among five answers by their likelihood, to questions of one kind.

    Questions and right answers come from captions; wrong ones are right for other
    clips, drawn the same way every time. NaN where there are too few answers.
    """
    asked = [
        (row, one)
        for row, caption in enumerate(captions)
        for one in instructions(caption)
        if one.kind == kind
    ]
    pool = sorted({one.answer for _, one in asked})
    if len(pool) < OPTIONS:
        return {f"{name}_accuracy": math.nan}
    options, right = [], []
    for number, (_, one) in enumerate(asked):
        draw = np.random.default_rng([number, 5])
        wrong = draw.choice([a for a in pool if a != one.answer], OPTIONS - 1, False)
        place = int(draw.integers(OPTIONS))
        options.append([*wrong[:place].tolist(), one.answer, *wrong[place:].tolist()])
        right.append(place)
    rows = np.repeat([row for row, _ in asked], OPTIONS)
    questions = [one.instruction for _, one in asked for _ in range(OPTIONS)]
    said = [answer for each in options for answer in each]
    scores, _ = likelihoods(task, captioner, clips[rows], questions, said)
    found = choice_accuracy(scores.reshape(-1, OPTIONS), torch.tensor(right))
    return {f"{name}_accuracy": found}


def likelihoods(
    task: "VideoLanguageTask",
    captioner: Captioner,
    clips: NDArray[np.generic],
    questions: list[str],
    said: list[str],
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each text, and in how many ids it is written, both `[n]`.

    Args:
        task: encodes the texts.
        captioner: on any device; the result is in main memory.
        clips: `[n, T, H, W, 3]`.
        questions: what is asked about each clip.
        said: the text after each question.
    """
    at = device_of(captioner)
    sums, counts = [], []
    with torch.inference_mode():
        for start in range(0, len(clips), _BLOCK):
            part = slice(start, start + _BLOCK)
            answer = task.ids(said[part]).to(at)
            prompt = task.ids(questions[part]).to(at)
            logits = captioner(clip_pixels(clips[part]).to(at), prompt, answer)
            losses, counted = token_losses(logits, answer)
            sums.append(-(losses * counted).sum(1).cpu())
            counts.append(counted.sum(1).cpu())
    return torch.cat(sums), torch.cat(counts)
