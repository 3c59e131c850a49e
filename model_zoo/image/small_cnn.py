"""A small convolutional backbone for laptops: three strided convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions of stride 2 with GroupNorm, then a dense embedding.

    89,184 parameters for 28 x 28 x 1 images and 64-d embeddings.

    Args:
        channels: of the images.
        side: of the images, in pixels.
        embedding_dim: D.
    """

    def __init__(self, channels: int = 1, side: int = 28, embedding_dim: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(4, 16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(4, 32)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.norm3 = nn.GroupNorm(4, 64)
        for _ in range(3):
            side = (side + 1) // 2
        self.embedding = nn.Linear(64 * side * side, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D]`."""
        x = F.relu(self.norm1(self.conv1(images)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        embedded: Tensor = self.embedding(x.flatten(1))
        return embedded
