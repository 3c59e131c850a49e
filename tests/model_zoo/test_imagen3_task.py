"""The task of the latent diffusion model: what is drawn, shared, trained and kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedemb.data import Examples
from fedemb.engines.serial import serial_deltas
from fedemb.engines.shared import shared_deltas
from fedemb.engines.vectorized import vectorized_deltas
from fedemb.errors import NotAvailable, UserError
from fedemb.local import LocalModel, LocalTraining
from fedemb.make_work import make_work
from fedemb.parameters import FlatLayout
from model_zoo import registry
from model_zoo.imagen3.card import IMAGEN3
from model_zoo.imagen3.evaluation import denoising, generation
from model_zoo.imagen3.generate import generate
from model_zoo.imagen3.inputs import PROBE_DRAWS, probes
from model_zoo.imagen3.objectives import Flow
from model_zoo.imagen3.task import PROBE_TIME
from model_zoo.system import DataFacts, TaskOptions
from simulations.datasets.clips import Stills
from simulations.datasets.scenes import Scenes

FACTS = DataFacts(example_shape=(32, 32, 3), num_classes=1152)
SCENES = Scenes(1000, 0, 32)
TINY = ["tiny", "tiny_ddpm", "tiny_class", "tiny_unet", "tiny_upscaler"]


def task_of(name="tiny", **changes):
    return replace(IMAGEN3.build(name, data=FACTS)[0].task, **changes)


def rows(count, user=0):
    found = SCENES.fetch(np.array([user]))
    return found.only(np.arange(count))


def opened(task, seed=0):
    """A denoiser in which nothing is switched off."""
    torch.manual_seed(seed)
    model = task.make_backbone()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=draw))
    return model


@pytest.fixture(scope="module")
def learned():
    """A denoiser after 60 steps of ordinary training, and its average of weights."""
    task = task_of(head="none")
    torch.manual_seed(0)
    model = task.make_backbone()
    layout = FlatLayout.of(model, "denoiser")
    values = [v for n, v in model.named_parameters() if n in layout.names]
    optimizer = torch.optim.Adam(values, 8e-3)
    average = layout.flatten(dict(model.named_parameters()))
    data = SCENES.fetch(np.arange(40))
    head = task.make_head(1152)
    for step in range(60):
        taken = np.random.default_rng(step).choice(len(data), 32, replace=False)
        part = data.only(taken)
        batch = task.prepare(part, np.array([step], np.uint64))
        loss = task.loss(head, task.features(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = layout.flatten(dict(model.named_parameters()))
        average = 0.95 * average + 0.05 * now
    return task, model, average


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("head", ["class-means", "text", "none"])
def test_engines_train_it_as_the_serial_one_does(name, head):
    if head == "text" and name == "tiny_class":
        with pytest.raises(UserError, match="captions"):
            task_of(name, head=head)
        return
    task = task_of(name, head=head)
    model = opened(task).double()
    layout = FlatLayout.of(model, IMAGEN3.build(name, data=FACTS)[0].trainable)
    data = SCENES.fetch(np.arange(3))
    recipe = LocalTraining(learning_rate=1.0, batch_size=3, steps=1)
    seeds = np.arange(3, dtype=np.uint64)
    work = make_work(task, recipe, data, seeds, torch.float64)
    local = LocalModel(task, model, work.head.double())
    theta = layout.flatten(dict(model.named_parameters()))
    deltas = [
        engine(local, layout, theta, work, recipe)
        for engine in (serial_deltas, vectorized_deltas, shared_deltas)
    ]
    assert (deltas[0].norm(dim=1) > 0).all()
    for other in deltas[1:]:
        torch.testing.assert_close(other, deltas[0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("head", ["class-means", "text"])
def test_a_perturbed_user_changes_its_own_virtual_client_alone(head):
    task = task_of(head=head)
    model = opened(task).double()
    layout = FlatLayout.of(model, "denoiser")
    theta = layout.flatten(dict(model.named_parameters()))
    data = SCENES.fetch(np.arange(3))
    recipe = LocalTraining(learning_rate=1.0, batch_size=4, steps=1)
    fields = {name: values.copy() for name, values in data.fields.items()}
    start, end = data.offsets[1:3]
    fields["image"][start:end] = 255 - fields["image"][start:end]
    fields["caption"][start:end] = "a nude corpse"
    fields["caption"][start + 1 : end : 2] = "a blue ring"

    def deltas(examples):
        seeds = np.arange(3, dtype=np.uint64)
        work = make_work(task, recipe, examples, seeds, torch.float64)
        local = LocalModel(task, model, work.head.double())
        return shared_deltas(local, layout, theta, work, recipe)

    before, after = deltas(data), deltas(Examples(fields, data.offsets))
    moved = (before - after).norm(dim=1)
    assert moved[1] > 1e-3
    assert moved[[0, 2]].max() < 1e-6


def test_only_denoiser_keys_are_aggregated_and_the_local_head_is_absent():
    stage = IMAGEN3.build("tiny", data=FACTS)[0]
    model = stage.task.make_backbone()
    layout = FlatLayout.of(model, stage.trainable)
    roots = {name.split(".")[0] for name in layout.names}
    assert roots == {"enter", "time", "blocks", "leave"}
    assert layout.size == 57_648
    head = replace(stage.task, head="text").make_head(4)
    assert sum(v.numel() for v in head.parameters()) == 64 * 32
    assert not {name for name, _ in head.named_parameters()} & set(layout.names)


def test_autoencoder_and_text_encoder_are_frozen():
    task = task_of()
    before = {k: v.clone() for k, v in task.models.state_dict().items()}
    assert not any(v.requires_grad for v in task.models.parameters())
    batch = task.prepare(rows(4), np.array([5], np.uint64))
    model = opened(task)
    found = task.features(model, batch)
    task.errors(found["prediction"], batch).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in task.models.state_dict().items())


def test_everything_random_comes_from_the_groups_own_seed():
    task = task_of()
    data = SCENES.fetch(np.arange(2))
    one = task.prepare(data, np.array([1, 2], np.uint64))
    two = task.prepare(data, np.array([1, 3], np.uint64))
    again = task.prepare(data, np.array([1, 2], np.uint64))
    for name in ("time", "noisy", "probe", "tokens"):
        assert torch.equal(one[name], again[name])
        assert torch.equal(one[name][:16], two[name][:16])
    assert not torch.equal(one["time"][16:], two["time"][16:])


def test_the_drop_rate_is_10_per_cent():
    task = task_of()
    data = SCENES.fetch(np.arange(60))
    batch = task.prepare(data, np.arange(60, dtype=np.uint64))
    empty = task.models.words([""])
    dropped = (batch["tokens"] == empty.tokens).flatten(1).all(1)
    assert abs(float(dropped.float().mean()) - 0.1) < 0.035
    classes = task_of("tiny_class").prepare(data, np.arange(60, dtype=np.uint64))
    share = float((classes["told"] == 1152).float().mean())
    assert abs(share - 0.1) < 0.035


def test_unsafe_and_flagged_rows_do_not_count_and_duplicates_share_one_vote():
    task = task_of()
    data = rows(6)
    fields = {name: values.copy() for name, values in data.fields.items()}
    fields["image"][1] = fields["image"][0]
    fields["caption"][2] = "a portrait of Dr. Jane Roe"
    fields["caption"][3] = "a bloodbath"
    fields["generated"] = np.array([0, 0, 0, 0, 1, 0], np.bool_)
    batch = task.prepare(Examples(fields, data.offsets), np.array([0], np.uint64))
    assert batch["weight"].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0, 1.0]
    plain = replace(task, filtered=False)
    assert "weight" not in plain.prepare(data, np.array([0], np.uint64))


def test_t_0_and_t_261_embed_differently_and_embeddings_have_unit_norm():
    task = task_of()
    model = opened(task)
    batch = task.prepare(rows(5), np.zeros(1, np.uint64))
    found = task.embed(model, batch)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    empty = task.unconditional(5, batch["latent"])
    clean = model.inner(batch["latent"], torch.zeros(5), empty, task.layer).mean(1)
    clean = clean / clean.norm(dim=1, keepdim=True)
    assert (clean - found).norm(dim=1).min() > 1e-3
    assert PROBE_TIME == 261
    other = task.prepare(rows(5), np.array([9], np.uint64))
    assert torch.equal(task.embed(model, other), found)


@pytest.mark.statistical
def test_averaging_8_draws_lowers_variance_as_1_over_8():
    task = task_of()
    model = opened(task)
    latent = task.prepare(rows(1), np.zeros(1, np.uint64))["latent"]
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(1600, *latent.shape[1:], generator=draw)
    time = torch.full((1600,), PROBE_TIME)
    noisy = task.objective.noised(latent.expand_as(noise), noise, time)
    with torch.no_grad():
        empty = task.unconditional(1600, noisy)
        found = model.inner(noisy, time, empty, task.layer).mean(1)
    single = found.var(0).sum()
    eight = found.reshape(200, PROBE_DRAWS, -1).mean(1).var(0).sum()
    assert 6.5 < single / eight < 9.5
    assert probes((4, 8, 8)).shape == (PROBE_DRAWS, 4, 8, 8)


def test_a_sampler_is_deterministic_per_seed():
    task = task_of()
    model = opened(task)
    prompts = ["a red ball left of a ring", ""]
    one = generate(task, model, prompts, seed=1, steps=3)
    assert one.shape == (2, 3, 32, 32)
    assert torch.equal(one, generate(task, model, prompts, seed=1, steps=3))
    assert not torch.equal(one, generate(task, model, prompts, seed=2, steps=3))
    noise = generate(task_of("tiny_ddpm"), model, prompts, steps=3)
    assert noise.isfinite().all()
    with pytest.raises(UserError, match="sampler"):
        generate(task_of("tiny_ddpm"), model, prompts, sampler="euler")


def test_super_resolution_is_shown_the_small_picture():
    task = task_of("tiny_upscaler")
    model = opened(task)
    small = torch.zeros(1, 3, 16, 16)
    dark = generate(task, model, ["a ball"], small=small, steps=2, guidance=1.0)
    light = generate(task, model, ["a ball"], small=small + 0.9, steps=2, guidance=1.0)
    assert dark.shape == (1, 3, 32, 32)
    assert not torch.allclose(dark, light)
    with pytest.raises(UserError, match="small"):
        generate(task, model, ["a ball"])
    batch = task.prepare(rows(4), np.zeros(1, np.uint64))
    torch.testing.assert_close(task.embed(model, batch).norm(dim=1), torch.ones(4))


def test_denoising_is_learned_and_averaged_weights_differ_from_raw(learned):
    task, model, average = learned
    assert denoising(task, model, SCENES.held_out())["explained"] > 0.3
    start = denoising(task, task.make_backbone(), SCENES.held_out())
    assert start["explained"] == 0
    layout = FlatLayout.of(model, "denoiser")
    raw = layout.flatten(dict(model.named_parameters()))
    assert (raw - average).norm() > 1e-3


def test_pictures_painted_for_captions_are_better_aligned_than_noise(learned):
    task, model, _ = learned
    found = generation(task, model, SCENES.held_out())
    start = generation(task, task.make_backbone(), SCENES.held_out())
    assert found["cmmd_eye"] < start["cmmd_eye"]
    assert found["fd_eye"] < start["fd_eye"]


def test_conditioning_is_used_and_shuffling_captions_is_noticed():
    """Two pictures, two captions: after a few steps only the right ones fit."""
    task = task_of(head="none", drop=0.0)
    torch.manual_seed(0)
    model = task.make_backbone()
    data = Examples(
        SCENES.fetch(np.arange(1)).take(np.array([0, 15])), np.array([0, 2])
    )
    assert data.fields["caption"][0] != data.fields["caption"][1]
    many = data.only(np.tile([0, 1], 12))
    task = replace(task, filtered=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(80):
        batch = task.prepare(many, np.array([step], np.uint64))
        batch["weight"] = torch.ones(24)
        loss = task.loss(task.make_head(1), task.features(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = task.prepare(many, np.array([999], np.uint64))
    other = {k: batch[k].roll(1, 0) for k in ("tokens", "seen", "pooled")}
    with torch.no_grad():
        own = task.errors(task.features(model, batch)["prediction"], batch)
        wrong = task.features(model, batch | other)["prediction"]
        shuffled = task.errors(wrong, batch)
    assert float((shuffled > own).float().mean()) > 0.9


@pytest.mark.parametrize("name", ["tiny", "tiny_upscaler"])
def test_an_exported_model_starts_at_pictures_and_embeds_the_same(name):
    facts = DataFacts(example_shape=(32, 32, 3), num_classes=4)
    task = IMAGEN3.build(name, data=facts)[0].task
    model, some = opened(task), rows(3)
    prepared = task.embed(model, task.prepare(some, np.zeros(1, np.uint64)))
    inputs = task.exported_inputs(some)
    assert list(inputs) == ["image"]
    torch.testing.assert_close(task.embed(model, inputs), prepared)


def test_clips_and_pictures_without_captions_can_be_embedded_not_trained():
    task = task_of()
    model = opened(task)
    stills = Stills(10, 0, 32).fetch(np.arange(1))
    assert len(task.embed(model, task.prepare(stills, np.zeros(1, np.uint64))))
    plain = Examples({"image": rows(2).fields["image"]}, np.array([0, 2]))
    batch = task.prepare(plain, np.zeros(1, np.uint64))
    assert task.embed(model, batch).shape == (2, 32)
    with pytest.raises(UserError, match="caption"):
        task.features(model, batch)


def test_paper_sizes_ask_for_public_weights_when_they_are_used():
    facts = DataFacts(example_shape=(64, 64, 3), num_classes=4)
    task = IMAGEN3.build("dit_s_2", data=facts)[0].task
    assert task.label_space == "global"
    with pytest.raises(NotAvailable, match="weights"):
        task.prepare(rows(2), np.zeros(1, np.uint64))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((32, 48, 3), {}),
        ((36, 36, 3), {}),
        ((32, 32, 3), {"embedding_dim": 16}),
        ((32, 32, 3), {"head": "linear"}),
        ((32, 32, 3), {"label_space": "global"}),
    ],
)
def test_what_does_not_apply_is_refused(shape, options):
    facts = DataFacts(example_shape=shape, num_classes=4)
    with pytest.raises(UserError):
        IMAGEN3.build(data=facts, options=TaskOptions(**options))
    with pytest.raises(UserError):
        task_of(drop=2.0)
    with pytest.raises(UserError):
        task_of("dit_s_2", objective=Flow())


def test_it_is_registered_with_its_headline_metric():
    assert registry.get("imagen3").metric == "explained"
