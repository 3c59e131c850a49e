"""Systems in a file of one's own (`path/to/file.py:NAME`), in runs that may move.

In memory a configuration has the full path of the file and a digest of its content. A
run folder has the path as seen from itself, and a copy of the file, so that it opens
wherever it is moved, alone or with what lies around it. What decides about noise has
the file's name and digest alone, which no move changes.
"""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from fedemb.checkpoint import write_atomically
from fedemb.errors import UserError
from simulations.config import Configuration, ModelConfig

_SHOWN = 12  # digits of a digest in messages


def split_name(model: str) -> tuple[Path | None, str]:
    """The file that a system's name begins with, if it does, and the rest.

    Example:
        >>> split_name("mine/system.py:SYSTEM:tiny")
        (PosixPath('mine/system.py'), 'SYSTEM:tiny')
        >>> split_name("lenet:tiny")
        (None, 'lenet:tiny')
    """
    path, in_file, rest = model.partition(".py:")
    return (Path(f"{path}.py"), rest) if in_file else (None, model)


def located(configuration: Configuration) -> Configuration:
    """With the full path of the file, and its digest if none is given and it exists."""
    path, _ = split_name(configuration.model.name)
    if path is None:
        return configuration
    found = _at(configuration, path.resolve())
    if found.model.file_digest or not path.is_file():
        return found
    return replace(found, model=replace(found.model, file_digest=_digest(path)))


def placeless(configuration: Configuration) -> Configuration:
    """With the bare name of the file: equal wherever the file lies."""
    path, _ = split_name(configuration.model.name)
    return configuration if path is None else _at(configuration, Path(path.name))


def require_same_file(model: ModelConfig) -> None:
    """Refuse a file whose content is not what the configuration says.

    Raises:
        UserError: naming both digests.
    """
    path, _ = split_name(model.name)
    if path is None or model.file_digest is None or not path.is_file():
        return  # the registry says what is missing
    found = _digest(path)
    if found != model.file_digest:
        raise UserError(
            f"{path} has the digest {found[:_SHOWN]}, but the run began with "
            f"{model.file_digest[:_SHOWN]}; put the file back as it was (run folders "
            "keep a copy of it), or start a new run."
        )


def write_configuration(configuration: Configuration, folder: Path) -> None:
    """Write `config.toml` and, if the system is in a file, a copy of that."""
    path, _ = split_name(configuration.model.name)
    if path is not None:
        write_atomically(folder / path.name, path.read_bytes())
        seen = os.path.relpath(path, folder.resolve())
        configuration = _at(configuration, Path(seen))
    write_atomically(folder / "config.toml", configuration.to_toml().encode())


def in_folder(configuration: Configuration, folder: Path) -> Configuration:
    """What `write_configuration` wrote, with the full path of the file.

    It is the file that the configuration names, as seen from the folder, or if that is
    gone, the copy in the folder.
    """
    path, _ = split_name(configuration.model.name)
    if path is None:
        return configuration
    there, copy = (folder.resolve() / path).resolve(), folder.resolve() / path.name
    return _at(configuration, copy if copy.is_file() and not there.is_file() else there)


def _at(configuration: Configuration, path: Path) -> Configuration:
    name = f"{path}:{split_name(configuration.model.name)[1]}"
    return replace(configuration, model=replace(configuration.model, name=name))


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
