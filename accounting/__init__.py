"""What does a mechanism cost?

Upper bounds of epsilon for user-level federated training, noise from a target epsilon,
a durable ledger, and the privacy statement. Never imports torch.
"""

from accounting.calibrate import calibrate_noise_multiplier
from accounting.epsilon import EpsilonReport, composed_epsilon, default_delta, epsilon
from accounting.ledger import (
    BudgetExhausted,
    LedgerEntry,
    LedgerError,
    PrivacyLedger,
    Receipt,
)
from accounting.mechanism import SampledGaussian
from accounting.statement import PrivacyStatement
from accounting.vocabulary import (
    Adjacency,
    DominatingPair,
    PrivacyUnit,
    Sampler,
    UnsupportedMechanism,
)

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
    "UnsupportedMechanism",
    "calibrate_noise_multiplier",
    "composed_epsilon",
    "default_delta",
    "epsilon",
]
