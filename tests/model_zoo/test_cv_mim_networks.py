"""CV-MIM's networks: the published counts and fixtures, and what the head shares."""

import pytest
import torch
from torch import nn

from fedemb.errors import UserError
from model_zoo import registry
from model_zoo.cv_mim.encoder import Encoder, Trunk, kept_units
from model_zoo.cv_mim.estimators import Discriminator, LikelihoodEstimator
from model_zoo.cv_mim.graph import GraphNetwork
from model_zoo.cv_mim.heads import MutualInformationHead, ReconstructionHead
from model_zoo.cv_mim.sizes import Sizes
from model_zoo.cv_mim.task import CrossViewTask
from model_zoo.cv_mim.temporal import ConvNet, ResidualBlock, ResNet1d, ResTcn


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_counts_are_met_to_the_digit():
    found = registry.describe("cv_mim")["configurations"]
    assert found["paper"]["backbone_parameters"] == 4_301_888
    assert found["paper"]["total_parameters"] == 8_556_257
    assert found["paper-gaussian"]["backbone_parameters"] == 4_367_488
    with torch.device("meta"):
        head = MutualInformationHead(Sizes())
        assert size(head.subencoder) == 4_239_392
        assert size(MutualInformationHead(Sizes(fusion="poe")).subencoder) == 4_239_392
        assert size(MutualInformationHead(Sizes(fusion="cat")).subencoder) == 4_272_192
        assert size(head.intra) == size(head.inter) == 4_352
        assert size(head.discriminator) == 6_273


@pytest.mark.parametrize(
    ("classifier", "inputs", "classes", "count"),
    [
        (ConvNet, 32, 14, 305_998),
        (ConvNet, 32, 49, 314_993),
        (ConvNet, 26, 14, 303_310),
        (ResNet1d, 32, 14, 1_072_078),
    ],
)
def test_temporal_classifiers_have_the_published_counts(
    classifier, inputs, classes, count
):
    with torch.device("meta"):
        assert size(classifier(inputs, classes)) == count


@pytest.mark.parametrize("classifier", [ConvNet, ResNet1d, ResTcn])
def test_temporal_models_map_sequences_to_logits(classifier):
    assert classifier(16, 4)(torch.zeros(4, 128, 16)).shape == (4, 4)
    assert ResidualBlock(16, 64, 2)(torch.zeros(4, 16, 128)).shape == (4, 64, 64)


def test_encoder_shapes():
    codes = Encoder(6, 1024, 128, 0).train_codes(
        torch.zeros(4, 6), torch.zeros(4, dtype=torch.long), None
    )
    assert codes["codes"].shape == (4, 128)
    assert codes["hidden"].shape == (4, 1024)


@pytest.mark.parametrize(("fusion", "summary"), [("cat", 32), ("poe", 16), ("moe", 16)])
@pytest.mark.parametrize("algorithm", ["disentangle", "infomax"])
def test_sub_encoder_is_as_wide_as_the_fused_code(algorithm, fusion, summary):
    sizes = Sizes(
        algorithm=algorithm, fusion=fusion, hidden=8, pose_dim=16, view_dim=16
    )
    head = MutualInformationHead(sizes)
    assert head.subencoder(torch.zeros(4, 8)).shape == (4, summary)
    fused = head.fuse(torch.zeros(4, 16), torch.zeros(4, 16))
    assert fused.shape == (4, summary)
    assert CrossViewTask(sizes=sizes).make_backbone()(torch.zeros(4, 13, 2)).shape == (
        4,
        32,
    )


def test_align_has_one_code_that_is_not_split():
    sizes = Sizes(algorithm="align", hidden=8, pose_dim=128)
    codes = CrossViewTask(sizes=sizes).make_backbone()(torch.zeros(4, 13, 2))
    summary = MutualInformationHead(sizes).subencoder(torch.zeros(4, 8))
    assert codes.shape == summary.shape == (4, 128)


def test_autoencoder_decodes_codes_to_poses():
    sizes = Sizes(algorithm="autoencoder", hidden=8, pose_dim=16, view_dim=16)
    assert ReconstructionHead(sizes, 26).decoder(torch.zeros(4, 32)).shape == (4, 26)


def test_all_ones_perceptron_gives_1937():
    encoder = Encoder(3, 2, 4, 0, blocks=3, dropout=0.0, norm=False, gaussian=True)
    for values in encoder.parameters():
        nn.init.ones_(values)
    assert encoder(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1937.0] * 4]


def test_all_ones_graph_network_gives_100():
    network = GraphNetwork(1, 1, torch.ones(3, 3), hidden=2, blocks=2, norm=False)
    for name, values in network.named_parameters():
        nn.init.constant_(values, 0.0 if name.endswith("bias") else 1.0)
    found = network(torch.tensor([[[1.0], [2.0], [3.0]]]))
    torch.testing.assert_close(found, torch.full((1, 3, 1), 100.0))
    assert GraphNetwork(2, 3, torch.ones(8, 8))(torch.zeros(4, 8, 2)).shape == (4, 8, 3)


def test_likelihood_estimator_bounds_its_log_variance():
    found = LikelihoodEstimator(6, 2)(100 * torch.randn(4, 6))
    assert found.shape == (4, 4)
    assert found[:, 2:].abs().max() <= 1


def test_slopes_of_the_discriminator_are_its_gradients():
    torch.manual_seed(0)
    net = Discriminator(5, (7, 4))
    x = torch.randn(9, 5, requires_grad=True)
    scores, slopes = net.with_slopes(x)
    torch.testing.assert_close(slopes, torch.autograd.grad(scores.sum(), x)[0])


def test_sub_encoder_shares_fc0_tensor_identity_with_the_encoder():
    torch.manual_seed(0)
    task = CrossViewTask(sizes=Sizes(hidden=8, pose_dim=4, view_dim=4, dropout=0.0))
    encoder, head = task.make_backbone(), task.make_head(1)
    assert not any(name.startswith("fc0") for name, _ in head.named_parameters())
    assert isinstance(head.subencoder, Trunk)
    made, read = [], []
    encoder.fc0.register_forward_hook(lambda m, i, out: made.append(out))
    encoder.trunk.blocks[0][0].register_forward_hook(lambda m, i, o: read.append(i[0]))
    found = encoder.train_codes(
        torch.randn(3, 13, 2), torch.zeros(3, dtype=torch.long), None
    )
    assert found["hidden"] is made[0] is read[0]
    summary = head.subencoder(found["hidden"])
    moved = torch.autograd.grad(summary.sum(), encoder.fc0.linear.weight)[0]
    assert moved.abs().sum() > 0


def test_gaussian_codes_are_stochastic_in_training_and_their_mean_in_use():
    torch.manual_seed(0)
    encoder = Encoder(26, 8, 3, 3, gaussian=True, dropout=0.0, normalize=True)
    poses, words = torch.randn(5, 13, 2), torch.zeros(5, dtype=torch.long)
    one = encoder.train_codes(poses, words, torch.randn(5, 6))
    two = encoder.train_codes(poses, words, torch.randn(5, 6))
    mean = encoder.train_codes(poses, words, torch.zeros(5, 6))
    assert not torch.equal(one["codes"], two["codes"])
    torch.testing.assert_close(mean["codes"], encoder(poses))
    torch.testing.assert_close(encoder(poses), encoder(poses), atol=0, rtol=0)


def test_gaussian_mode_adds_a_divergence_of_at_least_0_and_point_adds_none():
    words = torch.zeros(50, dtype=torch.long)
    poses = torch.randn(50, 13, 2)
    gaussian = Encoder(26, 8, 3, 3, gaussian=True, normalize=True)
    point = Encoder(26, 8, 3, 3, normalize=True)
    assert (gaussian.train_codes(poses, words, torch.randn(50, 6))["kl"] >= 0).all()
    assert "kl" not in point.train_codes(poses, words, None)


def test_dropout_is_a_function_of_the_row_s_word_and_drops_the_stated_share():
    words = torch.randint(-(2**62), 2**62, (400,))
    kept = kept_units(words, 3, 256, 0.25)
    assert torch.equal(kept, kept_units(words, 3, 256, 0.25))
    assert abs(kept.float().mean() - 0.75) < 0.01
    assert (kept.float().mean(0) - 0.75).abs().max() < 0.1
    assert (kept.float().mean(1) - 0.75).abs().max() < 0.12
    assert not torch.equal(kept, kept_units(words, 4, 256, 0.25))
    encoder = Encoder(26, 64, 4, 4, normalize=True)
    poses = torch.randn(1, 13, 2).expand(2, -1, -1)
    codes = encoder.train_codes(poses, torch.tensor([1, 2]), None)["codes"]
    assert not torch.equal(codes[0], codes[1])


def test_initial_weights_and_biases_are_he_normal():
    torch.manual_seed(0)
    linear = Encoder(26, 512, 32, 32).trunk.blocks[0][0].linear
    for values in (linear.weight, linear.bias):
        assert abs(values.std() / (2 / 512) ** 0.5 - 1) < 0.15


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "simclr"},
        {"fusion": "sum"},
        {"dropout": 1.0},
        {"hidden": 0},
        {"pose_dim": 8, "view_dim": 4},
    ],
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(UserError):
        Sizes(**wrong)
