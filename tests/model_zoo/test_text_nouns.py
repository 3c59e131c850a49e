"""Noun phrases: by rules on captions of the worlds and on everyday ones."""

import importlib.util

import numpy as np
import pytest

from fedemb.errors import NotAvailable
from model_zoo.text.nouns import by_rules, by_spacy, noun_prompts
from simulations.datasets import load

CAPTIONS = {
    "a red square and a blue ball move left": ["red square", "blue ball"],
    "a person kicks the ball into an open goal": ["person", "ball", "open goal"],
    "two old men ride horses": ["old men", "horses"],
    "A woman is holding a white cup.": ["woman", "white cup"],
    "a cross circles a ring": ["cross", "ring"],
    "a skateboarder grinds along the rail": ["skateboarder", "rail"],
    "the children of the village": ["children", "village"],
    "running quickly": [],
    "": [],
}


@pytest.mark.parametrize(("caption", "nouns"), CAPTIONS.items())
def test_everyday_captions(caption, nouns):
    assert by_rules(caption) == nouns


def test_captions_of_the_clips_name_their_shapes():
    rows = load("clips", users=200).fetch(np.arange(40)).fields
    found = [by_rules(str(caption)) for caption in rows["caption"]]
    assert found == [[noun for noun in nouns if noun] for nouns in rows["nouns"]]


def test_prompts_say_which_of_them_are_there():
    captions = np.array(["a red ball spins near a ring", "a ball", "spins"])
    prompts, valid = noun_prompts(captions, 2, "a photo of a {noun}")
    assert prompts[0] == ["a photo of a red ball", "a photo of a ring"]
    assert valid.tolist() == [[True, True], [True, False], [False, False]]
    assert noun_prompts([], 2)[1].shape == (0, 2)


def test_spacy_is_asked_for_and_not_imitated():
    if importlib.util.find_spec("spacy") is None:
        with pytest.raises(NotAvailable, match="pip install spacy"):
            by_spacy()
    else:
        pytest.importorskip("en_core_web_sm", reason="spaCy's model is not installed")
        assert by_spacy()("a red ball spins near a ring") == ["red ball", "ring"]
