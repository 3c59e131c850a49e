"""The ServerApp for a federation of machines: SuperLink, SuperNodes and `flwr run`.

The training itself is a function named in the run's configuration, so this module knows
nothing of data sets, models or recipes. It gets `connect`, which turns a worker
specification into a runner on the federation's nodes.
"""

import json

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedemb.errors import UserError
from simulations.flower.runner import FlowerRunner, Patience
from simulations.worker import WorkerSpecification, resolve


def main(grid: Grid, context: Context) -> None:
    """Run `training(connect, **arguments)` as the run's configuration says.

    Configuration (`[tool.flwr.app.config]`, or `flwr run --run-config`):
        training: `module:function`, called with `connect` and the arguments.
        arguments: a JSON object.
        workers: SuperNodes to wait for.
        start-seconds, reply-seconds: how long to wait for them.

    Raises:
        UserError: if the configuration is not as above.
    """
    settings = context.run_config
    try:
        arguments = json.loads(str(settings["arguments"]))
        if not isinstance(arguments, dict):
            raise TypeError(f"{arguments!r} is no object")
        training = resolve(str(settings["training"]))
        workers = int(settings["workers"])
        patience = Patience(
            start=float(settings["start-seconds"]),
            reply=float(settings["reply-seconds"]),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"the run's configuration is incomplete or malformed: {error!r}; it needs "
            "training, arguments (a JSON object), workers, start-seconds and "
            "reply-seconds."
        ) from error

    def connect(specification: WorkerSpecification) -> FlowerRunner:
        return FlowerRunner(grid, specification, workers, patience)

    training(connect, **arguments)


server_app = ServerApp()
server_app.main()(main)
