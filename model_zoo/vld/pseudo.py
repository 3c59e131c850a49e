"""Captions written for public clips, as a file with its provenance.

In training, a virtual client's captions are written inside it and kept nowhere. This is
for clips that anybody may caption: what a released captioner writes can be stored,
handed on, and traced to the weights that wrote it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.devices import device_of
from fedemb.errors import UserError
from fedemb.parameters import digest_of
from model_zoo.text.tokenizer import BytePair, decode, encode, shipped
from model_zoo.video.encoder import clip_pixels
from model_zoo.vld.generation import Sampler
from model_zoo.vld.instructions import PROMPT
from model_zoo.vld.network import Captioner

PROMPT_ID = f"{PROMPT} #1"
_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class PseudoCaptions:
    """One line of a file: what a captioner wrote about one clip.

    Attributes:
        video_id: of the clip.
        captions: S of them.
        model_hash: of the weights that wrote them.
        prompt_id: under which instruction.
        seed: of the drawing; None of beam search, which draws nothing.
    """

    video_id: str
    captions: tuple[str, ...]
    model_hash: str
    prompt_id: str
    seed: int | None


def model_hash(model: nn.Module) -> str:
    """A digest of all weights, by name: another checkpoint has another."""
    return digest_of(model.state_dict())[:32]


def captioner_of(backbone: nn.Module) -> Captioner:
    """The part of a backbone that writes.

    Raises:
        UserError: if nothing in it does.
    """
    found = getattr(backbone, "captioner", None)
    if isinstance(found, Captioner):
        return found
    raise UserError(
        f"{type(backbone).__name__} writes no captions; give a run of "
        "video_language_distillation."
    )


def best_texts(
    captioner: Captioner, clips: NDArray[np.generic], beams: int = 4
) -> list[str]:
    """Captions of clips `[n, T, H, W, 3]`, the best of a beam search.

    Raises:
        UserError: as `beam_search` does.
    """
    tokenizer, prompt, at = _asked(captioner)
    written = []
    for start in range(0, len(clips), _BLOCK):
        pixels = clip_pixels(clips[start : start + _BLOCK]).to(at)
        ids = captioner.best(pixels, prompt.expand(len(pixels), -1), beams)
        written += decode(tokenizer, ids.cpu().numpy())
    return written


def best_captions(
    captioner: Captioner,
    clips: NDArray[np.generic],
    video_ids: Sequence[str],
    beams: int = 4,
) -> list[PseudoCaptions]:
    """One caption per clip, the best of a beam search; see `best_texts`."""
    texts = best_texts(captioner, clips, beams)
    return _signed(captioner, video_ids, [[text] for text in texts], None)


def write_captions(
    captioner: Captioner,
    clips: NDArray[np.generic],
    video_ids: Sequence[str],
    *,
    samples: int = 3,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> list[PseudoCaptions]:
    """S captions per clip by nucleus sampling; the same seed writes the same.

    Args:
        captioner: adapted or not.
        clips: `[n, T, H, W, 3]`; nothing else about them is known here.
        video_ids: names of the clips; a clip's captions depend on its name and the
            seed, not on the other clips.
        samples: S.
        seed: of the drawing.
        sampler: how captions are drawn.

    Raises:
        UserError: as many names as clips are needed, and at least one sample.
    """
    if samples < 1 or len(video_ids) != len(clips):
        raise UserError(
            f"samples={samples} must be at least 1, and {len(clips)} clips need as "
            f"many names, not {len(video_ids)}."
        )
    tokenizer, prompt, at = _asked(captioner)
    drawn = captioner.language.shape.length - 1
    written: list[list[str]] = [[] for _ in video_ids]
    for start in range(0, len(clips), _BLOCK):
        names = video_ids[start : start + _BLOCK]
        pixels = clip_pixels(clips[start : start + _BLOCK]).to(at)
        luck = np.stack([_luck(n, seed, samples, drawn) for n in names])
        for s in range(samples):
            ids = captioner.sampled(
                pixels,
                prompt.expand(len(names), -1),
                torch.from_numpy(luck[:, s]).to(at),
                sampler or Sampler(),
            )
            for row, text in enumerate(decode(tokenizer, ids.cpu().numpy())):
                written[start + row].append(text)
    return _signed(captioner, video_ids, written, seed)


def refuse_existing(path: Path) -> None:
    """Refuse to write over a file.

    Raises:
        UserError: if it is there.
    """
    if path.exists():
        raise UserError(f"{path} already exists; choose another name.")


def save_captions(path: Path, rows: Sequence[PseudoCaptions]) -> None:
    """One JSON object per line.

    Raises:
        UserError: if the file is there already.
    """
    refuse_existing(path)
    lines = (json.dumps(asdict(row), sort_keys=True) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def load_captions(path: Path) -> list[PseudoCaptions]:
    """The inverse of `save_captions`.

    Raises:
        UserError: naming the first line that lacks its provenance.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        rows.append(_row(line, f"{path}:{number}"))
    return rows


def _row(line: str, place: str) -> PseudoCaptions:
    try:
        record: Mapping[str, Any] = json.loads(line)
        return PseudoCaptions(**{**record, "captions": tuple(record["captions"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{place} is no pseudo-caption: {error}; a line needs video_id, captions, "
            "model_hash, prompt_id and seed."
        ) from error


def _luck(name: str, seed: int, samples: int, length: int) -> NDArray[np.float32]:
    """Uniform numbers `[S, length]` of one clip."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()[:16]
    draw = np.random.Generator(np.random.Philox(int.from_bytes(digest, "big")))
    return draw.random((samples, length)).astype(np.float32)


def _asked(captioner: Captioner) -> tuple[BytePair, Tensor, torch.device]:
    """The tokenizer, the prompt `[1, P]`, and where both belong."""
    shape = captioner.language.shape
    tokenizer = shipped(shape.vocab_size)
    at = device_of(captioner)
    ids = encode(tokenizer, [PROMPT], shape.length, bos=True)
    return tokenizer, torch.from_numpy(ids).to(at), at


def _signed(
    captioner: Captioner,
    video_ids: Sequence[str],
    written: Sequence[Sequence[str]],
    seed: int | None,
) -> list[PseudoCaptions]:
    digest = model_hash(captioner)
    return [
        PseudoCaptions(
            video_id=name,
            captions=tuple(captions),
            model_hash=digest,
            prompt_id=PROMPT_ID,
            seed=seed,
        )
        for name, captions in zip(video_ids, written, strict=True)
    ]
