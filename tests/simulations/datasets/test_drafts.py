"""Rows that are known of before they are made: the same rows, and fewer of them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.clipping import Lattice
from fedemb.cohort import PoissonVirtualClients
from fedemb.data import Drafts, Examples
from fedemb.randomness import RootKey
from fedemb.runner import EngineChoice
from simulations import datasets
from simulations.assembly import assemble, inline_runner, layered, make_backbone

GENERATED = ["scenes", "relation-scenes", "poses", "clips-plain"]


@pytest.mark.parametrize("name", GENERATED)
@settings(max_examples=5)
@given(
    users=st.lists(st.integers(0, 999), min_size=1, max_size=3),
    chosen=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
)
def test_some_rows_of_a_draft_become_what_they_are_among_all(name, users, chosen):
    data = datasets.load(name, users=1000)
    assert isinstance(data, Drafts)
    whole = data.fetch(np.array(users))
    drafted = data.draft(np.array(users))
    assert np.array_equal(drafted.offsets, whole.offsets)
    assert np.array_equal(drafted.fields["label"], whole.fields["label"])
    rows = np.array(chosen) % len(whole)
    some = data.complete(drafted.only(rows))
    assert set(some.fields) == set(whole.fields)
    for field, values in some.fields.items():
        assert values.dtype.kind == whole.fields[field].dtype.kind
        assert np.array_equal(values, whole.fields[field][rows]), field


@dataclass(frozen=True)
class Fetching:
    """The same data, from which every row has to be made."""

    whole: object

    def fetch(self, users: np.ndarray) -> Examples:
        return self.whole.fetch(users)

    def __getattr__(self, name: str):
        if name in ("draft", "complete", "whole"):
            raise AttributeError(name)
        return getattr(self.whole, name)


def a_round(model: str, side: int | None):
    """A runner on few users, and what `train` wants of it."""
    few = {
        "data": {"users": 60, "image_size": side},
        "privacy": {"users_per_round": 20},
    }
    assembly = assemble(layered(None, model, None, few))
    key = RootKey.from_seed(0)
    engine = EngineChoice(name="shared", chunk=16)
    own = inline_runner(assembly, 0, make_backbone(assembly, 0), key, engine)
    theta = own.layout.flatten(dict(own.backbone.named_parameters())).detach()
    cohort = PoissonVirtualClients(
        population=60, users_per_round=20, users_per_virtual_client=1
    ).draw(key, 0)
    return own, (theta, cohort, Lattice(0.3, len(theta)), 0)


@pytest.mark.parametrize(
    ("model", "side"), [("deeplab2", 32), ("const_cl", 32), ("cv_mim", None)]
)
def test_a_round_of_drafts_has_the_integers_of_a_round_of_whole_users(model, side):
    drafting, wanted = a_round(model, side)
    fetching = replace(drafting, dataset=Fetching(drafting.dataset))
    assert isinstance(drafting.dataset, Drafts)
    assert not isinstance(fetching.dataset, Drafts)
    drafted, fetched = (own.train(*wanted).total for own in (drafting, fetching))
    assert torch.equal(torch.as_tensor(drafted), torch.as_tensor(fetched))
    assert torch.as_tensor(drafted).any()


def test_only_the_rows_that_are_read_are_made(monkeypatch):
    own, wanted = a_round("deeplab2", 32)
    made = []
    complete = type(own.dataset).complete

    def counted(self, drafted):
        made.append(len(drafted))
        return complete(self, drafted)

    monkeypatch.setattr(type(own.dataset), "complete", counted)
    own.train(*wanted)
    cohort = wanted[1]
    assert sum(made) == own.recipe.batch_size * len(cohort) < 16 * len(cohort)
