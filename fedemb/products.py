"""Matrix products by the fastest library at hand.

torch's own products of floats come from MKL, which takes no AVX-512 road on processors
of other makers than Intel: on a Zen 5 core it reaches 100 of 250 GFLOP/s. oneDNN, which
torch uses for convolutions, reaches 190 to 240 there once a product is large enough to
pay for starting it. The choice depends on the machine and the shapes alone, never on a
measurement: a run that is resumed multiplies as it did before.
"""

import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_LARGE = 1_000_000  # multiplications; oneDNN takes 10 microseconds to start


def mm(a: Tensor, b: Tensor) -> Tensor:
    """`[N, K]` by `[K, M]`, without gradients.

    Example:
        >>> a, b = torch.ones(200, 100), torch.ones(90, 100).mT
        >>> mm(a, b).shape, float(mm(a, b).max())
        (torch.Size([200, 90]), 100.0)
    """
    if _mkl_is_slow() and _large(a, b):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            a, b.mT, None, "none", [], ""
        )
        return found
    return a @ b


def described() -> str:
    """Which libraries multiply here, for reports."""
    return "oneDNN and torch" if _mkl_is_slow() else "torch"


def _large(a: Tensor, b: Tensor) -> bool:
    return (
        a.device.type == b.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and a.shape[1] == b.shape[0]
        and a.numel() * b.shape[1] >= _LARGE
    )


@cache
def _mkl_is_slow() -> bool:
    """Whether MKL leaves AVX-512 unused though this processor has it."""
    offered = (
        sys.platform.startswith("linux")
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
    told = Path("/proc/cpuinfo")
    text = told.read_text() if offered and told.exists() else ""
    return "AuthenticAMD" in text and " avx512f " in text
