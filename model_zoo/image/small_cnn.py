"""A small convolutional backbone for laptops: three strided convolutions."""

from torch import Tensor, nn

from model_zoo.image.norms import ConvNorm


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions of stride 2 with GroupNorm, then a dense embedding.

    89,008 parameters for 28 x 28 x 1 images and 64-d embeddings.

    Args:
        image_shape: (H, W, C), of any size.
        embedding_dim: D.
        filters: of the three convolutions, multiples of 4.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        embedding_dim: int = 64,
        filters: tuple[int, int, int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        height, width, channels = image_shape
        layers = []
        for out in filters:
            conv = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
            layers.append(ConvNorm(conv, groups=4, eps=1e-5, activation="relu"))
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.blocks = nn.Sequential(*layers)
        self.embedding = nn.Linear(channels * height * width, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D]`."""
        embedded: Tensor = self.embedding(self.blocks(images).flatten(1))
        return embedded
