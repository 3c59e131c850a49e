"""Trains the public image-language model that video-language distillation starts from.

    python -m benchmarks.pretrain_vld

Two public lessons: captions of generated still pictures, which hold no verbs, and texts
about generated clips with words left out, to be written in full (the denoising of T5
and UL2, Raffel et al. 2020, arXiv:1910.10683; Tay et al. 2022, arXiv:2205.05131). No
clip is ever seen. Users are numbered beyond any population. Deterministic on one
thread; a few minutes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.arguments import STEPS, positive, whole
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.video.encoder import clip_pixels
from model_zoo.vld.card import VIDEO_LANGUAGE_DISTILLATION
from model_zoo.vld.instructions import PROMPT
from model_zoo.vld.language import answer_loss
from model_zoo.vld.network import Captioner
from simulations.datasets.clips import PlainClips, Stills

FIRST_PUBLIC_USER = 1 << 60
FILE = Path(__file__).parents[1] / "model_zoo" / "vld" / "captioner.safetensors"
LEFT_OUT = 0.3  # of the words of a text


def fields_of(kind: type[PlainClips], count: int) -> dict[str, np.ndarray]:
    """One still picture and its caption by each of `count` public users."""
    data = kind(count, frames=1, classes_per_user=1, repeats=1)
    users = np.arange(FIRST_PUBLIC_USER, FIRST_PUBLIC_USER + count)
    return dict(data.fetch(users).fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=whole(STEPS), default=6000)
    parser.add_argument("--batch", type=whole(1), default=64)
    parser.add_argument("--rate", type=positive, default=4e-3)
    parser.add_argument("--pictures", type=whole(4), default=24_000)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    configuration = VIDEO_LANGUAGE_DISTILLATION.configuration("tiny-original")
    task = configuration.build(data=configuration.data, options=configuration.options)[
        0
    ].task
    model = Captioner(task.backbone.args[0])
    length, tokenizer = task.length, shipped(task.vocab_size)
    stills = fields_of(Stills, chosen.pictures)
    texts = fields_of(PlainClips, chosen.pictures // 4)["caption"].tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.rate, total_steps=chosen.steps, pct_start=0.1
    )

    def ids(lines: list[str]) -> Tensor:
        return torch.from_numpy(encode(tokenizer, lines, length, bos=True))

    ones = torch.ones(chosen.batch)
    prompt = ids([PROMPT]).expand(chosen.batch, -1)
    frames = model.visual.frames.table
    started = time.perf_counter()
    for step in range(chosen.steps):
        rows = draw.integers(len(stills["clip"]), size=chosen.batch)
        pictures = clip_pixels(stills["clip"][rows])[:, :, 0]
        # A picture may stand at any time of a clip: no place in time means anything.
        when = torch.from_numpy(draw.integers(frames.num_embeddings, size=len(rows)))
        tokens = (model.visual.vit(pictures) + frames(when)[:, None])[:, None]
        answer = ids(stills["caption"][rows].tolist())
        memory = model.language.encode(model.visual.resample(tokens), prompt)
        seen = answer_loss(model.language.decode(memory, answer[:, :-1]), answer, ones)
        complete = [texts[i] for i in draw.integers(len(texts), size=chosen.batch)]
        left = [
            " ".join(w for w in text.split() if draw.random() >= LEFT_OUT)
            for text in complete
        ]
        answer = ids(complete)
        nothing = torch.zeros(chosen.batch, 0, model.language.shape.width)
        memory = model.language.encode(nothing, ids(left))
        read = answer_loss(model.language.decode(memory, answer[:, :-1]), answer, ones)
        optimizer.zero_grad()
        (seen + read).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(
                f"{step + 1}: pictures {float(seen.detach()):.3f}, texts "
                f"{float(read.detach()):.3f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    state = {
        f"captioner.{name}": value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, FILE)


if __name__ == "__main__":
    main()
