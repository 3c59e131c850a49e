"""The few errors a caller may want to catch; each carries its exit code.

A message names the value, the rule and the way out, in one sentence or two.
"""


class FedembError(Exception):
    """Something a person can act on; shown as one line `error: ...`."""

    exit_code = 1


class UserError(FedembError, ValueError):
    """Bad arguments, configuration or input data."""

    exit_code = 2


class NotAvailable(FedembError):
    """A data set, model or optional package is not on this machine."""

    exit_code = 4


class Interrupted(FedembError):
    """The run was stopped and can be resumed."""

    exit_code = 5
