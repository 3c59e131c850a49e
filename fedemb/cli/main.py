"""The console script `fedemb`."""

import sys

import typer

from fedemb.cli import (
    accounts,
    audits,
    captions,
    plans,
    pretraining,
    runs,
    shelves,
    uses,
)
from fedemb.cli.failing import exit_code_of, one_line

app = typer.Typer(
    name="fedemb",
    help="Train embedding models on user-partitioned data with user-level privacy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs.register(app)
pretraining.register(app)
accounts.register(app)
plans.register(app)
audits.register(app)
shelves.register(app)
uses.register(app)
captions.register(app)


def main() -> None:
    """Run the command line; a user's mistake is one line, never a traceback."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except BaseException as error:
        code = exit_code_of(error)
        if code is None:
            raise
        text = one_line(error)
        if text:
            print(f"error: {text}", file=sys.stderr)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
