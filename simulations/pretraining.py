"""Public pre-training: what `fedemb pretrain` does, and the folder that it leaves.

| file | what |
|---|---|
| `backbone.safetensors` | the trained backbone, for `--pretrained` |
| `head.safetensors` | the heads of all stages, for `local.head_init = "public"` |
| `report.json` | what was trained, on which data, and what came of it |
| `config.toml` | the resolved configuration: the folder opens as that of a run does |
| `privacy_statement.json`, `.txt` | that there is no privacy |

Nothing here is private. That the data are public is the user's word.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from fedemb.checkpoint import write_atomically
from fedemb.data import Source
from fedemb.errors import UserError
from fedemb.protocols import Parameters
from simulations.assembly import Assembly, assemble, make_backbone
from simulations.central import CentralTraining, Trained, train_centrally
from simulations.config import Configuration
from simulations.folder import RunFolder, environment
from simulations.listener import Listener
from simulations.outcome import only_metrics
from simulations.public_heads import HEADS, heads_file, lasting
from simulations.public_start import load_pretrained
from simulations.scratch import write_configuration
from simulations.training import evaluate

NOT_PRIVATE = "not private: whoever's data this is, it is public by your word"
PUBLIC_SEED = 17_042_023
"""Of generated public data: another seed than that of any recipe, so other users."""


def pretrain(
    configuration: Configuration,
    recipe: CentralTraining,
    out: Path,
    listener: Listener,
    *,
    named: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Train a system on public data into a new folder; returns its `report.json`.

    Args:
        configuration: data and system; what it says of privacy and rounds is replaced.
        recipe: how.
        out: a folder that does not exist, or is empty.
        listener: who watches.
        named: whether a person named the data set; data that nobody named are taken
            only if they are generated.
        progress: called with steps done and steps in all.

    Raises:
        UserError: if the data were not declared public, a stage gets no step, or
            training fails.
        NotAvailable: as data set and system do.
    """
    configuration = replace(
        configuration,
        privacy=replace(configuration.privacy, epsilon=None, noise_multiplier=0.0),
        run=replace(
            configuration.run, rounds=recipe.steps, seed=recipe.seed, baseline="none"
        ),
    )
    assembly = assemble(configuration)
    _require_public(assembly, named)
    _require_steps(assembly)
    pretrained = load_pretrained(configuration.model.pretrained)
    backbone = make_backbone(assembly, 0, pretrained)
    folder = RunFolder.create(out)
    (out / "checkpoints").rmdir()  # nothing is resumed; an empty folder is taken again
    for text in (NOT_PRIVATE, *assembly.dataset.provenance.notices):
        listener.notice(text)
    provenance = assembly.dataset.provenance
    listener.fact("data", f"{provenance.description} [{provenance.source.value}]")
    before = evaluate(assembly, 0, backbone)
    listener.fact("before", _shown(assembly, before))
    done = 0

    def after_step() -> None:
        nonlocal done
        done += 1
        progress(done, recipe.steps)

    results: list[Trained] = []
    for stage, steps in enumerate(assembly.rounds()):
        if stage:
            backbone = make_backbone(assembly, stage, backbone.cpu().state_dict())
        found = train_centrally(assembly, stage, backbone, recipe, steps, after_step)
        results.append(found)
        listener.fact(
            "stage",
            f"{assembly.stages[stage].name}: {steps} steps, loss {found.first:.4f} to "
            f"{found.last:.4f}",
        )
    after = evaluate(assembly, len(assembly.stages) - 1, backbone)
    listener.fact("after", _shown(assembly, after))
    heads = [public_part(assembly, n, found) for n, found in enumerate(results)]
    files = _write_tensors(folder, assembly, backbone, heads)
    report = _report(assembly, recipe, results, heads, (before, after), files)
    folder.write_json("report.json", report)
    return report


def public_part(assembly: Assembly, stage: int, found: Trained) -> Parameters:
    """The parameters of a trained head that every client may start from."""
    names = lasting(assembly.stages[stage].task)
    return {name: value for name, value in found.head.items() if name in names}


def _require_public(assembly: Assembly, named: bool) -> None:
    source = assembly.dataset.provenance.source
    if not named and source is not Source.SYNTHETIC:
        name = assembly.configuration.data.name
        raise UserError(
            f"{assembly.system.name} would learn from {name!r}, which is "
            f"{source.value} data; say that they are public by naming them: "
            f"--dataset {name}."
        )


def _require_steps(assembly: Assembly) -> None:
    without = [
        f"{stage.name} ({100 * stage.share_of_rounds:.3g} % of the steps)"
        for stage, own in zip(assembly.stages, assembly.rounds(), strict=True)
        if not own
    ]
    if without:
        raise UserError(
            f"steps={assembly.configuration.run.rounds} are too few for every stage: "
            f"there is none for {', '.join(without)}; give more --steps."
        )


def _shown(assembly: Assembly, metrics: dict[str, float]) -> str:
    watched = [name for name in assembly.system.watched if name in metrics]
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in watched or metrics)


def _write_tensors(
    folder: RunFolder, assembly: Assembly, backbone: nn.Module, heads: list[Parameters]
) -> dict[str, str]:
    """Write everything but the report; the SHA-256 of both files of tensors."""
    configuration, provenance = assembly.configuration, assembly.dataset.provenance
    about = {
        "model": configuration.model.name,
        "privacy": NOT_PRIVATE,
        "dataset": f"{provenance.name} {provenance.checksum}".strip(),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    by_stage = dict(zip((s.name for s in assembly.stages), heads, strict=True))
    content = {
        folder.backbone.name: save(
            state,
            {"format": "pt", "configuration": configuration.to_toml(), **about},
        ),
        HEADS: heads_file(by_stage, assembly.dataset.class_names, about),
    }
    for name, data in content.items():
        write_atomically(folder.path / name, data)
    write_configuration(configuration, folder.path)
    folder.write_text("privacy_statement.txt", NOT_PRIVATE + "\n")
    folder.write_json("privacy_statement.json", {"private": False, "note": NOT_PRIVATE})
    return {name: sha256(data).hexdigest() for name, data in content.items()}


def _report(
    assembly: Assembly,
    recipe: CentralTraining,
    results: list[Trained],
    heads: list[Parameters],
    metrics: tuple[dict[str, float], dict[str, float]],
    files: dict[str, str],
) -> dict[str, Any]:
    dataset, provenance = assembly.dataset, assembly.dataset.provenance
    stages = []
    for number, (stage, steps, found, kept) in enumerate(
        zip(assembly.stages, assembly.rounds(), results, heads, strict=True)
    ):
        stages.append(
            {
                "name": stage.name,
                "steps": steps,
                "trainable": assembly.trainable(number),
                "loss": {"initial": found.first, "final": found.last},
                "head": {name: list(value.shape) for name, value in kept.items()},
                "head_left_out": sorted({*found.head} - {*kept}),
            }
        )
    return {
        "kind": "public pre-training",
        "private": False,
        "note": NOT_PRIVATE,
        "model": assembly.configuration.model.name,
        "dataset": {
            "name": provenance.name,
            "source": provenance.source.value,
            "licence": provenance.licence,
            "checksum": provenance.checksum,
            "seed": assembly.configuration.data.seed,
            "num_users": dataset.num_users,
            "num_classes": dataset.num_classes,
            "notices": [NOT_PRIVATE, *provenance.notices],
        },
        "optimizer": "AdamW",
        "steps": recipe.steps,
        "batch_users": recipe.batch_users,
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
        "stages": stages,
        "metric": assembly.system.metric,
        "metrics": {
            "initial": only_metrics(metrics[0]),
            "final": only_metrics(metrics[1]),
        },
        "files": files,
        "environment": environment(),
    }
