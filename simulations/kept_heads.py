"""Where the heads of a run lie between its rounds, if they persist."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

from accounting import Sampler
from accounting.mechanism import Noise
from fedemb.errors import UserError
from fedemb.persistent_heads import PersistentHeads
from fedemb.server import ServerState
from simulations.config import Configuration
from simulations.folder import RunFolder

Save: TypeAlias = Callable[[ServerState, Callable[[], None]], None]

PROVED = (
    Sampler.POISSON_VIRTUAL_CLIENTS,
    Sampler.POISSON_USERS,
    Sampler.FULL_PARTICIPATION,
)
"""Samplers by which nobody's part in a round depends on that of others."""

NOT_SHARED = (
    "local.head_init=persistent keeps heads in a file of this machine, which nodes of "
    "Flower do not share; use --runner inline or processes."
)


def refuse_unproved_heads(configuration: Configuration) -> None:
    """Refuse persistent heads where the proof in `fedemb.persistent_heads` has a gap.

    Args:
        configuration: with sampler and users per virtual client filled in.

    Raises:
        UserError: naming what is in the way, and what would do.
    """
    privacy, run = configuration.privacy, configuration.run
    if configuration.local.head_init != "persistent":
        return
    users = privacy.users_per_virtual_client
    if users != 1:
        raise UserError(
            f"local.head_init=persistent with users_per_virtual_client={users}: a head "
            "that persists belongs to one user; give --users-per-virtual-client 1, or "
            "take head_init=public."
        )
    if privacy.sampler not in PROVED:
        raise UserError(
            f"local.head_init=persistent is not proved for sampler={privacy.sampler}; "
            f"use --sampler {PROVED[0]}, or head_init=public."
        )
    if privacy.mechanism != Noise.INDEPENDENT:
        raise UserError(
            "local.head_init=persistent is not proved for "
            f"mechanism={privacy.mechanism}; use --mechanism {Noise.INDEPENDENT}, or "
            "head_init=public."
        )
    if run.runner == "flower":
        raise UserError(NOT_SHARED)


@contextmanager
def kept_heads(
    configuration: Configuration, folder: RunFolder | None, stage: int, round_index: int
) -> Iterator[PersistentHeads | None]:
    """The heads of a stage that goes on at `round_index`; None if heads do not persist.

    Without a folder they are gone with the context.
    """
    if configuration.local.head_init != "persistent":
        yield None
        return
    with ExitStack() as stack:
        if folder is None:
            aside = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedemb-"))
            path = Path(aside) / "heads.sqlite"
        else:
            path = folder.heads(stage)
        heads = stack.enter_context(closing(PersistentHeads(path)))
        heads.begin_at(round_index)
        yield heads


def settling(save: Save, heads: PersistentHeads | None) -> Save:
    """`save`, after which the heads that a durable round has replaced are forgotten."""
    if heads is None:
        return save

    def saved(state: ServerState, commit: Callable[[], None]) -> None:
        def committed() -> None:
            commit()
            heads.settle(state.round_index - 1)

        save(state, committed)

    return saved
