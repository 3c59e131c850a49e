"""A trained backbone as ONNX: from prepared tensors to unit-length embeddings."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedemb.data import Examples
from fedemb.errors import NotAvailable
from fedemb.protocols import Batch, EmbeddingTask


def onnx_bytes(
    task: EmbeddingTask, backbone: nn.Module, examples: Examples, statement: str
) -> bytes:
    """The embedding of `task` as an ONNX model of any batch size.

    Its inputs are those tensors of `task.prepare` that `task.embed` reads, by name; or
    of `task.exported_inputs`, where the task has such a method, because preparing takes
    a network that should be part of the model.

    Args:
        task: says how to embed.
        backbone: trained.
        examples: two rows or more of the kind it was trained on.
        statement: the privacy statement, for the model's metadata.

    Raises:
        NotAvailable: if ONNX's packages are not installed, or the model cannot be
            exported for any number of rows.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise NotAvailable(
            "--format onnx needs its extra: pip install 'fedemb[export]'."
        ) from error
    pair = examples.only(np.arange(2, dtype=np.int64))
    inputs = getattr(task, "exported_inputs", None)
    batch = inputs(pair) if inputs else task.prepare(pair, np.zeros(1, np.uint64))
    names = _read_by_embed(task, backbone, batch)
    with _quietly():
        program = torch.onnx.export(
            _Embedding(task, backbone, names).eval(),
            tuple(batch[name] for name in names),
            input_names=names,
            output_names=["embedding"],
            dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in names),),
            dynamo=True,
            verbose=False,
        )
    model: Any = program.model_proto  # type: ignore[union-attr]
    fixed = [given.name for given in model.graph.input if not _grows(given)]
    if fixed:
        raise NotAvailable(
            f"{task.name} cannot be exported for any number of rows "
            f"({', '.join(fixed)} would be fixed); use `fedemb embed`, or export "
            "safetensors."
        )
    onnx.helper.set_model_props(model, {"privacy_statement": statement})
    content: bytes = model.SerializeToString()
    return content


def _grows(given: Any) -> bool:
    """Whether the first axis of a model's input is of any length."""
    return bool(given.type.tensor_type.shape.dim[0].dim_param)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter says about its own code and about torchvision."""
    told = logging.getLogger("torch.onnx")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        told.setLevel(level)


class _Embedding(nn.Module):
    def __init__(
        self, task: EmbeddingTask, backbone: nn.Module, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self._task, self._names = task, names

    def forward(self, *values: Tensor) -> Tensor:
        batch = dict(zip(self._names, values, strict=True))
        return self._task.embed(self.backbone, batch)


class _Recorded(dict[str, Tensor]):
    """A batch that remembers which tensors were read."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.read:
            self.read.append(name)
        return super().__getitem__(name)


def _read_by_embed(task: EmbeddingTask, backbone: nn.Module, batch: Batch) -> list[str]:
    recorded = _Recorded(batch)
    with torch.no_grad():
        task.embed(backbone, recorded)
    return recorded.read
