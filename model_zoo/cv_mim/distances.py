"""Distances between poses: mean per-joint position error (MPJPE)."""

import torch
from torch import Tensor


def mpjpe(first: Tensor, second: Tensor) -> Tensor:
    """Mean distance of corresponding joints, `[..., J, D]` twice -> `[...]`."""
    return ((first - second) ** 2).sum(-1).sqrt().mean(-1)


def aligned_mpjpe(target: Tensor, source: Tensor) -> Tensor:
    """Mean joint distance after the best similarity transform of `source`.

    Umeyama (1991), Least-squares estimation of transformation parameters between two
    point patterns. Mirror images are not aligned.

    Args:
        target: `[..., J, 3]`; its units are those of the distance.
        source: `[..., J, 3]`; leading axes broadcast.

    Example:
        >>> pose = torch.eye(3, dtype=torch.float64)
        >>> turn = torch.tensor([[0., 1, 0], [-1, 0, 0], [0, 0, 1]]).double()
        >>> bool(aligned_mpjpe(pose, 2 * pose @ turn + 5) < 1e-9)
        True
    """
    a = target - target.mean(-2, keepdim=True)
    b = source - source.mean(-2, keepdim=True)
    u, s, vt = torch.linalg.svd(b.transpose(-1, -2) @ a)
    flip = torch.linalg.det(u @ vt)[..., None].sign()
    sign = torch.cat([torch.ones_like(s[..., :2]), flip], dim=-1)
    scale = (s * sign).sum(-1) / (b**2).sum((-1, -2)).clamp(min=1e-12)
    moved = b @ ((u * sign[..., None, :]) @ vt) * scale[..., None, None]
    return mpjpe(a, moved)
