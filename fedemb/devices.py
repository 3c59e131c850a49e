"""Where things are computed, and tensors on their way there and back."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fedemb.protocols import Batch


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; nobody waits for what the device was given to do before.

    A copy from pageable memory waits for a CUDA stream to run dry; one from pinned
    memory queues up in it (CUDA Runtime API, "API synchronization behavior"). PyTorch
    keeps the pinned memory until the copy is done.

    Example:
        >>> sent(torch.ones(2), torch.device("meta")).device
        device(type='meta')
    """
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def received(values: Tensor) -> Tensor:
    """A copy of `values` on the host, once the device has computed them.

    It lies in pinned memory if it comes from a CUDA device, which is several times
    faster to copy to.

    Example:
        >>> received(torch.ones(2)).tolist()
        [1.0, 1.0]
    """
    if values.device.type != "cuda":
        return values.to("cpu", copy=True)
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values)


def zero_rows(every: Iterable[Tensor], chosen: Tensor) -> None:
    """Zero rows of tensors, whatever they hold: NaN times 0 would stay NaN.

    Args:
        every: `[V, ...]`, changed in place; views will do. All on one device.
        chosen: which rows, bool `[V]` on the host, so that nobody waits for a device.

    Example:
        >>> values = torch.tensor([[1.0], [torch.nan]])
        >>> zero_rows([values], torch.tensor([False, True]))
        >>> values.flatten().tolist()
        [1.0, 0.0]
    """
    rows = torch.nonzero(chosen).flatten()
    if not len(rows):
        return
    for values in every:
        rows = sent(rows, values.device)  # moves once: they share a device
        values.index_fill_(0, rows, 0)


def device_of(module: nn.Module) -> torch.device:
    """Where a module with parameters computes: where the first of them is.

    Example:
        >>> device_of(nn.Linear(2, 2, device="meta"))
        device(type='meta')
    """
    return next(module.parameters()).device


def beside(module: nn.Module, batch: Batch) -> Batch:
    """A batch on the device of a module.

    Example:
        >>> layer = nn.Linear(2, 2, device="meta")
        >>> beside(layer, {"image": torch.ones(1, 2)})["image"].device
        device(type='meta')
    """
    device = device_of(module)
    return {name: sent(values, device) for name, values in batch.items()}
