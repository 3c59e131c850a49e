"""What a run starts from that nobody paid for: public weights, and public heads.

All of it is known before the first round and depends on no user of the population:
constants, to the proof of the guarantee. Heads in which nothing was learned are drawn
from a public seed instead (`fedemb.make_work`) and need no mention.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedemb.errors import UserError
from fedemb.protocols import EmbeddingTask, Parameters
from simulations.assembly import Assembly

_SHOWN = 16  # digits of a digest in sentences


@dataclass(frozen=True)
class PublicStart:
    """Public values that a run starts from.

    Attributes:
        backbone: state of a pre-trained backbone; None has none.
        heads: of every stage; empty where they are drawn from the public seed.
        digests: SHA-256 of each of them that there is, by what it is.
        described: a sentence for each, for the privacy statement.
    """

    backbone: Mapping[str, Tensor] | None = None
    heads: tuple[Parameters, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    described: tuple[str, ...] = ()

    def head(self, stage: int) -> Parameters:
        """What the heads of a stage start from; may be empty."""
        return self.heads[stage] if self.heads else {}


def public_start(assembly: Assembly) -> PublicStart:
    """Everything public that the run of an assembly starts from.

    Raises:
        UserError: if it cannot be read, or heads do not fit the system's.
    """
    pretrained = assembly.configuration.model.pretrained
    backbone = load_pretrained(pretrained)
    digests, described = {}, []
    if backbone is not None:
        digests["weights"] = digest_of(backbone)
        described.append(
            f"initial weights from {pretrained}, SHA-256 {digests['weights'][:_SHOWN]}"
        )
    heads = []
    for number, stage in enumerate(assembly.stages):
        found, where = _head(assembly, number)
        heads.append(found)
        if found:
            digests[f"heads of {stage.name}"] = digest_of(found)
            described.append(
                f"{where}: every client's head in the stage {stage.name!r} starts from "
                "these constants, which depend on nobody's private data; SHA-256 "
                f"{digest_of(found)[:_SHOWN]}"
            )
    return PublicStart(backbone, tuple(heads), digests, tuple(described))


def require_same_start(start: PublicStart, before: Mapping[str, str]) -> None:
    """Refuse to go on from other public values than those a run began with.

    Args:
        start: what is there now.
        before: the digests of then.

    Raises:
        UserError: naming what has changed, with both digests.
    """
    for name in sorted({*start.digests, *before}):
        now, then = start.digests.get(name, "none"), before.get(name, "none")
        if now != then:
            raise UserError(
                f"the public {name} have the digest {now[:_SHOWN]}, but the run began "
                f"with {then[:_SHOWN]}; put them back as they were, or start a new run."
            )


def digest_of(values: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    hashed = hashlib.sha256()
    for name in sorted(values):
        array = values[name].detach().cpu().contiguous()
        hashed.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
        hashed.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def load_pretrained(name: str) -> Mapping[str, Tensor] | None:
    """The state of a public backbone: a safetensors file or a run folder."""
    if name == "none":
        return None
    from safetensors.torch import load_file

    path = Path(name)
    path = path / "backbone.safetensors" if path.is_dir() else path
    try:
        state: Mapping[str, Tensor] = load_file(path)
    except Exception as error:
        raise UserError(
            f"pretrained={name!r} cannot be read: {error}; give a backbone.safetensors "
            "or a run folder."
        ) from error
    return state


def head_shapes(task: EmbeddingTask, capacity: int) -> dict[str, torch.Size]:
    """Names and shapes of the parameters of a task's head for so many classes."""
    with torch.device("meta"):
        head = task.make_head(capacity)
    return {name: value.shape for name, value in head.named_parameters()}


def lasting(task: EmbeddingTask) -> dict[str, torch.Size]:
    """Those that mean the same on every client: no shape depends on its own classes.

    Row k of a client's own label space is another class on every client, so no public
    value could stand for it.
    """
    if task.label_space == "global":
        return head_shapes(task, task.num_classes)
    few, more = head_shapes(task, 2), head_shapes(task, 3)
    return {name: shape for name, shape in few.items() if more[name] == shape}


def _head(assembly: Assembly, stage: int) -> tuple[Parameters, str]:
    """The public head of a stage, and in words where it comes from."""
    made = assembly.stages[stage]
    configuration = assembly.configuration
    public = configuration.local.head_init != "fresh"
    if not public or configuration.run.baseline != "none" or made.public_head is None:
        return {}, ""
    where = f"heads that come with {configuration.model.name}"
    return _fitting(made.task, made.public_head(), where), where


def _fitting(task: EmbeddingTask, found: Parameters, where: str) -> Parameters:
    """The values that a client's head can start from.

    Raises:
        UserError: naming the first tensor that is missing, unknown, or of another
            shape.
    """
    shapes = lasting(task)
    way_out = (
        "use the system, sizes and examples they were trained with, pre-train others "
        "with fedemb pretrain, or let every client draw its own: "
        "--set local.head_init=fresh"
    )
    of_classes = {*head_shapes(task, task.num_classes)} - {*shapes}
    for name in sorted({*found, *shapes} - of_classes):
        has = f"is {tuple(found[name].shape)}" if name in found else "is missing"
        wanted = f"has {tuple(shapes[name])}" if name in shapes else "has none"
        if name not in found or found[name].shape != shapes.get(name):
            raise UserError(
                f"{where} do not fit: {name} {has}, but the head of {task.name} "
                f"{wanted}; {way_out}."
            )
    return {name: found[name].to(torch.float32) for name in shapes}
