"""The text tower: what each convention looks at, and that engines can train it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import UserError
from fedemb.identity import IdentityTask
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from model_zoo.text.tokenizer import encode, shipped
from model_zoo.text.transformer import POOLS, TextShape, TextTower
from simulations.datasets import load

SHAPE = TextShape(vocab_size=128, length=20, width=16, layers=2, heads=4, mlp=32)


def tower(**changes):
    torch.manual_seed(0)
    return TextTower(dataclasses.replace(SHAPE, **changes)).double().eval()


def ids(*texts):
    return torch.from_numpy(encode(shipped(128), texts, SHAPE.length))


@pytest.mark.parametrize("pool", ["eos", "first", "mean"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_padding_changes_nothing(pool, positions):
    model = tower(pool=pool, positions=positions)
    long = ids("a red ball", "a blue ring")
    short = long[:, :12]
    torch.testing.assert_close(model(long), model(short))


@pytest.mark.parametrize("pool", POOLS)
def test_rows_are_independent_and_words_matter(pool):
    model = tower(pool=pool)
    both = model(ids("a red ball", "a blue ring"))
    alone = model(ids("a blue ring"))
    torch.testing.assert_close(both[1:], alone)
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_a_causal_tower_does_not_look_ahead():
    text = ids("a red ball spins")
    other = text.clone()
    other[0, 3] = 60
    for causal in (True, False):
        model = tower(causal=causal)
        same = torch.equal(model.tokens(text)[0, :3], model.tokens(other)[0, :3])
        assert same is causal


def test_eos_pooling_takes_the_first_end_or_the_last_word():
    model = tower(causal=True)
    text = torch.tensor([[9, 8, 2, 2, 0], [9, 8, 7, 0, 0], [0, 0, 0, 0, 0]])
    tokens = model.tokens(text)
    pooled = model.pooled(tokens, text)
    torch.testing.assert_close(pooled[0], tokens[0, 2])
    torch.testing.assert_close(pooled[1], tokens[1, 2])
    assert torch.isfinite(pooled).all()  # a text of nothing but padding


def test_kinds_of_tokens_have_a_vector_each_and_the_first_is_the_usual_one():
    text = ids("a red ball spins")
    model = tower(types=2)
    assert model.kind.weight.shape == (2, SHAPE.width)
    first = torch.zeros_like(text)
    assert torch.equal(model(text), model(text, first))
    assert (model(text) - model(text, first + 1)).abs().max() > 1e-4
    with pytest.raises(UserError, match="build it with types=2"):
        tower()(text, first)
    with pytest.raises(UserError, match="types=-1"):
        tower(types=-1)


def test_the_class_token_is_appended_and_sees_everything():
    model = tower(pool="class", causal=True, scaled=True, positions="sinusoidal")
    text = ids("a red ball")
    assert model.tokens(text).shape == (1, SHAPE.length + 1, SHAPE.width)
    torch.testing.assert_close(model(text), model.tokens(text)[:, -1])
    other = ids("a blue ball")
    assert (model(text) - model(other)).abs().max() > 1e-6


def test_gradients_of_many_clients_at_once_are_those_one_by_one():
    model = tower(embedding_dim=8)
    weights = {k: v.detach() for k, v in model.named_parameters()}
    texts = torch.stack([ids("a red ball", "a"), ids("a ring spins", "blue")])
    target = torch.randn(2, 2, 8, dtype=torch.float64)

    def loss(weights, text, goal):
        return (functional_call(model, weights, (text,)) * goal).sum()

    together = vmap(grad(loss), in_dims=(None, 0, 0))(weights, texts, target)
    for client in range(2):
        alone = grad(loss)(weights, texts[client], target[client])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][client], value)


def test_parameters_are_counted_as_written_down():
    count = sum(p.numel() for p in tower(embedding_dim=8).parameters())
    block = 4 * 16 + 4 * 16 * 16 + 4 * 16 + 2 * 16 * 32 + 32 + 16
    assert count == 128 * 16 + 20 * 16 + 2 * block + 2 * 16 + 16 * 8
    with torch.device("meta"):
        clip = TextTower(
            TextShape(
                vocab_size=49_408,
                length=77,
                width=512,
                layers=12,
                heads=8,
                causal=True,
                embedding_dim=512,
            )
        )
    assert sum(p.numel() for p in clip.parameters()) == 63_428_096  # CLIP B/32's


def test_it_learns_to_tell_captions_apart():
    torch.manual_seed(0)
    model = TextTower(dataclasses.replace(SHAPE, embedding_dim=4))
    text = ids("a red ball", "a blue ball", "a red ring", "a blue ring")
    target = torch.arange(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        value = nn.functional.cross_entropy(model(text), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert (model(text).argmax(1) == target).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"heads": 3}, "heads=3"),
        ({"pool": "max"}, "pool='max'"),
        ({"layers": 0}, "layers=0"),
        ({"positions": "none"}, "positions"),
        ({"width": 15, "heads": 3, "positions": "sinusoidal"}, "even"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change, word):
    with pytest.raises(UserError, match=word):
        dataclasses.replace(SHAPE, **change)


def test_texts_longer_than_the_tower_are_refused():
    with pytest.raises(UserError, match="length=20"):
        tower()(torch.ones(1, 21, dtype=torch.int64))


class CaptionTask(IdentityTask):
    """Tells captions of classes apart; `image` holds ids."""

    def prepare(self, examples, seeds):
        text = encode(shipped(128), examples.fields["caption"], SHAPE.length)
        labels = torch.from_numpy(examples.fields["label"].astype(np.int64))
        return {"image": torch.from_numpy(text), "label": labels}


@pytest.mark.parametrize("pool", ["eos", "class"])
@pytest.mark.parametrize("trained", ["all", "names:blocks.*"])
def test_engines_train_it_as_the_serial_one_does(pool, trained):
    net = tower(pool=pool, embedding_dim=8)
    task = CaptionTask(
        name="captions",
        backbone=lambda: net,
        embedding_dim=8,
        num_classes=5,
        head="linear",
        label_space="client",
    )
    users = load("clips-stills", users=50).fetch(np.arange(3))
    rows = {name: users.fields[name] for name in ("caption", "label")}
    work = make_work(
        task,
        recipe := LocalTraining(learning_rate=0.3, batch_size=16, steps=1),
        Examples(rows, users.offsets),
        np.arange(3, dtype=np.uint64),
        dtype=torch.float64,
    )
    layout = FlatLayout.of(net, trained)
    theta = layout.flatten(dict(net.named_parameters()))
    model = LocalModel(task, net.requires_grad_(False), work.head)
    deltas = [
        engine(model, layout, theta, work, recipe)
        for engine in (serial_deltas, vectorized_deltas, shared_deltas)
    ]
    assert deltas[0].norm() > 0
    for other in deltas[1:]:
        torch.testing.assert_close(other, deltas[0], rtol=1e-8, atol=1e-11)
