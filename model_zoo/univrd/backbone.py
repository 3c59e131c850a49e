"""The whole system as one backbone: towers, token heads and relationship decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedemb.heads import unit_rows
from model_zoo.text.tokenizer import Tokenizer, encode
from model_zoo.text.transformer import TextTower
from model_zoo.univrd.decoder import RelationDecoder
from model_zoo.univrd.heads import BoxHead
from model_zoo.univrd.phrases import LabelSpace
from model_zoo.univrd.towers import DualShape, ImageTower

_BLOCK = 256  # texts embedded at a time


@dataclass(frozen=True)
class Instances:
    """What the detector says: one of each for every token.

    Attributes:
        tokens: Z `[B, N, d]`.
        boxes: (cx, cy, w, h) in [0, 1], `[B, N, 4]`.
        classes: class embeddings `[B, N, e]`.
    """

    tokens: Tensor
    boxes: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Relations:
    """What the decoder says: one of each for every relation query.

    Attributes:
        classes: relation embeddings `[B, M, e]`.
        subjects: pointers `[B, M, d]`; the subject is the token of largest cosine.
        objects: likewise.
    """

    classes: Tensor
    subjects: Tensor
    objects: Tensor


class UniVRD(nn.Module):
    """Pictures `[B, 3, H, W]` to instances and relations, and names to text embeddings.

    The text tower is frozen and public. What it says of all names and phrases is kept
    in two banks, which are computed anew whenever weights are loaded; they are no part
    of the state, and never aggregated. Training compares with texts of the banks only;
    any other text can be embedded with `embed_texts` and scored in the same way.

    Args:
        shape: of the towers.
        space: names and phrases of the banks.
        tokenizer: reads them.
        templates: prompts of names; each name has one embedding per prompt.
        queries: M, relation queries.
        decoder_layers: of the decoder.
        bare_phrases: relations are asked for by their three names alone.
        learned: the banks do not come from the text tower but are vectors that are
            learned and aggregated, one per name and phrase, as numbers of classes are.
    """

    object_bank: Tensor
    relation_bank: Tensor

    def __init__(
        self,
        shape: DualShape,
        space: LabelSpace,
        tokenizer: Tokenizer,
        templates: tuple[str, ...],
        *,
        queries: int,
        decoder_layers: int,
        bare_phrases: bool = False,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.image = ImageTower(shape)
        self.merged_norm = nn.LayerNorm(shape.width)
        self.class_head = nn.Linear(shape.width, shape.embedding_dim)
        self.box_head = BoxHead(shape.width, (shape.grid, shape.grid))
        self.decoder = RelationDecoder(
            shape.width,
            shape.embedding_dim,
            queries=queries,
            layers=decoder_layers,
            heads=shape.heads,
        )
        self.text = TextTower(shape.text())
        self._tokenizer, self._length = tokenizer, shape.text_length
        self._prompts = space.prompts(templates)
        self._phrases = space.phrases(bare=bare_phrases)
        self._templates = len(templates)
        self._learned = learned
        if learned:
            for name, count in (
                ("object_bank", (len(self._prompts), 1)),
                ("relation_bank", (len(self._phrases),)),
            ):
                vectors = unit_rows(torch.randn(*count, shape.embedding_dim))
                self.register_parameter(name, nn.Parameter(vectors))
            return
        for name in ("object_bank", "relation_bank"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.refresh_banks()
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    def refresh_banks(self) -> None:
        """Embed all names `[names, templates, e]` and phrases `[R, e]`, unit length."""
        names = self.embed_texts(self._prompts)
        self.object_bank = torch.unflatten(names, 0, (-1, self._templates))
        self.relation_bank = self.embed_texts(self._phrases)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit-length embeddings `[n, e]` of any texts; without gradient."""
        device = self.text.token.weight.device
        ids = torch.from_numpy(encode(self._tokenizer, texts, self._length)).to(device)
        with torch.no_grad():
            starts = range(0, len(ids), _BLOCK)
            parts = [self.text(ids[i : i + _BLOCK]) for i in starts]
        return unit_rows(torch.cat(parts))

    def detect(self, images: Tensor) -> Instances:
        """Pictures -> instances: token <- LayerNorm(token * class token)."""
        tokens = self.image(images)
        tokens = self.merged_norm(tokens[:, 1:] * tokens[:, :1])
        return Instances(tokens, self.box_head(tokens), self.class_head(tokens))

    def relate(self, instances: Instances) -> Relations:
        """Instances -> relations."""
        return Relations(*self.decoder(instances.tokens))


def _refresh(module: nn.Module, incompatible: object) -> None:
    del incompatible
    if isinstance(module, UniVRD):
        module.refresh_banks()
