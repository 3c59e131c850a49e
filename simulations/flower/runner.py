"""The ClientRunner that sends virtual clients to Flower nodes.

Guarantees:

- A round's sum counts every virtual client at most once, however often replies arrive.
- A share whose worker reports an error, leaves or is late is sent to another worker, at
  most once per round. Both compute the same sum, so it does not matter which answers.
- A share that nobody answered contributes zero. Nothing else changes: the divisor is
  the expected number of virtual clients, and sensitivity can only fall.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Protocol

from flwr.app import Message, RecordDict
from torch import Tensor

from fedemb.clipping import ClippedSum, Lattice
from fedemb.cohort import Cohort
from fedemb.errors import UserError
from simulations.flower.messages import MalformedReply, Request, decode_reply
from simulations.worker import WorkerFailed, WorkerSpecification, deal

_LOG = logging.getLogger(__name__)
_FASTEST_POLL, _SLOWEST_POLL = 0.005, 0.05  # seconds between looks for replies


class Transport(Protocol):
    """The part of Flower's `Grid` that a round needs."""

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there."""
        ...

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; returns their ids."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived."""
        ...


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for workers, in seconds.

    Attributes:
        start: for all workers to appear, before the first round.
        reply: for the reply to a request; the first round of a worker includes reading
            its data. A request that was sent again has as long once more.
    """

    start: float = 120.0
    reply: float = 600.0

    def __post_init__(self) -> None:
        if self.start <= 0 or self.reply <= 0:
            raise UserError(f"{self} must be positive seconds.")


@dataclass(frozen=True)
class _Sent:
    share: int
    node: int
    deadline: float


class FlowerRunner:
    """Trains virtual clients on the nodes of a Flower federation, one message each.

    Args:
        grid: a Flower `Grid`, from the ServerApp.
        specification: how a worker builds its runner.
        workers: nodes to wait for before the first round; later rounds use those that
            are there.
        patience: how long to wait for them.
        check: called while waiting; raises where waiting has become pointless.
    """

    def __init__(
        self,
        grid: Transport,
        specification: WorkerSpecification,
        workers: int,
        patience: Patience | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        if workers < 1:
            raise UserError(f"workers={workers} must be at least 1.")
        self._specification = specification
        self._grid = grid
        self._workers = workers
        self._patience = patience or Patience()
        self._check = check
        self._started = False
        self._unreliable: set[int] = set()

    def train(
        self, backbone: Tensor, cohort: Cohort, lattice: Lattice, round_index: int
    ) -> ClippedSum:
        """The exact sum of the clipped deltas of `cohort`, trained from `backbone`.

        Raises:
            WorkerFailed: if too few nodes appear, or no worker answers at all.
        """
        nodes = self._nodes()
        parts = deal(cohort, len(nodes), self._specification.engine.chunk)
        requests = [
            Request(backbone, part, lattice.clip_norm, round_index, self._specification)
            for part in parts
        ]
        answers = _Round(self._grid, requests, nodes, self._patience, self._check)
        done = answers.collect()
        self._unreliable = answers.unreliable
        if requests and not done:
            raise WorkerFailed(
                f"no worker answered in round {round_index}: {answers.reason}"
            )
        missing = sum(len(r.cohort) for i, r in enumerate(requests) if i not in done)
        if missing:
            _LOG.warning(
                "round %d: %d virtual clients of lost workers count as zero (%s)",
                round_index,
                missing,
                answers.reason,
            )
        zero = ClippedSum.zero(len(backbone))
        return reduce(add, (done[i] for i in sorted(done)), zero)

    def _nodes(self) -> list[int]:
        """Who takes part in a round; waits for everybody once, then for anybody.

        Nodes that failed in the round before sit this one out while others are there.
        """
        needed = 1 if self._started else self._workers
        deadline = time.monotonic() + self._patience.start
        while len(nodes := sorted(self._grid.get_node_ids())) < needed:
            self._check()
            if time.monotonic() > deadline:
                raise WorkerFailed(
                    f"{len(nodes)} of {needed} workers appeared within "
                    f"{self._patience.start:g} seconds; start the missing ones, or ask "
                    "for fewer."
                )
            time.sleep(_SLOWEST_POLL)
        self._started = True
        return [n for n in nodes if n not in self._unreliable] or nodes


class _Round:
    """One round's requests on their way."""

    def __init__(
        self,
        grid: Transport,
        requests: list[Request],
        nodes: list[int],
        patience: Patience,
        check: Callable[[], None],
    ) -> None:
        self.unreliable: set[int] = set()
        self.reason = ""
        self._grid, self._requests, self._nodes = grid, requests, nodes
        self._patience, self._check = patience, check
        self._waiting: dict[str, _Sent] = {}
        self._resent: set[int] = set()
        self._done: dict[int, ClippedSum] = {}

    def collect(self) -> dict[int, ClippedSum]:
        """The sums of the shares that were answered, by share."""
        for share in range(len(self._requests)):
            self._send(share, self._nodes[share % len(self._nodes)])
        pause = _FASTEST_POLL
        while self._waiting:
            self._check()
            replies = list(self._grid.pull_messages(list(self._waiting)))
            for reply in replies:
                self._receive(reply)
            self._give_up_on_late_ones()
            pause = _FASTEST_POLL if replies else min(pause * 1.5, _SLOWEST_POLL)
            if self._waiting:
                time.sleep(pause)
        return self._done

    def _send(self, share: int, node: int) -> None:
        message = Message(
            self._requests[share].encode(),
            dst_node_id=node,
            message_type="train",
            ttl=2 * self._patience.reply,
        )
        ids = [i for i in self._grid.push_messages([message]) if i]
        sent = _Sent(share, node, time.monotonic() + self._patience.reply)
        if ids:
            self._waiting[ids[0]] = sent
        else:
            self._failed(sent, f"node {node} takes no messages")

    def _receive(self, reply: Message) -> None:
        sent = self._waiting.pop(reply.metadata.reply_to_message_id, None)
        if sent is None or sent.share in self._done:
            return  # a duplicate
        if reply.has_error():
            self._failed(sent, f"node {sent.node}: {reply.error.reason}")
            return
        try:
            content: RecordDict = reply.content
            self._done[sent.share] = decode_reply(content, self._requests[sent.share])
        except MalformedReply as error:
            self._failed(sent, f"node {sent.node}: {error}")
            return
        self._waiting = {
            i: other for i, other in self._waiting.items() if other.share != sent.share
        }

    def _give_up_on_late_ones(self) -> None:
        now = time.monotonic()
        for message_id, sent in list(self._waiting.items()):
            if now <= sent.deadline:
                continue
            if sent.share in self._resent:
                del self._waiting[message_id]
                self._failed(sent, f"node {sent.node} is late")
            else:  # it may still answer before the worker that now has its share
                late = replace(sent, deadline=now + self._patience.reply)
                self._waiting[message_id] = late
                self._failed(sent, f"node {sent.node} is late")

    def _failed(self, sent: _Sent, reason: str) -> None:
        """Send a share elsewhere, if that has not been done in this round."""
        self.unreliable.add(sent.node)
        self.reason = reason
        if sent.share in self._resent:
            return
        self._resent.add(sent.share)
        _LOG.warning("%s; its virtual clients go to another worker", reason)
        self._send(sent.share, self._another(sent.node))

    def _another(self, node: int) -> int:
        """A node that is there and did not fail; the same one if it is alone."""
        there = sorted(self._grid.get_node_ids())
        others = [n for n in there if n != node]
        good = [n for n in others if n not in self.unreliable]
        idle = [n for n in good if n not in {s.node for s in self._waiting.values()}]
        return (idle or good or others or [node])[0]
