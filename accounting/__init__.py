"""What does a mechanism cost? Accounting for user-level federated training.

Depends on numpy, scipy and dp-accounting; never on torch.
"""

from accounting.account import (
    EpsilonReport,
    default_delta,
    delta_for_epsilon,
    epsilon,
)
from accounting.answers import (
    EpsilonInterval,
    epsilon_curve,
    epsilon_interval,
    gaussian_mu,
    trade_off,
    zcdp,
)
from accounting.calibrate import calibrate_noise_multiplier
from accounting.errors import BudgetExhausted, LedgerError, UnsupportedMechanism
from accounting.ledger import PrivacyLedger
from accounting.ledger_records import LedgerEntry, Receipt, SpentReport
from accounting.mechanism import (
    Adjacency,
    DominatingPair,
    Noise,
    PrivacyUnit,
    SampledGaussian,
    Sampler,
    rounds_per_epoch,
)
from accounting.planning import (
    PlanRow,
    compare_users_per_virtual_client,
    extrapolate,
    scale_for_epsilon,
)
from accounting.searches import (
    calibrate_population,
    calibrate_rounds,
    calibrate_users_per_round,
)
from accounting.selection import RunCount, selection_epsilon
from accounting.statement import PrivacyStatement

__all__ = [
    "Adjacency",
    "BudgetExhausted",
    "DominatingPair",
    "EpsilonInterval",
    "EpsilonReport",
    "LedgerEntry",
    "LedgerError",
    "Noise",
    "PlanRow",
    "PrivacyLedger",
    "PrivacyStatement",
    "PrivacyUnit",
    "Receipt",
    "RunCount",
    "SampledGaussian",
    "Sampler",
    "SpentReport",
    "UnsupportedMechanism",
    "calibrate_noise_multiplier",
    "calibrate_population",
    "calibrate_rounds",
    "calibrate_users_per_round",
    "compare_users_per_virtual_client",
    "default_delta",
    "delta_for_epsilon",
    "epsilon",
    "epsilon_curve",
    "epsilon_interval",
    "extrapolate",
    "gaussian_mu",
    "rounds_per_epoch",
    "scale_for_epsilon",
    "selection_epsilon",
    "trade_off",
    "zcdp",
]
