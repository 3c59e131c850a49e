"""What VideoGLUE judges: runs, and encoders of the zoo as they are before training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from fedemb.errors import NotAvailable, UserError
from model_zoo import registry
from model_zoo.system import System
from model_zoo.video.encoder import VideoEncoder
from simulations.assembly import facts, make_backbone
from simulations.report.wording import epsilon_text
from simulations.trained import TrainedRun

ZOO = "zoo"
"""Stands for every video system of the zoo, each in its default configuration."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An encoder that is judged.

    Attributes:
        name: of the run's folder, or NAME:CONFIGURATION of the zoo.
        weights: where they come from, for people.
        epsilon: what the run promises its users; None where nothing was trained on
            anybody, or without a promise.
        encoder: turns clips into tokens.
        public: public weights that it starts from.
    """

    name: str
    weights: str
    epsilon: float | None
    encoder: VideoEncoder
    public: tuple[str, ...] = ()


def encoder_of(backbone: nn.Module) -> VideoEncoder:
    """The part of a backbone that turns clips into tokens: itself, or its `video`.

    Raises:
        UserError: if there is none.
    """
    for candidate in (backbone, getattr(backbone, "video", None)):
        if isinstance(candidate, VideoEncoder):
            return candidate
    raise UserError(
        f"{type(backbone).__name__} is no video encoder: --protocol videoglue judges "
        "backbones that turn clips into tokens, such as those of "
        f"{', '.join(video_systems())}."
    )


def clip_shape(run: TrainedRun) -> tuple[int, int, int]:
    """(T, H, W) of the clips that a run's encoder reads."""
    frames, height, width = facts(run.assembly.dataset).example_shape[:3]
    return frames, height, width


def video_systems() -> list[str]:
    """NAME:CONFIGURATION of the systems that read clips, each in its default one.

    Example:
        >>> "g_vilm:tiny" in video_systems()
        True
    """
    found = ((name, registry.get(name)) for name in registry.names())
    return [
        f"{name}:{system.default_configuration}"
        for name, system in found
        if _reads_clips(system)
    ]


def gather(
    path: Path, run: TrainedRun, against: Sequence[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """A run and what it is compared with, all before anything is judged.

    Args:
        path: of the run.
        run: the run itself.
        against: folders of runs; NAME or NAME:CONFIGURATION of the zoo, as their
            training would start; `zoo` for every video system that reads such clips.

    Returns:
        The run first, the others in the order they are named; and those of `zoo` that
        cannot read clips of the run's shape, with the reason.

    Raises:
        UserError: something is named twice, is no video encoder, or reads other clips.
        NotAvailable: a name is neither a run nor a system.
    """
    found = [_of_run(path, run)]
    seen = {str(path.resolve())}
    left_out: dict[str, str] = {}
    for reference in against:
        if reference == ZOO:
            for name in video_systems():
                if name not in seen:
                    seen.add(name)
                    try:
                        found.append(_of_zoo(name, run))
                    except (UserError, NotAvailable) as error:
                        left_out[name] = str(error)
            continue
        folder = Path(reference)
        is_run = (folder / "config.toml").is_file()
        key = str(folder.resolve()) if is_run else _full_name(reference)
        if key in seen:
            raise UserError(
                f"{reference} is named twice; every encoder is judged once."
            )
        seen.add(key)
        if is_run:
            other = TrainedRun.open(folder)
            _refuse_other_clips(reference, other, run)
            found.append(_of_run(folder, other))
        else:
            found.append(_of_zoo(key, run))
    return found, left_out


def _of_run(path: Path, run: TrainedRun) -> Contestant:
    privacy = run.folder.read_json("report.json")["privacy"]
    epsilon = privacy.get("epsilon")
    weights = "trained without privacy"
    if epsilon is not None:
        weights = f"epsilon {epsilon_text(epsilon)}"
        if privacy.get("unit", "user") != "user":
            weights += f" per {privacy['unit']}"
        if privacy.get("extrapolated"):
            weights += " for a larger population"
    return Contestant(
        name=str(path) if len(path.parts) < 3 else path.name,
        weights=weights,
        epsilon=epsilon,
        encoder=encoder_of(run.backbone),
        public=run.assembly.system.configuration().public,
    )


def _of_zoo(name: str, run: TrainedRun) -> Contestant:
    """A system as its training on the run's clips would start, from the run's seed."""
    own = run.assembly
    system = registry.get(name)
    if not _reads_clips(system):
        raise UserError(
            f"{name} is no video encoder; choose from {', '.join(video_systems())}."
        )
    model = replace(own.configuration.model, name=name)
    other = replace(
        own,
        configuration=replace(own.configuration, model=model),
        system=system,
        stages=system.build(data=facts(own.dataset)),
    )
    backbone = make_backbone(other, 0)
    for stage in range(1, len(other.stages)):
        backbone = make_backbone(other, stage, backbone.state_dict())
    public = system.configuration().public
    return Contestant(
        name=name,
        weights="public start" if public else "untrained",
        epsilon=None,
        encoder=encoder_of(backbone.eval()),
        public=public,
    )


def _full_name(reference: str) -> str:
    """NAME:CONFIGURATION of what a person calls NAME.

    Raises:
        NotAvailable: if there is no such system.
    """
    known = reference.partition(":")[0] in registry.names() or ".py:" in reference
    if not known:
        raise NotAvailable(
            f"{reference!r} is neither a run folder (it holds no config.toml) nor an "
            f"encoder of the zoo: choose from {', '.join(video_systems())}, or {ZOO} "
            "for all of them."
        )
    system = registry.get(reference)
    suffix = f":{system.default_configuration}"
    return reference if reference.endswith(suffix) else reference + suffix


def _reads_clips(system: System) -> bool:
    shape = system.configuration().data.example_shape
    return len(shape) == 4 and shape[-1] == 3


def _refuse_other_clips(name: str, other: TrainedRun, run: TrainedRun) -> None:
    shapes = [clip_shape(one) for one in (other, run)]
    if shapes[0] != shapes[1]:
        theirs, ours = (" x ".join(map(str, shape)) for shape in shapes)
        raise UserError(
            f"{name} reads clips of {theirs}, {run.folder.path} of {ours}; judge runs "
            "against each other that were trained on clips of one size."
        )
