"""What a round trains: a denoiser of latents, told captions, with a local head.

Stand-in for the undisclosed model of the Imagen 3 report (2024, arXiv:2408.07009): a
latent diffusion model (Rombach et al., 2022, arXiv:2112.10752), trained as in Xu et al.
(2023), arXiv:2211.10844. The denoiser is aggregated; autoencoder and text encoder are
public and frozen; the head that aligns inner features stays on the virtual client.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.heads import ClassMeansHead, unit_rows, weighted_mean
from fedemb.identity import embed_all, labels_of
from fedemb.protocols import Batch, Features, Parameters
from model_zoo.imagen3 import variance
from model_zoo.imagen3.condition import Condition
from model_zoo.imagen3.conditions import (
    empty_text,
    no_label,
    nothing,
    only,
    text_fields,
)
from model_zoo.imagen3.dit import DiT, DiTShape
from model_zoo.imagen3.heads import NoHead, TextHead
from model_zoo.imagen3.inputs import (
    PROBE_DRAWS,
    enlarged,
    enlarged_latents,
    pictures,
    probes,
    shrunk,
)
from model_zoo.imagen3.objectives import TIMES, Diffusion, Flow, Objective
from model_zoo.imagen3.public import PublicModels, PublicShape, Texts, public_models
from model_zoo.imagen3.responsibility.filtering import row_weights
from model_zoo.imagen3.unet import UNet, UNetShape

HEADS = ("class-means", "text", "none")
TEXT_BY = ("tokens", "pooled")
PROBE_TIME = 261.0
"""Time of the noise under which pictures are embedded (Tang et al., 2306.03881)."""


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionTask:
    """An `EmbeddingTask` over pictures with captions, or with labels.

    Attributes:
        denoiser: shape of the backbone.
        num_classes: size of the data set's label space.
        public: shape of the public models.
        weights: file of the public models; None is the toy that comes with the zoo.
        objective: how latents are noised and what is predicted.
        head: `class-means` of inner features, `text` (a projection to the captions'
            vectors) or `none`.
        alignment: weight of the head's loss.
        drop: share of rows that train without their condition.
        layer: depth at which embeddings are taken, as a share.
        probe_time: time of the noise under which they are taken, in (0, 1000).
        guidance: weight of classifier-free guidance in pictures that evaluation makes;
            1 is none.
        text_by: ways by which a text reaches the denoiser: `tokens`, which it attends
            to, and `pooled`, the text's vector beside the time. What is left out is
            that of the empty text.
        temperature: of the head.
        coarse: side of a picture over that of the small picture which the denoiser is
            shown beside the noise, for super-resolution; 1 shows none.
        filtered: whether unsafe captions and pictures flagged as generated do not
            count, and near-duplicates share one vote.
        name: for reports.

    Raises:
        UserError: for an unknown head or way of the text, a number out of range, or
            channels that do not fit.
    """

    denoiser: DiTShape | UNetShape
    num_classes: int
    public: PublicShape = field(default_factory=PublicShape)
    weights: Path | None = None
    objective: Objective = field(default_factory=Flow)
    head: str = "class-means"
    alignment: float = 0.1
    drop: float = 0.1
    layer: float = 0.6
    probe_time: float = PROBE_TIME
    guidance: float = 3.0
    text_by: tuple[str, ...] = TEXT_BY
    temperature: float = 0.1
    coarse: int = 1
    filtered: bool = True
    name: str = "latent_diffusion"

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise UserError(f"head={self.head!r} must be one of {', '.join(HEADS)}.")
        if self.head == "text" and self.denoiser.classes is not None:
            raise UserError("head='text' needs captions; with labels use class-means.")
        if not 0 <= self.drop <= 1 or not 0 < self.layer <= 1 or self.coarse < 1:
            raise UserError(
                f"drop={self.drop} must be in [0, 1], layer={self.layer} in (0, 1] and "
                f"coarse={self.coarse} at least 1."
            )
        if not 0 < self.probe_time < TIMES or not 0 <= self.guidance < float("inf"):
            raise UserError(
                f"probe_time={self.probe_time} must be between 0 (data) and {TIMES} "
                f"(noise), and guidance={self.guidance} 0 or more, where 1 is none."
            )
        if not set(self.text_by) <= set(TEXT_BY):
            raise UserError(
                f"text_by={self.text_by} must name ways of {', '.join(TEXT_BY)}."
            )
        shape, latents = self.denoiser, self.latents
        if shape.channels != latents * (1 + (self.coarse > 1)):
            raise UserError(
                f"channels={shape.channels} of the denoiser must be {latents}, or "
                f"{2 * latents} where it is shown a small picture."
            )
        learned = shape.out_channels == 2 * latents
        if shape.out_channels != latents and not (
            learned and isinstance(self.objective, Diffusion)
        ):
            raise UserError(
                f"out_channels={shape.out_channels} must be {latents}, or with the "
                f"Diffusion objective, which learns variances, {2 * latents}."
            )

    @property
    def latents(self) -> int:
        """Channels of a latent."""
        return self.public.autoencoder.latents

    @property
    def label_space(self) -> str:
        """`global` where the denoiser is told labels, else `client`."""
        return "client" if self.denoiser.classes is None else "global"

    @property
    def models(self) -> PublicModels:
        """The public models, frozen.

        Raises:
            NotAvailable: if there are none of this shape.
        """
        return public_models(self.public, self.weights)

    def make_backbone(self) -> nn.Module:
        """A new denoiser, initialised from torch's global generator."""
        return self.denoiser.build()

    def make_head(self, capacity: int) -> nn.Module:
        """The local head."""
        if self.head == "class-means":
            return ClassMeansHead(capacity, self.temperature)
        if self.head == "none":
            return NoHead()
        text = self.public.text
        return TextHead(
            self.denoiser.features, text.embedding_dim or text.width, self.temperature
        )

    def fresh_head(
        self, head: nn.Module, classes: int, generator: torch.Generator
    ) -> Parameters:
        """A random projection where the head has one."""
        del classes
        return head.fresh(generator) if isinstance(head, TextHead) else {}

    @torch.no_grad()
    def prepare(self, examples: Examples, seeds: NDArray[np.uint64]) -> Batch:
        """Clean latents, and where there is a condition all that a step needs.

        `noisy` latents at `time` with their `target`; `probe` latents for the head;
        `tokens`, `seen` and `pooled`, or `told`, the condition, dropped for some rows;
        `caption` the captions' vectors; `weight` what the filters leave. Times, noise
        and drops are drawn group by group from `seeds`.
        """
        images = pictures(examples)
        latent = self.models.latents(images)
        batch: Batch = {"latent": latent}
        if self.coarse > 1:
            small = shrunk(images, self.coarse)
            batch["small"] = enlarged_latents(self.models, small, self.coarse)
        if "label" in examples.fields:
            batch["label"] = labels_of(examples)
        if self._condition_field not in examples.fields:
            return batch
        time, kept, noise, other = self._draws(examples.offsets, seeds, latent)
        batch |= {
            "time": time,
            "noisy": self.objective.noised(latent, noise, time),
            "target": self.objective.target(latent, noise, time),
        }
        if self.head != "none":
            probed = torch.full_like(time, self.probe_time)
            batch["probe"] = self.objective.noised(latent, other, probed)
        if self.filtered:
            batch["weight"] = torch.from_numpy(row_weights(examples))
        return batch | self.condition_fields(examples, kept)

    def condition_fields(self, examples: Examples, kept: NDArray[np.bool_]) -> Batch:
        """What rows are told; nothing where not `kept` `[n]`."""
        classes = self.denoiser.classes
        if classes is not None:
            label = labels_of(examples)
            known = torch.from_numpy(kept) & (label < classes)
            return {"told": torch.where(known, label, classes)}
        texts = self.models.words(cast(NDArray[np.str_], examples.fields["caption"]))
        fields = text_fields(self.heard(texts), kept, self.no_text)
        return fields | ({"caption": texts.vector} if self.head == "text" else {})

    @property
    def no_text(self) -> Texts:
        """The empty text `[1, ...]`."""
        return empty_text(self.public, self.weights)

    def heard(self, texts: Texts) -> Texts:
        """What of encoded texts reaches the denoiser, by the ways of `text_by`."""
        return only(texts, self.no_text, self.text_by)

    def unconditional(self, rows: int, like: Tensor) -> Condition:
        """The condition of `rows` rows that are told nothing."""
        if self.denoiser.classes is not None:
            return no_label(self.denoiser.classes, rows, like)
        return nothing(self.no_text, rows, like)

    def features(self, backbone: nn.Module, batch: Batch) -> Features:
        """`prediction` `[B, C, h, w]`, and `inner` `[B, D]` of what is told nothing."""
        if "noisy" not in batch:
            raise UserError(
                f"imagen3 trains on pictures with a field {self._condition_field!r}, "
                "and these have none; choose data with captions (scenes, clips-stills, "
                "openclipart), or imagen3:tiny_class, which is told labels."
            )
        denoiser = cast(DiT | UNet, backbone)
        noisy = self._shown(batch["noisy"], batch)
        found = {"prediction": denoiser(noisy, batch["time"], Condition.of(batch))}
        if self.head != "none":
            found["inner"] = self._inner(denoiser, self._shown(batch["probe"], batch))
        return found

    def loss(self, head: nn.Module, features: Features, batch: Batch) -> Tensor:
        """Squared error of the prediction, and the head's loss by its weight."""
        found = cast(dict[str, Tensor], features)
        total = weighted_mean(self.errors(found["prediction"], batch), batch["weight"])
        if self.head == "none":
            return total
        return total + self.alignment * cast(Tensor, head(found["inner"], batch))

    def errors(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of each row `[B]`, with the bound of learned variances."""
        mean, rest = prediction[:, : self.latents], prediction[:, self.latents :]
        error = (mean - batch["target"]).square().flatten(1).mean(1)
        if self.denoiser.out_channels == self.latents:
            return error
        objective = cast(Diffusion, self.objective)
        weight = objective.steps / 1000
        return error + weight * variance.bound(
            objective, mean, rest, batch["target"], batch["time"]
        )

    def embed(self, backbone: nn.Module, batch: Batch) -> Tensor:
        """Unit-length means `[B, D]` of inner features over places and noise draws.

        The draws are public constants, so that a picture always has one embedding.
        `batch` holds what `prepare` makes, or pictures under `image`.
        """
        if "latent" not in batch:
            batch = self._latents_of(batch["image"])
        latent = batch["latent"]
        draws = probes(latent.shape[1:]).to(latent)
        total = latent.new_zeros(latent.shape[0], self.denoiser.features)
        for noise in draws.unbind():
            time = torch.full_like(latent[:, 0, 0, 0], self.probe_time)
            noisy = self.objective.noised(latent, noise.expand_as(latent), time)
            shown = self._shown(noisy, batch)
            total = total + self._inner(cast(DiT | UNet, backbone), shown)
        return unit_rows(total / PROBE_DRAWS)

    def exported_inputs(self, examples: Examples) -> Batch:
        """An exported model starts at pictures; the autoencoder goes with it."""
        return {"image": pictures(examples)}

    def evaluate(self, backbone: nn.Module, examples: Examples) -> dict[str, float]:
        """Retrieval by embeddings, denoising, and the quality of generated pictures.

        See `model_zoo.imagen3.evaluation.denoising` and `generation`.
        """
        from fedemb.metrics import identity_metrics
        from model_zoo.imagen3.evaluation import denoising, generation

        labels = labels_of(examples)
        metrics = identity_metrics(embed_all(self, backbone, examples), labels)
        if self._condition_field in examples.fields:
            metrics |= denoising(self, backbone, examples)
        if "caption" in examples.fields and self.denoiser.classes is None:
            metrics |= generation(self, backbone, examples)
        return metrics

    @property
    def _condition_field(self) -> str:
        return "caption" if self.denoiser.classes is None else "label"

    def _latents_of(self, images: Tensor) -> Batch:
        """Latents of all pictures at once, and of the small ones where they are shown.

        As in `prepare`, without its blocks of rows, which a traced model cannot have.
        """
        encode = self.models.autoencoder.encode
        found = {"latent": encode(images)}
        if self.coarse > 1:
            found["small"] = enlarged(encode(shrunk(images, self.coarse)), self.coarse)
        return found

    def _inner(self, denoiser: DiT | UNet, shown: Tensor) -> Tensor:
        time = torch.full_like(shown[:, 0, 0, 0], self.probe_time)
        told = self.unconditional(shown.shape[0], shown)
        return denoiser.inner(shown, time, told, self.layer).mean(1)

    def _shown(self, noisy: Tensor, batch: Batch) -> Tensor:
        return torch.cat([noisy, batch["small"]], 1) if self.coarse > 1 else noisy

    def _draws(
        self, offsets: NDArray[np.int64], seeds: NDArray[np.uint64], latent: Tensor
    ) -> tuple[Tensor, NDArray[np.bool_], Tensor, Tensor]:
        """Times, rows that keep their condition, and two draws of noise."""
        shape = tuple(latent.shape[1:])
        times, kept, noises = [], [], []
        for seed, size in zip(seeds, np.diff(offsets).tolist(), strict=True):
            draw = np.random.Generator(np.random.Philox([int(seed), 3]))
            times.append(self.objective.draw(draw, size))
            kept.append(draw.random(size) >= self.drop)
            noises.append(draw.standard_normal((2, size, *shape), np.float32))
        noise = torch.from_numpy(np.concatenate(noises, 1))
        time = torch.from_numpy(np.concatenate(times))
        return time, np.concatenate(kept), noise[0], noise[1]
