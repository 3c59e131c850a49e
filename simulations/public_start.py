"""What a run starts from that nobody paid for: public weights, and public heads.

All of it is known before the first round and depends on no user of the population:
constants, to the proof of the guarantee. Heads in which nothing was learned are drawn
from a public seed instead (`fedemb.make_work`) and need no mention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fedemb.errors import UserError
from fedemb.parameters import digest_of
from fedemb.protocols import Parameters
from simulations.assembly import Assembly
from simulations.public_heads import fitting_head, read_head

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
            digest = digests[f"heads of {stage.name}"] = digest_of(found)
            described.append(
                f"{where}: every client's head in the stage {stage.name!r} starts from "
                "these constants, which depend on nobody's private data; SHA-256 "
                f"{digest[:_SHOWN]}"
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


def _head(assembly: Assembly, number: int) -> tuple[Parameters, str]:
    """The public head of a stage, and in words where it comes from.

    That of a pre-trained folder comes before the system's own.
    """
    stage, configuration = assembly.stages[number], assembly.configuration
    fresh = configuration.local.head_init == "fresh"
    if fresh or configuration.run.baseline != "none":
        return {}, ""
    pretrained = configuration.model.pretrained
    if pretrained != "none":
        names = assembly.dataset.class_names
        found = read_head(Path(pretrained), stage.name, stage.task, names)
        if found:
            return found, f"heads from {pretrained}"
    if stage.public_head is None:
        return {}, ""
    where = f"heads that come with {configuration.model.name}"
    return fitting_head(stage.task, stage.public_head(), where), where
