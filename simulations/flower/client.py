"""The ClientApp: what a Flower node does with its share of a round."""

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedemb.runner import InlineRunner
from simulations.flower.messages import Request, encode_reply
from simulations.worker import WorkerSpecification


class _Workshop:
    """The runner of the last specification; building one reads data: seconds."""

    def __init__(self) -> None:
        self._digest = ""
        self._runner: InlineRunner | None = None

    def runner(self, specification: WorkerSpecification) -> InlineRunner:
        if self._runner is None or self._digest != specification.digest:
            self._runner = specification.build()
            self._digest = specification.digest
        return self._runner


_WORKSHOP = _Workshop()  # lives as long as the process that Flower gives us


def train(message: Message, context: Context) -> Message:
    """Train the virtual clients of a request and reply with their exact sum."""
    torch.set_num_threads(1)
    request = Request.decode(message.content)
    clipped = _WORKSHOP.runner(request.specification).train(
        request.backbone, request.cohort, request.lattice, request.round_index
    )
    return Message(encode_reply(clipped), reply_to=message)


client_app = ClientApp()
client_app.train()(train)
