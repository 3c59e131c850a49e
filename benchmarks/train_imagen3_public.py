"""Train the toy autoencoder, text encoder and eye that come with `imagen3`.

    python -m benchmarks.train_imagen3_public --out model_zoo/imagen3/public.safetensors

They learn from generated scenes and stills of a seed that no run uses by default, so
they are public: what a run trains on later never touched them. Takes about five minutes
of one core.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.arguments import STEPS, whole
from model_zoo.imagen3.public import PublicModels, PublicShape
from simulations.datasets.clips import Stills
from simulations.datasets.scenes import Scenes

State: TypeAlias = dict[str, Tensor]
SEED = 2_008_070_09
SIDE = 32


def pairs(users: int) -> tuple[Tensor, list[list[str]]]:
    """Pictures in [-1, 1] and two captions of each."""
    scenes = Scenes(users, SEED, SIDE, repeats=1, classes_per_user=16)
    stills = Stills(users, SEED, SIDE)
    few = np.arange(users)
    one, two = scenes.fetch(few).fields, stills.fetch(few[: users // 8]).fields
    clip = np.asarray(two["image" if "image" in two else "clip"])
    clip = clip.reshape(len(clip), SIDE, SIDE, 3)
    images = np.concatenate([one["image"], clip])
    short = [*one["caption"], *two["caption"]]
    long = [*one["caption_long"], *two["caption"]]
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 128 - 1
    return values, [[str(t) for t in short], [str(t) for t in long]]


def train(
    module: nn.Module, steps: int, rate: float, loss: Callable[[], Tensor]
) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps, pct_start=0.1
    )
    began = time.process_time()
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            spent = time.process_time() - began
            name = type(module).__name__
            print(f"{name} {step + 1} {value.item():.4f} {spent:.0f} s", flush=True)


def autoencoder(users: int, steps: int) -> State:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, _ = pairs(users)
    model = PublicModels(PublicShape()).autoencoder

    def loss() -> Tensor:
        taken = images[torch.randint(len(images), (64,))]
        noise = torch.randn(64, model.shape.latents, SIDE // 4, SIDE // 4)
        return model.loss(taken, noise, squared=3.0)

    train(model, steps, 4e-3, loss)
    model.standardise(images[:2048])
    with torch.no_grad():
        held = images[:512]
        error = functional.mse_loss(model.decode(model.encode(held)), held)
    print(f"reconstruction error / variance: {error / held.var():.3f}", flush=True)
    return {f"autoencoder.{name}": v for name, v in model.state_dict().items()}


def towers(users: int, steps: int) -> State:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    images, captions = pairs(users)
    models = PublicModels(PublicShape())
    sharpness = nn.Parameter(torch.tensor(2.7))
    module = nn.ModuleList([models.text, models.eye, models.project])
    module.register_parameter("sharpness", sharpness)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (96,)).tolist()
        style = captions[int(torch.rand(()) < 0.25)]
        texts = [style[row] for row in rows]
        words, seen = models.words(texts).vector, models.look(images[rows])
        goal = torch.from_numpy(np.asarray(texts)[:, None] == np.asarray(texts))
        goal = goal / goal.sum(1, keepdim=True)
        logits = seen @ words.T * sharpness.exp().clamp(max=50)
        forth = functional.cross_entropy(logits, goal)
        return (forth + functional.cross_entropy(logits.T, goal)) / 2

    train(module, steps, 7e-4, loss)
    state = models.state_dict()
    return {k: v for k, v in state.items() if not k.startswith("autoencoder.")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=whole(8), default=900)
    parser.add_argument("--steps", type=whole(STEPS), default=2500)
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        asked = options.users, options.steps
        parts = [pool.submit(part, *asked) for part in (autoencoder, towers)]
        state = {k: v for part in parts for k, v in part.result().items()}
    state = {name: value.half().contiguous() for name, value in state.items()}
    save_file(state, options.out, {"seed": str(SEED), "side": str(SIDE)})


if __name__ == "__main__":
    main()
