"""The words in which guarantees are stated."""

from enum import StrEnum


class PrivacyUnit(StrEnum):
    """Whose presence is protected."""

    USER = "user"
    EXAMPLE = "example"


class Adjacency(StrEnum):
    """Which pairs of data sets must be indistinguishable."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"
    ZERO_OUT = "zero-out"


class DominatingPair(StrEnum):
    """The pair of distributions that bounds one round.

    `add_or_remove`: (1 - q) N(0, z^2) + q N(1, z^2) against N(0, z^2), both directions.
    `replace_one`: (1 - q) N(0, z^2) + q N(+1, z^2) against (1 - q) N(0, z^2) +
    q N(-1, z^2), the antipodal pair.
    """

    ADD_OR_REMOVE = "add_or_remove"
    REPLACE_ONE = "replace_one"


class Sampler(StrEnum):
    """How the users of a round are chosen."""

    POISSON_VIRTUAL_CLIENTS = "poisson-virtual-clients"
    POISSON_USERS = "poisson-users"
    FIXED_SIZE = "fixed-size"
    FULL_PARTICIPATION = "full-participation"


class UnsupportedMechanism(ValueError):
    """No theorem is known here for this combination; the message says which."""
