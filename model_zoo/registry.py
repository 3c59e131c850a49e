"""Which systems can be trained, by name, and how to add one.

A `System` is a card (who published it, what a user is, which sizes exist) with builders
that make its training stages. Cards import no torch, so listing them is instant; a
system's code is imported when it is built. Systems come from three places: the table
below, installed packages with an entry point in the group `fedemb.systems`, and single
files named as `path/to/file.py:NAME`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fedemb.errors import NotAvailable, UserError
from model_zoo.system import Builder, Configuration, DataFacts, System, TaskOptions

__all__ = [
    "Builder",
    "Configuration",
    "DataFacts",
    "System",
    "TaskOptions",
    "describe",
    "get",
    "names",
]

ENTRY_POINTS = "fedemb.systems"

_BUILT_IN: Mapping[str, str] = {
    "small_cnn": "model_zoo.image.systems:SMALL_CNN",
    "lenet": "model_zoo.image.systems:LENET",
    "mobilenet_small": "model_zoo.image.systems:MOBILENET_SMALL",
    "mobilenet_v2": "model_zoo.image.systems:MOBILENET_V2",
    "resnet50": "model_zoo.image.systems:RESNET50",
    "efficientnet_lite0": "model_zoo.image.systems:EFFICIENTNET_LITE0",
    "cv_mim": "model_zoo.cv_mim.system:CV_MIM",
    "univrd": "model_zoo.univrd.systems:UNIVRD",
    "videoglue": "model_zoo.videoglue.card:VIDEOGLUE",
    "videoprism": "model_zoo.videoprism.card:VIDEOPRISM",
    "const_cl": "model_zoo.const_cl.card:CONST_CL",
    "g_vilm": "model_zoo.g_vilm.card:G_VILM",
    "video_language_distillation": "model_zoo.vld.card:VIDEO_LANGUAGE_DISTILLATION",
    "deeplab2": "model_zoo.deeplab2.card:DEEPLAB2",
    "imagen3": "model_zoo.imagen3.card:IMAGEN3",
}


def names() -> list[str]:
    """Names of all systems that are in the tree or installed, sorted.

    Example:
        >>> "lenet" in names()
        True
    """
    return sorted({*_BUILT_IN, *(point.name for point in _installed())})


def get(name: str) -> System:
    """The system of a name: `NAME`, `NAME:CONFIGURATION`, or the same in a file.

    With a configuration, it becomes the system's default one, and its metric, if it has
    one of its own, the system's.

    Args:
        name: such as `lenet`, `lenet:tiny`, `my_system.py:SYSTEM` or
            `my_system.py:SYSTEM:tiny`.

    Raises:
        NotAvailable: if there is no such system, configuration or file.
        UserError: if a file or an installed package does not hold a `System`.

    Example:
        >>> get("lenet:tiny").default_configuration
        'tiny'
    """
    path, in_file, rest = name.partition(".py:")
    if in_file:
        attribute, _, configuration = rest.partition(":")
        system = _from_file(Path(f"{path}.py"), attribute)
    else:
        base, _, configuration = name.partition(":")
        system = _from_tables(base)
    if not configuration:
        return system
    metric = system.configuration(configuration).metric or system.metric
    return replace(system, default_configuration=configuration, metric=metric)


def describe(name: str) -> dict[str, Any]:
    """What a system is, and the parameter counts of its configurations.

    Counts are taken from modules on the meta device: nothing is allocated, and no
    pre-trained weights are needed. Parameters that stages share (by name) count once.

    Args:
        name: as for `get`; with a configuration only that one is counted.

    Returns:
        The keys `name`, `paper`, `user`, `stages` and `configurations`. The
        last maps names to `backbone_parameters`, `head_parameters`, `total_parameters`
        and `note`.

    Raises:
        NotAvailable: as `get` does.

    Example:
        >>> describe("lenet")["configurations"]["paper"]["backbone_parameters"]
        453632
    """
    system = get(name)
    wanted = dict(system.configurations)
    if name.rpartition(":")[2] in wanted:
        wanted = {system.default_configuration: system.configuration()}
    return {
        "name": system.name,
        "paper": system.paper,
        "user": system.user,
        "stages": list(system.stages),
        "configurations": {key: _count(value) for key, value in wanted.items()},
    }


def _count(configuration: Configuration) -> dict[str, int | str]:
    import torch

    stages = configuration.build(data=configuration.data, options=configuration.options)
    backbone: dict[str, int] = {}
    head = 0
    with torch.device("meta"):
        for stage in stages:
            module = stage.task.make_backbone()
            backbone |= {k: v.numel() for k, v in module.named_parameters()}
            own = stage.task.make_head(configuration.data.num_classes)
            head += sum(value.numel() for value in own.parameters())
    size = sum(backbone.values())
    return {
        "backbone_parameters": size,
        "head_parameters": head,
        "total_parameters": size + head,
        "note": configuration.note,
    }


def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _from_tables(name: str) -> System:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return _checked(getattr(importlib.import_module(module), attribute), name)
    for point in _installed():
        if point.name == name:
            return _checked(point.load(), name)
    raise NotAvailable(
        f"there is no system {name!r}; choose from {', '.join(names())}, or name a "
        "file as path/to/file.py:NAME."
    )


def _from_file(path: Path, attribute: str) -> System:
    if not path.is_file():
        raise NotAvailable(f"there is no file {path} to take a system from.")
    # The name depends on the path alone, so that worker processes can unpickle from it.
    digest = sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_name = f"fedemb_system_{digest}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} cannot be imported as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(
                f"{path} fails when imported: {type(error).__name__}: {error}"
            ) from error
    found = vars(sys.modules[module_name])
    systems = [key for key, value in found.items() if isinstance(value, System)]
    if attribute not in found:
        raise NotAvailable(
            f"{path} has no {attribute!r}; its systems are "
            f"{', '.join(systems) or '(none)'}."
        )
    return _checked(found[attribute], f"{path}:{attribute}")


def _checked(value: object, name: str) -> System:
    if not isinstance(value, System):
        raise UserError(
            f"{name} is a {type(value).__name__}, not a model_zoo.system.System."
        )
    return value
