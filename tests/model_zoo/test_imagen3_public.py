"""The public autoencoder, text encoder and eye that come with the zoo."""

import numpy as np
import pytest
import torch

from fedemb.errors import UserError
from model_zoo.imagen3.autoencoder import Autoencoder, AutoencoderShape
from model_zoo.imagen3.inputs import pictures
from model_zoo.imagen3.public import PublicShape, public_models
from simulations.datasets.scenes import Scenes


@pytest.fixture(scope="module")
def held():
    return Scenes(1000, 0, 32).held_out()


def test_autoencoder_reconstructs_and_scaling_gives_unit_std_latents(held):
    images = pictures(held)[::6]
    models = public_models(PublicShape())
    latents = models.latents(images)
    assert latents.shape == (384, 4, 8, 8)
    assert abs(float(latents.std()) - 1) < 0.1
    error = (models.pictures(latents) - images).square().mean() / images.var()
    assert error < 0.10


def test_right_captions_score_above_wrong_ones(held):
    images = pictures(held)[::6]
    captions = held.fields["caption"][::6]
    models = public_models(PublicShape())
    seen, words = models.look(images), models.words(captions).vector
    own = (seen * words).sum(1)
    other = (seen * words.roll(100, 0)).sum(1)
    assert float((own > other).float().mean()) > 0.85
    assert float((own - other).mean()) > 0.1


def test_a_text_depends_on_itself_alone():
    models = public_models(PublicShape())
    texts = np.array(["a red ball", "", "a red ball", "a cyan ring above a cross"])
    found = models.words(texts)
    assert torch.equal(found.tokens[0], found.tokens[2])
    alone = models.words(texts[3:])
    torch.testing.assert_close(alone.tokens[0], found.tokens[3])
    torch.testing.assert_close(alone.vector[0], found.vector[3])


def test_the_loss_of_an_autoencoder_counts_error_and_divergence():
    torch.manual_seed(0)
    shape = AutoencoderShape(width=8, multiples=(1, 2), blocks=1, groups=4)
    model = Autoencoder(shape)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = torch.zeros(2, 4, 8, 8)
    base = model.loss(images, noise, divergence=0.0)
    mean, log_variance = model.posterior(images)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    expected = base + 0.5 * kl.flatten(1).sum(1).mean()
    torch.testing.assert_close(model.loss(images, noise, divergence=0.5), expected)
    plain = (model.decode(model.encode(images)) - images).abs().mean()
    torch.testing.assert_close(base, plain)
    model.standardise(images)
    latents = model.encode(images)
    torch.testing.assert_close(latents.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(
        latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0
    )


def test_pictures_that_do_not_fall_into_latents_are_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        public_models(PublicShape()).latents(torch.zeros(1, 3, 30, 32))
