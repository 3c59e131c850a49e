"""Local heads: padding never counts, and every corner case is safe."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

from fedemb.heads import BiasedHead, ClassMeansHead, CosineHead, LinearHead
from fedemb.identity import IdentityTask

DIM = 5
LINEAR = {"linear": LinearHead, "linear-bias": BiasedHead, "cosine": CosineHead}
KINDS = (*LINEAR, "class-means")


def make(kind: str, capacity: int, generator: torch.Generator) -> torch.nn.Module:
    if kind == "class-means":
        return ClassMeansHead(capacity)
    head = LINEAR[kind](DIM, capacity).double()
    with torch.no_grad():
        head.weight.copy_(torch.randn(capacity, DIM, generator=generator).double())
    return head


def batch_of(labels: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
    return {
        "label": labels,
        "weight": torch.ones(len(labels), dtype=torch.float64),
        "classes": torch.tensor(classes),
    }


def loss_and_gradient(head, features, batch):
    parameters = dict(head.named_parameters())

    def loss(parameters, features):
        return functional_call(head, parameters, (features, batch))

    value = loss(parameters, features)
    return value, *grad(loss, argnums=(0, 1))(parameters, features)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 7), padding=st.integers(1, 4))
def test_padding_rows_and_padding_classes_never_change_loss_or_gradient(
    kind, seed, rows, padding
):
    g = torch.Generator().manual_seed(seed)
    classes, capacity = 3, 6
    head = make(kind, capacity, g)
    labels = torch.randint(0, classes, (rows,), generator=g)
    features = torch.randn(rows, DIM, generator=g).double()
    padded = batch_of(
        torch.cat([labels, torch.randint(0, capacity, (padding,), generator=g)]),
        classes,
    )
    padded["weight"][rows:] = 0
    junk = 100 * torch.randn(padding, DIM, generator=g).double()

    small = make(kind, classes, g)
    if kind != "class-means":
        small.load_state_dict(
            {k: v[:classes] if v.dim() else v for k, v in head.state_dict().items()}
        )
    value, on_head, on_rows = loss_and_gradient(
        small, features, batch_of(labels, classes)
    )
    value_p, on_head_p, on_rows_p = loss_and_gradient(
        head, torch.cat([features, junk]), padded
    )

    torch.testing.assert_close(value_p, value)
    torch.testing.assert_close(on_rows_p[:rows], on_rows)
    assert torch.all(on_rows_p[rows:] == 0)
    for name, value in on_head.items():
        wide = on_head_p[name]
        torch.testing.assert_close(wide[:classes] if wide.dim() else wide, value)
        assert not wide.dim() or torch.all(wide[classes:] == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1e-13, 1e-11, 1.0, 1e4])
def test_gradients_are_finite_in_every_corner(kind, scale):
    g = torch.Generator().manual_seed(0)
    head = make(kind, 4, g).float()
    for labels in ([0, 0, 0], [0, 1, 2], [3, 3, 1]):
        for weights in ([1, 1, 1], [1, 0, 0], [0, 0, 0]):
            batch = {
                "label": torch.tensor(labels),
                "weight": torch.tensor(weights, dtype=torch.float32),
                "classes": torch.tensor(max(labels) + 1),
            }
            features = scale * torch.randn(3, DIM, generator=g)
            value, on_head, on_rows = loss_and_gradient(head, features, batch)
            for tensor in (value, on_rows, *on_head.values()):
                assert torch.isfinite(tensor).all()
            if not any(weights):
                assert value == 0
                assert all((t == 0).all() for t in (on_rows, *on_head.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_clients_equals_one_client_at_a_time(kind):
    g = torch.Generator().manual_seed(1)
    head = make(kind, 4, g)
    clients, rows = 3, 6
    features = torch.randn(clients, rows, DIM, generator=g).double()
    batch = {
        "label": torch.randint(0, 2, (clients, rows), generator=g),
        "weight": (torch.rand(clients, rows, generator=g) > 0.3).double(),
        "classes": torch.tensor([2, 3, 4]),
    }
    parameters = {
        k: torch.randn(clients, *v.shape, generator=g).double()
        for k, v in head.named_parameters()
    }

    def loss(parameters, features, batch):
        return functional_call(head, parameters, (features, batch))

    gradient = grad(loss, argnums=(0, 1))
    together = vmap(gradient)(parameters, features, batch)
    for v in range(clients):
        alone = gradient(
            {k: p[v] for k, p in parameters.items()},
            features[v],
            {k: b[v] for k, b in batch.items()},
        )
        torch.testing.assert_close(together[1][v], alone[1])
        for name, value in alone[0].items():
            torch.testing.assert_close(together[0][name][v], value)


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("views", [(), (2,)])
def test_linear_heads_take_many_clients_as_they_take_each(kind, views):
    g = torch.Generator().manual_seed(1)
    head = make(kind, 4, g)
    clients, rows = 3, 6
    features = torch.randn(clients, rows, *views, DIM, generator=g).double()
    batch = {
        "label": torch.randint(0, 2, (clients, rows), generator=g),
        "weight": (torch.rand(clients, rows, generator=g) > 0.3).double(),
        "classes": torch.tensor([2, 3, 4]),
    }
    batch["weight"][2] = 0.0  # a client without rows
    parameters = {
        k: torch.randn(clients, *v.shape, generator=g).double()
        for k, v in head.named_parameters()
    }
    together = functional_call(head, parameters, (features, batch))
    alone = torch.stack(
        [
            functional_call(
                head,
                {k: p[v] for k, p in parameters.items()},
                (features[v], {k: b[v] for k, b in batch.items()}),
            )
            for v in range(clients)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert together[2] == 0


def test_losses_of_ones_own_do_not_take_many_clients():
    """A subclass that changes `loss` gets it vectorised, as any task does."""

    class Own(IdentityTask):
        def loss(self, head, features, batch):
            return 2 * super().loss(head, features, batch)

    kinds = {"backbone": nn.Identity, "embedding_dim": DIM, "num_classes": 4}
    for task, takes in ((IdentityTask, True), (Own, False)):
        own = task(name="own", head="linear", **kinds)
        assert own.takes_many(own.make_head(4)) == takes
    assert not own.takes_many(ClassMeansHead(4))


def test_class_means_leave_the_scored_row_out():
    g = torch.Generator().manual_seed(2)
    features = torch.randn(7, DIM, generator=g).double()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0])  # class 2 is a singleton
    temperature = 0.25
    unit = features / features.norm(dim=1, keepdim=True)
    losses = []
    for i in range(7):
        if int((labels == labels[i]).sum()) < 2:
            continue
        logits = []
        for k in range(3):
            others = (labels == k) & (torch.arange(7) != i)
            mean = unit[others].mean(0) if others.any() else torch.zeros(DIM).double()
            logits.append(unit[i] @ mean / mean.norm().clamp(min=1e-12) / temperature)
        stacked = torch.stack(logits)
        losses.append(stacked.logsumexp(0) - stacked[labels[i]])
    found = ClassMeansHead(5, temperature)(features, batch_of(labels, 3))
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_class_means_of_singletons_alone_teach_nothing():
    features = torch.randn(4, DIM).double()
    value, _, gradient = loss_and_gradient(
        ClassMeansHead(4), features, batch_of(torch.arange(4), 4)
    )
    assert value == 0
    assert (gradient == 0).all()


def test_class_means_count_rows_of_any_positive_weight_as_companions():
    batch = batch_of(torch.tensor([0, 0, 1, 1]), 2)
    whole = ClassMeansHead(2)(torch.eye(4).double(), batch)
    batch["weight"] *= 0.25
    torch.testing.assert_close(ClassMeansHead(2)(torch.eye(4).double(), batch), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_the_class_ids_leaves_the_backbone_gradient_unchanged(kind):
    g = torch.Generator().manual_seed(3)
    head = make(kind, 4, g)
    features = torch.randn(8, DIM, generator=g).double()
    labels = torch.randint(0, 4, (8,), generator=g)
    order = torch.tensor([2, 0, 3, 1])
    _, _, before = loss_and_gradient(head, features, batch_of(labels, 4))
    if kind != "class-means":
        with torch.no_grad():
            head.weight.copy_(head.weight[torch.argsort(order)].clone())
    _, _, after = loss_and_gradient(head, features, batch_of(order[labels], 4))
    torch.testing.assert_close(after, before)


def test_linear_head_has_no_bias_unless_asked_for_and_the_cosine_head_adds_one_scalar():
    linear = {k: tuple(v.shape) for k, v in LinearHead(128, 283).named_parameters()}
    cosine = {k: tuple(v.shape) for k, v in CosineHead(128, 283).named_parameters()}
    biased = {k: tuple(v.shape) for k, v in BiasedHead(128, 283).named_parameters()}
    assert linear == {"weight": (283, 128)}
    assert biased == {"weight": (283, 128), "bias": (283,)}
    assert cosine == {"weight": (283, 128), "scale": ()}
    assert CosineHead(128, 283).scale == 1


def test_cosine_logits_ignore_the_length_of_class_vectors():
    g = torch.Generator().manual_seed(4)
    head = make("cosine", 3, g)
    features = torch.randn(2, DIM, generator=g).double()
    before = head.logits(features)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [2.0], [30.0]]))
    torch.testing.assert_close(head.logits(features), before)
    torch.testing.assert_close(head.logits(3 * features), 3 * before)
