"""LeNet as published for EMNIST, without normalisation."""

from torch import Tensor, nn
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo.image.norms import glorot_


class LeNet(nn.Module):
    """Two 5 x 5 convolutions with 2 x 2 max-pooling, then a dense embedding.

    453,632 parameters for 28 x 28 x 1 images and 128-d embeddings. Xu et al. (2023),
    arXiv:2211.10844, after LeCun et al. (1998).

    Args:
        image_shape: (H, W, C), at least 4 x 4.
        embedding_dim: D.
        filters: of the two convolutions.

    Raises:
        UserError: if the images are too small.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        embedding_dim: int = 128,
        filters: tuple[int, int] = (32, 64),
    ) -> None:
        super().__init__()
        height, width, channels = image_shape
        if min(height, width) < 4:
            raise UserError(
                f"images of {height} x {width} are too small: LeNet needs 4 x 4."
            )
        self.conv1 = nn.Conv2d(channels, filters[0], 5, padding=2)
        self.conv2 = nn.Conv2d(filters[0], filters[1], 5, padding=2)
        self.embedding = nn.Linear(
            filters[1] * (height // 4) * (width // 4), embedding_dim
        )
        glorot_(self)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D]`."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        embedded: Tensor = self.embedding(x.flatten(1))
        return embedded
