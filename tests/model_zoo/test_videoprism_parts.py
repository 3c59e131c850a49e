"""VideoPrism's parts: the factorised encoder, masks, decoders, and their fixtures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedemb.errors import NotAvailable, UserError
from fedemb.parameters import FlatLayout
from model_zoo.system import TaskOptions
from model_zoo.video.encoder import VideoEncoder, clip_pixels
from model_zoo.videoprism import masks
from model_zoo.videoprism.card import VIDEOPRISM
from model_zoo.videoprism.decoders import (
    Decoders,
    DecoderShape,
    LocalDecoder,
    cosine_distance,
    fresh_decoders,
)
from model_zoo.videoprism.encoder import EncoderShape, FactorizedEncoder, patchify
from model_zoo.videoprism.layers import Attention, MaxPooler, Pooler, stretched
from model_zoo.vld.public import public_captioner
from model_zoo.vld.visual import FrameEncoder, VitShape
from simulations.datasets.clips import PlainClips

SHAPE = EncoderShape(
    patch=4, places=(4, 2, 2), width=8, spatial=2, temporal=2, heads=2, mlp=16
)
DECODERS = DecoderShape(outer=8, tokens=16, width=8, layers=1, heads=2, mlp=16)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return FactorizedEncoder(SHAPE).double()


def clips(n=2, frames=4, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, frames, side, side, 3)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def decoders(weights=(1.0, 1.0)):
    made = Decoders(DECODERS, weights)
    generator = torch.Generator().manual_seed(0)
    made.load_state_dict(fresh_decoders(made, generator))
    return made


def test_blocks_have_sixteen_arrays_and_eight_are_outside():
    assert len(list(FactorizedEncoder(SHAPE).parameters())) == 4 * 16 + 8
    block = 4 * 64 + 4 * 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8
    wanted = 3 * 16 * 8 + 8 + 4 * 8 + 4 * 8 + 4 * block + 4 * 8
    assert sum(p.numel() for p in FactorizedEncoder(SHAPE).parameters()) == wanted


@pytest.mark.parametrize(("frames", "side"), [(2, 8), (4, 8), (8, 8), (4, 16)])
def test_tokens_are_frames_by_places_for_other_lengths_and_sizes(encoder, frames, side):
    found = encoder(clips(1, frames, side))
    assert found.tokens.shape == (1, frames * (side // 4) ** 2, 8)
    assert torch.isfinite(found.tokens).all()
    with pytest.raises(UserError, match="patches of 4"):
        encoder(clips(1, 4, 10))


def test_places_stretch_linearly_in_time_and_space():
    table = torch.randn(6, 5, dtype=torch.float64)
    wanted = F.interpolate(
        table.T.reshape(1, 5, 2, 3), size=(4, 6), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(
        stretched(table, (2, 3), (4, 6)), wanted.reshape(5, 24).T
    )
    assert stretched(table, (2, 3), (2, 3)) is table
    shrunk = stretched(torch.arange(16.0)[:, None], (16,), (8,)).flatten()
    assert ((shrunk.diff() - 2).abs() < 0.3).all()


def test_a_picture_takes_the_first_place_in_time(encoder):
    picture = clips(1, 1)
    wanted = encoder(picture).tokens
    with torch.no_grad():
        encoder.time[1:] += 1.0
    assert torch.equal(encoder(picture).tokens, wanted)


def test_space_stays_within_a_frame_and_time_alone_joins_frames(encoder):
    before = clips()
    after = before.clone()
    after[0, 2, 1, 1] += 0.5
    with torch.no_grad():
        spatial = [encoder(x).spatial.reshape(2, 4, 4, 8) for x in (before, after)]
        moved = (spatial[0] != spatial[1]).any(-1)
        assert moved[0, 2].all()
        assert not moved[0, [0, 1, 3]].any()
        assert not moved[1].any()
        tokens = [encoder(x).tokens.reshape(2, 4, 4, 8) for x in (before, after)]
        assert (tokens[0][0] != tokens[1][0]).any(-1).all()
        encoder.temporal = nn.ModuleList([_Identity(), _Identity()])
        tokens = [encoder(x).tokens.reshape(2, 4, 4, 8) for x in (before, after)]
    assert torch.equal(tokens[0][0, [0, 1, 3]], tokens[1][0, [0, 1, 3]])


class _Identity(nn.Module):
    def forward(self, x, blocked=None):
        return x


def test_time_does_not_join_places(encoder):
    encoder.spatial = nn.ModuleList([_Identity(), _Identity()])
    before, after = clips(), clips()
    after[0, 2, :4, :4] += 0.5  # the first place of the third frame
    with torch.no_grad():
        pair = [encoder(x).tokens.reshape(2, 4, 4, 8) for x in (before, after)]
    moved = (pair[0] != pair[1]).any(-1)
    assert moved[0, :, 0].all()
    assert not moved[0, :, 1:].any()


def test_masked_attention_equals_removal(encoder):
    kept = torch.tensor([[0, 3], [1, 2]])
    seen = torch.zeros(2, 4, 4, dtype=torch.bool)
    for row in range(2):
        seen[row, :, kept[row]] = True
    with torch.no_grad():
        removed = encoder(clips(), kept=kept).tokens
        masked = encoder(clips(), seen=seen.flatten(1)).tokens
    torch.testing.assert_close(masked[seen.flatten(1)], removed.flatten(0, 1))


def test_padding_frames_change_nothing(encoder):
    short = clips(1, 2)
    padded = torch.cat([short, torch.rand(1, 2, 8, 8, 3, dtype=torch.float64)], dim=1)
    with torch.no_grad():
        encoder.time[2:] = 0  # the table of two frames is a stretched one: compare
        seen = (torch.arange(4) < 2).repeat_interleave(4)[None]
        found = encoder(padded, seen=seen).tokens[:, :8]
        other = padded.clone()
        other[:, 2:] = 0
        assert torch.equal(encoder(other, seen=seen).tokens[:, :8], found)


def test_gradient_of_pixels_under_masked_patches_is_exactly_zero(encoder):
    drawn = masks.block_masks((4, 2, 2), 10, np.array([0, 2]), np.ones(1, np.uint64))
    pixels = clips().requires_grad_()
    visible = torch.from_numpy(masks.visible_tokens(drawn, 10))
    tokens = encoder(pixels, seen=torch.from_numpy(~drawn)).tokens
    z = torch.gather(tokens, 1, visible[..., None].expand(-1, -1, 8))
    (gradient,) = torch.autograd.grad(z.square().sum() + z.sum(), pixels)
    by_token = patchify(gradient, 4).flatten(1, 2).abs().sum(-1)
    assert (by_token[torch.from_numpy(drawn)] == 0).all()
    assert (by_token[torch.from_numpy(~drawn)] > 0).all()


def test_attention_logits_never_exceed_the_cap():
    torch.manual_seed(0)
    attention = Attention(8, 2)
    tokens = 1e4 * torch.randn(3, 5, 8)
    logits = attention.logits(tokens, tokens)
    assert logits.abs().max() <= 50
    assert logits.abs().max() > 49
    small = 1e-2 * tokens / 1e4
    uncapped = Attention(8, 2, cap=None)
    uncapped.load_state_dict(attention.state_dict())
    torch.testing.assert_close(
        attention.logits(small, small), uncapped.logits(small, small)
    )


def test_the_maximum_pools_without_caring_about_order():
    pooler, tokens = MaxPooler(8), torch.randn(2, 6, 8)
    torch.testing.assert_close(pooler(tokens.flip(1)), pooler(tokens))
    torch.testing.assert_close(pooler(tokens), pooler.outward(tokens.amax(1)))


def test_the_pooler_does_not_care_about_order():
    torch.manual_seed(0)
    pooler, tokens = Pooler(8, 2, 32), torch.randn(2, 6, 8)
    torch.testing.assert_close(pooler(tokens.flip(1)), pooler(tokens))
    assert sum(p.numel() for p in pooler.parameters()) == (
        3 * (8 * 32 + 32) + 32 * 8 + 8 + 8 + 16 + 16
    )


def test_grids_and_embeddings_see_the_same_clip(encoder):
    raw = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    unit = torch.from_numpy(raw).double() / 255
    assert isinstance(encoder, VideoEncoder)
    with torch.no_grad():
        grids = encoder.grids(clip_pixels(raw).double(), 3)
        tokens = encoder(unit).tokens
    assert [tuple(g.shape) for g in grids] == [(2, 4, 2, 2, 8)] * 3
    torch.testing.assert_close(grids[-1].flatten(1, 3), tokens, rtol=1e-5, atol=1e-6)
    for name, width in encoder.adapter_sites().items():
        assert encoder.get_submodule(name)(torch.zeros(1, width).double()).shape[1] == 8


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(2, 8), st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_masks_have_their_size_and_come_from_their_own_seed(grid, sizes, seed):
    tokens = int(np.prod(grid))
    hidden = round(0.65 * tokens)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    seeds = np.arange(len(sizes), dtype=np.uint64) + np.uint64(seed)
    drawn = masks.block_masks(grid, hidden, offsets, seeds)
    assert (drawn.sum(1) == hidden).all()
    visible = masks.visible_tokens(drawn, hidden)
    assert not np.take_along_axis(drawn, visible, 1).any()
    assert (np.diff(visible, axis=1) > 0).all()
    order = masks.shuffles(tokens, offsets, seeds)
    assert (np.sort(order, axis=1) == np.arange(tokens)).all()
    own = slice(offsets[-2], offsets[-1])
    alone = masks.block_masks(grid, hidden, np.array([0, sizes[-1]]), seeds[-1:])
    assert (alone == drawn[own]).all()


def test_blocks_are_tubes_over_spans_of_frames():
    grid, rows = (8, 4, 4), 200
    drawn = masks.block_masks(grid, 83, np.array([0, rows]), np.ones(1, np.uint64))
    frames = drawn.reshape(rows, 8, 16)
    changing = (frames != frames[:, :1]).any((1, 2))
    assert changing.mean() > 0.9  # not identical across all frames
    # neighbours in time agree far more often than those of independent tokens would
    same = (frames[:, 1:] == frames[:, :-1]).mean()
    assert same > 0.75 > 0.65**2 + 0.35**2 + 0.1
    kept = masks.tube_places(16, 8, np.array([0, rows]), np.ones(1, np.uint64))
    assert kept.shape == (rows, 8)
    assert all(len(set(row)) == 8 for row in kept.tolist())
    assert len({tuple(row) for row in kept.tolist()}) > rows // 2
    counts = np.bincount(kept.ravel(), minlength=16)
    assert counts.min() > 0.3 * rows


def test_contents_are_a_permutation_and_places_come_after():
    torch.manual_seed(0)
    decoder = decoders().local
    visible = torch.randn(2, 6, 8)
    offsets = np.array([0, 2])
    first, second = (
        torch.from_numpy(masks.shuffles(16, offsets, np.array([s], np.uint64)))
        for s in (1, 2)
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], torch.arange(16))
    contents = decoder.contents(visible, first)
    given_ = torch.cat([visible, decoder.mask.expand(2, 10, 8)], dim=1)
    for row in range(2):
        assert sorted(map(tuple, contents[row].tolist())) == sorted(
            map(tuple, given_[row].tolist())
        )
    fed = []
    decoder.inward.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    decoder(visible, first)
    torch.testing.assert_close(fed[0] - decoder.places, contents)


def test_without_shuffling_every_token_stands_at_its_own_place():
    drawn = masks.block_masks((4, 2, 2), 10, np.array([0, 3]), np.ones(1, np.uint64))
    visible = masks.visible_tokens(drawn, 10)
    order = torch.from_numpy(masks.in_place(drawn))
    decoder = LocalDecoder(DECODERS)
    values = torch.from_numpy(visible).float()[..., None].expand(-1, -1, 8)
    contents = decoder.contents(values, order)[..., 0]
    places = torch.arange(16).float().expand(3, -1)
    shown = torch.from_numpy(~drawn)
    assert torch.equal(contents[shown], places[shown])


def test_the_second_decoder_knows_no_order():
    whole = decoders().whole
    visible = torch.randn(2, 6, 8)
    torch.testing.assert_close(
        whole(visible[:, torch.randperm(6)]), whole(visible), rtol=1e-4, atol=1e-5
    )
    fed = []
    whole.inward.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    whole(visible)
    assert torch.equal(fed[0], visible)


def test_the_local_loss_counts_every_token_and_the_cosine_alone():
    wanted = torch.tensor([[[1.0, 0], [0, 1.0], [1.0, 1.0], [-2.0, 0]]])
    told = torch.tensor([[[2.0, 0], [1.0, 0], [1.0, 0], [2.0, 0]]])
    distances = cosine_distance(told, wanted)
    hand = torch.tensor([[0.0, 1.0, 1 - 2**-0.5, 2.0]])
    torch.testing.assert_close(distances, hand)
    head = decoders((1.0, 0.0))
    head.local.forward = lambda visible, order: told
    order, weight = torch.arange(4)[None], torch.ones(1)
    loss = head(torch.zeros(1, 2, 2), (wanted, torch.ones(1, 2)), order, weight)
    assert float(loss) == pytest.approx(float(hand.mean()))
    for scale, value in ((3.0, 0.0), (-1.0, 2.0)):
        head.local.forward = lambda visible, order, s=scale: s * wanted
        loss = head(torch.zeros(1, 2, 2), (wanted, torch.ones(1, 2)), order, weight)
        assert float(loss) == pytest.approx(value, abs=1e-6)


def test_decoders_are_fresh_by_their_generator():
    head = Decoders(DECODERS)
    one, again, other = (
        fresh_decoders(head, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert {n: p.shape for n, p in head.named_parameters()} == {
        n: v.shape for n, v in one.items()
    }
    for name, value in one.items():
        assert torch.equal(value, again[name])
        if value.dim() > 1:
            assert not torch.equal(value, other[name])


def test_the_public_eyes_see_what_they_saw_in_the_captioner():
    own = VIDEOPRISM.configuration("tiny")
    stages = own.build(data=own.data, options=own.options)
    model = stages[0].task.make_backbone()
    state = public_captioner()
    shape = VitShape(patch=8, width=32, layers=2, heads=4, mlp=64)
    eyes = FrameEncoder(shape, (32, 32))
    prefix = "captioner.visual.vit."
    eyes.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    clips = PlainClips(5).fetch(np.arange(1)).fields["clip"][:2, :4]
    with torch.no_grad():
        wanted = eyes(clip_pixels(clips).transpose(1, 2).flatten(0, 1))
        found = model.video(torch.from_numpy(clips) / 255.0).spatial
    torch.testing.assert_close(found.reshape(8, 16, 32), wanted, atol=0.02, rtol=0.02)


def test_public_eyes_of_another_size_are_refused():
    own = VIDEOPRISM.configuration("tiny")
    stages = own.build(data=own.data, options=TaskOptions(embedding_dim=16))
    with pytest.raises(NotAvailable, match="does not fit"):
        stages[0].task.make_backbone()


def test_without_a_stage_for_it_the_spatial_half_stays_as_it_was():
    own = VIDEOPRISM.configuration("tiny")
    first, second, _ = own.build(data=own.data, options=own.options)
    layouts = [
        set(FlatLayout.of(stage.task.make_backbone(), stage.trainable).names)
        for stage in (first, second)
    ]
    assert not any(name.startswith("video.spatial.") for name in layouts[0])
    assert any(name.startswith("video.temporal.") for name in layouts[0])
    assert any(name.startswith("video.spatial.") for name in layouts[1])
