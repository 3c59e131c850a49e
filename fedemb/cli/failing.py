"""Which errors are a person's to mend, and their exit codes.

0 done; 2 bad arguments, configuration or data; 3 privacy budget exhausted; 4 data set
or model not available; 5 interrupted, resumable; 1 anything unexpected.
"""

import errno
import os

import typer

from fedemb.errors import FedembError

_OF_THE_MACHINE = {
    errno.ENOSPC: "the disk is full; free some space, then resume the run",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EDQUOT: "the disk quota is used up",
}


def exit_code_of(error: BaseException) -> int | None:
    """The exit code of an error a person can act on; None for anything unexpected."""
    from accounting import BudgetExhausted, LedgerError

    match error:
        case typer.Exit():
            return int(error.exit_code)
        case typer.Abort() | KeyboardInterrupt():
            return 5
        case _ if _is_usage(error):
            return 2
        case FedembError():
            return error.exit_code
        case BudgetExhausted():
            return 3
        case LedgerError():
            return 2
        case BrokenPipeError():
            # The reader of our output went away; say nothing more to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        case OSError() if error.errno in _OF_THE_MACHINE:
            return 2
        case _:
            return None


def one_line(error: BaseException) -> str:
    """What is wrong, the value, and what to do; empty if there is nothing to say."""
    match error:
        case typer.Exit() | BrokenPipeError():
            return ""
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted; nothing is lost. Continue with: fedemb resume RUN"
        case _ if type(error).__name__ == "NoArgsIsHelpError":
            return "a command is missing; --help lists them."
        case _ if _is_usage(error):
            return " ".join(error.format_message().split())  # type: ignore[attr-defined]
        case OSError():
            reason = _OF_THE_MACHINE.get(error.errno or 0, str(error))
            return f"{error.filename or 'writing'}: {reason}."
        case _:
            return " ".join(str(error).split())


def _is_usage(error: BaseException) -> bool:
    """Whether the arguments were wrong; typer may bring its own copy of click."""
    return hasattr(error, "format_message")
