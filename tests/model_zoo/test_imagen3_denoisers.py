"""Denoisers, objectives and samplers of the latent diffusion model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedemb.errors import UserError
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.imagen3 import variance
from model_zoo.imagen3.autoencoder import Autoencoder, AutoencoderShape
from model_zoo.imagen3.condition import Condition
from model_zoo.imagen3.dit import DiT, DiTShape
from model_zoo.imagen3.objectives import TIMES, Diffusion, Flow
from model_zoo.imagen3.samplers import ddim, euler, guided
from model_zoo.imagen3.unet import UNet, UNetShape
from model_zoo.text.transformer import TextShape, TextTower

PUBLISHED = {
    "dit_xl_2": 675_129_632,
    "dit_l_2": 458_102_816,
    "dit_b_2": 130_512_416,
    "dit_s_2": 32_963_360,
    "sd_1_5": 859_520_964,
    "sd_2": 865_910_724,
}
OBJECTIVES = [Flow(), Diffusion(), Diffusion(schedule="cosine"), Diffusion(steps=50)]


def count(module):
    return sum(value.numel() for value in module.parameters())


def told(rows, length=5, width=16):
    draw = torch.Generator().manual_seed(rows)
    tokens = torch.randn(rows, length, width, generator=draw)
    return Condition(tokens, torch.ones(rows, length), tokens.mean(1))


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_describe_gives_the_published_counts(name, parameters):
    sizes = registry.describe(f"imagen3:{name}")["configurations"][name]
    assert sizes["backbone_parameters"] == parameters


def test_public_models_have_the_published_counts():
    text = TextShape(
        vocab_size=49_408, length=77, width=768, layers=12, heads=12, causal=True
    )
    projected = TextShape(**{**vars(text), "embedding_dim": 768})
    with torch.device("meta"):
        assert count(TextTower(text)) == 123_060_480
        assert count(TextTower(projected)) == 123_650_304
        assert count(Autoencoder(AutoencoderShape())) == 83_653_863
    assert AutoencoderShape().factor == 8


@pytest.mark.parametrize("h", [32, 64, 384])
def test_a_block_has_18_h_squared_and_15_h_weights(h):
    with torch.device("meta"):
        block = DiT(DiTShape(side=8, width=h, depth=1, heads=4, classes=9)).blocks[0]
        assert count(block) == 18 * h * h + 15 * h


def test_at_initialisation_each_block_is_identity_and_denoiser_output_is_exactly_0():
    torch.manual_seed(0)
    model = DiT(DiTShape(side=8, width=32, depth=3, heads=4, text=16))
    noisy, time = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 900.0])
    assert torch.equal(model(noisy, time, told(2)), torch.zeros(2, 4, 8, 8))
    entered = model.enter(noisy).flatten(2).transpose(1, 2) + model.place
    for share in (0.4, 0.6, 1.0):
        assert torch.equal(model.inner(noisy, time, told(2), share), entered)
    with torch.no_grad():
        model.blocks[0].modulation.bias.fill_(0.1)
    assert not torch.equal(model.inner(noisy, time, told(2), 0.4), entered)


def test_positions_are_fixed_and_everything_else_is_trained():
    model = DiT(DiTShape(side=8, width=32, depth=1, heads=4, text=16))
    names = FlatLayout.of(model, "denoiser").names
    assert {name for name, _ in model.named_parameters()} - set(names) == {"place"}
    assert len(torch.unique(model.place, dim=0)) == 16


def opened(model):
    """All parameters random, so that nothing is switched off."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=draw))
    return model


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_rows_do_not_mix_and_padding_of_texts_is_not_seen(kind):
    if kind == "dit":
        model = DiT(DiTShape(side=8, width=32, depth=2, heads=4, text=16))
    else:
        model = UNet(
            UNetShape(
                side=8, width=8, multiples=(1, 2), blocks=1, text=16, groups=4, heads=2
            )
        )
    model = opened(model).double()
    noisy = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    time = torch.tensor([1.0, 500.0, 999.0], dtype=torch.float64)
    text = told(3)
    text = Condition(text.tokens.double(), text.seen.double(), text.pooled.double())
    whole = model(noisy, time, text)
    one = Condition(text.tokens[1:2], text.seen[1:2], text.pooled[1:2])
    torch.testing.assert_close(model(noisy[1:2], time[1:2], one), whole[1:2])
    seen = text.seen.clone()
    seen[:, 3:] = 0
    changed = text.tokens.clone()
    changed[:, 3:] += 7
    short = model(noisy, time, Condition(text.tokens, seen, text.pooled))
    same = model(noisy, time, Condition(changed, seen, text.pooled))
    torch.testing.assert_close(short, same)
    assert not torch.allclose(short, whole)


def test_patches_are_put_back_where_they_came_from():
    model = DiT(DiTShape(side=4, width=8, depth=1, heads=1, classes=2, channels=1,
                         out_channels=1))  # fmt: skip
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    patches = nn.functional.unfold(image, 2, stride=2).transpose(1, 2)
    assert torch.equal(model._whole(patches), image)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_t_0_is_the_data_and_t_1_is_noise(objective):
    clean, noise = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64).unbind()
    start, end = torch.zeros(2), torch.full((2,), float(TIMES))
    torch.testing.assert_close(objective.noised(clean, noise, start.double()), clean)
    last = objective.noised(clean, noise, end.double())
    torch.testing.assert_close(last, noise, atol=0.1, rtol=0.1)


@pytest.mark.statistical
def test_variance_stays_about_1_for_unit_variance_data_under_diffusion_alone():
    draw = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4000, 1, 4, 4, generator=draw).unbind()
    for share in (0.1, 0.5, 0.9):
        time = torch.full((4000,), share * TIMES)
        for objective in OBJECTIVES[1:]:
            assert abs(objective.noised(clean, noise, time).var() - 1) < 0.02
        flow = share**2 + (1 - share) ** 2
        assert abs(Flow().noised(clean, noise, time).var() - flow) < 0.02


def test_alpha_bar_is_that_of_linear_betas():
    kept = Diffusion().kept
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(kept[1:], (1 - beta).cumprod(0))
    assert kept[0] == 1
    for objective in OBJECTIVES[1:]:
        assert (objective.kept.diff() < 0).all()


@given(st.floats(1, 999), st.sampled_from(OBJECTIVES))
def test_the_true_prediction_splits_into_data_and_noise(time, objective):
    clean, noise = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64).unbind()
    at = torch.tensor([time], dtype=torch.float64)
    if isinstance(objective, Diffusion) and objective.at(at) < 1e-6:
        return
    noisy = objective.noised(clean, noise, at)
    found = objective.split(noisy, objective.target(clean, noise, at), at)
    torch.testing.assert_close(found[0], clean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], noise, atol=1e-6, rtol=1e-6)


def test_v_endpoints_and_one_euler_step_with_the_true_v_recovers_the_data():
    clean, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64).unbind()
    flow, zero = Flow(), torch.zeros(3, dtype=torch.float64)
    velocity = flow.target(clean, noise, zero)
    torch.testing.assert_close(flow.noised(clean, noise, zero) + velocity, noise)
    for steps in (1, 7, 20):  # a path of constant velocity does not depend on steps
        found = euler(lambda x, t: velocity, noise, steps)
        torch.testing.assert_close(found, clean)


def test_ddim_on_a_straight_flow_is_euler():
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64)

    def velocity(x, t):
        return x * (t / TIMES)[:, None, None, None] + 0.3

    torch.testing.assert_close(
        ddim(velocity, noise, Flow(), 9), euler(velocity, noise, 9)
    )


def test_ddim_with_the_true_noise_recovers_the_data():
    clean, noise = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64).unbind()
    for objective in OBJECTIVES[1:]:
        start = objective.noised(
            clean, noise, torch.full((2,), float(TIMES), dtype=torch.float64)
        )
        found = ddim(lambda x, t: noise, start, objective, 10)
        torch.testing.assert_close(found, clean, atol=1e-5, rtol=1e-5)


def test_guidance_1_equals_conditional_0_unconditional_and_more_moves_on():
    x, t = torch.zeros(1, 1, 2, 2), torch.zeros(1)
    weights = (0.0, 0.5, 1.0, 2.0, 4.0)
    outs = [
        guided(lambda x, t: x + 3.0, lambda x, t: x + 1.0, w)(x, t).mean()
        for w in weights
    ]
    assert outs[0] == 1
    assert outs[2] == 3
    assert outs == sorted(outs)
    assert outs[4] == 9


def test_the_learned_variance_is_bounded_by_the_true_step_and_trains_itself_alone():
    objective = Diffusion()
    noise = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    time = torch.tensor([1.0, 2.0, 400.0, 1000.0], dtype=torch.float64)
    mean = noise.clone().requires_grad_()
    shares = torch.full_like(noise, -1.0).requires_grad_()
    least = variance.bound(objective, mean, shares, noise, time)
    torch.testing.assert_close(least, torch.zeros(4, dtype=torch.float64))
    wrong = variance.bound(objective, mean + 0.5, shares + 0.7, noise, time)
    assert (wrong > 0).all()
    grads = torch.autograd.grad(wrong.sum(), (mean, shares), allow_unused=True)
    assert grads[0] is None
    assert grads[1].abs().sum() > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flow(times="often"),
        lambda: Diffusion(schedule="steep"),
        lambda: DiTShape(side=9, width=32, depth=1, heads=4),
        lambda: UNetShape(side=9),
        lambda: AutoencoderShape(width=20, groups=8),
        lambda: euler(lambda x, t: x, torch.zeros(1, 1, 1, 1), 0),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(UserError):
        make()
