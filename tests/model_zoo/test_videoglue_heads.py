"""Encoder, poolers, adapters and localisation heads of VideoGLUE."""

import copy

import numpy as np
import pytest
import torch

from fedemb.errors import UserError
from model_zoo.video.encoder import VideoEncoder
from model_zoo.video.roi import roi_align
from model_zoo.videoglue.adapters import Adapter, with_adapters
from model_zoo.videoglue.localization import ActionHead
from model_zoo.videoglue.poolers import AttentionPooler, MlapHead, PoolerHead
from model_zoo.videoglue.temporal import (
    TemporalHead,
    TemporalShape,
    detect,
    stretch_loss,
    stretch_targets,
    stretches,
)
from model_zoo.videoglue.vit3d import ViT3D, ViTShape

BASE = {"width": 768, "layers": 12, "heads": 12, "mlp": 3072}
NATIVE = {"tube": (4, 16, 16), "class_token": True, "separable": False}


def count(module):
    return sum(p.numel() for p in module.parameters())


def grids(seed=0, layers=4, width=16, batch=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, batch, 2, 3, 3, width)
    return list(torch.randn(shape, generator=generator).unbind(0))


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ({"clip": (8, 224, 224), **NATIVE}, 87_718_656),
        ({"clip": (16, 256, 256), **NATIVE}, 88_204_032),
        ({"clip": (16, 224, 224), "tube": (2, 16, 16)}, 86_393_088),
    ],
)
def test_the_encoder_has_the_published_size(shape, parameters):
    with torch.device("meta"):
        assert count(ViT3D(ViTShape(**shape, **BASE))) == parameters


def test_tokens_lie_on_a_grid_and_rows_stay_apart():
    encoder = ViT3D(ViTShape(class_token=True, separable=False)).eval()
    assert isinstance(encoder, VideoEncoder)
    clips = torch.randn(3, 3, 8, 32, 32)
    with torch.no_grad():
        last, alone = encoder.grids(clips, 2), encoder.grids(clips[1:2], 2)
    assert [g.shape for g in last] == [(3, 4, 4, 4, 64)] * 2
    for whole, part in zip(last, alone, strict=True):
        torch.testing.assert_close(whole[1:2], part, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="must divide"):
        ViTShape(clip=(8, 33, 32))
    with pytest.raises(UserError, match="joint positions"):
        ViTShape(class_token=True)
    with pytest.raises(UserError, match="mean or max"):
        ViTShape(pool="sum")


def test_an_embedding_is_the_mean_or_the_maximum_of_normalised_tokens():
    clips = torch.randn(2, 3, 8, 32, 32)
    for pool in ("mean", "max"):
        torch.manual_seed(0)
        encoder = ViT3D(ViTShape(pool=pool))
        tokens = encoder.grids(clips, 1)[0].flatten(1, 3)
        wanted = tokens.mean(1) if pool == "mean" else tokens.amax(1)
        torch.testing.assert_close(encoder(clips), wanted)


def test_pooler_and_adapters_have_the_published_sizes():
    with torch.device("meta"):
        assert count(AttentionPooler(768, 12)) == 2_364_672
        assert 12 * count(Adapter(768, 64)) == 1_189_644


def test_an_adapter_starts_as_nothing_and_leaves_the_encoder_alone():
    encoder = ViT3D(ViTShape())
    adapted = with_adapters(encoder, 8)
    clips = torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(adapted(clips), encoder(clips))
    own = {n: p for n, p in adapted.named_parameters() if n.startswith("adapters.")}
    assert sum(p.numel() for p in own.values()) == 4 * count(Adapter(64, 8))
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    optimizer = torch.optim.SGD(own.values(), lr=1.0)
    adapted(clips).square().sum().backward()
    optimizer.step()
    assert not torch.equal(adapted(clips), encoder(clips))
    assert all(torch.equal(p, before[n]) for n, p in encoder.named_parameters())
    for name, p in adapted.named_parameters():
        if name not in own:
            assert torch.equal(p, before[name])
    twin = copy.deepcopy(adapted)
    with torch.no_grad():
        for p in twin.adapters.parameters():
            p.zero_()
    torch.testing.assert_close(twin(clips), encoder(clips))


def test_the_multi_layer_pooler_reads_the_last_blocks_in_order():
    torch.manual_seed(0)
    head = MlapHead([16] * 4, 2, 5).eval().double()
    given = [3 * g.double() for g in grids()]
    with torch.no_grad():
        base = head(given)
        for i in range(4):
            changed = [g.flip(-1) if j == i else g for j, g in enumerate(given)]
            assert (head(changed) - base).abs().max() > 1e-9, i
        swapped = [given[1], given[0], *given[2:]]
        assert (head(swapped) - base).abs().max() > 1e-9
    with pytest.raises(UserError, match="3 grids"):
        head(given[1:])


def test_the_single_pooler_reads_the_last_block_alone():
    head = PoolerHead(16, 2, 5).eval()
    given = grids()
    with torch.no_grad():
        changed = [given[0] + 1, *given[1:]]
        assert torch.equal(head(given), head(changed))
        assert not torch.allclose(head(given), head([*given[:3], given[3].flip(-1)]))


def test_a_box_is_asked_about_inside_and_outside():
    torch.manual_seed(0)
    head = ActionHead(16, 12, 4, heads=3).eval()
    (grid,) = grids(layers=1)
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]).expand(2, 2, 4)
    with torch.no_grad():
        base = head(grid, boxes)
        inside, outside = grid.clone(), grid.clone()
        inside[:, :, 0, 0] += 2
        outside[:, :, 2, 0] += 2
        assert not torch.allclose(head(inside, boxes)[:, 0], base[:, 0])
        assert not torch.allclose(head(outside, boxes)[:, 0], base[:, 0])
        flipped = head(grid, boxes.flip(1))
        torch.testing.assert_close(flipped, base.flip(1))


def test_regions_of_a_ramp_are_where_they_should_be():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    boxes = torch.tensor([[[0.0, 0.25, 1.0, 0.75]]])
    found = roi_align(ramp, boxes, 2)[0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([[2.5, 4.5], [2.5, 4.5]]))


SHAPE = TemporalShape(tokens=3, windows=16, longest=6, classes=2)


def test_the_temporal_head_learns_to_find_stretches():
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    features, targets = [], []
    for _ in range(24):
        start, length = int(draw.integers(0, 10)), int(draw.integers(2, 6))
        k = int(draw.integers(2))
        x = draw.normal(0, 0.3, (16, 3)).astype(np.float32)
        x[start : start + length, k] += 2
        features.append(x)
        ends = np.array([start + length], float)
        targets.append(
            stretch_targets(SHAPE, np.array([start], float), ends, np.array([k]))
        )
    x, y = torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(targets))
    head = TemporalHead(SHAPE)
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        stretch_loss(head(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        found = detect(SHAPE, head(x).sigmoid().numpy().astype(float), most=3)
    hits = 0
    for row in range(24):
        own = np.flatnonzero(found.where == row)
        best = own[found.scores[own].argmax()]
        start, end = found.places[best]
        hits += (
            targets[row][int(start), int(end - start) - 1, found.classes[best]] > 0.6
        )
    assert hits >= 20


def test_stretches_beyond_the_end_are_never_found():
    scores = np.zeros((1, 16, 6, 2))
    scores[0, 15, 5, 0] = 1.0
    found = detect(SHAPE, scores, most=2)
    assert found.places[:, 1].max() <= 16
    assert len(stretches(SHAPE)) == 96


def test_near_duplicates_fade_by_the_published_factor():
    # Soft-NMS with a Gaussian: score * exp(-overlap^2 / sigma) for each better one.
    scores = np.zeros((1, 16, 6, 2))
    scores[0, 4, 3, 0], scores[0, 4, 1, 0] = 0.9, 0.8  # of 4 and of 2 windows
    scores[0, 10, 1, 0] = 0.5  # elsewhere
    for sigma in (0.4, 1e-9):
        found = detect(SHAPE, scores, most=3, sharpness=sigma)
        own = found.classes == 0
        faded = 0.8 * np.exp(-(0.5**2) / sigma)
        assert found.scores[own] == pytest.approx([0.9, *sorted([0.5, faded])[::-1]])
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=f"sharpness={sigma} must be positive"):
            detect(SHAPE, scores, sharpness=sigma)


def test_no_sequences_and_no_stretches_give_no_detections():
    for scores, most in ((np.zeros((0, 16, 6, 2)), 3), (np.zeros((2, 16, 6, 2)), 0)):
        found = detect(SHAPE, scores, most=most)
        assert len(found.scores) == len(found.places) == len(found.where) == 0
