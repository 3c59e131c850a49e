"""Adapting an encoder to a problem in one of four ways, and scoring it.

Adaptation happens after private training, on public clips: it is post-processing of the
encoder, and its heads are what DP-FedEmb would keep on a virtual client.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.errors import UserError
from model_zoo.video.encoder import VideoEncoder
from model_zoo.videoglue.adapters import with_adapters
from model_zoo.videoglue.costs import Costs, costs_of
from model_zoo.videoglue.problems import Problem, clips_of, spatial_views
from model_zoo.videoglue.questions import (
    boxes_of,
    logits_of,
    loss_of,
    make_head,
    one_of,
    training_targets,
    windows_of,
)
from model_zoo.videoglue.score import Adaptation, Group
from model_zoo.videoglue.scoring import score_answers

_SHORTER = 8  # sequences count as eight clips in a batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How heads and encoders are adapted; the same for every encoder that is compared.

    Attributes:
        steps: of AdamW, with a cosine decay.
        batch_size: clips per step.
        learning_rate: of the head and adapters.
        encoder_rate: of the encoder, end to end.
        weight_decay: of AdamW.
        heads: of the poolers' attention.
        layers: k, the last blocks that multi-layer pooling reads.
        bottleneck: of the adapters.
        longest: windows in the longest stretch of temporal localisation.
        views: crops that scores are averaged over.
        seed: of heads and batches.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 3e-3
    encoder_rate: float = 1e-3
    weight_decay: float = 1e-5
    heads: int = 4
    layers: int = 4
    bottleneck: int = 8
    longest: int = 16
    views: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One encoder, adapted to one problem.

    Attributes:
        score: in percent, by the problem's measure; NaN if its clips hold nothing to
            be found.
        costs: of the adaptation.
    """

    score: float
    costs: Costs

    @property
    def defined(self) -> float | None:
        """The score, or None where it is not defined."""
        return None if math.isnan(self.score) else self.score


def judge(
    encoder: VideoEncoder, problem: Problem, adaptation: Adaptation, recipe: Recipe
) -> Judged:
    """Adapt a copy of `encoder` to `problem` and score it; `encoder` stays as it is.

    Raises:
        UserError: temporal localisation with a tuned encoder, which the protocol does
            not do.
    """
    tuned = adaptation in (Adaptation.ADAPTER, Adaptation.END_TO_END)
    if tuned and problem.group is Group.TEMPORAL:
        raise UserError(f"{problem.name}: encoders are not tuned for {problem.group}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _judge(encoder, problem, adaptation, recipe)


def _judge(
    encoder: VideoEncoder, problem: Problem, adaptation: Adaptation, recipe: Recipe
) -> Judged:
    adapted, own = _adapted(encoder, adaptation, recipe)
    layers = recipe.layers if adaptation is Adaptation.MLAP else 1
    clips = clips_of(problem.train)
    one = clips[:1, 0] if problem.group is Group.TEMPORAL else clips[:1]
    with torch.no_grad():
        widths = [g.shape[-1] for g in adapted.grids(one, layers)]
    layers = len(widths)
    head = make_head(
        problem, widths, adaptation, recipe.heads, clips.shape[1], recipe.longest
    )
    read = _tuned(adapted, layers) if own else _frozen(adapted, layers)
    _fit(problem, read, head, own, recipe)
    head.eval()
    answers = answers_over_views(
        problem, _frozen(adapted, layers), head, clips_of(problem.test), recipe.views
    )
    boxes = boxes_of(problem, slice(0, 1))
    costs = costs_of(
        encoder,
        adapted,
        head,
        one,
        layers,
        lambda grids: logits_of(problem, head, one_of(problem, grids, clips), boxes),
        own,
    )
    found = score_answers(problem, answers, head)
    return Judged(score=100 * found, costs=costs)


Read = Callable[[Tensor], Sequence[Tensor]]


def _adapted(
    encoder: VideoEncoder, adaptation: Adaptation, recipe: Recipe
) -> tuple[VideoEncoder, list[nn.Parameter]]:
    """A copy to adapt, and its parameters that are trained."""
    if adaptation is Adaptation.ADAPTER:
        copied = with_adapters(encoder, recipe.bottleneck)
        own = [p for n, p in copied.named_parameters() if n.startswith("adapters.")]
    else:
        copied = copy.deepcopy(encoder)  # type: ignore[assignment]
        whole = adaptation is Adaptation.END_TO_END
        own = list(copied.parameters()) if whole else []
    copied.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    return copied, own  # type: ignore[return-value]


def _frozen(encoder: VideoEncoder, layers: int) -> Read:
    def read(clips: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return encoder.grids(clips, layers)

    return read


def _tuned(encoder: VideoEncoder, layers: int) -> Read:
    return lambda clips: encoder.grids(clips, layers)


def _fit(
    problem: Problem,
    read: Read,
    head: nn.Module,
    own: Sequence[nn.Parameter],
    recipe: Recipe,
) -> None:
    clips, targets = clips_of(problem.train), training_targets(problem, head)
    cached = None if own else _all_grids(problem, read, clips)
    groups = [{"params": list(head.parameters()), "lr": recipe.learning_rate}]
    if own:
        rate = recipe.encoder_rate
        if sum(p.numel() for p in own) < sum(p.numel() for p in head.parameters()):
            rate = recipe.learning_rate
        groups.append({"params": list(own), "lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    draw = np.random.default_rng(recipe.seed)
    sequences = problem.group is Group.TEMPORAL
    batch = -(-recipe.batch_size // _SHORTER) if sequences else recipe.batch_size
    head.train()
    for step in range(recipe.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay
        count = min(batch, len(clips))
        rows = torch.from_numpy(draw.choice(len(clips), count, replace=False))
        boxes = boxes_of(problem, rows)
        grids = [g[rows] for g in cached] if cached else read(clips[rows])
        loss = loss_of(
            problem, logits_of(problem, head, grids, boxes), targets[rows], boxes
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _all_grids(
    problem: Problem, read: Read, clips: Tensor, block: int = 64
) -> list[Tensor]:
    """Grids of all clips; of sequences, the mean token of every window `[n, L, D]`."""
    flat = clips.flatten(0, 1) if problem.group is Group.TEMPORAL else clips
    parts = [read(flat[i : i + block]) for i in range(0, len(flat), block)]
    grids = [torch.cat(layer) for layer in zip(*parts, strict=True)]
    return windows_of(problem, grids, len(clips))


def answers_over_views(
    problem: Problem, read: Read, head: nn.Module, clips: Tensor, views: int
) -> Tensor:
    """Scores in [0, 1] of the test clips, averaged over crops of each."""
    crops = spatial_views(clips, views)
    return torch.stack([_answers(problem, read, head, crop) for crop in crops]).mean(0)


def _answers(
    problem: Problem, read: Read, head: nn.Module, clips: Tensor, block: int = 64
) -> Tensor:
    """Scores in [0, 1] of all test clips."""
    boxes = None
    if problem.group is Group.SPATIO_TEMPORAL:
        boxes = torch.from_numpy(problem.test.fields["boxes"].astype(np.float32))
    parts = []
    with torch.no_grad():
        for start in range(0, len(clips), block):
            rows = slice(start, start + block)
            grids = _all_grids(problem, read, clips[rows])
            own = None if boxes is None else boxes[rows]
            logits = logits_of(problem, head, grids, own)
            single = problem.group in (Group.APPEARANCE, Group.MOTION)
            parts.append(logits.softmax(-1) if single else logits.sigmoid())
    return torch.cat(parts)
