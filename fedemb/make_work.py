"""The work of a few virtual clients, made of their data.

`make_work` says which rows each local step reads, renumbers labels and makes the heads
that local training starts from. Everything random in it comes from one seed per virtual
client, so a client's work does not depend on who is trained beside it, on which worker,
or by which engine.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedemb.data import Examples
from fedemb.local import LocalTraining
from fedemb.protocols import EmbeddingTask, Parameters
from fedemb.work import Work

_PUBLIC_SEED = np.uint64(0)


def make_work(
    task: EmbeddingTask,
    recipe: LocalTraining,
    examples: Examples,
    seeds: NDArray[np.uint64],
    dtype: torch.dtype = torch.float32,
    public_head: Parameters | None = None,
    complete: Callable[[Examples], Examples] | None = None,
) -> Work:
    """The work of virtual clients whose rows are the groups of `examples`.

    Args:
        task: what is trained.
        recipe: how.
        examples: one group per virtual client.
        seeds: `[clients]`, all a client's randomness.
        dtype: of floating-point rows.
        public_head: constants that parameters of these names start from, if heads are
            public; the shapes must not depend on a client's classes.
        complete: makes the rows of drafts, of which it gets those that are read.
    """
    rows = schedule(recipe, examples.sizes, seeds)
    rows += (rows >= 0) * examples.offsets[:-1, None, None]
    labels, classes, capacity = _labels(task, examples)
    if labels is not None:
        examples = replace(examples, fields={**examples.fields, "label": labels})
    examples, rows = _only_read(examples, rows)
    if complete is not None:
        examples = complete(examples)
    batch = {
        name: values.to(dtype) if values.is_floating_point() else values
        for name, values in task.prepare(examples, seeds).items()
    }
    template = task.make_head(capacity)
    constants = public_head or {}
    if recipe.head_init == "fresh":
        constants, head_seeds = {}, seeds
    else:
        head_seeds = np.full_like(seeds, _PUBLIC_SEED)
    return Work(
        batch=batch,
        rows=torch.from_numpy(rows),
        classes=torch.from_numpy(classes),
        capacity=capacity,
        head=template,
        heads=_fresh_heads(task, template, classes, head_seeds, dtype, constants),
    )


def schedule(
    recipe: LocalTraining, sizes: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Rows of every step, int64 `[V, S, B]`, counted from the client's first row.

    shuffle, repeat, take, batch: the rows come in a new order in every pass, and a
    batch may straddle two passes.
    """
    reads = [recipe.reads(int(size)) for size in sizes]
    widths = [min(recipe.batch_size, r) for r in reads]
    if recipe.steps is not None:
        widths = [min(recipe.batch_size, int(size)) for size in sizes]
    steps = [-(-r // w) if w else 0 for r, w in zip(reads, widths, strict=True)]
    out = np.full(
        (len(sizes), max(steps, default=0), max(widths, default=0)), -1, np.int64
    )
    for v, (size, read, width) in enumerate(zip(sizes, reads, widths, strict=True)):
        if read == 0:
            continue
        if steps[v] == 1 and read == size:  # one full batch: its order does not matter
            out[v, 0, :size] = np.arange(size)
            continue
        draw = np.random.Generator(np.random.Philox(int(seeds[v])))
        passes = -(-read // int(size))
        order = np.concatenate([draw.permutation(int(size)) for _ in range(passes)])[
            :read
        ]
        padded = np.full(steps[v] * width, -1, np.int64)
        padded[:read] = order
        out[v, : steps[v], :width] = padded.reshape(steps[v], width)
    return out


def _only_read(
    examples: Examples, rows: NDArray[np.int64]
) -> tuple[Examples, NDArray[np.int64]]:
    """The examples that some step reads, and `rows` counted among them.

    A user may own thousands of rows of which a round reads a few; only those are
    prepared.
    """
    read = np.unique(rows[rows >= 0])
    if len(read) == len(examples):
        return examples, rows
    offsets = np.searchsorted(read, examples.offsets)
    found = np.where(rows >= 0, np.searchsorted(read, rows), -1)
    return Examples(examples.take(read), offsets.astype(np.int64)), found


def renumber(
    labels: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels counted 0..K_v-1 within each group, and K_v.

    Example:
        >>> renumber(np.array([7, 3, 7, 9]), np.array([0, 3, 4]))
        (array([1, 0, 1, 0]), array([2, 1]))
    """
    groups = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    span = int(labels.max()) + 1 if len(labels) else 1
    distinct, inverse = np.unique(groups * span + labels, return_inverse=True)
    classes = np.bincount(distinct // span, minlength=len(offsets) - 1)
    first = np.concatenate([[0], np.cumsum(classes)[:-1]])
    return inverse - first[groups], classes


def _labels(
    task: EmbeddingTask, examples: Examples
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], int]:
    """Local labels, classes of each client, and outputs of a head."""
    if task.label_space == "global" or "label" not in examples.fields:
        classes = np.full(examples.num_groups, task.num_classes, np.int64)
        return None, classes, task.num_classes
    labels, classes = renumber(
        examples.fields["label"].astype(np.int64), examples.offsets
    )
    return labels, classes, max(1, int(classes.max(initial=0)))


def _fresh_heads(
    task: EmbeddingTask,
    template: nn.Module,
    classes: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    dtype: torch.dtype,
    constants: Parameters,
) -> Parameters:
    if not any(True for _ in template.parameters()):
        return {}
    generator = torch.Generator()
    known: dict[tuple[int, int], Parameters] = {}  # public heads: one seed for all
    heads = []
    for k, seed in zip(classes.tolist(), seeds.tolist(), strict=True):
        if (k, seed) not in known:
            generator.manual_seed(seed >> 1)
            known[k, seed] = {**task.fresh_head(template, k, generator), **constants}
        heads.append(known[k, seed])
    return {
        name: torch.stack([head[name] for head in heads]).to(dtype) for name in heads[0]
    }
