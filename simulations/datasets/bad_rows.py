"""Rows that cannot be used: named and refused, or counted and left out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedemb.data import Provenance
from fedemb.errors import UserError


class BadFile(Exception):
    """Why a file cannot be used, from a reader that does not know whose row it is."""


class BadRows:
    """Rows that cannot be used, each with its first reason.

    Args:
        total: number of rows.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._reason: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._reason)

    def add(self, row: int, reason: str) -> None:
        """Note a row; a second reason is not kept."""
        self._reason.setdefault(row, reason)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Rows without a reason against them, bool `[total]`."""
        mask = np.ones(self.total, dtype=bool)
        mask[list(self._reason)] = False
        return mask

    def listed(self, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """Name and reason of every bad row, in order of rows."""
        return [
            (names[row] if names is not None else f"row {row}", self._reason[row])
            for row in sorted(self._reason)
        ]

    def settle(
        self, provenance: Provenance, skip: bool, names: Sequence[str] | None = None
    ) -> Provenance:
        """Record what was left out, or refuse it.

        Args:
            provenance: gets a notice if rows are left out.
            skip: whether rows may be left out.
            names: what to call each row in messages; None is `row 7`.

        Raises:
            UserError: bad rows that may not be skipped, or no other rows.
        """
        if not self._reason:
            return provenance
        offenders = self.listed(names)
        what = (
            f"{len(offenders):,} of {self.total:,} rows cannot be used: "
            f"{first_offenders(offenders)}"
        )
        if not skip:
            raise UserError(
                f"{provenance.name}: {what}; repair them, or leave them out with "
                "--skip-bad."
            )
        if len(offenders) == self.total:
            raise UserError(f"{provenance.name}: {what}; nothing is left.")
        notice = f"left out: {what}."
        return replace(provenance, notices=(*provenance.notices, notice))


def first_offenders(bad: Sequence[tuple[str, str]], count: int = 3) -> str:
    """`a.png (truncated), b.png (no such file), ...` for messages.

    Example:
        >>> first_offenders([("a", "x"), ("b", "y")], count=1)
        'a (x), ...'
    """
    text = ", ".join(f"{name} ({reason})" for name, reason in bad[:count])
    return text + (", ..." if len(bad) > count else "")
