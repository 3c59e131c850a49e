"""The errors a caller may want to catch; anything else is a `ValueError`."""


class UnsupportedMechanism(ValueError):
    """The mechanism has no proved bound of the kind that was asked for."""


class BudgetExhausted(RuntimeError):
    """Composing one more round would exceed the budget; nothing was recorded."""


class LedgerError(RuntimeError):
    """The ledger is corrupt, foreign, inconsistent or used against its rules."""
