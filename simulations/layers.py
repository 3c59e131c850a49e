"""From recipes and the command line to a configuration: layers, later ones winning.

A recipe (TOML) sets what a data set or system needs; the command line overrides single
values. A misspelt section or key is an error that names the choices.
"""

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from accounting import Sampler
from fedemb.errors import UserError
from model_zoo.changes import merged
from simulations.config import Configuration

Section = TypeVar("Section")


def resolve(*layers: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """Merge layers of `{section: {key: value}}`, later ones winning, and validate.

    Setting `privacy.epsilon` unsets an earlier `privacy.noise_multiplier` and vice
    versa.

    Raises:
        UserError: for an unknown section or key, or a value out of range.

    Example:
        >>> resolve({"run": {"rounds": 5}}, {"run": {"rounds": 7}}).run.rounds
        7
    """
    found: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            own = found.setdefault(section, {})
            if section == "privacy":
                _choose_one(own, values)
            found[section] = merged(own, values)
    sections = {f.name: f.type for f in fields(Configuration)}
    unknown = set(found) - set(sections)
    if unknown:
        raise UserError(
            f"unknown section {sorted(unknown)[0]!r}; sections are "
            f"{', '.join(sections)}."
        )
    hints = typing.get_type_hints(Configuration)
    return Configuration(
        **{name: _section(hints[name], name, own) for name, own in found.items()}
    )


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file.

    Raises:
        UserError: if the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("simulations") / "recipes"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def recipe(name: str) -> dict[str, dict[str, Any]]:
    """A recipe by name, or from a file.

    Raises:
        UserError: if there is no such recipe.
    """
    if name in recipe_names():
        return tomllib.loads(
            (resources.files("simulations") / "recipes" / f"{name}.toml").read_text()
        )
    if name.endswith(".toml") or Path(name).exists():
        return read_toml(Path(name))
    raise UserError(
        f"no recipe {name!r}; use a TOML file or one of {', '.join(recipe_names())}."
    )


def parse_setting(text: str) -> dict[str, dict[str, Any]]:
    """`section.key=value` as a layer; the value is read as TOML, or else as text.

    Raises:
        UserError: if the text has another form.

    Example:
        >>> parse_setting("local.learning_rate=0.1")
        {'local': {'learning_rate': 0.1}}
        >>> parse_setting("model.head=linear")
        {'model': {'head': 'linear'}}
        >>> parse_setting("model.changes.losses.center=0.0")
        {'model': {'changes': {'losses': {'center': 0.0}}}}
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UserError(
            f"--set {text!r} must look like section.key=value, such as "
            "local.learning_rate=0.1."
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return {section: parsed}


def _choose_one(own: dict[str, Any], values: Mapping[str, Any]) -> None:
    if values.get("noise_multiplier") is not None:
        own["epsilon"] = None
    if values.get("epsilon") is not None:
        own["noise_multiplier"] = None


def _section(kind: type[Section], name: str, values: Mapping[str, Any]) -> Section:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(
            f"unknown key {name}.{unknown[0]}; {name} has {', '.join(sorted(hints))}."
        )
    return kind(
        **{key: _typed(hints[key], f"{name}.{key}", v) for key, v in values.items()}
    )


def _typed(hint: Any, name: str, value: Any) -> Any:
    """`value` as the type of its field, or a UserError that names it."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is float and type(value) in (int, float):
            return float(value)
        kind = typing.get_origin(option) or option
        if option is not type(None) and type(value) is kind:
            return value
        if option is Sampler:
            try:
                return Sampler(value)
            except ValueError as error:
                choices = ", ".join(s.value for s in Sampler)
                raise UserError(
                    f"{name}={value!r} must be one of {choices}."
                ) from error
    kinds = " or ".join(o.__name__ for o in options if o is not type(None))
    raise UserError(f"{name}={value!r} must be {kinds}.")
