"""The tokenizer that all text towers share, and what any other one must offer."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError
from model_zoo.text.words import SPACE, merged, words

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
"""Ids of the shipped vocabulary's special pieces."""

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
_REMEMBERED = 65_536  # words; captions repeat theirs without end
_BYTES = tuple(f"<0x{byte:02x}>" for byte in range(256))


class Tokenizer(Protocol):
    """Text to numbers and back; `pad`, `bos` and `eos` are ids below `vocab_size`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def pad(self) -> int:
        """Fills the end of short texts."""
        ...

    @property
    def bos(self) -> int:
        """Begins a text."""
        ...

    @property
    def eos(self) -> int:
        """Ends a text."""
        ...

    def pieces(self, text: str) -> list[int]:
        """Ids of a text of any length, without special ones."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out."""
        ...


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str] | NDArray[np.str_],
    length: int,
    *,
    bos: bool = False,
    eos: bool = True,
) -> NDArray[np.int64]:
    """Texts as ids of fixed length, int64 `[n, length]`.

    Long texts are cut so that the closing id stays; short ones are padded at the end.
    A text depends on no other.

    Raises:
        UserError: no room for a piece of text.

    Example:
        >>> ids = encode(shipped(128), ["a red ball", "a"], 6)
        >>> ids.shape, ids[1].tolist()[1:]
        ((2, 6), [2, 0, 0, 0, 0])
    """
    room = length - bos - eos
    if room < 1:
        raise UserError(f"length={length} leaves no room for text; give at least 3.")
    ids = np.full((len(texts), length), tokenizer.pad, dtype=np.int64)
    known: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        line = known.get(text)
        if line is None:
            line = [tokenizer.bos] * bos + tokenizer.pieces(str(text))[:room]
            known[text] = line = line + [tokenizer.eos] * eos
        ids[row, : len(line)] = line
    return ids


def decode(tokenizer: Tokenizer, ids: NDArray[np.integer]) -> list[str]:
    """Texts of ids `[n, L]`, each up to its first `eos`.

    Example:
        >>> mine = shipped(256)
        >>> decode(mine, encode(mine, ["A red ball, twice"], 32))
        ['a red ball, twice']
    """
    out = []
    for row in ids.tolist():
        end = row.index(tokenizer.eos) if tokenizer.eos in row else len(row)
        out.append(tokenizer.text(row[:end]))
    return out


class BytePair:
    """Byte-pair encoding of lower-case text.

    Pieces are numbered: four special ones, the alphabet, merges in the order in which
    they were learned, and bytes. A character outside the alphabet is spelled in bytes
    where the vocabulary has them, and is `UNKNOWN` otherwise.

    Args:
        alphabet: single characters.
        merges: pairs of pieces, the first applied first.
        with_bytes: whether 256 pieces for bytes follow.

    Example:
        >>> BytePair("▁ab", [("a", "b")]).pieces("ab b")
        [4, 7, 4, 6]
    """

    pad = PAD
    bos = BOS
    eos = EOS

    def __init__(
        self,
        alphabet: str,
        merges: Sequence[tuple[str, str]],
        *,
        with_bytes: bool = False,
    ) -> None:
        pieces = [*_SPECIAL, *alphabet, *map("".join, merges)]
        self._first_byte = len(pieces) if with_bytes else None
        self._names = (*pieces, *(_BYTES if with_bytes else ()))
        self._ids = {name: i for i, name in enumerate(pieces)}
        self._rank = {pair: i for i, pair in enumerate(merges)}
        self._spelled: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._names)

    def pieces(self, text: str) -> list[int]:
        """Ids of a text of any length, without special ones."""
        return [i for word in words(text) for i in self._spell(word)]

    def text(self, ids: Sequence[int]) -> str:
        """The normalised text of ids; unknown characters become U+FFFD."""
        out = bytearray()
        for i in ids:
            if self._first_byte is not None and i >= self._first_byte:
                out.append(i - self._first_byte)
            elif i == UNKNOWN:
                out += "\ufffd".encode()
            elif i >= len(_SPECIAL):
                out += self._names[i].encode()
        return out.decode(errors="replace").replace(SPACE, " ").strip()

    def _spell(self, word: str) -> list[int]:
        known = self._spelled.get(word)
        if known is not None:
            return known
        parts = tuple(word)
        while pairs := self._rank.keys() & set(pairwise(parts)):
            parts = merged(parts, min(pairs, key=self._rank.__getitem__))
        ids = [i for part in parts for i in self._piece(part)]
        if len(self._spelled) < _REMEMBERED:
            self._spelled[word] = ids
        return ids

    def _piece(self, part: str) -> list[int]:
        if part in self._ids:
            return [self._ids[part]]
        if self._first_byte is None:
            return [UNKNOWN]
        return [self._first_byte + byte for byte in part.encode()]


@cache
def shipped(size: int | None = None) -> BytePair:
    """The vocabulary that comes with the zoo, or the beginning of it.

    Trained on captions of the procedural data sets and on titles and keywords of the
    OpenClipart sample by `benchmarks/train_vocabulary.py`. Ids of a smaller vocabulary
    mean the same in a larger one; only the whole one spells every character.

    Args:
        size: number of ids; None is all.

    Raises:
        UserError: fewer ids than characters, or more than there are.

    Example:
        >>> shipped(128).vocab_size, shipped(256).vocab_size, shipped().vocab_size
        (128, 256, 1024)
    """
    file = resources.files("model_zoo.text") / "vocabulary.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    alphabet = record["alphabet"]
    merges = [(first, second) for first, second in record["merges"]]
    least = len(_SPECIAL) + len(alphabet)
    most = least + len(merges) + len(_BYTES)
    if size is None or size == most:
        return BytePair(alphabet, merges, with_bytes=True)
    if not least <= size <= most - len(_BYTES):
        raise UserError(
            f"a vocabulary of {size} is not shipped; choose {least} to "
            f"{most - len(_BYTES)}, or {most}, or load one of your own from a "
            "tokenizer.json or a SentencePiece model."
        )
    return BytePair(alphabet, merges[: size - least])
