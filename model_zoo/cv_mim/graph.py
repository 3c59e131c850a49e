"""A graph network over joints: the alternative trunk of the pose literature.

Zhao et al. (2019), Semantic Graph Convolutional Networks for 3D Human Pose Regression,
arXiv:1904.03345. CV-MIM's published results use the multilayer perceptron.
"""

import torch
from torch import Tensor, nn

_NEVER = -9e15


class SemanticGraphConv(nn.Module):
    """Every joint reads itself by one matrix and its neighbours by another.

    How much it reads of whom is a softmax of trained affinities along the skeleton's
    edges.

    Args:
        inputs: numbers of a joint.
        outputs: numbers of a joint afterwards.
        edges: `[J, J]`; entries above 0 connect.
    """

    edges: Tensor

    def __init__(self, inputs: int, outputs: int, edges: Tensor) -> None:
        super().__init__()
        self.register_buffer("edges", edges > 0)
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs))
        self.affinity = nn.Parameter(torch.ones(edges.shape))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight[0])
        nn.init.xavier_uniform_(self.weight[1])

    def forward(self, joints: Tensor) -> Tensor:
        """`[..., J, inputs]` -> `[..., J, outputs]`."""
        read = torch.where(self.edges, self.affinity, _NEVER).softmax(1)
        own = torch.eye(len(read), dtype=read.dtype, device=read.device)
        from_self = (read * own) @ (joints @ self.weight[0])
        from_others = (read * (1 - own)) @ (joints @ self.weight[1])
        return from_self + from_others + self.bias


class _Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, edges: Tensor, norm: bool) -> None:
        super().__init__()
        self.conv = SemanticGraphConv(inputs, outputs, edges)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()

    def forward(self, joints: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(joints)))


class GraphNetwork(nn.Module):
    """A graph convolution, residual blocks of two, and a last graph convolution.

    Args:
        inputs: numbers of a joint.
        outputs: numbers of a joint afterwards.
        edges: `[J, J]`; entries above 0 connect.
        hidden: numbers of a joint in between.
        blocks: residual blocks.
        norm: whether to normalise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        edges: Tensor,
        *,
        hidden: int = 128,
        blocks: int = 4,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.first = _Layer(inputs, hidden, edges, norm)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Layer(hidden, hidden, edges, norm) for _ in range(2)))
            for _ in range(blocks)
        )
        self.last = SemanticGraphConv(hidden, outputs, edges)

    def forward(self, joints: Tensor) -> Tensor:
        """`[..., J, inputs]` -> `[..., J, outputs]`."""
        x = self.first(joints)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.last(x)
        return out
