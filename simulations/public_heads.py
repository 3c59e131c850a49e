"""Heads learned from public data: which of their parameters last, their file, the fit.

The file has the tensors of all stages, named `STAGE/parameter`. What it was learned
from is in its metadata.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fedemb.errors import UserError
from fedemb.heads import head_shapes
from fedemb.protocols import EmbeddingTask, Parameters

HEADS = "head.safetensors"
_CLASSES = "classes"
_WAY_OUT = (
    "use the system, sizes and examples they were trained with, pre-train others with "
    "fedemb pretrain, or let every client draw its own: --set local.head_init=fresh"
)


def of_classes(task: EmbeddingTask) -> set[str]:
    """Parameters of a head that have a row, or the like, for every class."""
    few, more = head_shapes(task, 2), head_shapes(task, 3)
    return {name for name, shape in few.items() if more[name] != shape}


def lasting(task: EmbeddingTask) -> dict[str, torch.Size]:
    """Those parameters of a head, with their shapes, that mean the same to all clients.

    Row k of a client's own label space is another class on every client, so no public
    value could stand for it.
    """
    shapes = head_shapes(task, task.num_classes)
    own = of_classes(task) if task.label_space == "client" else set()
    return {name: shape for name, shape in shapes.items() if name not in own}


def fitting_head(task: EmbeddingTask, found: Parameters, where: str) -> Parameters:
    """Those of the values that heads of a task can start from, as float32.

    Raises:
        UserError: naming the first tensor that is missing, unknown, or of another
            shape, with both shapes and the way out; or that is not finite.
    """
    shapes = lasting(task)
    left_out = {*head_shapes(task, task.num_classes)} - {*shapes}
    for name in sorted({*found, *shapes} - left_out):
        has = f"is {tuple(found[name].shape)}" if name in found else "is missing"
        wanted = f"has {tuple(shapes[name])}" if name in shapes else "has none"
        if name not in found or found[name].shape != shapes.get(name):
            raise UserError(
                f"{where} do not fit: {name} {has}, but the head of {task.name} "
                f"{wanted}; {_WAY_OUT}."
            )
        if not bool(torch.isfinite(found[name]).all()):
            raise UserError(
                f"{where} are no numbers: {name} is not finite; {_WAY_OUT}."
            )
    return {name: found[name].to(torch.float32) for name in shapes}


def heads_file(
    heads: Mapping[str, Parameters],
    class_names: Sequence[str],
    metadata: Mapping[str, str],
) -> bytes:
    """The content of `head.safetensors`.

    Args:
        heads: parameters by stage.
        class_names: of the data they were learned from, in the order of their rows.
        metadata: strings to keep beside them.
    """
    tensors = {
        f"{stage}/{name}": value.detach().cpu().contiguous()
        for stage, head in heads.items()
        for name, value in head.items()
    }
    classes = {_CLASSES: _digest_of_names(class_names)}
    content: bytes = save(tensors, {"format": "pt", **metadata, **classes})
    return content


def read_head(
    folder: Path, stage: str, task: EmbeddingTask, class_names: Sequence[str]
) -> Parameters:
    """The head of a stage from the folder of a public pre-training; empty without one.

    Args:
        folder: any folder, or the file of a backbone.
        stage: by name.
        task: of that stage.
        class_names: of the data that will be trained on.

    Raises:
        UserError: if the file cannot be read; if a head does not fit the task's, or has
            rows for other classes.
    """
    path = folder / HEADS
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            about: Mapping[str, str] = file.metadata() or {}
            found: dict[str, Tensor] = {
                name.partition("/")[2]: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.partition("/")[0] == stage
            }
    except Exception as error:
        raise UserError(
            f"the public heads {path} cannot be read: {error}; pre-train again, or "
            "leave them out with --set local.head_init=fresh."
        ) from error
    if not found:
        return {}
    rows = of_classes(task) & {*found, *lasting(task)}
    fitting = fitting_head(task, found, f"the heads of stage {stage!r} in {path}")
    other = about.get(_CLASSES) != _digest_of_names(class_names)
    if task.label_space == "global" and rows and other:
        raise UserError(
            f"{sorted(rows)[0]} of stage {stage!r} in {path} has a row for each class, "
            f"and its classes are others than those of these data; {_WAY_OUT}."
        )
    return fitting


def _digest_of_names(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
