"""Tensors on their way to the device that trains, and back."""

import torch
from torch import Tensor


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
