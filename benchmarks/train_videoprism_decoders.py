"""Train the decoders that come with `videoprism:tiny` on generated public clips.

    python -m benchmarks.train_videoprism_decoders \\
        --out model_zoo/videoprism/decoders.safetensors

Several first stages are trained centrally, of other initial values each, because the
private one is known to nobody yet. Decoders then learn to tell what any of them sees in
a whole clip from what it makes of the masked one; a student begins as its teacher, and
stands still here. One more first stage, which the decoders never met, judges them. All
clips are those of a seed that no run uses by default. Takes about five minutes of one
core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.arguments import STEPS, whole
from fedemb.data import Examples
from fedemb.local import LocalModel
from fedemb.protocols import Batch, EmbeddingTask
from simulations.assembly import Assembly, assemble, layered, make_backbone
from simulations.central import CentralTraining, train_centrally
from simulations.pretraining import PUBLIC_SEED

RATE = 3e-3
FIRST, SECOND = 0, 1  # stages
JUDGE = 9_000  # the seed of the first stage that decoders never meet


def assembly_of(seed: int, users: int) -> Assembly:
    return assemble(
        layered(
            None,
            "videoprism:tiny",
            None,
            {
                "data": {"seed": PUBLIC_SEED, "users": users},
                "privacy": {"noise_multiplier": 0.0},
                "run": {"seed": seed},
            },
        )
    )


def student(seed: int, users: int, steps: int) -> nn.Module:
    """A student as the second stage begins: what the first one has learned, twice."""
    assembly = assembly_of(seed, users)
    backbone = make_backbone(assembly, FIRST)
    recipe = CentralTraining(steps=steps, batch_users=16, learning_rate=RATE, seed=seed)
    found = train_centrally(assembly, FIRST, backbone, recipe, steps)
    print(f"first stage {seed}: {found.first:.3f} to {found.last:.3f}", flush=True)
    return make_backbone(assembly, SECOND, backbone.state_dict())


def batch_of(task: EmbeddingTask, examples: Examples, seed: int) -> Batch:
    own = examples.regroup([examples.num_groups])
    batch = task.prepare(own, np.array([seed], np.uint64))
    return {**batch, "weight": torch.ones(len(own)), "classes": torch.tensor(1)}


def decoders(
    assembly: Assembly, students: list[nn.Module], steps: int, judge: nn.Module
) -> dict[str, Tensor]:
    task, dataset = assembly.stages[SECOND].task, assembly.dataset
    head = task.make_head(1)
    fresh = task.fresh_head(head, 1, torch.Generator().manual_seed(0))
    head.load_state_dict(dict(fresh))
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, steps, pct_start=0.1
    )
    draw = np.random.default_rng(0)

    def loss(model: nn.Module, step: int) -> Tensor:
        users = draw.choice(dataset.num_users, 8, replace=False)
        batch = batch_of(task, dataset.fetch(users), step)
        value: Tensor = LocalModel(task, model.requires_grad_(False), head)(batch)
        return value

    for step in range(steps):
        value = loss(students[step % len(students)], step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            with torch.no_grad():
                other = loss(judge, step).item()
            shown = f"{value.item():.3f}, of an unknown first stage {other:.3f}"
            print(f"decoders {step + 1}: {shown}", flush=True)
    return {name: p.detach() for name, p in head.named_parameters()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=whole(16), default=4000)
    parser.add_argument("--teachers", type=whole(1), default=4)
    parser.add_argument("--first", type=whole(1), default=60, help="steps of each")
    parser.add_argument("--steps", type=whole(STEPS), default=600, help="of decoders")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [JUDGE, *range(JUDGE + 1, JUDGE + 1 + options.teachers)]
    judge, *students = [student(s, options.users, options.first) for s in seeds]
    made = assembly_of(JUDGE, options.users)
    found = decoders(made, students, options.steps, judge)
    state = {name: value.half().contiguous() for name, value in found.items()}
    about = {"seed": str(PUBLIC_SEED), "dataset": made.dataset.provenance.name}
    save_file(state, options.out, about)


if __name__ == "__main__":
    main()
