"""Cards of the image systems; importing this imports no torch."""

from model_zoo.image.stages import ImageStages
from model_zoo.system import Configuration, DataFacts, System, TaskOptions

_DP_FEDEMB = (
    "Xu, Collins, Wang, Panait, Oh, Augenstein, Liu, Schroff and McMahan (2023), "
    "Learning to Generate Image Embeddings with User-level Differential Privacy, CVPR, "
    "arXiv:2211.10844"
)
_STAGES = (
    "embedding: classify the virtual client's own identities with a fresh local head; "
    "the backbone ends in the embedding",
)


def _size(
    note: str,
    build: ImageStages,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Configuration:
    """A configuration whose counts are those of the published head."""
    published = TaskOptions(head="linear", label_space="global")
    return Configuration(
        note=f"{note}; counted at {' x '.join(map(str, image_shape))} "
        f"with a linear head of {num_classes:,} classes",
        build=build,
        data=DataFacts(example_shape=image_shape, num_classes=num_classes),
        options=published,
    )


# Sees 32 pixels a side at most: the dense layer, and with it the noise, would grow with
# the area of the images.
_SMALL_CNN = "model_zoo.image.small_cnn:SmallCNN"

SMALL_CNN = System(
    name="small_cnn",
    paper=f"the project's own laptop-size backbone, trained as in {_DP_FEDEMB}",
    user="a person who owns pictures, such as a writer or a photographer",
    stages=_STAGES,
    default_dataset="synthetic",
    default_configuration="paper",
    configurations={
        "paper": _size(
            "three strided convolutions of 16, 32 and 64 filters, 64-d",
            ImageStages(backbone=_SMALL_CNN, embedding_dim=64, max_side=32),
            (28, 28, 1),
            62,
        ),
        "tiny": _size(
            "8, 16 and 32 filters, 32-d",
            ImageStages(
                backbone=_SMALL_CNN,
                embedding_dim=32,
                max_side=32,
                arguments={"filters": (8, 16, 32)},
            ),
            (28, 28, 1),
            62,
        ),
    },
)

_LENET = "model_zoo.image.lenet:LeNet"

LENET = System(
    name="lenet",
    paper=_DP_FEDEMB,
    user="the writer of handwritten characters",
    stages=_STAGES,
    default_dataset="synthetic",
    default_configuration="tiny",
    configurations={
        "paper": _size(
            "as published for EMNIST: 32 and 64 filters, 128-d",
            ImageStages(backbone=_LENET),
            (28, 28, 1),
            62,
        ),
        "tiny": _size(
            "8 and 16 filters, 32-d",
            ImageStages(
                backbone=_LENET, embedding_dim=32, arguments={"filters": (8, 16)}
            ),
            (28, 28, 1),
            62,
        ),
    },
)

_MOBILENET = "model_zoo.image.mobilenet_v2:MobileNetV2"
# Expansion, filters, blocks and stride. Stacks of all 17 blocks fall back to one
# embedding for all pictures in the first rounds; the fourth group has stride 1, so that
# 4 x 4 positions are left of 32-pixel pictures.
_MOBILENET_TINY = (
    (1, 16, 1, 1),
    (6, 24, 1, 2),
    (6, 32, 1, 2),
    (6, 64, 1, 1),
    (6, 96, 1, 1),
)
_SMALL_MOBILENET = "model_zoo.image.mobilenet_v2:SmallMobileNetV2"
_MOBILENET_PAPER = (
    f"{_DP_FEDEMB}; MobileNetV2 by Sandler et al. (2018), arXiv:1801.04381"
)

MOBILENET_SMALL = System(
    name="mobilenet_small",
    paper=_MOBILENET_PAPER,
    user="a photographer or observer",
    stages=_STAGES,
    default_dataset="observations",
    default_configuration="tiny",
    configurations={
        "paper": _size(
            "first six blocks of MobileNetV2, last convolution of 640 filters, 128-d",
            ImageStages(backbone=_SMALL_MOBILENET),
            (64, 64, 3),
            1203,
        ),
        "tiny": _size(
            "half the filters, last convolution of 160, 32-d",
            ImageStages(
                backbone=_SMALL_MOBILENET,
                embedding_dim=32,
                arguments={"alpha": 0.5, "last_filters": 160},
            ),
            (64, 64, 3),
            1203,
        ),
    },
)

MOBILENET_V2 = System(
    name="mobilenet_v2",
    paper=_MOBILENET_PAPER,
    user="the photographer of landmarks, or the observer of species",
    stages=_STAGES,
    default_dataset="observations",
    default_configuration="tiny",
    configurations={
        "paper": _size(
            "as published for iNaturalist: 17 blocks, GroupNorm with 2 groups, 128-d",
            ImageStages(backbone=_MOBILENET),
            (224, 224, 3),
            1203,
        ),
        "tiny": _size(
            "half the filters, the first block of each of five groups, last "
            "convolution of 160, 32-d",
            ImageStages(
                backbone=_MOBILENET,
                embedding_dim=32,
                arguments={
                    "alpha": 0.5,
                    "last_filters": 160,
                    "rows": _MOBILENET_TINY,
                },
            ),
            (32, 32, 3),
            1203,
        ),
    },
)

_RESNET = "model_zoo.image.resnet50:ResNet50"

RESNET50 = System(
    name="resnet50",
    paper=f"{_DP_FEDEMB}; ResNet by He et al. (2016), arXiv:1512.03385",
    user="a person whose pictures show one identity or several",
    stages=_STAGES,
    default_dataset="observations",
    default_configuration="tiny",
    configurations={
        "paper": _size(
            "3-4-6-3 bottlenecks, GroupNorm with 32 groups, average pooling, 128-d",
            ImageStages(backbone=_RESNET),
            (224, 224, 3),
            9047,
        ),
        "paper-l2": _size(
            "the same with the published L2 penalty of 1e-4 on weights, which rules "
            "out the fastest engine",
            ImageStages(backbone=_RESNET, arguments={"kernel_l2": 1e-4}),
            (224, 224, 3),
            9047,
        ),
        "avg32": _size(
            "pooled 3 x 3 with stride 2: 3 * 3 * 2,048 inputs to the embedding",
            ImageStages(backbone=_RESNET, arguments={"pooling": "avg32"}),
            (224, 224, 3),
            9047,
        ),
        "tiny": _size(
            "1-1-1 bottlenecks of width 8, GroupNorm with 4 groups, 32-d",
            ImageStages(
                backbone=_RESNET,
                embedding_dim=32,
                arguments={"blocks": (1, 1, 1), "width": 8, "groups": 4},
            ),
            (32, 32, 3),
            9047,
        ),
    },
)

_EFFICIENTNET = "model_zoo.image.efficientnet_lite0:EfficientNetLite0"

EFFICIENTNET_LITE0 = System(
    name="efficientnet_lite0",
    paper=f"{_DP_FEDEMB}; EfficientNet by Tan and Le (2019), arXiv:1905.11946, its "
    "Lite variant; adapters by Hu et al. (2021), arXiv:2106.09685",
    user="a person who owns colour pictures",
    stages=_STAGES,
    default_dataset="observations",
    default_configuration="tiny",
    configurations={
        "paper": _size(
            "ImageNet weights, frozen, with a new 128-d projection to train",
            ImageStages(backbone=_EFFICIENTNET, trainable="frozen"),
            (224, 224, 3),
            1203,
        ),
        "enlarged": _size(
            "the same; small images are enlarged to 128 pixels a side",
            ImageStages(
                backbone=_EFFICIENTNET, trainable="frozen", arguments={"min_side": 128}
            ),
            (224, 224, 3),
            1203,
        ),
        "lora": _size(
            "adapters of rank 4 beside all 1 x 1 convolutions, and the projection",
            ImageStages(
                backbone=_EFFICIENTNET, trainable="lora", arguments={"rank": 4}
            ),
            (224, 224, 3),
            1203,
        ),
        "tiny": _size(
            "the first 8 of 16 blocks with ImageNet weights, frozen, with a new 64-d "
            "projection to train",
            ImageStages(
                backbone=_EFFICIENTNET,
                embedding_dim=64,
                trainable="frozen",
                arguments={"num_blocks": 8},
            ),
            (32, 32, 3),
            1203,
        ),
    },
)
