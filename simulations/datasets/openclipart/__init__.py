"""The shipped sample: public-domain drawings by named artists."""

import hashlib
import io
from importlib import resources

import numpy as np

from fedemb.data import InMemoryDataset, Provenance, Source
from simulations.datasets.grouping import by_user
from simulations.datasets.registry import LoadOptions


def load(options: LoadOptions) -> InMemoryDataset:
    """4,500 drawings, decoded once into memory, uint8 `[n, 64, 64, 3]`.

    The artist is the user and the folder the class. A fifth of the folders is held out;
    artists who drew nothing else are no training users.

    Fields: `image`, `label`, `caption` (title and keywords, str).
    """
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    content = (resources.files(__package__) / "openclipart.parquet").read_bytes()
    table = parquet.read_table(pa.BufferReader(content))
    side = options.image_size or 64
    images = np.empty((len(table), side, side, 3), dtype=np.uint8)
    for row, encoded in enumerate(table["image"]):
        with Image.open(io.BytesIO(encoded.as_py())) as image:
            square = image.convert("RGB")
        if side != square.width:
            square = square.resize((side, side), Image.Resampling.BOX)
        images[row] = np.asarray(square)
    captions = [
        ", ".join([title, *(word for word in keywords if word != title)])
        for title, keywords in zip(
            table["title"].to_pylist(), table["keywords"].to_pylist(), strict=True
        )
    ]
    return by_user(
        fields={"image": images, "caption": np.array(captions)},
        users=table["artist"].to_pylist(),
        labels=table["folder"].to_pylist(),
        held_out=np.array(table["split"].to_pylist()) == "test",
        provenance=Provenance(
            name=options.name,
            source=Source.SAMPLE,
            licence="public domain",
            checksum=hashlib.sha256(content).hexdigest()[:16],
            description="Open Clip Art drawings; artist = user, folder = class",
        ),
    )
