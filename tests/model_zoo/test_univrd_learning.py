"""What UniVRD learns, and which mechanism it learns it by. Plain training, no noise."""

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.parameters import FlatLayout
from fedemb.pixels import pixels
from model_zoo import registry
from model_zoo.univrd.augment import annotated
from model_zoo.univrd.evaluation import evaluate
from model_zoo.univrd.heads import LocalScaling
from model_zoo.univrd.inference import relation_embedding
from simulations.assembly import facts
from simulations.datasets.registry import load

DATA = load("relation-scenes", users=100_000)
HELD_OUT = DATA.held_out()
DETECTOR, RELATIONS = registry.get("univrd").build(data=facts(DATA))


def backbone():
    torch.manual_seed(0)
    return DETECTOR.task.make_backbone()


def fit(stage, model, steps, *, source=None, pictures=48, rate=3e-3, trainable=None):
    """Adam on pooled pictures, of one source or of all."""
    names = FlatLayout.of(model, trainable or stage.trainable).names
    for name, value in model.named_parameters():
        value.requires_grad_(name in names)
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(chosen, lr=rate)
    head = stage.task.make_head(1).requires_grad_(False)
    for step in range(steps):
        users = np.arange(pictures) + step * pictures
        rows = DATA.fetch(users).fields
        some = np.ones(len(rows["label"]), bool)
        if source is not None:
            some = rows["source"] == source
        rows = {name: values[some] for name, values in rows.items()}
        n = min(pictures, len(rows["label"]))
        examples = Examples(
            {name: values[:n] for name, values in rows.items()}, np.array([0, n])
        )
        batch = stage.task.prepare(examples, np.array([step], np.uint64))
        batch["weight"] = torch.ones(n)
        loss = stage.task.loss(head, stage.task.features(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def measured(model, source=None):
    """Metrics on held-out pictures, of one source or of all."""
    rows, labels = HELD_OUT.fields, HELD_OUT.fields["label"]
    some = np.flatnonzero(rows["source"] == source) if source is not None else slice(0)
    some = np.arange(len(labels)) if source is None else some
    part = Examples(HELD_OUT.take(some), np.array([0, len(some)]))
    head = LocalScaling(DETECTOR.task.width)
    return evaluate(
        model,
        head.names,
        head.phrases,
        DETECTOR.task.space,
        annotated(part),
        labels[some],
    )


@pytest.mark.statistical
def test_label_unification_carries_names_over_to_their_synonyms():
    """Trained on one source's names; asked for another's, which it never saw.

    Random vectors are integer ids: they carry nothing over.
    """
    found = []
    for random in (False, True):
        model = backbone()
        if random:
            bank = torch.randn(12, 1, 48, generator=torch.Generator().manual_seed(1))
            shape = model.object_bank.shape
            model.object_bank = torch.nn.functional.normalize(bank, dim=-1).expand(
                shape
            )
        fit(DETECTOR, model, 40, source=0, rate=8e-3)
        found.append([measured(model, s)["detection_map"] for s in (0, 1)])
    (own, synonyms), (own_random, synonyms_random) = found
    assert own > 0.15
    assert synonyms > 0.6 * own
    assert own_random > 0.1
    assert synonyms_random < 0.4 * own_random


@pytest.fixture(scope="module")
def cascade():
    model = fit(DETECTOR, backbone(), 200, rate=6e-3)
    return fit(RELATIONS, model, 250, rate=6e-3)


@pytest.mark.slow
def test_a_cascade_beats_one_stage_from_scratch_by_5_points(cascade):
    """The same 450 steps, with both losses' parameters trained at once."""
    scratch = backbone()
    fit(RELATIONS, scratch, 450, trainable="all")
    gap = measured(cascade)["relation_map"] - measured(scratch)["relation_map"]
    assert gap > 0.05


@pytest.mark.slow
def test_a_query_picture_finds_pictures_of_the_same_relation_above_chance(cascade):
    with torch.no_grad():
        relations = cascade.relate(cascade.detect(pixels(HELD_OUT.fields["image"])))
        embedded = relation_embedding(relations, cascade.relation_bank, sharpness=1e3)
    labels = torch.from_numpy(HELD_OUT.fields["label"])
    nearest = (embedded @ embedded.T - 2 * torch.eye(len(labels))).argmax(1)
    same = (labels[nearest] == labels).float().mean()
    assert float(same) > 5 / len(torch.unique(labels))
