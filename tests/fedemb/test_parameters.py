"""The flat vector: named, reversible, differentiable, and never a buffer."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from fedemb.errors import UserError
from fedemb.parameters import FlatLayout, refuse_batch_statistics


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 3), nn.ReLU()
    )


def test_flatten_and_load_are_inverse():
    first, second = network(), network()
    layout = FlatLayout.of(first)
    vector = layout.flatten(dict(first.named_parameters()))
    assert (
        vector.shape == (layout.size,) == (sum(p.numel() for p in first.parameters()),)
    )
    layout.load(second, vector)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_unflatten_gives_views_for_any_leading_dimensions():
    layout = FlatLayout.of(network())
    vectors = torch.arange(2.0 * 3 * layout.size).view(2, 3, layout.size)
    named = layout.unflatten(vectors)
    for v in range(2):
        for w in range(3):
            single = layout.unflatten(vectors[v, w])
            assert all(torch.equal(named[k][v, w], single[k]) for k in layout.names)
    named["0.bias"].zero_()
    assert (layout.unflatten(vectors)["0.bias"] == 0).all()


def test_unflatten_is_differentiable_and_vectorises():
    layout = FlatLayout.of(network())

    def norm(vector):
        return sum(value.square().sum() for value in layout.unflatten(vector).values())

    vectors = torch.randn(5, layout.size)
    found = vmap(torch.func.grad(norm))(vectors)
    torch.testing.assert_close(found, 2 * vectors)


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("norm", ("1.weight", "1.bias")),
        ("last", ("3.weight", "3.bias")),
        ("names:*.bias", ("0.bias", "1.bias", "3.bias")),
        ("names:3.*, 0.weight", ("0.weight", "3.weight", "3.bias")),
        ("names:*.bias of names:1.*, 3.*", ("1.bias", "3.bias")),
        ("all of names:*.bias of last", ("3.bias",)),
    ],
)
def test_selections_keep_the_module_order(trainable, names):
    assert FlatLayout.of(network(), trainable).names == names


def test_named_selections_of_a_backbone_win():
    module = network()
    module.trainable_selections = {"stem": "0.*", "last": "1.*,3.*"}
    assert FlatLayout.of(module, "stem").names == ("0.weight", "0.bias")
    assert FlatLayout.of(module, "last").names[0] == "1.weight"


@pytest.mark.parametrize(
    ("trainable", "hint"),
    [
        ("nothing", "all, norm, last"),
        ("names:encoder.*", "0.weight"),
        ("names:", "0.weight"),
        ("norm of names:0.*", "'norm of names:0.*' selects nothing"),
    ],
)
def test_an_empty_or_unknown_selection_says_what_exists(trainable, hint):
    with pytest.raises(UserError, match=hint):
        FlatLayout.of(network(), trainable)


def test_no_normalisation_to_select_is_an_error():
    with pytest.raises(UserError, match="selects nothing"):
        FlatLayout.of(nn.Linear(2, 2), "norm")


def test_buffers_are_never_part_of_the_layout():
    module = nn.Sequential(nn.BatchNorm2d(3)).eval()
    assert FlatLayout.of(module).names == ("0.weight", "0.bias")


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.SyncBatchNorm(3),
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ],
)
def test_live_batch_statistics_are_refused_with_a_way_out(layer):
    with pytest.raises(UserError, match=r"GroupNorm.*freeze"):
        refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), layer))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(3).eval(), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)]
)
def test_frozen_statistics_and_row_wise_normalisation_are_accepted(layer):
    refuse_batch_statistics(nn.Sequential(layer))
