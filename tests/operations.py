"""Replaying operations on the same memory, as a CUDA graph does, without a card.

What a function does is noted operation by operation, with the tensors themselves, and
done again into the tensors that came out the first time. So it shows what a graph would
do with values that the host worked out: they stay what they were. That something waits
for a card it notices where a value is asked for; for masks and copies to the host there
are the tests on the meta device, and for memory that was let go those on a card.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal")


class Operations(TorchDispatchMode):
    """Notes all operations, also those of a backward pass."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation._schema.name.partition("::")[2] in READS:
            raise RuntimeError(f"{operation} waits for the card")
        out = operation(*args, **(kwargs or {}))
        self.noted.append((operation, args, kwargs or {}, out))
        return out


class GraphsOnTheHost:
    """Stands in for `CudaGraphs` where there is no card."""

    full = False

    def record(self, function, read):
        operations = Operations()
        with operations:
            function(read)
        fresh = [True]

        def replay():
            if fresh.pop() if fresh else False:
                return  # computed while it was noted, which a card would not do
            with torch.no_grad():
                for operation, args, kwargs, out in operations.noted:
                    again = operation(*args, **kwargs)
                    for new, old in zip(
                        tree_leaves(again), tree_leaves(out), strict=True
                    ):
                        if isinstance(old, torch.Tensor) and not _same(new, old):
                            old.detach().copy_(new)

        return replay


def _same(new, old):
    return new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
