"""Trains the vocabulary that the zoo ships; run it after captions have new words.

    python -m benchmarks.train_vocabulary

Nine of ten words come from captions of the procedural data sets, so that the small
vocabularies (128 and 256 pieces) spend their pieces there; the rest are titles and
keywords of the OpenClipart sample, which brings in common English.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from model_zoo.text.words import SPACE, learn_merges, words
from simulations.datasets import load

SIZE = 1024
ALPHABET = SPACE + "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-:()"
SPECIAL_AND_BYTES = 4 + 256
WORLD_SHARE = 0.9
WORDS = 1_000_000
INSTRUCTIONS = (
    "a video of a",
    "a photo of a",
    "describe the video in detail.",
    "what happens first?",
    "what happens then?",
    "what does it do before the cut?",
    "what does it do after the cut?",
    "which direction does it move?",
    "why does it leave?",
    "because it moves left.",
    "yes no left right up down",
)


def world_captions() -> Iterable[str]:
    """Captions of every procedural data set that has them."""
    for name, users in (("clips", 300), ("scenes", 300), ("clips-stills", 50)):
        fields = load(name, users=users).fetch(np.arange(users)).fields
        for field in ("caption", "caption_long"):
            yield from map(str, fields.get(field, ()))


def counted(texts: Iterable[str]) -> Counter[str]:
    """Words that consist of the alphabet only, and how often each occurs."""
    counts = Counter(word for text in texts for word in words(text))
    return Counter({w: n for w, n in counts.items() if set(w) <= set(ALPHABET)})


def train() -> list[tuple[str, str]]:
    """The merges of the shipped vocabulary."""
    worlds = counted(world_captions()) + counted(INSTRUCTIONS * 500)
    titles = load("openclipart").examples.fields["caption"]
    drawings = counted(map(str, titles))
    counts: Counter[str] = Counter()
    for share, part in ((WORLD_SHARE, worlds), (1 - WORLD_SHARE, drawings)):
        scale = share * WORDS / part.total()
        counts.update({word: round(n * scale) for word, n in part.items()})
    return learn_merges(counts, SIZE - SPECIAL_AND_BYTES - len(ALPHABET))


def main() -> None:
    merges = train()
    file = Path(__file__).parents[1] / "model_zoo" / "text" / "vocabulary.json"
    lines = ",\n    ".join(json.dumps(pair, ensure_ascii=False) for pair in merges)
    alphabet = json.dumps(ALPHABET, ensure_ascii=False)
    file.write_text(
        f'{{\n  "alphabet": {alphabet},\n  "merges": [\n    {lines}\n  ]\n}}\n',
        encoding="utf-8",
    )
    print(f"{file}: {len(merges)} merges")


if __name__ == "__main__":
    main()
