"""Swapping one mechanism of a system off, or for another: changed specifications.

Importing this imports no torch.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from fedemb.errors import UserError

Spec = TypeVar("Spec")


def changed(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """A frozen dataclass with some of its fields replaced.

    Args:
        spec: what a system is built from, such as a task.
        changes: new values by field; where a field is a dataclass itself, a mapping
            changes fields of it and leaves the others.

    Raises:
        UserError: for a field that there is none of, or a value that the dataclass
            refuses.

    Example:
        >>> from model_zoo.cv_mim.sizes import Sizes
        >>> changed(Sizes(), {"view_weight": 0.0}).view_weight
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
        old = getattr(spec, name)
        partly = isinstance(value, Mapping) and is_dataclass(old)
        values[name] = changed(old, value) if partly else value
    return replace(spec, **values)
