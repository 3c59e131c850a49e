"""Swapping one mechanism of a system off, or for another: changed specifications.

Importing this imports no torch.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from fedemb.errors import UserError
from model_zoo.system import System

Spec = TypeVar("Spec")


def with_changes(system: System, changes: Mapping[str, Any]) -> System:
    """A system whose default configuration is built with changes.

    They go to the builder: to what it hands on to the task where it has a field
    `changes`, and to its own fields otherwise. What `model.changes` of a run sets.

    Args:
        system: of the zoo, or of one's own.
        changes: as `changed` takes them.

    Raises:
        UserError: as `changed`; where the builder hands changes on, when it is called.

    Example:
        >>> from model_zoo import registry
        >>> off = {"sizes": {"inter_weight": 0}}
        >>> system = with_changes(registry.get("cv_mim"), off)
        >>> system.configuration().build.sizes.inter_weight
        0.0
    """
    if not changes:
        return system
    usual = system.configuration()
    if not is_dataclass(usual.build):
        raise UserError(
            f"{system.name} has nothing to change: its builder is no dataclass; write "
            "a card of your own, as model_zoo/README.md shows."
        )
    build: Any = usual.build
    if any(field.name == "changes" for field in fields(build)):
        build = replace(build, changes=merged(build.changes, changes))
    else:
        build = changed(build, changes)
    other = replace(usual, build=build)
    configurations = {**system.configurations, system.default_configuration: other}
    return replace(system, configurations=configurations)


def changed(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """A frozen dataclass with some of its fields replaced.

    Args:
        spec: what a system is built from, such as a task.
        changes: new values by field; where a field is a dataclass or a mapping itself,
            a mapping changes entries of it and leaves the others.

    Raises:
        UserError: for a field that there is none of, a value of another type, or one
            that the dataclass refuses.

    Example:
        >>> from model_zoo.cv_mim.sizes import Sizes
        >>> changed(Sizes(), {"view_weight": 0}).view_weight
        0.0
    """
    if not is_dataclass(spec) or isinstance(spec, type):
        raise UserError(f"{spec!r} has no fields to change; give a whole new value.")
    known = [field.name for field in fields(spec) if field.init]
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise UserError(
                f"{type(spec).__name__} has no {name!r} to change; it has "
                f"{', '.join(known)}."
            )
        values[name] = _fitting(name, getattr(spec, name), value)
    return replace(spec, **values)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings as one; the second wins, entry by entry also further inside.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
        {'a': {'b': 1, 'c': 3}}
    """
    out = dict(first)
    for name, value in second.items():
        old = out.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merged(old, value)
        out[name] = value
    return out


def _fitting(name: str, old: Any, value: Any) -> Any:
    """`value` in the type of what it replaces; None and what replaces None may be all.

    TOML and JSON have no tuples and write 1.0 as 1.
    """
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        unknown = [key for key in value if key not in old]
        if unknown:
            raise UserError(
                f"{name} has no {unknown[0]!r} to change; it has {', '.join(old)}."
            )
        return {**old, **{key: _fitting(key, old[key], value[key]) for key in value}}
    if is_dataclass(old) and isinstance(value, Mapping):
        return changed(old, value)
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    if type(old) is float and type(value) is int:
        return float(value)
    simple = (bool, int, float, str, tuple)
    wrong = isinstance(old, simple) and type(value) is not type(old)
    wrong = wrong or (is_dataclass(old) and not is_dataclass(value))
    if wrong and value is not None:
        raise UserError(
            f"{name}={value!r} must be {_described(old)}; it is {old!r} unless changed."
        )
    return value


def _described(old: Any) -> str:
    if is_dataclass(old):
        return f"a table of fields of {type(old).__name__}"
    return "a list" if isinstance(old, tuple) else f"of type {type(old).__name__}"
