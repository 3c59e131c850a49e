"""Exported to ONNX, a backbone embeds any number of rows as it does here."""

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.errors import NotAvailable
from fedemb.identity import IdentityTask, embed_all
from model_zoo import registry
from model_zoo.system import DataFacts
from simulations.datasets import load
from simulations.exporting import onnx_bytes

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
reference = pytest.importorskip("onnx.reference")
pytest.importorskip("onnxscript")

SYSTEMS = [
    ("cv_mim:tiny", ["motion"]),
    ("video_language_distillation:tiny", ["clip"]),
    *(
        pytest.param(f"{name}:tiny", [given], marks=pytest.mark.slow)
        for name, given in (
            ("videoprism", "clip"),
            ("videoglue", "image"),
            ("g_vilm", "clip"),
            ("const_cl", "clip"),
        )
    ),
    *(
        pytest.param(name, ["image"], marks=pytest.mark.slow)
        for name in (
            *(
                "imagen3:tiny",
                "univrd:tiny",
                "deeplab2:tiny",
                "small_cnn:tiny",
                "lenet:tiny",
            ),
            *("mobilenet_small:tiny", "mobilenet_v2:tiny", "resnet50:tiny"),
        )
    ),
]


def some_rows(dataset: str, count: int) -> tuple[Examples, DataFacts]:
    data = load(dataset, users=40) if dataset != "openclipart" else load(dataset)
    rows = data.fetch(np.arange(20)).only(np.arange(count))
    shape = next(iter(rows.fields.values())).shape[1:]
    named = getattr(data, "vocabularies", {})
    facts = DataFacts(
        example_shape=shape,
        num_classes=data.num_classes,
        class_names=tuple(data.class_names),
        vocabularies={name: tuple(words) for name, words in named.items()},
    )
    return rows, facts


@pytest.mark.parametrize(("name", "inputs"), SYSTEMS)
def test_an_exported_model_embeds_any_number_of_rows(
    name: str, inputs: list[str]
) -> None:
    card = registry.get(name)
    rows, facts = some_rows(card.default_dataset, 5)
    task = card.build(data=facts)[-1].task
    torch.manual_seed(0)
    backbone = task.make_backbone().eval()
    model = onnx.load_from_string(onnx_bytes(task, backbone, rows, "{}"))
    assert [given.name for given in model.graph.input] == inputs
    start = getattr(task, "exported_inputs", None)
    batch = start(rows) if start else task.prepare(rows, np.zeros(1, np.uint64))
    given = {key: batch[key].numpy() for key in inputs}
    (found,) = reference.ReferenceEvaluator(model).run(None, given)
    expected = embed_all(task, backbone, rows).numpy()
    assert found.shape == expected.shape == (5, expected.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-4)


class TwoOnly(torch.nn.Module):
    """A backbone that counts its rows, which fixes their number in what is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :4] * self.weight + torch.ones(len(images), 4)


def test_a_model_of_a_fixed_number_of_rows_is_refused() -> None:
    task = IdentityTask(name="toy", backbone=TwoOnly, embedding_dim=4, num_classes=2)
    fields = {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.arange(2)}
    with pytest.raises(NotAvailable, match="any number of rows"):
        onnx_bytes(task, TwoOnly(), Examples(fields, np.array([0, 2])), "{}")
