"""Aligns the small image and text towers of UniVRD by contrast; writes what is shipped.

    python -m benchmarks.align_univrd

Pictures are generated scenes by public users, whom no training population reaches, and
show training triplets only. Three contrasts: pictures with the phrase of one of their
relations (CLIP, Radford et al. 2021, arXiv:2103.00020), the token at an object's centre
with the object's name (RegionCLIP, Zhong et al. 2022, arXiv:2112.09106), and texts with
what another source would call the same thing.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.arguments import STEPS, positive, whole
from fedemb.heads import unit_rows
from fedemb.pixels import pixels
from model_zoo.text.tokenizer import encode
from model_zoo.univrd.phrases import TEMPLATES, LabelSpace, phrase
from model_zoo.univrd.public import tokenizer
from model_zoo.univrd.systems import TINY
from model_zoo.univrd.towers import DualEncoder, DualShape
from simulations.datasets.relation_scenes import RelationScenes

FIRST_PUBLIC_USER = 1 << 60
FILE = Path(__file__).parents[1] / "model_zoo" / "univrd" / "towers.safetensors"


class Texts:
    """Names and phrases of either source, by what they mean."""

    def __init__(self, space: LabelSpace) -> None:
        self.nouns = [[space.objects[i] for i in s.objects] for s in space.sources[:2]]
        self.verbs = [
            [space.predicates[i] for i in s.predicates] for s in space.sources[:2]
        ]

    def name(self, meaning: int, draw: np.random.Generator, who: int) -> str:
        template = TEMPLATES[draw.integers(len(TEMPLATES))]
        return template.format(self.nouns[who][meaning])

    def phrase(self, s: int, p: int, o: int, who: int) -> str:
        return phrase(self.nouns[who][s], self.verbs[who][p], self.nouns[who][o])


def contrast(first: Tensor, second: Tensor, meanings: list, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy; rows of the same meaning are all right answers."""
    logits = unit_rows(first) @ unit_rows(second).T * scale
    same = torch.tensor([[a == b for b in meanings] for a in meanings]).float()
    same = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same.T)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=whole(STEPS), default=600)
    parser.add_argument(
        "--batch", type=whole(RelationScenes.classes_per_user), default=96
    )
    parser.add_argument("--rate", type=positive, default=2e-3)
    chosen = parser.parse_args()
    data = RelationScenes()
    space = LabelSpace.of(data.vocabularies)
    texts = Texts(space)
    shape = DualShape(side=data.side, **TINY)
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = DualEncoder(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=chosen.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.rate, total_steps=chosen.steps, pct_start=0.1
    )
    users = chosen.batch // data.classes_per_user
    nouns, verbs = len(texts.nouns[0]), len(texts.verbs[0])
    started = time.perf_counter()

    def embed(lines: list[str]) -> Tensor:
        return model.text(
            torch.from_numpy(encode(tokenizer(), lines, shape.text_length))
        )

    for step in range(chosen.steps):
        first = FIRST_PUBLIC_USER + step * users
        fields = data.fetch(np.arange(first, first + users)).fields
        names, relations = fields["object_name"], fields["relations"]
        tokens = model.image(pixels(fields["image"]))
        scale = model.log_scale.exp().clamp(max=100)
        # Regions: the token at each object's centre, and the six meanings.
        picture, place = np.nonzero(names >= 0)
        boxes = fields["boxes"][picture, place]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * shape.grid
        cell = centre.astype(int).clip(0, shape.grid - 1) @ np.array([shape.grid, 1])
        region = model.projection(tokens[picture, 1 + cell])
        meaning = torch.from_numpy(names[picture, place] % nouns)
        bank = [embed([texts.name(i, draw, w) for i in range(nouns)]) for w in (0, 1)]
        loss_region = sum(
            F.cross_entropy(unit_rows(region) @ unit_rows(b).T * scale, meaning)
            for b in bank
        )
        # Pictures with phrases.
        rows = np.flatnonzero(relations[:, 0, 0] >= 0)
        found = relations[rows, draw.integers(0, 2, len(rows))]
        triplets = [
            (int(names[r, s] % nouns), int(p % verbs), int(names[r, o] % nouns))
            for r, (s, p, o) in zip(rows, found, strict=True)
        ]
        who = draw.integers(0, 2, len(rows))
        written = embed(
            [texts.phrase(*t, w) for t, w in zip(triplets, who, strict=True)]
        )
        pictured = model.projection(tokens[rows, 0])
        loss_picture = contrast(pictured, written, triplets, scale)
        # Texts with texts.
        drawn = [tuple(draw.integers(0, (nouns, verbs, nouns))) for _ in range(48)]
        drawn = [tuple(map(int, t)) for t in drawn]
        loss_text = contrast(
            *(embed([texts.phrase(*t, w) for t in drawn]) for w in (0, 1)), drawn, scale
        )
        loss = loss_region + loss_picture + loss_text
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            right = (unit_rows(region) @ unit_rows(bank[0]).T).argmax(1) == meaning
            seconds = time.perf_counter() - started
            parts = (loss_region / 2, loss_picture, loss_text)
            region_loss, picture_loss, text_loss = (float(x.detach()) for x in parts)
            print(
                f"{step + 1}: regions {region_loss:.3f} "
                f"({float(right.float().mean()):.2f} right), pictures "
                f"{picture_loss:.3f}, texts {text_loss:.3f}, {seconds:.0f} s",
                flush=True,
            )
    towers = {
        name: value.detach().half().contiguous()
        for name, value in model.state_dict().items()
        if name.startswith(("image.", "text."))
    }
    save_file(towers, FILE)
    print(f"{FILE}: {sum(v.numel() for v in towers.values()):,} parameters")


if __name__ == "__main__":
    main()
