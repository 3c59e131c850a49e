"""The statement's vocabulary in plain words."""

from accounting.mechanism import (
    ALLOCATED,
    EVERY_ROUND_OR_EPOCH,
    Adjacency,
    DominatingPair,
    Noise,
    PrivacyUnit,
    SampledGaussian,
    Sampler,
)

UNIT = {
    PrivacyUnit.USER: "one user's whole data",
    PrivacyUnit.EXAMPLE: "a single example",
}
"""Whose presence is protected."""

ADJACENCY = {
    Adjacency.ADD_OR_REMOVE_ONE: "two populations are neighbours if one of them "
    "has one user (or example) more",
    Adjacency.REPLACE_ONE: "two populations are neighbours if one user is "
    "replaced by any other",
    Adjacency.ZERO_OUT: "two populations are neighbours if one user "
    "contributes nothing in one of them",
}
"""Which two populations cannot be told apart."""

SAMPLER = {
    Sampler.POISSON_VIRTUAL_CLIENTS: "seats are permuted and cut into virtual clients, "
    "each drawn independently with probability q",
    Sampler.POISSON_USERS: "each user is drawn independently with probability q",
    Sampler.FIXED_SIZE: "a uniformly random set of exactly that many users, without "
    "replacement; its multiplier is noise over 2 C",
    Sampler.FULL_PARTICIPATION: "everybody takes part in every round; q = 1",
    Sampler.SHUFFLED: "everybody takes part once an epoch, in random order; no "
    "amplification is claimed, q = 1 once an epoch",
    Sampler.CYCLIC: "everybody takes part once an epoch, in the same order in every "
    "epoch; no amplification is claimed, q = 1 once an epoch",
    Sampler.TRUNCATED_POISSON: "drawn independently with probability q, a cohort that "
    "exceeds its limit is cut down to it at random",
    Sampler.RANDOM_ALLOCATION: "every user takes part in a random set of rounds of "
    "fixed size in each period",
    Sampler.BALLS_IN_BINS: "every user falls into one random round of each period",
}
"""How the users of a round are drawn."""

NOISE = {
    Noise.INDEPENDENT: "independent in every round",
    Noise.TREE: "tree aggregation (DP-FTRL): a round releases the change of a running "
    "sum with tree noise",
    Noise.BANDED: "banded matrix factorisation: a round takes back part of the noise "
    "of the rounds before",
}
"""How the noise of different rounds is related."""


def sampling(mechanism: SampledGaussian) -> str:
    """How the users of a round are drawn, as it was really done."""
    if mechanism.bands is None or mechanism.sampler in EVERY_ROUND_OR_EPOCH:
        return SAMPLER[mechanism.sampler]
    q = mechanism.accounted_sampling_probability
    return (
        "seats are permuted and cut into virtual clients once; clients belong to "
        f"{len(mechanism.bands)} groups, a round draws those of one group in turn, "
        f"each independently with probability {q:.6g}"
    )


def pair(mechanism: SampledGaussian) -> str:
    """The pair of distributions that bounds a round (or a period)."""
    antipodal = mechanism.dominating_pair is DominatingPair.REPLACE_ONE
    if mechanism.sampler is Sampler.FIXED_SIZE:
        return "a Gaussian of distance 2 C under sampling without replacement"
    if mechanism.sampler in ALLOCATED:
        return (
            "(1/t) sum_i N(e_i, z^2 I) against N(0, z^2 I), t rounds, both directions"
        )
    q, z, end = "q", "z", ""
    if mechanism.noise is not Noise.INDEPENDENT:
        z = f"{mechanism.accounted_noise_multiplier:.6g}"
        end = f", once every {mechanism.period:,} rounds"
    if mechanism.sampler in EVERY_ROUND_OR_EPOCH:
        return f"N({2 if antipodal else 1}, {z}^2) against N(0, {z}^2){end}"
    if mechanism.bands is not None:
        q = f"{mechanism.accounted_sampling_probability:.6g}"
        end += ", drawn from one of as many groups"
    centre = f"(1-{q}) N(0, {z}^2)"
    if antipodal:
        return f"{centre} + {q} N(+1, {z}^2) against {centre} + {q} N(-1, {z}^2){end}"
    return f"{centre} + {q} N(1, {z}^2) against N(0, {z}^2), both directions{end}"


def why_pair(mechanism: SampledGaussian) -> str:
    """Why that pair."""
    if mechanism.dominating_pair is DominatingPair.REPLACE_ONE:
        return "a user turns one clipped vector into another, up to 2 C apart"
    if mechanism.sampler is Sampler.POISSON_USERS and (
        mechanism.users_per_virtual_client > 1
    ):
        return "with z / 2 for z: a user changes a clipped vector by up to 2 C"
    return "an absent user contributes zero"
