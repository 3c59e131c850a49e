"""A finished run, opened for use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from fedemb.checkpoint import write_atomically
from fedemb.data import Examples
from fedemb.errors import UserError
from fedemb.identity import embed_all
from fedemb.protocols import EmbeddingTask, ReadsTexts
from fedemb.threads import suited_to
from model_zoo.vld.pseudo import (
    PseudoCaptions,
    best_captions,
    captioner_of,
    write_captions,
)
from simulations.assembly import (
    Assembly,
    assemble,
    configuration_of,
    make_backbone,
    open_data,
)
from simulations.exporting import onnx_bytes
from simulations.folder import RunFolder
from simulations.queries import read_queries


@dataclass(frozen=True)
class TrainedRun:
    """A trained backbone with what is needed to use it.

    Attributes:
        folder: of the run.
        assembly: its parts; the data set may be another one.
        backbone: in evaluation mode.
    """

    folder: RunFolder
    assembly: Assembly
    backbone: nn.Module

    @staticmethod
    def open(path: Path, dataset: str | None = None) -> "TrainedRun":
        """Open a complete run.

        Args:
            path: the run folder.
            dataset: evaluate on another data set, of the same image shape; motions may
                have other cameras and frames, for every pose is embedded by itself.

        Raises:
            UserError: if the run is not complete, or the shapes do not fit.
        """
        from dataclasses import replace

        folder = RunFolder.open(path)
        if not folder.backbone.exists():
            raise UserError(
                f"{path} has no backbone yet; finish it with: fedemb resume {path}"
            )
        configuration = configuration_of(path)
        own = assemble(configuration)
        stage = len(own.stages) - 1
        backbone = make_backbone(own, stage)
        with safe_open(folder.backbone, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        backbone.load_state_dict(state)
        if dataset is None:
            return TrainedRun(folder, own, backbone.eval())
        data = replace(configuration.data, name=dataset, users=None, amplify=None)
        other = open_data(replace(configuration, data=data))
        shapes = [_shape(d.held_out()) for d in (own.dataset, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{dataset} has examples of shape {shapes[1]}, the backbone was "
                f"trained on {shapes[0]}; prepare them at the same size."
            )
        return TrainedRun(folder, replace(own, dataset=other), backbone.eval())

    def evaluate(self) -> dict[str, float]:
        """The task's metrics on the held-out examples."""
        examples = self.assembly.dataset.held_out()
        with suited_to(self.backbone, len(examples)):
            return self._task.evaluate(self.backbone, examples)

    def embed(self, examples: Examples) -> Tensor:
        """Embeddings `[n, D]` of unit length."""
        with suited_to(self.backbone, len(examples)):
            return embed_all(self._task, self.backbone, examples)

    def embed_files(self, paths: list[Path]) -> tuple[list[str], NDArray[np.float32]]:
        """Names and embeddings `[n, D]` of image files, or of the rows of `.npz` files.

        Raises:
            UserError: naming the first file that cannot be read.
        """
        names, queries = self._read(paths)
        return names, self.embed(queries).numpy()

    def caption_files(
        self, paths: list[Path], samples: int | None, seed: int
    ) -> list[PseudoCaptions]:
        """What the run's captioner writes about files, with the hash of its weights.

        Args:
            paths: videos, animations, folders of frames, `.npz` files of clips.
            samples: captions drawn for each; None is the best one by beam search.
            seed: of the drawing.

        Raises:
            UserError: naming the first file that cannot be read; or if the run has no
                captioner.
        """
        captioner = captioner_of(self.backbone)
        names, queries = self._read(paths)
        clips = queries.fields["clip"]
        if samples is None:
            return best_captions(captioner, clips, names)
        return write_captions(captioner, clips, names, samples=samples, seed=seed)

    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeddings `[n, D]` of texts, in the space of the examples.

        Raises:
            UserError: if the run's system does not read texts.
        """
        task = self._task
        if not isinstance(task, ReadsTexts):
            raise UserError(
                f"text={texts[0]!r}: the {self.assembly.system.name} of this run reads "
                "no texts; give a file, or use a run of g_vilm, videoprism or "
                "video_language_distillation."
            )
        found: NDArray[np.float32] = task.embed_texts(self.backbone, texts).numpy()
        return found

    def search(self, query: Path | str, top: int) -> list[dict[str, Any]]:
        """The held-out examples nearest to a text or a file's first row, best first."""
        held_out = self.assembly.dataset.held_out()
        found = (
            self.embed_texts([query])
            if isinstance(query, str)
            else self.embed_files([query])[1]
        )
        wanted = torch.from_numpy(found[0])
        similarity = self.embed(held_out) @ wanted
        best = similarity.topk(min(max(top, 1), len(similarity)))
        hits = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [
            {"row": row, "similarity": round(value, 6), **self._told(held_out, row)}
            for value, row in hits
        ]

    def _told(self, examples: Examples, row: int) -> dict[str, Any]:
        """What is known of an example besides its picture."""
        names, label = self.assembly.dataset.class_names, examples.fields["label"][row]
        name = names[int(label)] if len(names) else str(label)
        told = {"label": int(label), "class": name}
        if "caption" in examples.fields:
            told["caption"] = str(examples.fields["caption"][row])
        return told

    def export(self, kind: str, path: Path) -> None:
        """Write the backbone as `safetensors` or `onnx`; never over another file.

        Raises:
            UserError: for another kind, or if the file exists.
            NotAvailable: if ONNX's packages are not installed.
        """
        if kind not in ("safetensors", "onnx"):
            raise UserError(f"format={kind!r} must be safetensors or onnx.")
        if path.exists():
            raise UserError(f"{path} already exists; choose another --out.")
        if kind == "safetensors":
            write_atomically(path, self.folder.backbone.read_bytes())
            return
        content = onnx_bytes(
            self._task,
            self.backbone,
            self.assembly.dataset.held_out(),
            (self.folder.path / "privacy_statement.json").read_text(),
        )
        write_atomically(path, content)

    def _read(self, paths: list[Path]) -> tuple[list[str], Examples]:
        """Names of the rows of files, and the rows."""
        queries = read_queries(paths, self.assembly.dataset.held_out())
        names = [
            str(path) if size == 1 else f"{path}[{row}]"
            for path, size in zip(paths, queries.sizes.tolist(), strict=True)
            for row in range(size)
        ]
        return names, queries

    @property
    def _task(self) -> EmbeddingTask:
        return self.assembly.stages[-1].task


def _shape(examples: Examples) -> tuple[int, ...]:
    name, values = next(iter(examples.fields.items()))
    return tuple(values.shape[-2:] if name == "keypoints" else values.shape[1:])
