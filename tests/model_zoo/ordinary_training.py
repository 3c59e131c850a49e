"""Training in one place and without privacy: what a loss can teach at all."""

import numpy as np
import torch
from torch import nn

from fedemb.data import UserDataset
from fedemb.parameters import FlatLayout
from fedemb.protocols import EmbeddingTask


def train(
    task: EmbeddingTask,
    backbone: nn.Module,
    data: UserDataset,
    *,
    steps: int,
    users: int,
    rate: float,
    trainable: str = "all",
    seed: int = 0,
) -> tuple[list[float], nn.Module]:
    """So many steps of AdamW, each on the rows of users not seen before.

    Returns:
        The loss of every step, and the head that was trained beside the backbone.
    """
    generator = torch.Generator().manual_seed(seed)
    head = task.make_head(1)
    head.load_state_dict(dict(task.fresh_head(head, 1, generator)))
    own = dict(backbone.named_parameters())
    chosen = [own[name] for name in FlatLayout.of(backbone, trainable).names]
    optimizer = torch.optim.AdamW([*chosen, *head.parameters()], lr=rate)
    losses = []
    for step in range(steps):
        rows = data.fetch(np.arange(step * users, (step + 1) * users) % data.num_users)
        examples = rows.regroup([users])
        batch = task.prepare(examples, np.array([seed + step], np.uint64))
        batch["weight"] = torch.ones(len(examples))
        loss = task.loss(head, task.features(backbone, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, head
