"""ConST-CL's parts: counts, fixtures, context, masks and regions."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedemb.errors import UserError
from model_zoo import registry
from model_zoo.const_cl.backbone import ResNetShape, TwoHeadedResNet
from model_zoo.const_cl.blocks import Bottleneck, Gate, Stem, over_time
from model_zoo.const_cl.heads import (
    HeadShape,
    LocalHead,
    Reconstructor,
    context_frames,
    region_features,
)
from model_zoo.const_cl.losses import global_loss, local_loss
from model_zoo.const_cl.views import Augmentation, augmented, middle, random_boxes

SMALL = ResNetShape(
    stem=16,
    kernel=(3, 7, 7),
    stride=(1, 2, 2),
    pool=False,
    blocks=(1, 1, 1, 1),
    widths=(8, 16, 32, 64),
    temporal=(1, 1, 3, 3),
    norm_groups=4,
)
TINY_HEAD = HeadShape(
    channels=8,
    hidden=8,
    hidden_layers=1,
    embedding=4,
    context=5,
    layers=2,
    units=2,
    width=4,
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_network_has_the_published_sizes():
    with torch.device("meta"):
        whole = TwoHeadedResNet(ResNetShape())
        one = TwoHeadedResNet(ResNetShape(branches=1))
        gateless = {"temporal": (1, 1, 1, 1)}
        head = LocalHead(HeadShape())
    assert count(whole) == 51_879_744
    assert count(one) == 31_672_128
    assert count(whole.stem) == 47_168
    assert [count(g) for g in whole.shared] == [215_808, 1_219_584, 9_981_952]
    assert count(whole.holistic) == count(whole.local) == 20_207_616
    assert count(head.reconstructor) == 6_928_356
    assert count(head.perceptron) == 12_857_472
    with torch.device("meta"):
        assert count(TwoHeadedResNet(ResNetShape(branches=1, **gateless))) < count(one)


def test_the_defaults_of_the_public_code_have_their_sizes():
    counts = {
        name: found["backbone_parameters"]
        for name, found in registry.describe("const_cl")["configurations"].items()
    }
    assert counts["resnet3dy50-ungated-one-branch"] == 27_223_872
    assert counts["resnet3dy50-ungated"] == 44_285_760
    assert counts["resnet3dy50-one-branch"] == 27_223_872 + 5_574_400 == 32_798_272
    assert counts["resnet3dy50"] == 44_285_760 + 9_770_752 == 54_056_512
    with torch.device("meta"):
        head = LocalHead(HeadShape(channels=128, outputs=1024))
    assert count(head.reconstructor) == 1_373_156


def test_every_block_may_have_its_own_kernel_and_the_last_of_a_group_a_gate():
    with torch.device("meta"):
        shape = ResNetShape(temporal=(1, 3, (3, 1, 3, 1, 3, 1), 1), gated=True)
        network = TwoHeadedResNet(shape)
    kernels = [block.time.kernel_size[0] for block in network.shared[2]]
    assert kernels == [3, 1, 3, 1, 3, 1]
    for group in (*network.shared, network.holistic, network.local):
        assert [block.gate is not None for block in group][-2:] == [False, True]
    with pytest.raises(UserError, match="one for every block"):
        ResNetShape(temporal=(1, 1, (3, 1), 3))
    with pytest.raises(UserError, match="pool_every=0"):
        ResNetShape(pool_every=0)


def test_a_gate_scales_what_a_block_adds_by_the_means_of_its_channels():
    torch.manual_seed(0)
    gate = Gate(4).double()
    torch.nn.init.normal_(gate.mix.weight)
    x = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    share = torch.sigmoid(x.mean((2, 3, 4)) @ gate.mix.weight.T + gate.mix.bias)
    torch.testing.assert_close(gate(x) / x, share[..., None, None, None].expand_as(x))
    block = Bottleneck(4, 1, 1, 1, 1, gated=True).double()
    torch.nn.init.constant_(block.gate.mix.bias, -1e9)  # shut
    torch.testing.assert_close(block(x), torch.relu(x))


def test_the_maximum_may_halve_time_as_well():
    torch.manual_seed(0)
    sizes = {"groups": 2, "pool": True}
    stem = Stem(4, (3, 3, 3), (1, 1, 1), pool_every=2, **sizes)
    still = Stem(4, (3, 3, 3), (1, 1, 1), pool_every=1, **sizes)
    still.load_state_dict(stem.state_dict())
    clips = torch.randn(1, 3, 8, 8, 8)
    found, frames = stem(clips), still(clips)
    assert found.shape[2] == 4
    torch.testing.assert_close(found[:, :, 1], frames[:, :, 1:4].amax(2))
    torch.testing.assert_close(over_time(lambda y: y, found), found)


def test_the_small_configuration_has_its_sizes():
    with torch.device("meta"):
        assert count(TwoHeadedResNet(SMALL)) == 266_960
        one = ResNetShape(**(vars(SMALL) | {"branches": 1}))
        assert count(TwoHeadedResNet(one)) == 155_088
        head = LocalHead(
            HeadShape(
                channels=256,
                hidden=128,
                hidden_layers=2,
                embedding=32,
                region=2,
                context=3,
                layers=2,
                units=2,
                width=32,
            )
        )
    assert count(head.reconstructor) == 115_940
    assert count(head.perceptron) == 53_792


def test_convolutions_are_those_of_space_and_time():
    torch.manual_seed(0)
    network = TwoHeadedResNet(SMALL).double()
    clips = torch.randn(2, 3, 8, 16, 16, dtype=torch.float64)
    stem = network.stem
    kernel = torch.unflatten(stem.conv.weight, 1, (3, 3)).transpose(1, 2)
    wanted = F.conv3d(clips, kernel, stride=(1, 2, 2), padding=(1, 3, 3))
    torch.testing.assert_close(stem(clips), torch.relu(stem.norm(wanted)))
    block = network.shared[2][0]
    x = torch.randn(2, 64, 4, 4, 4, dtype=torch.float64)
    first, second, third = block.norms
    y = F.conv3d(x, block.time.weight[..., None], padding=(1, 0, 0))
    y = torch.relu(first(y))
    y = F.conv3d(y, block.space.weight[:, :, None], stride=(1, 2, 2), padding=(0, 1, 1))
    y = torch.relu(second(y))
    y = third(F.conv3d(y, block.widen.weight[:, :, None]))
    skip = F.conv3d(x, block.skip.weight[:, :, None], stride=(1, 2, 2))
    torch.testing.assert_close(block(x), torch.relu(y + block.skip_norm(skip)))


A = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [4, 3, 2, 1], [8, 7, 6, 5]])
B = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [5, 6, 7, 8], [8, 7, 6, 5]])


def test_the_published_fixture_of_the_global_loss():
    loss = global_loss(A, B, 0.1, torch.ones(4))
    assert loss.item() == pytest.approx(4.136947, abs=1e-5)
    swapped = global_loss(B, A, 0.1, torch.ones(4))
    assert swapped.item() == pytest.approx(loss.item())


NONE = [-1.0] * 4
REGIONS_A = torch.tensor(
    [
        [[1.0, 2, 3, 4], [5, 6, 7, 8], NONE, NONE],
        [NONE, NONE, [4, 3, 2, 1], [8, 7, 6, 5]],
        [[1.0, 2, 3, 4], [5, 6, 7, 8], [4, 3, 2, 1], [8, 7, 6, 5]],
    ]
)
REGIONS_B = torch.tensor(
    [
        [[1.5, 2.5, 3.5, 4.5], [5.5, 6.5, 7.5, 8.5], NONE, NONE],
        [NONE, NONE, [5.5, 6.5, 7.5, 8.5], [8.5, 7.5, 6.5, 5.5]],
        [
            [1.5, 2.5, 3.5, 4.5],
            [4.5, 3.5, 2.5, 1.5],
            [5.5, 6.5, 7.5, 8.5],
            [8.5, 7.5, 6.5, 5.5],
        ],
    ]
)
VALID = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize(("temperature", "wanted"), [(0.1, 1.669813), (0.2, 1.666844)])
def test_the_fixture_of_the_local_loss(temperature, wanted):
    ones = torch.ones(3)
    there = local_loss(REGIONS_B, REGIONS_A, REGIONS_B, VALID, temperature, ones)
    back = local_loss(REGIONS_A, REGIONS_B, REGIONS_A, VALID, temperature, ones)
    # Invalid regions of other videos are no negatives here; counting them as such, as
    # the figure for the warmer softmax does, adds 4e-5 to it and nothing at 0.1.
    assert ((there + back) / 2).item() == pytest.approx(wanted, abs=5e-5)
    if temperature == 0.1:
        found = there.item(), back.item()
        assert found == pytest.approx((1.730746, 1.608881), abs=1e-5)


def test_own_regions_are_no_negatives_and_other_videos_are():
    torch.manual_seed(0)
    z, a, b = torch.randn(3, 2, 3, 6).unbind(0)
    valid, ones = torch.ones(2, 3), torch.ones(2)

    def loss(target):
        return local_loss(z[:1], a[:1], target[:1], valid[:1], 0.1, ones[:1]).item()

    assert loss(b) == pytest.approx(0, abs=1e-6)  # one video has no negatives
    base = local_loss(z, a, b, valid, 0.1, ones)
    best = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT).argmax(-1)
    other = b.clone()
    unused = next(j for j in range(3) if j not in best[0].tolist())
    # worse than the positive of every region, so that the choice stays
    other[0, unused] = -a[0].sum(0) * 10
    moved = local_loss(z[:, :], a, other, valid, 0.1, ones)
    own = local_loss(z[:1], a[:1], other[:1], valid[:1], 0.1, ones[:1])
    assert own.item() == pytest.approx(0, abs=1e-6)
    assert moved.item() != pytest.approx(base.item())  # as a negative of the other


def test_invalid_regions_give_neither_loss_nor_gradient():
    z, a, b = torch.randn(3, 2, 3, 6).unbind(0)
    valid = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    z, b = z.requires_grad_(), b.requires_grad_()
    loss = local_loss(z, a, b, valid, 0.1, torch.ones(2))
    for gradient in torch.autograd.grad(loss, [z, b]):
        assert gradient[:, 2].abs().max() == 0
        assert gradient[:, :2].abs().max() > 0
    nothing = local_loss(z, a, b, torch.zeros(2, 3), 0.1, torch.ones(2))
    assert nothing.item() == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(nothing, [z, b]))


def test_each_view_has_its_own_valid_regions():
    torch.manual_seed(0)
    z, a, b = torch.randn(3, 2, 3, 6).unbind(0)
    own = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    other = torch.tensor([[0.0, 1, 1], [1, 1, 0]])

    def loss(a=a, b=b, other=other):
        return local_loss(z, a, b, own, 0.2, torch.ones(2), other).item()

    base, far = loss(), b.clone()
    far[0, 0], far[1, 2] = 100 * a[0, 0], 100 * a[1, 2]  # the most alike, but not there
    assert loss(b=far) == pytest.approx(base)
    far[0, 1] = -b[0, 1]
    assert loss(b=far) != pytest.approx(base)
    # A video without anything to be found asks for nothing, and is no negative.
    blind = torch.tensor([[0.0, 0, 0], [1, 1, 0]])
    assert loss(other=blind) == pytest.approx(0, abs=1e-6)


@pytest.fixture
def reconstructor():
    torch.manual_seed(0)
    return Reconstructor(TINY_HEAD)


def test_context_comes_from_the_other_view_and_from_the_middle(reconstructor):
    assert context_frames(8, 5) == [2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="odd"):
        HeadShape(context=4)
    with pytest.raises(UserError, match="more than a map's"):
        context_frames(3, 5)
    with pytest.raises(UserError, match="guided=False leaves the decoder out"):
        HeadShape(layers=0)
    regions = torch.randn(2, 3, 8)
    maps = torch.randn(2, 8, 8, 2, 2)
    base = reconstructor(regions, reconstructor.memory(maps))
    for frame, changes in ((0, False), (7, False), (2, True), (6, True)):
        other = maps.clone()
        other[:, :, frame] += 1
        found = reconstructor(regions, reconstructor.memory(other))
        assert torch.equal(found, base) != changes


def test_the_order_of_memory_does_not_matter_but_places_do(reconstructor):
    regions, maps = torch.randn(1, 3, 8), torch.randn(1, 8, 8, 2, 2)
    memory = reconstructor.memory(maps)
    order = torch.randperm(memory.shape[1])
    base = reconstructor(regions, memory)
    torch.testing.assert_close(reconstructor(regions, memory[:, order]), base)
    elsewhere = torch.cat([memory[:, order, :8], memory[..., 8:]], dim=-1)
    assert not torch.allclose(reconstructor(regions, elsewhere), base, atol=1e-6)


def test_a_constant_memory_adds_the_same_to_every_region(reconstructor):
    unit = reconstructor.layers[0].units[0]
    memory = torch.randn(1, 1, 24).expand(1, 5, 24)
    query = unit.query(torch.randn(1, 3, 8))
    logits = query @ unit.key(memory).mT
    added = logits.softmax(-1) @ unit.value(memory)
    torch.testing.assert_close(added, added[:, :1].expand_as(added))


def test_a_box_over_a_constant_patch_gives_that_constant():
    maps = torch.zeros(1, 2, 3, 8, 8)
    maps[:, 0, 1, 2:6, 2:6] = 5.0
    box = torch.tensor([[[0.32, 0.32, 0.68, 0.68]]])
    found = region_features(maps, box, 4)
    torch.testing.assert_close(found[0, 0], torch.tensor([5.0, 0.0]))
    larger = F.interpolate(maps.flatten(0, 1), scale_factor=2).unflatten(0, (1, 2))
    torch.testing.assert_close(region_features(larger, box, 4), found)


def test_views_depend_on_their_own_group_and_are_different():
    clips = np.random.default_rng(0).integers(0, 255, (4, 6, 8, 8, 3), dtype=np.uint8)
    how = Augmentation(frames=4, boxes=3)
    offsets, seeds = np.array([0, 2, 4]), np.array([5, 6], np.uint64)
    first, boxes = augmented(clips, offsets, seeds, how, 0)
    assert first.shape == (4, 3, 4, 8, 8)
    assert boxes.shape == (4, 3, 4)
    other = augmented(clips, offsets, np.array([5, 9], np.uint64), how, 0)[0]
    assert torch.equal(first[:2], other[:2])
    assert not torch.equal(first[2:], other[2:])
    assert not torch.equal(first, augmented(clips, offsets, seeds, how, 1)[0])
    with pytest.raises(UserError, match="shorter"):
        augmented(clips, offsets, seeds, Augmentation(frames=7), 0)
    with pytest.raises(UserError, match="which span 7"):
        augmented(clips, offsets, seeds, Augmentation(frames=4, stride=2), 0)
    still = Augmentation(frames=6, least_area=1.0, flip=False, light=0.0)
    plain = augmented(clips, offsets, seeds, still, 0)[0]
    wanted = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 128 - 1
    torch.testing.assert_close(plain, wanted, atol=1e-4, rtol=0)


def test_views_may_take_every_second_frame_of_a_longer_clip():
    frames = np.arange(8, dtype=np.uint8)[None, :, None, None, None]
    clips = np.broadcast_to(frames, (60, 8, 4, 4, 3))
    how = Augmentation(frames=3, stride=2, least_area=1.0, flip=False, light=0.0)
    views, _ = augmented(clips, np.array([0, 60]), np.ones(1, np.uint64), how, 0)
    shown = ((views[:, 0, :, 0, 0] + 1) * 128).round().int()
    assert set(map(tuple, shown.tolist())) == {(s, s + 2, s + 4) for s in range(4)}
    shown = ((middle(clips, how)[0, 0, :, 0, 0] + 1) * 128).round().int()
    assert shown.tolist() == [1, 3, 5]


def test_boxes_of_things_follow_them_into_a_view():
    # A bright square on a dark ground, far enough from the border that it stays whole.
    clips = np.zeros((64, 6, 32, 32, 3), dtype=np.uint8)
    boxes = np.full((64, 6, 2, 4), -1, dtype=np.float32)
    for row, place in enumerate(np.random.default_rng(0).integers(2, 22, (64, 2))):
        (top, left), frame = place, slice(None)
        clips[row, frame, top : top + 8, left : left + 8] = 255
        boxes[row, :, 0] = np.array([top, left, top + 8, left + 8]) / 32
    how = Augmentation(frames=4, light=0.0, regions="things")
    offsets, seed = np.array([0, 64]), np.ones(1, np.uint64)
    pixels, found = augmented(clips, offsets, seed, how, 0, boxes)
    bright = pixels[:, 0, 2] > 0
    assert (found[:, 1] == -1).all()  # was never in sight
    seen = found[:, 0, 0] >= 0
    assert 32 < seen.sum() < 64
    for mask, box in zip(bright[seen], found[seen, 0], strict=True):
        y, x = mask.nonzero().unbind(1)
        corners = torch.stack([y.min(), x.min(), y.max() + 1, x.max() + 1])
        torch.testing.assert_close(32 * box, corners.float(), atol=1.01, rtol=0)
    with pytest.raises(UserError, match="regions='cars' must be one of random, things"):
        Augmentation(frames=4, regions="cars")


def test_random_boxes_lie_inside_the_frame():
    boxes = random_boxes(np.random.default_rng(0).random((200, 16)))
    assert boxes.min() >= 0
    assert boxes.max() <= 0.999
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
