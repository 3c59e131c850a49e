"""The two stages as tasks: the detector, then the relationship decoder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.devices import device_of
from fedemb.heads import unit_rows, weighted_mean
from fedemb.pixels import pixels
from fedemb.protocols import Batch, Features
from model_zoo.constant_head import ConstantHead
from model_zoo.univrd.augment import Augmentation, annotated, augmented
from model_zoo.univrd.backbone import UniVRD
from model_zoo.univrd.evaluation import evaluate
from model_zoo.univrd.focal import Focal
from model_zoo.univrd.heads import LocalScaling, masked, similarity
from model_zoo.univrd.inference import relation_embedding
from model_zoo.univrd.objectives import (
    Matched,
    detection_loss,
    matched,
    merged_pairs,
    relation_loss,
)
from model_zoo.univrd.phrases import LabelSpace
from model_zoo.univrd.queries import ask, asked_for


@dataclass(frozen=True, kw_only=True)
class _SceneTask(ConstantHead):
    """What the stages share.

    Attributes:
        name: for reports.
        backbone: makes the `UniVRD` module.
        width: d.
        num_classes: of the data set's labels, for evaluation.
        space: names and phrases.
        templates: number of prompts of each name.
        name_queries: negatives per picture, beside the names in it.
        phrase_queries: likewise for phrases.
        augmentation: crops, flips and mosaics; inside one virtual client.
        focal: constants of the losses and of the costs of matching.
        suppression: threshold of the pair-wise suppression in evaluation; 1 keeps all.
    """

    name: str
    backbone: Callable[[], nn.Module]
    width: int
    num_classes: int
    space: LabelSpace
    templates: int
    name_queries: int = 50
    phrase_queries: int = 50
    augmentation: Augmentation = field(default_factory=Augmentation)
    focal: Focal = field(default_factory=Focal)
    suppression: float = 0.7

    @property
    def label_space(self) -> str:
        """The texts are the label space; identities serve evaluation alone."""
        return "global"

    def make_backbone(self) -> nn.Module:
        """A new backbone."""
        return self.backbone()

    def make_head(self, capacity: int) -> nn.Module:
        """Local scalings; `capacity` does not matter, labels are texts."""
        del capacity
        return LocalScaling(self.width)

    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Pictures; augmented ones with boxes, names and relations; texts to ask for.

        Everything random comes from the group's own seed, and every tile of a mosaic
        from the group's own pictures. Training reads `augmented`, embedding `image`.
        """
        rows = annotated(examples)
        plain = rows.image
        changes = self.augmentation.draws
        columns = changes + 2 * len(self.space.objects) + self.phrase_queries
        draws = _uniforms(seeds, examples.offsets, columns)
        rows = augmented(
            rows,
            examples.offsets,
            draws[:, :changes],
            self.augmentation,
            self.space.mirrored,
        )
        asked = ask(
            self.space,
            rows,
            draws[:, changes:],
            self.name_queries,
            self.phrase_queries,
            self.templates,
        )
        return {
            "image": pixels(plain),
            "augmented": pixels(rows.image),
            "boxes": torch.from_numpy(rows.boxes),
            "names": torch.from_numpy(rows.names),
            "ends": torch.from_numpy(rows.relations[..., [0, 2]]),
            **asked,
        }

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Relation and detection mAP, mean recall, and identity metrics."""
        head = LocalScaling(self.width).to(device_of(backbone))
        return evaluate(
            cast(UniVRD, backbone),
            head.names,
            head.phrases,
            self.space,
            annotated(examples),
            np.asarray(examples.fields["label"], dtype=np.int64),
            self.suppression,
        )

    def _matched(
        self, scaling: LocalScaling, values: dict[str, Tensor], batch: Batch
    ) -> Matched:
        """Tokens of the pictures with the objects that they answer for."""
        asked = asked_for(batch["name_query"])
        logits = masked(scaling.names(values["names"], values["tokens"]), asked)
        wanted = _wanted(batch["names"], batch["name_query"]).to(logits)
        present = (batch["names"] >= 0).to(logits)
        return matched(
            logits, values["boxes"], batch["boxes"], wanted, present, self.focal
        )

    def _detection(self, found: Matched, batch: Batch) -> Tensor:
        """Focal and box losses; the mean over pictures."""
        asked = asked_for(batch["name_query"]).to(found.logits)
        losses = detection_loss(found, asked, self.focal)
        return weighted_mean(losses, batch["weight"])


@dataclass(frozen=True, kw_only=True)
class DetectionTask(_SceneTask):
    """Stage 1: every token predicts a box and a class embedding."""

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """Tokens, boxes, and cosines to the names that are asked for."""
        model = cast(UniVRD, backbone)
        found = model.detect(batch["augmented"])
        return {
            "tokens": found.tokens,
            "boxes": found.boxes,
            "names": similarity(found.classes, asked_names(model, batch)),
        }

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Hungarian matching, then focal and box losses; the mean over pictures."""
        scaling, values = cast(LocalScaling, head), cast(dict[str, Tensor], features)
        return self._detection(self._matched(scaling, values, batch), batch)

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """The mean of all instance embeddings Z, `[B, d]`."""
        return unit_rows(cast(UniVRD, backbone).detect(batch["image"]).tokens.mean(1))


@dataclass(frozen=True, kw_only=True)
class RelationTask(_SceneTask):
    """Stage 2: relation queries classify a phrase and point at subject and object."""

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """What stage 1 gives, and cosines to phrases and from pointers to tokens."""
        model = cast(UniVRD, backbone)
        found = model.detect(batch["augmented"])
        related = model.relate(found)
        phrases = model.relation_bank[batch["phrase_query"].clamp(min=0)]
        return {
            "tokens": found.tokens,
            "boxes": found.boxes,
            "names": similarity(found.classes, asked_names(model, batch)),
            "phrases": similarity(related.classes, phrases),
            "subjects": similarity(related.subjects, found.tokens),
            "objects": similarity(related.objects, found.tokens),
        }

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Targets are the tokens that the detector matched; the mean over pictures.

        Pictures without relations (detection-only sources) do not count.
        """
        scaling, values = cast(LocalScaling, head), cast(dict[str, Tensor], features)
        found = self._matched(scaling, values, batch)
        return self._relation(scaling, values, found.tokens, batch)

    def _relation(
        self,
        scaling: LocalScaling,
        values: dict[str, Tensor],
        tokens: Tensor,
        batch: Batch,
    ) -> Tensor:
        asked = asked_for(batch["phrase_query"])
        logits = masked(scaling.phrases(values["phrases"]), asked)
        ends = batch["ends"]
        present = (batch["phrase"] >= 0).to(logits)
        wanted = _wanted(batch["phrase"], batch["phrase_query"]).to(logits)
        wanted, present = merged_pairs(ends, wanted, present)
        things = torch.arange(tokens.shape[1], device=tokens.device)
        subjects, objects = (
            (ends[..., k, None] == things).to(tokens) @ tokens for k in (0, 1)
        )
        losses = relation_loss(
            logits,
            (
                values["subjects"] * scaling.pointer_factor,
                values["objects"] * scaling.pointer_factor,
            ),
            (subjects, objects),
            wanted,
            present,
            asked.to(logits),
            self.focal,
        )
        related = (present.sum(1) > 0).to(logits)
        return weighted_mean(losses, batch["weight"] * related)

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """The picture's relation embeddings, weighted by certainty, `[B, e]`."""
        model = cast(UniVRD, backbone)
        relations = model.relate(model.detect(batch["image"]))
        return relation_embedding(relations, model.relation_bank)


@dataclass(frozen=True, kw_only=True)
class OneStageTask(RelationTask):
    """Both at once: the decoder learns from tokens that still learn to detect.

    What the cascade is compared with (Zhao et al. 2023, ablation of decoupled
    training): every step has both losses, of the same pictures.
    """

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """The detector's loss plus the relations'."""
        scaling, values = cast(LocalScaling, head), cast(dict[str, Tensor], features)
        found = self._matched(scaling, values, batch)
        detected = self._detection(found, batch)
        return detected + self._relation(scaling, values, found.tokens, batch)


def asked_names(model: UniVRD, batch: Batch) -> Tensor:
    """Text embeddings of the names that are asked for, `[B, Q, e]`."""
    bank = model.object_bank
    return bank[batch["name_query"].clamp(min=0), batch["template"]]


def _wanted(labels: Tensor, queries: Tensor) -> Tensor:
    """Which query each label `[B, n]` is, bool `[B, n, Q]`; -1 is none."""
    same = labels[:, :, None] == queries[:, None, :]
    return same & (labels[:, :, None] >= 0)


def _uniforms(
    seeds: NDArray[np.uint64], offsets: NDArray[np.int64], columns: int
) -> NDArray[np.float64]:
    """Uniform numbers `[n, columns]`, each group's from its own seed."""
    parts = [
        np.random.Generator(np.random.Philox(int(seed))).random((size, columns))
        for seed, size in zip(seeds.tolist(), np.diff(offsets).tolist(), strict=True)
    ]
    return np.concatenate([np.empty((0, columns)), *parts])
