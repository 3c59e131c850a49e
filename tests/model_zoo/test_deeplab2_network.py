"""Panoptic-DeepLab's networks: published counts, axial attention, output strides."""

from dataclasses import replace

import pytest
import torch

from fedemb.errors import UserError
from fedemb.parameters import refuse_batch_statistics
from model_zoo import registry
from model_zoo.deeplab2.axial import AxialAttention, AxialAttention2d, AxialSpec
from model_zoo.deeplab2.blocks import ResidualSpec
from model_zoo.deeplab2.decoder import DecoderSpec
from model_zoo.deeplab2.hourglass import visited_stages
from model_zoo.deeplab2.layers import resize
from model_zoo.deeplab2.mobilenet import MOBILE, MobileNetEncoder
from model_zoo.deeplab2.network import LocalNetwork, NetworkSpec, SharedNetwork
from model_zoo.deeplab2.residual import (
    RESIDUAL,
    ResidualEncoder,
    count,
    count_blocks,
    meta_encoder,
)
from model_zoo.deeplab2.sizes import SIZES

ENCODERS = {
    "resnet50": 23_508_032,
    "resnet50_beta": 23_631_808,
    "max_deeplab_s_backbone": 41_343_424,
    "max_deeplab_l_backbone": 175_115_392,
    "axial_resnet_s": 11_466_912,
    "axial_resnet_l": 43_714_048,
    "axial_deeplab_s": 11_565_856,
    "axial_deeplab_l": 43_841_920,
    "swidernet_1": 109_014_080,
    "swidernet_3": 333_245_504,
    "swidernet_4.5": 487_453_760,
    "axial_swidernet_1": 136_399_392,
    "axial_swidernet_3": 393_935_520,
    "axial_swidernet_4.5": 570_346_912,
}
BRANCHES = 816_883 + 628_179  # with one 1 x 1 in place of the pyramid
WHOLE = {
    "max_deeplab_s_backbone": 41_343_424 + BRANCHES,
    "max_deeplab_l_backbone": 175_115_392 + BRANCHES,
    "resnet50": 54_973_702,
    "mobilenet_v3_large": 18_236_534,
    "axial_swidernet_1": 137_844_454,
    "axial_swidernet_3": 395_380_582,
    "axial_swidernet_4.5": 571_791_974,
}
TINY = AxialSpec(heads=2, key_expansion=1, value_expansion=2, max_span=9)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """All parameters random, so that no branch is switched off."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=draw) + 0.05)
    return module


@pytest.mark.parametrize(("name", "parameters"), ENCODERS.items())
def test_encoders_have_the_published_number_of_parameters(name, parameters):
    assert count(meta_encoder(name)) == parameters


@pytest.mark.parametrize(("name", "parameters"), WHOLE.items())
def test_describe_gives_the_published_counts_of_the_whole_system(name, parameters):
    sizes = registry.describe(f"deeplab2:{name}")["configurations"][name]
    assert sizes["total_parameters"] == parameters
    encoder = ENCODERS.get(name, 2_971_952)
    assert sizes["backbone_parameters"] == encoder
    both = registry.describe(f"deeplab2:{name}_decoder")["configurations"]
    assert both[f"{name}_decoder"]["total_parameters"] == parameters


def test_the_branches_have_the_published_number_of_parameters():
    with torch.device("meta"):
        for spec, semantic, instance in (
            (DecoderSpec(), 15_827_187, 15_638_483),
            (DecoderSpec(rates=()), 816_883, 628_179),
        ):
            head = LocalNetwork(
                NetworkSpec(decoder=spec), meta_encoder("resnet50").channels, 19
            )
            named = [(n, p.numel()) for n, p in head.named_parameters()]
            found = sum(size for name, size in named if ".semantic." in name)
            assert found == semantic
            assert sum(size for _, size in named) - found == instance


def test_shapes_of_the_endpoints():
    with torch.device("meta"):
        encoder = ResidualEncoder(RESIDUAL["axial_swidernet_1"], output_stride=16)
        ends = encoder(torch.zeros(1, 3, 224, 224))
    assert ends["res5"].shape == (1, 2048, 14, 14)
    for name, channels in (
        ("mobilenet_v3_small", [16, 88, 144, 576]),
        ("mobilenet_v3_large", [72, 120, 672, 960]),
    ):
        with torch.device("meta"):
            ends = MobileNetEncoder(MOBILE[name])(torch.zeros(1, 3, 128, 128))
        shapes = [tuple(ends[f"res{k}"].shape[1:3]) for k in range(2, 6)]
        assert shapes == list(zip(channels, (32, 16, 8, 4), strict=True))


def test_an_output_depends_on_its_own_line_after_one_axis_and_on_all_after_two():
    torch.manual_seed(0)
    layer = AxialAttention2d(4, 4, TINY).double()
    image = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    other = image.clone()
    other[0, :, 2, 3] += 1.0

    def after_one(x):
        columns = x.permute(0, 3, 1, 2).reshape(6, 4, 5)
        return layer.height(columns)  # [W, V, H]

    moved = (after_one(image) - after_one(other)).abs().sum((1, 2))
    assert moved[3] > 0
    assert moved[[0, 1, 2, 4, 5]].sum() == 0
    both = (layer(image) - layer(other)).abs().sum(1)[0]
    assert (both > 0).all()


@pytest.mark.parametrize("relative", [True, False])
def test_relative_encodings_alone_tell_positions_apart(relative):
    torch.manual_seed(0)
    spec = replace(TINY, relative=relative)
    layer = AxialAttention(4, 4, spec).double()
    lines = torch.randn(2, 4, 7, dtype=torch.float64)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    shuffled, expected = layer(lines[..., order]), layer(lines)[..., order]
    assert torch.allclose(shuffled, expected) is not relative


def test_relative_offsets_beyond_the_span_are_clipped():
    torch.manual_seed(0)
    layer = AxialAttention(4, 4, replace(TINY, max_span=3))
    table = layer.query_position(6)
    assert torch.equal(table[0, 2], table[0, 5])
    assert torch.equal(table[5, 3], table[5, 0])
    assert not torch.equal(table[0, 1], table[0, 2])


def test_strides_of_attention_slice_after_each_axis():
    layer = AxialAttention2d(4, 4, TINY, stride=2)
    assert layer(torch.randn(1, 4, 5, 7)).shape == (1, 8, 3, 4)


@pytest.mark.parametrize("kind", ["residual", "mobile"])
def test_output_stride_changes_sizes_but_not_weights(kind):
    spec = ResidualSpec(filters=2, stem_filters=4, blocks=(1, 2, 1, 2))
    made = {}
    for stride in (8, 16, 32):
        if kind == "residual":
            made[stride] = ResidualEncoder(spec, output_stride=stride)
        else:
            small = replace(MOBILE["mobilenet_v3_small"], width=0.25)
            made[stride] = MobileNetEncoder(small, output_stride=stride)
        shape = made[stride](torch.randn(1, 3, 65, 65))["res5"].shape
        assert shape[-1] == 64 // stride + 1
    shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in made.values()]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("stem", ["resnet", "wide"])
def test_atrous_output_equals_the_strided_one_at_shared_grid_points(stem):
    spec = ResidualSpec(stem=stem, filters=2, stem_filters=4, blocks=(1, 2, 2, 2))
    from model_zoo.deeplab2.layers import batch_norm  # statistics are constants in eval

    strided = randomised(ResidualEncoder(spec, norm=batch_norm)).double().eval()
    for stride in (8, 16):
        atrous = ResidualEncoder(spec, output_stride=stride, norm=batch_norm)
        atrous.load_state_dict(strided.state_dict())
        image = torch.randn(1, 3, 65, 65, dtype=torch.float64)
        fine = atrous.double().eval()(image)["res5"][
            ..., :: 32 // stride, :: 32 // stride
        ]
        coarse = strided(image)["res5"]
        assert coarse.abs().max() > 0
        torch.testing.assert_close(fine, coarse)


@pytest.mark.parametrize("name", ["tiny", "axial_swidernet_tiny", "mobilenet_tiny"])
def test_a_norm_swap_keeps_counts_and_a_batch_of_one_is_consistent(name):
    spec = SIZES[name].with_share("encoder_decoder")
    with torch.device("meta"):
        swapped = SharedNetwork(replace(spec, norm="batch"))
        assert count(swapped) == count(SharedNetwork(spec))
    with pytest.raises(UserError, match="[Bb]atch"):
        refuse_batch_statistics(swapped)
    torch.manual_seed(0)
    network = randomised(SharedNetwork(spec)).double()
    images = torch.randn(3, 3, 33, 33, dtype=torch.float64)
    together, alone = network.dense(images), network.dense(images[1:2])
    for key, values in together.items():
        torch.testing.assert_close(values[1:2], alone[key])


def test_the_number_of_classes_changes_head_tensors_only():
    stage = registry.get("deeplab2:tiny")
    data = stage.configuration().data
    task = stage.build(data=data)[0].task
    few, many = (
        {n: v.shape for n, v in task.make_head(k).named_parameters()} for k in (4, 19)
    )
    assert {n for n in few if few[n] != many[n]} == {
        "predictions.semantic.predict.weight",
        "predictions.semantic.predict.bias",
    }
    assert not any("predict" in n for n, _ in task.make_backbone().named_parameters())


def test_resizing_keeps_the_corners_and_every_grid_point():
    maps = torch.randn(1, 2, 5, 5)
    large = resize(maps, (17, 17))
    torch.testing.assert_close(large[..., ::4, ::4], maps)
    assert resize(maps, (5, 5)) is maps


def test_offsets_are_stretched_with_the_grid():
    spec = SIZES["tiny"].with_share("encoder_decoder")
    head = LocalNetwork(spec, {}, 3)
    features = {
        "semantic": torch.randn(1, 16, 5, 5),
        "instance": torch.randn(1, 16, 5, 5),
    }
    raw = head.predictions.offset(features["instance"])
    out = head(features, (17, 33))["offset"]
    torch.testing.assert_close(out[:, 0, ::4, ::8], raw[:, 0] * 4)
    torch.testing.assert_close(out[:, 1, ::4, ::8], raw[:, 1] * 8)
    assert head(features, (17, 33))["semantic"].shape == (1, 3, 17, 33)


def test_the_projection_of_embeddings_is_a_public_constant():
    spec = SIZES["tiny"].with_share("encoder")
    torch.manual_seed(1)
    first = SharedNetwork(spec, embedding_dim=16)
    torch.manual_seed(2)
    second = SharedNetwork(spec, embedding_dim=16)
    assert torch.equal(first.projection, second.projection)
    torch.testing.assert_close(first.projection.T @ first.projection, torch.eye(16))
    assert first(torch.randn(2, 3, 32, 32)).shape == (2, 16)
    assert count(first) == count(SharedNetwork(spec))


def test_residual_branches_are_dropped_by_the_numbers_they_are_given():
    spec = ResidualSpec(filters=2, stem_filters=4, blocks=(1, 1, 1, 1), keep_path=0.5)
    encoder = randomised(ResidualEncoder(spec))
    images = torch.randn(2, 3, 33, 33)
    kept = encoder(images, torch.zeros(2, 4))["res5"]
    dropped = encoder(images, torch.full((2, 4), 0.999))["res5"]
    one = encoder(images, torch.tensor([[0.0] * 4, [0.999] * 4]))["res5"]
    assert not torch.allclose(kept, dropped)
    torch.testing.assert_close(one[0], kept[0])
    torch.testing.assert_close(one[1], dropped[1])


def test_an_hourglass_goes_to_the_grid_of_res2_and_back():
    assert visited_stages(1, 8) == (2, 5)
    assert visited_stages(2, 16) == (3, 2, 3, 5) * 2
    assert visited_stages(1, 32) == (4, 3, 2, 3, 4, 5)
    with torch.device("meta"):
        ends = meta_encoder("max_deeplab_l_backbone")(torch.zeros(1, 3, 224, 224))
    assert {name: tuple(v.shape[1:]) for name, v in ends.items() if name != "res1"} == {
        "res2": (256, 56, 56),
        "res3": (512, 28, 28),
        "res4": (1024, 14, 14),
        "res5": (2048, 14, 14),
    }


def test_an_hourglass_sums_what_it_has_seen_on_a_grid():
    spec = ResidualSpec(
        filters=2, stem_filters=4, blocks=(1, 1, 1, 1), hourglasses=1, keep_path=0.5
    )
    torch.manual_seed(0)
    encoder = ResidualEncoder(spec, output_stride=16).double()
    glass = encoder.hourglass
    features = {
        stage: torch.randn(2, spec.width(stage), side, side, dtype=torch.float64)
        for stage, side in ((2, 17), (3, 9), (4, 5), (5, 5))
    }
    # last normalisations are zero at first, so that a block only activates its input
    down, further, up, back = glass.projections
    on_3 = (resize(down(features[5].relu()), (9, 9)) + features[3]).relu()
    on_2 = (resize(further(on_3), (17, 17)) + features[2]).relu()
    again = (up(on_2) + features[3] + on_3).relu()
    expected = (back(again) + features[5]).relu()
    torch.testing.assert_close(glass(features, [None] * 4), expected)


def test_branches_of_an_hourglass_are_dropped_and_trained_like_others():
    spec = ResidualSpec(
        filters=2, stem_filters=4, blocks=(1, 1, 1, 1), hourglasses=1, keep_path=0.5
    )
    encoder = randomised(ResidualEncoder(spec, output_stride=16))
    images = torch.randn(1, 3, 33, 33)
    assert len(encoder.keep) == count_blocks(spec, 16) == 8
    kept = encoder(images, torch.zeros(1, 8))["res5"]
    numbers = torch.zeros(1, 8)
    numbers[0, 7] = 0.999
    assert not torch.allclose(encoder(images, numbers)["res5"], kept)
    kept.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_sizes_out_of_range_are_refused_by_name():
    with pytest.raises(UserError, match="stem='round'"):
        ResidualSpec(stem="round")
    for encoder, spec in (
        (ResidualEncoder, ResidualSpec()),
        (MobileNetEncoder, MOBILE["mobilenet_v3_small"]),
    ):
        with pytest.raises(UserError, match="output_stride=12"):
            encoder(spec, output_stride=12)
    with pytest.raises(UserError, match="hourglasses=-1"):
        ResidualSpec(hourglasses=-1)
    with pytest.raises(UserError, match="output_stride=4"):
        ResidualEncoder(ResidualSpec(hourglasses=1), output_stride=4)
    with pytest.raises(UserError, match="share='all'"):
        NetworkSpec(share="all")
    with pytest.raises(UserError, match="heads=8"):
        AxialAttention(4, 4, AxialSpec())
