"""The statement's vocabulary in plain words."""

from accounting.mechanism import Adjacency, DominatingPair, PrivacyUnit, Sampler

UNIT = {
    PrivacyUnit.USER: "one user's whole data",
    PrivacyUnit.EXAMPLE: "a single example",
}
"""Whose presence is protected."""

ADJACENCY = {
    Adjacency.ADD_OR_REMOVE_ONE: "two populations are neighbours if one of them "
    "has one more",
    Adjacency.REPLACE_ONE: "two populations are neighbours if one is replaced by any "
    "other",
    Adjacency.ZERO_OUT: "two populations are neighbours if one contributes nothing in "
    "one of them",
}
"""Which two populations cannot be told apart."""

PAIR = {
    DominatingPair.ADD_OR_REMOVE: "(1-q) N(0, z^2) + q N(1, z^2) against N(0, z^2), in "
    "both directions",
    DominatingPair.REPLACE_ONE: "(1-q) N(0, z^2) + q N(+1, z^2) against "
    "(1-q) N(0, z^2) + q N(-1, z^2)",
}
"""The pair of distributions that bounds a round."""

SAMPLER = {
    Sampler.POISSON_VIRTUAL_CLIENTS: "seats are permuted and cut into virtual clients, "
    "each drawn independently with probability q",
    Sampler.POISSON_USERS: "each user is drawn independently with probability q",
    Sampler.FIXED_SIZE: "a uniformly random set of exactly that many users, without "
    "replacement; its multiplier is noise over 2 C",
    Sampler.FULL_PARTICIPATION: "everybody takes part in every round; q = 1",
    Sampler.SHUFFLED: "everybody takes part once an epoch, in random order; no "
    "amplification is claimed, q = 1 once an epoch",
    Sampler.TRUNCATED_POISSON: "drawn independently with probability q, a cohort that "
    "exceeds its limit is cut down to it at random",
    Sampler.RANDOM_ALLOCATION: "every user takes part in a random set of rounds of "
    "fixed size in each period",
    Sampler.BALLS_IN_BINS: "every user falls into one random round of each period",
}
"""How the users of a round are drawn."""
