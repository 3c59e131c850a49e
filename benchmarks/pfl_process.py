"""A workload as pfl runs it: federated averaging of all its clients, round by round.

python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.pfl_process W2

Each line of the standard input asks for one round; the answer to it is a line with the
processor seconds that all processes used for that round. pfl shares a round's clients
out to the processes, clips, sums, adds noise and applies the mean as it does for its
users. Its model has the head among its parameters, as pfl trains all of a model.
"""

import sys
import time
from functools import partial

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed, get_default_device
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads import CLASSES, WORKLOADS, Workload
from fedemb.runner import EngineChoice

_EVER = 10**9


class Classifier(nn.Module):
    """A workload's backbone and one head for all clients."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = workload.make()
        self.head = nn.Linear(workload.dim, CLASSES, bias=False)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.backbone(images)), labels)

    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, object]:
        return {}


class OneAtATime(TrainingProcessCallback):
    """Holds all processes before a round until it is asked for."""

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self._wait()
        return Metrics()

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,
        model: PyTorchModel,
        *,
        central_iteration: int,
    ) -> tuple[bool, Metrics]:
        used = over_all(time.process_time() - self.before)
        if distributed.global_rank == 0:
            print(used, flush=True)
        return not self._wait(), Metrics()

    def _wait(self) -> bool:
        """Whether another round was asked for, which the first process knows."""
        line = distributed.global_rank == 0 and sys.stdin.readline()
        asked = over_all(1.0 if line else 0.0)
        self.before = time.process_time()
        return bool(asked)


def over_all(value: float) -> float:
    """The sum of a value over all processes, which wait for each other here."""
    (total,) = distributed.all_reduce([torch.tensor([value])])
    return float(total)


def clients(workload: Workload) -> dict[int, list[Tensor]]:
    """Pixels and labels of each client, its steps one after another."""
    work = workload.runner(EngineChoice()).work(workload.cohort(), 0)
    found = {}
    for client in range(workload.clients):
        steps = list(work.of(client))
        found[client] = [
            torch.cat([step[name] for step in steps]).to(get_default_device())
            for name in ("image", "label")
        ]
    return found


def main(workload: Workload) -> None:
    users = clients(workload)
    classifier = Classifier(workload)
    noise = GaussianMechanism(clipping_bound=1.0, relative_noise_stddev=1.0)
    model = PyTorchModel(
        model=classifier,
        local_optimizer_create=partial(torch.optim.SGD, momentum=0.9),
        central_optimizer=torch.optim.SGD(classifier.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(
        training_data=FederatedDataset.from_slices(
            users, get_user_sampler("minimize_reuse", list(users))
        ),
        val_data=None,
        postprocessors=[WeightByUser(), CentrallyAppliedPrivacyMechanism(noise)],
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=_EVER,
            evaluation_frequency=_EVER,
            train_cohort_size=workload.clients,
            val_cohort_size=None,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_learning_rate=0.05,
            local_num_epochs=1,
            local_batch_size=workload.batch,
        ),
        callbacks=[OneAtATime()],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main(WORKLOADS[sys.argv[1]])
