"""What travels between server and workers: a request per worker, and its reply.

Everything a worker needs is in the request, because Flower may hand it to a process
that has never seen the run: the backbone as float bytes, the virtual clients as integer
arrays, the clip norm and the worker specification. The reply is one exact integer sum.

Both are secret: they show who takes part and what the sum is before noise. Use TLS
between machines.
"""

from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedemb.clipping import ClippedSum, Diagnostics, Lattice
from fedemb.cohort import Cohort
from simulations.worker import WorkerSpecification

# A coordinate of one clipped vector is at most C, that is 2^20 lattice units.
_LARGEST = 2**20


class MalformedReply(ValueError):
    """A reply that cannot be the answer to the request."""


@dataclass(frozen=True)
class Request:
    """One worker's share of a round.

    Attributes:
        backbone: `[P]`, the trained parameters.
        cohort: the virtual clients to train.
        clip_norm: C.
        round_index: the round.
        specification: how to build the runner.
    """

    backbone: Tensor
    cohort: Cohort
    clip_norm: float
    round_index: int
    specification: WorkerSpecification

    def encode(self) -> RecordDict:
        """As the content of a message."""
        cohort = self.cohort
        clients = {"ids": cohort.ids, "users": cohort.users, "sizes": cohort.sizes}
        arrays = {
            part: ArrayRecord({k: Array(np.array(v)) for k, v in values.items()})
            for part, values in (
                ("state", self.specification.state),
                ("head", self.specification.head),
            )
        }
        backbone = Array(self.backbone.detach().cpu().numpy())
        return RecordDict(
            {
                "backbone": ArrayRecord({"trained": backbone}),
                **arrays,
                "clients": ArrayRecord({k: Array(v) for k, v in clients.items()}),
                "round": ConfigRecord(
                    {
                        "round_index": self.round_index,
                        "clip_norm": self.clip_norm,
                        "specification": self.specification.to_json(),
                    }
                ),
            }
        )

    @staticmethod
    def decode(content: RecordDict) -> "Request":
        """The inverse of `encode`."""
        settings = content.config_records["round"]
        arrays = {k: v.numpy() for k, v in content.array_records["clients"].items()}
        state, head = (
            {k: v.numpy() for k, v in content.array_records[part].items()}
            for part in ("state", "head")
        )
        backbone = content.array_records["backbone"]["trained"].numpy()
        return Request(
            backbone=torch.from_numpy(np.array(backbone)),
            cohort=Cohort(arrays["ids"], arrays["users"], arrays["sizes"]),
            clip_norm=float(settings["clip_norm"]),
            round_index=int(settings["round_index"]),
            specification=WorkerSpecification.from_json(
                str(settings["specification"]), state, head
            ),
        )

    @property
    def lattice(self) -> Lattice:
        """What sums are counted in."""
        return Lattice(self.clip_norm, len(self.backbone))


def encode_reply(clipped: ClippedSum) -> RecordDict:
    """A worker's sum as the content of a message."""
    told = clipped.diagnostics
    return RecordDict(
        {
            "sum": ArrayRecord({"total": Array(clipped.total.cpu().numpy())}),
            "counts": ConfigRecord(
                {"unclipped": clipped.unclipped, "clients": clipped.clients}
            ),
            "diagnostics": ConfigRecord(
                {
                    "clients": told.clients,
                    "non_finite": told.non_finite,
                    "norm_sum": told.norm_sum,
                    "clipped": told.clipped,
                    "examples": told.examples,
                }
            ),
        }
    )


def decode_reply(content: RecordDict, request: Request) -> ClippedSum:
    """The sum that answers `request`.

    Raises:
        MalformedReply: if shape, type or size cannot be those of an answer. (A worker
            is trusted to clip; this catches mistakes, not malice.)
    """
    try:
        total = content.array_records["sum"]["total"].numpy()
        counts = content.config_records["counts"]
        diagnostics = Diagnostics(**content.config_records["diagnostics"])
        unclipped, clients = int(counts["unclipped"]), int(counts["clients"])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedReply(f"a reply lacks a part: {error!r}.") from error
    if total.dtype != np.int64 or total.shape != tuple(request.backbone.shape):
        raise MalformedReply(
            f"a sum of type {total.dtype} and shape {total.shape} cannot answer a "
            f"backbone of {len(request.backbone)} parameters."
        )
    most = len(request.cohort)
    if not (0 <= clients <= most and abs(unclipped) <= clients):
        raise MalformedReply(f"{clients} virtual clients answer {most}.")
    if total.size and int(np.abs(total).max()) > clients * _LARGEST:
        raise MalformedReply("a sum is larger than its virtual clients can make it.")
    return ClippedSum(
        torch.from_numpy(np.array(total)), unclipped, clients, diagnostics
    )
