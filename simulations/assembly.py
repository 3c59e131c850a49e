"""From a configuration to the parts of a run: data, stages, plan, runner.

Everything here is a function of the configuration alone, so a worker on another machine
assembles the same parts from the same text.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedemb.baselines import AggregatedHeadTask
from fedemb.data import UserDataset
from fedemb.errors import UserError
from fedemb.noise_forecast import NoiseForecast, noise_forecast
from fedemb.parameters import FlatLayout, refuse_batch_statistics
from fedemb.persistent_heads import PersistentHeads
from fedemb.plan import PrivacyPlan
from fedemb.protocols import Parameters
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice, InlineRunner
from fedemb.server import IterateAverage, ServerAdam, ServerOptimizer, ServerSGD
from fedemb.stages import Stage
from model_zoo import registry
from model_zoo.changes import with_changes
from model_zoo.system import COPIES, DataFacts, System, TaskOptions
from simulations import datasets
from simulations.config import Configuration
from simulations.layers import recipe, recipe_names, resolve
from simulations.promise import Promise, completed, make_promise, whole_periods
from simulations.scratch import in_folder, located, require_same_file, split_name


@dataclass(frozen=True)
class Assembly:
    """The parts that a configuration names."""

    configuration: Configuration
    dataset: UserDataset
    system: System
    stages: tuple[Stage, ...]

    def rounds(self) -> list[int]:
        """Rounds of each stage; they add up to the run's rounds."""
        return self.split_rounds(self.configuration.run.rounds)

    def split_rounds(self, total: int) -> list[int]:
        """How so many rounds are divided among the stages, by their shares."""
        ends, share = [0], 0.0
        for stage in self.stages:
            share += stage.share_of_rounds
            ends.append(min(total, round(total * share)))
        ends[-1] = total
        return [b - a for a, b in zip(ends, ends[1:], strict=False)]

    def learning_rate(self, stage: int) -> float:
        """The server's learning rate at the start of a stage."""
        scale = self.stages[stage].learning_rate_scale
        return self.configuration.server.learning_rate * scale

    def layout(self, stage: int, backbone: nn.Module) -> FlatLayout:
        """The trained parameters of a stage.

        Raises:
            UserError: if it trains none, with the stage's name where there are several.
        """
        try:
            return FlatLayout.of(backbone, self.trainable(stage))
        except UserError as error:
            if len(self.stages) == 1:
                raise
            raise UserError(
                f"stage {self.stages[stage].name!r} has nothing to train: {error} Of "
                "what is chosen, a stage trains what its loss reaches; name something "
                "for every stage (--trainable names:PATTERN,PATTERN)."
            ) from error

    def trainable(self, stage: int) -> str:
        """Which parameters a stage trains; its builder knows what the user chose."""
        return self.stages[stage].trainable

    @cached_property
    def trained_parameters(self) -> int:
        """P of the stage that trains most."""
        sizes = (
            self.layout(stage, make_backbone(self, stage)).size
            for stage in range(len(self.stages))
        )
        return max(sizes)

    def promise(self) -> Promise:
        """The privacy plan, with calibrated noise where epsilon is the target."""
        if self.configuration.run.baseline == "dp-sgd":
            from simulations.dp_sgd import example_level, pooled_examples

            return example_level(self.configuration, pooled_examples(self))
        promise = make_promise(self.configuration, self.dataset.num_users)
        whole_periods(promise.plan, self.rounds())
        return promise

    def forecast(self, plan: PrivacyPlan) -> NoiseForecast:
        """What the noise of a plan will do to the stage that trains most."""
        return noise_forecast(
            trained_parameters=self.trained_parameters,
            clip_norm=plan.clip_norm,
            noise_multiplier=plan.value_noise_multiplier,
            expected_virtual_clients=plan.expected_clients,
        )

    def optimizer(self, stage: int) -> ServerOptimizer:
        """The server optimizer of a stage, with what it releases."""
        server = self.configuration.server
        rate = self.learning_rate(stage)
        fall_over = self.rounds()[stage] if server.schedule == "linear" else None
        optimizer: ServerOptimizer
        if server.optimizer == "adam":
            optimizer = ServerAdam(
                learning_rate=rate,
                beta1=server.momentum,
                beta2=server.beta2,
                fall_over=fall_over,
            )
        else:
            optimizer = ServerSGD(
                learning_rate=rate,
                momentum=server.momentum,
                fall_over=fall_over,
            )
        if server.average_decay == 0:
            return optimizer
        return IterateAverage(optimizer=optimizer, decay=server.average_decay)


def layered(
    dataset: str | None,
    model: str | None,
    named_recipe: str | None,
    *overrides: Mapping[str, Mapping[str, Any]],
) -> Configuration:
    """Resolve a configuration from names and overrides.

    The recipe of the data set is the base; a system's own recipe comes on top of it, a
    named recipe on top of that, then the overrides in order. The table `without_noise`
    of the topmost recipe holds what else it sets for runs with a noise multiplier of 0.
    What recipes of the package set and data set or system have no use for is left out.

    Raises:
        UserError: for unknown recipes, sections or keys, or values out of range; for an
            option that the system has no use for.
        NotAvailable: for an unknown system.
    """
    asked = _system_name(model) if model else ""
    if dataset is None and asked:
        dataset = registry.get(asked).default_dataset
    base = (dataset or "").partition(":")[0]
    names = [base if base in recipe_names() else "own-data", asked]
    recipes = [recipe(n) for n in dict.fromkeys(names) if n in recipe_names()]
    if dataset:
        recipes = [_understood(layer, dataset) for layer in recipes]
    if named_recipe:
        recipes.append(recipe(named_recipe))
    silent = [layer.pop("without_noise", {}) for layer in recipes][-1]
    named: list[Mapping[str, Mapping[str, Any]]] = []
    if dataset:
        named.append({"data": {"name": dataset}})
    if model:
        named.append({"model": {"name": model}})
    found = resolve(*recipes, *named, *overrides)
    if found.privacy.noise_multiplier == 0:
        found = resolve(*recipes, silent, *named, *overrides)
    own_file = named_recipe is not None and named_recipe not in recipe_names()
    written = [*overrides, *([recipes[-1], silent] if own_file else [])]
    return located(_usable(found, written))


def _usable(
    found: Configuration, written: Sequence[Mapping[str, Mapping[str, Any]]]
) -> Configuration:
    """Without options of recipes that the system has no use for.

    Raises:
        UserError: for such an option in a layer that a person has written.
    """
    require_same_file(found.model)
    system = registry.get(found.model.name)
    for layer in written:
        options = layer.get("model", {})
        chosen = {name: options[name] for name in system.unused if name in options}
        system.refuse_unused(TaskOptions(**chosen))
    nothing: dict[str, Any] = dict.fromkeys(system.unused)
    return replace(found, model=replace(found.model, **nothing))


def _understood(
    layer: dict[str, dict[str, Any]], dataset: str
) -> dict[str, dict[str, Any]]:
    """A recipe without data settings that were meant for another data set."""
    foreign = datasets.OPTIONAL - datasets.describe(dataset).options
    return {
        section: {
            key: value
            for key, value in settings.items()
            if section != "data" or key not in foreign
        }
        for section, settings in layer.items()
    }


def assemble(configuration: Configuration) -> Assembly:
    """Open the data and build the system's stages.

    Raises:
        UserError, NotAvailable: as data set and system do.
    """
    model = configuration.model
    require_same_file(model)
    dataset = open_data(configuration)
    configuration = completed(configuration, dataset.num_users)
    system = with_changes(registry.get(model.name), model.changes)
    aggregated = configuration.run.baseline == "dp-fedavg"
    # Runs made before such options were refused have them from a recipe.
    copies = {
        name: getattr(model, name) for name in COPIES if name not in system.unused
    }
    options = TaskOptions(
        **copies,
        head=model.head or ("linear" if aggregated else None),
        label_space=model.label_space or ("global" if aggregated else None),
        embedding_dim=model.embedding_dim,
        trainable=model.trainable,
        temperature=model.temperature,
        always_normalize=model.always_normalize,
    )
    try:
        stages = system.build(data=facts(dataset), options=options)
    except UserError as error:
        if not aggregated or model.head:
            raise
        raise UserError(
            f"--baseline dp-fedavg aggregates a linear head over all classes: {error}"
        ) from error
    if aggregated:
        stages = tuple(replace(s, task=AggregatedHeadTask(s.task)) for s in stages)
    return Assembly(configuration, dataset, system, stages)


def open_data(configuration: Configuration) -> UserDataset:
    """The data set of a configuration.

    Raises:
        UserError, NotAvailable: as the data set does.
    """
    data = configuration.data
    return datasets.load(
        data.name,
        root=Path(data.root),
        users=data.users,
        seed=data.seed,
        require_real=data.require_real,
        image_size=data.image_size,
        frames=data.frames,
        skip_bad=data.skip_bad,
        user_column=data.user_column,
        label_column=data.label_column,
        image_column=data.image_column,
        amplify=data.amplify,
        keep=data.keep is not False,
    )


def facts(dataset: UserDataset) -> DataFacts:
    """What a system may know about a data set."""
    fields = dataset.held_out().fields
    first = next(iter(fields.values()))
    named: Mapping[str, Sequence[str]] = getattr(dataset, "vocabularies", {})
    return DataFacts(
        example_shape=tuple(int(n) for n in first.shape[1:]),
        num_classes=dataset.num_classes,
        class_names=tuple(dataset.class_names),
        vocabularies={name: tuple(words) for name, words in named.items()},
        fields=tuple(fields),
    )


def make_backbone(
    assembly: Assembly, stage: int, earlier: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The backbone at the start of a stage, ready to be trained.

    Its initial values are drawn from a public seed. `earlier` (the state of the
    previous stage, by way of `Stage.inherit`, or of a pre-trained backbone) replaces
    those of the same name and shape.

    Raises:
        UserError: if the backbone uses batch statistics, or `earlier` fits nowhere.
    """
    seed = assembly.configuration.run.seed or 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = assembly.stages[stage].task.make_backbone()
    own = backbone.state_dict()
    inherit = assembly.stages[stage].inherit
    if stage and earlier and inherit is not None:
        earlier = inherit(earlier)
    fitting = {
        name: value
        for name, value in (earlier or {}).items()
        if name in own and own[name].shape == value.shape
    }
    if earlier and not fitting:
        raise UserError(
            "the pre-trained backbone shares no parameter with "
            f"{assembly.configuration.model.name}: it has "
            f"{', '.join(list(earlier)[:5])}, "
            "...; choose the model and embedding_dim it was trained with."
        )
    backbone.load_state_dict(fitting, strict=False)
    refuse_batch_statistics(backbone)
    return backbone


def device(configuration: Configuration) -> torch.device:
    """Where to compute.

    Raises:
        UserError: if torch cannot compute there.
    """
    name = configuration.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cards = torch.cuda.device_count()
        raise UserError(
            f"run.device={name!r} is not a device that torch can use on this machine, "
            f"which has {cards} CUDA cards for it; use auto, cpu"
            + (" or cuda." if cards else ".")
        ) from error
    return found


def precision(configuration: Configuration) -> torch.dtype | None:
    """What products of the backbone are rounded to, if not to float32."""
    return torch.bfloat16 if configuration.run.precision == "bfloat16" else None


def client_key(key: RootKey, stage: int) -> RootKey:
    """Root of the clients' local randomness; tells nothing about the noise's key."""
    return RootKey(key.derive("clients", stage), key.seeded)


def worker_runner(
    client_key: RootKey, *, configuration: str, stage: int, heads: str | None = None
) -> InlineRunner:
    """What a worker elsewhere builds from the run's resolved configuration (TOML).

    `heads` is the file of those that persist, which all workers share.
    """
    assembly = assemble(configuration_from_toml(configuration))
    backbone = make_backbone(assembly, stage)
    kept = None if heads is None else PersistentHeads(Path(heads))
    return inline_runner(
        assembly, stage, backbone, client_key, EngineChoice(), kept_heads=kept
    )


def inline_runner(
    assembly: Assembly,
    stage: int,
    backbone: nn.Module,
    client_key: RootKey,
    engine: EngineChoice,
    head: Parameters | None = None,
    kept_heads: PersistentHeads | None = None,
) -> InlineRunner:
    """A runner in this process. It never sees the key of the noise.

    `head` is what public heads start from, `kept_heads` those that persist.
    """
    return InlineRunner(
        task=assembly.stages[stage].task,
        dataset=assembly.dataset,
        backbone=backbone,
        layout=assembly.layout(stage, backbone),
        recipe=assembly.configuration.local,
        key=client_key,
        engine=engine,
        device=device(assembly.configuration),
        precision=precision(assembly.configuration),
        public_head=head or {},
        kept_heads=kept_heads,
    )


def configuration_of(folder: Path) -> Configuration:
    """The configuration that a run folder holds."""
    text = (folder / "config.toml").read_text()
    return in_folder(configuration_from_toml(text), folder)


def configuration_from_toml(text: str) -> Configuration:
    """The inverse of `Configuration.to_toml`."""
    layer = tomllib.loads(text)
    privacy = layer.setdefault("privacy", {})
    privacy.setdefault("epsilon", None)
    privacy.setdefault("noise_multiplier", None)
    return resolve(layer)


def _system_name(model: str) -> str:
    return model if split_name(model)[0] else model.partition(":")[0]
