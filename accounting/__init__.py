"""What does a mechanism cost? Accounting for user-level federated training.

Depends on numpy, scipy and dp-accounting; never on torch.
"""

from accounting.account import (
    EpsilonReport,
    default_delta,
    delta_for_epsilon,
    epsilon,
)
from accounting.calibrate import calibrate_noise_multiplier
from accounting.errors import BudgetExhausted, LedgerError, UnsupportedMechanism
from accounting.ledger import PrivacyLedger
from accounting.ledger_records import LedgerEntry, Receipt, SpentReport
from accounting.mechanism import (
    Adjacency,
    DominatingPair,
    PrivacyUnit,
    SampledGaussian,
    Sampler,
)
from accounting.statement import PrivacyStatement

__all__ = [
    "Adjacency",
    "BudgetExhausted",
    "DominatingPair",
    "EpsilonReport",
    "LedgerEntry",
    "LedgerError",
    "PrivacyLedger",
    "PrivacyStatement",
    "PrivacyUnit",
    "Receipt",
    "SampledGaussian",
    "Sampler",
    "SpentReport",
    "UnsupportedMechanism",
    "calibrate_noise_multiplier",
    "default_delta",
    "delta_for_epsilon",
    "epsilon",
]
